//! `mayfly.task.v1.Exceptions`: standing power that somebody answers for.

use std::sync::Arc;

use mayfly_model::task::{ProposedChange, TaskId};
use mayfly_model::{self as model, Excepted, ExceptionState, ExceptionStep};
use mayfly_proto::mayfly::task::exceptions_server::Exceptions;
use mayfly_proto::mayfly::task::*;
use mayfly_svid::Timestamp;
use tonic::{Request, Response, Status};

use super::status::{invalid, to_status};
use super::{Api, Call};
use crate::app::changes::{Became, ChangeError};
use crate::app::{debt, exceptions};
use crate::commit::Snapshot;

pub(super) struct ExceptionsService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl Exceptions for ExceptionsService {
    async fn grant(&self, request: Request<GrantExceptionRequest>) -> Result<Response<ExceptionResponse>, Status> {
        let call = Call::of(&request)?;
        let wanted = request.into_inner();
        let id = TaskId::random().to_string();
        let identity = wanted.identity.parse::<Excepted>();
        let owner = wanted.owner.parse();
        let exception = model::Exception {
            id: id.clone(),
            identity: identity.map_err(|error| invalid(format!("identity: {error}")))?,
            allows: wanted.allows,
            scopes: wanted.scopes.into_iter().collect(),
            owner: owner.map_err(|error| invalid(format!("owner: {error}")))?,
            reason: wanted.reason,
            compensating_control: wanted.compensating_control,
            approved_by: String::new(),
            granted_at: call.now,
            approved_at: call.now,
            expires_at: Timestamp::from_unix(wanted.expires_at),
            renewals: 0,
            state: ExceptionState::InForce,
            ended_at: None,
            power_removed: false,
            gives: None,
        };
        let exception = Box::new(exception);
        self.submit(&call, id, ExceptionStep::Grant { exception }).await
    }

    async fn list(&self, request: Request<ListExceptionsRequest>) -> Result<Response<ListExceptionsResponse>, Status> {
        let call = Call::of(&request)?;
        let mut all: Vec<_> = call.snapshot.exceptions().cloned().collect();
        debt::sort_exceptions(&mut all, call.now);
        let exceptions = all.iter().map(|exception| shown(exception, &call.snapshot, call.now));
        Ok(Response::new(ListExceptionsResponse {
            exceptions: within_answer(exceptions),
        }))
    }

    async fn renew(&self, request: Request<RenewExceptionRequest>) -> Result<Response<ExceptionResponse>, Status> {
        let call = Call::of(&request)?;
        let RenewExceptionRequest { id, reason, expires_at } = request.into_inner();
        let expires_at = Timestamp::from_unix(expires_at);
        self.submit(&call, id, ExceptionStep::Renew { expires_at, reason })
            .await
    }

    async fn end(&self, request: Request<EndExceptionRequest>) -> Result<Response<ExceptionResponse>, Status> {
        let call = Call::of(&request)?;
        let EndExceptionRequest { id, power_removed } = request.into_inner();
        if power_removed {
            return self.submit(&call, id, ExceptionStep::End { power_removed }).await;
        }
        let by = call.by()?;
        by.standing.may_everywhere().map_err(|refused| to_status(&refused))?;
        let ended = exceptions::end(&self.0.committer, by, &id).await;
        let ended = ended.map_err(|refused| to_status(&ChangeError::from(refused)))?;
        Ok(Response::new(ExceptionResponse {
            exception: Some(shown(&ended, &self.0.committer.snapshot(), call.now)),
            proposal_id: String::new(),
        }))
    }
}

impl ExceptionsService {
    async fn submit(
        &self,
        call: &Call,
        id: String,
        step: ExceptionStep,
    ) -> Result<Response<ExceptionResponse>, Status> {
        let change = ProposedChange::Exception {
            id: id.clone(),
            change: Box::new(step),
        };
        let became = self.0.changes.submit(call.by()?, change).await;
        let proposal_id = match became.map_err(|refused| to_status(&refused))? {
            Became::Proposed { id } => id,
            Became::InForce | Became::Unchanged => String::new(),
        };
        let state = self.0.committer.snapshot();
        let exception = state.exception(&id).filter(|_| proposal_id.is_empty());
        Ok(Response::new(ExceptionResponse {
            exception: exception.map(|exception| shown(exception, &state, call.now)),
            proposal_id,
        }))
    }
}

/// As many as have room in an answer.
pub(super) fn within_answer(exceptions: impl Iterator<Item = Exception>) -> Vec<Exception> {
    let mut bytes = 0;
    let has_room = |exception: &Exception| {
        bytes += prost::Message::encoded_len(exception) + 8;
        bytes <= super::batch::ANSWER_MAX
    };
    exceptions.take_while(has_room).collect()
}

pub(super) fn shown(exception: &model::Exception, snapshot: &Snapshot, now: Timestamp) -> Exception {
    let state = match exception.state {
        // Nobody has noted it yet.
        ExceptionState::InForce if !exception.is_in_force(now) => ExceptionState::Expired,
        state => state,
    };
    Exception {
        id: exception.id.clone(),
        identity: exception.identity.to_string(),
        allows: exception.allows.clone(),
        scopes: exception.scopes.iter().cloned().collect(),
        owner: exception.owner.to_string(),
        reason: exception.reason.clone(),
        compensating_control: exception.compensating_control.clone(),
        approved_by: exception.approved_by.clone(),
        granted_at: exception.granted_at.unix(),
        approved_at: exception.approved_at.unix(),
        expires_at: exception.expires_at.unix(),
        renewals: exception.renewals,
        state: state.word().into(),
        ended_at: exception.ended_at.map_or(0, |at| at.unix()),
        power_removed: exception.power_removed,
        stops_issuance: debt::is_stopping(snapshot, exception, now),
    }
}
