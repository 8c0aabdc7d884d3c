//! Windows: opened, renewed, stopped, ended, settled.

use serde_json::Value;

use super::body::{Issuance, OfWindow, Opened, OpenedWindow, read};
use super::commit::TaskSvid;
use super::state::{Acknowledgement, Definition, Ended, Request, Settled, Stage, Svid, Window};
use super::{Replay, short};
use crate::{Entry, Invariant};

/// What would be a word of somebody whose agreement an end waited for.
const CONSENT: [&str; 3] = ["approval", "approvals", "proposal"];

impl Replay {
    pub(super) fn take_window(&mut self, entry: &Entry) -> Result<(), String> {
        if entry.kind == "window.opened" {
            return self.take_opened(entry);
        }
        let body: OfWindow = read(entry)?;
        match entry.kind.as_str() {
            "window.closing" => self.take_closing(entry, body),
            "window.closed"
            | "window.settled"
            | "window.revocation_incomplete"
            | "window.risk_proposed"
            | "window.risk_accepted" => self.take_after_end(entry, body),
            _ => self.take_step(entry, body),
        }
        Ok(())
    }

    fn take_opened(&mut self, entry: &Entry) -> Result<(), String> {
        let Opened {
            window: found,
            decision,
        } = read(entry)?;
        self.commit.needs(entry, "open", false, &decision);
        if self.windows.contains_key(&found.id) || self.gone.contains(&short(&found.id)) {
            self.violate(
                Invariant::I11,
                entry.index,
                format!("the window {} is opened a second time", found.id),
            );
            return Ok(());
        }
        let Some(request) = self.requests.get_mut(&entry.subject) else {
            self.no_such_request(entry);
            return Ok(());
        };
        let definition = self.definitions.get(&request.definition);
        let stage = request.stage;
        request.opened += 1;
        request.unsettled += 1;
        let is_breakglass = definition.is_some_and(|definition| definition.is_breakglass);
        request.review_due |= is_breakglass;
        if definition.is_some_and(|definition| definition.max_uses.is_some_and(|most| request.opened >= most)) {
            request.stage = Stage::Consumed;
        }
        let request = request.clone();
        let mut problems = problems_of_opening(entry, &found, &request, definition, stage);
        problems.extend(self.problems_around_opening(&found, &request));
        for (invariant, problem) in problems {
            self.violate(invariant, entry.index, format!("the window {} {problem}", found.id));
        }
        if let Some(hash) = self.in_force.get(&request.task)
            && let Some(definition) = self.definitions.get_mut(hash)
        {
            definition.used_at = Some(entry.time);
        }
        let definition = self.definitions.get(&request.definition);
        let window = Window {
            id: found.id.clone(),
            request: entry.subject.clone(),
            task: request.task.clone(),
            workload: request.workload.clone(),
            agent_id: found.instance.agent_id.clone(),
            spiffe_id: found.spiffe_id.clone(),
            is_breakglass,
            owner: definition.map_or(Value::Null, |definition| definition.owner.clone()),
            person: request.person.clone(),
            checkpoints: definition
                .map(|definition| definition.checkpoints.clone())
                .unwrap_or_default(),
            is_approved: !request.needs.approvals.is_empty(),
            opened_at: found.opened_at,
            index: entry.index,
            asked: request.seconds,
            closes_at: found.closes_at,
            extensions: vec![],
            issued: 0,
            last_not_after: found.opened_at,
            svids: vec![],
            counted: vec![],
            stops: vec![],
            ended: None,
            confirmed_at: None,
            incomplete: None,
            risk_by: None,
            settled: None,
        };
        let holder = (window.workload.clone(), window.task.clone());
        self.by_holder.entry(holder).or_default().insert(found.id.clone());
        self.windows.insert(found.id.clone(), window);
        if found.issuances.len() != 1 {
            let message = format!("the window {} is opened with {} SVIDs", found.id, found.issuances.len());
            self.violate(Invariant::I1, entry.index, message);
        }
        for issuance in found.issuances {
            self.issued(entry, &found.id, issuance);
        }
        Ok(())
    }

    /// What does not fit what else there is.
    fn problems_around_opening(&self, found: &OpenedWindow, request: &Request) -> Vec<(Invariant, String)> {
        let mut problems = vec![];
        let mut refuse = |invariant, problem: &str| problems.push((invariant, problem.to_owned()));
        match self.agents.get(&found.instance.agent_id) {
            None => refuse(Invariant::I1, "is on a node that the log does not know"),
            Some(true) => refuse(Invariant::I1, "is on a node that is banned"),
            Some(false) => {}
        }
        if let Some(definition) = self.definitions.get(&request.definition) {
            if self.in_force.get(&request.task) != Some(&request.definition) {
                refuse(
                    Invariant::I8,
                    "is opened under a definition that is not in force any more",
                );
            }
            let holder = (request.workload.clone(), request.task.clone());
            let ids = self.by_holder.get(&holder).into_iter().flatten();
            let same: Vec<&Window> = ids.filter_map(|id| self.windows.get(id)).collect();
            let open = same.iter().filter(|window| window.is_live()).count() as u64;
            if definition.concurrency.is_some_and(|most| open >= most) {
                refuse(Invariant::I9, "is one too many at a time");
            }
            if definition.settle_before_next && same.iter().any(|window| !window.is_live()) {
                refuse(
                    Invariant::I11,
                    "is opened before the last one is settled, which its definition rules out",
                );
            }
        }
        if let Some(parent) = &request.parent {
            let above = self
                .windows
                .values()
                .find(|window| window.request == *parent && window.is_live());
            let scopes = self.requests.get(parent).map(|request| &request.scopes);
            let is_part = above.is_some_and(|above| found.closes_at <= above.closes_at)
                && scopes.is_some_and(|scopes| request.scopes.is_subset(scopes));
            if !is_part {
                refuse(Invariant::I6, "is no part of the window that it is derived from");
            }
        }
        problems
    }

    /// A further step of a window that is in force.
    fn take_step(&mut self, entry: &Entry, body: OfWindow) {
        let needs_none = self
            .requests
            .get(&entry.subject)
            .is_none_or(|request| request.needs.approvals.is_empty());
        let definition = self
            .requests
            .get(&entry.subject)
            .and_then(|request| self.definitions.get(&request.definition));
        let longest = definition.and_then(|definition| definition.max_window);
        let Some(window) = self.live_window(entry, &body.window) else {
            return;
        };
        let mut problems = vec![];
        let is_stopped = window.stops.last().is_some_and(|(_, end)| end.is_none());
        let is_over = entry.time >= window.closes_at;
        match entry.kind.as_str() {
            "window.renewed" => {
                if is_stopped || is_over {
                    problems.push((Invariant::I1, "is renewed although it is stopped or over"));
                }
                if body.closes_at.is_some_and(|closes_at| closes_at != window.closes_at) {
                    problems.push((Invariant::I5, "is renewed, and that moves its end"));
                }
            }
            "window.extended" => {
                let closes_at = body.closes_at.unwrap_or(window.closes_at);
                if !needs_none {
                    problems.push((Invariant::I5, "is extended although people approved it as it is"));
                }
                if is_over || closes_at <= window.closes_at {
                    problems.push((Invariant::I5, "is extended when it is over, or to an earlier end"));
                }
                if longest.is_some_and(|longest| closes_at > window.opened_at.saturating_add(longest)) {
                    problems.push((Invariant::I5, "is extended to more than its definition allows"));
                }
                window.closes_at = closes_at;
                window.extensions.push(entry.index);
            }
            "window.suspended" => {
                window.stops.push((entry.time, None));
                revoke(window, entry.time);
            }
            "window.resumed" => {
                if !is_stopped || is_over {
                    problems.push((Invariant::I11, "goes on although it was not stopped, or is over"));
                }
                if let Some(stop) = window.stops.last_mut() {
                    stop.1.get_or_insert(entry.time);
                }
            }
            _ if is_over => problems.push((Invariant::I11, "has a sign of life although it is over")),
            _ => {}
        }
        for (invariant, problem) in problems {
            self.violate(invariant, entry.index, format!("the window {} {problem}", body.window));
        }
        let phase = match entry.kind.as_str() {
            "window.renewed" => "renew",
            "window.extended" => "extend",
            "window.resumed" => "sweep",
            _ => return,
        };
        self.commit
            .needs(entry, phase, false, &body.decision.unwrap_or_default());
        match body.issuance {
            Some(issuance) => self.issued(entry, &body.window, issuance),
            None if phase == "renew" => {
                self.violate(
                    Invariant::I1,
                    entry.index,
                    format!("the window {} is renewed without an SVID", body.window),
                );
            }
            None => {}
        }
    }

    /// The window with this ID, which has to be in force; it is a violation if it is not.
    pub(super) fn live_window(&mut self, entry: &Entry, id: &str) -> Option<&mut Window> {
        let (invariant, problem) = match self.windows.get(id) {
            Some(window) if window.request != entry.subject => (Invariant::I1, "is of another request"),
            Some(window) if window.ended.is_some() => (Invariant::I11, "has ended"),
            Some(_) => return self.windows.get_mut(id),
            None if self.gone.contains(&short(id)) => (Invariant::I11, "is settled"),
            None => (Invariant::I1, "was never opened"),
        };
        self.violate(
            invariant,
            entry.index,
            format!("a `{}` of the window {id}, which {problem}", entry.kind),
        );
        None
    }

    fn issued(&mut self, entry: &Entry, id: &str, issuance: Issuance) {
        let Some(window) = self.windows.get_mut(id) else { return };
        let Issuance {
            serial,
            public_key_sha256,
            not_after,
            authority_id,
        } = issuance;
        window.issued += 1;
        window.last_not_after = window.last_not_after.max(not_after);
        window.svids.push(Svid {
            serial: serial.clone(),
            from: entry.time,
            not_after,
            revoked_at: None,
            is_void: false,
        });
        let svid = TaskSvid {
            index: entry.index,
            time: entry.time,
            spiffe_id: window.spiffe_id.clone(),
            not_after,
            key: public_key_sha256,
            authority: authority_id,
            window: Some(id.to_owned()),
        };
        if not_after >= window.closes_at {
            let message = format!("the SVID {serial} lives longer than the window {id}");
            self.violate(Invariant::I2, entry.index, message);
        }
        if self.commit.recorded.insert(serial.clone(), svid).is_some() {
            self.violate(
                Invariant::I1,
                entry.index,
                format!("the SVID {serial} belongs to two windows"),
            );
        }
    }

    fn take_closing(&mut self, entry: &Entry, body: OfWindow) {
        let consents = CONSENT.iter().any(|name| !entry.field(name).is_null());
        let Some(window) = self.live_window(entry, &body.window) else {
            return;
        };
        revoke(window, entry.time);
        window.ended = Some(Ended {
            at: entry.time,
            index: entry.index,
            cause: body.cause.unwrap_or_default(),
            epoch: body.epoch,
        });
        if body.epoch.is_none() {
            self.violate(
                Invariant::I11,
                entry.index,
                format!("the window {} ends without an epoch", body.window),
            );
        }
        if consents {
            let message = format!("the end of the window {} waited for somebody's agreement", body.window);
            self.violate(Invariant::I12, entry.index, message);
        }
    }

    /// What follows an end.
    fn take_after_end(&mut self, entry: &Entry, body: OfWindow) {
        let id = &body.window;
        let Some(window) = self.windows.get_mut(id) else {
            let (invariant, problem) = match self.gone.contains(&short(id)) {
                true => (Invariant::I11, "is settled already"),
                false => (Invariant::I1, "was never opened"),
            };
            self.violate(
                invariant,
                entry.index,
                format!("a `{}` of the window {id}, which {problem}", entry.kind),
            );
            return;
        };
        let (has_ended, is_confirmed) = (window.ended.is_some(), window.confirmed_at.is_some());
        let is_in_order = match entry.kind.as_str() {
            "window.closed" => has_ended && !is_confirmed,
            "window.revocation_incomplete" => is_confirmed && window.incomplete.is_none(),
            "window.risk_proposed" | "window.risk_accepted" => window.incomplete.is_some(),
            _ => is_confirmed,
        };
        let is_of_another = window.request != entry.subject;
        let is_enforced = body
            .term
            .as_ref()
            .map_or(!body.checkpoints.is_empty(), |term| term == "enforced");
        let epoch = window.ended.as_ref().and_then(|ended| ended.epoch).unwrap_or_default();
        let refuses = |name: &String| {
            body.checkpoints
                .iter()
                .any(|said| said.name == *name && said.epoch >= epoch)
        };
        let is_shown = entry.kind != "window.settled" || !is_enforced || window.checkpoints.iter().all(refuses);
        // It takes two people to accept it.
        let is_by_one = entry.kind == "window.risk_accepted"
            && (body.by.is_null() || window.risk_by.as_ref().is_none_or(|first| *first == body.by));
        match entry.kind.as_str() {
            "window.closed" => window.confirmed_at = Some(entry.time),
            "window.revocation_incomplete" => window.incomplete = Some((entry.time, entry.index)),
            "window.risk_proposed" => window.risk_by = Some(body.by),
            kind => {
                let acknowledged = body.checkpoints.into_iter().map(|acknowledged| Acknowledgement {
                    name: acknowledged.name,
                    consumers: acknowledged.consumers,
                    epoch: acknowledged.epoch,
                    at: acknowledged.at,
                });
                window.settled = Some(Settled {
                    at: entry.time,
                    index: entry.index,
                    residual: body.residual.unwrap_or_default(),
                    is_enforced,
                    checkpoints: acknowledged.collect(),
                    is_accepted_risk: kind == "window.risk_accepted",
                });
            }
        }
        let is_settled = window.settled.is_some();
        if !is_in_order || is_of_another {
            let message = format!(
                "a `{}` of the window {id} in a wrong place or of another request",
                entry.kind
            );
            self.violate(Invariant::I11, entry.index, message);
        }
        if !is_shown {
            let message = format!("the window {id} is settled by consumers that did not say that they refuse it");
            self.violate(Invariant::I11, entry.index, message);
        }
        if is_by_one {
            let message = format!("one person alone accepts that the end of the window {id} cannot be shown");
            self.violate(Invariant::I4, entry.index, message);
        }
        if is_settled {
            self.forget_window(id);
        }
    }

    fn forget_window(&mut self, id: &str) {
        let Some(mut window) = self.windows.remove(id) else {
            return;
        };
        self.gone.insert(short(id));
        let holder = (window.workload.clone(), window.task.clone());
        if let Some(ids) = self.by_holder.get_mut(&holder) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_holder.remove(&holder);
            }
        }
        if let Some(request) = self.requests.get_mut(&window.request) {
            request.unsettled = request.unsettled.saturating_sub(1);
        }
        self.forget_request(&window.request);
        if self.keeps_history {
            window.forget_svids();
            self.settled.push(window);
        }
    }
}

/// What is wrong with a window by itself, and beside its request and definition.
fn problems_of_opening(
    entry: &Entry,
    found: &OpenedWindow,
    request: &Request,
    definition: Option<&Definition>,
    stage: Stage,
) -> Vec<(Invariant, String)> {
    let mut problems = vec![];
    let mut refuse = |invariant, problem: &str| problems.push((invariant, problem.to_owned()));
    match stage {
        Stage::Armed => {}
        Stage::Consumed => refuse(Invariant::I9, "is opened by a grant that has no uses left"),
        _ => refuse(Invariant::I1, "is opened although its request is no grant"),
    }
    let end = |seconds: i64| found.opened_at.saturating_add(seconds);
    if found.closes_at > end(request.seconds) {
        refuse(Invariant::I2, "is longer than was asked for");
    }
    if found.opened_at > entry.time || found.closes_at <= found.opened_at {
        refuse(Invariant::I2, "is of the future, or over before it begins");
    }
    if !request.is_approved(entry.time) {
        refuse(Invariant::I4, "is opened without the people that it needs");
    }
    let base = request
        .workload
        .strip_prefix("spiffe://")
        .and_then(|rest| rest.split_once('/'));
    let (domain, path) = base.unwrap_or_default();
    let root = if definition.is_some_and(|definition| definition.is_breakglass) {
        "breakglass"
    } else {
        "task"
    };
    let expected = format!("spiffe://{domain}/{root}/{}/{path}", request.task);
    let has_id = found
        .spiffe_id
        .strip_prefix(&expected)
        .is_some_and(|rest| rest == format!("/w/{}", found.id));
    if found.spiffe_id != expected && !has_id {
        refuse(
            Invariant::I7,
            "gives an identity that is not that of its task and workload",
        );
    }
    let Some(definition) = definition else {
        return problems;
    };
    if definition
        .max_window
        .is_some_and(|longest| found.closes_at > end(longest))
    {
        refuse(Invariant::I2, "is longer than its definition allows");
    }
    if !request.scopes.is_subset(&definition.scopes) {
        refuse(Invariant::I6, "has scopes that its definition does not have");
    }
    let wants_people = definition.approvals > 0 || definition.sensitivity >= 2 || definition.is_breakglass;
    if wants_people && request.needs.approvals.is_empty() {
        refuse(Invariant::I4, "is opened without people, whom its definition wants");
    }
    problems
}

/// Nothing of it counts from now on.
fn revoke(window: &mut Window, now: i64) {
    for svid in &mut window.svids {
        svid.revoked_at.get_or_insert(now);
    }
}
