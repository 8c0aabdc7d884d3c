//! Faults that really happen, made on purpose: a disk that is full or read-only, a clock that is set, a lossy and slow
//! network, a process that is stopped or has no file descriptors left.
//!
//! Each is a value that undoes itself when dropped. They act on the real daemons from outside: nothing of the product
//! knows of them. `docs/faults.md` says what was injected and what was seen; [`seen`] prints a row of it.

pub mod clock;
pub mod disk;
pub mod network;
pub mod process;

pub use clock::SteppedClock;
pub use disk::Disk;
pub use network::Network;
pub use process::{Paused, descriptors, lower_descriptors, resident};

/// What a machine needs for its faults to be made.
pub(crate) const NEEDED: &str = "stories of faults need a kernel with loop devices, ext4, network namespaces and \
                                 NFQUEUE, and the right to use them: in a container, one that is privileged";

/// Prints one row of the table: what was done to the daemons, and what came of it.
pub fn seen(injected: &str, seen: &str) {
    println!("fault | {injected} | {seen}");
}

/// Runs a program of the system to its end.
///
/// # Panics
/// It is not there, or it fails: with what it said.
pub(crate) fn run(program: &str, args: &[&str]) {
    if let Err(reason) = try_run(program, args) {
        panic!("{reason}\nhint: {NEEDED}");
    }
}

/// Runs a program of the system to its end.
///
/// # Errors
/// It is not there, or it fails: what it said.
pub(crate) fn try_run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = std::process::Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("cannot run {program}: {error}; `tests/run` installs what is missing"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{program} {}: {}: {}",
        args.join(" "),
        output.status,
        said.trim()
    ))
}
