//! The stories: what the product promises, shown from outside with real binaries. One file each; the harness is the
//! library of this package.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

mod agent_tasks;
mod attacks;
mod bad_input;
mod clients;
mod conformance;
mod dev;
mod durability;
mod evidence;
mod faults;
mod identity;
mod latency;
mod outage;
mod revocation_lists;
mod server_api;
mod tasks;
mod withdrawal;
mod workload_api;
