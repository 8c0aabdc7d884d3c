//! The `mayfly` program, as an operator types it.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::binaries::binary;

/// What a command has printed and how it ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// An operator's shell with one server.
#[derive(Debug, Clone)]
pub struct Cli {
    server_socket: PathBuf,
}

impl Cli {
    /// For the server behind `server_socket`.
    pub fn new(server_socket: &Path) -> Self {
        Self {
            server_socket: server_socket.to_owned(),
        }
    }

    /// Runs one command.
    pub async fn run(&self, args: &[&str]) -> Outcome {
        let output = Command::new(binary("mayfly"))
            .arg("--server-socket")
            .arg(&self.server_socket)
            .args(args)
            .stdin(Stdio::null())
            .output()
            .await
            .expect("the program can be started");
        Outcome {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs one command that has to succeed; gives its JSON.
    ///
    /// # Panics
    /// It fails.
    pub async fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["--output", "json"]);
        let outcome = self.run(&all).await;
        assert_eq!(
            outcome.code,
            Some(0),
            "mayfly {args:?}\n{}{}",
            outcome.stdout,
            outcome.stderr
        );
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error} in {}", outcome.stdout))
    }

    /// Runs one command that has to succeed; gives its JSON, a document a line.
    ///
    /// # Panics
    /// It fails.
    pub async fn json_lines(&self, args: &[&str]) -> Vec<Value> {
        let mut all = args.to_vec();
        all.extend(["--output", "json"]);
        let outcome = self.run(&all).await;
        assert_eq!(
            outcome.code,
            Some(0),
            "mayfly {args:?}\n{}{}",
            outcome.stdout,
            outcome.stderr
        );
        let lines = outcome.stdout.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
            .collect()
    }
}
