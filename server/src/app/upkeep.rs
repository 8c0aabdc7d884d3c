//! What the server does by time: end entries that expire, forget tokens that did, notice when the database is back.
//!
//! Each loop reads the state to know what is due; a wake-up only makes it look.

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::{Actor, Change, Conflict, Step};
use mayfly_runtime::{BlockReady, CancellationToken, Chain, Clock, Readiness};
use mayfly_svid::Timestamp;
use tracing::{info, warn};

use crate::commit::{CommitError, Committer};

/// The wall clock may step; nothing sleeps longer than this without looking at it again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Between two passes over the join tokens.
const TOKEN_PRUNE: Duration = Duration::from_secs(3_600);
/// Between two tries to reach a database that failed.
const PROBE: Duration = Duration::from_secs(1);

/// Deletes each entry at the instant that it expires, so that agents hear of it like of any other deletion.
pub async fn expire_entries(committer: Committer, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let mut revision = committer.revision();
    loop {
        let now: Timestamp = clock.now().into();
        let pause = match committer.snapshot().next_expiry() {
            Some((end, id)) if end <= now => {
                let change = Change::EntryDelete(id.clone());
                match committer
                    .commit(Step {
                        actor: Actor::server(),
                        time: now,
                        change,
                    })
                    .await
                {
                    Ok(_) => {
                        info!(entry_id = %id, "entry expired");
                        continue;
                    }
                    // Somebody else deleted it, and the next snapshot no longer has it.
                    Err(CommitError::Conflict(Conflict::EntryNotFound)) => PROBE,
                    Err(failure) => {
                        warn!(entry_id = %id, error = %Chain(&failure), "an expired entry is not deleted yet");
                        PROBE
                    }
                }
            }
            Some((end, _)) => end.since(now).min(LOOK_AGAIN),
            None => LOOK_AGAIN,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            changed = revision.changed() => if changed.is_err() { return },
        }
    }
}

/// Forgets expired join tokens from time to time; they are useless in any case.
pub async fn prune_tokens(committer: Committer, clock: Arc<dyn Clock>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TOKEN_PRUNE) => {}
        }
        if let Err(failure) = prune(&committer, clock.as_ref()).await {
            warn!(error = %Chain(&failure), "expired join tokens are not pruned yet");
        }
    }
}

/// Holds the server "not ready" while commits fail, and tries until one gets through. It stays alive: what it has in
/// memory is served all the while.
pub async fn follow_database(
    committer: Committer,
    clock: Arc<dyn Clock>,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let mut healthy = committer.healthy();
    let mut block: Option<BlockReady> = None;
    loop {
        let up = *healthy.borrow_and_update();
        match (up, &block) {
            (true, Some(_)) => {
                info!("the database takes commits again");
                block = None;
            }
            (false, None) => block = Some(readiness.block("database")),
            _ => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = healthy.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(PROBE), if !up => {
                // A commit that is useful in any case; its failure is logged by the committer.
                let _ = prune(&committer, clock.as_ref()).await;
            }
        }
    }
}

async fn prune(committer: &Committer, clock: &dyn Clock) -> Result<(), CommitError> {
    let step = Step {
        actor: Actor::server(),
        time: clock.now().into(),
        change: Change::TokenPrune,
    };
    committer.commit(step).await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use mayfly_runtime::CancellationToken;

    use super::*;
    use crate::app::testing::{START, World, id};

    #[tokio::test]
    async fn an_entry_is_deleted_at_the_instant_that_it_expires() {
        let world = World::new().await;
        let parent = id("/spire/agent/t/a");
        let past = Timestamp::from_unix(START as i64 - 1);
        world.entry("kept", &parent, |_| {}).await;
        world.entry("gone", &parent, |spec| spec.expires_at = Some(past)).await;
        let mut revision = world.committer.revision();
        let stop = CancellationToken::new();
        let task = expire_entries(world.committer.clone(), world.clock.clone(), stop.clone());
        let watch = async {
            while world.committer.snapshot().entry_count() > 1 {
                revision.changed().await.unwrap();
            }
            stop.cancel();
        };
        tokio::join!(task, watch);
        assert_eq!(world.logged("entry.deleted").len(), 1);
    }
}
