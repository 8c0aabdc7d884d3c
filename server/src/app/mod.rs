//! What the server does, one file per use case. Here decisions are made; not here: the wire (`api`), SQL (`mayfly-store`).

pub mod agents;
pub mod attest_agent;
pub mod authorities;
pub mod bundles;
pub mod caller;
pub mod checkpoints;
pub mod issue;
pub mod mint;
pub mod register;
pub mod revocation_lists;
pub mod server_svid;
#[cfg(test)]
pub(crate) mod testing;
pub mod upkeep;
