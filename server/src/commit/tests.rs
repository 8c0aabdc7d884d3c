use std::collections::VecDeque;

use mayfly_model::{Actor, Change};
use mayfly_store::{Committed, State};
use mayfly_svid::Timestamp;

use super::*;
use crate::app::testing::{World, id};

fn step(change: Change) -> Step {
    Step {
        actor: Actor::server(),
        time: Timestamp::from_unix(1_000),
        change,
    }
}

fn refused() -> Step {
    step(Change::AgentBan(id("/spire/agent/t/nobody")))
}

#[tokio::test]
async fn a_batch_of_which_nothing_happens_wakes_nobody() {
    let world = World::new().await;
    let mut revision = world.committer.revision();
    revision.mark_unchanged();
    assert!(world.committer.commit_all(vec![]).await.is_empty());
    world.committer.flush().await;
    world.committer.commit(refused()).await.unwrap_err();
    assert!(!revision.has_changed().unwrap());
    world.committer.commit(step(Change::TokenPrune)).await.unwrap();
    assert!(revision.has_changed().unwrap());
}

/// A store that answers commits as it was told to.
struct Told(VecDeque<Result<Committed, StoreError>>);

impl Store for Told {
    fn load(&mut self) -> Result<State, StoreError> {
        Ok(State {
            history: "h".into(),
            ..State::default()
        })
    }

    fn commit(&mut self, _: &[Step]) -> Result<Committed, StoreError> {
        self.0.pop_front().expect("no more commits than answers")
    }

    fn is_healthy(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[tokio::test]
async fn a_store_that_failed_is_healthy_again_when_it_has_written_and_not_when_it_was_read() {
    let answer = |revision, outcome| Committed {
        revision: Revision(revision),
        outcomes: vec![outcome],
        log_indexes: vec![None],
    };
    let answers = [
        Err(StoreError::Full { source: "full".into() }),
        Ok(answer(0, Err(Conflict::AgentNotFound))),
        Ok(answer(1, Ok(vec![]))),
    ];
    let store = Box::new(Told(answers.into()));
    let committer = Committer::start(store, &"td".parse().unwrap(), |_, _| Box::new(|_| {})).unwrap();
    let healthy = committer.healthy();
    committer.commit(step(Change::TokenPrune)).await.unwrap_err();
    assert!(!*healthy.borrow());
    committer.commit_all(vec![]).await;
    committer.flush().await;
    committer.commit(refused()).await.unwrap_err();
    assert!(!*healthy.borrow());
    committer.commit(step(Change::TokenPrune)).await.unwrap();
    assert!(*healthy.borrow());
}
