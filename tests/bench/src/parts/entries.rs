//! C7, C9: many entries, at one agent and at the server.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use mayfly_proto::spire::server::entry::entry_client::EntryClient;
use mayfly_proto::spire::server::entry::{BatchCreateEntryRequest, BatchDeleteEntryRequest};
use mayfly_proto::spire::types::Entry;
use mayfly_tests::{Server, selector};

use crate::figure::{Figure, Gate};
use crate::fleet::{Fleet, Following};
use crate::load::{histogram, quantile_ms, record};
use crate::process::Process;
use crate::run::Context;
use crate::target::{Target, start_agent, start_server};
use crate::workload;

/// Entries of one call.
const BATCH: usize = 1000;
/// Who the first entries belong to: the agents of C7.
const CROWDED: &str = "/crowded";
/// Others have about as many entries as this.
const PER_PARENT: usize = 50;
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures both, with one server that is filled more and more.
///
/// # Errors
/// A server does not do what it should.
pub async fn run(ctx: &mut Context) -> Result<()> {
    let server = start_server().await?;
    let target = Target::of(&server).await?;
    let crowd = ctx.count(100_000, 200);
    let most = if ctx.options.quick { 300 } else { ctx.options.entries };
    let sizes = [ctx.count(1000, 50), ctx.count(10_000, 100), crowd, most];
    let mut filled = 0;
    let mut first = None;
    let identity = target.join(1, None).await?.remove(0);
    let mut fleet = Fleet::new(&target, Following::Watch);
    fleet.connect(std::slice::from_ref(&identity), PATIENCE).await?;
    for size in sizes {
        if size <= filled || (size > crowd && !ctx.wants("c9")) {
            continue;
        }
        let begun = Instant::now();
        fill(&target, filled, size, crowd).await?;
        let rate = ratio(size - filled) / begun.elapsed().as_secs_f64();
        filled = size;
        if ctx.wants("c9") {
            let parent = identity.id.path();
            let (cpu, p50, p99) = changes(&target, &fleet, parent, ctx.count(300, 5)).await?;
            let smallest = *first.get_or_insert(cpu);
            let name = format!("server CPU of one change, {size} entries");
            let mut figure = Figure::new("C9", name, cpu / 1e3, "ms")
                .with("p50_ms", p50)
                .with("p99_ms", p99);
            if size == most {
                figure = figure
                    .gate(Gate::AtMost(1.0))
                    .with("times_the_smallest", cpu / smallest.max(1.0));
            }
            let memory = target.process.memory()?;
            ctx.add(
                figure
                    .with("entries_loaded_per_s", rate)
                    .with("server_rss_mb", ratio(memory.rss) / 1e6),
            );
        }
        if size == crowd && ctx.wants("c7") {
            crowded(ctx, &server, &target, crowd).await?;
        }
    }
    Ok(())
}

/// C7: a simulated agent that looks at the messages, then a real one.
async fn crowded(ctx: &mut Context, server: &Server, target: &Target, entries: usize) -> Result<()> {
    let identity = target.join(1, Some(CROWDED)).await?;
    let mut fleet = Fleet::new(target, Following::Watch);
    let took = fleet.connect(&identity, PATIENCE).await?;
    let longest = ratio(fleet.state.longest()) / 1e6;
    let octets = ratio(fleet.state.octets().1) / 1e6;
    drop(fleet);
    let figure = Figure::new(
        "C7",
        format!("longest message to an agent with {entries} entries"),
        longest,
        "MB",
    );
    ctx.add(
        figure
            .gate(Gate::AtMost(1.0))
            .with("all_octets_mb", octets)
            .with("in_step_after_s", took.as_secs_f64()),
    );
    let begun = Instant::now();
    let (agent, _) = start_agent(server, Some(CROWDED)).await?;
    let socket = agent.socket();
    mayfly_tests::eventually("an SVID of a crowded agent", PATIENCE, async || {
        workload::fetch(workload::connect(&socket)).await.ok()
    })
    .await;
    let took = begun.elapsed();
    let process = Process::new(agent.daemon.pid());
    let memory = process.memory()?;
    let name = format!("agent with {entries} entries: start to a workload's SVID");
    let figure = Figure::new("C7", name, took.as_secs_f64(), "s").with("rss_mb", ratio(memory.rss) / 1e6);
    ctx.add(figure.with("cpu_s", process.cpu()?.as_secs_f64()));
    Ok(())
}

/// Creates and deletes entries of the one agent that is connected; waits each time until it was told. CPU of one change
/// in µs, latency from the call to the arrival in ms.
async fn changes(target: &Target, fleet: &Fleet, parent: &str, count: usize) -> Result<(f64, f64, f64)> {
    let mut samples = histogram();
    let mut client = EntryClient::new(target.operator());
    let before = target.process.cpu()?;
    for number in 0..count {
        fleet.state.record();
        let begun = Instant::now();
        let entry = Entry {
            spiffe_id: Some(target.wire_id(&format!("/change/{number}"))),
            parent_id: Some(target.wire_id(parent)),
            selectors: vec![selector("unix:uid:1")],
            ..Entry::default()
        };
        let id = create(target, vec![entry]).await?.remove(0);
        arrived(fleet, &id, false).await?;
        record(&mut samples, begun.elapsed());
        fleet.state.record();
        let begun = Instant::now();
        client
            .batch_delete_entry(BatchDeleteEntryRequest { ids: vec![id.clone()] })
            .await?;
        arrived(fleet, &id, true).await?;
        record(&mut samples, begun.elapsed());
    }
    let cpu = (target.process.cpu()? - before).as_secs_f64() * 1e6 / ratio(2 * count);
    Ok((cpu, quantile_ms(&samples, 0.5), quantile_ms(&samples, 0.99)))
}

async fn arrived(fleet: &Fleet, id: &str, removed: bool) -> Result<()> {
    let begun = Instant::now();
    let fits = |ids: &[String]| ids.iter().any(|one| one == id);
    while fleet
        .state
        .count(|arrival| fits(if removed { &arrival.removed } else { &arrival.entries }))
        == 0
    {
        if begun.elapsed() > PATIENCE {
            bail!("the agent was not told of a change");
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}

/// Brings the number of entries from `from` to `to`. The first `crowd` belong to one name, one of them to this process.
async fn fill(target: &Target, from: usize, to: usize, crowd: usize) -> Result<()> {
    for first in (from..to).step_by(BATCH) {
        let numbers = first..to.min(first + BATCH);
        let entry = |number: usize| Entry {
            spiffe_id: Some(target.wire_id(&format!("/fill/{number}"))),
            parent_id: Some(if number < crowd {
                target.wire_id(CROWDED)
            } else {
                target.wire_id(&format!("/spire/agent/join_token/elsewhere-{}", number / PER_PARENT))
            }),
            selectors: vec![selector(&match number {
                0 => workload::own_selector(),
                _ => format!("unix:uid:{}", 100_000 + number),
            })],
            ..Entry::default()
        };
        create(target, numbers.map(entry).collect()).await?;
    }
    Ok(())
}

/// Creates entries in one call; gives their IDs.
///
/// # Errors
/// The server's, of the call or of an item.
pub async fn create(target: &Target, entries: Vec<Entry>) -> Result<Vec<String>> {
    let count = entries.len();
    let request = BatchCreateEntryRequest {
        entries,
        output_mask: None,
    };
    let mut client = EntryClient::new(target.operator()).max_decoding_message_size(64 << 20);
    let answer = client
        .batch_create_entry(request)
        .await
        .context("entries were not created")?
        .into_inner();
    let results = answer.results.into_iter().map(|result| {
        let status = result.status.unwrap_or_default();
        ensure!(status.code == 0, "an entry was not created: {}", status.message);
        Ok(result.entry.context("no entry")?.id)
    });
    let ids: Vec<String> = results.collect::<Result<_>>()?;
    ensure!(ids.len() == count, "{} of {count} entries were created", ids.len());
    Ok(ids)
}

#[allow(clippy::cast_precision_loss, reason = "a figure")]
fn ratio<T: TryInto<u64>>(count: T) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}
