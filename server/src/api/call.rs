//! What a service knows of the call that it answers.

use std::sync::Arc;

use mayfly_model::{Actor, Agent};
use mayfly_runtime::listen::ConnInfo;
use mayfly_svid::{Serial, Timestamp};
use tonic::{Request, Status};

use super::status::to_status;
use crate::app::caller::{Caller, identify, presented_serial};
use crate::app::standing::Standing;
use crate::commit::Snapshot;

/// Who calls, why, when, and the state that the call was admitted by. An extension of each request that passed the
/// gate.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls; the gate has checked that they may.
    pub caller: Caller,
    /// The same for the log, with the reason that was given.
    pub actor: Actor,
    /// The server's time at admission.
    pub now: Timestamp,
    /// One state for the whole call.
    pub snapshot: Arc<Snapshot>,
    /// What it came over.
    pub connection: ConnInfo,
    /// What the caller may, if it is an operator or a person.
    pub standing: Option<Arc<Standing>>,
}

impl Call {
    /// The call that `request` belongs to.
    ///
    /// # Errors
    /// The request did not come through the gate, which no listener allows.
    pub(super) fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Status::internal("internal error"))
    }

    /// What the caller may.
    ///
    /// # Errors
    /// It is no operator and no person, which the table of methods does not allow where this is asked.
    pub(super) fn standing(&self) -> Result<&Standing, Status> {
        self.standing
            .as_deref()
            .ok_or_else(|| Status::permission_denied("only operators may call this"))
    }

    /// The agent that calls.
    ///
    /// # Errors
    /// No agent calls, which the table of methods does not allow where this is asked.
    pub(super) fn agent(&self) -> Result<&Arc<Agent>, Status> {
        match &self.caller {
            Caller::Agent(agent) => Ok(agent),
            _ => Err(not_an_agent()),
        }
    }

    /// The serial number of the SVID that the caller showed.
    ///
    /// # Errors
    /// It showed none, which the table of methods does not allow where this is asked.
    pub(super) fn serial(&self) -> Result<Serial, Status> {
        presented_serial(&self.connection).ok_or_else(not_an_agent)
    }

    /// The agent that calls as it stands in a later `snapshot`, for calls that last: it may be banned by then, and what
    /// it showed may have expired or been replaced.
    ///
    /// # Errors
    /// It may no longer call.
    pub(super) fn agent_now(&self, snapshot: &Snapshot, now: Timestamp) -> Result<Arc<Agent>, Status> {
        match identify(&self.connection, snapshot, now)
            .map_err(|refused| to_status(&refused))?
            .caller
        {
            Caller::Agent(agent) => Ok(agent),
            _ => Err(not_an_agent()),
        }
    }
}

fn not_an_agent() -> Status {
    Status::permission_denied("only agents may call this")
}
