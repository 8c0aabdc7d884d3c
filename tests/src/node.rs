//! The Node program among the foreign clients: its packages are installed once, in the target folder.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::binaries::{sources, target_dir};
use crate::installer::run;

const HINT: &str = "on Debian and Ubuntu: apt-get install nodejs npm; packages come from the registry that npm is \
                    configured for: is it reachable?";

/// `clients/node`; role and further arguments are to be added. It becomes the user by itself.
///
/// # Panics
/// Its packages cannot be had; says why and what to do.
pub fn command() -> tokio::process::Command {
    static READY: OnceLock<PathBuf> = OnceLock::new();
    let packages = READY.get_or_init(|| prepare(&target_dir().join("stories-node")));
    let mut command = tokio::process::Command::new("node");
    command
        .env("NODE_PATH", packages)
        .arg(sources().join("clients/node/program.js"));
    command
}

/// Installs into `folder`; gives where the packages are.
fn prepare(folder: &Path) -> PathBuf {
    let program = sources().join("clients/node");
    let packages = folder.join("node_modules");
    let installed = folder.join("installed-from");
    let wanted = std::fs::read(program.join("package-lock.json")).expect("the lock file is part of the sources");
    std::fs::create_dir_all(folder).expect("the target folder is writable");
    // Stories of several processes may come here at the same time.
    let lock = File::create(folder.with_extension("lock")).expect("the target folder is writable");
    lock.lock().expect("the lock file can be locked");
    if std::fs::read(&installed).is_ok_and(|present| present == wanted) {
        return packages;
    }
    let _ = std::fs::remove_file(&installed);
    for file in ["package.json", "package-lock.json"] {
        std::fs::copy(program.join(file), folder.join(file)).expect("the target folder is writable");
    }
    // Exactly what the lock file names, by its digests. Nothing of it needs to run anything to be installed.
    run(
        std::process::Command::new("npm").current_dir(folder).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
        ]),
        HINT,
    );
    std::fs::write(installed, wanted).expect("the target folder is writable");
    packages
}
