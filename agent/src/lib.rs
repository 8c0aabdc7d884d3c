//! (in the making)
pub mod api;
pub mod svids;
pub mod view;
