//! `mayfly.task.v1.Policy`: the operators' policy, and what it says.

use std::sync::Arc;

use mayfly_model::task::{ProposedChange, TaskId};
use mayfly_policy::Flip;
use mayfly_proto::mayfly::task::policy_server::Policy as PolicyApi;
use mayfly_proto::mayfly::task::*;
use prost::Message;
use tonic::{Request, Response, Status};

use super::batch::ANSWER_MAX;
use super::status::{invalid, to_status};
use super::tasks::TasksService;
use super::{Api, Call};
use crate::app::changes::Became;
use crate::app::policy::{self, PastDifference, in_words};

/// The most problems that are told of a policy.
const PROBLEMS_MAX: usize = 100;

pub(super) struct PolicyService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl PolicyApi for PolicyService {
    async fn get(&self, request: Request<GetPolicyRequest>) -> Result<Response<PolicyFiles>, Status> {
        let call = Call::of(&request)?;
        let digest = self.0.policy.of(&call.snapshot).set().digest().to_string();
        let present = call.snapshot.policy();
        Ok(Response::new(PolicyFiles {
            files: present.map(|policy| policy.files.clone()).unwrap_or_default(),
            digest,
            author: present.map(|policy| policy.author.clone()).unwrap_or_default(),
            set_at: present.map_or(0, |policy| policy.set_at.unix()),
        }))
    }

    async fn set(&self, request: Request<SetPolicyRequest>) -> Result<Response<SetPolicyResponse>, Status> {
        let call = Call::of(&request)?;
        let SetPolicyRequest { files, replaces } = request.into_inner();
        let by = call.by()?;
        self.0
            .changes
            .check_present(by, &replaces)
            .map_err(|refused| to_status(&refused))?;
        let change = ProposedChange::Policy { files: files.clone() };
        let became = self
            .0
            .changes
            .submit(by, change)
            .await
            .map_err(|refused| to_status(&refused))?;
        let (in_force, proposal_id) = match became {
            Became::InForce | Became::Unchanged => (true, String::new()),
            Became::Proposed { id } => (false, id),
        };
        // It was read a moment ago, so it can be.
        let digest = policy::check_aside(&files)
            .await
            .map(|set| set.digest().to_string())
            .unwrap_or_default();
        Ok(Response::new(SetPolicyResponse {
            digest,
            in_force,
            proposal_id,
        }))
    }

    async fn check(&self, request: Request<CheckPolicyRequest>) -> Result<Response<CheckPolicyResponse>, Status> {
        let files = request.into_inner().files;
        let answer = match policy::check_aside(&files).await {
            Ok(set) => CheckPolicyResponse {
                digest: set.digest().to_string(),
                problems: vec![],
            },
            Err(errors) => CheckPolicyResponse {
                digest: String::new(),
                problems: errors.0.iter().take(PROBLEMS_MAX).map(ToString::to_string).collect(),
            },
        };
        Ok(Response::new(answer))
    }

    async fn what_if(&self, request: Request<WhatIfRequest>) -> Result<Response<WhatIfResponse>, Status> {
        let files = request.into_inner().files;
        let what_if = self
            .0
            .policy
            .what_if(&files)
            .await
            .map_err(|refused| to_status(&refused))?;
        let mut answer = WhatIfResponse {
            decisions: u32::try_from(what_if.decisions).unwrap_or(u32::MAX),
            differences: vec![],
        };
        let mut bytes = 0;
        for difference in &what_if.differences {
            let difference = shown(difference);
            bytes += difference.encoded_len() + 8;
            if bytes > ANSWER_MAX {
                break;
            }
            answer.differences.push(difference);
        }
        Ok(Response::new(answer))
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Result<Response<ExplainResponse>, Status> {
        let call = Call::of(&request)?;
        let text = request.into_inner().request_id;
        let id: TaskId = text.parse().map_err(|error| invalid(format!("request_id: {error}")))?;
        let tasks = TasksService(self.0.clone());
        let task = call.snapshot.task(&id).map(|task| tasks.task(task));
        let explained = self
            .0
            .policy
            .explain(&id)
            .await
            .map_err(|refused| to_status(&refused))?;
        let decision = explained.now;
        Ok(Response::new(ExplainResponse {
            task,
            now: Some(Decision {
                phase: phase(&explained.facts).into(),
                allowed: decision.is_allowed(),
                reasons: decision.reasons.iter().map(|reason| reason.id.clone()).collect(),
                determining: decision.determining.clone(),
                policy_digest: decision.policy_digest.to_string(),
                inputs_digest: decision.inputs_digest.to_string(),
                at: call.now.unix(),
            }),
            flips: explained.flips.iter().map(flip).collect(),
        }))
    }
}

fn shown(difference: &PastDifference) -> Difference {
    let PastDifference {
        request_id,
        facts,
        was,
        would_be,
    } = difference;
    Difference {
        request_id: request_id.clone(),
        task: facts.definition.name.to_string(),
        spiffe_id: facts.process.id.to_string(),
        phase: phase(facts).into(),
        was: in_words(was),
        would_be: in_words(would_be),
    }
}

fn phase(facts: &mayfly_policy::Facts) -> &'static str {
    use mayfly_policy::Phase;
    match facts.phase {
        Phase::Request | Phase::Arm => "request",
        Phase::Approve => "approve",
        Phase::Open => "open",
        Phase::Renew | Phase::Sweep => "renew",
        Phase::Extend => "extend",
    }
}

/// The facts in words; what is not said is that it would then be allowed, or would be no more.
fn flip(flip: &Flip) -> String {
    let facts: Vec<&str> = flip.facts.iter().map(|signal| signal.words.as_str()).collect();
    let wait = match flip.verdict {
        mayfly_policy::Verdict::Wait => " (it would wait then)",
        mayfly_policy::Verdict::Allow | mayfly_policy::Verdict::Deny => "",
    };
    format!("{}{wait}", facts.join(", and "))
}
