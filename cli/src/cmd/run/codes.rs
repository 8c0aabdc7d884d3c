//! Exit codes of `mayfly run`, all from 120 on so that they are hardly the command's own. `docs/run.md` lists them.

use nix::sys::signal::Signal;
use tonic::{Code as Grpc, Status};

use crate::errors::{CliError, Exit};

/// The request was refused, by policy or by people.
pub(super) const REFUSED: Code = Code("REFUSED", 120);
/// There is no agent, or it does not answer, or it knows no tasks.
pub(super) const NO_AGENT: Code = Code("NO_AGENT", 121);
/// The window could not be opened.
pub(super) const NOT_OPENED: Code = Code("NOT_OPENED", 122);
/// The window ended before the command did.
pub(super) const ENDED_EARLY: Code = Code("WINDOW_ENDED", 123);
/// The request waits for people or a ticket.
pub(crate) const WAITING: u8 = 124;
/// `mayfly run` itself cannot go on.
pub(super) const OWN_FAILURE: Code = Code("RUN_FAILED", 125);
/// The command is there but cannot be started.
pub(super) const CANNOT_START: Code = Code("CANNOT_START", 126);
/// There is no such command.
pub(super) const NO_COMMAND: Code = Code("NO_COMMAND", 127);

/// A name for scripts, and an exit code.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code(&'static str, u8);

impl Code {
    /// `error` with this code, unless it has one.
    pub(super) fn of(self, error: CliError) -> CliError {
        match error {
            CliError::Coded { .. } | CliError::Arguments(_) | CliError::Input { .. } => error,
            error => CliError::coded(error, self.0, Exit::Of(self.1)),
        }
    }
}

/// A signal came before the command was started.
pub(super) fn interrupted(signal: Signal) -> CliError {
    let code = u8::try_from(128 + signal as i32).unwrap_or(u8::MAX);
    let error = CliError::failed(
        format!("{signal} came before the command was started"),
        "the window is closed",
    );
    CliError::coded(error, "INTERRUPTED", Exit::Of(code))
}

/// A call that failed: `otherwise` where it is neither the agent's absence nor a refusal.
pub(super) fn of_status(status: Status, doing: &str, endpoint: &str, otherwise: Code) -> CliError {
    let code = match status.code() {
        Grpc::Unavailable | Grpc::DeadlineExceeded | Grpc::Unimplemented | Grpc::Internal | Grpc::Unknown => NO_AGENT,
        Grpc::PermissionDenied | Grpc::Unauthenticated => REFUSED,
        _ => otherwise,
    };
    let hints = match status.code() {
        Grpc::PermissionDenied | Grpc::Unauthenticated => {
            vec!["`mayfly svid fetch` tells whether this process has an identity, and which".to_owned()]
        }
        Grpc::Unimplemented => vec!["this agent knows no tasks: it is not ours, or an old one".to_owned()],
        _ => vec![],
    };
    code.of(CliError::Call {
        doing: doing.to_owned(),
        endpoint: endpoint.to_owned(),
        status: Box::new(status),
        hints,
    })
}
