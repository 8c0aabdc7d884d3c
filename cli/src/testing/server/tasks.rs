//! `mayfly.task.v1.Tasks`.

use mayfly_proto::mayfly::task::revoke_request::Scope;
use mayfly_proto::mayfly::task::tasks_server::Tasks;
use mayfly_proto::mayfly::task::*;
use tonic::{Request, Response, Status};

use super::{NOW, Shared, State, page};

fn find<'s>(state: &'s mut State, id: &str) -> Result<&'s mut Task, Status> {
    let is_it = |task: &&mut Task| task.request_id == id || task.windows.iter().any(|window| window.id == id);
    let found = state.tasks.iter_mut().find(is_it);
    found.ok_or_else(|| Status::not_found("request not found"))
}

fn passes(task: &Task, filter: &str) -> bool {
    let window = |stages: &[&str]| {
        task.windows
            .iter()
            .any(|window| stages.contains(&window.stage.as_str()))
    };
    match filter {
        "" => true,
        "waiting" => task.stage.starts_with("awaiting"),
        "armed" => task.stage == "armed",
        "open" => window(&["open", "suspended"]),
        "unsettled" => window(&["closing", "closed", "revocation_incomplete"]),
        "review" => task.review_due,
        other => panic!("the server knows no filter {other}"),
    }
}

impl Shared {
    fn end(
        &self,
        name: &'static str,
        of_window: bool,
        request: &Request<EndTaskRequest>,
        change: impl FnOnce(&mut Task),
    ) -> Result<Response<Task>, Status> {
        let mut state = self.enter(name, request)?;
        let EndTaskRequest { id, reason } = request.get_ref();
        state.last_text.clone_from(reason);
        let task = find(&mut state, id)?;
        if of_window == (task.request_id == *id) {
            return Err(Status::invalid_argument("id: is not one of these"));
        }
        change(task);
        Ok(Response::new(task.clone()))
    }
}

#[tonic::async_trait]
impl Tasks for Shared {
    async fn list(&self, request: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        let state = self.enter("list_tasks", &request)?;
        let request = request.into_inner();
        let all: Vec<Task> = state
            .tasks
            .iter()
            .filter(|task| passes(task, &request.filter) && (request.task.is_empty() || task.task == request.task))
            .cloned()
            .collect();
        let (tasks, next_page_token) = page(&all, &state, &request.page_token);
        Ok(Response::new(ListTasksResponse { tasks, next_page_token }))
    }

    async fn get(&self, request: Request<GetTaskRequest>) -> Result<Response<Task>, Status> {
        let mut state = self.enter("get_task", &request)?;
        find(&mut state, &request.get_ref().id).map(|task| Response::new(task.clone()))
    }

    async fn approve(&self, request: Request<DecideRequest>) -> Result<Response<Task>, Status> {
        let mut state = self.enter("approve", &request)?;
        let DecideRequest {
            request_id,
            digest,
            reason,
        } = request.into_inner();
        let task = find(&mut state, &request_id)?;
        if task.digest != digest {
            return Err(Status::failed_precondition("the request has another digest"));
        }
        task.approvals.push(Approval {
            person: "alice".into(),
            groups: vec!["pay/leads".into()],
            authenticated_as: "uid:1000".into(),
            reason,
            at: NOW,
            valid_until: NOW + 3600,
        });
        if u32::try_from(task.approvals.len()).unwrap() >= task.approvals_needed {
            task.stage = "armed".into();
        }
        Ok(Response::new(task.clone()))
    }

    async fn deny(&self, request: Request<DecideRequest>) -> Result<Response<Task>, Status> {
        let mut state = self.enter("deny", &request)?;
        let task = find(&mut state, &request.get_ref().request_id)?;
        if task.digest != request.get_ref().digest {
            return Err(Status::failed_precondition("the request has another digest"));
        }
        task.stage = "denied".into();
        Ok(Response::new(task.clone()))
    }

    async fn cancel(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        self.end("cancel", false, &request, |task| task.stage = "cancelled".into())
    }

    async fn suspend(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        self.end("suspend", true, &request, |task| {
            task.windows[0].stage = "suspended".into()
        })
    }

    async fn resume(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        self.end("resume", true, &request, |task| task.windows[0].stage = "open".into())
    }

    async fn review(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        self.end("review", false, &request, |task| task.review_due = false)
    }

    async fn accept_risk(&self, request: Request<EndTaskRequest>) -> Result<Response<Task>, Status> {
        let reason = request.get_ref().reason.clone();
        self.end("accept_risk", true, &request, |task| {
            let window = &mut task.windows[0];
            let person = ["ann", "bob"][window.risk_accepted.len() % 2].into();
            let at = NOW;
            window.risk_accepted.push(RiskAccepted { person, reason, at });
            if window.risk_accepted.len() == 2 {
                (window.stage, window.settled_at) = ("settled".into(), at);
                window.settled_by = "accepted".into();
            }
        })
    }

    async fn revoke(&self, request: Request<RevokeRequest>) -> Result<Response<RevokeResponse>, Status> {
        let mut state = self.enter("revoke", &request)?;
        let request = request.into_inner();
        state.revoked.push(request.clone());
        state.epoch += 1;
        let epoch = state.epoch;
        let hard_cut = request.hard_cut;
        let scope = request.scope.ok_or_else(|| Status::invalid_argument("no scope"))?;
        let mut window_ids = vec![];
        for task in &mut state.tasks {
            for window in task.windows.iter_mut().filter(|window| window.stage == "open") {
                let hit = match &scope {
                    Scope::WindowId(id) => window.id == *id,
                    Scope::Task(name) => task.task == *name,
                    Scope::Workload(id) => task.workload == *id,
                    Scope::Node(id) => window.agent_id == *id,
                    Scope::Serial(serial) => window.live_svids.iter().any(|svid| svid.serial == *serial),
                    Scope::Everything(all) => *all,
                };
                if hit {
                    window.stage = "closing".into();
                    window_ids.push(window.id.clone());
                }
            }
        }
        if window_ids.is_empty() && !hard_cut {
            return Err(Status::not_found("there is nothing to revoke"));
        }
        Ok(Response::new(RevokeResponse { window_ids, epoch }))
    }

    async fn get_revocation_lists(
        &self,
        request: Request<GetRevocationListsRequest>,
    ) -> Result<Response<GetRevocationListsResponse>, Status> {
        let state = self.enter("get_revocation_lists", &request)?;
        Ok(Response::new(GetRevocationListsResponse {
            crls: state.crls.clone(),
            epoch: state.epoch,
        }))
    }
}
