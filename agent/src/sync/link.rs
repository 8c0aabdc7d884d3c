//! The present way to the server, for those who only want to make a call over it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use mayfly_proto::status::Reason;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::call::CallError;

/// Shared between the task that keeps the connection and those who use it.
#[derive(Debug, Default)]
pub struct Link {
    channel: ArcSwapOption<Channel>,
    heard: watch::Sender<Option<Instant>>,
    doubt: Notify,
    poll_soon: Arc<Notify>,
}

impl Link {
    /// Without a connection.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The channel that the agent's own identity goes over; `None` if there is no way to the server.
    pub fn channel(&self) -> Option<Channel> {
        self.channel.load().as_deref().cloned()
    }

    pub(super) fn set(&self, channel: Option<Channel>) {
        self.channel.store(channel.map(Arc::new));
    }

    /// When the server was last heard, `None` while it is known to be away. Only that it went or came wakes a receiver.
    pub fn heard(&self) -> watch::Receiver<Option<Instant>> {
        self.heard.subscribe()
    }

    pub(super) fn set_heard(&self, heard: Option<Instant>) {
        self.heard
            .send_if_modified(|before| std::mem::replace(before, heard).is_some() != heard.is_some());
    }

    /// Brings the next polling round forward.
    pub(super) fn poll_soon(&self) {
        self.poll_soon.notify_one();
    }

    pub(super) fn poll_signal(&self) -> Arc<Notify> {
        Arc::clone(&self.poll_soon)
    }

    /// Has the keeper of the connection find out whether the server still wants this agent, if `error` says that it
    /// does not. The call may have gone over a connection that a renewal has just replaced, so it is no proof.
    pub(super) fn report(&self, error: &CallError) {
        if error.refusal().is_some_and(|reason| reason != Reason::Unknown) {
            self.doubt.notify_one();
        }
    }

    /// Waits until somebody was refused.
    pub(super) async fn doubted(&self) {
        self.doubt.notified().await;
    }
}
