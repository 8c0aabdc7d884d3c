//! The harness of the end-to-end stories: real binaries, real sockets, real users, and clients that others wrote.
//!
//! The stories are in `stories/`, one file each, named after what they prove. They are short because this crate knows
//! how to run a [`Server`] and an [`Agent`], how to be a workload of any user ([`Caller`]) or a whole program of another
//! language ([`Program`]), how to stand between agent and server ([`Proxy`]), and how to speak to the server without an
//! agent ([`attest`]) or to a socket without an HTTP/2 library ([`frames`]).
//!
//! Nothing is built here: the binaries are those beside the test program. Nothing is skipped: what a story needs and does
//! not find makes it fail with the reason. Everything that is started is ended by its process ID, and every story has
//! its own folder, sockets and ports, so that they can run at the same time.

// This is test code that happens to be a library.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::missing_panics_doc,
    reason = "tests fail by panicking, and use time, tasks and environment as their subjects' users would"
)]

use std::io;

pub mod admin;
pub mod agent;
pub mod attack;
pub mod attest;
pub mod binaries;
pub mod browser;
pub mod caller;
pub mod cli;
pub mod daemon;
pub mod effort;
pub mod evidence;
pub mod faults;
pub mod frames;
pub mod go_module;
mod installer;
pub mod java;
pub mod lane;
pub mod library;
pub mod lines;
pub mod node;
pub mod nodes;
pub mod program;
pub mod proxy;
pub mod python;
pub mod server;
pub mod shown;
pub mod stats;
pub mod tasks;

pub use admin::{Admin, EntrySpec, selector};
pub use agent::{Agent, AgentOptions, Join};
pub use browser::Browser;
pub use caller::{Caller, Workload, WorkloadStream};
pub use effort::effort;
pub use lane::Lane;
pub use library::Library;
pub use program::Program;
pub use proxy::Proxy;
pub use server::{Server, ServerOptions};
pub use stats::Millis;

/// The trust domain of all stories.
pub const TRUST_DOMAIN: &str = "example.org";

/// Becomes the user and group `uid`, without supplementary groups. 0 changes nothing.
///
/// # Errors
/// The caller is neither root nor that user already.
pub fn become_user(uid: u32) -> io::Result<()> {
    use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
    if uid == 0 || Uid::effective().as_raw() == uid {
        return Ok(());
    }
    setgroups(&[])?;
    setgid(Gid::from_raw(uid))?;
    setuid(Uid::from_raw(uid))?;
    Ok(())
}

/// Fails the story unless it runs as root: only root can start workloads of several users.
pub fn needs_root() {
    assert!(
        nix::unistd::Uid::effective().is_root(),
        "this story starts processes of several users and has to run as root: sudo tests/run"
    );
}

/// Looks every few milliseconds until `look` finds something.
///
/// # Panics
/// After `patience`, saying what was waited for.
pub async fn eventually<T>(what: &str, patience: std::time::Duration, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = std::time::Instant::now() + patience;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(std::time::Instant::now() < deadline, "waited {patience:?} for {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
