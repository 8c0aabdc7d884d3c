//! The steps of windows: opened, renewed, extended, settled.

use std::collections::BTreeSet;
use std::time::Duration;

use mayfly_svid::{Timestamp, WindowId};

use super::Task;
use crate::task::{
    Acknowledged, CLOCK_SLACK, Decision, Event, Issuance, PersonId, RiskAccepted, SettledBy, Stage, TaskRefusal, Window,
};

/// SVIDs of a window that may still count. Who renews at half of the shortest life needs about a hundred, as each is kept
/// for [`CLOCK_SLACK`] more.
pub const ISSUANCES_MAX: usize = 128;
/// After so many SVIDs in short order, such as of an agent that lost the answers, they come at a pace.
const RENEWALS_AT_ONCE: u32 = 5;
/// The pace: so many in one life of an SVID. Agents renew at half of it.
const RENEWALS_PER_LIFE: u32 = 10;

impl Task {
    pub(super) fn open(&mut self, window: &Window, decision: &Decision, now: Timestamp) -> Result<(), TaskRefusal> {
        let event = if self.grant.uses_left <= 1 {
            Event::Consume
        } else {
            Event::Use
        };
        if self.grant.uses_left == 0 && self.stage == Stage::Armed {
            return Err(TaskRefusal::NoUsesLeft);
        }
        let next = self.stage.on(event)?;
        if now > self.grant.open_by {
            return Err(TaskRefusal::TooLate(self.grant.open_by));
        }
        if !self.is_approved(now) {
            return Err(TaskRefusal::ApprovalsMissing);
        }
        if window.opened_at > now || window.stage != Stage::Open || window.issuances.len() != 1 {
            return Err(TaskRefusal::OtherInstance);
        }
        let longest = self.request.window.min(self.grant.window_max);
        if window.closes_at > window.opened_at.plus(longest) || window.closes_at > now.plus(longest) {
            return Err(TaskRefusal::TooLong("the grant"));
        }
        if window
            .issuances
            .iter()
            .any(|issuance| issuance.not_after >= window.closes_at)
        {
            return Err(TaskRefusal::TooLong("the window"));
        }
        self.note_decision(decision)?;
        let mut window = window.clone();
        window.heartbeat_due = self.grant.heartbeat.map(|after| now.plus(after));
        self.windows.push(window);
        self.grant.uses_left -= 1;
        self.review_due |= self.grant.review;
        (self.stage, self.stage_since) = (next, now);
        Ok(())
    }

    pub(super) fn renew(
        &mut self,
        id: &WindowId,
        issuance: &Issuance,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<(), TaskRefusal> {
        self.note_decision(decision)?;
        let window = self.window_mut(id)?;
        window.stage = window.stage.on(Event::Renew)?;
        window.in_force(now)?;
        if issuance.not_after >= window.closes_at {
            return Err(TaskRefusal::TooLong("the window"));
        }
        window.may_renew(issuance.not_before, now)?;
        window.issuances.retain(|earlier| earlier.may_count(now));
        window.issuances.push(issuance.clone());
        window.issued += 1;
        Ok(())
    }

    pub(super) fn extend(
        &mut self,
        id: &WindowId,
        closes_at: Timestamp,
        decision: &Decision,
        now: Timestamp,
    ) -> Result<(), TaskRefusal> {
        if !self.needs.approvals.is_empty() {
            return Err(TaskRefusal::NeedsNewApproval);
        }
        self.note_decision(decision)?;
        let longest = self.grant.window_max;
        let window = self.window_mut(id)?;
        window.stage = window.stage.on(Event::Extend)?;
        window.in_force(now)?;
        if closes_at > window.opened_at.plus(longest) || closes_at <= window.closes_at {
            return Err(TaskRefusal::TooLong("the definition"));
        }
        window.closes_at = closes_at;
        Ok(())
    }

    pub(super) fn settle(
        &mut self,
        id: &WindowId,
        residual: u32,
        term: SettledBy,
        said: &[Acknowledged],
        now: Timestamp,
    ) -> Result<(), TaskRefusal> {
        let declared = self.grant.checkpoints.clone();
        let window = self.window_mut(id)?;
        let next = window.stage.on(Event::Settle)?;
        match term {
            SettledBy::Expired if now <= window.dead_by() => return Err(TaskRefusal::TooEarly(window.dead_by())),
            SettledBy::Expired => {}
            SettledBy::Enforced => window.enforced_by(&declared, said)?,
        }
        window.stage = next;
        window.settled_at = Some(now);
        window.residual = Some(residual);
        window.settled_by = Some(term);
        window.acknowledged = said.to_vec();
        window.issuances.retain(|issuance| issuance.may_count(now));
        Ok(())
    }

    /// The first who accepts the risk is kept, the second one settles it. Who asked for the window, or owns what did, is
    /// neither: they would answer for themselves.
    pub(super) fn accept_risk(
        &mut self,
        id: &WindowId,
        by: &PersonId,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), TaskRefusal> {
        if self.request.person.as_ref() == Some(by) || self.request.owner.as_ref() == Some(by) {
            return Err(TaskRefusal::SelfApproval(by.clone()));
        }
        let window = self.window_mut(id)?;
        let next = window.stage.on(Event::AcceptRisk)?;
        let accepted = RiskAccepted {
            by: by.clone(),
            reason: reason.into(),
            at: now,
        };
        match &window.risk {
            None => {
                window.detail = format!(
                    "{}; {by} accepts the risk: {reason}; another administrator has to agree",
                    window.detail
                );
                window.risk = Some(accepted);
            }
            Some(first) if first.by == *by => return Err(TaskRefusal::SecondPerson(by.clone())),
            Some(first) => {
                window.detail = format!("risk accepted by {}: {}; and by {by}: {reason}", first.by, first.reason);
                window.stage = next;
                window.settled_at = Some(now);
                window.risk_agreed = Some(accepted);
            }
        }
        Ok(())
    }
}

impl Window {
    /// A sign of life that is missed ends it as its time does: what comes later than that finds it over, also where nobody
    /// has ended it yet.
    pub(super) fn in_force(&self, now: Timestamp) -> Result<(), TaskRefusal> {
        let end = self.heartbeat_due.map_or(self.closes_at, |due| due.min(self.closes_at));
        if now >= end {
            return Err(TaskRefusal::TooLate(end));
        }
        Ok(())
    }

    /// Refuses every SVID that could still count, from `epoch` on.
    pub(super) fn revoke(&mut self, epoch: u64, now: Timestamp) {
        self.issuances.retain(|issuance| issuance.may_count(now));
        for issuance in &mut self.issuances {
            issuance.revoked.get_or_insert(epoch);
        }
        self.epoch = Some(epoch);
    }

    /// Whether it may have a further SVID that begins at `begin`: an agent that asks for one after the other gets some, and
    /// then one for each tenth of their life. They are all kept for as long as they may count, so there is a bound besides.
    ///
    /// # Errors
    /// Not yet.
    pub fn may_renew(&self, begin: Timestamp, now: Timestamp) -> Result<(), TaskRefusal> {
        let kept = self.issuances.iter().filter(|issuance| issuance.may_count(now));
        if kept.clone().count() >= ISSUANCES_MAX {
            let ends = kept.map(|issuance| issuance.not_after);
            let first = ends.min().unwrap_or(now).plus(CLOCK_SLACK);
            return Err(TaskRefusal::TooSoon(first.plus(Duration::from_secs(1))));
        }
        let Some(last) = self.issuances.last() else {
            return Ok(());
        };
        let pause = last.not_after.since(last.not_before) / RENEWALS_PER_LIFE * RENEWALS_AT_ONCE;
        // Some may have a later begin: the clock was set back since, which is no fault of who renews.
        let begins = kept
            .map(|issuance| issuance.not_before)
            .filter(|earlier| *earlier <= begin);
        let mut recent: Vec<Duration> = begins.map(|earlier| begin.since(earlier)).collect();
        recent.retain(|ago| *ago < pause);
        recent.sort_unstable();
        match recent.get(RENEWALS_AT_ONCE as usize - 1) {
            Some(ago) => Err(TaskRefusal::TooSoon(now.plus(pause - *ago))),
            None => Ok(()),
        }
    }

    /// Whether `said` shows that all of `declared` refuse it.
    fn enforced_by(&self, declared: &BTreeSet<String>, said: &[Acknowledged]) -> Result<(), TaskRefusal> {
        let epoch = self.epoch.unwrap_or(u64::MAX);
        let enforces = |name: &String| {
            let counts = |one: &Acknowledged| one.name == *name && one.consumers > 0 && one.epoch >= epoch;
            said.iter().any(counts)
        };
        if declared.is_empty() {
            return Err(TaskRefusal::TooEarly(self.dead_by()));
        }
        match declared.iter().find(|name| !enforces(name)) {
            Some(name) => Err(TaskRefusal::NotEnforced(name.clone())),
            None => Ok(()),
        }
    }
}
