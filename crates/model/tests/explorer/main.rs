//! Every order of events that two servers, an agent, declared consumers and some people can make of one request, explored
//! over the real transition function: messages arrive late, twice or never, servers crash between commit and signature,
//! their view of the state is old and their clocks disagree; consumers lag, vanish and come back. After each event the
//! invariants of the task model must hold, and what is said of ends: see `invariants.rs`.
//!
//! ```text
//!   scenario  where it begins        world       what there is, and what an event does to it
//!   events    what can happen next   steps       what servers do for it, by what they know
//!   search    which worlds           consumers   what they refuse, and what servers know of that
//!   faults    planted, to be found   invariants  what must hold
//! ```
//!
//! What the database adds to the transition function (a key belongs to one window, I10; the intent is in the log before the
//! signature, I3) is in `world::Store`; its own tests are with the store. Four invariants are not about this function:
//!
//! - I6, what is derived is a part. No window is derived from another one; a request has no more than its definition:
//!   `each_guard_alone_flips_the_verdict_in_each_of_its_phases` (`scopes-exceeded`, `server/policy/src/tests/guards.rs`), and
//!   of the log `i6_what_is_derived_is_a_part` (`crates/audit/src/replay/tests.rs`).
//! - I7, reserved paths: `reserved_paths_cannot_be_registered` (`crates/model/src/entry.rs`),
//!   `base_issuing_never_signs_what_windows_give` (`server/src/app/issue/window/tests.rs`), of the log
//!   `i7_reserved_paths_come_from_windows`.
//! - I13, the base SVID stays: `a_task_svid_comes_after_the_base_and_goes_by_an_update_while_the_base_stays`
//!   (`agent/src/api/workload/tests/tasks.rs`).
//! - I14, nothing is issued while the state is behind its log: what cannot be recorded is not signed,
//!   `a_server_whose_disk_is_full_refuses_changes_serves_what_it_has_and_recovers_by_itself`
//!   (`tests/stories/faults/disk.rs`); a server whose state is older than what it has shown does not start,
//!   `a_server_does_not_start_on_an_old_backup_and_says_why_and_starts_on_the_right_one` (`tests/stories/evidence/backup.rs`).
//!   After each story with tasks the log and the state are compared (`tests/src/tasks/ledger.rs`).

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod consumers;
mod events;
mod explorer;
mod faults;
mod invariants;
mod scenario;
mod search;
mod steps;
mod world;
