//! Where the programs under test are: beside the test program, in the folder of the same build.

use std::path::{Path, PathBuf};

/// `target/<profile>`, the folder that this test program was built into.
pub fn profile_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("a process knows its program");
    // target/<profile>/deps/<test>, or target/<profile>/<program>.
    let dir = exe.parent().expect("a program is in a folder");
    if dir.ends_with("deps") {
        dir.parent().expect("deps is in a folder").to_owned()
    } else {
        dir.to_owned()
    }
}

/// `target`.
pub fn target_dir() -> PathBuf {
    profile_dir()
        .parent()
        .expect("a profile's folder is in the target folder")
        .to_owned()
}

/// The program `name` of this workspace.
///
/// # Panics
/// It is not built.
pub fn binary(name: &str) -> PathBuf {
    let path = profile_dir().join(name);
    assert!(
        path.is_file(),
        "{} is missing: build the programs first with `cargo build --workspace --bins` in the same profile, \
         or run everything with `tests/run`",
        path.display()
    );
    path
}

/// The folder of this package's sources.
pub fn sources() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
