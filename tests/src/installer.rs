//! Programs that install or build the foreign clients: run to their end, with words that help when they fail.

use std::process::Command;

/// Runs `command`, silent unless it fails.
///
/// # Panics
/// It cannot be started or fails; says what it printed, and `hint`.
pub(crate) fn run(command: &mut Command, hint: &str) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}\nhint: {hint}"));
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}\nhint: {hint}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
