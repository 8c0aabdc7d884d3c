//! E1, E2: what the log costs where most is issued, and how soon a checkpoint shows what is in it.

use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;
use mayfly_tests::Server;
use rusqlite::Connection;

use crate::figure::{Figure, Gate};
use crate::load::{Load, closed_loop, histogram, quantile_ms, record};
use crate::parts::issue::{Asker, prepare};
use crate::run::Context;
use crate::target::{Target, start_server};

/// Certificates of a call.
const BATCH: usize = 50;
/// Calls at a time.
const CALLERS: usize = 8;
/// Keys and requests that are made beforehand.
const REQUESTS: usize = 500;
/// Rounds, each with the log, without, without, and with it.
const ROUNDS: usize = 5;
/// Between two looks at the log and its checkpoint.
const LOOK: Duration = Duration::from_millis(10);

/// Rows of the log that a database with this trigger is given are dropped: nothing is appended, and so nothing has to be
/// hashed, kept as tiles or signed. All else is as it is shipped.
const NO_LOG: &str = "CREATE TRIGGER no_log BEFORE INSERT ON log BEGIN SELECT RAISE(IGNORE); END";

/// Measures both.
///
/// # Errors
/// A server does not do what it should.
pub async fn run(ctx: &mut Context) -> Result<()> {
    let with = Side::start(REQUESTS.min(ctx.count(REQUESTS, 50))).await?;
    if ctx.wants("e1") {
        let without = Side::start(REQUESTS.min(ctx.count(REQUESTS, 50))).await?;
        database(&without.server)?.execute_batch(NO_LOG)?;
        throughput(ctx, &with, &without).await?;
    }
    if ctx.wants("e2") {
        lag(ctx, &with).await?;
    }
    Ok(())
}

/// A server with agents that ask.
struct Side {
    server: Server,
    target: Target,
    askers: Rc<Vec<Asker>>,
}

impl Side {
    async fn start(requests: usize) -> Result<Self> {
        let server = start_server().await?;
        let target = Target::of(&server).await?;
        let askers = Rc::new(prepare(&target, requests).await?);
        Ok(Self { server, target, askers })
    }

    async fn issue(&self, time: Duration) -> Result<Load> {
        let ask = |number: u64| {
            let askers = Rc::clone(&self.askers);
            async move {
                let asker = &askers[usize::try_from(number)? % askers.len()];
                asker.ask(number / askers.len() as u64, BATCH).await
            }
        };
        closed_loop(self.target.process, CALLERS, time, ask).await
    }
}

async fn throughput(ctx: &mut Context, with: &Side, without: &Side) -> Result<()> {
    let time = ctx.time(4);
    for side in [with, without] {
        side.issue(time / 2).await?;
    }
    let before = size(&database(&without.server)?)?;
    let (mut micros, mut cpu) = ([vec![], vec![]], [vec![], vec![]]);
    for _ in 0..ctx.count(ROUNDS, 1) {
        for (place, side) in [(0, with), (1, without), (1, without), (0, with)] {
            let load = side.issue(time).await?;
            micros[place].push(1e6 / load.per_second(BATCH));
            cpu[place].push(load.cpu_micros(BATCH));
        }
    }
    let after = size(&database(&without.server)?)?;
    ensure!(before == after, "the log grew from {before} to {after}, and should not");
    let [with_log, without_log] = micros.map(|mut values| median(&mut values));
    let [cpu_with, cpu_without] = cpu.map(|mut values| median(&mut values));
    let name = format!("X.509-SVIDs, {BATCH} CSRs per RPC, as many as can be; the limit: the same without the log");
    let figure = Figure::new("E1", name, with_log, "µs per SVID").of_least(without_log);
    ctx.add(
        figure
            .gate(Gate::ShareAtLeast(0.85))
            .with("cpu_us_with_log", cpu_with)
            .with("cpu_us_without_log", cpu_without),
    );
    Ok(())
}

async fn lag(ctx: &mut Context, with: &Side) -> Result<()> {
    let time = ctx.time(20);
    let log = database(&with.server)?;
    let checkpoint = with.server.dir().join("server/log/checkpoint");
    let before = size(&log)?;
    let (load, lags) = tokio::join!(with.issue(time), follow(&log, &checkpoint, time));
    let (load, lags) = (load?, lags?);
    let entries = size(&log)? - before;
    let name = "an entry in the log → under a checkpoint, while as much is issued as can be: p99";
    let figure = Figure::new("E2", name, quantile_ms(&lags, 0.99), "ms").gate(Gate::AtMost(1000.0));
    ctx.add(
        figure
            .with("p50_ms", quantile_ms(&lags, 0.5))
            .with("max_ms", quantile_ms(&lags, 1.0))
            .with("entries_per_s", entries as f64 / time.as_secs_f64())
            .with("svids_per_s", load.per_second(BATCH)),
    );
    Ok(())
}

/// For each look at the log: how long until the checkpoint was as large.
async fn follow(log: &Connection, checkpoint: &Path, time: Duration) -> Result<Histogram<u64>> {
    let (mut lags, mut waiting) = (histogram(), VecDeque::new());
    let begun = Instant::now();
    while begun.elapsed() < time || !waiting.is_empty() {
        if begun.elapsed() < time {
            waiting.push_back((Instant::now(), size(log)?));
        }
        let shown = shown(checkpoint)?;
        while waiting.front().is_some_and(|(_, size)| *size <= shown) {
            let (seen, _) = waiting.pop_front().expect("just looked at");
            record(&mut lags, seen.elapsed());
        }
        ensure!(
            begun.elapsed() < 2 * time + Duration::from_secs(10),
            "no checkpoint covers the log"
        );
        tokio::time::sleep(LOOK).await;
    }
    Ok(lags)
}

fn database(server: &Server) -> Result<Connection> {
    let connection = Connection::open(server.dir().join("server/server.db"))?;
    connection.busy_timeout(Duration::from_secs(10))?;
    Ok(connection)
}

/// How many entries the log has.
fn size(log: &Connection) -> Result<u64> {
    let mut statement = log.prepare_cached("SELECT COALESCE(MAX(log_index), -1) + 1 FROM log")?;
    let size: i64 = statement.query_row([], |row| row.get(0))?;
    Ok(size.try_into()?)
}

/// How many entries are under the checkpoint: its second line.
fn shown(checkpoint: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(checkpoint).with_context(|| checkpoint.display().to_string())?;
    let size = text.lines().nth(1).context("a checkpoint has three lines")?;
    Ok(size.parse()?)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
