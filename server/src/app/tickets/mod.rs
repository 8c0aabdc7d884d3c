//! Whether work under a ticket may go on: asked of the tracker, by a command or over HTTP.
//!
//! ```text
//!   check ─▶ Cached: the answer of the last seconds, one question at a time ─▶ Command or Http ─▶ Answer (JSON)
//! ```
//!
//! It fails closed. A tracker that does not answer, answers late, or says something else than the JSON of [`Answer`] has no
//! open ticket; [`TicketState::problem`] says why. The reference is text of whoever asks: it is never part of a command line
//! that a shell reads, nor of a host name, and one that looks like an option is not handed on.
//!
//! Not here: whether a task needs a ticket and of which kind (policy), and what happens when one closes (`app::tasks`).

mod answer;
mod cache;
mod command;
mod http;
mod tls;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use mayfly_runtime::Clock;
use mayfly_svid::Timestamp;

pub use answer::{Answer, BadAnswer};
pub use http::{TicketUrl, TicketUrlError};

use cache::Cached;
use command::Command;
use http::Http;

/// The longest reference, in bytes, as that of requests.
const REFERENCE_MAX: usize = 128;
/// The most that is read of an answer, in bytes.
const ANSWER_MAX: usize = 64 << 10;
/// Questions at a time; who comes later waits, within its own time.
const AT_A_TIME: usize = 16;

/// The section `[tickets]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketSettings {
    /// Who is asked; nobody if the section is not there.
    pub source: Option<TicketSource>,
    /// How long one question may take.
    pub timeout: Duration,
    /// How long an answer counts.
    pub cache: Duration,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketSource {
    /// A program with its arguments; the reference is added as the last one.
    Command(Vec<String>),
    /// A page of the tracker.
    Http {
        /// Where, with a place for the reference.
        url: TicketUrl,
        /// The file with the bearer token, read anew for each question.
        token_file: Option<PathBuf>,
        /// PEM file with the authorities that sign the tracker's certificate; the public ones if none.
        ca_file: Option<PathBuf>,
    },
}

/// What the tracker says of a ticket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TicketState {
    /// There is such a ticket, or nobody knows.
    pub present: bool,
    /// Work under it may go on now.
    pub open: bool,
    /// Such as `change` or `incident`.
    pub kind: String,
    /// Who works on it, in the tracker's words.
    pub owner: Option<String>,
    /// Not open from this instant on.
    pub expires: Option<Timestamp>,
    /// Why it is not open, for people; empty if it is.
    pub problem: String,
}

/// Asks a tracker.
#[async_trait]
pub trait TicketChecker: Send + Sync + fmt::Debug {
    /// The state of the ticket `reference`, now.
    ///
    /// # Cancel safety
    /// Safe: a program that was started is killed, and a connection closed.
    async fn check(&self, reference: &str) -> TicketState;
}

/// A tracker by a means of its own; what it could not say is an error.
#[async_trait]
trait Tracker: Send + Sync + fmt::Debug {
    async fn ask(&self, reference: &str) -> Result<Answer, AskError>;
}

/// Why a tracker could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
enum AskError {
    #[error("the tracker has no such ticket")]
    Absent,
    #[error("the tracker did not answer in {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the ticket command could not be started")]
    Start(#[source] std::io::Error),
    #[error("the ticket command failed: {0}")]
    Failed(String),
    #[error("the tracker could not be reached")]
    Connect(#[source] std::io::Error),
    #[error("the tracker broke off")]
    Broken(#[source] hyper::Error),
    #[error("the tracker answered with HTTP status {0}, expected 200 (redirects are not followed)")]
    Status(u16),
    #[error("the token for the tracker cannot be read")]
    Token(#[source] mayfly_runtime::files::FileError),
    #[error("the token for the tracker is not one line of visible ASCII characters")]
    TokenText,
    #[error("the tracker's answer is longer than {ANSWER_MAX} bytes, or broke off")]
    Body,
    #[error("the tracker's answer cannot be read")]
    Answer(#[from] BadAnswer),
}

/// A tracker cannot be asked as it is configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TicketSetupError {
    /// The file with its authorities cannot be read.
    #[error(transparent)]
    CaFile(#[from] mayfly_runtime::files::FileError),
    /// It holds none.
    #[error("`{path}` holds no certificate that can be an authority")]
    NoAuthority {
        /// The file.
        path: PathBuf,
    },
}

/// The checker that `settings` describe. Reads files.
///
/// # Errors
/// The tracker's authorities cannot be read.
pub fn checker(settings: &TicketSettings, clock: Arc<dyn Clock>) -> Result<Arc<dyn TicketChecker>, TicketSetupError> {
    let TicketSettings { source, timeout, cache } = settings;
    let tracker: Box<dyn Tracker> = match source {
        None => return Ok(Arc::new(NoTracker)),
        Some(TicketSource::Command(argv)) => Box::new(Command::new(argv.clone(), *timeout)),
        Some(TicketSource::Http {
            url,
            token_file,
            ca_file,
        }) => Box::new(Http::new(
            url.clone(),
            token_file.clone(),
            tls::client(ca_file.as_deref())?,
            *timeout,
        )),
    };
    Ok(Arc::new(Cached::new(tracker, *cache, *timeout, clock)))
}

/// No tracker is configured: no ticket is open.
#[derive(Debug)]
pub struct NoTracker;

#[async_trait]
impl TicketChecker for NoTracker {
    async fn check(&self, _: &str) -> TicketState {
        TicketState::unknown("this server asks no tracker; an administrator can add [tickets] to its configuration")
    }
}

// === impl TicketState ===

impl TicketState {
    /// A ticket of which nobody can say whether it is open, and so it is not.
    pub fn unknown(problem: impl Into<String>) -> Self {
        Self {
            present: true,
            problem: problem.into(),
            ..Self::default()
        }
    }

    /// The same at `now`: it may have ended since it was asked about.
    #[must_use]
    pub fn at(mut self, now: Timestamp) -> Self {
        if self.open && self.expires.is_some_and(|end| end <= now) {
            self.open = false;
            self.problem = "the ticket has ended".into();
        }
        self
    }
}

impl From<Answer> for TicketState {
    fn from(answer: Answer) -> Self {
        let Answer {
            present,
            open,
            kind,
            owner,
            expires,
        } = answer;
        let problem = match (present, open) {
            (false, _) => "the tracker has no such ticket",
            (true, false) => "the ticket is not open",
            (true, true) => "",
        };
        Self {
            present,
            open: present && open,
            kind,
            owner,
            expires,
            problem: problem.into(),
        }
    }
}

/// Whether a text can be the reference of a ticket. One that begins with a dash would be an option to a command, and one with
/// a step upwards another page of the tracker, as some servers read `%2F` as `/`.
fn is_reference(text: &str) -> bool {
    (1..=REFERENCE_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic())
        && !text.starts_with('-')
        && !text.split(['/', '\\']).any(|part| matches!(part, "." | ".."))
}

#[cfg(test)]
mod tests;
