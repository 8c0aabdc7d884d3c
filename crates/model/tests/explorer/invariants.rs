//! What must hold of every world, and of every way from one to the next.

use std::collections::BTreeSet;
use std::rc::Rc;

use mayfly_model::task::{CloseCause, SETTLE_LEEWAY, SettledBy, Stage, TaskStep, Window};
use mayfly_svid::Serial;

use crate::world::{Event, PEOPLE, Svid, World, at};

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    pub(crate) what: &'static str,
    pub(crate) detail: String,
}

fn must(holds: bool, what: &'static str, detail: impl FnOnce() -> String) -> Result<(), Broken> {
    if holds {
        return Ok(());
    }
    let detail = detail();
    Err(Broken { what, detail })
}

/// The order of the stages of a window, from which nothing goes back.
fn rank(stage: Stage) -> u8 {
    match stage {
        Stage::Open | Stage::Suspended => 0,
        Stage::Closing => 1,
        Stage::Closed => 2,
        Stage::RevocationIncomplete => 3,
        Stage::Settled => 4,
        other => unreachable!("{other:?} is no stage of a window"),
    }
}

impl World {
    /// Whether all holds now, and held on the way from `before` by `event`.
    pub(crate) fn check(&self, before: &Self, event: Event) -> Result<(), Broken> {
        self.check_svids()?;
        self.check_people()?;
        self.check_ends()?;
        self.check_policy(before, event)?;
        self.check_grant(before, event)?;
        let task = &self.store.task;
        must(task.windows.len() <= self.scenario.uses as usize, "I9", || {
            format!("{} windows of a grant for {}", task.windows.len(), self.scenario.uses)
        })?;
        must(before.store.task.stage <= task.stage, "I11", || {
            "a request went back".into()
        })?;
        must(before.store.epoch <= self.store.epoch, "I11", || {
            "an epoch went back".into()
        })?;
        for window in &task.windows {
            self.check_window(window)?;
        }
        for old in &before.store.task.windows {
            let new = task.window(&old.id);
            let new = new.ok_or_else(|| Broken {
                what: "I11",
                detail: "a window was forgotten while its task lives".into(),
            })?;
            check_way(old, new, event)?;
            if let Event::Renew(server, ..) | Event::Extend(server, _) | Event::Heartbeat(server, _) = event {
                // A window to which no sign of life came in time is on its way to its end, and gets nothing.
                let in_time = old.heartbeat_due.is_none_or(|due| before.clock(server) < due);
                must(new == old || in_time, "heartbeat", || {
                    format!("{event:?} after a sign of life was due")
                })?;
            }
            self.check_revoked(before, old, new, event)?;
            if old.stage != Stage::Settled && new.stage == Stage::Settled {
                self.check_settled(before, new, event)?;
            }
        }
        Ok(())
    }

    fn check_svids(&self) -> Result<(), Broken> {
        for svid in &self.svids {
            let window = self.store.task.window(&svid.window);
            let window = window.ok_or_else(|| Broken {
                what: "I1",
                detail: "an SVID without a window".into(),
            })?;
            must(svid.not_after < window.closes_at, "I2", || {
                "an SVID outlives its window".into()
            })?;
            must(self.store.logged.contains(svid), "I3", || {
                "signed and not logged".into()
            })?;
            must(self.store.keys[&svid.key] == svid.window, "I10", || {
                "a key of two windows".into()
            })?;
            if window.stage == Stage::Settled && window.residual.is_some() {
                let taken = self.consumers.taken_by(svid, window, self.now, self.scenario.unit);
                must(taken.is_none(), "settled", || {
                    format!("consumer {taken:?} takes an SVID of what is settled")
                })?;
            }
        }
        Ok(())
    }

    fn check_people(&self) -> Result<(), Broken> {
        let task = &self.store.task;
        if task.needs.approvals.is_empty() || (task.stage != Stage::Armed && task.windows.is_empty()) {
            return Ok(());
        }
        let people: BTreeSet<&str> = task.approvals.iter().map(|approval| approval.person.as_str()).collect();
        must(people.len() >= 2, "I4", || {
            format!("a grant with the approvals of {people:?}")
        })?;
        must(!people.contains("requester") && !people.contains("owner"), "I4", || {
            format!("one's own approval: {people:?}")
        })
    }

    /// Whoever wants to end a window can, whatever the clocks say; so can a server to which no sign of life came.
    fn check_ends(&self) -> Result<(), Broken> {
        for window in self.store.task.live_windows() {
            for (server, cause) in [(0, CloseCause::Revoked), (1, CloseCause::HeartbeatLost)] {
                let step = TaskStep::Close {
                    window: window.id,
                    cause,
                    detail: String::new(),
                };
                let next = self.would(server, &step);
                let is_over = next.is_some_and(|next| next.live_windows().all(|live| live.id != window.id));
                must(is_over, "I12", || format!("an end was refused: {cause:?}"))?;
            }
        }
        Ok(())
    }

    fn check_policy(&self, before: &Self, event: Event) -> Result<(), Broken> {
        let asks = matches!(
            event,
            Event::Approve(..) | Event::Open(..) | Event::Renew(..) | Event::Extend(..) | Event::Resume(..)
        );
        let changed = !Rc::ptr_eq(&before.store.task, &self.store.task);
        must(!(asks && changed && !before.policy_allows), "I8", || {
            format!("a refusal of policy gave something: {event:?}")
        })
    }

    /// A grant is opened in time, while those who agreed still do; what they agreed to is not made longer.
    fn check_grant(&self, before: &Self, event: Event) -> Result<(), Broken> {
        let old = &before.store.task;
        if Rc::ptr_eq(old, &self.store.task) {
            return Ok(());
        }
        if let Event::Open(server, _) = event {
            let now = before.clock(server);
            must(now <= old.grant.open_by, "I4", || "opened too late".into())?;
            let agree = old.approvals.iter().filter(|approval| approval.valid_until >= now);
            must(!self.scenario.approvals || agree.count() >= 2, "I4", || {
                "opened by old approvals".into()
            })?;
        }
        let is_longer = self.scenario.approvals && matches!(event, Event::Extend(..));
        must(!is_longer, "I4", || "longer than what people approved".into())
    }

    fn check_window(&self, window: &Window) -> Result<(), Broken> {
        must(
            window.closes_at <= window.opened_at.plus(self.scenario.longest()),
            "I2",
            || "a window longer than its definition".into(),
        )?;
        let beats = window.stage == Stage::Open && self.scenario.heartbeat;
        must(window.heartbeat_due.is_some() == beats, "heartbeat", || {
            format!(
                "a sign of life is due at {:?} of what is {:?}",
                window.heartbeat_due, window.stage
            )
        })?;
        if window.stage == Stage::Open {
            return Ok(());
        }
        // What left a server, or will yet, in any order of events is refused once its window is not open, or over by itself.
        for svid in self.of(window) {
            let counted = window.issuances.iter().find(|issuance| issuance.serial == svid.serial);
            let is_dead = match counted {
                Some(issuance) => issuance.revoked.is_some_and(|epoch| epoch <= self.store.epoch),
                None => at(self.now) > svid.not_after,
            };
            must(is_dead, "revoked", || {
                format!("an SVID survives its window, which is {:?}", window.stage)
            })?;
        }
        Ok(())
    }

    /// What is refused stays so: in the state, and for each consumer that knew.
    fn check_revoked(&self, before: &Self, old: &Window, new: &Window, event: Event) -> Result<(), Broken> {
        for was in old.issuances.iter().filter(|issuance| issuance.revoked.is_some()) {
            let still = match new.issuances.iter().find(|issuance| issuance.serial == was.serial) {
                Some(is) => is.revoked == was.revoked,
                None => at(self.now) > was.not_after,
            };
            must(still, "revoked", || format!("{event:?} took a revocation back"))?;
        }
        // Of an epoch that nobody can have passed: a consumer that heard of it has heard of all before it.
        let is_late = |epoch: Option<u64>| epoch.is_some_and(|epoch| epoch <= before.store.epoch);
        let was_revoked = |serial: &Serial| {
            old.issuances
                .iter()
                .any(|old| old.serial == *serial && old.revoked.is_some())
        };
        let news = new.issuances.iter().filter(|issuance| !was_revoked(&issuance.serial));
        let mut epochs = news
            .map(|issuance| issuance.revoked)
            .chain((new.epoch != old.epoch).then_some(new.epoch));
        must(!epochs.any(is_late), "revoked", || {
            format!("{event:?} revoked as of an epoch that was")
        })?;
        if let Event::RevokeSvid(server, number) = event
            && !Rc::ptr_eq(&before.store.task, &self.store.task)
            && before.window_of(server, number).id == old.id
        {
            let serial = before
                .window_of(server, number)
                .issuances
                .last()
                .map(|issuance| &issuance.serial);
            let meant = new.issuances.iter().find(|issuance| Some(&issuance.serial) == serial);
            let is_refused = meant.is_some_and(|issuance| issuance.revoked == Some(self.store.epoch));
            must(is_refused, "revoked", || "a revocation had no effect".into())?;
        }
        Ok(())
    }

    /// Nobody takes what is settled; or two people said that they answer for it.
    fn check_settled(&self, before: &Self, new: &Window, event: Event) -> Result<(), Broken> {
        match event {
            Event::Settle(server, _, SettledBy::Expired) => {
                // By true time, for consumers whose clocks are behind by what the server's is not ahead.
                let ahead = at(self.now + self.servers[server].skew.max(0));
                let over = |svid: &Svid| svid.not_after.plus(SETTLE_LEEWAY) < ahead && svid.not_after < at(self.now);
                must(self.of(new).all(over), "settled", || {
                    "not all SVIDs have expired".into()
                })
            }
            Event::Settle(_, _, SettledBy::Enforced) => {
                must(self.scenario.declared, "settled", || {
                    "nobody was declared who could enforce it".into()
                })?;
                let taken = |svid: &Svid| {
                    self.consumers
                        .taken_by(svid, new, self.now, self.scenario.unit)
                        .is_some()
                };
                must(!self.of(new).any(taken), "settled", || {
                    "a consumer does not refuse it".into()
                })
            }
            Event::AcceptRisk(..) => {
                let was = before.store.task.window(&new.id).map(|window| window.stage);
                must(was == Some(Stage::RevocationIncomplete), "risk", || {
                    "nothing was given up".into()
                })?;
                let who = self.accepted.iter().filter(|(window, _)| *window == new.id);
                let who: BTreeSet<&str> = who.map(|(_, person)| PEOPLE[*person]).collect();
                must(who.len() >= 2, "risk", || format!("accepted by {who:?} alone"))?;
                must(!who.contains("requester") && !who.contains("owner"), "risk", || {
                    format!("accepted by who asked for it: {who:?}")
                })
            }
            other => must(false, "settled", || format!("by {other:?}")),
        }
    }

    /// All of a window that the log has.
    fn of(&self, window: &Window) -> impl Iterator<Item = &Svid> {
        self.store.logged.iter().filter(|svid| svid.window == window.id)
    }
}

fn check_way(old: &Window, new: &Window, event: Event) -> Result<(), Broken> {
    let way = || format!("{event:?}: {:?} to {:?}", old.stage, new.stage);
    must(rank(new.stage) >= rank(old.stage), "I11", way)?;
    must(old.stage != Stage::Settled || new == old, "final", || {
        format!("{event:?} changed what is settled")
    })?;
    let may_move = matches!(event, Event::Extend(..)) && old.stage == Stage::Open;
    must(may_move || new.closes_at == old.closes_at, "I5", || {
        format!("{event:?} moved the end")
    })?;
    Ok(())
}
