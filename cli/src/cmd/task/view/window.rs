//! How a window is shown, with its SVIDs and what its end came to.

use mayfly_proto::mayfly::task::{Acknowledged, RiskAccepted, Svid, Window};
use mayfly_svid::Timestamp;
use serde::Serialize;

use super::{At, seconds};
use crate::output::visible_line;

/// Authority in force, or that was.
#[derive(Debug, Serialize)]
pub(crate) struct WindowView {
    pub(crate) id: String,
    pub(crate) stage: String,
    pub(crate) spiffe_id: String,
    pub(crate) agent_id: String,
    pub(crate) pid: u32,
    pub(crate) opened_at: At,
    pub(crate) closes_at: At,
    pub(crate) cause: String,
    pub(crate) detail: String,
    pub(crate) closed_at: At,
    pub(crate) settled_at: At,
    residual_seconds: u32,
    epoch: u64,
    svids: u32,
    pub(crate) live_svids: Vec<SvidView>,
    pub(crate) waiting_for: Vec<String>,
    pub(crate) settled_by: String,
    acknowledged: Vec<AcknowledgedView>,
    pub(crate) risk_accepted: Vec<RiskView>,
}

/// What a checkpoint said of the end of a window.
#[derive(Debug, Serialize)]
pub(crate) struct AcknowledgedView {
    checkpoint: String,
    consumers: u32,
    epoch: u64,
    at: At,
}

/// Somebody who accepts that a window cannot be shown dead.
#[derive(Debug, Serialize)]
pub(crate) struct RiskView {
    person: String,
    reason: String,
    at: At,
}

/// A lease on a window.
#[derive(Debug, Serialize)]
pub(crate) struct SvidView {
    pub(crate) serial: String,
    pub(crate) not_before: At,
    pub(crate) not_after: At,
    pub(crate) ttl_term: String,
    pub(crate) authority_id: String,
}

// === impl WindowView ===

impl WindowView {
    pub(super) fn of(window: Window) -> Self {
        Self {
            id: window.id,
            stage: window.stage,
            spiffe_id: window.spiffe_id,
            agent_id: window.agent_id,
            pid: window.pid,
            opened_at: At::of(window.opened_at),
            closes_at: At::of(window.closes_at),
            cause: window.cause,
            detail: window.detail,
            closed_at: At::of(window.closed_at),
            settled_at: At::of(window.settled_at),
            residual_seconds: window.residual_seconds,
            epoch: window.epoch,
            svids: window.svids,
            live_svids: window.live_svids.into_iter().map(SvidView::of).collect(),
            waiting_for: window.waiting_for,
            settled_by: window.settled_by,
            acknowledged: window.acknowledged.into_iter().map(AcknowledgedView::of).collect(),
            risk_accepted: window.risk_accepted.into_iter().map(RiskView::of).collect(),
        }
    }

    /// Whether authority is in force by it, or not yet shown to be dead.
    pub(crate) fn is_live(&self) -> bool {
        self.settled_at.0.is_none()
    }

    /// When it ended, or will at the latest.
    pub(crate) fn ends(&self) -> Option<Timestamp> {
        self.closed_at.0.or(self.closes_at.0)
    }

    /// `completed: exit 0`, or nothing while it is open.
    pub(crate) fn ending(&self) -> String {
        match (self.cause.as_str(), self.detail.as_str()) {
            (cause, "") => cause.to_owned(),
            ("", detail) => visible_line(detail),
            (cause, detail) => format!("{cause}: {}", visible_line(detail)),
        }
    }

    pub(super) fn lines(&self, now: Timestamp) -> String {
        let mut lines = vec![
            format!("{} ({})", self.id, self.stage),
            format!("  {}", self.spiffe_id),
            format!("  process {} on {}", self.pid, self.agent_id),
        ];
        let mut times = format!("  opened {}", self.opened_at.relative(now));
        match (self.closed_at.0, self.closes_at.0) {
            (Some(_), _) => times.push_str(&format!(", closed {}", self.closed_at.relative(now))),
            (None, Some(_)) => times.push_str(&format!(", closes {}", self.closes_at.relative(now))),
            (None, None) => {}
        }
        lines.push(times);
        if !self.ending().is_empty() {
            lines.push(format!("  ended by {}", self.ending()));
        }
        match self.settled_at.0 {
            Some(_) => lines.push(self.settled_line(now)),
            None if self.closed_at.0.is_some() => lines.push("  not settled: an SVID could still count".to_owned()),
            None => {}
        }
        if !self.waiting_for.is_empty() {
            lines.push(format!(
                "  not acknowledged by {}",
                visible_line(&self.waiting_for.join(", "))
            ));
        }
        lines.extend(self.acknowledged.iter().map(|said| said.line(now)));
        lines.extend(self.risk_accepted.iter().map(|risk| risk.line(now)));
        if self.settled_at.0.is_none() && self.risk_accepted.len() == 1 {
            lines.push("  a second person with the admin role has to accept it as well".to_owned());
        }
        let plural = if self.svids == 1 { "" } else { "s" };
        // What a window that is not open had is refused, expired or not.
        let in_force = match self.stage.as_str() {
            "open" => self.live_svids.len(),
            _ => 0,
        };
        lines.push(format!("  {} SVID{plural}, {in_force} in force", self.svids));
        lines.join("\n")
    }
}

impl WindowView {
    /// When it was settled, and what shows that.
    fn settled_line(&self, now: Timestamp) -> String {
        let when = self.settled_at.relative(now);
        let residual = seconds(self.residual_seconds);
        match self.settled_by.as_str() {
            "accepted" => format!("  settled {when}: two people accepted that nothing shows it"),
            "enforced" => format!(
                "  settled {when} by its checkpoints, {residual} after the end, at epoch {}",
                self.epoch
            ),
            "expired" => format!("  settled {when} by time: its last SVID could count for {residual} after the end"),
            // A server that does not say it.
            _ => format!(
                "  settled {when}; an SVID could count for {residual} after the end, at epoch {}",
                self.epoch
            ),
        }
    }
}

// === impl AcknowledgedView ===

impl AcknowledgedView {
    fn of(said: Acknowledged) -> Self {
        Self {
            checkpoint: said.checkpoint,
            consumers: said.consumers,
            epoch: said.epoch,
            at: At::of(said.at),
        }
    }

    fn line(&self, now: Timestamp) -> String {
        let plural = if self.consumers == 1 { "" } else { "s" };
        visible_line(&format!(
            "    {}: {} consumer{plural} at epoch {}, {}",
            self.checkpoint,
            self.consumers,
            self.epoch,
            self.at.relative(now)
        ))
    }
}

// === impl RiskView ===

impl RiskView {
    fn of(risk: RiskAccepted) -> Self {
        Self {
            person: risk.person,
            reason: risk.reason,
            at: At::of(risk.at),
        }
    }

    fn line(&self, now: Timestamp) -> String {
        let when = self.at.relative(now);
        visible_line(&format!(
            "    {} accepted the risk {when}: {}",
            self.person, self.reason
        ))
    }
}

// === impl SvidView ===

impl SvidView {
    fn of(svid: Svid) -> Self {
        Self {
            serial: svid.serial,
            not_before: At::of(svid.not_before),
            not_after: At::of(svid.not_after),
            ttl_term: svid.ttl_term,
            authority_id: svid.authority_id,
        }
    }
}
