//! What the server does by time: end entries that expire, forget tokens that did, write records that wait,
//! notice when the database is back.
//!
//! Each loop reads the state to know what is due; a wake-up only makes it look.

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::{Actor, Change, Conflict, Step};
use mayfly_runtime::{BlockReady, CancellationToken, Chain, Clock, Readiness};
use mayfly_svid::Timestamp;
use tracing::{info, warn};

use crate::commit::{CommitError, Committer, CommitterEnded};

/// The wall clock may step; nothing sleeps longer than this without looking at it again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// Between two passes over the join tokens.
const TOKEN_PRUNE: Duration = Duration::from_secs(3_600);
/// The longest that a record waits for a commit to go with.
const RECORDS: Duration = Duration::from_secs(1);
/// Between two tries to reach a database that failed.
const PROBE: Duration = Duration::from_secs(1);

/// The server's loops. Each is started anew after a panic, so each begins with a clone.
#[derive(Clone)]
pub struct Upkeep {
    committer: Committer,
    clock: Arc<dyn Clock>,
    readiness: Readiness,
}

impl Upkeep {
    /// Nothing happens before one of the loops runs.
    pub fn new(committer: Committer, clock: Arc<dyn Clock>, readiness: Readiness) -> Self {
        Self {
            committer,
            clock,
            readiness,
        }
    }

    /// Deletes each entry at the instant that it expires, so that agents hear of it like of any other deletion.
    pub async fn expire_entries(self, stop: CancellationToken) {
        let mut revision = self.committer.revision();
        while !stop.is_cancelled() {
            let now = self.now();
            let pause = match self.committer.snapshot().next_expiry() {
                Some((end, id)) if end <= now => match self.commit(Change::EntryExpire(id.clone()), now).await {
                    Ok(()) => {
                        info!(entry_id = %id, "entry expired");
                        continue;
                    }
                    // Somebody else deleted it or gave it more time, as the next snapshot will tell.
                    Err(CommitError::Conflict(Conflict::EntryNotFound)) => PROBE,
                    Err(failure) => {
                        warn!(entry_id = %id, error = %Chain(&failure), "an expired entry is not deleted yet");
                        PROBE
                    }
                },
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
    pub async fn prune_tokens(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TOKEN_PRUNE) => {}
            }
            if let Err(failure) = self.commit(Change::TokenPrune, self.now()).await {
                warn!(error = %Chain(&failure), "expired join tokens are not pruned yet");
            }
        }
    }

    /// Writes what came of SVIDs even if nobody commits anything else.
    pub async fn write_records(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RECORDS) => self.committer.commit_aside().await,
            }
        }
    }

    /// Holds the server "not ready" while commits fail, and tries until one gets through. It stays alive: what it has in
    /// memory is served all the while.
    ///
    /// # Errors
    /// Nothing will ever be committed again: the committing thread has ended. Only a new start helps.
    pub async fn follow_database(self, stop: CancellationToken) -> Result<(), CommitterEnded> {
        let mut healthy = self.committer.healthy();
        let mut block: Option<BlockReady> = None;
        loop {
            let up = *healthy.borrow_and_update();
            match (up, &block) {
                (true, Some(_)) => {
                    info!("the database takes commits again");
                    block = None;
                }
                (false, None) => block = Some(self.readiness.block("database")),
                _ => {}
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                changed = healthy.changed() => changed.map_err(|_| CommitterEnded)?,
                () = tokio::time::sleep(PROBE), if !up => {
                    // A commit that is useful in any case; its failure is logged by the committer.
                    let _ = self.commit(Change::TokenPrune, self.now()).await;
                }
            }
        }
    }

    fn now(&self) -> Timestamp {
        self.clock.now().into()
    }

    async fn commit(&self, change: Change, time: Timestamp) -> Result<(), CommitError> {
        let actor = Actor::server();
        self.committer.commit(Step { actor, time, change }).await.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use mayfly_runtime::CancellationToken;

    use super::*;
    use mayfly_runtime::ManualClock;
    use mayfly_store::{Committed, State, Store, StoreError};

    use crate::app::testing::{START, World, id};

    fn upkeep(committer: Committer) -> Upkeep {
        Upkeep::new(committer, Arc::new(ManualClock::at_unix(START)), Readiness::new())
    }

    /// A store with a fault in this program.
    struct Faulty;

    impl Store for Faulty {
        fn load(&mut self) -> Result<State, StoreError> {
            Ok(State {
                history: "h".into(),
                ..State::default()
            })
        }

        fn commit(&mut self, _: &[Step]) -> Result<Committed, StoreError> {
            panic!("as a fault would")
        }

        fn is_healthy(&mut self) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_server_that_can_never_commit_again_does_not_run_on() {
        let committer = Committer::start(Box::new(Faulty), &"td".parse().unwrap(), |_, _| Box::new(|_| {})).unwrap();
        let upkeep = upkeep(committer);
        assert!(matches!(
            upkeep.commit(Change::TokenPrune, upkeep.now()).await,
            Err(CommitError::Stopped)
        ));
        upkeep.follow_database(CancellationToken::new()).await.unwrap_err();
    }

    /// A store on a disk that is full for its first commit; it tells how many steps it was given each time.
    struct FullAtFirst(Sender<usize>);

    impl Store for FullAtFirst {
        fn load(&mut self) -> Result<State, StoreError> {
            Faulty.load()
        }

        fn commit(&mut self, steps: &[Step]) -> Result<Committed, StoreError> {
            let is_first = self.0.send(steps.len()).is_ok() && steps.len() == 2;
            if is_first {
                return Err(StoreError::Full { source: "full".into() });
            }
            Ok(Committed {
                revision: mayfly_model::Revision(1),
                outcomes: steps.iter().map(|_| Ok(vec![])).collect(),
                log_indexes: vec![None; steps.len()],
            })
        }

        fn is_healthy(&mut self) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_record_outlasts_a_disk_that_is_full() {
        let (given, steps) = channel();
        let store = Box::new(FullAtFirst(given));
        let committer = Committer::start(store, &"td".parse().unwrap(), |_, _| Box::new(|_| {})).unwrap();
        let upkeep = upkeep(committer.clone());
        let (signed, failed) = (vec![], vec![]);
        committer.set_aside(Step {
            actor: Actor::server(),
            time: upkeep.now(),
            change: Change::SvidOutcome { signed, failed },
        });
        let refused = upkeep.commit(Change::TokenPrune, upkeep.now()).await;
        assert!(matches!(refused, Err(CommitError::Store(_))));
        committer.commit_aside().await;
        committer.commit_aside().await;
        assert_eq!(steps.try_iter().collect::<Vec<_>>(), [2, 1]);
    }

    #[tokio::test]
    async fn an_entry_is_deleted_at_the_instant_that_it_expires() {
        let world = World::new().await;
        let parent = id("/spire/agent/t/a");
        let past = Timestamp::from_unix(START as i64 - 1);
        world.entry("kept", &parent, |_| {}).await;
        world.entry("gone", &parent, |spec| spec.expires_at = Some(past)).await;
        let mut revision = world.committer.revision();
        let stop = CancellationToken::new();
        let task = upkeep(world.committer.clone()).expire_entries(stop.clone());
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
