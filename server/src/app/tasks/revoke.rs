//! Authority is ended, by scope. It never needs an approval (I12).

use std::sync::Arc;

use mayfly_model::task::{CloseCause, Stage, Task, TaskName, TaskStep};
use mayfly_model::{Actor, Change};
use mayfly_svid::{Serial, SpiffeId, WindowId};
use tracing::warn;

use super::request::refusal_of;
use super::{TaskError, Tasks};
use crate::app::people::Person;

/// What is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// One SVID; its window goes on.
    Svid(Serial),
    /// One window.
    Window(WindowId),
    /// All windows of a definition, and what could become one.
    Task(TaskName),
    /// All windows of a workload, by its base SPIFFE ID, and what could become one.
    Workload(SpiffeId),
    /// All windows of a node, by its agent, and what could become one there.
    Node(SpiffeId),
    /// Everything.
    Everything,
}

impl Tasks {
    /// Ends everything that fits `scope`; the windows that ended by it. Handed over as one batch, so that one commit has it.
    ///
    /// # Errors
    /// Nothing fits, the person has no say in it, or it could not be stored.
    pub async fn revoke(
        &self,
        actor: &Actor,
        person: Option<&Person>,
        is_admin: bool,
        scope: &Scope,
        reason: &str,
    ) -> Result<Vec<WindowId>, TaskError> {
        let state = self.committer.snapshot();
        let concerned: Vec<Arc<Task>> = state
            .live_tasks()
            .filter(|task| scope.concerns(task))
            .cloned()
            .collect();
        let mut steps = vec![];
        for task in &concerned {
            let planned = scope.steps(task, reason);
            if !planned.is_empty() {
                self.require_say(task, actor, person, is_admin)?;
            }
            steps.extend(
                planned
                    .into_iter()
                    .map(|(window, step)| (task.id.clone(), window, step)),
            );
        }
        if steps.is_empty() {
            return Err(TaskError::NothingToRevoke(scope.to_string()));
        }
        let changes = steps.iter().map(|(id, _, step)| {
            self.step(
                actor,
                Change::TaskStep {
                    id: id.clone(),
                    step: Box::new(step.clone()),
                },
            )
        });
        let results = self.committer.commit_all(changes.collect()).await;
        let mut ended = vec![];
        for ((id, window, _), result) in steps.into_iter().zip(results) {
            match result.map_err(TaskError::from) {
                Ok(_) => ended.extend(window),
                // It ended by itself meanwhile.
                Err(error) if refusal_of(&error).is_some() => {}
                Err(error) => return Err(error),
            }
            warn!(request_id = %id, who = actor.who, reason, "authority revoked");
        }
        Ok(ended)
    }
}

impl Scope {
    fn concerns(&self, task: &Task) -> bool {
        match self {
            Self::Svid(serial) => task
                .live_windows()
                .any(|window| window.issuances.iter().any(|issuance| issuance.serial == *serial)),
            Self::Window(id) => task.window(id).is_some(),
            Self::Task(name) => task.request.task == *name,
            Self::Workload(id) => task.request.workload == *id,
            Self::Node(agent) => {
                task.request.agent_id == *agent || task.windows.iter().any(|window| window.instance.agent_id == *agent)
            }
            Self::Everything => true,
        }
    }

    /// The steps that end what fits, each with the window that it ends.
    fn steps(&self, task: &Task, reason: &str) -> Vec<(Option<WindowId>, TaskStep)> {
        let mut steps = vec![];
        for window in task.live_windows() {
            let fits = match self {
                Self::Svid(serial) => {
                    let has_it = window.issuances.iter().any(|issuance| issuance.serial == *serial);
                    if has_it {
                        let step = TaskStep::RevokeSvid {
                            window: window.id,
                            serial: serial.clone(),
                        };
                        steps.push((None, step));
                    }
                    false
                }
                Self::Window(id) => window.id == *id,
                Self::Node(agent) => window.instance.agent_id == *agent,
                Self::Task(_) | Self::Workload(_) | Self::Everything => true,
            };
            if fits {
                let step = TaskStep::Close {
                    window: window.id,
                    cause: CloseCause::Revoked,
                    detail: reason.into(),
                };
                steps.push((Some(window.id), step));
            }
        }
        let ends_grants = !matches!(self, Self::Svid(_) | Self::Window(_));
        if ends_grants && (task.stage.is_waiting() || task.stage == Stage::Armed) {
            let step = TaskStep::Cancel { reason: reason.into() };
            steps.push((None, step));
        }
        steps
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Svid(serial) => write!(f, "SVID with the serial number {serial} in an open window"),
            Self::Window(id) => write!(f, "open window {id}"),
            Self::Task(name) => write!(f, "open window of {name}"),
            Self::Workload(id) => write!(f, "open window of {id}"),
            Self::Node(agent) => write!(f, "open window on {agent}"),
            Self::Everything => f.write_str("open window"),
        }
    }
}
