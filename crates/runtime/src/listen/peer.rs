//! Who is at the other end, and how many of them.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

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
}

/// Connections at a time, by peer.
#[derive(Debug, Clone)]
pub(super) struct PeerCounts {
    limit: u32,
    open: Arc<Mutex<HashMap<PeerKey, u32>>>,
}

/// One connection of a peer, until dropped.
#[derive(Debug)]
pub(super) struct Counted {
    counts: PeerCounts,
    key: PeerKey,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum PeerKey {
    Ip(IpAddr),
    Uid(u32),
}

// === impl ConnInfo ===

impl ConnInfo {
    /// Of a connection that has begun.
    pub fn new(peer: Peer, peer_certificates: Option<Arc<[CertificateDer<'static>]>>) -> Self {
        Self {
            peer,
            peer_certificates,
            closing: CancellationToken::new(),
        }
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
    fn key(&self) -> PeerKey {
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
    pub(super) fn new(limit: u32) -> Self {
        Self {
            limit,
            open: Arc::default(),
        }
    }

    /// Counts one more connection of `peer`; `None` if it has as many as it may.
    pub(super) fn admit(&self, peer: &Peer) -> Option<Counted> {
        let key = peer.key();
        let mut open = self.lock();
        let count = open.entry(key).or_insert(0);
        if *count >= self.limit {
            return None;
        }
        *count += 1;
        drop(open);
        Some(Counted {
            counts: self.clone(),
            key,
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PeerKey, u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut open = self.counts.lock();
        if let Some(count) = open.get_mut(&self.key) {
            *count -= 1;
            // Peers that left must not stay in the map for ever.
            if *count == 0 {
                open.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> Peer {
        Peer::Tcp(address.parse().unwrap())
    }

    #[test]
    fn a_peer_is_counted_by_address_network_or_uid_and_forgotten_when_it_left() {
        let counts = PeerCounts::new(1);
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
