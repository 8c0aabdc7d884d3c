//! A tracker that a program asks: the site's own script.
//!
//! ```text
//!   argv… reference        stdout: the JSON of Answer, exit status 0
//! ```
//!
//! No shell, an empty environment, `/` as its folder, no input. It and all it started are killed when it takes too long.

use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tracing::debug;

use super::{ANSWER_MAX, Answer, AskError, Tracker};

/// What is kept of what it says on standard error, in bytes: for our log.
const COMPLAINT_MAX: usize = 1024;

/// A tracker behind a program.
#[derive(Debug)]
pub(super) struct Command {
    argv: Vec<String>,
    timeout: Duration,
}

/// Kills a program with its group when dropped: it took too long, or the question was given up. `None` once it has ended.
struct Group(Option<Pid>);

impl Command {
    pub(super) fn new(argv: Vec<String>, timeout: Duration) -> Self {
        Self { argv, timeout }
    }

    fn start(&self, reference: &str) -> Result<Child, AskError> {
        let (program, arguments) = self.argv.split_first().ok_or(AskError::Failed("it is empty".into()))?;
        tokio::process::Command::new(program)
            .args(arguments)
            .arg(reference)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that what it started can be ended with it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(AskError::Start)
    }
}

#[async_trait]
impl Tracker for Command {
    async fn ask(&self, reference: &str) -> Result<Answer, AskError> {
        let mut child = self.start(reference)?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // The pipes first, which what it started may hold longer than it lives: until it is reaped, its number is that of
        // its group and of no other.
        let whole = async {
            let said = tokio::join!(read(stdout, ANSWER_MAX + 1), read(stderr, COMPLAINT_MAX));
            (child.wait().await, said)
        };
        let ended = tokio::time::timeout(self.timeout, whole).await;
        let Ok((status, (answer, complaint))) = ended else {
            drop(group);
            // Killed; reaped here and not at some later time.
            let _ = child.wait().await;
            return Err(AskError::Timeout(self.timeout));
        };
        group.0 = None;
        let status = status.map_err(AskError::Start)?;
        if !status.success() {
            debug!(%status, complaint = %String::from_utf8_lossy(&complaint).escape_debug(), "ticket command");
            return Err(AskError::Failed(status.to_string()));
        }
        if answer.len() > ANSWER_MAX {
            return Err(AskError::Body);
        }
        Ok(Answer::parse(&answer)?)
    }
}

/// The first `most` bytes; the rest is read and forgotten, so that the program does not wait for us.
async fn read(pipe: Option<impl AsyncRead + Unpin>, most: usize) -> Vec<u8> {
    let mut bytes = vec![];
    if let Some(mut pipe) = pipe {
        // A pipe that breaks is the end of what was said.
        let _ = (&mut pipe).take(most as u64).read_to_end(&mut bytes).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    bytes
}

// === impl Group ===

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // Nobody left in it is what we want.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}
