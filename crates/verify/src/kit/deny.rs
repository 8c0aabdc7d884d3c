//! What is revoked, and how long that word counts.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mayfly_svid::{Serial, Timestamp, WindowId};

use super::crl::Crls;

/// How long after its certificate's end an item is kept, for the sake of clocks that differ.
const KEPT_AFTER_END: Duration = Duration::from_secs(600);

/// Revoked windows and serial numbers. They are only added, and forgotten once nothing they name could count: what an
/// agent leaves out of a snapshot, because it was started anew and has not heard from its server yet, stays revoked.
#[derive(Debug, Default)]
pub(crate) struct Denied {
    windows: HashMap<WindowId, Timestamp>,
    serials: HashMap<Serial, Timestamp>,
    pub(crate) crls: Crls,
}

/// One window that has no authority any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revocation {
    /// None if only the SVIDs are refused and the window goes on.
    pub(crate) window: Option<WindowId>,
    pub(crate) serials: Vec<Serial>,
    pub(crate) not_after: Timestamp,
}

impl Denied {
    pub(crate) fn add(&mut self, revocations: &[Revocation]) {
        for revocation in revocations {
            let keep = |until: &mut Timestamp| *until = (*until).max(revocation.not_after);
            if let Some(window) = revocation.window {
                keep(self.windows.entry(window).or_default());
            }
            for serial in &revocation.serials {
                keep(self.serials.entry(serial.clone()).or_default());
            }
        }
    }

    pub(crate) fn contains(&self, trust_domain: &str, serial: &Serial, window: Option<WindowId>) -> bool {
        window.is_some_and(|window| self.windows.contains_key(&window))
            || self.serials.contains_key(serial)
            || self.crls.contains(trust_domain, serial)
    }

    /// Forgets what has ended long ago.
    pub(crate) fn prune(&mut self, now: Timestamp) {
        let counts = |until: &Timestamp| until.plus(KEPT_AFTER_END) >= now;
        self.windows.retain(|_, until| counts(until));
        self.serials.retain(|_, until| counts(until));
    }

    /// Windows, and serial numbers of lists.
    pub(crate) fn len(&self) -> usize {
        self.windows.len() + self.crls.len()
    }
}

/// Until when the last word of the agent counts, in the machine's uptime: no clock that anybody sets.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    /// Milliseconds; 0 before the first.
    until: AtomicU64,
}

impl Lease {
    /// A word that came at `uptime` and counts for `lease`. An agent that has no fresh word itself says zero: the last
    /// one goes on running out.
    pub(crate) fn renew(&self, uptime: Duration, lease: Duration) {
        if !lease.is_zero() {
            let until = u64::try_from((uptime + lease).as_millis()).unwrap_or(u64::MAX);
            self.until.store(until, Ordering::Release);
        }
    }

    /// What is left of it at `uptime`; `None` when it has run out or never was.
    pub(crate) fn left(&self, uptime: Duration) -> Option<Duration> {
        let until = Duration::from_millis(self.until.load(Ordering::Acquire));
        until.checked_sub(uptime).filter(|left| !left.is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serial(number: u8) -> Serial {
        Serial::from_be_bytes(&[number]).unwrap()
    }

    #[test]
    fn what_is_revoked_is_kept_until_it_could_not_count_anyway() {
        let mut denied = Denied::default();
        let end = Timestamp::from_unix(1000);
        let revocation = Revocation {
            window: Some(WindowId([1; 16])),
            serials: vec![serial(7)],
            not_after: end,
        };
        denied.add(std::slice::from_ref(&revocation));
        // An earlier end takes nothing back.
        denied.add(&[Revocation {
            not_after: Timestamp::from_unix(5),
            ..revocation
        }]);
        denied.prune(end.plus(KEPT_AFTER_END));
        assert!(denied.contains("td", &serial(8), Some(WindowId([1; 16]))));
        assert!(denied.contains("td", &serial(7), None));
        assert!(!denied.contains("td", &serial(8), Some(WindowId([2; 16]))));
        denied.prune(end.plus(KEPT_AFTER_END + Duration::from_secs(1)));
        assert_eq!(denied.len(), 0);
        assert!(!denied.contains("td", &serial(7), Some(WindowId([1; 16]))));
    }

    #[test]
    fn a_lease_runs_out_by_itself_and_zero_does_not_renew_it() {
        let (lease, at) = (Lease::default(), Duration::from_secs);
        assert_eq!(lease.left(at(0)), None);
        lease.renew(at(100), at(5));
        assert_eq!(lease.left(at(104)), Some(at(1)));
        lease.renew(at(104), Duration::ZERO);
        assert_eq!(lease.left(at(105)), None);
        lease.renew(at(106), at(5));
        assert_eq!(lease.left(at(106)), Some(at(5)));
    }
}
