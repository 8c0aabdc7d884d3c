//! The Mayfly server: it issues SVIDs to attested agents, and keeps the record of having done so.
//!
//! | room | duty |
//! |---|---|
//! | [`commit`] | the one write path, and the snapshot that everyone reads |
//!
//! Start reading at `assemble`, then `app/issue`.

pub mod app;
pub mod commit;
pub mod watch;
