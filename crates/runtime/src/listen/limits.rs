//! What one listener lets its peers do.

use std::time::Duration;

/// Bounds of one listener. The defaults are for TCP; [`Limits::unix`] and [`Limits::pages`] differ where they must.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time, handshakes included; more are closed at once.
    pub max_connections: u32,
    /// Connections at a time of one peer: an IPv4 address, an IPv6 /64, or a uid on a Unix socket.
    pub max_connections_per_peer: u32,
    /// New connections of one peer per second; those that come faster wait before anything is done for them, within
    /// `handshake_timeout`, and count as connections meanwhile. `None`: as many as come; with TLS handshakes have shares.
    pub max_opens_per_second: Option<u32>,
    /// Open requests at a time of one peer, on all its connections; more are refused before anything is done for them
    /// (`REFUSED_STREAM`, RFC 9113 §8.7). `None`: two for each connection that it may have.
    pub max_requests_per_peer: Option<u32>,
    /// Requests per second of one peer that has shown no certificate, on all its connections; those that come faster wait
    /// before anything is done for them, and are refused (as above) if they would wait for more than two seconds.
    /// `None`: as many as come.
    pub max_requests_per_second: Option<u32>,
    /// TLS handshakes at a time, a quarter of them for one peer; more wait within their timeout. A peer that sends
    /// nothing takes no slot: it gets one when its first message is here.
    pub max_handshakes: u32,
    /// For the acceptor: from `accept` to a connection that HTTP can be spoken on, waiting for a slot included.
    pub handshake_timeout: Duration,
    /// From then to the end of the HTTP/2 preface (24 bytes); after it the connection is dropped.
    pub preface_timeout: Duration,
    /// From then to the first request; after it the connection is closed with GOAWAY.
    pub first_request_timeout: Duration,
    /// Without an open request; after it the connection is closed with GOAWAY. `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Open requests of one connection (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    pub max_streams: u32,
    /// Size of a request's headers, decoded.
    pub max_header_list_bytes: u32,
    /// Size of a frame that the peer may send, 16,384 to 16,777,215.
    pub max_frame_bytes: u32,
    /// What a peer may send on one stream before it is read: the most that an unread request costs.
    pub stream_window_bytes: u32,
    /// What a peer may send on all streams before it is read.
    pub connection_window_bytes: u32,
    /// What is buffered for a peer that does not read, per stream.
    pub send_buffer_bytes: u32,
    /// Streams that the peer opened and reset before we looked at them (rapid reset); more end the connection.
    pub max_pending_resets: usize,
    /// Streams that we reset because of the peer's errors; more end the connection.
    pub max_error_resets: usize,
    /// How often a silent peer is pinged. `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// How long its answer may take; after it the connection is dropped.
    pub keepalive_timeout: Duration,
    /// Age at which a connection is closed with GOAWAY, drawn from this and 10 % less, so that peers that came together
    /// do not come back together. `None`: never.
    pub max_connection_age: Option<Duration>,
    /// How long requests may still run after GOAWAY by age or by [`ConnInfo::close`](super::ConnInfo::close).
    pub max_connection_age_grace: Duration,
    /// How long requests may still run after the stop.
    pub drain_timeout: Duration,
}

// === impl Limits ===

impl Limits {
    /// For a Unix socket: the kernel tells when a peer is gone, so nobody is pinged, and clients keep a connection for
    /// their whole life, so none is closed for its age or for being idle. Connecting costs a peer next to nothing here.
    /// Nobody shows a certificate and the kernel vouches for everybody, so requests are not paced.
    pub fn unix() -> Self {
        Self {
            max_connections: 8_192,
            max_opens_per_second: Some(500),
            max_requests_per_second: None,
            idle_timeout: None,
            keepalive_interval: None,
            max_connection_age: None,
            ..Self::default()
        }
    }

    /// For pages that probes and scrapers read.
    pub fn pages() -> Self {
        Self {
            max_connections: 256,
            max_connections_per_peer: 64,
            first_request_timeout: Duration::from_secs(10),
            idle_timeout: Some(Duration::from_secs(120)),
            ..Self::default()
        }
    }

    pub(super) fn requests_per_peer(&self) -> u32 {
        self.max_requests_per_peer
            .unwrap_or(self.max_connections_per_peer.saturating_mul(2))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_connections_per_peer: 1_024,
            max_opens_per_second: None,
            max_requests_per_peer: None,
            max_requests_per_second: Some(1_000),
            max_handshakes: 128,
            handshake_timeout: Duration::from_secs(10),
            preface_timeout: Duration::from_secs(10),
            first_request_timeout: Duration::from_secs(60),
            idle_timeout: Some(Duration::from_secs(15 * 60)),
            max_streams: 256,
            max_header_list_bytes: 16 * 1024,
            max_frame_bytes: 16 * 1024,
            stream_window_bytes: 64 * 1024 - 1,
            connection_window_bytes: 256 * 1024,
            send_buffer_bytes: 64 * 1024,
            max_pending_resets: 20,
            max_error_resets: 128,
            keepalive_interval: Some(Duration::from_secs(30)),
            keepalive_timeout: Duration::from_secs(20),
            max_connection_age: Some(Duration::from_secs(60 * 60)),
            max_connection_age_grace: Duration::from_secs(60),
            drain_timeout: Duration::from_secs(10),
        }
    }
}
