//! R1, R2: from an operator's revocation to the last consumer that enforces it, and when the way there is cut.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use nix::sys::signal::Signal;
use tokio::task::JoinSet;

use crate::enforcers::{Enforcers, Visit, Visitor, cut};
use crate::figure::{Figure, Gate};
use crate::jobs::{Inside, Job, World};
use crate::load::{histogram, quantile_ms, record};
use crate::process::Process;
use crate::run::Context;

/// A handshake costs as much as some ten cuts: of so many services one is tried the moment that it has cut.
const TRIED: usize = 20;
const PATIENCE: Duration = Duration::from_secs(120);

/// Measures both.
///
/// # Errors
/// A consumer lets somebody in whom it should not, or does not let go.
pub async fn run(ctx: &mut Context) -> Result<()> {
    if ctx.wants("r1") {
        connected(ctx).await.context("all connected")?;
    }
    if ctx.wants("r2") {
        partitioned(ctx).await.context("cut off")?;
    }
    Ok(())
}

/// R1.
async fn connected(ctx: &mut Context) -> Result<()> {
    let world = World::start(true, None, false).await?;
    let agent = Process::new(world.agent.daemon.pid());
    let before = agent.memory()?.rss;
    let enforcers = Enforcers::start(&world.agent.socket(), ctx.count(1000, 5)).await?;
    let count = enforcers.len();
    #[allow(clippy::cast_precision_loss, reason = "a figure")]
    let agent_kb = agent.memory()?.rss.saturating_sub(before) as f64 / 1e3 / count as f64;
    let job = Job::start(&world.agent).await?;
    let (mut cuts, mut answered, mut refusals) = (histogram(), histogram(), histogram());
    let (mut cpu, mut work) = (Duration::ZERO, Duration::ZERO);
    let rounds = ctx.count(5, 1);
    for round in 0..rounds {
        let inside = job.enter(round as u64).await?;
        let visitor = Visitor::new(&inside)?;
        let visits = visits(&enforcers, &visitor).await?;
        let cpu_before = agent.cpu()?;
        let own = own_cpu();
        let called = Instant::now();
        world.revoke(&inside.window_id).await?;
        let answer = Instant::now();
        for ended in wait(visits).await? {
            record(&mut cuts, ended.cut.duration_since(called));
            record(&mut answered, ended.cut.saturating_duration_since(answer));
            if let Some(refused) = ended.refused {
                record(&mut refusals, refused.duration_since(called));
            }
        }
        cpu += agent.cpu()? - cpu_before;
        work += own_cpu() - own;
        all_refuse(&enforcers, &visitor).await?;
    }
    #[allow(clippy::cast_precision_loss, reason = "a figure")]
    let per = |time: Duration| time.as_secs_f64() * 1e6 / (rounds * count) as f64;
    for (share, name, bound) in QUANTILES {
        let name = format!("revoke called → live connection cut, {count} enforcers, {name}");
        ctx.add(
            Figure::new("R1", name, quantile_ms(&cuts, share), "ms")
                .gate(Gate::AtMost(bound))
                .with("from_answer_ms", quantile_ms(&answered, share))
                .with("agent_cpu_us_per_enforcer", per(cpu))
                .with("enforcers_and_clients_cpu_us_each", per(work))
                .with("agent_kb_per_enforcer", agent_kb),
        );
    }
    for (share, name, bound) in QUANTILES {
        let name = format!("revoke called → new handshake refused, {count} enforcers, {name}");
        #[allow(clippy::cast_precision_loss, reason = "a figure")]
        let tried = refusals.len() as f64;
        ctx.add(
            Figure::new("R1", name, quantile_ms(&refusals, share), "ms")
                .gate(Gate::AtMost(bound))
                .with("handshakes", tried),
        );
    }
    Ok(())
}

const QUANTILES: [(f64, &str, f64); 3] = [(0.5, "p50", 250.0), (0.99, "p99", 250.0), (1.0, "max", 1000.0)];

/// R2: the agent is stopped, then the line between agent and server is cut; each time the operator revokes while nobody
/// hears of it.
async fn partitioned(ctx: &mut Context) -> Result<()> {
    let lease = if ctx.options.quick {
        Duration::from_secs(2)
    } else {
        Duration::from_secs(10)
    };
    let world = World::start(true, Some(lease), true).await?;
    let enforcers = Enforcers::start(&world.agent.socket(), ctx.count(1000, 5)).await?;
    let count = enforcers.len();
    let job = Job::start(&world.agent).await?;
    for (number, what) in ["agent stopped", "link cut"].into_iter().enumerate() {
        let inside = job.enter(number as u64).await?;
        let visitor = Visitor::new(&inside)?;
        let visits = visits(&enforcers, &visitor).await?;
        let part = |is_apart: bool| match (number, is_apart) {
            (0, true) => world.agent.daemon.signal(Signal::SIGSTOP),
            (0, false) => world.agent.daemon.signal(Signal::SIGCONT),
            (_, true) => world.proxy.as_ref().expect("asked for").cut(),
            (_, false) => world.proxy.as_ref().expect("asked for").mend(),
        };
        part(true);
        let parted = Instant::now();
        world.revoke(&inside.window_id).await?;
        let revoked = Instant::now();
        let (mut last_use, mut refusals) = (histogram(), histogram());
        let ended = wait(visits).await;
        let judged = match ended {
            Ok(ended) => {
                for ended in ended {
                    record(&mut last_use, ended.cut.saturating_duration_since(revoked));
                    if let Some(refused) = ended.refused {
                        record(&mut refusals, refused.saturating_duration_since(revoked));
                    }
                }
                all_refuse(&enforcers, &visitor).await
            }
            Err(error) => Err(error),
        };
        // Whatever came of it, nothing stays stopped.
        part(false);
        judged?;
        let mended = Instant::now();
        back(&enforcers, &job, &visitor, &world, number).await?;
        let name = |what_of: &str| format!("{what}: revoke → {what_of}, {count} enforcers, the last of them");
        let bound = Gate::AtMost(lease.as_secs_f64());
        ctx.add(
            Figure::new("R2", name("live connection cut"), seconds(&last_use), "s")
                .gate(bound)
                .with("p50_s", quantile_ms(&last_use, 0.5) / 1e3)
                .with("lease_s", lease.as_secs_f64())
                .with("apart_before_revoke_s", revoked.duration_since(parted).as_secs_f64())
                .with("back_after_s", mended.elapsed().as_secs_f64()),
        );
        ctx.add(
            Figure::new("R2", name("new handshake refused"), seconds(&refusals), "s")
                .gate(bound)
                .with("p50_s", quantile_ms(&refusals, 0.5) / 1e3),
        );
    }
    Ok(())
}

fn seconds(histogram: &Histogram<u64>) -> f64 {
    quantile_ms(histogram, 1.0) / 1e3
}

/// After a partition: everybody has word again, refuses what was revoked meanwhile, and lets new windows in.
async fn back(enforcers: &Enforcers, job: &Job, old: &Visitor, world: &World, number: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !enforcers.have_word() {
        ensure!(
            Instant::now() < deadline,
            "some have no word {PATIENCE:?} after the partition"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let inside: Inside = mayfly_tests::eventually("a new window", PATIENCE, async || {
        job.enter((number + 100) as u64).await.ok()
    })
    .await;
    let new = Visitor::new(&inside)?;
    let streams = enforcers.let_in(&new).await?;
    all_refuse(enforcers, old).await?;
    drop(streams);
    world.revoke(&inside.window_id).await
}

/// One visit of each enforcer, watched.
type Visits = JoinSet<Result<Visited>>;

struct Visited {
    /// When the connection was over for the client.
    cut: Instant,
    /// When a new handshake with the same service was refused, if it was tried.
    refused: Option<Instant>,
}

async fn visits(enforcers: &Enforcers, visitor: &Visitor) -> Result<Visits> {
    let streams = enforcers.let_in(visitor).await?;
    ensure!(
        enforcers.live() == enforcers.len(),
        "{} connections live",
        enforcers.live()
    );
    let mut visits = JoinSet::new();
    for (number, (stream, address)) in streams.into_iter().zip(enforcers.addresses()).enumerate() {
        let visitor = visitor.clone();
        visits.spawn_local(async move {
            let cut = cut(stream).await;
            let refused = if number.is_multiple_of(TRIED) {
                match visitor.visit(address).await? {
                    Visit::Refused(at) => Some(at),
                    Visit::In(_) => anyhow::bail!("{address} cut a connection and lets in the same again"),
                }
            } else {
                None
            };
            Ok(Visited { cut, refused })
        });
    }
    // What the handshakes left behind is over.
    tokio::time::sleep(Duration::from_millis(200)).await;
    ensure!(enforcers.live() == enforcers.len(), "connections ended by themselves");
    Ok(visits)
}

async fn wait(visits: Visits) -> Result<Vec<Visited>> {
    let count = visits.len();
    let all = tokio::time::timeout(PATIENCE, visits.join_all()).await;
    let all = all.with_context(|| format!("not all of {count} connections were cut after {PATIENCE:?}"))?;
    all.into_iter().collect()
}

async fn all_refuse(enforcers: &Enforcers, visitor: &Visitor) -> Result<()> {
    let refusing = enforcers.refusing(visitor).await?;
    ensure!(
        refusing == enforcers.len(),
        "only {refusing} of {} refuse a copied key",
        enforcers.len()
    );
    Ok(())
}

/// CPU time of this process.
fn own_cpu() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(now).unwrap_or_default()
}
