//! What the server does, one file per use case. Here decisions are made; not here: the wire (`api`), SQL (`mayfly-store`).

pub mod agents;
pub mod archive;
pub mod attest_agent;
pub mod authorities;
pub mod bundles;
pub mod caller;
pub mod changes;
pub mod checkpoints;
pub mod debt;
pub mod definitions;
pub mod evidence;
pub mod exceptions;
pub mod issue;
pub mod lints;
pub mod meter;
pub mod mint;
pub mod people;
pub mod policy;
pub mod register;
pub mod registrar;
pub mod revocation_lists;
pub mod server_svid;
pub mod standing;
pub mod tasks;
#[cfg(test)]
pub(crate) mod testing;
pub mod tickets;
pub mod upkeep;
