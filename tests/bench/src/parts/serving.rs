//! P4, C8: the agent as workloads see it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use mayfly_proto::spire::types::Entry;
use mayfly_tests::{Agent, Caller, Server, selector};

use crate::figure::{Figure, Gate};
use crate::load::{closed_loop, open_loop};
use crate::parts::entries::create;
use crate::process::Process;
use crate::run::Context;
use crate::target::{Target, start_agent, start_server};
use crate::{pin, workload};

/// The users that C8's workloads are.
const FIRST_UID: usize = 60_000;

/// Measures both.
///
/// # Errors
/// An agent does not do what it should.
pub async fn run(ctx: &mut Context) -> Result<()> {
    if let Some(socket) = ctx.options.workload_api.clone() {
        let process = Process::behind(&socket)?;
        pin::move_to_system(process.pid())?;
        return first_messages(ctx, &socket, process).await;
    }
    let server = start_server().await?;
    let target = Target::of(&server).await?;
    if ctx.wants("p4") {
        let (agent, _) = start_agent(&server, Some("/p4")).await?;
        let mut entry = entry(&target, "/p4", &workload::own_selector());
        entry.spiffe_id = Some(target.wire_id("/workload"));
        create(&target, vec![entry]).await?;
        let socket = agent.socket();
        mayfly_tests::eventually("the first SVID", Duration::from_secs(60), async || {
            workload::fetch(workload::connect(&socket)).await.ok()
        })
        .await;
        first_messages(ctx, &socket, Process::new(agent.daemon.pid())).await?;
    }
    if ctx.wants("c8") {
        memory(ctx, &server, &target).await?;
    }
    Ok(())
}

fn entry(target: &Target, parent: &str, own: &str) -> Entry {
    Entry {
        parent_id: Some(target.wire_id(parent)),
        selectors: vec![selector(own)],
        ..Entry::default()
    }
}

/// P4.
async fn first_messages(ctx: &mut Context, socket: &Path, agent: Process) -> Result<()> {
    let time = ctx.time(10);
    let fresh = |_| {
        let channel = workload::connect(socket);
        workload::fetch(channel)
    };
    let open = workload::connect(socket);
    workload::fetch(open.clone()).await?;
    let warm = |_| workload::fetch(open.clone());
    let (fresh, warm) = (
        open_loop(agent, 100.0, time, fresh).await?,
        open_loop(agent, 500.0, time, warm).await?,
    );
    for (what, load) in [("new connection", &fresh), ("open connection", &warm)] {
        for (share, gate) in [(0.5, 0.5), (0.99, 3.0)] {
            let name = format!("first message of FetchX509SVID, {what}, p{:.0}", share * 100.0);
            let figure = Figure::new("P4", name, load.quantile_ms(share), "ms").gate(Gate::AtMost(gate));
            let least = ctx.calibration.uds_rpc_us / 1e3;
            ctx.add(
                figure
                    .of_least(least)
                    .with("agent_cpu_us", load.cpu_micros(1))
                    .with("offered_per_s", load.per_second(1))
                    .with("max_ms", load.quantile_ms(1.0)),
            );
        }
    }
    let most = closed_loop(agent, 16, ctx.time(5), |_| workload::fetch(open.clone())).await?;
    let figure = Figure::new(
        "P4",
        "first messages, open connection, saturated",
        most.per_second(1),
        "per s",
    );
    ctx.add(
        figure
            .with("agent_cpu_us", most.cpu_micros(1))
            .with("agent_cpu_share", most.cpu_share()),
    );
    Ok(())
}

/// C8: workloads of many users, each with an identity and a stream of its own.
async fn memory(ctx: &mut Context, server: &Server, target: &Target) -> Result<()> {
    let sizes = [(0, 15.0), (ctx.count(100, 2), 25.0), (ctx.count(1000, 4), 60.0)];
    let (agent, _) = start_agent(server, Some("/c8")).await?;
    let most = sizes[2].0;
    let entries = (0..most).map(|number| {
        let mut entry = entry(target, "/c8", &format!("unix:uid:{}", FIRST_UID + number));
        entry.spiffe_id = Some(target.wire_id(&format!("/user/{number}")));
        entry
    });
    let mut entries: Vec<Entry> = entries.collect();
    let mut open = Vec::new();
    for (size, gate) in sizes {
        let later = entries.split_off(size - open.len());
        if !entries.is_empty() {
            create(target, entries).await?;
        }
        entries = later;
        for number in open.len()..size {
            open.push(subscribe(&agent, FIRST_UID + number).await?);
        }
        tokio::time::sleep(ctx.time(5)).await;
        let memory = Process::new(agent.daemon.pid()).memory()?;
        #[allow(clippy::cast_precision_loss, reason = "a figure")]
        let megabytes = |octets: u64| octets as f64 / 1e6;
        let name = match size {
            0 => "agent memory, idle".into(),
            size => format!("agent memory, {size} SVIDs and {size} streams"),
        };
        let figure = Figure::new("C8", name, megabytes(memory.rss), "MB (RSS)").gate(Gate::AtMost(gate));
        ctx.add(figure.with("pss_mb", megabytes(memory.pss)));
    }
    Ok(())
}

async fn subscribe(agent: &Agent, uid: usize) -> Result<(Caller, mayfly_tests::WorkloadStream)> {
    let mut caller = Caller::spawn(u32::try_from(uid)?);
    let workload = caller.workload(&agent.socket());
    // The entry may be on its way.
    let (_, stream) = mayfly_tests::eventually("a workload's SVID", Duration::from_secs(60), async || {
        workload.first().await.ok()
    })
    .await;
    Ok((caller, stream))
}
