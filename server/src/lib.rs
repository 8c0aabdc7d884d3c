//! The Mayfly server: it issues SVIDs to attested agents, and keeps the record of having done so.
//!
//! | room | duty |
//! |---|---|
//! | [`config`], [`assemble`] | settings as checked; the one place that names concrete parts |
//! | [`api`] | one file per gRPC service: convert, ask `app`, convert back |
//! | [`app`] | one file per use case: what may happen |
//! | [`pages`] | what is shown to everyone by HTTP |
//! | [`commit`] | the one write path, and the snapshot that everyone reads |
//! | [`watch`] | which agents a commit concerns, and what to tell them |
//!
//! Start reading at [`assemble`], then [`app::issue`]; `docs/architecture.md` has the whole way of an SVID.

pub mod api;
pub mod app;
pub mod assemble;
pub mod commit;
pub mod config;
pub mod pages;
pub mod watch;
