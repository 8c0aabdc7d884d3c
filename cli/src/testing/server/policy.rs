//! `mayfly.task.v1.Policy`.

use mayfly_proto::mayfly::task::policy_server::Policy;
use mayfly_proto::mayfly::task::*;
use tonic::{Request, Response, Status};

use super::{NOW, Shared};

/// Changes with the files, which is all that callers may know of it.
fn digest(files: &std::collections::BTreeMap<String, String>) -> String {
    let sum: usize = files
        .iter()
        .flat_map(|(name, text)| name.bytes().chain(text.bytes()))
        .map(usize::from)
        .sum();
    format!("{sum:064x}")
}

#[tonic::async_trait]
impl Policy for Shared {
    async fn get(&self, request: Request<GetPolicyRequest>) -> Result<Response<PolicyFiles>, Status> {
        let state = self.enter("get_policy", &request)?;
        Ok(Response::new(state.policy.clone()))
    }

    async fn set(&self, request: Request<SetPolicyRequest>) -> Result<Response<SetPolicyResponse>, Status> {
        let mut state = self.enter("set_policy", &request)?;
        let SetPolicyRequest { files, replaces } = request.into_inner();
        if !replaces.is_empty() && replaces != state.policy.digest {
            return Err(Status::aborted("another policy is in force"));
        }
        let digest = digest(&files);
        let in_force = !state.two_person;
        if in_force {
            state.policy = PolicyFiles {
                files: files.clone(),
                digest: digest.clone(),
                author: "bob".into(),
                set_at: NOW,
            };
        }
        let proposal_id = if in_force {
            String::new()
        } else {
            let content = files
                .iter()
                .map(|(name, text)| format!("// {name}\n{text}\n"))
                .collect();
            super::definitions::propose(&mut state, "policy", "", "", content)
        };
        Ok(Response::new(SetPolicyResponse {
            digest,
            in_force,
            proposal_id,
        }))
    }

    async fn check(&self, request: Request<CheckPolicyRequest>) -> Result<Response<CheckPolicyResponse>, Status> {
        let _state = self.enter("check_policy", &request)?;
        let files = &request.get_ref().files;
        let bad = files.iter().filter(|(_, text)| text.contains("oops"));
        Ok(Response::new(CheckPolicyResponse {
            digest: digest(files),
            problems: bad.map(|(name, _)| format!("{name}:1: unknown word `oops`")).collect(),
        }))
    }

    async fn what_if(&self, request: Request<WhatIfRequest>) -> Result<Response<WhatIfResponse>, Status> {
        let state = self.enter("what_if", &request)?;
        Ok(Response::new(state.what_if.clone()))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let state = self.enter("explain", &request)?;
        let task = state
            .tasks
            .iter()
            .find(|task| task.request_id == request.get_ref().request_id);
        let task = task.ok_or_else(|| Status::not_found("request not found"))?;
        Ok(Response::new(ExplainResponse {
            task: None,
            now: task.decisions.last().cloned(),
            flips: state.flips.clone(),
        }))
    }
}
