//! The page: what runs have shown, rendered. Nothing on it is written by hand, so it says what was seen.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Result, ensure};

use crate::calibrate::Calibration;
use crate::figure::{Figure, Gate, Run, number};

const HEAD: &str = "\
# Figures

What Mayfly reaches, each figure beside what the same machine could do at best and what was promised. This page is the output of

```sh
cargo run -p mayfly-bench -- report tests/bench/results/*.json > docs/SPEC.md
```

and the results in that folder are those of

```sh
cargo build --profile dist --workspace --bins && target/dist/mayfly-bench all --json tests/bench/results/mayfly-1.json
```

which takes about ten minutes once it is built. It is built as what is shipped is, with link-time optimization; what `--release`
builds costs about a tenth more. The daemons run on one processor, the load generator on another; nothing is resumed, skipped
or prepared that a user would not have: every CSR's signature is checked, every intent is on disk before its SVID is signed,
every caller of the Workload API is attested. The same program measures any server that speaks SPIRE's API (`--server`,
`--admin`, `--trust-domain`, `--poll`) and any Workload API (`--workload-api`).

A time by itself says more about the machine than about a program. So look at *reached*, the share of the limit, and at
CPU time, which neighbours disturb least. Latencies count from when a call was due, not from when it could be made.

The agents of a fleet (C2 to C5, C7, C9, L1, P6) are simulated: a connection and a task each. As witnesses of the log they do
to the server what agents do, and believe it; in runs whose E1 has no *uncounted* beside it they were none. They open no
windows, so they ask for no proofs.

What E1 takes for the limit issues with the appends dropped by the database, which a trigger tells to: such a server still
makes each entry, looks up what it commits to, and hands it to SQLite. A run measures that by itself, as *uncounted*, and
*share if counted* has it taken off the limit: 0.7 µs per SVID, where it was 3 before what the entries of one change have in
common was made once.
";

/// Renders runs: those of the first one's system, and how others compare.
///
/// # Errors
/// There is none, or one that does not count.
pub fn page(runs: &[Run]) -> Result<String> {
    ensure!(!runs.is_empty(), "there is nothing to report");
    for run in runs {
        ensure!(run.format == 1, "results of another format");
        ensure!(
            !run.quick && run.optimized,
            "results of a quick run, or of a build without optimization, say nothing"
        );
    }
    let system = &runs[0].system;
    let (own, others): (Vec<&Run>, Vec<&Run>) = runs.iter().partition(|run| run.system == *system);
    let mut page = String::from(HEAD);
    machine(&mut page, &own)?;
    limits(&mut page, &own)?;
    figures(&mut page, &own)?;
    also_seen(&mut page, &own)?;
    if !others.is_empty() {
        comparison(&mut page, &own, &others)?;
    }
    Ok(page)
}

fn machine(page: &mut String, runs: &[&Run]) -> Result<()> {
    writeln!(page, "\n## Where and when\n\n| | |\n|---|---|")?;
    for (name, value) in &runs[0].machine {
        writeln!(page, "| {name} | {value} |")?;
    }
    for run in runs {
        let (low, high) = (smallest(&run.steadiness), largest(&run.steadiness));
        let steady = format!("a signature and its check took {low:.1} to {high:.1} µs of CPU during the run");
        writeln!(page, "| run | {}, commit {}; {steady} |", run.time, run.commit)?;
    }
    Ok(())
}

fn limits(page: &mut String, runs: &[&Run]) -> Result<()> {
    type Read = fn(&Calibration) -> f64;
    let rows: [(&str, &str, Read); 13] = [
        ("P-256 signature, CPU", "µs", |limits| limits.sign_us),
        ("P-256 verification, CPU", "µs", |limits| limits.verify_us),
        ("signature, while the other processor signs too", "µs", |limits| {
            limits.sign_beside_us
        }),
        ("verification, while the other processor signs too", "µs", |limits| {
            limits.verify_beside_us
        }),
        ("mutual TLS 1.3 handshakes, X25519MLKEM768", "per s", |limits| {
            limits.handshakes_per_s
        }),
        ("… server CPU of one", "µs", |limits| limits.handshake_server_us),
        ("… client CPU of one", "µs", |limits| limits.handshake_client_us),
        ("`fdatasync` of 4 KiB, median", "µs", |limits| limits.fsync_us),
        (
            "SQLite commit of a row, WAL, synchronous FULL, median",
            "µs",
            |limits| limits.sqlite_commit_us,
        ),
        ("an octet there and back over a Unix socket, median", "µs", |limits| {
            limits.uds_us
        }),
        ("gRPC call over a Unix socket, median", "µs", |limits| {
            limits.uds_rpc_us
        }),
        ("gRPC call over mutual TLS, median", "µs", |limits| limits.tls_rpc_us),
        ("… server CPU of one with a CSR and a certificate", "µs", |limits| {
            limits.tls_rpc_server_us
        }),
    ];
    writeln!(page, "\n## What the machine can do\n")?;
    writeln!(
        page,
        "Calibrated in the same runs and the same arrangement; the median where there are several runs.\n"
    )?;
    writeln!(page, "| operation | | |\n|---|--:|---|")?;
    for (name, unit, read) in rows {
        let values: Vec<f64> = runs.iter().map(|run| read(&run.calibration)).collect();
        writeln!(page, "| {name} | {} | {unit} |", number(median(&values)))?;
    }
    Ok(())
}

fn figures(page: &mut String, runs: &[&Run]) -> Result<()> {
    writeln!(page, "\n## What was seen\n")?;
    writeln!(
        page,
        "| id | figure | seen | | of runs | limit | reached | gate | |\n|---|---|--:|---|---|--:|--:|---|---|"
    )?;
    for (figure, all) in across(runs) {
        let values: Vec<f64> = all.iter().map(|figure| figure.value).collect();
        let limits: Vec<f64> = all.iter().filter_map(|figure| figure.limit).collect();
        let shares: Vec<f64> = all.iter().filter_map(|figure| figure.share).collect();
        let seen = median(&values);
        let range = match values.len() {
            1 => "1".to_owned(),
            count => format!("{count}: {}–{}", number(smallest(&values)), number(largest(&values))),
        };
        let show = |values: &[f64], show: fn(f64) -> String| match values {
            [] => String::new(),
            values => show(median(values)),
        };
        let verdict = match figure.gate {
            None => "",
            Some(gate) if holds(gate, seen, &limits, &shares) => "met",
            Some(_) => "**not met**",
        };
        writeln!(
            page,
            "| {} | {} | {} | {} | {range} | {} | {} | {} | {verdict} |",
            figure.id,
            figure.name,
            number(seen),
            figure.unit,
            show(&limits, number),
            show(&shares, |share| format!("{:.0} %", share * 100.0)),
            figure.gate.map(|gate| gate.to_string()).unwrap_or_default(),
        )?;
    }
    Ok(())
}

/// Whether the median of the runs reaches the gate.
fn holds(gate: Gate, seen: f64, limits: &[f64], shares: &[f64]) -> bool {
    match gate {
        Gate::AtMost(bound) => seen <= bound,
        Gate::ShareAtLeast(bound) => !shares.is_empty() && median(shares) >= bound,
        Gate::TimesLimit(times) => !limits.is_empty() && seen <= times * median(limits),
    }
}

fn also_seen(page: &mut String, runs: &[&Run]) -> Result<()> {
    writeln!(page, "\n## What else was seen\n")?;
    for (figure, all) in across(runs) {
        if figure.more.is_empty() {
            continue;
        }
        let more = figure.more.keys().map(|name| {
            let values: Vec<f64> = all.iter().filter_map(|figure| figure.more.get(name)).copied().collect();
            format!("{} {}", name.replace('_', " "), number(median(&values)))
        });
        writeln!(
            page,
            "- {} {}: {}",
            figure.id,
            figure.name,
            more.collect::<Vec<_>>().join(", ")
        )?;
    }
    Ok(())
}

fn comparison(page: &mut String, own: &[&Run], others: &[&Run]) -> Result<()> {
    let mut systems: BTreeMap<&str, Vec<&Run>> = BTreeMap::new();
    for &run in others {
        systems.entry(&run.system).or_default().push(run);
    }
    for (system, runs) in systems {
        writeln!(page, "\n## Beside {system}\n")?;
        writeln!(
            page,
            "Measured by the same program on the same machine; medians of {} and {} runs.\n",
            own.len(),
            runs.len()
        )?;
        writeln!(
            page,
            "| id | figure | {} | {system} | | times |\n|---|---|--:|--:|---|--:|",
            own[0].system
        )?;
        let theirs = across(&runs);
        for (figure, all) in across(own) {
            let same = theirs
                .iter()
                .find(|(other, _)| other.id == figure.id && other.name == figure.name);
            let Some((_, same)) = same else { continue };
            let middle = |figures: &[&Figure]| median(&figures.iter().map(|figure| figure.value).collect::<Vec<_>>());
            let (ours, theirs) = (middle(&all), middle(same));
            let times = if ours > 0.0 {
                number(theirs / ours)
            } else {
                "–".into()
            };
            writeln!(
                page,
                "| {} | {} | {} | {} | {} | {times} |",
                figure.id,
                figure.name,
                number(ours),
                number(theirs),
                figure.unit
            )?;
        }
    }
    Ok(())
}

/// Each figure with all that was seen of it, in the order of the first run that has it.
fn across<'r>(runs: &[&'r Run]) -> Vec<(&'r Figure, Vec<&'r Figure>)> {
    let mut rows: Vec<(&Figure, Vec<&Figure>)> = Vec::new();
    for figure in runs.iter().flat_map(|run| &run.figures) {
        match rows
            .iter_mut()
            .find(|(first, _)| first.id == figure.id && first.name == figure.name)
        {
            Some((_, all)) => all.push(figure),
            None => rows.push((figure, vec![figure])),
        }
    }
    rows
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        count if count % 2 == 1 => sorted[count / 2],
        count => f64::midpoint(sorted[count / 2 - 1], sorted[count / 2]),
    }
}

fn smallest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::INFINITY, f64::min)
}

fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(system: &str, value: f64) -> Run {
        let calibration = serde_json::json!({
            "sign_us": 10.0, "verify_us": 30.0, "sign_beside_us": 10.0, "verify_beside_us": 30.0,
            "handshakes_per_s": 1000.0, "handshake_server_us": 1.0, "handshake_client_us": 1.0,
            "fsync_us": 1.0, "fsync_p99_us": 1.0, "sqlite_commit_us": 1.0, "uds_us": 1.0, "uds_rpc_us": 1.0,
            "tls_rpc_us": 1.0, "tls_rpc_server_us": 1.0,
        });
        let figure = Figure::new("P1", "issue", value, "µs").of_least(40.0);
        Run {
            format: 1,
            system: system.into(),
            commit: "abc".into(),
            time: "2026-01-01T00:00:00Z".into(),
            quick: false,
            optimized: true,
            machine: BTreeMap::new(),
            calibration: serde_json::from_value(calibration).unwrap(),
            steadiness: vec![40.0],
            figures: vec![figure.gate(Gate::ShareAtLeast(0.6)).with("cpu", value)],
        }
    }

    #[test]
    fn the_median_of_the_runs_is_judged() {
        let page = page(&[run("a", 50.0), run("a", 60.0), run("a", 500.0)]).unwrap();
        let row = "| P1 | issue | 60 | µs | 3: 50–500 | 40 | 67 % | ≥ 60 % of the limit | met |";
        assert!(page.contains(row), "{page}");
        assert!(!page.contains("not met"));
    }

    #[test]
    fn what_misses_its_gate_says_so() {
        assert!(page(&[run("a", 90.0)]).unwrap().contains("**not met**"));
    }

    #[test]
    fn another_system_is_set_beside_ours() {
        let page = page(&[run("a", 50.0), run("b", 150.0)]).unwrap();
        assert!(page.contains("| P1 | issue | 50 | 150 | µs | 3 |"), "{page}");
    }

    #[test]
    fn a_quick_run_is_not_reported() {
        let mut quick = run("a", 1.0);
        quick.quick = true;
        assert!(page(&[quick]).is_err() && page(&[]).is_err());
    }
}
