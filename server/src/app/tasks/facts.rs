//! What a decision may read, gathered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::task::{
    ActorClass, Decision, DefinitionVersion, Instance, Outcome, Phase as ModelPhase, RequestProblem, Stage, Task,
    TaskClass, TaskId, TaskRequest, Window,
};
use mayfly_model::{Agent, Change, Entry, Selectors};
use mayfly_policy::{
    Approval, Facts, Missing, Node, OpenWindow, Person, Phase, Pinned, Process, Ticket, Usage, Verdict,
};
use mayfly_svid::{SpiffeId, Timestamp};
use serde_json::json;

use super::{TaskError, Tasks};
use crate::commit::Snapshot;

/// All selectors of a process, in bytes. They are kept with each request, refused ones too, and an agent that is not honest
/// could name as many as fit into a message. Some hundred groups of a user fit.
const SELECTORS_MAX: usize = 32 * 1024;

/// A process, as its agent attested it for this call.
#[derive(Clone, Debug)]
pub struct Attested {
    /// The agent that vouches for it.
    pub agent: Arc<Agent>,
    /// What gives its base identity; the agent may serve it.
    pub entry: Arc<Entry>,
    /// What holds of it.
    pub selectors: Selectors,
    /// Which process it is.
    pub instance: Instance,
    /// When that was found.
    pub attested_at: Timestamp,
}

/// What a decision is about, besides the process.
pub(super) struct Question<'a> {
    pub(super) phase: Phase,
    pub(super) request: &'a TaskRequest,
    pub(super) definition: &'a Arc<DefinitionVersion>,
    /// The node that the process is on: of who asked, who opens, or who holds the window.
    pub(super) node: &'a SpiffeId,
    /// What is known of the process now, or was when it asked.
    pub(super) selectors: &'a Selectors,
    pub(super) attested_at: Timestamp,
    /// None before there is a task.
    pub(super) task: Option<&'a Task>,
    pub(super) window: Option<&'a Window>,
    /// How long the whole window is to be.
    pub(super) duration: Duration,
    pub(super) ticket: Option<Ticket>,
    pub(super) approver: Option<Person>,
    /// One that is about to be given.
    pub(super) approval: Option<Approval>,
}

/// An answer with its inputs.
pub(super) struct Decided {
    pub(super) facts: Facts,
    pub(super) decision: mayfly_policy::Decision,
    pub(super) at: Timestamp,
}

impl Attested {
    /// The process that `agent` vouches for, if it may serve the entry.
    ///
    /// # Errors
    /// It may not, or says more of the process than is kept.
    pub fn new(
        snapshot: &Snapshot,
        agent: &Arc<Agent>,
        entry_id: &mayfly_model::EntryId,
        selectors: Selectors,
        instance: Instance,
        attested_at: Timestamp,
        now: Timestamp,
    ) -> Result<Self, TaskError> {
        let size: usize = selectors.iter().map(|selector| selector.as_str().len()).sum();
        if size > SELECTORS_MAX {
            return Err(TaskError::Invalid(vec![RequestProblem {
                field: "instance.selectors",
                problem: format!("{size} bytes hold of the process, at most {SELECTORS_MAX} are kept"),
            }]));
        }
        let entry = snapshot
            .entry(entry_id)
            .filter(|entry| snapshot.is_authorized(agent, entry) && !entry.is_expired(now))
            // What the agent says of the process has to fit the entry, as it does when the agent hands out its SVID.
            .filter(|entry| entry.spec.selectors.is_subset_of(&selectors))
            .ok_or(TaskError::NoSuchEntry)?;
        Ok(Self {
            agent: agent.clone(),
            entry: entry.clone(),
            selectors,
            instance,
            attested_at: attested_at.min(now),
        })
    }
}

impl Decided {
    /// As tasks keep it.
    pub(super) fn record(&self) -> Decision {
        Decision {
            phase: match self.facts.phase {
                Phase::Request | Phase::Arm => ModelPhase::Request,
                Phase::Approve => ModelPhase::Approve,
                Phase::Open => ModelPhase::Open,
                Phase::Renew | Phase::Sweep => ModelPhase::Renew,
                Phase::Extend => ModelPhase::Extend,
            },
            allowed: self.decision.verdict != Verdict::Deny,
            reasons: self.decision.reasons.iter().map(|reason| reason.id.clone()).collect(),
            determining: self.decision.determining.clone(),
            policy_digest: self.decision.policy_digest.to_string(),
            inputs_digest: self.decision.inputs_digest.to_string(),
            at: self.at,
        }
    }

    /// The record of it in the log, with all that is needed to repeat it.
    pub(super) fn note(&self, id: &TaskId) -> Change {
        let mut facts = json!(self.facts);
        // Its versions are kept for ever, and there are many decisions about one.
        let definition = &self.facts.definition;
        facts["definition"] = json!({ "name": definition.name, "hash": definition.hash() });
        Change::Note {
            kind: "policy.decided",
            subject: id.to_string(),
            body: json!({ "facts": facts, "decision": self.decision }),
        }
    }

    /// What it means for a request.
    pub(super) fn outcome(&self) -> Outcome {
        match self.decision.verdict {
            Verdict::Deny => Outcome::Deny,
            Verdict::Allow => Outcome::Permit,
            Verdict::Wait if self.decision.missing.contains(&Missing::Ticket) => Outcome::WantTicket,
            Verdict::Wait => Outcome::WantApproval,
        }
    }

    /// Stops what may not be now.
    pub(super) fn require(&self) -> Result<(), TaskError> {
        match self.decision.verdict {
            Verdict::Allow => Ok(()),
            Verdict::Wait | Verdict::Deny => Err(TaskError::Denied(self.decision.reasons.clone())),
        }
    }
}

impl Tasks {
    /// Asks the policy in force.
    pub(super) fn decide(&self, state: &Snapshot, question: Question<'_>) -> Decided {
        let at = self.now();
        let facts = self.facts(state, question, at);
        let decision = self.policy.current().decide(&facts);
        Decided { facts, decision, at }
    }

    fn facts(&self, state: &Snapshot, question: Question<'_>, now: Timestamp) -> Facts {
        let Question {
            phase,
            request,
            definition,
            node: agent_id,
            selectors,
            attested_at,
            task,
            window,
            duration,
            ticket,
            approver,
            approval,
        } = question;
        let about = self.people.workload_facts(&request.workload);
        let agent = state.agent(agent_id);
        let given = task.map(|task| task.approvals.as_slice()).unwrap_or_default();
        let approvals = given.iter().map(|given| Approval {
            by: Person {
                id: given.person.clone(),
                groups: given.groups.clone(),
                key: Some(given.authenticated_as.clone()),
            },
            at: given.at,
        });
        Facts {
            phase,
            now,
            trust_domain: state.trust_domain().clone(),
            definition: Pinned::new(definition.definition.clone()),
            process: Process {
                id: request.workload.clone(),
                actor: request.actor,
                team: about.team,
                environment: about.environment,
                owner: request.owner.clone(),
                node: Node {
                    id: agent_id.clone(),
                    banned: agent.is_none_or(|agent| agent.banned),
                    attested_at: agent.map_or(Timestamp::default(), |agent| agent.attested_at),
                },
                selectors: selectors.clone(),
                attested_at,
            },
            person: request.person.clone().map(|id| Person {
                groups: self.people.groups_of(&id),
                key: key_of(request),
                id,
            }),
            scopes: request.scopes.clone(),
            duration,
            reason_length: u32::try_from(request.reason.len()).unwrap_or(u32::MAX),
            parameters: request.parameters.clone(),
            ticket,
            approvals: approvals.chain(approval).collect(),
            usage: usage(state, request, definition, task, window, now),
            approver,
            window: window.map(|window| OpenWindow {
                opened_at: window.opened_at,
                renewed_at: window
                    .issuances
                    .last()
                    .map_or(window.opened_at, |issuance| issuance.not_before.max(window.opened_at)),
            }),
        }
    }

    /// The ticket as the tracker sees it now; none if the request has none.
    pub(super) async fn ticket(&self, request: &TaskRequest) -> Option<Ticket> {
        let reference = request.ticket.as_deref()?;
        let found = self.tickets.check(reference).await;
        let over = found.expires.is_some_and(|end| end <= self.now());
        Some(Ticket {
            open: found.present && found.open && !over,
            kind: found.kind,
            owner: found.owner.and_then(|owner| owner.parse().ok()),
        })
    }

    /// What kind of principal a process of `uid` is, and the person behind it.
    pub(super) fn principal(
        &self,
        uid: u32,
        definition: &DefinitionVersion,
    ) -> (ActorClass, Option<mayfly_model::task::PersonId>) {
        let person = self.people.person_of_uid(uid);
        // Services may run as a user who is also a person; only what is for people makes one of it.
        let actor = match (&person, definition.definition.actor) {
            (Some(_), ActorClass::Human) => ActorClass::Human,
            _ => ActorClass::Workload,
        };
        (actor, person.map(|person| person.id))
    }
}

/// What the person behind a process proved themselves with, in the words of those who approve: the user that the process
/// runs as. Who has the same by now is the same, whatever name the configuration gives them since.
fn key_of(request: &TaskRequest) -> Option<String> {
    let users = request.selectors.iter().map(ToString::to_string);
    let uid = users.filter_map(|selector| selector.strip_prefix("unix:uid:").map(str::to_owned));
    uid.map(|uid| format!("uid:{uid}")).next()
}

/// What was used of the task before. It is counted with each commit, so this costs the same however much there is.
pub(super) fn usage(
    state: &Snapshot,
    request: &TaskRequest,
    definition: &DefinitionVersion,
    task: Option<&Task>,
    window: Option<&Window>,
    now: Timestamp,
) -> Usage {
    let (name, workload) = (&request.task, &request.workload);
    let windows = state.windows_of(name, workload);
    // The one that it is about does not count.
    let its = match window.map(|window| window.stage) {
        None | Some(Stage::Settled) => (0, 0),
        Some(stage) if stage.is_live_window() => (1, 0),
        Some(_) => (0, 1),
    };
    let mut usage = Usage {
        open_windows: windows.open.saturating_sub(its.0),
        unsettled: windows.unsettled.saturating_sub(its.1),
        reviews_due: state.reviews_due(name),
        same_day: state.same_day_of(name, workload, now),
        previous_approvers: BTreeSet::new(),
    };
    if definition.definition.class == TaskClass::Breakglass {
        // The last period is the one that was opened last, however old the request for it was.
        let previous = state.last_used(name, task.map(|task| &task.id));
        let approvals = previous
            .map(|previous| previous.approvals.as_slice())
            .unwrap_or_default();
        usage.previous_approvers = approvals.iter().map(|approval| approval.person.clone()).collect();
    }
    usage
}

#[cfg(test)]
mod tests;
