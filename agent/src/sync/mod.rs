//! The agent's side of the server: who we are to it, what it lets us serve, and the certificates it signs.
//!
//! ```text
//!   trust ──▶ attest ──▶ identity ──▶ connection ──▶ watch (pushed)  ──▶ holdings ──▶ View
//!   which     prove the   own key      mTLS,          poll (SPIRE's      what is      for everybody
//!   server    node        and SVID     one at a time  servers)           applied      else
//! ```
//!
//! One task, the [`Keeper`], owns all of it and never gives up: whatever fails is tried again, with pauses that grow and
//! that the server can lengthen. Others meet it in two places only: the published [`View`](crate::view::View), and the
//! [`Link`] over which [`ServerIssuer`] gets certificates signed.
//!
//! A lost connection changes nothing of what is served; only the server's word does. An empty answer is such a word.
//!
//! Not here: the SVIDs of workloads (`svids`), who may have them (`api`, `attest`). Start at [`Keeper`].

mod attest;
mod bundle_file;
mod call;
mod changes;
mod connection;
mod evidence;
mod follower;
mod holdings;
mod identity;
mod issuer;
mod keeper;
mod link;
mod metrics;
mod poll;
mod renew;
mod spare;
mod tasks;
mod trust;
mod watch;

#[cfg(test)]
mod test_server;
#[cfg(test)]
mod tests;

pub use attest::AttestError;
pub use bundle_file::{BundleFileError, BundleUrl, BundleUrlError};
pub use call::CallError;
pub use changes::{Changes, WatchEvent};
pub use connection::{Connector, channel_settings};
pub use evidence::Evidence;
pub use holdings::{Applied, Holdings, Position};
pub use identity::IdentityError;
pub use issuer::ServerIssuer;
pub use keeper::{Keeper, KeeperParts, StartError};
pub use link::Link;
pub use metrics::SyncMetrics;
pub use tasks::{NO_TASKS, ServerTasks};
pub use trust::{Trust, TrustError, TrustSource};

/// What we tell the server of ourselves.
pub const AGENT_VERSION: &str = concat!("mayfly-agent ", env!("CARGO_PKG_VERSION"));
