//! The present way to the server, for those who only want to make a call over it.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use mayfly_proto::status::Reason;
use tokio::sync::{Notify, watch};
use tonic::transport::Channel;

use super::call::CallError;

/// Shared between the task that keeps the connection and those who use it.
#[derive(Debug, Default)]
pub struct Link {
    channel: ArcSwapOption<Channel>,
    connected: watch::Sender<bool>,
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

    /// Whether the server is being followed; each time that this becomes true it has just been reached (again).
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.subscribe()
    }

    pub(super) fn set_connected(&self, connected: bool) {
        self.connected
            .send_if_modified(|before| std::mem::replace(before, connected) != connected);
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
