//! Following the server over one connection: by the watch stream if it has one, else by polling.

use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;

use super::call::CallError;
use super::changes::WatchEvent;
use super::holdings::{Applied, Holdings};
use super::link::Link;
use super::poll::Poller;
use super::watch::WatchStream;
use crate::news::Offer;

/// How the server is followed.
pub(super) enum Follower {
    Watch { stream: Box<WatchStream>, since: Instant },
    Poll { poller: Poller, since: Instant },
}

/// Why the following ended.
pub(super) enum Break {
    Failed(CallError),
    /// The two sides hold different things.
    Diverged,
    /// A call was refused: whether the agent is still wanted shows at the next attempt to follow.
    Doubt,
}

// === impl Follower ===

impl Follower {
    /// By the watch stream if the server has it, else by polling.
    pub(super) async fn open(channel: &Channel, link: &Link, holdings: &Holdings) -> Result<Self, CallError> {
        let since = Instant::now();
        match WatchStream::open(channel.clone(), holdings).await {
            Ok(stream) => {
                holdings.news().set_offer(Offer::Tasks);
                Ok(Self::Watch {
                    stream: Box::new(stream),
                    since,
                })
            }
            Err(error) if error.code() == Code::Unimplemented => {
                let poller = Poller::new(channel.clone(), link.poll_signal());
                holdings.news().set_offer(Offer::Nothing);
                poller.post_status(holdings.view().own().sequence_number).await;
                Ok(Self::Poll { poller, since })
            }
            Err(error) => Err(error),
        }
    }

    /// The next step; `None` for one that changed nothing.
    ///
    /// # Cancel safety
    /// Safe: both ways are.
    pub(super) async fn next(&mut self, holdings: &mut Holdings) -> Result<Option<Applied>, Break> {
        match self {
            Self::Watch { stream, .. } => match stream.next(holdings).await.map_err(Break::Failed)? {
                WatchEvent::Applied(applied) => Ok(Some(applied)),
                WatchEvent::Alive | WatchEvent::Agreed => Ok(None),
                WatchEvent::Diverged => Err(Break::Diverged),
            },
            Self::Poll { poller, .. } => poller.next(holdings).await.map(Some).map_err(Break::Failed),
        }
    }

    pub(super) fn mode(&self) -> &'static str {
        match self {
            Self::Watch { .. } => "watch",
            Self::Poll { .. } => "poll",
        }
    }

    pub(super) fn since(&self) -> Instant {
        match self {
            Self::Watch { since, .. } | Self::Poll { since, .. } => *since,
        }
    }
}
