//! The one connection to the agent, which all streams share: users have only so many.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use mayfly_runtime::client::unix_channel;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A connection that is made when it is needed, and again when the agent was away.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    socket: Arc<PathBuf>,
    /// The present one, and the how manieth that is.
    present: Arc<Mutex<(u64, Channel)>>,
}

/// The connection that a stream was opened on.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) channel: Channel,
    number: u64,
}

impl Line {
    /// To be made within a Tokio runtime.
    pub(crate) fn new(socket: PathBuf) -> Self {
        let channel = unix_channel(&socket);
        Self {
            socket: Arc::new(socket),
            present: Arc::new(Mutex::new((0, channel))),
        }
    }

    pub(crate) fn call(&self) -> Call {
        let present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        Call {
            number: present.0,
            channel: present.1.clone(),
        }
    }

    /// A stream ended. What was refused is asked for on a new connection: to the agent a process is who it was when it
    /// connected. Whoever comes first makes it for all.
    pub(crate) fn ended(&self, call: &Call, status: &Status) {
        if status.code() != Code::PermissionDenied {
            return;
        }
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if present.0 == call.number {
            *present = (call.number + 1, unix_channel(&self.socket));
        }
    }
}
