//! A caller as the holder of windows: what `tasks` asks of a process.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream::{BoxStream, unfold};
use futures_util::{FutureExt, StreamExt};
use mayfly_runtime::Chain;

use super::caller::{Caller, CallerError, Standing};
use crate::tasks::{Ancestor, Holder, HolderError, HolderEvent, ProcessKey, SelectorSet, Tracer};

#[async_trait]
impl Holder for Caller {
    fn key(&self) -> ProcessKey {
        ProcessKey {
            pid: self.pid(),
            start_ticks: self.process.start_time(),
        }
    }

    fn uid(&self) -> u32 {
        Self::uid(self)
    }

    fn is_unchanged(&self) -> bool {
        self.ensure_unchanged().is_ok()
    }

    fn tracer(&self, descendants: bool) -> Option<Tracer> {
        let found = self.process.tracer(descendants)?;
        Some(Tracer {
            pid: found.pid,
            traced: found.traced,
        })
    }

    fn ancestors(&self) -> Vec<Ancestor> {
        let above = self.process.ancestors().into_iter();
        above
            .map(|(pid, start_ticks)| ProcessKey { pid, start_ticks })
            .collect()
    }

    async fn attest(&self, max_age: Duration) -> Result<SelectorSet, HolderError> {
        Self::attest(self, max_age).await.map_err(|error| match error {
            CallerError::Over => HolderError::Over,
            CallerError::Busy => HolderError::Busy,
            CallerError::Attest(error) => HolderError::Unclear(Chain(&error).to_string()),
        })
    }

    fn events(self: Arc<Self>) -> BoxStream<'static, HolderEvent> {
        let looked_after = self.look_after();
        let mut standing = self.standing();
        // What changed just before is told as well.
        standing.mark_changed();
        let events = unfold(Some((self, standing, looked_after)), async |state| {
            let (caller, mut standing, looked_after) = state?;
            let event = loop {
                tokio::select! {
                    biased;
                    () = caller.exited() => break HolderEvent::Exited,
                    // It lives as long as the caller.
                    _ = standing.changed() => {}
                }
                let now = standing.borrow_and_update().clone();
                match now {
                    Standing::Unknown => {}
                    Standing::Known(selectors) => break HolderEvent::Selectors(selectors),
                    Standing::Over => break over(&caller).await,
                    // A moment's trouble of an attestor shall not end work: it counts if it lasts.
                    Standing::Unclear => match Caller::attest(&caller, Duration::ZERO).await {
                        Ok(selectors) => break HolderEvent::Selectors(selectors),
                        Err(CallerError::Over) => break over(&caller).await,
                        Err(CallerError::Busy) => tokio::time::sleep(Duration::from_millis(500)).await,
                        Err(CallerError::Attest(_)) => break HolderEvent::Unclear,
                    },
                }
            };
            let is_last = matches!(event, HolderEvent::Exited | HolderEvent::Changed);
            Some((event, (!is_last).then_some((caller, standing, looked_after))))
        });
        events.boxed()
    }
}

/// A process that is over has ended or is another.
async fn over(caller: &Caller) -> HolderEvent {
    match caller.exited().now_or_never() {
        Some(()) => HolderEvent::Exited,
        None => HolderEvent::Changed,
    }
}
