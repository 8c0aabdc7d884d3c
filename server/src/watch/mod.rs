//! Who has to be told what: the hub of open agent streams and the history that reconnecting agents resume from.
//!
//! ```text
//!   commit ──Applied──▶ Hub::observe ── which agents? ──▶ Mailbox (IDs only, bounded) ──wake──▶ Session ──▶ Update
//! ```
//!
//! A notification only wakes. What is sent is read from the newest snapshot when the stream can take it, so a slow agent
//! costs a set of IDs, gets the latest state and nothing in between; past a bound the set becomes "everything".
//!
//! Not here: the wire (`api/watch`), the state itself (`commit`).

mod history;
mod hub;
mod session;

pub use history::{History, Resume};
pub use hub::{End, Hub, Mailbox, Pending};
pub use session::{Held, Plan, Session};
