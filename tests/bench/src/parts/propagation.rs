//! P6: from an operator's call to the SVID in a workload's hands, with a fleet connected.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use mayfly_proto::spire::server::entry::BatchDeleteEntryRequest;
use mayfly_proto::spire::server::entry::entry_client::EntryClient;
use mayfly_proto::spire::types::Entry;
use mayfly_tests::{Agent, selector};
use tokio::task::JoinSet;

use crate::figure::{Figure, Gate};
use crate::fleet::{Fleet, Following};
use crate::load::{histogram, quantile_ms, record};
use crate::parts::entries::create;
use crate::run::Context;
use crate::target::{Target, start_agent, start_server};
use crate::workload;

/// The name that all agents share.
const EVERYBODY: &str = "/everybody";
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures it: entries of one agent, then entries of all.
///
/// # Errors
/// A server does not do what it should.
pub async fn run(ctx: &mut Context) -> Result<()> {
    let server = start_server().await?;
    let target = Target::of(&server).await?;
    let others = ctx.count(999, 5);
    let identities = target.join(others, Some(EVERYBODY)).await?;
    let mut fleet = Fleet::new(&target, Following::Watch);
    fleet.connect(&identities, PATIENCE).await?;
    let (agent, agent_id) = start_agent(&server, Some(EVERYBODY)).await?;
    let trust_domain = format!("spiffe://{}", target.trust_domain);
    let own = agent_id.strip_prefix(&trust_domain).unwrap_or(&agent_id);
    let total = others + 1;

    let base = create(&target, vec![entry(&target, "/base", own)]).await?;
    let seen = Subscriber::start(&agent).await?;
    let one = changes(&target, &seen, own, 8.0, ctx.count(200, 4)).await?;
    let name = format!("entry created → SVID in the workload's hands, {total} agents, p50");
    ctx.add(
        latency(name, &one.called, 0.5)
            .gate(Gate::AtMost(25.0))
            .with("from_commit_ms", one.committed_ms(0.5)),
    );
    let name = format!("entry created → SVID in the workload's hands, {total} agents, p99");
    ctx.add(
        latency(name, &one.called, 0.99)
            .gate(Gate::AtMost(150.0))
            .with("from_commit_ms", one.committed_ms(0.99)),
    );

    fleet.state.record();
    let cpu = target.process.cpu()?;
    let count = ctx.count(30, 2);
    let all = changes(&target, &seen, EVERYBODY, 1.0, count).await?;
    let cpu = target.process.cpu()? - cpu;
    let updates = fleet.state.arrivals().len();
    let name = format!("entry created → SVID, each change concerns all {total} agents, p50");
    ctx.add(
        latency(name, &all.called, 0.5)
            .gate(Gate::AtMost(25.0))
            .with("from_commit_ms", all.committed_ms(0.5)),
    );
    let name = format!("entry created → SVID, each change concerns all {total} agents, p99");
    let figure = latency(name, &all.called, 0.99).gate(Gate::AtMost(150.0));
    #[allow(clippy::cast_precision_loss, reason = "a figure")]
    let each = cpu.as_secs_f64() * 1e6 / updates.max(1) as f64;
    ctx.add(
        figure
            .with("from_commit_ms", all.committed_ms(0.99))
            .with("server_cpu_us_per_update", each),
    );
    ensure!(
        updates >= others * count,
        "{updates} updates came to {others} agents for {count} entries"
    );
    drop(base);
    Ok(())
}

fn latency(name: String, samples: &Histogram<u64>, share: f64) -> Figure {
    Figure::new("P6", name, quantile_ms(samples, share), "ms").with("max_ms", quantile_ms(samples, 1.0))
}

fn entry(target: &Target, path: &str, parent: &str) -> Entry {
    Entry {
        spiffe_id: Some(target.wire_id(path)),
        parent_id: Some(target.wire_id(parent)),
        selectors: vec![selector(&workload::own_selector())],
        ..Entry::default()
    }
}

/// Latencies to the arrival: from the operator's call, and from its answer, which comes after the commit.
struct Latencies {
    called: Histogram<u64>,
    committed: Histogram<u64>,
}

impl Latencies {
    fn committed_ms(&self, share: f64) -> f64 {
        quantile_ms(&self.committed, share)
    }
}

/// `count` entries, `rate` per second whether they have arrived or not; each is deleted once it has arrived,
/// half a period later at the earliest, so that the workload's messages stay short.
async fn changes(target: &Target, seen: &Subscriber, parent: &str, rate: f64, count: usize) -> Result<Latencies> {
    let period = Duration::from_secs_f64(1.0 / rate);
    let mut running = JoinSet::new();
    let begun = Instant::now();
    for number in 0..u32::try_from(count)? {
        tokio::time::sleep((period * number).saturating_sub(begun.elapsed())).await;
        let path = format!("/new{parent}/{number}");
        let (target, entry) = (target.clone(), entry(target, &path, parent));
        let id = format!("spiffe://{}{path}", target.trust_domain);
        let seen = Rc::clone(&seen.seen);
        running.spawn_local(async move {
            let called = Instant::now();
            let made = create(&target, vec![entry]).await?;
            let committed = Instant::now();
            let arrived = arrival(&seen, &id).await;
            tokio::time::sleep((period / 2).saturating_sub(called.elapsed())).await;
            EntryClient::new(target.operator())
                .batch_delete_entry(BatchDeleteEntryRequest { ids: made })
                .await?;
            anyhow::Ok((called, committed, arrived))
        });
    }
    let mut latencies = Latencies {
        called: histogram(),
        committed: histogram(),
    };
    while let Some(ended) = running.join_next().await {
        let (called, committed, arrived) = ended??;
        record(&mut latencies.called, arrived.saturating_duration_since(called));
        record(&mut latencies.committed, arrived.saturating_duration_since(committed));
    }
    Ok(latencies)
}

/// A workload with an open stream, that notes when it first sees an identity.
struct Subscriber {
    seen: Rc<Seen>,
    reading: tokio::task::JoinHandle<()>,
}

impl Subscriber {
    async fn start(agent: &Agent) -> Result<Self> {
        let socket = agent.socket();
        let (first, mut messages) = mayfly_tests::eventually("the first SVID", Duration::from_secs(60), async || {
            workload::subscribe(workload::connect(&socket)).await.ok()
        })
        .await;
        ensure!(!first.svids.is_empty(), "an answer without SVIDs");
        let seen: Rc<Seen> = Rc::default();
        let noted = Rc::clone(&seen);
        let reading = tokio::task::spawn_local(async move {
            while let Ok(Some(message)) = messages.message().await {
                let now = Instant::now();
                for svid in message.svids {
                    noted.borrow_mut().entry(svid.spiffe_id).or_insert(now);
                }
            }
        });
        Ok(Self { seen, reading })
    }
}

type Seen = RefCell<HashMap<String, Instant>>;

async fn arrival(seen: &Seen, id: &str) -> Instant {
    mayfly_tests::eventually(&format!("{id} at the workload"), Duration::from_secs(60), async || {
        seen.borrow().get(id).copied()
    })
    .await
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.reading.abort();
    }
}
