//! TLS between parties that know each other by X.509-SVID: rustls verifiers, the presented identity, and
//! configurations.
//!
//! One rule holds for both directions: a chain counts only against the bundle of the trust domain that its leaf names,
//! and then only for identities that the caller named in an [`Authorize`]; there is no default for that. Bundles and
//! the own SVID are published by swapping a pointer, so a rotation needs no new configuration and no restart.
//! TLS 1.3 only and never a resumed session: rustls does not verify the peer's chain again when it resumes one.
//!
//! Not here: path validation itself (`mayfly_svid::verify`), where bundles and keys come from.
//! With the feature `workload` there is more, for services: [`kit`] follows the local agent, admits peers by their tasks
//! and ends what is revoked.
//!
//! Start at [`server_config`] and [`client_config`]; after the handshake, [`peer_svid`].

mod bundles;
mod config;
pub mod dangerous;
#[cfg(feature = "workload")]
pub mod kit;
mod resolver;
mod verifier;

pub use bundles::{AnchorSource, BundleSet};
pub use config::{client_config, peer_svid, server_config};
pub use resolver::{PublishError, SvidResolver};
pub use verifier::{Authorize, ClientAuth, PeerError, SpiffeClientVerifier, SpiffeServerVerifier};

#[cfg(test)]
mod tests;
