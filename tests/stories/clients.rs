//! Every client library that people run, against the whole product: `docs/clients.md` is what comes of it.
//!
//! [`matrix`] is each library ([`client`]) alone with the Workload API, [`pairs`] is mutual TLS between all of them, [`page`] is the
//! document. The programs are in `tests/clients`, with the contract that they follow.

mod client;
mod matrix;
pub(crate) mod page;
mod pairs;
