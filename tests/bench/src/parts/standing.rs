//! C2 to C5, L1: what connected agents cost while nothing happens, and when all come back at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mayfly_tests::{Server, daemon::story_dir};
use nix::sys::signal::Signal;

use crate::calibrate::{Peer, handshakes};
use crate::figure::{Figure, Gate};
use crate::fleet::Fleet;
use crate::parts::probe::Probe;
use crate::pin;
use crate::process::{Memory, Process};
use crate::run::Context;
use crate::target::{Identity, Target, start_agent, start_server};

/// How long agents may take to be in step before the run is given up.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures all of them, with one fleet.
///
/// # Errors
/// A server does not do what it should.
pub async fn run(ctx: &mut Context) -> Result<()> {
    let (few, many) = (ctx.count(1000, 10), ctx.count(5000, 20));
    match ctx.foreign().await? {
        Some(target) => {
            let identities = target.join(few, None).await?;
            let mut fleet = Fleet::new(&target, ctx.following());
            idle(ctx, &target, &mut fleet, &identities).await
        }
        None => {
            let mut server = start_server().await?;
            let identities = Target::of(&server).await?.join(many, None).await?;
            // What joining left behind is not what a connection costs.
            restart(&mut server).await?;
            let target = Target::of(&server).await?;
            let mut fleet = Fleet::new(&target, ctx.following());
            let before = target.process.memory()?;
            idle(ctx, &target, &mut fleet, &identities[..few]).await?;
            if ctx.wants("c2") {
                fleet.connect(&identities[few..], PATIENCE).await?;
                tokio::time::sleep(ctx.time(10)).await;
                memory(ctx, before, target.process.memory()?, many);
            }
            if ctx.wants("l1") {
                if fleet.len() < many {
                    fleet.connect(&identities[few..], PATIENCE).await?;
                }
                storm(ctx, &mut server, &fleet).await?;
            }
            Ok(())
        }
    }
}

/// C2 to C5 with the first agents.
async fn idle(ctx: &mut Context, target: &Target, fleet: &mut Fleet, identities: &[Identity]) -> Result<()> {
    let before = target.process.memory()?;
    let took = fleet.connect(identities, PATIENCE).await?;
    tokio::time::sleep(ctx.time(5)).await;
    quiet(ctx, fleet).await;
    let (cpu, octets, reads) = (target.process.cpu()?, fleet.state.octets(), target.process.reads()?);
    let begun = Instant::now();
    tokio::time::sleep(ctx.time(30)).await;
    let seconds = begun.elapsed().as_secs_f64();
    let (later, reads_later) = (fleet.state.octets(), target.process.reads()?);
    let cpu = (target.process.cpu()? - cpu).as_secs_f64() / seconds;
    let agents = identities.len();
    if ctx.wants("c2") {
        memory(ctx, before, target.process.memory()?, agents);
    }
    let per = |count: u64| ratio(count, agents) / seconds;
    if ctx.wants("c3") {
        let figure = Figure::new(
            "C3",
            format!("idle CPU, {agents} agents"),
            cpu * 100.0,
            "% of a processor",
        );
        ctx.add(
            figure
                .gate(Gate::AtMost(1.0))
                .with("connected_in_s", took.as_secs_f64()),
        );
    }
    if ctx.wants("c4") {
        let (up, down) = (per(later.0 - octets.0), per(later.1 - octets.1));
        let figure = Figure::new(
            "C4",
            format!("idle octets per agent, {agents} agents"),
            up + down,
            "B/s",
        );
        ctx.add(figure.gate(Gate::AtMost(50.0)).with("up", up).with("down", down));
    }
    if ctx.wants("c5") {
        // What is read from files; the counter also has what wakes a thread, 8 octets each.
        let octets = per(reads_later.octets - reads.octets);
        let calls = per(reads_later.calls - reads.calls);
        let name = format!("octets read from files per agent, {agents} idle agents");
        let beyond = (octets - calls * 8.0).max(0.0);
        ctx.add(
            Figure::new("C5", name, beyond, "B/s")
                .gate(Gate::AtMost(0.0))
                .with("read_calls_per_s", calls),
        );
    }
    Ok(())
}

/// Waits until the log does not grow any more by what its new witnesses have said, and all have been shown its end: that
/// is with every fourth beacon, each ten seconds. A quick run waits for what they say alone.
async fn quiet(ctx: &Context, fleet: &Fleet) {
    let mut before = 0;
    while fleet.state.heads() > before {
        before = fleet.state.heads();
        tokio::time::sleep(ctx.time(12).max(Duration::from_secs(3))).await;
    }
}

fn memory(ctx: &mut Context, before: Memory, after: Memory, agents: usize) {
    let kilobytes = |after: u64, before: u64| ratio(after.saturating_sub(before), agents) / 1000.0;
    let name = format!("server memory per idle agent, {agents} agents");
    let figure = Figure::new("C2", name, kilobytes(after.pss, before.pss), "kB (PSS)");
    ctx.add(
        figure
            .gate(Gate::AtMost(25.0))
            .with("rss_kb", kilobytes(after.rss, before.rss))
            .with("server_pss_mb", ratio(after.pss, 1_000_000)),
    );
}

/// L1. A real agent is there too, and a workload that asks all the time.
async fn storm(ctx: &mut Context, server: &mut Server, fleet: &Fleet) -> Result<()> {
    let (agent, _) = start_agent(server, Some("/storm")).await?;
    let probe = Probe::start(&agent, &Target::of(server).await?, "/storm", Duration::from_millis(50)).await?;
    let dir = story_dir();
    let peer = Peer::start(dir.path()).await?;
    let count = ctx.count(2000, 20);
    let before = handshakes(&peer, count).await?;
    let failures = fleet.state.failures();
    let agents = fleet.len();

    stop(server).await?;
    let down = Instant::now();
    while fleet.state.in_step() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    pin::as_system(|| server.daemon.start())?;
    let started = Instant::now();
    let process = Process::new(server.daemon.pid());
    let own_cpu = Process::new(std::process::id()).cpu()?;
    // From the start of the process, the server's own start included: this process is too busy to see when it is ready.
    fleet.wait_in_step(agents, PATIENCE).await?;
    let took = started.elapsed();
    let cpu = process.cpu()?;
    let own_cpu = Process::new(std::process::id()).cpu()? - own_cpu;
    let failed = fleet.state.failures() - failures;
    eprintln!("  attempts that failed: {}", fleet.state.reasons());
    let after = handshakes(&peer, count).await?;
    let probed = probe.stop().await;

    let limit = ratio(agents, 1) / ((before.per_second + after.per_second) / 2.0);
    let figure = Figure::new("L1", format!("{agents} agents back in step"), took.as_secs_f64(), "s");
    ctx.add(
        figure
            .of_least(limit)
            .gate(Gate::TimesLimit(1.5))
            .with("server_cpu_us_per_agent", cpu.as_secs_f64() * 1e6 / ratio(agents, 1))
            .with(
                "generator_cpu_us_per_agent",
                own_cpu.as_secs_f64() * 1e6 / ratio(agents, 1),
            )
            .with("handshake_server_us", (before.server_us + after.server_us) / 2.0)
            .with("handshake_client_us", (before.client_us + after.client_us) / 2.0)
            .with("down_s", (started - down).as_secs_f64())
            .with("attempts_failed", ratio(failed, 1)),
    );
    let name = format!("workload calls that failed while {agents} agents came back");
    let figure = Figure::new("L1", name, ratio(probed.failed, 1), "calls").gate(Gate::AtMost(0.0));
    ctx.add(figure.with("calls", ratio(probed.done, 1)));
    Ok(())
}

/// Stops it in order, without standing in the way of those that it says goodbye to.
async fn stop(server: &mut Server) -> Result<()> {
    let process = Process::new(server.daemon.pid());
    server.daemon.signal(Signal::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !process.is_gone() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let status = server.daemon.wait(Duration::from_secs(1));
    ensure!(
        status.success(),
        "the server did not stop in order: {status}\n{}",
        server.daemon.log_tail()
    );
    Ok(())
}

async fn restart(server: &mut Server) -> Result<()> {
    stop(server).await?;
    pin::as_system(|| server.daemon.start())?;
    server.wait_ready().await;
    // So that what starts late is part of what was there before.
    tokio::time::sleep(Duration::from_secs(1)).await;
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a figure")]
fn ratio<T: TryInto<u64>>(count: T, by: usize) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64 / by as f64
}
