//! E1, E2: what the log costs where most is issued, and how soon a checkpoint shows what is in it.

use std::collections::VecDeque;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use hdrhistogram::Histogram;
use mayfly_model::log::private::{Commitment, Hide, SALT_LEN};
use mayfly_model::log::{Envelope, Record};
use mayfly_model::{Actor, Change, EntryId, Revision, SvidIntent};
use mayfly_svid::{Serial, Timestamp};
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
/// hashed, kept as tiles or signed. All else is as it is shipped: entries are made and handed to SQLite. What that costs is
/// measured by itself and stands beside the figure, as a bound on what it does not count.
const NO_LOG: &str = "CREATE TRIGGER no_log BEFORE INSERT ON log BEGIN SELECT RAISE(IGNORE); END";

/// Entries of a round that measures what one costs.
const MADE: usize = 50;

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
    let (made, dropped) = uncounted(ctx.count(400, 40))?;
    ctx.add(
        figure
            .gate(Gate::ShareAtLeast(0.85))
            .with("cpu_us_with_log", cpu_with)
            .with("cpu_us_without_log", cpu_without)
            .with("uncounted_us_entry_made", made)
            .with("uncounted_us_entry_dropped", dropped)
            .with("share_if_counted", (without_log - made - dropped) / with_log),
    );
    Ok(())
}

/// What the side without the log does for it all the same, in µs for each SVID: making the entry, and handing it to SQLite,
/// which drops it.
fn uncounted(rounds: usize) -> Result<(f64, f64)> {
    let mut database = Connection::open_in_memory()?;
    database
        .execute_batch("CREATE TABLE log (log_index INTEGER PRIMARY KEY, kind TEXT NOT NULL, entry TEXT NOT NULL)")?;
    database.execute_batch(NO_LOG)?;
    database.execute_batch("CREATE TABLE private (value_sha256 TEXT PRIMARY KEY, commitment TEXT NOT NULL)")?;
    let intent = SvidIntent {
        spiffe_id: "spiffe://bench.test/workload/0123456789".parse()?,
        entry_id: Some(EntryId::random()),
        serial: Serial::from_be_bytes(&[0x5a; 16])?,
        public_key_sha256: [0x5a; 32],
        authority_id: "5a".repeat(20),
        not_after: Timestamp::from_unix(2_000_000_000),
        window_id: None,
    };
    let actor = Actor {
        who: "spiffe://bench.test/spire/agent/join_token/6130".into(),
        origin: "127.0.0.1:65535".into(),
        reason: String::new(),
    };
    let change = Change::SvidIntents(vec![intent; MADE]);
    let micros = |begun: Instant| begun.elapsed().as_secs_f64() * 1e6 / MADE as f64;
    let (mut made, mut dropped) = (vec![], vec![]);
    for _ in 0..rounds {
        let begun = Instant::now();
        // Where the agent is. That is known: what is new of an address is written once.
        let mut keep = |value: &str| {
            let sql = "SELECT commitment FROM private WHERE value_sha256 = ?1";
            let digest = digest(&SHA256, value.as_bytes());
            let digest = digest
                .as_ref()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>();
            database.prepare_cached(sql)?.exists([digest])?;
            anyhow::Ok(Commitment::new(&[0x5a; SALT_LEN], value))
        };
        let mut hide = Hide::new(&mut keep);
        let envelope = Envelope::new(Revision(1), Timestamp::from_unix(1_900_000_000), &actor, &mut hide)?;
        let seal = |record: Record| envelope.seal(record, &mut hide);
        let entries: Vec<String> = change.records(&[]).into_iter().map(seal).collect::<Result<_>>()?;
        made.push(micros(begun));
        let transaction = database.transaction()?;
        let begun = Instant::now();
        {
            let sql = "INSERT INTO log (log_index, kind, entry) VALUES (?1, ?2, ?3)";
            let mut statement = transaction.prepare_cached(sql)?;
            for (index, entry) in entries.iter().enumerate() {
                statement.execute((i64::try_from(index)?, "svid.intended", entry))?;
            }
        }
        dropped.push(micros(begun));
        transaction.rollback()?;
    }
    Ok((median(&mut made), median(&mut dropped)))
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
