//! A transparency log by itself: what an entry hashes to, how the log is kept, signed, proved and witnessed.
//!
//! The formats are those of C2SP, so that tools we did not write can check a log of ours:
//!
//! | format | here |
//! |---|---|
//! | signed-note | [`note`] |
//! | tlog-checkpoint | [`checkpoint`] |
//! | tlog-cosignature, Ed25519 | [`cosignature`] |
//! | tlog-tiles | [`tile`], [`bundle`], [`tree`], [`files`] |
//! | tlog-proof | [`proof`] |
//! | tlog-witness | [`witness`] |
//!
//! ```text
//! entry ──leaf_hash──▶ Tree ──▶ full tiles, root ──▶ Checkpoint ──sign──▶ SignedCheckpoint ──▶ witnesses cosign
//! ```
//!
//! Not here: what an entry says (`mayfly-audit`), where a server keeps its log (`mayfly-store`), the network. Nothing
//! here panics on bytes of others, and all of it is bounded. Start at [`tree::Tree`] to write a log, at
//! [`checkpoint::SignedCheckpoint::open`] to trust one.

pub mod bundle;
pub mod checkpoint;
pub mod cosignature;
pub mod files;
mod hash;
pub mod merkle;
pub mod note;
mod number;
pub mod proof;
pub mod tile;
pub mod tree;
pub mod witness;

pub use hash::{Hash, HashError, leaf_hash};
