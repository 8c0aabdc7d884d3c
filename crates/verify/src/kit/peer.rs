//! Who is at the other end of a connection, as long as it is so.

use std::fmt;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use mayfly_runtime::CancellationToken;
use mayfly_svid::{Serial, SpiffeId, TaskExtension, Timestamp, WindowId, X509Svid};
use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpStream;

use super::registry::Registered;
use super::state::{Refusal, State};
use crate::PeerError;

/// Who is at the other end of a connection. Clones are handles of the same one, and [`is_over`] tells when the
/// authority it was let in with has ended, also after the connection is gone.
///
/// [`is_over`]: Peer::is_over
#[derive(Clone)]
pub struct Peer {
    pub(crate) registered: Arc<Registered>,
}

/// Why a connection was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Ended {
    /// The peer's window or certificate was revoked.
    #[error("the peer's authority was revoked")]
    Revoked,
    /// The peer's window is over.
    #[error("the peer's window is over")]
    WindowOver,
    /// The certificate that it was let in with has expired.
    #[error("the peer's certificate has expired")]
    Expired,
    /// There is no fresh word on what is revoked, and the service is strict.
    #[error("there is no fresh word on what is revoked")]
    NoFreshWord,
    /// The authority that signed the peer's certificate was taken out of its bundle while the certificate was valid.
    #[error("the authority that signed the peer's certificate is not trusted any more")]
    AuthorityGone,
}

/// One connection that is being watched over.
pub(crate) struct Live {
    pub(crate) svid: X509Svid,
    pub(crate) task: Option<TaskExtension>,
    /// Subject to the rules of task SVIDs.
    pub(crate) is_task: bool,
    pub(crate) established: Timestamp,
    /// The moment at which it ends without any message, and what that is then called.
    pub(crate) end: Duration,
    pub(crate) ends_as: Ended,
    pub(crate) state: Arc<State>,
    /// The connection keeps it; it is gone when the connection is.
    pub(crate) socket: Weak<TcpStream>,
    over: OnceLock<Ended>,
    told: CancellationToken,
}

/// What became of ending a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Done,
    /// It had been ended before.
    Already,
    /// It was closed before.
    Gone,
    /// The kernel refused.
    Failed,
}

impl Peer {
    fn live(&self) -> &Live {
        &self.registered.live
    }

    /// Its verified SPIFFE ID.
    pub fn spiffe_id(&self) -> &SpiffeId {
        self.live().svid.spiffe_id()
    }

    /// The serial number of the certificate that it showed.
    pub fn serial(&self) -> &Serial {
        self.live().svid.serial()
    }

    /// What its certificate says about its window; `None` for a base SVID.
    pub fn task(&self) -> Option<&TaskExtension> {
        self.live().task.as_ref()
    }

    /// The window that it is inside of; `None` for a base SVID.
    pub fn window(&self) -> Option<WindowId> {
        self.live().task.map(|task| task.window_id)
    }

    /// When its window ends; `None` for a base SVID.
    pub fn closes(&self) -> Option<Timestamp> {
        self.live().task.map(|task| task.closes)
    }

    /// Whether nothing may be done in its name any more.
    pub fn is_over(&self) -> bool {
        self.ended().is_some()
    }

    /// Why its authority ended, if it has. Looks at the clock: it is never late.
    pub fn ended(&self) -> Option<Ended> {
        self.live().check()
    }

    /// Returns when its authority ends: for work that goes on beyond a request.
    ///
    /// # Cancel safety
    /// If dropped, nothing is lost.
    pub async fn over(&self) -> Ended {
        self.live().told.cancelled().await;
        *self.live().over.get().expect("set before it is told")
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("spiffe_id", self.spiffe_id())
            .field("serial", self.serial())
            .field("window", &self.window())
            .field("over", &self.live().over.get())
            .finish()
    }
}

/// What a connection is made of before it is watched over.
pub(crate) struct Admitted {
    pub(crate) svid: X509Svid,
    pub(crate) task: Option<TaskExtension>,
    pub(crate) is_task: bool,
}

impl Admitted {
    /// What a chain says whose signatures somebody else has verified.
    pub(crate) fn read(chain: &[CertificateDer<'static>]) -> Result<Self, Refusal> {
        let svid = X509Svid::from_chain(chain.to_vec()).map_err(|error| PeerError::Verify(error.into()))?;
        Self::of(svid)
    }

    pub(crate) fn of(svid: X509Svid) -> Result<Self, Refusal> {
        let task = TaskExtension::from_certificate_der(&svid.chain()[0]).map_err(|source| Refusal::Extension {
            presented: svid.spiffe_id().clone(),
            source,
        })?;
        Ok(Self {
            is_task: task.is_some(),
            svid,
            task,
        })
    }
}

impl Live {
    pub(crate) fn new(admitted: Admitted, state: Arc<State>, socket: Weak<TcpStream>) -> Self {
        let (end, ends_as) = state.end_of(&admitted);
        Self {
            svid: admitted.svid,
            task: admitted.task,
            is_task: admitted.is_task,
            established: state.time.timestamp(),
            end,
            ends_as,
            state,
            socket,
            over: OnceLock::new(),
            told: CancellationToken::new(),
        }
    }

    pub(crate) fn has_socket(&self) -> bool {
        self.socket.strong_count() > 0
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.over.get().is_some()
    }

    /// Whether it is over, by what was said and by the clocks. Ends it if nobody did yet.
    pub(crate) fn check(&self) -> Option<Ended> {
        if let Some(ended) = self.over.get() {
            return Some(*ended);
        }
        let reason = if self.state.time.now() >= self.end {
            self.ends_as
        } else if self.is_task && !self.state.is_word_fresh() {
            Ended::NoFreshWord
        } else {
            return None;
        };
        self.end(reason);
        self.over.get().copied()
    }

    /// Ends the connection: marks it, and has the kernel close it, whatever the program is doing with it.
    pub(crate) fn end(&self, reason: Ended) -> Cut {
        if self.over.set(reason).is_err() {
            return Cut::Already;
        }
        self.told.cancel();
        let cut = match self.socket.upgrade() {
            None => Cut::Gone,
            Some(socket) => match shutdown(&*socket, Shutdown::Both) {
                Ok(()) | Err(Errno::NOTCONN) => Cut::Done,
                Err(_) => Cut::Failed,
            },
        };
        if cut == Cut::Failed && self.is_task {
            self.state.add_untracked(&self.svid, self.task.as_ref(), true);
        }
        self.state.counters.ended(reason, cut);
        cut
    }
}
