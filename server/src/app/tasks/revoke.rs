//! Authority is ended, by scope. It never needs an approval (I12).

use mayfly_model::task::{CloseCause, Issuance, Stage, Task, TaskId, TaskName, TaskStep};
use mayfly_model::{Actor, Change};
use mayfly_svid::{Serial, SpiffeId, WindowId};
use tracing::warn;

use super::request::refusal_of;
use super::{TaskError, Tasks};
use crate::app::people::Person;

/// How often it is looked again; whoever opens faster than this is stopped by a change of policy or definition.
const ROUNDS: usize = 10;

/// A step of a request, and the window that it ends, if it does.
type Planned = (TaskId, Option<WindowId>, TaskStep);

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
    /// Ends everything that fits `scope`; the windows that ended by it. Each round is handed over as one batch.
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
        let mut ended = vec![];
        // What is opened or asked for while this is committed is looked at again, until nothing fits any more.
        for round in 0..ROUNDS {
            let steps = self.planned(actor, person, is_admin, scope, reason)?;
            if steps.is_empty() {
                if round == 0 {
                    return Err(TaskError::NothingToRevoke(scope.to_string()));
                }
                break;
            }
            self.end_planned(actor, steps, &mut ended).await?;
        }
        Ok(ended)
    }

    /// What ends what fits `scope` now.
    fn planned(
        &self,
        actor: &Actor,
        person: Option<&Person>,
        is_admin: bool,
        scope: &Scope,
        reason: &str,
    ) -> Result<Vec<Planned>, TaskError> {
        let state = self.committer.snapshot();
        let mut steps = vec![];
        for task in state.live_tasks().filter(|task| scope.concerns(task)) {
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
        Ok(steps)
    }

    async fn end_planned(
        &self,
        actor: &Actor,
        steps: Vec<Planned>,
        ended: &mut Vec<WindowId>,
    ) -> Result<(), TaskError> {
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
        for ((id, window, _), result) in steps.into_iter().zip(results) {
            match result.map_err(TaskError::from) {
                Ok(_) => {
                    warn!(request_id = %id, who = actor.who, reason = actor.reason, "authority revoked");
                    ended.extend(window);
                }
                // It went on meanwhile: the next round sees how.
                Err(error) if refusal_of(&error).is_some() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
    pub(super) fn steps(&self, task: &Task, reason: &str) -> Vec<(Option<WindowId>, TaskStep)> {
        let mut steps = vec![];
        for window in task.live_windows() {
            let fits = match self {
                Self::Svid(serial) => {
                    let counts = |issuance: &Issuance| issuance.serial == *serial && issuance.revoked.is_none();
                    if window.issuances.iter().any(counts) {
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
        let ends_grants = match self {
            Self::Svid(_) | Self::Window(_) => false,
            // What was asked for elsewhere can be opened elsewhere.
            Self::Node(agent) => task.request.agent_id == *agent,
            Self::Task(_) | Self::Workload(_) | Self::Everything => true,
        };
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
