//! The standards' nouns: SPIFFE IDs, X.509-SVIDs, trust bundles; how they are parsed and verified.
//!
//! Everything here is a value or a pure function: no network, no disk, no clock (callers pass the time). What was
//! parsed is what is used: [`verify::verify_x509_svid`] returns the [`X509Svid`] that it checked, never a second
//! reading.
//!
//! Not here: issuing (`mayfly-ca`), keys (`mayfly-keys`), TLS (`mayfly-verify`), registration nouns (`mayfly-model`).
//! Start at [`SpiffeId`], then [`X509Svid`], then [`Bundle`].

mod bundle;
mod bundle_format;
mod id;
mod serial;
mod task;
#[cfg(test)]
mod test_certs;
mod timestamp;
pub mod verify;
mod x509;

pub use bundle::{Bundle, JwtAuthority, TrustAnchors, UnusableAuthority, X509Authority};
pub use bundle_format::BundleFormatError;
pub use id::{IdError, SpiffeId, TrustDomain};
pub use serial::Serial;
pub use task::{
    TASK_EXTENSION_ARCS, TASK_EXTENSION_OID, TaskExtension, TaskExtensionError, TaskPath, TaskRoot, WindowId,
    WindowIdError,
};
pub use timestamp::Timestamp;
pub use x509::{LeafFields, X509Svid, X509SvidError, public_key_id};
