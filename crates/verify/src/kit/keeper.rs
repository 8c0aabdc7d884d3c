//! Ends connections when their time has come, without any message.

use std::sync::Arc;
use std::time::Duration;

use mayfly_runtime::CancellationToken;
use tokio::time::sleep;
use tracing::warn;

use super::state::State;

/// The clocks are looked at this often whatever they said before: they can be set, and the machine can have slept.
const LOOK: Duration = Duration::from_secs(1);
/// A wall clock that was set by more than this is worth a word.
const JUMP: Duration = Duration::from_secs(5);
/// Looks between two cleanings of what was revoked.
const PRUNE_EVERY: u32 = 60;

/// Runs until `stop`.
pub(crate) async fn keep(state: Arc<State>, stop: CancellationToken) -> anyhow::Result<()> {
    let (mut looks, mut said) = (0_u32, false);
    loop {
        state.end_due();
        let jumped = state.time.jumped() > JUMP;
        if jumped && !said {
            let by_s = state.time.jumped().as_secs();
            warn!(by_s, "the wall clock was set; nothing lasts longer for that");
        }
        said = jumped;
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(PRUNE_EVERY) {
            state.prune();
        }
        let end = state.live.next_end().map(|end| end.saturating_sub(state.time.now()));
        let lease = state.lease.left(state.time.uptime());
        // A timer may fire a trifle early: never spin.
        let pause = [end, lease].into_iter().flatten().fold(LOOK, Duration::min);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = sleep(pause.max(Duration::from_millis(1))) => {}
            () = state.live.sooner.notified() => {}
        }
    }
}
