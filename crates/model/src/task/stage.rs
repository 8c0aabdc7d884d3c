//! Where a request, its grant or one of its windows stands, and every step between two of these.
//!
//! ```text
//!   Submitted ─┬▶ Denied
//!              ├▶ AwaitingTicket ───┐
//!              ├▶ AwaitingApproval ─┼▶ Expired / Cancelled / Superseded
//!              └▶ Approved ─▶ Armed ─┬▶ Consumed                        (the grant)
//!                                    └▶ Lapsed / Withdrawn / Superseded
//!                             Open ⇄ Suspended ─▶ Closing ─▶ Closed ─▶ Settled        (each window)
//!                                                              └▶ RevocationIncomplete ─▶ Settled
//! ```
//!
//! No step leads back: "again" is a new request.

use serde::{Deserialize, Serialize};

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Asked for and not decided; never kept, as the decision is made before the commit.
    Submitted,
    /// Policy, an approver or a fault of the decision said no.
    Denied,
    /// Waits until the ticket is as the definition wants it.
    AwaitingTicket,
    /// Waits for people.
    AwaitingApproval,
    /// Waited too long.
    Expired,
    /// The requester or the owner took it back.
    Cancelled,
    /// A newer definition or request took its place; approvals count for nothing any more.
    Superseded,
    /// Allowed, on the way to being a grant; never kept.
    Approved,
    /// A grant: may be opened, if policy then still says so. It is eligibility and no authority.
    Armed,
    /// All uses of the grant are windows.
    Consumed,
    /// The grant was not opened in time.
    Lapsed,
    /// The grant was taken back.
    Withdrawn,
    /// The window is in force.
    Open,
    /// The window is stopped; its clock runs on.
    Suspended,
    /// The window has ended; the holder's node has not said yet that nothing is left.
    Closing,
    /// Nobody gets new authority from it.
    Closed,
    /// Old authority is shown dead: expired, or refused wherever it was declared.
    Settled,
    /// Old authority could not be shown dead in time. Tried for ever; blocks what waits for settlement.
    RevocationIncomplete,
}

/// What happens to it. Numbers are those of the transitions in the task model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// T2, T7: it is refused.
    Refuse,
    /// T3: the ticket is not as it has to be, and can become so.
    WantTicket,
    /// T4: people have to agree.
    WantApproval,
    /// T5, T6: nothing is missing.
    Permit,
    /// T8: it waited too long.
    Expire,
    /// T9: it is taken back.
    Cancel,
    /// T10: something newer is in its place.
    Supersede,
    /// T11: the grant is made.
    Arm,
    /// T12: the time to open is over.
    Lapse,
    /// T13: the grant is taken back.
    Withdraw,
    /// T14, not the last use: the grant opens a window and stays.
    Use,
    /// T14, the last use: the grant opens a window and is used up.
    Consume,
    /// T15: a further SVID.
    Renew,
    /// T16: the end moves, within the definition.
    Extend,
    /// T19: stopped for now.
    Suspend,
    /// T20: goes on.
    Resume,
    /// T21 to T28: ends, for whatever cause.
    Close,
    /// T30: the holder has nothing any more.
    Confirm,
    /// T31, T33: old authority is shown dead.
    Settle,
    /// T32: it could not be shown in time.
    GiveUp,
    /// T33: somebody with the admin role accepts, in writing, that it cannot be shown.
    AcceptRisk,
}

/// A step that there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is {from:?} cannot {event:?}")]
pub struct NoSuchStep {
    /// Where it stood.
    pub from: Stage,
    /// What should have happened.
    pub event: Event,
}

impl Stage {
    /// Every stage, for tests and tables.
    pub const ALL: [Self; 18] = [
        Self::Submitted,
        Self::Denied,
        Self::AwaitingTicket,
        Self::AwaitingApproval,
        Self::Expired,
        Self::Cancelled,
        Self::Superseded,
        Self::Approved,
        Self::Armed,
        Self::Consumed,
        Self::Lapsed,
        Self::Withdrawn,
        Self::Open,
        Self::Suspended,
        Self::Closing,
        Self::Closed,
        Self::Settled,
        Self::RevocationIncomplete,
    ];

    /// Where it stands after `event`.
    ///
    /// # Errors
    /// There is no such step; nothing changes.
    pub fn on(self, event: Event) -> Result<Self, NoSuchStep> {
        use Event as E;
        Ok(match (self, event) {
            (Self::Submitted | Self::AwaitingTicket | Self::AwaitingApproval, E::Refuse) => Self::Denied,
            (Self::Submitted, E::WantTicket) => Self::AwaitingTicket,
            (Self::Submitted | Self::AwaitingTicket, E::WantApproval) => Self::AwaitingApproval,
            (Self::Submitted | Self::AwaitingTicket | Self::AwaitingApproval, E::Permit) => Self::Approved,
            (Self::AwaitingTicket | Self::AwaitingApproval, E::Expire) => Self::Expired,
            (Self::AwaitingTicket | Self::AwaitingApproval, E::Cancel) => Self::Cancelled,
            (Self::AwaitingTicket | Self::AwaitingApproval | Self::Armed, E::Supersede) => Self::Superseded,
            (Self::Approved, E::Arm) => Self::Armed,
            (Self::Armed, E::Lapse) => Self::Lapsed,
            (Self::Armed, E::Withdraw) => Self::Withdrawn,
            (Self::Armed, E::Use) => Self::Armed,
            (Self::Armed, E::Consume) => Self::Consumed,
            (Self::Open, E::Renew | E::Extend) => Self::Open,
            (Self::Open, E::Suspend) => Self::Suspended,
            (Self::Suspended, E::Resume) => Self::Open,
            (Self::Open | Self::Suspended, E::Close) => Self::Closing,
            (Self::Closing, E::Confirm) => Self::Closed,
            (Self::Closed | Self::RevocationIncomplete, E::Settle) => Self::Settled,
            (Self::Closed, E::GiveUp) => Self::RevocationIncomplete,
            (Self::RevocationIncomplete, E::AcceptRisk) => Self::Settled,
            (from, event) => return Err(NoSuchStep { from, event }),
        })
    }

    /// Whether nothing can happen any more.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Denied
                | Self::Expired
                | Self::Cancelled
                | Self::Superseded
                | Self::Consumed
                | Self::Lapsed
                | Self::Withdrawn
                | Self::Settled
        )
    }

    /// Whether a request waits for somebody.
    pub fn is_waiting(self) -> bool {
        matches!(self, Self::AwaitingTicket | Self::AwaitingApproval)
    }

    /// Whether a window could still be renewed or resumed.
    pub fn is_live_window(self) -> bool {
        matches!(self, Self::Open | Self::Suspended)
    }

    /// The word for it in answers and tables.
    pub fn word(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Denied => "denied",
            Self::AwaitingTicket => "awaiting_ticket",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Superseded => "superseded",
            Self::Approved => "approved",
            Self::Armed => "armed",
            Self::Consumed => "consumed",
            Self::Lapsed => "lapsed",
            Self::Withdrawn => "withdrawn",
            Self::Open => "open",
            Self::Suspended => "suspended",
            Self::Closing => "closing",
            Self::Closed => "closed",
            Self::Settled => "settled",
            Self::RevocationIncomplete => "revocation_incomplete",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 21] = [
        Event::Refuse,
        Event::WantTicket,
        Event::WantApproval,
        Event::Permit,
        Event::Expire,
        Event::Cancel,
        Event::Supersede,
        Event::Arm,
        Event::Lapse,
        Event::Withdraw,
        Event::Use,
        Event::Consume,
        Event::Renew,
        Event::Extend,
        Event::Suspend,
        Event::Resume,
        Event::Close,
        Event::Confirm,
        Event::Settle,
        Event::GiveUp,
        Event::AcceptRisk,
    ];

    #[test]
    fn what_is_final_stays_and_the_rest_has_a_way_on() {
        for stage in Stage::ALL {
            let steps = EVENTS.iter().filter(|event| stage.on(**event).is_ok()).count();
            assert_eq!(steps == 0, stage.is_final(), "{stage:?}");
        }
    }

    #[test]
    fn no_way_leads_back() {
        // What lies behind a stage never reaches it again; only Open and Suspended alternate.
        for start in Stage::ALL {
            let mut seen: Vec<Stage> = vec![];
            let mut next = vec![start];
            while let Some(stage) = next.pop() {
                for event in EVENTS {
                    if let Ok(to) = stage.on(event)
                        && to != stage
                        && !seen.contains(&to)
                    {
                        seen.push(to);
                        next.push(to);
                    }
                }
            }
            let returns = matches!(start, Stage::Open | Stage::Suspended);
            assert_eq!(seen.contains(&start), returns, "{start:?}");
        }
    }

    #[test]
    fn the_whole_table() {
        let mut table = String::new();
        for stage in Stage::ALL {
            for event in EVENTS {
                if let Ok(to) = stage.on(event) {
                    table += &format!("{} {event:?} {}\n", stage.word(), to.word());
                }
            }
        }
        assert_eq!(table, include_str!("testdata/stages.txt"));
    }
}
