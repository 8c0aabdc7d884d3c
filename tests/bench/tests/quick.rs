//! The program that takes the figures works, and its page is made of results. No figure is judged here: this is a debug
//! build among other tests.

#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use mayfly_bench::figure::Run;
use mayfly_bench::{report, run};
use mayfly_tests::{Lane, binaries};

fn program() -> Command {
    Command::new(binaries::binary("mayfly-bench"))
}

#[test]
fn every_figure_is_taken_with_its_limit_and_its_gate() {
    let _lane = Lane::shared();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("figures.json");
    let output = program()
        .args(["all", "--quick", "--json"])
        .arg(&path)
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}\n{stderr}");
    let run: Run = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    assert!(run.quick && run.format == 1);
    println!("{stdout}");

    let limits: serde_json::Value = serde_json::to_value(&run.calibration).unwrap();
    for (name, value) in limits.as_object().unwrap() {
        assert!(value.as_f64().unwrap() > 0.0, "{name} was not calibrated");
    }
    for name in ["processor", "memory", "kernel", "arrangement"] {
        assert!(!run.machine[name].is_empty(), "the machine's {name} is not stated");
    }
    let taken: BTreeSet<String> = run.figures.iter().map(|figure| figure.id.to_lowercase()).collect();
    assert_eq!(taken, run::ALL.map(str::to_owned).into());
    for id in run::ALL {
        let mut of_id = run.figures.iter().filter(|figure| figure.id.to_lowercase() == id);
        assert!(
            of_id.any(|figure| figure.gate.is_some() && figure.met.is_some()),
            "{id} has no gate"
        );
    }
    for figure in &run.figures {
        assert!(figure.value.is_finite() && figure.value >= 0.0, "{figure:?}");
        assert!(!figure.unit.is_empty() && stdout.contains(&figure.name), "{figure:?}");
        assert_eq!(figure.limit.is_some(), figure.share.is_some(), "{figure:?}");
        let unreal = figure.more.values().find(|value| !value.is_finite());
        assert_eq!(unreal, None, "{figure:?}");
    }
    // The steps that cost nothing in a run of this size can be told by this one, which cannot.
    let storm = run.figures.iter().find(|figure| figure.id == "L1").unwrap();
    assert!(storm.value > 0.0 && storm.limit.unwrap() > 0.0, "{storm:?}");
}

#[test]
fn the_page_is_what_the_results_say() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(sources.join("results"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let runs: Vec<Run> = files
        .iter()
        .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        .collect();
    let page = std::fs::read_to_string(sources.join("../../docs/SPEC.md")).unwrap();
    assert!(
        page == report::page(&runs).unwrap(),
        "docs/SPEC.md is not what the results say: cargo run -p mayfly-bench -- report tests/bench/results/*.json > docs/SPEC.md"
    );
}

#[test]
fn a_wrong_figure_is_refused_with_those_that_there_are() {
    let output = program().args(["only", "p99"]).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && stderr.contains("p1") && stderr.contains("l1"),
        "{stderr}"
    );
}
