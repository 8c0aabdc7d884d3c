//! (in the making)
pub mod api;
