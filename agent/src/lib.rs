//! (in the making)
pub mod api;
pub mod assemble;
pub mod attest;
pub mod config;
pub mod svids;
pub mod sync;
pub mod view;
