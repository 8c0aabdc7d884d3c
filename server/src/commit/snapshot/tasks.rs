//! Tasks in memory, with what decisions and time ask for at hand: neither walks over tasks that it does not concern.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::task::{Revocation, Stage, Task, TaskId, TaskName};
use mayfly_svid::{SpiffeId, Timestamp, WindowId};
use rpds::{HashTrieMapSync, RedBlackTreeMapSync, RedBlackTreeSetSync};

use super::{Index, Snapshot, index_insert, index_remove};

/// Windows of a workload are counted by when they were opened, in steps of so many seconds: a day has 144.
const STEP: i64 = 600;
const DAY: Duration = Duration::from_secs(86_400);

/// Every task that was not forgotten, and what is refused.
#[derive(Clone, Debug)]
pub(super) struct TaskIndex {
    all: RedBlackTreeMapSync<TaskId, Arc<Task>>,
    /// Those to which something can still happen.
    live: RedBlackTreeSetSync<TaskId>,
    /// Those with a window in force, which may end for many reasons.
    open: RedBlackTreeSetSync<TaskId>,
    /// Those with a window that waits for the word of consumers.
    enforced: RedBlackTreeSetSync<TaskId>,
    /// Those that time moves on, by when it does so first.
    due: RedBlackTreeSetSync<(Timestamp, TaskId)>,
    by_agent: Index<SpiffeId, TaskId>,
    by_window: HashTrieMapSync<WindowId, TaskId>,
    by_key: Index<Key, TaskId>,
    by_workload: HashTrieMapSync<(TaskName, SpiffeId), OfWorkload>,
    by_name: HashTrieMapSync<TaskName, OfName>,
    revocations: RedBlackTreeMapSync<u64, Arc<Revocation>>,
    revocations_by_window: Index<WindowId, u64>,
}

type Key = (TaskName, SpiffeId, Arc<str>);

/// What one workload has of one definition.
#[derive(Clone, Debug, Default)]
struct OfWorkload {
    /// Requests that wait or can be opened.
    ready: RedBlackTreeSetSync<TaskId>,
    /// How many requests policy refused at once.
    refused: usize,
    windows: Windows,
    /// How many windows were opened in each [`STEP`].
    opened: RedBlackTreeMapSync<i64, u32>,
    /// How many tasks there are, over or not.
    tasks: usize,
}

/// What a whole definition has.
#[derive(Clone, Debug, Default)]
struct OfName {
    reviews_due: u32,
    /// Break-glass that was used, by when it was opened last.
    used: RedBlackTreeSetSync<(Timestamp, TaskId)>,
    tasks: usize,
}

/// How many windows are open, and how many have ended and are not settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    /// Open or suspended.
    pub open: u32,
    /// Ended, not settled.
    pub unsettled: u32,
}

impl Windows {
    /// Those of one task.
    pub fn of(task: &Task) -> Self {
        let mut windows = Self::default();
        for window in &task.windows {
            match window.stage {
                Stage::Settled => {}
                stage if stage.is_live_window() => windows.open += 1,
                _ => windows.unsettled += 1,
            }
        }
        windows
    }

    fn add(&mut self, other: Self) {
        self.open += other.open;
        self.unsettled += other.unsettled;
    }

    fn take_away(&mut self, other: Self) {
        self.open -= other.open;
        self.unsettled -= other.unsettled;
    }
}

impl Default for TaskIndex {
    fn default() -> Self {
        Self {
            all: RedBlackTreeMapSync::new_sync(),
            live: RedBlackTreeSetSync::new_sync(),
            open: RedBlackTreeSetSync::new_sync(),
            enforced: RedBlackTreeSetSync::new_sync(),
            due: RedBlackTreeSetSync::new_sync(),
            by_agent: HashTrieMapSync::new_sync(),
            by_window: HashTrieMapSync::new_sync(),
            by_key: HashTrieMapSync::new_sync(),
            by_workload: HashTrieMapSync::new_sync(),
            by_name: HashTrieMapSync::new_sync(),
            revocations: RedBlackTreeMapSync::new_sync(),
            revocations_by_window: HashTrieMapSync::new_sync(),
        }
    }
}

// === impl Snapshot ===

/// What there is of tasks.
impl Snapshot {
    /// The request with this ID and all that came of it.
    pub fn task(&self, id: &TaskId) -> Option<&Arc<Task>> {
        self.tasks.all.get(id)
    }

    /// The request that opened this window.
    pub fn task_of_window(&self, id: &WindowId) -> Option<&Arc<Task>> {
        self.tasks.all.get(self.tasks.by_window.get(id)?)
    }

    /// All tasks that were not forgotten, newest first, from before `before` on.
    pub fn tasks_before(&self, before: Option<&TaskId>) -> impl Iterator<Item = &Arc<Task>> {
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let range = self.tasks.all.range((Bound::Unbounded, end));
        range.rev().map(|(_, task)| task)
    }

    /// All of them, oldest first.
    pub fn oldest_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.all.values()
    }

    /// Tasks to which something can still happen, oldest first.
    pub fn live_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.found(self.tasks.live.iter())
    }

    /// Of these, those that `agent` asked for or has windows of, oldest first.
    pub fn live_tasks_of(&self, agent: &SpiffeId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.listed(self.tasks.by_agent.get(agent))
    }

    /// Of these, those with a window in force, oldest first.
    pub fn open_tasks(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.found(self.tasks.open.iter())
    }

    /// Of these, all to which something may happen at `now` by itself, once each: those with a window in force or with one
    /// that waits for the word of consumers, and those that time moves on by then.
    pub fn due_tasks(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Task>> {
        let tasks = &self.tasks;
        let enforced = tasks.enforced.iter().filter(|id| !tasks.open.contains(id));
        let due = tasks.due.iter().take_while(move |(at, _)| *at <= now);
        let due = due
            .map(|(_, id)| id)
            .filter(|id| !tasks.open.contains(id) && !tasks.enforced.contains(id));
        tasks.found(tasks.open.iter().chain(enforced).chain(due))
    }

    /// Of these, the requests of a workload for a task that wait or can be opened, oldest first.
    pub fn ready_tasks_of(&self, name: &TaskName, workload: &SpiffeId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.listed(self.tasks.of(name, workload).map(|of| &of.ready))
    }

    /// Of these, the requests of a workload for a task that have this idempotency key, oldest first.
    pub fn keyed_tasks_of(
        &self,
        name: &TaskName,
        workload: &SpiffeId,
        idempotency_key: &str,
    ) -> impl Iterator<Item = &Arc<Task>> {
        let key = (name.clone(), workload.clone(), idempotency_key.into());
        self.tasks.listed(self.tasks.by_key.get(&key))
    }

    /// How many requests of a workload for a task are kept that policy refused at once.
    pub fn refused_count(&self, name: &TaskName, workload: &SpiffeId) -> usize {
        self.tasks.of(name, workload).map_or(0, |of| of.refused)
    }

    /// How many requests of a workload for a task are kept, over or not.
    pub fn kept_count(&self, name: &TaskName, workload: &SpiffeId) -> usize {
        self.tasks.of(name, workload).map_or(0, |of| of.tasks)
    }

    /// The windows of a task that a workload has.
    pub fn windows_of(&self, name: &TaskName, workload: &SpiffeId) -> Windows {
        self.tasks
            .of(name, workload)
            .map_or_else(Windows::default, |of| of.windows)
    }

    /// How many windows of a task a workload opened in the last day, or up to [`STEP`] seconds before it.
    pub fn same_day_of(&self, name: &TaskName, workload: &SpiffeId, now: Timestamp) -> u32 {
        let first = step_of(now.minus(DAY));
        let counts = self.tasks.of(name, workload).into_iter();
        let counts = counts.flat_map(|of| of.opened.range(first..).map(|(_, count)| *count));
        counts.fold(0, u32::saturating_add)
    }

    /// How many uses of this break-glass task were not reviewed.
    pub fn reviews_due(&self, name: &TaskName) -> u32 {
        self.tasks.by_name.get(name).map_or(0, |of| of.reviews_due)
    }

    /// The use of this break-glass task that was opened last, `besides` not counted.
    pub fn last_used(&self, name: &TaskName, besides: Option<&TaskId>) -> Option<&Arc<Task>> {
        let used = &self.tasks.by_name.get(name)?.used;
        // Of the same second the one that was asked for last.
        let (_, id) = used.iter().rev().find(|(_, id)| Some(id) != besides)?;
        self.tasks.all.get(id)
    }

    /// What was revoked after `epoch`, oldest first. SVIDs that are over may be among them.
    pub fn revocations_after(&self, epoch: u64) -> impl Iterator<Item = &Arc<Revocation>> {
        let range = (Bound::Excluded(epoch), Bound::Unbounded);
        self.tasks.revocations.range(range).map(|(_, revocation)| revocation)
    }
}

// === impl TaskIndex ===

impl TaskIndex {
    pub(super) fn put(&mut self, task: Arc<Task>) {
        self.take_out(&task.id);
        for window in &task.windows {
            self.by_window.insert_mut(window.id, task.id.clone());
        }
        if task.is_over() {
            self.all.insert_mut(task.id.clone(), task.clone());
            self.count(&task, Count::In);
            return;
        }
        self.live.insert_mut(task.id.clone());
        if task.live_windows().next().is_some() {
            self.open.insert_mut(task.id.clone());
        }
        if waits_for_consumers(&task) {
            self.enforced.insert_mut(task.id.clone());
        }
        if let Some(at) = due_at(&task) {
            self.due.insert_mut((at, task.id.clone()));
        }
        for agent in agents_of(&task) {
            index_insert(&mut self.by_agent, agent, task.id.clone());
        }
        index_insert(&mut self.by_key, &key_of(&task), task.id.clone());
        self.all.insert_mut(task.id.clone(), task.clone());
        self.count(&task, Count::In);
    }

    /// Forgets a task, and what is refused of it: nothing of that can count any more.
    pub(super) fn forget(&mut self, task: &Task) {
        self.take_out(&task.id);
        for window in &task.windows {
            for epoch in self.revocations_by_window.get(&window.id).into_iter().flatten() {
                self.revocations.remove_mut(epoch);
            }
            self.revocations_by_window.remove_mut(&window.id);
        }
    }

    pub(super) fn revoke(&mut self, revocation: Arc<Revocation>) {
        index_insert(&mut self.revocations_by_window, &revocation.window_id, revocation.epoch);
        self.revocations.insert_mut(revocation.epoch, revocation);
    }

    fn take_out(&mut self, id: &TaskId) {
        let Some(task) = self.all.get(id).cloned() else {
            return;
        };
        self.count(&task, Count::Out);
        for window in &task.windows {
            self.by_window.remove_mut(&window.id);
        }
        self.all.remove_mut(id);
        if !self.live.remove_mut(id) {
            return;
        }
        self.open.remove_mut(id);
        self.enforced.remove_mut(id);
        if let Some(at) = due_at(&task) {
            self.due.remove_mut(&(at, id.clone()));
        }
        for agent in agents_of(&task) {
            index_remove(&mut self.by_agent, agent, id);
        }
        index_remove(&mut self.by_key, &key_of(&task), id);
    }

    fn count(&mut self, task: &Task, count: Count) {
        let (name, id) = (&task.request.task, &task.id);
        let workload = (name.clone(), task.request.workload.clone());
        let mut of = self.by_workload.get(&workload).cloned().unwrap_or_default();
        let mut all = self.by_name.get(name).cloned().unwrap_or_default();
        let is_ready = task.stage.is_waiting() || task.stage == Stage::Armed;
        let used_at = task.windows.iter().map(|window| window.opened_at).max();
        let used = used_at.filter(|_| task.grant.review).map(|at| (at, id.clone()));
        match count {
            Count::In => {
                of.tasks += 1;
                of.refused += usize::from(task.is_refused());
                all.tasks += 1;
                of.windows.add(Windows::of(task));
                all.reviews_due += u32::from(task.review_due);
            }
            Count::Out => {
                of.tasks -= 1;
                of.refused -= usize::from(task.is_refused());
                all.tasks -= 1;
                of.windows.take_away(Windows::of(task));
                all.reviews_due -= u32::from(task.review_due);
            }
        }
        // By when each was opened: a grant may be older than the day that it is used on.
        for window in &task.windows {
            let step = step_of(window.opened_at);
            let before = of.opened.get(&step).copied().unwrap_or(0);
            let after = match count {
                Count::In => before.saturating_add(1),
                Count::Out => before.saturating_sub(1),
            };
            match after {
                0 => drop(of.opened.remove_mut(&step)),
                _ => of.opened.insert_mut(step, after),
            }
        }
        count.put(&mut of.ready, is_ready, id);
        if let Some(used) = used {
            count.put(&mut all.used, true, &used);
        }
        put_or_drop(&mut self.by_workload, workload, of, |of| of.tasks == 0);
        put_or_drop(&mut self.by_name, name.clone(), all, |all| all.tasks == 0);
    }

    fn of(&self, name: &TaskName, workload: &SpiffeId) -> Option<&OfWorkload> {
        self.by_workload.get(&(name.clone(), workload.clone()))
    }

    fn listed<'a>(&'a self, ids: Option<&'a RedBlackTreeSetSync<TaskId>>) -> impl Iterator<Item = &'a Arc<Task>> {
        self.found(ids.into_iter().flat_map(RedBlackTreeSetSync::iter))
    }

    fn found<'a>(&'a self, ids: impl Iterator<Item = &'a TaskId>) -> impl Iterator<Item = &'a Arc<Task>> {
        ids.filter_map(|id| self.all.get(id))
    }
}

/// A task comes, or goes.
#[derive(Clone, Copy)]
enum Count {
    In,
    Out,
}

impl Count {
    fn put<V: Ord + Clone>(self, set: &mut RedBlackTreeSetSync<V>, belongs: bool, value: &V) {
        match self {
            Self::In if belongs => set.insert_mut(value.clone()),
            Self::Out if belongs => drop(set.remove_mut(value)),
            _ => {}
        }
    }
}

fn put_or_drop<K, V>(map: &mut HashTrieMapSync<K, V>, key: K, value: V, is_empty: impl Fn(&V) -> bool)
where
    K: Eq + std::hash::Hash,
{
    if is_empty(&value) {
        map.remove_mut(&key);
    } else {
        map.insert_mut(key, value);
    }
}

/// The agents that a task concerns: who asked for it, and who holds windows of it.
pub(crate) fn agents_of(task: &Task) -> BTreeSet<&SpiffeId> {
    let holders = task.windows.iter().map(|window| &window.instance.agent_id);
    std::iter::once(&task.request.agent_id).chain(holders).collect()
}

fn key_of(task: &Task) -> Key {
    let request = &task.request;
    (
        request.task.clone(),
        request.workload.clone(),
        request.idempotency_key.as_str().into(),
    )
}

fn step_of(at: Timestamp) -> i64 {
    at.unix().div_euclid(STEP)
}

/// Whether consumers were declared whose word settles a window that has ended.
fn waits_for_consumers(task: &Task) -> bool {
    let waits = |stage| matches!(stage, Stage::Closed | Stage::RevocationIncomplete);
    !task.grant.checkpoints.is_empty() && task.windows.iter().any(|window| waits(window.stage))
}

/// The first instant at which time does something to a task, apart from its windows that are in force.
fn due_at(task: &Task) -> Option<Timestamp> {
    let waits = match task.stage {
        Stage::AwaitingApproval | Stage::AwaitingTicket => Some(task.wait_until),
        Stage::Armed => Some(task.grant.open_by),
        _ => None,
    };
    let windows = task.windows.iter().filter_map(|window| match window.stage {
        Stage::Closing => Some(window.last_second()),
        Stage::Closed | Stage::RevocationIncomplete => Some(window.dead_by()),
        _ => None,
    });
    waits.into_iter().chain(windows).min()
}
