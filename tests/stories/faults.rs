//! What really goes wrong: processes killed or stopped, disks, clocks, networks, readers, and everybody at once.
//!
//! In each story the same holds: what was acknowledged is there afterwards, no SVID is without its record, every
//! workload is served again without help, and the log says to an operator what it was. Each prints what was injected and what was
//! seen; docs/faults.md is the table of it.

mod clock;
mod descriptors;
mod disk;
mod kills;
mod ledger;
mod network;
mod pause;
mod read_only;
mod readers;
mod storm;
mod torn;

use std::time::{Duration, Instant};

use mayfly_proto::spiffe::workload::X509svidResponse;
use mayfly_tests::caller::svid;
use mayfly_tests::{Agent, Caller, EntrySpec, Server, eventually};
use tonic::{Code, Status};

/// How long a recovery may take before a story gives up. What it took is printed.
const RECOVERY: Duration = Duration::from_secs(60);

/// Registers user `uid` on the node of `agent`; gives the entry's ID.
async fn register(server: &Server, agent: &Agent, path: &str, uid: u32, ttl: i32) -> String {
    let spec = EntrySpec::new(path, agent.id(), &[&format!("unix:uid:{uid}")]).ttl(ttl);
    server.admin().create(&spec).await
}

/// The serial of an answer's first SVID.
fn serial(answer: &X509svidResponse) -> String {
    svid(&answer.svids[0]).serial().to_string()
}

/// Waits until `caller` gets an SVID of the agent that is another than `old`; gives its serial and how long that took.
async fn served_anew(caller: &mut Caller, agent: &Agent, old: &str) -> (String, Duration) {
    let begun = Instant::now();
    let serial = eventually("another SVID", RECOVERY, async || {
        let answer = caller.workload(&agent.socket()).fetch().await.ok()?;
        Some(serial(&answer)).filter(|serial| serial != old)
    })
    .await;
    (serial, begun.elapsed())
}

/// Fails unless a change is refused for now, with words that say why.
fn assert_refused_for_now(what: &str, refused: Result<(), Status>, why: &str) -> Status {
    let status = refused.expect_err(what);
    assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
    assert!(status.message().contains(why), "{what}: {status}");
    status
}

/// Fails unless the log of a daemon has this.
fn assert_logged(log: &str, text: &str) {
    let tail: Vec<&str> = log.lines().rev().take(20).collect();
    assert!(
        log.contains(text),
        "no `{text}` in the log; its end, newest first:\n{}",
        tail.join("\n")
    );
}
