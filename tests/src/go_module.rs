//! The Go programs among the foreign clients: built in the target folder, anew when their sources changed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries::{sources, target_dir};
use crate::installer::run;

const HINT: &str = "go.mod says which release of Go it takes: `tests/run` installs it, or https://go.dev/dl; modules come \
                    from the proxy that `go env GOPROXY` says: is it reachable?";

/// Builds the main package of `module_dir`, a Go module under `clients`; gives the program.
///
/// Go's own cache makes this cheap when nothing changed. What it downloads is what `go.sum` names and nothing else.
///
/// # Panics
/// It cannot be built; says why and what to do.
pub fn build(module_dir: &str) -> PathBuf {
    let module = sources().join("clients").join(module_dir);
    let programs = target_dir().join("stories-go");
    std::fs::create_dir_all(&programs).expect("the target folder is writable");
    let program = programs.join(module_dir.replace('/', "-"));
    // Stories of several processes may come here at the same time.
    let lock = File::create(program.with_extension("lock")).expect("the target folder is writable");
    lock.lock().expect("the lock file can be locked");
    let built = program.with_extension("new");
    run(
        Command::new("go")
            .current_dir(&module)
            .args(["build", "-mod=readonly", "-trimpath", "-o"])
            .arg(&built)
            .arg("."),
        HINT,
    );
    // A story may be running the program that is replaced: it keeps the old file.
    if !same(&built, &program) {
        std::fs::rename(&built, &program).expect("both are in the same folder");
    }
    program
}

fn same(one: &Path, other: &Path) -> bool {
    std::fs::read(other).is_ok_and(|present| std::fs::read(one).is_ok_and(|new| new == present))
}
