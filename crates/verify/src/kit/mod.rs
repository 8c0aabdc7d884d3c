//! The verifier kit: protects a service with a task, and enforces what is revoked.
//!
//! ```text
//!   agent ──┬── Workload API ──▶ own SVIDs, bundles, lists ──┐
//!           └── Checkpoint ◀──▶ revoked windows, lease ──────┴─▶ Source
//!                                                                 │
//!      Acceptor ── handshake ──▶ Matcher, deny set, lease ────────┤ admit
//!      Connector      │                                           │
//!                     ▼                                           ▼
//!                 Connection, Peer ◀── registry ◀── revoked, window over, word run out: end
//! ```
//!
//! A peer counts if its certificate is an SVID under the bundle of its own trust domain, if the [`Matcher`] wants it,
//! if neither it nor its window is revoked and the window has not ended, and, for a strict service, while the agent's
//! word on that is fresh. The same holds for connections that are open: they end when it does not hold any more.
//!
//! One decision stands for all: `State::admit`. Not here: who may have a task (the server), attestation (the agent).
//! Start at [`Source`], then [`Acceptor`]; `docs/verify.md` has an example and the limits.

mod acceptor;
mod checkpoint;
mod connection;
mod connector;
mod crl;
mod deny;
mod keeper;
mod layer;
mod line;
mod matcher;
mod own;
mod peer;
mod registry;
mod serve;
mod settings;
mod socket;
mod source;
mod state;
mod time;
mod verifier;
mod workload;

pub use acceptor::{Acceptor, ConnectError};
pub use connection::Connection;
pub use connector::Connector;
pub use layer::{PeerLayer, WithPeer};
pub use matcher::{Matcher, MatcherError};
pub use mayfly_runtime::CancellationToken;
pub use own::Show;
pub use peer::{Ended, Peer};
pub use settings::{Lifetime, Settings, SettingsError, Staleness};
pub use source::{Source, SourceError, Status};
pub use state::Refusal;

#[cfg(test)]
mod tests;
