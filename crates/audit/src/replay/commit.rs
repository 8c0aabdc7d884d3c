//! What has to be in one commit, compared when it is complete.

use std::collections::BTreeMap;

use super::Replay;
use super::body::{Decided, Decision, read};
use super::state::Stray;
use crate::{Entry, Invariant};

/// What the present commit has said.
#[derive(Debug, Default)]
pub(super) struct Commit {
    decided: Vec<Verdict>,
    due: Vec<Due>,
    /// Requests of which nothing can come: their decision may follow them.
    pub(super) refused: Vec<String>,
    /// A second person agreed to a change: who proposed it, and who agreed.
    pub(super) agreed: Option<(serde_json::Value, serde_json::Value)>,
    /// SVIDs of tasks that are to be signed, by serial number.
    pub(super) intended: BTreeMap<String, TaskSvid>,
    /// SVIDs that windows have recorded, by serial number.
    pub(super) recorded: BTreeMap<String, TaskSvid>,
}

#[derive(Debug)]
struct Verdict {
    subject: String,
    verdict: String,
    /// None if what it was taken on is not known here.
    phase: Option<String>,
    policy: String,
    inputs: String,
}

/// A step that needs a decision.
#[derive(Debug)]
struct Due {
    index: u64,
    subject: String,
    kind: String,
    phase: &'static str,
    /// That it waits for something is good enough.
    may_wait: bool,
    policy: String,
    inputs: String,
}

/// One SVID, as an intent or as a window says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TaskSvid {
    pub(super) index: u64,
    pub(super) time: i64,
    pub(super) spiffe_id: String,
    pub(super) not_after: i64,
    pub(super) key: String,
    pub(super) authority: String,
    pub(super) window: Option<String>,
}

impl Commit {
    /// The step of this entry needs a decision of `phase` that allows it.
    pub(super) fn needs(&mut self, entry: &Entry, phase: &'static str, may_wait: bool, decision: &Decision) {
        self.due.push(Due {
            index: entry.index,
            subject: entry.subject.clone(),
            kind: entry.kind.clone(),
            phase,
            may_wait,
            policy: decision.policy_digest.clone(),
            inputs: decision.inputs_digest.clone(),
        });
    }
}

impl Due {
    fn is_met_by(&self, verdict: &Verdict) -> bool {
        verdict.subject == self.subject
            && (verdict.verdict == "allow" || self.may_wait && verdict.verdict == "wait")
            && verdict.policy == self.policy
            && verdict.inputs == self.inputs
            && verdict.phase.as_deref().is_none_or(|phase| phase == self.phase)
    }
}

impl Replay {
    pub(super) fn take_decision(&mut self, entry: &Entry) -> Result<(), String> {
        let Decided { facts, decision } = read(entry)?;
        self.decisions += 1;
        self.take_hidden_facts(entry, &facts);
        let is_error = |id: &str| id == "engine-error" || id.starts_with("input-");
        if let Some(error) = decision.reasons.iter().find(|reason| is_error(&reason.id))
            && decision.verdict != "deny"
        {
            let message = format!(
                "the decision has the error `{}` and is `{}`",
                error.id, decision.verdict
            );
            self.violate(Invariant::I8, entry.index, message);
        }
        let policy = self.policies.entry(decision.policy_digest.clone()).or_default();
        if policy.verdicts.is_empty() {
            policy.first_at = entry.time;
        }
        policy.last_at = entry.time;
        *policy.verdicts.entry(decision.verdict.clone()).or_default() += 1;
        if decision.verdict == "deny" {
            for reason in &decision.reasons {
                *self.reasons.entry(reason.id.clone()).or_default() += 1;
            }
        }
        let groups = facts["person"]["groups"].as_array();
        if let (Some(groups), Some(request)) = (groups, self.requests.get_mut(&entry.subject)) {
            let groups = groups.iter().filter_map(|group| group.as_str().map(str::to_owned));
            request.person_groups.extend(groups);
        }
        self.commit.decided.push(Verdict {
            subject: entry.subject.clone(),
            verdict: decision.verdict,
            phase: facts["phase"].as_str().map(str::to_owned),
            policy: decision.policy_digest,
            inputs: decision.inputs_digest,
        });
        Ok(())
    }

    /// The commit is complete: what it needs is there, or is not.
    pub(super) fn end_commit(&mut self) {
        let commit = std::mem::take(&mut self.commit);
        for due in &commit.due {
            if !commit.decided.iter().any(|verdict| due.is_met_by(verdict)) {
                let message = format!("a `{}` of {} without a decision that allows it", due.kind, due.subject);
                self.violate(Invariant::I8, due.index, message);
            }
        }
        for (serial, svid) in &commit.intended {
            let problem = match commit.recorded.get(serial) {
                None => Some("belongs to no window".to_owned()),
                Some(other) => svid.difference(other),
            };
            if let Some(problem) = problem {
                let message = format!("the task SVID {serial} of {} {problem}", svid.spiffe_id);
                self.violate(Invariant::I1, svid.index, message);
                self.strays.push(Stray {
                    spiffe_id: svid.spiffe_id.clone(),
                    span: (svid.time, svid.not_after.saturating_add(1)),
                    index: svid.index,
                });
            }
        }
        for id in &commit.refused {
            self.forget_request(id);
        }
        for (serial, svid) in commit.recorded {
            if !commit.intended.contains_key(&serial) {
                let message = format!("a window has the SVID {serial}, of which the log says nothing else");
                self.violate(Invariant::I3, svid.index, message);
            }
        }
    }
}

impl TaskSvid {
    /// In what the window's word about an SVID differs from the intent.
    fn difference(&self, window: &Self) -> Option<String> {
        let differs = |what: &str, intent: &str, window: &str| {
            (intent != window).then(|| format!("has {what} {intent}, and its window says {window}"))
        };
        differs("the identity", &self.spiffe_id, &window.spiffe_id)
            .or_else(|| differs("the end", &self.not_after.to_string(), &window.not_after.to_string()))
            .or_else(|| differs("the key", &self.key, &window.key))
            .or_else(|| differs("the authority", &self.authority, &window.authority))
            .or_else(|| self.other_window(window))
    }

    fn other_window(&self, window: &Self) -> Option<String> {
        let word = |id: &Option<String>| id.as_ref().map_or("no window".into(), |id| format!("the window {id}"));
        let (named, other) = (word(&self.window), word(&window.window));
        (self.window != window.window).then(|| format!("names {named}, and {other} has it"))
    }
}
