//! A workload that asks its agent all the time, to see whether it notices what happens elsewhere.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use mayfly_proto::spire::types::Entry;
use mayfly_tests::{Agent, selector};
use tokio::task::JoinHandle;

use crate::parts::entries::create;
use crate::target::Target;
use crate::workload;

/// The workload. Ends when stopped.
#[derive(Debug)]
pub struct Probe {
    stop: Rc<Cell<bool>>,
    asking: JoinHandle<Probed>,
}

/// What it saw.
#[derive(Debug, Clone, Copy)]
pub struct Probed {
    /// Calls that were answered with an SVID.
    pub done: u64,
    /// Calls that were not.
    pub failed: u64,
}

impl Probe {
    /// Registers this process below `parent`, and starts to ask once it has an identity: a new connection every `pause`.
    ///
    /// # Errors
    /// The entry cannot be created, or the agent has no SVID for it.
    pub async fn start(agent: &Agent, target: &Target, parent: &str, pause: Duration) -> Result<Self> {
        let entry = Entry {
            spiffe_id: Some(target.wire_id("/probe")),
            parent_id: Some(target.wire_id(parent)),
            selectors: vec![selector(&workload::own_selector())],
            ..Entry::default()
        };
        create(target, vec![entry]).await?;
        let socket = agent.socket();
        // The agent holds an answer for a moment only; the entry may come later than that.
        mayfly_tests::eventually("an SVID of the probe", Duration::from_secs(60), async || {
            workload::fetch(workload::connect(&socket)).await.ok()
        })
        .await;
        let stop = Rc::new(Cell::new(false));
        let asking = tokio::task::spawn_local(ask(socket, pause, Rc::clone(&stop)));
        Ok(Self { stop, asking })
    }

    /// Ends it.
    ///
    /// # Panics
    /// It has.
    pub async fn stop(self) -> Probed {
        self.stop.set(true);
        self.asking.await.expect("a probe does not panic")
    }
}

async fn ask(socket: PathBuf, pause: Duration, stop: Rc<Cell<bool>>) -> Probed {
    let (mut done, mut failed) = (0, 0);
    while !stop.get() {
        match workload::fetch(workload::connect(&socket)).await {
            Ok(()) => done += 1,
            Err(_) => failed += 1,
        }
        tokio::time::sleep(pause).await;
    }
    Probed { done, failed }
}
