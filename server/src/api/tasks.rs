//! `mayfly.task.v1.Tasks`: requests, their approval, what is open, and ending it; for people.

use std::sync::Arc;

use mayfly_model::KeyClass;
use mayfly_model::task::{self as model, Stage, TaskId};
use mayfly_proto::mayfly::task::tasks_server::Tasks as TasksApi;
use mayfly_proto::mayfly::task::*;
use mayfly_svid::{Serial, WindowId};
use tonic::{Request, Response, Status};

use super::status::{invalid, to_status};
use super::{Api, Call};
use crate::app::people::Person;
use crate::app::tasks::{Scope, TaskError};

/// Items of one page.
const PAGE_MAX: usize = 1000;

pub(super) struct TasksService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl TasksApi for TasksService {
    async fn list(&self, request: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        let call = Call::of(&request)?;
        let ListTasksRequest {
            filter,
            task,
            page_size,
            page_token,
        } = request.into_inner();
        let filter = read_filter(&filter)?;
        let size = match usize::try_from(page_size) {
            Ok(0) => PAGE_MAX,
            Ok(size) => size.min(PAGE_MAX),
            Err(_) => return Err(invalid("page_size: is negative")),
        };
        let before: Option<TaskId> = match page_token.as_str() {
            "" => None,
            token => Some(
                token
                    .parse()
                    .map_err(|_| invalid("page_token: is not one of this list"))?,
            ),
        };
        let mut tasks = vec![];
        let mut weight = 0;
        let mut next_page_token = String::new();
        let matching = call
            .snapshot
            .tasks_before(before.as_ref())
            .filter(|found| filter(found) && (task.is_empty() || found.request.task.as_str() == task));
        for found in matching {
            let item = self.task(found);
            weight += prost::Message::encoded_len(&item);
            if tasks.len() == size || (weight > super::MESSAGE_MAX / 2 && !tasks.is_empty()) {
                next_page_token = tasks
                    .last()
                    .map(|last: &Task| last.request_id.clone())
                    .unwrap_or_default();
                break;
            }
            tasks.push(item);
        }
        Ok(Response::new(ListTasksResponse { tasks, next_page_token }))
    }

    async fn get(&self, request: Request<GetTaskRequest>) -> Result<Response<Task>, Status> {
        let call = Call::of(&request)?;
        let id = request.into_inner().id;
        let by_window = id
            .parse::<WindowId>()
            .ok()
            .and_then(|id| call.snapshot.task_of_window(&id));
        let found = match by_window {
            Some(found) => Some(found),
            None => call.snapshot.task(&read_id(&id)?),
        };
        let found = found.ok_or_else(|| Status::not_found(format!("there is no request or window `{id}`")))?;
        Ok(Response::new(self.task(found)))
    }

    async fn approve(&self, request: Request<DecideRequest>) -> Result<Response<Task>, Status> {
        let call = Call::of(&request)?;
        let person = self.person(&call)?;
        let DecideRequest {
            request_id,
            digest,
            reason,
        } = request.into_inner();
        let digest = digest
            .parse()
            .map_err(|_| invalid("digest: is not the 64 hex digits that stand for what was looked at"))?;
        let reason = read_reason(reason)?;
        let id = read_id(&request_id)?;
        let done = self.0.tasks.approve(&call.actor, &person, &id, digest, reason).await;
        self.answer(done)
    }

    async fn deny(&self, request: Request<DecideRequest>) -> Result<Response<Task>, Status> {
        let call = Call::of(&request)?;
        let person = self.person(&call)?;
        let DecideRequest { request_id, reason, .. } = request.into_inner();
        let (id, reason) = (read_id(&request_id)?, read_reason(reason)?);
        let done = self.0.tasks.refuse(&call.actor, &person, &id, reason).await;
        self.answer(done)
    }

    async fn cancel(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        let call = Call::of(&request)?;
        let EndTaskRequest { id, reason } = request.into_inner();
        let (id, reason) = (read_id(&id)?, read_reason(reason)?);
        let (person, is_admin) = (self.person_or_none(&call), self.is_admin(&call));
        let done = self
            .0
            .tasks
            .withdraw(&call.actor, person.as_ref(), is_admin, &id, reason)
            .await;
        self.answer(done)
    }

    async fn suspend(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        let call = Call::of(&request)?;
        let EndTaskRequest { id, reason } = request.into_inner();
        let (window, reason) = (super::agent_tasks::read_window(&id)?, read_reason(reason)?);
        let (person, is_admin) = (self.person_or_none(&call), self.is_admin(&call));
        let done = self
            .0
            .tasks
            .suspend(&call.actor, person.as_ref(), is_admin, window, reason)
            .await;
        self.answer(done)
    }

    async fn resume(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        let call = Call::of(&request)?;
        let person = self.person(&call)?;
        let window = super::agent_tasks::read_window(&request.into_inner().id)?;
        self.answer(self.0.tasks.resume(&call.actor, &person, window).await)
    }

    async fn review(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        let call = Call::of(&request)?;
        let person = self.person(&call)?;
        let EndTaskRequest { id, reason } = request.into_inner();
        let (id, reason) = (read_id(&id)?, read_reason(reason)?);
        self.answer(self.0.tasks.review(&call.actor, &person, &id, reason).await)
    }

    async fn accept_risk(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        let call = Call::of(&request)?;
        let person = self.person(&call)?;
        if !self.is_admin(&call) {
            return Err(Status::permission_denied(
                "accepting a risk needs a person with the admin role",
            ));
        }
        let EndTaskRequest { id, reason } = request.into_inner();
        let (window, reason) = (super::agent_tasks::read_window(&id)?, read_reason(reason)?);
        self.answer(self.0.tasks.accept_risk(&call.actor, &person, window, reason).await)
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let call = Call::of(&request)?;
        let RevokeRequest {
            scope,
            reason,
            hard_cut,
        } = request.into_inner();
        let scope = read_scope(scope.ok_or_else(|| invalid("scope: is missing; say what is to end"))?)?;
        let reason = read_reason(reason)?;
        let (person, is_admin) = (self.person_or_none(&call), self.is_admin(&call));
        if hard_cut && !is_admin {
            return Err(Status::permission_denied(
                "a hard cut needs the admin role: it concerns every task",
            ));
        }
        let revoked = self
            .0
            .tasks
            .revoke(&call.actor, person.as_ref(), is_admin, &scope, &reason)
            .await;
        let window_ids = match revoked {
            Ok(windows) => windows,
            // The cut has an effect of its own: on what is not known to be open.
            Err(TaskError::NothingToRevoke(_)) if hard_cut => vec![],
            Err(refused) => return Err(to_status(&refused)),
        };
        if hard_cut {
            for class in [KeyClass::Task, KeyClass::Breakglass] {
                let cut = self.0.authorities.cut(&call.actor, class, vec![]).await;
                cut.map_err(|failure| {
                    tracing::error!(error = %mayfly_runtime::Chain(&failure), class = class.word(), "the hard cut failed");
                    Status::unavailable("the windows ended, but the authority could not be cut; see the server's log")
                })?;
            }
        }
        Ok(Response::new(RevokeResponse {
            window_ids: window_ids.iter().map(ToString::to_string).collect(),
            epoch: self.0.committer.snapshot().epoch(),
        }))
    }

    async fn get_revocation_lists(
        &self,
        request: Request<GetRevocationListsRequest>,
    ) -> Result<Response<GetRevocationListsResponse>, Status> {
        Call::of(&request)?;
        let lists = self.0.feeds.lists.load();
        Ok(Response::new(GetRevocationListsResponse {
            crls: lists.ders.clone(),
            epoch: lists.epoch,
        }))
    }
}

impl TasksService {
    fn person(&self, call: &Call) -> Result<Person, Status> {
        let person = call
            .standing()?
            .require_person()
            .map_err(|refused| to_status(&refused))?;
        Ok(person.clone())
    }

    fn person_or_none(&self, call: &Call) -> Option<Person> {
        call.standing.as_ref().and_then(|standing| standing.person()).cloned()
    }

    fn is_admin(&self, call: &Call) -> bool {
        call.standing.as_ref().is_some_and(|standing| standing.is_admin())
    }

    fn answer(&self, done: Result<Arc<model::Task>, TaskError>) -> Result<Response<Task>, Status> {
        let task = done.map_err(|refused| to_status(&refused))?;
        Ok(Response::new(self.task(&task)))
    }

    /// A task as people see it.
    pub(super) fn task(&self, task: &model::Task) -> Task {
        let request = &task.request;
        let expires_at = match task.stage {
            Stage::AwaitingApproval | Stage::AwaitingTicket => task.wait_until.unix(),
            Stage::Armed => task.grant.open_by.unix(),
            _ => 0,
        };
        Task {
            request_id: task.id.to_string(),
            digest: task.digest.to_string(),
            task: request.task.to_string(),
            definition_hash: request.definition.to_string(),
            stage: task.stage.word().into(),
            workload: request.workload.to_string(),
            agent_id: request.agent_id.to_string(),
            person: request.person.as_ref().map(ToString::to_string).unwrap_or_default(),
            reason: request.reason.clone(),
            ticket: request.ticket.clone().unwrap_or_default(),
            scopes: request.scopes.iter().cloned().collect(),
            parameters: request.parameters.clone(),
            window_seconds: u32::try_from(request.window.as_secs()).unwrap_or(u32::MAX),
            requested_at: request.requested_at.unix(),
            expires_at,
            approvals_needed: task.needs.approvals.iter().map(|rule| rule.count).max().unwrap_or(0),
            approver_groups: {
                let groups = task.needs.approvals.iter().flat_map(|rule| &rule.groups);
                let sorted: std::collections::BTreeSet<String> = groups.map(ToString::to_string).collect();
                sorted.into_iter().collect()
            },
            approvals: task.approvals.iter().map(approval).collect(),
            decisions: task.decisions.iter().map(decision).collect(),
            windows: task.windows.iter().map(|held| self.window(task, held)).collect(),
            uses_left: task.grant.uses_left,
            message: task.message.clone(),
            review_due: task.review_due,
        }
    }

    fn window(&self, task: &model::Task, held: &model::Window) -> Window {
        let waits = matches!(held.stage, Stage::Closing | Stage::Closed | Stage::RevocationIncomplete);
        let waiting_for = match held.epoch {
            Some(epoch) if waits => self.0.tasks.waits_for(&task.grant.checkpoints, epoch),
            _ => vec![],
        };
        let unix = |at: Option<mayfly_svid::Timestamp>| at.map_or(0, mayfly_svid::Timestamp::unix);
        Window {
            id: held.id.to_string(),
            stage: held.stage.word().into(),
            spiffe_id: held.spiffe_id.to_string(),
            agent_id: held.instance.agent_id.to_string(),
            pid: held.instance.pid,
            opened_at: held.opened_at.unix(),
            closes_at: held.closes_at.unix(),
            cause: held.cause.map(|cause| cause.word().to_owned()).unwrap_or_default(),
            detail: held.detail.clone(),
            closed_at: unix(held.closed_at),
            settled_at: unix(held.settled_at),
            residual_seconds: held.residual.unwrap_or(0),
            epoch: held.epoch.unwrap_or(0),
            svids: held.issued,
            live_svids: held
                .issuances
                .iter()
                .map(|issuance| Svid {
                    serial: issuance.serial.to_string(),
                    not_before: issuance.not_before.unix(),
                    not_after: issuance.not_after.unix(),
                    ttl_term: issuance.ttl_term.word().into(),
                    authority_id: issuance.authority_id.clone(),
                })
                .collect(),
            waiting_for,
            settled_by: settled_by(held).into(),
            acknowledged: held.acknowledged.iter().map(acknowledged).collect(),
            risk_accepted: held.risk.iter().chain(&held.risk_agreed).map(risk_accepted).collect(),
        }
    }
}

/// What settled a window; empty while nothing has.
fn settled_by(held: &model::Window) -> &'static str {
    match held.settled_by {
        Some(term) => term.word(),
        None if held.risk_agreed.is_some() => "accepted",
        None => "",
    }
}

fn acknowledged(said: &model::Acknowledged) -> Acknowledged {
    Acknowledged {
        checkpoint: said.name.clone(),
        consumers: said.consumers,
        epoch: said.epoch,
        at: said.at.unix(),
    }
}

fn risk_accepted(accepted: &model::RiskAccepted) -> RiskAccepted {
    RiskAccepted {
        person: accepted.by.to_string(),
        reason: accepted.reason.clone(),
        at: accepted.at.unix(),
    }
}

fn approval(given: &model::Approval) -> Approval {
    Approval {
        person: given.person.to_string(),
        groups: given.groups.iter().map(ToString::to_string).collect(),
        authenticated_as: given.authenticated_as.clone(),
        reason: given.reason.clone(),
        at: given.at.unix(),
        valid_until: given.valid_until.unix(),
    }
}

pub(super) fn decision(made: &model::Decision) -> Decision {
    Decision {
        phase: made.phase.word().into(),
        allowed: made.allowed,
        reasons: made.reasons.clone(),
        determining: made.determining.clone(),
        policy_digest: made.policy_digest.clone(),
        inputs_digest: made.inputs_digest.clone(),
        at: made.at.unix(),
    }
}

fn read_id(text: &str) -> Result<TaskId, Status> {
    text.parse().map_err(|error| invalid(format!("id: {error}")))
}

/// For people and the record: what is done without one cannot be understood later.
fn read_reason(reason: String) -> Result<String, Status> {
    let fits = (1..=1024).contains(&reason.trim().len()) && !reason.chars().any(|c| c.is_control() && c != '\n');
    if fits {
        Ok(reason)
    } else {
        Err(invalid(
            "reason: say why, in 1 to 1024 bytes without control characters",
        ))
    }
}

fn read_filter(filter: &str) -> Result<fn(&model::Task) -> bool, Status> {
    Ok(match filter {
        "" => |_| true,
        "waiting" => |task| task.stage.is_waiting(),
        "armed" => |task| task.stage == Stage::Armed,
        "open" => |task| task.live_windows().next().is_some(),
        "unsettled" => |task| {
            let mut windows = task.windows.iter();
            windows.any(|held| !held.stage.is_live_window() && held.stage != Stage::Settled)
        },
        "review" => |task| task.review_due,
        _ => return Err(invalid("filter: is none of waiting, armed, open, unsettled, review")),
    })
}

fn read_scope(wire: revoke_request::Scope) -> Result<Scope, Status> {
    use revoke_request::Scope as Wire;
    let id = |text: &str| text.parse().map_err(|error| invalid(format!("scope: {error}")));
    Ok(match wire {
        Wire::Serial(text) => Scope::Svid(read_serial(&text)?),
        Wire::WindowId(text) => Scope::Window(super::agent_tasks::read_window(&text)?),
        Wire::Task(name) => Scope::Task(name.parse().map_err(|error| invalid(format!("scope: {error}")))?),
        Wire::Workload(text) => Scope::Workload(id(&text)?),
        Wire::Node(text) => Scope::Node(id(&text)?),
        Wire::Everything(true) => Scope::Everything,
        Wire::Everything(false) => return Err(invalid("scope: `everything` is either true or not there")),
    })
}

/// Decimal, or hex with `0x`.
fn read_serial(text: &str) -> Result<Serial, Status> {
    let refused = || invalid("scope: a serial number is decimal, or hex with 0x");
    match text.strip_prefix("0x") {
        Some(hex) => {
            let padded = if hex.len() % 2 == 1 {
                format!("0{hex}")
            } else {
                hex.to_owned()
            };
            let bytes = hex::decode(padded).map_err(|_| refused())?;
            Serial::from_be_bytes(&bytes).map_err(|_| refused())
        }
        None => text.parse().map_err(|_| refused()),
    }
}
