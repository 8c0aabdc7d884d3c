//! The agent of one node: attests its processes and hands them their identities over the SPIFFE Workload API.
//!
//! ```text
//!   server ◀──▶ sync ──▶ view ──▶ svids ──▶ api ◀──▶ processes
//!                                            ▲
//!                                          attest: who is on this socket
//! ```
//!
//! [`sync`] keeps in step with the server and publishes a [`view`] of what it allows; [`svids`] makes and renews
//! certificates; [`attest`] says what a process is; in [`api`] they meet. [`config`] reads the settings, [`assemble`] is
//! the only file that names every part.
//!
//! Not here: what may be issued, which the server decides. Start at [`assemble::start`].

pub mod api;
pub mod assemble;
pub mod attest;
pub mod config;
pub mod news;
mod quiet;
pub mod svids;
pub mod sync;
pub mod tasks;
pub mod view;
pub mod witness;
