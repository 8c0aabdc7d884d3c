//! Requests: asked for, approved, refused, over.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::body::{Approved, DecidedAgain, Requested, read};
use super::state::{Approval, ApprovalRule, Request, Said, Stage};
use super::{Replay, short};
use crate::{Entry, Invariant};

impl Replay {
    pub(super) fn take_request(&mut self, entry: &Entry) -> Result<(), String> {
        match entry.kind.as_str() {
            "task.requested" => return self.take_requested(entry),
            "task.pruned" => return Ok(()),
            "task.superseded" => {
                // Also of requests that were forgotten here, as nothing could come of them.
                if let Some(request) = self.requests.get_mut(&entry.subject) {
                    request.stage = Stage::Superseded;
                }
                self.forget_request(&entry.subject);
                return Ok(());
            }
            _ => {}
        }
        if !self.requests.contains_key(&entry.subject) {
            self.no_such_request(entry);
            return Ok(());
        }
        match entry.kind.as_str() {
            "task.decided" => self.take_decided_again(entry)?,
            "task.approved" => self.take_approved(entry)?,
            "task.refused" => self.take_refused(entry),
            "task.reviewed" => self.take_reviewed(entry),
            "task.cancelled" => self.ends_request(entry, Stage::Cancelled, Stage::Withdrawn),
            _ => self.ends_request(entry, Stage::Expired, Stage::Lapsed),
        }
        self.forget_request(&entry.subject);
        Ok(())
    }

    pub(super) fn no_such_request(&mut self, entry: &Entry) {
        let (invariant, what) = match self.gone.contains(&short(&entry.subject)) {
            true => (Invariant::I11, "is over"),
            false => (Invariant::I1, "was never made"),
        };
        self.violate(
            invariant,
            entry.index,
            format!("a `{}` of the request {}, which {what}", entry.kind, entry.subject),
        );
    }

    fn take_requested(&mut self, entry: &Entry) -> Result<(), String> {
        let Requested {
            request: asked,
            digest,
            stage,
            needs,
            decisions,
        } = read(entry)?;
        let stage = Stage::of_word(&stage).ok_or_else(|| format!("`{stage}` is no stage of a new request"))?;
        let id = &entry.subject;
        if self.requests.contains_key(id) || self.gone.contains(&short(id)) {
            self.violate(
                Invariant::I11,
                entry.index,
                format!("the request {id} is made a second time"),
            );
            return Ok(());
        }
        let decision = decisions.last().cloned().unwrap_or_default();
        if stage != Stage::Denied {
            self.commit.needs(entry, "request", true, &decision);
            if !decision.allowed {
                self.violate(
                    Invariant::I8,
                    entry.index,
                    format!("the request {id} goes on although it was refused"),
                );
            }
        }
        if stage == Stage::Armed && needs.approvals.iter().any(|rule| rule.count > 0) {
            let message = format!("the request {id} is a grant at once although people have to agree");
            self.violate(Invariant::I4, entry.index, message);
        }
        let request = Request {
            id: id.clone(),
            index: entry.index,
            task: asked.task,
            definition: asked.definition,
            workload: asked.workload,
            person: asked.person,
            owner: asked.owner,
            person_groups: BTreeSet::new(),
            ticket: asked.ticket,
            reason: asked.reason,
            digest,
            scopes: asked.scopes,
            parent: asked.parent,
            seconds: asked.window.secs,
            requested_at: asked.requested_at,
            stage,
            waiting_since: entry.time,
            needs,
            approvals: vec![],
            refused: None,
            opened: 0,
            unsettled: 0,
            review_due: false,
            reviewed: None,
        };
        if stage == Stage::Denied {
            self.commit.refused.push(id.clone());
        }
        self.requests.insert(id.clone(), request);
        Ok(())
    }

    fn take_decided_again(&mut self, entry: &Entry) -> Result<(), String> {
        let DecidedAgain { decision, outcome } = read(entry)?;
        if outcome != "deny" {
            self.commit.needs(entry, "arm", true, &decision);
        }
        let request = self.requests.get_mut(&entry.subject).expect("looked up before");
        let before = request.stage;
        request.waiting_since = entry.time;
        request.stage = match outcome.as_str() {
            "deny" => Stage::Denied,
            "want_ticket" => Stage::AwaitingTicket,
            "want_approval" => Stage::AwaitingApproval,
            _ => Stage::Armed,
        };
        let is_approved = request.is_approved(entry.time);
        let is_armed = request.stage == Stage::Armed;
        if before != Stage::AwaitingTicket {
            let message = format!(
                "the request {} is decided anew although it waits for no ticket",
                entry.subject
            );
            self.violate(Invariant::I11, entry.index, message);
        }
        if is_armed && !is_approved {
            let message = format!(
                "the request {} becomes a grant without the people that it needs",
                entry.subject
            );
            self.violate(Invariant::I4, entry.index, message);
        }
        Ok(())
    }

    fn take_approved(&mut self, entry: &Entry) -> Result<(), String> {
        let Approved {
            approval,
            digest,
            decision,
        } = read(entry)?;
        self.commit.needs(entry, "arm", true, &decision);
        let request = self.requests.get_mut(&entry.subject).expect("looked up before");
        let mut problems = vec![];
        let (person, is_known) = (&approval.person, !approval.person.is_null());
        if !is_known || *person == request.person || *person == request.owner {
            problems.push("is by who asks, by who owns what asks, or by nobody");
        }
        if digest != request.digest {
            problems.push("is of another digest");
        }
        if request.stage != Stage::AwaitingApproval {
            problems.push("comes when nobody is asked");
        }
        if request
            .approvals
            .iter()
            .any(|other| other.person == *person && other.valid_until >= entry.time)
        {
            problems.push("is by somebody who has agreed already");
        }
        if request
            .needs
            .approvals
            .iter()
            .all(|rule| approval.groups.is_disjoint(&rule.groups))
        {
            problems.push("is by somebody who is in none of the groups that may");
        }
        request.approvals.retain(|other| other.person != *person);
        request.approvals.push(Approval {
            latency: approval.at.saturating_sub(request.waiting_since).max(0),
            person: approval.person,
            groups: approval.groups,
            at: approval.at,
            valid_until: approval.valid_until,
            index: entry.index,
        });
        if request.stage == Stage::AwaitingApproval && request.is_approved(entry.time) {
            request.stage = Stage::Armed;
        }
        for problem in problems {
            let message = format!("an approval of the request {} {problem}", entry.subject);
            self.violate(Invariant::I4, entry.index, message);
        }
        Ok(())
    }

    fn take_refused(&mut self, entry: &Entry) {
        let by = entry.field("by").clone();
        let request = self.requests.get_mut(&entry.subject).expect("looked up before");
        request.refused = Some(Said {
            by,
            at: entry.time,
            index: entry.index,
            latency: entry.time.saturating_sub(request.waiting_since),
        });
        self.ends_request(entry, Stage::Denied, Stage::Denied);
    }

    fn take_reviewed(&mut self, entry: &Entry) {
        let by = entry.field("by").clone();
        let request = self.requests.get_mut(&entry.subject).expect("looked up before");
        let approved = request.approvals.iter().any(|approval| approval.person == by);
        let is_own = by.is_null() || by == request.person || by == request.owner || approved;
        let was_due = std::mem::replace(&mut request.review_due, false);
        request.reviewed = Some(Said {
            by,
            at: entry.time,
            index: entry.index,
            latency: 0,
        });
        if is_own {
            let message = format!(
                "the use of {} is reviewed by who used it, or agreed to it",
                entry.subject
            );
            self.violate(Invariant::I4, entry.index, message);
        }
        if !was_due {
            let message = format!("{} is reviewed although no review is due", entry.subject);
            self.violate(Invariant::I11, entry.index, message);
        }
    }

    /// The end of a request that waits, or of a grant.
    fn ends_request(&mut self, entry: &Entry, waiting: Stage, armed: Stage) {
        let request = self.requests.get_mut(&entry.subject).expect("looked up before");
        let stage = request.stage;
        if stage.is_final() {
            let message = format!("a `{}` of the request {}, which has ended", entry.kind, entry.subject);
            self.violate(Invariant::I11, entry.index, message);
            return;
        }
        request.stage = if stage == Stage::Armed { armed } else { waiting };
    }

    /// A request of which nothing can come any more.
    pub(super) fn forget_request(&mut self, id: &str) {
        let is_over = |request: &Request| request.stage.is_final() && request.unsettled == 0 && !request.review_due;
        if !self.requests.get(id).is_some_and(is_over) {
            return;
        }
        if let Some(request) = self.requests.remove(id) {
            self.gone.insert(short(id));
            if self.keeps_history {
                self.over.push(request);
            }
        }
    }
}

impl Request {
    /// Whether the approvals that count at `now` are enough.
    pub(super) fn is_approved(&self, now: i64) -> bool {
        self.needs.approvals.iter().all(|rule| self.meets(rule, now))
    }

    /// A rule that is there wants at least one person, whatever number it states.
    fn meets(&self, rule: &ApprovalRule, now: i64) -> bool {
        let given: Vec<&Approval> = self
            .approvals
            .iter()
            .filter(|approval| approval.valid_until >= now && !approval.groups.is_disjoint(&rule.groups))
            .collect();
        let mut people: Vec<&Value> = vec![];
        for approval in &given {
            if !people.contains(&&approval.person) {
                people.push(&approval.person);
            }
        }
        let groups: Vec<Vec<&String>> = given
            .iter()
            .map(|approval| approval.groups.intersection(&rule.groups).collect())
            .collect();
        people.len() >= rule.count.max(1) as usize
            && groups_stood_for(&groups) >= rule.distinct_groups.unwrap_or(1) as usize
    }
}

/// For how many different groups these people can stand, each for one of theirs.
fn groups_stood_for(people: &[Vec<&String>]) -> usize {
    // Augmenting paths: whoever finds all of theirs taken asks the one who took it to stand for another.
    fn find<'a>(
        person: usize,
        people: &[Vec<&'a String>],
        taken: &mut BTreeMap<&'a String, usize>,
        asked: &mut BTreeSet<&'a String>,
    ) -> bool {
        for group in &people[person] {
            if !asked.insert(group) {
                continue;
            }
            let holder = taken.get(group).copied();
            if holder.is_none_or(|holder| find(holder, people, taken, asked)) {
                taken.insert(group, person);
                return true;
            }
        }
        false
    }
    let mut taken = BTreeMap::new();
    (0..people.len())
        .filter(|person| find(*person, people, &mut taken, &mut BTreeSet::new()))
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_person_stands_for_one_group() {
        let names = ["a", "b", "c"].map(str::to_owned);
        let [a, b, c] = &names;
        assert_eq!(groups_stood_for(&[vec![a, b]]), 1);
        assert_eq!(groups_stood_for(&[vec![a, b], vec![a]]), 2);
        assert_eq!(groups_stood_for(&[vec![a], vec![a]]), 1);
        assert_eq!(groups_stood_for(&[vec![a, b], vec![a, c], vec![a]]), 3);
        assert_eq!(groups_stood_for(&[]), 0);
    }
}
