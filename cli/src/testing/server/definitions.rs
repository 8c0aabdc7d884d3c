//! `mayfly.task.v1.Definitions` and `Proposals`.

use mayfly_model::task::Definition as Model;
use mayfly_proto::mayfly::task::definitions_server::Definitions;
use mayfly_proto::mayfly::task::proposals_server::Proposals;
use mayfly_proto::mayfly::task::*;
use tonic::{Request, Response, Status};

use super::{NOW, Shared, State, page};

/// Puts a version in force.
pub(in crate::testing) fn put(state: &mut State, text: &str, author: &str) -> String {
    let model = Model::parse(text).unwrap();
    let name = model.name.to_string();
    let versions = state
        .definitions
        .iter()
        .filter(|definition| definition.name == name)
        .count();
    state.definitions.push(Definition {
        name,
        hash: model.hash().to_string(),
        version: u32::try_from(versions).unwrap() + 1,
        text: model.to_toml(),
        retired: false,
        author: author.into(),
        defined_at: NOW - 86_400,
    });
    model.hash().to_string()
}

fn present<'s>(state: &'s State, name: &str) -> Option<&'s Definition> {
    state
        .definitions
        .iter()
        .rev()
        .find(|definition| definition.name == name)
}

pub(super) fn propose(state: &mut State, kind: &str, name: &str, hash: &str, content: String) -> String {
    let id = format!("p{}", state.proposals.len() + 1);
    state.proposals.push(Proposal {
        id: id.clone(),
        kind: kind.into(),
        name: name.into(),
        hash: hash.into(),
        author: "bob".into(),
        proposed_at: NOW - 600,
        content,
        state: "pending".into(),
        decided_by: String::new(),
    });
    id
}

#[tonic::async_trait]
impl Definitions for Shared {
    async fn define(&self, request: Request<DefineRequest>) -> Result<Response<DefineResponse>, Status> {
        let mut state = self.enter("define", &request)?;
        let text = &request.get_ref().definition;
        let model = Model::parse(text).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let mut answer = DefineResponse {
            name: model.name.to_string(),
            hash: model.hash().to_string(),
            in_force: true,
            ..DefineResponse::default()
        };
        if present(&state, &answer.name).is_some_and(|present| present.hash == answer.hash) {
            answer.unchanged = true;
        } else if state.two_person {
            answer.in_force = false;
            answer.proposal_id = propose(&mut state, "definition", &answer.name, &answer.hash, model.to_toml());
        } else {
            put(&mut state, text, "bob");
        }
        Ok(Response::new(answer))
    }

    async fn list(
        &self,
        request: Request<ListDefinitionsRequest>,
    ) -> Result<Response<ListDefinitionsResponse>, Status> {
        let state = self.enter("list_definitions", &request)?;
        let all: Vec<Definition> = state
            .definitions
            .iter()
            .filter(|definition| present(&state, &definition.name).unwrap().hash == definition.hash)
            .cloned()
            .collect();
        let (definitions, next_page_token) = page(&all, &state, &request.get_ref().page_token);
        Ok(Response::new(ListDefinitionsResponse {
            definitions,
            next_page_token,
        }))
    }

    async fn get(&self, request: Request<GetDefinitionRequest>) -> Result<Response<Definition>, Status> {
        let state = self.enter("get_definition", &request)?;
        let GetDefinitionRequest { name, hash } = request.get_ref();
        let found = state
            .definitions
            .iter()
            .rev()
            .find(|definition| definition.name == *name && definition.hash.starts_with(hash));
        found
            .cloned()
            .map(Response::new)
            .ok_or_else(|| Status::not_found("definition not found"))
    }

    async fn retire(&self, request: Request<RetireRequest>) -> Result<Response<DefineResponse>, Status> {
        let mut state = self.enter("retire", &request)?;
        let name = &request.get_ref().name;
        let found = state
            .definitions
            .iter_mut()
            .rev()
            .find(|definition| definition.name == *name);
        let definition = found.ok_or_else(|| Status::not_found("definition not found"))?;
        definition.retired = true;
        Ok(Response::new(DefineResponse {
            name: name.clone(),
            hash: definition.hash.clone(),
            in_force: true,
            ..DefineResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl Proposals for Shared {
    async fn list(&self, request: Request<ListProposalsRequest>) -> Result<Response<ListProposalsResponse>, Status> {
        let state = self.enter("list_proposals", &request)?;
        Ok(Response::new(ListProposalsResponse {
            proposals: state.proposals.clone(),
        }))
    }

    async fn approve(&self, request: Request<DecideProposalRequest>) -> Result<Response<Proposal>, Status> {
        let mut state = self.enter("approve_proposal", &request)?;
        let proposal = decide(&mut state, &request.get_ref().id, "approved")?;
        if proposal.kind == "definition" {
            put(&mut state, &proposal.content, &proposal.author);
        }
        Ok(Response::new(proposal))
    }

    async fn reject(&self, request: Request<DecideProposalRequest>) -> Result<Response<Proposal>, Status> {
        let mut state = self.enter("reject_proposal", &request)?;
        decide(&mut state, &request.get_ref().id, "rejected").map(Response::new)
    }
}

fn decide(state: &mut State, id: &str, word: &str) -> Result<Proposal, Status> {
    let found = state.proposals.iter_mut().find(|proposal| proposal.id == id);
    let proposal = found.ok_or_else(|| Status::not_found("proposal not found"))?;
    if proposal.state != "pending" {
        return Err(Status::failed_precondition(format!("it is {} already", proposal.state)));
    }
    proposal.state = word.into();
    proposal.decided_by = "alice".into();
    Ok(proposal.clone())
}
