//! Ends that the server has to hear of.

use std::collections::VecDeque;

use mayfly_proto::mayfly::agent::CloseTaskRequest;
use mayfly_proto::mayfly::workload::TaskState;
use mayfly_runtime::{Backoff, BackoffPolicy};
use tokio::time::Instant;
use tracing::warn;

use super::Reply;

/// Calls at a time.
const CALLS: usize = 8;

/// Windows that ended here, oldest first. They are told until the server answers; what does not fit is dropped, oldest
/// first, and is then closed by the next hello, which does not name it.
pub(super) struct Closes {
    queue: VecDeque<Close>,
    most: usize,
    in_flight: usize,
    backoff: Backoff,
    retry_at: Option<Instant>,
    /// There are others than when this was last asked.
    changed: bool,
}

struct Close {
    request: CloseTaskRequest,
    under_way: bool,
    /// Who waits for the answer, until when, and what is told then.
    waiter: Option<(Reply, Instant, TaskState)>,
}

impl Closes {
    pub(super) fn new(most: usize, backoff: BackoffPolicy) -> Self {
        Self {
            queue: VecDeque::new(),
            most: most.max(1),
            in_flight: 0,
            backoff: backoff.start(),
            retry_at: None,
            changed: false,
        }
    }

    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn windows(&self) -> impl Iterator<Item = &str> {
        self.queue.iter().map(|close| close.request.window_id.as_str())
    }

    pub(super) fn has(&self, window_id: &str) -> bool {
        self.windows().any(|window| window == window_id)
    }

    pub(super) fn push(&mut self, request: CloseTaskRequest, waiter: Option<(Reply, Instant, TaskState)>) {
        if self.queue.len() >= self.most
            && let Some(dropped) = self.queue.pop_front()
        {
            self.in_flight -= usize::from(dropped.under_way);
            warn!(
                window_id = dropped.request.window_id,
                "too many ends that the server has not heard of: it learns of this one when the agent connects anew"
            );
        }
        self.changed = true;
        self.queue.push_back(Close {
            request,
            under_way: false,
            waiter,
        });
    }

    /// The next to be told, if there is one and it is time.
    pub(super) fn depart(&mut self, now: Instant) -> Option<CloseTaskRequest> {
        // After a failure one is sent to find out how it stands.
        let room = if self.retry_at.is_some() { 1 } else { CALLS };
        if self.in_flight >= room || self.retry_at.is_some_and(|at| at > now) {
            return None;
        }
        let close = self.queue.iter_mut().find(|close| !close.under_way)?;
        close.under_way = true;
        self.in_flight += 1;
        Some(close.request.clone())
    }

    /// The server has heard of it; returns who waited for that.
    pub(super) fn heard(&mut self, window_id: &str) -> Option<Reply> {
        self.retry_at = None;
        self.backoff.reset();
        let at = self
            .queue
            .iter()
            .position(|close| close.request.window_id == window_id)?;
        let close = self.queue.remove(at)?;
        self.changed = true;
        self.in_flight -= usize::from(close.under_way);
        close.waiter.map(|(reply, _, _)| reply)
    }

    /// The server was not reached.
    pub(super) fn failed(&mut self, window_id: &str, now: Instant) {
        let found = self.queue.iter_mut().find(|close| close.request.window_id == window_id);
        if let Some(close) = found.filter(|close| close.under_way) {
            close.under_way = false;
            self.in_flight -= 1;
        }
        self.retry_at = Some(now + self.backoff.next_delay());
    }

    /// The server can be reached again.
    pub(super) fn server_is_back(&mut self) {
        self.retry_at = None;
        self.backoff.reset();
    }

    /// Those who have waited long enough, with what they are told.
    pub(super) fn overdue(&mut self, now: Instant) -> Vec<(Reply, TaskState)> {
        let mut over = vec![];
        for close in &mut self.queue {
            if let Some((reply, _, state)) = close.waiter.take_if(|(_, until, _)| *until <= now) {
                over.push((reply, state));
            }
        }
        over
    }

    /// When there is something to do.
    pub(super) fn next_timer(&self) -> Option<Instant> {
        let waiters = self.queue.iter().filter_map(|close| close.waiter.as_ref());
        let waits = waiters.map(|(_, until, _)| *until);
        let idle = self.queue.iter().any(|close| !close.under_way);
        waits.chain(self.retry_at.filter(|_| idle && self.in_flight == 0)).min()
    }
}
