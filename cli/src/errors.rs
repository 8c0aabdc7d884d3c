//! What went wrong, where, and what to do about it.
//!
//! Every failure of a command is a [`CliError`]: a sentence, hints, an exit code and a stable name for scripts. gRPC
//! statuses are turned into sentences here and nowhere else.

use std::io;
use std::path::PathBuf;

use mayfly_proto::status::code_name;
use mayfly_runtime::files::FileError;
use mayfly_runtime::{Chain, env};
use serde_json::json;
use tonic::{Code, Status};

use crate::output::visible_line;

/// How the process ends. The numbers are a promise to scripts and listed in `docs/cli.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All was done.
    Ok,
    /// It failed, or some items of a batch did, or `doctor` found errors.
    Failed,
    /// The command line or an input file is wrong; nothing was sent.
    Usage,
    /// The server or the agent cannot be reached or does not answer.
    Unreachable,
    /// The caller may not do this, or has no identity.
    Denied,
    /// The thing named does not exist.
    NotFound,
    /// That of a command that ran, or one of the codes of `docs/run.md`.
    Of(u8),
}

/// A failed command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CliError {
    /// The command line or an input file says something that cannot be meant.
    #[error("{what}")]
    Input {
        /// What is wrong, and where.
        what: String,
        /// What to do.
        hints: Vec<String>,
    },
    /// clap refused the arguments.
    #[error("{0}")]
    Arguments(clap::Error),
    /// Nobody answers at an endpoint.
    #[error("cannot reach {who} at {endpoint}: {why}")]
    Connect {
        /// `the server` or `the agent`.
        who: &'static str,
        /// Path or address.
        endpoint: String,
        /// The kernel's answer in words.
        why: String,
        /// What to do.
        hints: Vec<String>,
    },
    /// A call was answered with a status.
    #[error("cannot {doing}: {}", sentence(status))]
    Call {
        /// What was to be done, as a verb phrase: `list entries`.
        doing: String,
        /// Path or address of who answered.
        endpoint: String,
        /// The answer.
        status: Box<Status>,
        /// What to do, known where the call was made.
        hints: Vec<String>,
    },
    /// A file cannot be read or written.
    #[error("{}", Chain(.0))]
    File(FileError),
    /// A folder or another thing of the operating system is in the way.
    #[error("cannot {doing} `{path}`: {source}")]
    System {
        /// Verb phrase: `create folder`.
        doing: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// What a peer sent is not what the interface promises.
    #[error("{who} sent something unusable: {}", visible_line(what))]
    BadAnswer {
        /// `the server` or `the agent`.
        who: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// It cannot go on, for a reason with words of its own.
    #[error("{what}")]
    Failed {
        /// What happened.
        what: String,
        /// What to do.
        hints: Vec<String>,
    },
    /// Another of these, with an exit code and a name of its own.
    #[error("{error}")]
    Coded {
        /// What went wrong.
        error: Box<CliError>,
        /// The stable name for scripts.
        name: &'static str,
        /// How the process ends because of it.
        exit: Exit,
    },
    /// stdout cannot be written.
    #[error("cannot write the output: {0}")]
    Output(#[from] io::Error),
}

// === impl Exit ===

impl Exit {
    /// The process's exit code.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Denied => 4,
            Self::NotFound => 5,
            Self::Of(code) => code,
        }
    }
}

// === impl CliError ===

impl CliError {
    /// Wrong input, with one hint.
    pub(crate) fn input(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Input {
            what: what.into(),
            hints: vec![hint.into()],
        }
    }

    /// A failure, with one hint.
    pub(crate) fn failed(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Failed {
            what: what.into(),
            hints: vec![hint.into()],
        }
    }

    /// The same, with an exit code and a name of its own.
    pub(crate) fn coded(error: Self, name: &'static str, exit: Exit) -> Self {
        Self::Coded {
            error: Box::new(error),
            name,
            exit,
        }
    }

    /// Adds something to do.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        match &mut self {
            Self::Input { hints, .. }
            | Self::Connect { hints, .. }
            | Self::Call { hints, .. }
            | Self::Failed { hints, .. } => hints.push(hint.into()),
            Self::Coded { error, name, exit } => {
                let error = std::mem::replace(&mut **error, Self::failed("", "")).hint(hint);
                return Self::coded(error, name, *exit);
            }
            Self::Arguments(_) | Self::File(_) | Self::System { .. } | Self::BadAnswer { .. } | Self::Output(_) => {}
        }
        self
    }

    /// How the process ends because of it.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Input { .. } | Self::Arguments(_) => Exit::Usage,
            Self::Connect { .. } => Exit::Unreachable,
            Self::Coded { exit, .. } => *exit,
            Self::Call { status, .. } => match status.code() {
                Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
                Code::PermissionDenied | Code::Unauthenticated => Exit::Denied,
                Code::NotFound => Exit::NotFound,
                _ => Exit::Failed,
            },
            _ => Exit::Failed,
        }
    }

    /// A stable name for scripts: a gRPC code's where the answer was a status.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Input { .. } | Self::Arguments(_) => "USAGE",
            Self::Connect { .. } => "UNREACHABLE",
            Self::Call { status, .. } => code_name(status.code()),
            Self::File(_) | Self::System { .. } => "FILE",
            Self::BadAnswer { .. } => "BAD_ANSWER",
            Self::Failed { .. } => "FAILED",
            Self::Output(_) => "OUTPUT",
            Self::Coded { name, .. } => name,
        }
    }

    /// What to do about it, most useful first.
    pub(crate) fn hints(&self) -> Vec<String> {
        match self {
            Self::Input { hints, .. } | Self::Connect { hints, .. } | Self::Failed { hints, .. } => hints.clone(),
            Self::Call {
                hints,
                status,
                endpoint,
                ..
            } => {
                let mut all = hints.clone();
                // Whoever called and said what to do about a refusal knows better than a general remark.
                if hints.is_empty() || !is_refusal(status) {
                    all.extend(status_hints(status, endpoint));
                }
                all
            }
            Self::Coded { error, .. } => error.hints(),
            _ => vec![],
        }
    }

    /// The whole of it for `--output json`.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        json!({"error": {
            "code": self.name(),
            "message": self.to_string(),
            "hints": self.hints(),
            "exit_code": self.exit().code(),
        }})
    }

    /// Whether whoever read our output went away, as `head` does: no reason to complain.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl From<FileError> for CliError {
    fn from(error: FileError) -> Self {
        Self::File(error)
    }
}

/// A status in words: what the code means, then what the peer said.
pub(crate) fn sentence(status: &Status) -> String {
    let meaning = match status.code() {
        Code::Ok => "no error",
        Code::Cancelled => "the call was cancelled",
        Code::Unknown => "an error without a code",
        Code::InvalidArgument => "the request is not valid",
        Code::DeadlineExceeded => "no answer in time",
        Code::NotFound => "not found",
        Code::AlreadyExists => "it exists already",
        Code::PermissionDenied => "not permitted",
        Code::ResourceExhausted => "a limit is reached",
        Code::FailedPrecondition => "not possible in the present state",
        Code::Aborted => "something else changed it at the same time",
        Code::OutOfRange => "out of range",
        Code::Unimplemented => "this server does not know the call",
        Code::Internal => "an error inside the server",
        Code::Unavailable => "not available",
        Code::DataLoss => "data is lost",
        Code::Unauthenticated => "the caller is not known",
    };
    match status.message() {
        "" => meaning.to_owned(),
        // `entry not found` says it all.
        said if said.contains(meaning) => visible_line(said),
        said => format!("{meaning} ({})", visible_line(said)),
    }
}

fn is_refusal(status: &Status) -> bool {
    matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
}

fn status_hints(status: &Status, endpoint: &str) -> Vec<String> {
    match status.code() {
        Code::PermissionDenied | Code::Unauthenticated => {
            // A remote endpoint says as whom it was asked.
            let asked = match endpoint.split_once(" as ") {
                Some((_, id)) => {
                    format!("{id} asked; its entry can be given --admin, or it a role in the configuration")
                }
                None => format!(
                    "{} asked; roles by uid are in the server's configuration, root and its own user are admins",
                    me()
                ),
            };
            vec![asked]
        }
        Code::Unavailable => {
            let again = match mayfly_proto::status::retry_after(status) {
                Some(delay) => format!("it asks to be called again after {} s", delay.as_secs_f32().ceil()),
                None => format!("no answer from {endpoint}; `mayfly doctor` looks at sockets, server and agent"),
            };
            vec![again]
        }
        Code::DeadlineExceeded => vec![format!("is `{endpoint}` overloaded? --timeout gives it longer")],
        Code::Internal | Code::Unknown => vec![match request_id(status) {
            Some(id) => format!("the server's log has the cause, under request ID {id}"),
            None => "the server's log has the cause".to_owned(),
        }],
        _ => vec![],
    }
}

fn request_id(status: &Status) -> Option<&str> {
    ["request-id", "x-request-id"]
        .iter()
        .find_map(|key| status.metadata().get(*key)?.to_str().ok())
}

/// The caller as a local server sees him: `uid 1000 (alice)`.
pub(crate) fn me() -> String {
    let uid = nix::unistd::Uid::effective();
    match user_name() {
        Some(name) => format!("uid {uid} ({name})"),
        None => format!("uid {uid}"),
    }
}

/// The name of the effective user, where the system knows one.
pub(crate) fn user_name() -> Option<String> {
    let by_uid = nix::unistd::User::from_uid(nix::unistd::Uid::effective())
        .ok()
        .flatten();
    by_uid.map(|user| user.name).or_else(|| env::var("USER").ok().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(code: Code, message: &str) -> CliError {
        CliError::Call {
            doing: "list entries".into(),
            endpoint: "/run/x.sock".into(),
            status: Box::new(Status::new(code, message)),
            hints: vec![],
        }
    }

    #[test]
    fn a_status_becomes_a_sentence_with_a_hint_and_an_exit_code() {
        let error = call(Code::PermissionDenied, "role reader may not");
        assert_eq!(
            error.to_string(),
            "cannot list entries: not permitted (role reader may not)"
        );
        assert_eq!(error.exit(), Exit::Denied);
        assert!(
            error.hints()[0].contains(&format!("uid {}", nix::unistd::Uid::effective())),
            "{:?}",
            error.hints()
        );
        assert_eq!(call(Code::NotFound, "").exit(), Exit::NotFound);
        assert_eq!(call(Code::Unavailable, "").exit(), Exit::Unreachable);
        assert_eq!(call(Code::AlreadyExists, "").exit(), Exit::Failed);
    }

    #[test]
    fn a_busy_server_is_quoted_with_its_retry_time() {
        let status = mayfly_proto::status::unavailable_retry("starting", std::time::Duration::from_millis(2100));
        let error = CliError::Call {
            doing: "x".into(),
            endpoint: "y".into(),
            status: Box::new(status),
            hints: vec!["first".into()],
        };
        assert_eq!(error.hints(), ["first", "it asks to be called again after 3 s"]);
    }

    #[test]
    fn the_json_form_has_code_message_hints_and_exit_code() {
        let json = CliError::input("`x` is not a SPIFFE ID", "write it as spiffe://<td>/<path>").to_json();
        assert_eq!(json["error"]["code"], "USAGE");
        assert_eq!(json["error"]["exit_code"], 2);
        assert_eq!(json["error"]["hints"][0], "write it as spiffe://<td>/<path>");
    }
}
