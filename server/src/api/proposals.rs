//! `mayfly.task.v1.Proposals`: changes that wait for a second person.

use std::fmt::Write;
use std::sync::Arc;

use mayfly_model::task::{self as model, ProposalState, ProposedChange};
use mayfly_proto::mayfly::task::proposals_server::Proposals as ProposalsApi;
use mayfly_proto::mayfly::task::*;
use prost::Message;
use tonic::{Request, Response, Status};

use super::batch::ANSWER_MAX;
use super::status::to_status;
use super::{Api, Call};
use crate::app::exceptions;

pub(super) struct ProposalsService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl ProposalsApi for ProposalsService {
    /// Those that wait, all of them, then those that were decided, the newest first, as many as have room.
    async fn list(&self, request: Request<ListProposalsRequest>) -> Result<Response<ListProposalsResponse>, Status> {
        let call = Call::of(&request)?;
        // In the order of their making.
        let all: Vec<_> = call.snapshot.proposals().collect();
        let is_pending = |proposal: &&&Arc<model::Proposal>| proposal.state == ProposalState::Pending;
        let pending = all.iter().filter(is_pending);
        let decided = all.iter().rev().filter(|proposal| !is_pending(proposal));
        let (mut proposals, mut bytes) = (vec![], 0);
        for proposal in pending.chain(decided) {
            let proposal = shown(proposal);
            bytes += proposal.encoded_len() + 8;
            if bytes > ANSWER_MAX {
                break;
            }
            proposals.push(proposal);
        }
        Ok(Response::new(ListProposalsResponse { proposals }))
    }

    async fn approve(&self, request: Request<DecideProposalRequest>) -> Result<Response<Proposal>, Status> {
        self.decide(request, true).await
    }

    /// Refuses it for good; by its author, takes it back.
    async fn reject(&self, request: Request<DecideProposalRequest>) -> Result<Response<Proposal>, Status> {
        self.decide(request, false).await
    }
}

impl ProposalsService {
    async fn decide(
        &self,
        request: Request<DecideProposalRequest>,
        approve: bool,
    ) -> Result<Response<Proposal>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().id;
        let decided = self.0.changes.decide(call.by()?, &id, approve).await;
        let proposal = decided.map_err(|refused| to_status(&refused))?;
        Ok(Response::new(shown(&proposal)))
    }
}

fn shown(proposal: &model::Proposal) -> Proposal {
    let (kind, name, hash, content) = match &proposal.change {
        ProposedChange::Definition { definition } => (
            "definition",
            definition.name.to_string(),
            definition.hash().to_string(),
            definition.to_toml(),
        ),
        ProposedChange::Retirement { name } => ("retirement", name.to_string(), String::new(), String::new()),
        ProposedChange::Policy { files } => {
            let mut content = String::new();
            for (name, text) in files {
                write!(content, "// {name}\n{text}\n").expect("a string takes all");
            }
            ("policy", String::new(), String::new(), content)
        }
        ProposedChange::Exception { id, change } => {
            ("exception", id.clone(), String::new(), exceptions::describe(id, change))
        }
    };
    let state = match proposal.state {
        ProposalState::Pending => "pending",
        ProposalState::Approved => "approved",
        ProposalState::Rejected => "rejected",
    };
    Proposal {
        id: proposal.id.clone(),
        kind: kind.into(),
        name,
        hash,
        author: proposal.author.clone(),
        proposed_at: proposal.proposed_at.unix(),
        content,
        state: state.into(),
        decided_by: proposal.decided_by.clone(),
    }
}
