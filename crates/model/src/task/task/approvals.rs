//! Who has to agree, and who did.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_svid::Timestamp;

use super::Task;
use crate::task::{Approval, ApprovalRule, Decision, Event, GroupId, NoSuchStep, RequestDigest, Stage, TaskRefusal};

impl Task {
    /// Approvals that still count at `now`.
    pub fn approvals_in_force(&self, now: Timestamp) -> impl Iterator<Item = &Approval> {
        self.approvals
            .iter()
            .filter(move |approval| approval.valid_until >= now)
    }

    /// Whether the approvals that count at `now` are enough.
    pub fn is_approved(&self, now: Timestamp) -> bool {
        self.needs.approvals.iter().all(|rule| self.meets(rule, now))
    }

    /// How many people of which groups are still missing at `now`, by the first rule that is not met.
    pub fn missing_approvals(&self, now: Timestamp) -> Option<(u32, &BTreeSet<GroupId>)> {
        let rule = self.needs.approvals.iter().find(|rule| !self.meets(rule, now))?;
        let given = self
            .approvals_in_force(now)
            .filter(|approval| !approval.groups.is_disjoint(&rule.groups));
        let missing = rule
            .count
            .saturating_sub(u32::try_from(given.count()).unwrap_or(u32::MAX));
        Some((missing.max(1), &rule.groups))
    }

    /// A rule that is there wants at least one person, whatever number it states.
    fn meets(&self, rule: &ApprovalRule, now: Timestamp) -> bool {
        let given = || {
            self.approvals_in_force(now)
                .filter(|approval| !approval.groups.is_disjoint(&rule.groups))
        };
        let groups: Vec<BTreeSet<&GroupId>> = given()
            .map(|approval| approval.groups.intersection(&rule.groups).collect())
            .collect();
        let sets: Vec<&BTreeSet<&GroupId>> = groups.iter().collect();
        let at_least = |count: usize, needed: u32| u32::try_from(count).is_ok_and(|count| count >= needed.max(1));
        at_least(given().count(), rule.count) && distinct_groups(&sets) >= rule.distinct_groups.unwrap_or(1)
    }

    /// `latest`, or the instant at which the approvals are no longer enough, if that is earlier.
    pub(super) fn opens_until(&self, latest: Timestamp) -> Timestamp {
        let mut ends: Vec<Timestamp> = self.approvals.iter().map(|approval| approval.valid_until).collect();
        ends.sort_unstable();
        // The first end after which they are not enough.
        let enough = ends.into_iter().take_while(|end| self.is_approved(*end)).last();
        match enough {
            Some(end) if !self.needs.approvals.is_empty() => end.min(latest),
            _ => latest,
        }
    }

    pub(super) fn approve(
        &mut self,
        approval: &Approval,
        digest: RequestDigest,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<(), TaskRefusal> {
        if self.stage != Stage::AwaitingApproval {
            return Err(NoSuchStep {
                from: self.stage,
                event: Event::Permit,
            }
            .into());
        }
        self.in_time(now)?;
        let person = &approval.person;
        if digest != self.digest {
            return Err(TaskRefusal::OtherDigest);
        }
        if self.request.person.as_ref() == Some(person) || self.request.owner.as_ref() == Some(person) {
            return Err(TaskRefusal::SelfApproval(person.clone()));
        }
        if self.approvals_in_force(now).any(|earlier| earlier.person == *person) {
            return Err(TaskRefusal::ApprovedAlready(person.clone()));
        }
        let rules = &self.needs.approvals;
        if rules.iter().all(|rule| approval.groups.is_disjoint(&rule.groups)) {
            return Err(TaskRefusal::NotAnApprover(person.clone()));
        }
        let longest = rules.iter().map(|rule| rule.valid_for).min().unwrap_or_default();
        if approval.valid_until > now.plus(longest) || approval.valid_until <= now {
            return Err(TaskRefusal::TooLong("approval.valid_for"));
        }
        self.note_decision(decision)?;
        // One that became too old gives way to the same person's new one.
        self.approvals.retain(|earlier| earlier.person != *person);
        self.approvals.push(approval.clone());
        if self.is_approved(now) { self.arm(now) } else { Ok(()) }
    }
}

/// In how many different groups these people are, if each stands for one of theirs: a largest matching.
pub fn distinct_groups(people: &[&BTreeSet<&GroupId>]) -> u32 {
    let mut holder = BTreeMap::new();
    let placed = (0..people.len()).filter(|person| place(*person, people, &mut holder, &mut BTreeSet::new()));
    u32::try_from(placed.count()).unwrap_or(u32::MAX)
}

/// Finds a group for `person`, and another one for who had it, and so on.
fn place<'a>(
    person: usize,
    people: &[&BTreeSet<&'a GroupId>],
    holder: &mut BTreeMap<&'a GroupId, usize>,
    seen: &mut BTreeSet<&'a GroupId>,
) -> bool {
    for group in people[person] {
        if !seen.insert(group) {
            continue;
        }
        let is_free = match holder.get(group).copied() {
            None => true,
            Some(other) => place(other, people, holder, seen),
        };
        if is_free {
            holder.insert(group, person);
            return true;
        }
    }
    false
}
