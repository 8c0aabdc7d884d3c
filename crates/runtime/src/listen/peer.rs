//! Who is at the other end, and how many of them.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Limits;

/// The other end of a connection, as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Peer {
    /// An address, which anybody on the path may have written.
    Tcp(SocketAddr),
    /// A process of this machine.
    Unix(UnixPeer),
}

/// Credentials of the process that connected, as of `connect` (`SO_PEERCRED`, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnixPeer {
    /// Its process ID, which may have been given to another process since. `None` if the kernel did not say; 0 if the
    /// process is not visible from our PID namespace.
    pub pid: Option<i32>,
    /// Its effective user ID.
    pub uid: u32,
    /// Its effective group ID.
    pub gid: u32,
}

/// What is known of the connection that a request came on; an extension of every request. Clones are of the same
/// connection.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// Who is at the other end.
    pub peer: Peer,
    /// The certificates that the peer showed over TLS and that the configured verifier accepted: DER, leaf first, then
    /// as sent. `None` if it showed none.
    pub peer_certificates: Option<Arc<[CertificateDer<'static>]>>,
    closing: CancellationToken,
    finding: Arc<OnceLock<Arc<dyn Any + Send + Sync>>>,
}

/// Connections and requests at a time, by peer.
#[derive(Debug, Clone)]
pub(super) struct PeerCounts {
    connections: u32,
    requests: u32,
    turns: usize,
    open: Arc<Mutex<HashMap<PeerKey, Open>>>,
}

/// What a peer has open.
#[derive(Debug)]
struct Open {
    connections: u32,
    requests: Arc<AtomicU32>,
    turns: Arc<Semaphore>,
}

/// One connection of a peer, until dropped.
#[derive(Debug)]
pub(super) struct Counted {
    counts: PeerCounts,
    key: PeerKey,
    requests: PeerRequests,
}

/// What the connections of a peer share: its open requests, and the turns in which they are read.
#[derive(Debug, Clone)]
pub(super) struct PeerRequests {
    open: Arc<AtomicU32>,
    limit: u32,
    turns: Arc<Semaphore>,
}

/// What peers are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum PeerKey {
    Ip(IpAddr),
    Uid(u32),
}

/// So many at a time for each peer; who comes later waits.
#[derive(Debug)]
pub(super) struct PeerShares {
    each: usize,
    shares: Mutex<HashMap<PeerKey, Weak<Semaphore>>>,
}

/// So many per second for each peer; who comes too early waits.
#[derive(Debug)]
pub(super) struct PeerPace {
    per_second: u32,
    /// Who would have to wait for longer is refused: a peer must not fill its bucket for hours.
    patience: Duration,
    /// When each peer's bucket will be full again: the only thing one has to know of a bucket.
    full_at: Mutex<HashMap<PeerKey, Instant>>,
}

// === impl ConnInfo ===

impl ConnInfo {
    /// Of a connection that has begun.
    pub fn new(peer: Peer, peer_certificates: Option<Arc<[CertificateDer<'static>]>>) -> Self {
        Self {
            peer,
            peer_certificates,
            closing: CancellationToken::new(),
            finding: Arc::default(),
        }
    }

    /// What `find` says of the connection, which does not change while it lives: the first request asks, the others share
    /// the answer.
    ///
    /// # Panics
    /// Something of another type was asked before.
    pub fn once<T: Any + Send + Sync>(&self, find: impl FnOnce() -> T) -> Arc<T> {
        let found = Arc::clone(self.finding.get_or_init(|| Arc::new(find())));
        found.downcast().expect("one question is asked of a connection")
    }

    /// Closes the connection: GOAWAY now, and what runs may end within
    /// [`Limits::max_connection_age_grace`](super::Limits::max_connection_age_grace).
    pub fn close(&self) {
        self.closing.cancel();
    }

    /// Cancelled when the connection begins to close, whatever the reason. A long stream that ends itself then ends
    /// with a status instead of being cut.
    pub fn closing(&self) -> CancellationToken {
        self.closing.clone()
    }

    /// The process at the other end of a Unix socket.
    pub fn unix_peer(&self) -> Option<UnixPeer> {
        match self.peer {
            Peer::Unix(peer) => Some(peer),
            Peer::Tcp(_) => None,
        }
    }
}

// === impl Peer ===

impl Peer {
    pub(super) fn key(&self) -> PeerKey {
        match self {
            Self::Unix(peer) => PeerKey::Uid(peer.uid),
            Self::Tcp(address) => PeerKey::Ip(match address.ip().to_canonical() {
                // A single host can have all 2^64 addresses of its network.
                IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
                v4 @ IpAddr::V4(_) => v4,
            }),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(UnixPeer { pid, uid, .. }) => write!(f, "uid {uid} pid {}", pid.unwrap_or(0)),
        }
    }
}

impl From<tokio::net::unix::UCred> for UnixPeer {
    fn from(credentials: tokio::net::unix::UCred) -> Self {
        Self {
            pid: credentials.pid(),
            uid: credentials.uid(),
            gid: credentials.gid(),
        }
    }
}

// === impl PeerCounts ===

impl PeerCounts {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            connections: limits.max_connections_per_peer,
            requests: limits.requests_per_peer(),
            turns: turns(),
            open: Arc::default(),
        }
    }

    /// Counts one more connection of `peer`; `None` if it has as many as it may, or could not make a request on it.
    pub(super) fn admit(&self, peer: &Peer) -> Option<Counted> {
        let key = peer.key();
        let mut all = self.lock();
        let open = all.entry(key).or_insert_with(|| Open {
            connections: 0,
            requests: Arc::default(),
            turns: Arc::new(Semaphore::new(self.turns)),
        });
        if open.connections >= self.connections || open.requests.load(Ordering::Relaxed) >= self.requests {
            return None;
        }
        open.connections += 1;
        let requests = PeerRequests {
            open: Arc::clone(&open.requests),
            limit: self.requests,
            turns: Arc::clone(&open.turns),
        };
        drop(all);
        Some(Counted {
            counts: self.clone(),
            key,
            requests,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerKey, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counted {
    pub(super) fn requests(&self) -> &PeerRequests {
        &self.requests
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut all = self.counts.lock();
        if let Some(open) = all.get_mut(&self.key) {
            open.connections -= 1;
            // Peers that left must not stay in the map for ever.
            if open.connections == 0 {
                all.remove(&self.key);
            }
        }
    }
}

// === impl PeerRequests ===

impl PeerRequests {
    /// Counts one more request, unless the peer has as many as it may.
    pub(super) fn begin(&self) -> bool {
        let one_more = |open| (open < self.limit).then_some(open + 1);
        self.open
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
            .is_ok()
    }

    /// Whoever of its connections is read has one of these.
    pub(super) fn turns(&self) -> Arc<Semaphore> {
        Arc::clone(&self.turns)
    }

    /// One that was counted is over.
    pub(super) fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many threads one peer may keep busy: half of those that there are, so that none has all of them.
pub(super) fn turns() -> usize {
    std::thread::available_parallelism().map_or(1, |threads| (threads.get() / 2).max(1))
}

// === impl PeerShares ===

impl PeerShares {
    pub(super) fn new(each: usize) -> Self {
        Self {
            each,
            shares: Mutex::default(),
        }
    }

    /// Waits until `peer` has less than its share.
    ///
    /// # Cancel safety
    /// If dropped, the place in the queue is lost.
    pub(super) async fn one_of(&self, peer: &Peer) -> Option<OwnedSemaphorePermit> {
        // Never closed, so always granted.
        self.share(peer).acquire_owned().await.ok()
    }

    /// The share of `peer`.
    pub(super) fn share(&self, peer: &Peer) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&peer.key()).and_then(Weak::upgrade) {
            return share;
        }
        // Peers that left must not stay in the map for ever. Seldom: only when it is about to grow.
        if shares.len() == shares.capacity() {
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(self.each));
        shares.insert(peer.key(), Arc::downgrade(&share));
        share
    }
}

// === impl PeerPace ===

impl PeerPace {
    pub(super) fn new(per_second: u32, patience: Duration) -> Self {
        Self {
            per_second,
            patience,
            full_at: Mutex::default(),
        }
    }

    /// How long the newest of `peer` has to wait; `None` if that is too long, and nothing is counted then. A tenth of a
    /// second's worth may come at once.
    pub(super) fn wait_of(&self, peer: &Peer) -> Option<Duration> {
        let now = Instant::now();
        let each = Duration::from_secs(1) / self.per_second.max(1);
        let mut all = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        // Full buckets are as good as none. Seldom: only when the map is about to grow.
        if all.len() == all.capacity() {
            all.retain(|_, full_at| *full_at > now);
        }
        let full_at = all.entry(peer.key()).or_insert(now);
        let next = (*full_at).max(now) + each;
        let wait = next.saturating_duration_since(now + Duration::from_millis(100));
        if wait > self.patience {
            return None;
        }
        *full_at = next;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Attack 20
    #[test]
    fn a_peer_with_all_its_requests_gets_no_more_connections() {
        let counts = PeerCounts::new(&Limits {
            max_requests_per_peer: Some(1),
            ..Limits::default()
        });
        let peer = tcp("192.0.2.1:1");
        let first = counts.admit(&peer).unwrap();
        assert!(first.requests().begin() && !first.requests().begin());
        assert!(counts.admit(&peer).is_none() && counts.admit(&tcp("192.0.2.2:1")).is_some());
        first.requests().end();
        assert!(counts.admit(&peer).is_some());
    }

    // Attack 5
    #[tokio::test(start_paused = true)]
    async fn a_peer_that_comes_too_often_waits_and_others_do_not() {
        let pace = PeerPace::new(100, Duration::from_millis(30));
        let (one, other) = (tcp("192.0.2.1:1"), tcp("192.0.2.2:1"));
        let waits: Vec<Option<Duration>> = (0..15).map(|_| pace.wait_of(&one)).collect();
        assert_eq!(waits[9], Some(Duration::ZERO));
        let after = [10, 20, 30].map(|millis| Some(Duration::from_millis(millis)));
        assert_eq!(waits[10..13], after);
        assert_eq!(
            waits[13..],
            [None, None],
            "too long, and each of them costs it nothing more"
        );
        assert_eq!(pace.wait_of(&other), Some(Duration::ZERO));
        tokio::time::advance(Duration::from_millis(10)).await;
        assert_eq!(pace.wait_of(&one), Some(Duration::from_millis(30)));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pace.wait_of(&one), Some(Duration::ZERO));
        for n in 0..10_000_u32 {
            tokio::time::advance(Duration::from_millis(10)).await;
            pace.wait_of(&Peer::Tcp((std::net::Ipv4Addr::from(n), 1).into()));
        }
        assert!(pace.full_at.lock().unwrap().len() < 100);
    }

    #[tokio::test]
    async fn a_peer_has_its_share_and_leaves_nothing_behind() {
        let shares = PeerShares::new(1);
        let held = shares.one_of(&tcp("192.0.2.1:1")).await.unwrap();
        let (same, other) = (tcp("192.0.2.1:2"), tcp("192.0.2.2:1"));
        assert!(futures_util::poll!(Box::pin(shares.one_of(&same))).is_pending());
        assert!(futures_util::poll!(Box::pin(shares.one_of(&other))).is_ready());
        drop(held);
        assert!(futures_util::poll!(Box::pin(shares.one_of(&same))).is_ready());
        for n in 0..10_000_u32 {
            let _ = shares.one_of(&Peer::Tcp((std::net::Ipv4Addr::from(n), 1).into())).await;
        }
        assert!(shares.shares.lock().unwrap().len() < 100);
    }

    fn tcp(address: &str) -> Peer {
        Peer::Tcp(address.parse().unwrap())
    }

    #[test]
    fn a_peer_is_counted_by_address_network_or_uid_and_forgotten_when_it_left() {
        let counts = PeerCounts::new(&Limits {
            max_connections_per_peer: 1,
            ..Limits::default()
        });
        let held = [
            counts.admit(&tcp("192.0.2.1:1")).unwrap(),
            counts.admit(&tcp("[2001:db8::1]:1")).unwrap(),
            counts
                .admit(&Peer::Unix(UnixPeer {
                    pid: Some(1),
                    uid: 7,
                    gid: 7,
                }))
                .unwrap(),
        ];
        assert!(counts.admit(&tcp("192.0.2.1:2")).is_none(), "same address, other port");
        assert!(
            counts.admit(&tcp("[::ffff:192.0.2.1]:2")).is_none(),
            "the same address in IPv6 clothes"
        );
        assert!(counts.admit(&tcp("[2001:db8::ffff:1]:2")).is_none(), "same /64");
        assert!(counts.admit(&tcp("[2001:db8:0:1::1]:2")).is_some(), "another /64");
        assert!(
            counts
                .admit(&Peer::Unix(UnixPeer {
                    pid: Some(2),
                    uid: 7,
                    gid: 8
                }))
                .is_none(),
            "same uid"
        );
        drop(held);
        assert!(counts.lock().is_empty());
    }
}
