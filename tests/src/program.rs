//! A foreign program at our command: lines of JSON in, lines of JSON out, as `tests/clients/README.md` says.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::binaries::sources;
use crate::python;

/// A program that runs until it is dropped. What it writes to standard error is shown if the story fails.
#[derive(Debug)]
pub struct Program {
    name: String,
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    passed_over: VecDeque<Value>,
    errors: File,
}

impl Program {
    /// A program of `clients/python`.
    pub fn python(script: &str, args: &[&str]) -> Self {
        let mut command = Command::new(python::interpreter());
        command.arg(sources().join("clients/python").join(script)).args(args);
        Self::start(script, command)
    }

    /// Any program that speaks in lines of JSON.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn start(name: &str, mut command: Command) -> Self {
        let errors = tempfile::tempfile().expect("the temporary folder is writable");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone().expect("a file can be shared"))
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self {
            name: name.into(),
            child,
            input,
            output,
            passed_over: VecDeque::new(),
            errors,
        }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs until it is dropped")
    }

    /// Sends one command.
    pub async fn tell(&mut self, command: Value) {
        self.input
            .write_all(format!("{command}\n").as_bytes())
            .await
            .unwrap_or_else(|error| {
                panic!("{} does not listen: {error}", self.name);
            });
    }

    /// The next line.
    ///
    /// # Panics
    /// It ends, or says nothing for `patience`.
    pub async fn line(&mut self, patience: Duration) -> Value {
        let line = tokio::time::timeout(patience, self.output.next_line())
            .await
            .unwrap_or_else(|_| {
                panic!(
                    "{} said nothing for {patience:?}; before: {:?}",
                    self.name, self.passed_over
                )
            })
            .expect("its output can be read")
            .unwrap_or_else(|| panic!("{} ended; before: {:?}", self.name, self.passed_over));
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("{} said `{line}`", self.name))
    }

    /// The next `event`; what comes before is kept for [`Program::seen`].
    ///
    /// # Panics
    /// It does not come within `patience`.
    pub async fn expect(&mut self, event: &str, patience: Duration) -> Value {
        self.find(patience, |line| line["event"] == event).await
    }

    /// The next line that is `wanted`; what comes before is kept for [`Program::seen`].
    ///
    /// # Panics
    /// It does not come within `patience`.
    pub async fn find(&mut self, patience: Duration, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + patience;
        loop {
            let line = self.line(deadline.saturating_duration_since(Instant::now())).await;
            self.passed_over.push_back(line.clone());
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Tells it something and waits for one of the `answers`.
    ///
    /// # Panics
    /// None comes within `patience`.
    pub async fn ask(&mut self, command: Value, answers: &[&str], patience: Duration) -> Value {
        self.tell(command).await;
        self.find(patience, |line| answers.iter().any(|answer| line["event"] == *answer))
            .await
    }

    /// All `event`s so far.
    pub fn seen(&self, event: &str) -> Vec<&Value> {
        self.passed_over.iter().filter(|line| line["event"] == event).collect()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let length = self.errors.metadata().map_or(0, |metadata| metadata.len());
        let mut written = vec![0; usize::try_from(length).unwrap_or_default()];
        // From its start, wherever the program writes on. A story that fails already fails no further here.
        let _ = self.errors.read_exact_at(&mut written, 0);
        let written = String::from_utf8_lossy(&written);
        let lines: Vec<&str> = written.lines().collect();
        let tail = lines[lines.len().saturating_sub(60)..].join("\n");
        eprintln!(
            "--- the end of what {} wrote to standard error ---\n{tail}\n",
            self.name
        );
    }
}

/// The address of a Workload API as `SPIFFE_ENDPOINT_SOCKET` has it.
pub fn endpoint(agent_socket: &Path) -> String {
    format!("unix://{}", agent_socket.display())
}
