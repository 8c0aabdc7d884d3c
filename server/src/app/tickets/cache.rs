//! The answer of the last seconds, and one question at a time about a ticket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use mayfly_runtime::{Chain, Clock};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;
use tracing::warn;

use super::{AT_A_TIME, AskError, TicketChecker, TicketState, Tracker, is_reference};

/// Answers that are kept; with more than that, those that are over go, and if none is, all do.
const KEPT: usize = 10_000;
/// A failure passes sooner than an answer: it must not outlast the tracker's hiccup by much.
const FAILURE: Duration = Duration::from_secs(1);

/// A tracker behind its last answers.
#[derive(Debug)]
pub(super) struct Cached {
    tracker: Box<dyn Tracker>,
    keep: Duration,
    timeout: Duration,
    clock: Arc<dyn Clock>,
    turns: Semaphore,
    answers: Mutex<HashMap<String, Arc<Answered>>>,
}

/// A question, and its answer once there is one. Whoever waits for it when the first one gives up asks anew.
#[derive(Debug, Default)]
struct Answered(OnceCell<(TicketState, Instant)>);

impl Cached {
    /// `timeout` bounds a question with its wait for a turn.
    pub(super) fn new(tracker: Box<dyn Tracker>, keep: Duration, timeout: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            tracker,
            keep,
            timeout,
            clock,
            turns: Semaphore::new(AT_A_TIME),
            answers: Mutex::default(),
        }
    }

    /// The question about `reference` that is under way or was answered lately, or a new one.
    fn question(&self, reference: &str) -> Arc<Answered> {
        let now = Instant::now();
        let mut answers = self.lock();
        if let Some(answered) = answers.get(reference)
            && !answered.is_over(now)
        {
            return answered.clone();
        }
        if answers.len() >= KEPT {
            answers.retain(|_, answered| !answered.is_over(now));
        }
        if answers.len() >= KEPT {
            answers.clear();
        }
        let fresh = Arc::new(Answered::default());
        answers.insert(reference.to_owned(), fresh.clone());
        fresh
    }

    async fn ask(&self, reference: &str) -> (TicketState, Instant) {
        let asked = async {
            let _turn = self.turns.acquire().await.expect("nobody closes it");
            self.tracker.ask(reference).await
        };
        let answer = tokio::time::timeout(self.timeout, asked)
            .await
            .unwrap_or(Err(AskError::Timeout(self.timeout)));
        let (state, keep) = match answer {
            Ok(answer) => (TicketState::from(answer), self.keep),
            Err(absent @ AskError::Absent) => {
                let state = TicketState {
                    problem: absent.to_string(),
                    ..TicketState::default()
                };
                (state, self.keep)
            }
            Err(failure) => {
                warn!(error = %Chain(&failure), ticket = reference, "a ticket could not be checked");
                // Without its causes: they may name hosts and files, and the one who reads this is whoever asked.
                (TicketState::unknown(failure.to_string()), self.keep.min(FAILURE))
            }
        };
        (state, Instant::now() + keep)
    }

    /// For a look or a put: it is whole in between.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Answered>>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Answered {
    fn is_over(&self, now: Instant) -> bool {
        self.0.get().is_some_and(|(_, until)| *until <= now)
    }
}

#[async_trait]
impl TicketChecker for Cached {
    async fn check(&self, reference: &str) -> TicketState {
        if !is_reference(reference) {
            return TicketState::unknown("this is not the reference of a ticket");
        }
        let question = self.question(reference);
        let (state, _) = question.0.get_or_init(|| self.ask(reference)).await;
        state.clone().at(self.clock.now().into())
    }
}
