//! What is over is forgotten: after a while, and earlier where it is much. The log keeps all of it.

use std::sync::Arc;
use std::time::Duration;

use mayfly_model::task::Task;
use mayfly_svid::Timestamp;

/// Requests that are over and kept, of everybody; of more the oldest are forgotten before their time.
pub(super) const KEPT_MAX: usize = 100_000;
/// Those of one workload for one task, over or not. Policy counts what was opened within a day, so nothing of the last day
/// is forgotten, and whoever asks for more than this waits.
pub(super) const OF_WORKLOAD_MAX: usize = 50_000;
/// What policy may still ask about.
const DAY: Duration = Duration::from_secs(86_400);

/// The instant before which what is over is to be forgotten, if there is any. `tasks` are all of them, at most `most` of
/// which are kept when they are over and were over for a day.
pub(super) fn forget_before<'t>(
    tasks: impl Iterator<Item = &'t Arc<Task>>,
    now: Timestamp,
    retention: Duration,
    most: usize,
) -> Option<Timestamp> {
    let over = tasks.filter(|task| task.is_over());
    let mut ends: Vec<Timestamp> = over.map(|task| task.changed_at()).collect();
    let mut before = now.minus(retention);
    if let Some(too_many) = ends.len().checked_sub(most).filter(|too_many| *too_many > 0) {
        // All of that second: of two that ended together neither is the older one.
        let (_, newest, _) = ends.select_nth_unstable(too_many - 1);
        before = before.max(newest.plus(Duration::from_secs(1)).min(now.minus(DAY)));
    }
    ends.iter().any(|end| *end < before).then_some(before)
}

#[cfg(test)]
mod tests {
    use mayfly_model::task::TaskStep;

    use super::*;
    use crate::app::testing::World;
    use crate::app::testing::tasks::step_of;

    const HOUR: Duration = Duration::from_secs(3_600);
    const WEEK: Duration = Duration::from_secs(7 * 86_400);

    #[tokio::test]
    async fn what_is_over_is_forgotten_after_a_while_and_earlier_where_it_is_much() {
        let world = World::new().await;
        let agent = world.agent("a").await;
        let mut ends = vec![];
        for _ in 0..10 {
            let armed = world.armed(&agent).await;
            let reason = "not needed".into();
            let cancel = step_of(&armed.task_id, TaskStep::Cancel { reason });
            world.commit(cancel).await.unwrap();
            ends.push(world.now());
            world.clock.advance(HOUR * 6);
        }
        let live = world.armed(&agent).await;
        let state = world.committer.snapshot();
        let forgotten = |most: usize, days: u64| {
            let now = world.now().plus(Duration::from_secs(days * 86_400));
            let before = forget_before(state.oldest_tasks(), now, WEEK, most);
            ends.iter()
                .filter(|end| before.is_some_and(|before| **end < before))
                .count()
        };
        assert_eq!(state.oldest_tasks().filter(|task| task.is_over()).count(), 10);
        assert!(state.task(&live.task_id).is_some_and(|task| !task.is_over()));
        assert_eq!(forgotten(10, 1), 0, "there is room for them");
        assert_eq!(forgotten(7, 1), 3, "the oldest ones");
        assert_eq!(forgotten(0, 0), 6, "nothing of the last day");
        assert_eq!(forgotten(0, 1), 10);
        assert_eq!(forgotten(1_000, 9), 10, "a week is enough in any case");
    }
}
