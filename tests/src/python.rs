//! The Python environment of the foreign clients: made once, in the target folder, shared by all stories.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::binaries::{sources, target_dir};
use crate::installer::run;

/// The interpreter with everything of `clients/python/requirements.txt`.
///
/// # Panics
/// It cannot be had; says why and what to do.
pub fn interpreter() -> &'static Path {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    READY.get_or_init(|| {
        prepare(
            &target_dir().join("stories-venv"),
            &sources().join("clients/python/requirements.txt"),
        )
    })
}

fn prepare(venv: &Path, requirements: &Path) -> PathBuf {
    let wanted = std::fs::read(requirements).expect("the requirements are part of the sources");
    let interpreter = venv.join("bin/python");
    let installed = venv.join("installed.txt");
    // Stories of several processes may come here at the same time.
    let lock = File::create(venv.with_extension("lock")).expect("the target folder is writable");
    lock.lock().expect("the lock file can be locked");
    if std::fs::read(&installed).is_ok_and(|present| present == wanted) && interpreter.exists() {
        return interpreter;
    }
    // Half of an environment is worse than none.
    let _ = std::fs::remove_dir_all(venv);
    run(
        Command::new("python3").args(["-m", "venv"]).arg(venv),
        "on Debian and Ubuntu: apt-get install python3-venv",
    );
    run(
        Command::new(&interpreter)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--requirement",
            ])
            .arg(requirements),
        "the packages come from PyPI or the index that pip is configured for: is it reachable?",
    );
    std::fs::write(installed, wanted).expect("the target folder is writable");
    interpreter
}
