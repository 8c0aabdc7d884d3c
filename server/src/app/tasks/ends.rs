//! When windows end by a clock that nobody sets.
//!
//! The end of a window is an instant of the wall clock. Where that is set back meanwhile, it would come later: so what was
//! left when a window was first seen is counted here as well. After a restart there is only the wall clock.

use std::collections::BTreeMap;
use std::time::Duration;

use mayfly_model::task::Window;
use mayfly_svid::{Timestamp, WindowId};
use tokio::time::Instant;

/// Wall-clock instants are whole seconds, so a window may have that much less than it seems.
const ROUNDING: Duration = Duration::from_secs(1);

/// The ends of the windows that were live at the last pass.
#[derive(Debug, Default)]
pub(super) struct Ends(BTreeMap<WindowId, End>);

#[derive(Clone, Copy, Debug)]
struct End {
    closes_at: Timestamp,
    by: Instant,
}

impl Ends {
    /// Takes note of the windows that are live now, and forgets all others.
    pub(super) fn note<'a>(&mut self, live: impl Iterator<Item = &'a Window>, now: Timestamp) {
        let before = std::mem::take(&mut self.0);
        self.0 = live
            .map(|window| (window.id, end_of(window, before.get(&window.id), now)))
            .collect();
    }

    /// Whether a window has lasted as long as it may, whatever the wall clock says.
    pub(super) fn is_over(&self, window: &WindowId) -> bool {
        self.0
            .get(window)
            .is_some_and(|end| Instant::now() >= end.by + ROUNDING)
    }
}

fn end_of(window: &Window, before: Option<&End>, now: Timestamp) -> End {
    let closes_at = window.closes_at;
    let by = match before {
        // Extended by so much.
        Some(end) => end.by + closes_at.since(end.closes_at),
        // Never more than it was opened for: the clock may have been set back before this first look.
        None => Instant::now() + closes_at.since(now).min(closes_at.since(window.opened_at)),
    };
    End { closes_at, by }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_model::task::{Instance, Issuance, TtlTerm};
    use mayfly_svid::Serial;

    fn window(closes_at: i64) -> Window {
        let first = Issuance {
            serial: Serial::from_be_bytes(&[7]).unwrap(),
            public_key_sha256: String::new(),
            not_before: Timestamp::from_unix(1_000),
            not_after: Timestamp::from_unix(closes_at - 1),
            authority_id: String::new(),
            ttl_term: TtlTerm::Window,
            revoked: None,
        };
        Window::new(
            WindowId([7; 16]),
            Instance {
                agent_id: "spiffe://td/spire/agent/x".parse().unwrap(),
                pid: 1,
                uid: 1,
                start_ticks: 1,
                boot_id: "boot".into(),
                include_descendants: false,
            },
            "spiffe://td/task/pay/x/web".parse().unwrap(),
            first,
            Timestamp::from_unix(1_000),
            Timestamp::from_unix(closes_at),
        )
    }

    // Attack 24
    #[tokio::test(start_paused = true)]
    async fn a_clock_that_is_set_back_gives_a_window_no_time() {
        let (mut ends, id) = (Ends::default(), WindowId([7; 16]));
        ends.note([&window(1_060)].into_iter(), Timestamp::from_unix(1_000));
        tokio::time::advance(Duration::from_secs(59)).await;
        // Ten minutes back: by the wall clock there are more than ten to go.
        ends.note([&window(1_060)].into_iter(), Timestamp::from_unix(459));
        assert!(!ends.is_over(&id));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(ends.is_over(&id));
        ends.note([].into_iter(), Timestamp::from_unix(461));
        assert!(!ends.is_over(&id), "what has ended is forgotten");
    }

    #[tokio::test(start_paused = true)]
    async fn an_extension_moves_the_end_by_what_it_adds() {
        let (mut ends, id) = (Ends::default(), WindowId([7; 16]));
        ends.note([&window(1_060)].into_iter(), Timestamp::from_unix(1_000));
        ends.note([&window(1_090)].into_iter(), Timestamp::from_unix(400));
        tokio::time::advance(Duration::from_secs(89)).await;
        assert!(!ends.is_over(&id));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(ends.is_over(&id));
    }
}
