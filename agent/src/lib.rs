//! (in the making)
pub mod api;
pub mod attest;
pub mod svids;
pub mod sync;
pub mod view;
