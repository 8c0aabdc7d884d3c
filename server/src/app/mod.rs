//! What the server does, one file per use case. Here decisions are made; not here: the wire (`api`), SQL (`mayfly-store`).

pub mod authorities;
pub mod issue;
pub mod server_svid;
#[cfg(test)]
pub(crate) mod testing;
