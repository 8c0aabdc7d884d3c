//! Measures commits per second: `cargo run -p mayfly-store --example commit_rate -- <folder on the disk in question>`.
//!
//! Each line is one kind of commit, repeated for two seconds on a fresh database: how many a second, and how long one
//! takes at the median and at the slowest of a hundred.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_model::{Actor, Change, Entry, EntryId, EntrySpec, Step, SvidIntent};
use mayfly_store::{Store, open_sqlite};
use mayfly_svid::{Serial, Timestamp, TrustDomain};

type Error = Box<dyn std::error::Error>;

fn main() -> Result<(), Error> {
    let folder = std::env::args_os()
        .nth(1)
        .map_or_else(|| PathBuf::from("."), PathBuf::from);
    let trust_domain: TrustDomain = "example.org".parse()?;
    println!(
        "{:<12} {:>8} {:>10} {:>8} {:>8} {:>10}",
        "commit of", "commits", "commits/s", "p50 ms", "p99 ms", "records/s"
    );
    let mut number = 0;
    for (what, records, change) in [
        (
            "1 note",
            1,
            note as fn(&TrustDomain, u64, usize) -> Result<Vec<Change>, Error>,
        ),
        ("1 entry", 1, entries),
        ("100 entries", 100, entries),
        ("1 intent", 1, intents),
        ("100 intents", 100, intents),
        ("500 intents", 500, intents),
    ] {
        let path = folder.join(format!("commit-rate-{}.db", std::process::id()));
        let mut store = open_sqlite(&path, &trust_domain)?;
        let times = measure(store.as_mut(), || {
            number += 1;
            change(&trust_domain, number, records)
        })?;
        drop(store);
        remove(&path)?;
        report(what, records, times);
    }
    Ok(())
}

fn measure(
    store: &mut dyn Store,
    mut changes: impl FnMut() -> Result<Vec<Change>, Error>,
) -> Result<Vec<Duration>, Error> {
    let mut times = Vec::new();
    let end = Instant::now() + Duration::from_secs(2);
    while Instant::now() < end {
        let step = |change| Step {
            actor: Actor::server(),
            time: Timestamp::from_unix(1_750_000_000),
            change,
        };
        let steps: Vec<Step> = changes()?.into_iter().map(step).collect();
        let begin = Instant::now();
        store
            .commit(&steps)?
            .outcomes
            .into_iter()
            .try_for_each(|outcome| outcome.map(drop))?;
        times.push(begin.elapsed());
    }
    Ok(times)
}

fn report(what: &str, records: usize, mut times: Vec<Duration>) {
    times.sort_unstable();
    let total: Duration = times.iter().sum();
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
    let rate = f64::from(count) / total.as_secs_f64();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100].as_secs_f64() * 1e3;
    let records = f64::from(u32::try_from(records).unwrap_or(u32::MAX)) * rate;
    println!(
        "{what:<12} {count:>8} {rate:>10.0} {:>8.3} {:>8.3} {records:>10.0}",
        at(50),
        at(99)
    );
}

fn note(_: &TrustDomain, number: u64, _: usize) -> Result<Vec<Change>, Error> {
    Ok(vec![Change::Note {
        kind: "bench.note",
        subject: number.to_string(),
        body: serde_json::json!({}),
    }])
}

fn entries(trust_domain: &TrustDomain, number: u64, count: usize) -> Result<Vec<Change>, Error> {
    let entry = |index| {
        let selectors = ["unix:uid:1000".parse()?].into_iter().collect();
        let spiffe_id = trust_domain.with_path(&format!("/web/{number}/{index}"))?;
        let spec = EntrySpec::new(spiffe_id, trust_domain.with_path("/spire/agent/x509pop/a")?, selectors);
        let created_at = Timestamp::from_unix(1_750_000_000);
        Ok(Change::EntryCreate(Box::new(Entry {
            id: EntryId::random(),
            spec,
            created_at,
            revision_number: 0,
        })))
    };
    (0..count).map(entry).collect()
}

fn intents(trust_domain: &TrustDomain, number: u64, count: usize) -> Result<Vec<Change>, Error> {
    let intent = |index: usize| {
        let mut serial = [1; 16];
        serial[8..].copy_from_slice(&(number * 1000 + u64::try_from(index)?).to_be_bytes());
        Ok(SvidIntent {
            spiffe_id: trust_domain.with_path(&format!("/web/{index}"))?,
            entry_id: Some(EntryId::random()),
            serial: Serial::from_be_bytes(&serial)?,
            public_key_sha256: [7; 32],
            authority_id: "0123456789abcdef0123456789abcdef01234567".into(),
            not_after: Timestamp::from_unix(1_750_003_600),
            window_id: None,
        })
    };
    let intents = (0..count).map(intent).collect::<Result<_, Error>>()?;
    Ok(vec![Change::SvidIntents(intents)])
}

fn remove(path: &Path) -> Result<(), Error> {
    Ok(std::fs::remove_file(path)?)
}
