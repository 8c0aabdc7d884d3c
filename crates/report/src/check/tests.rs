//! Reports on a small log, checked as somebody would who does not trust whoever made them.

use std::path::Path;

use mayfly_audit::finding::Scope;
use mayfly_audit::report::State;
use mayfly_tlog::checkpoint::Checkpoint;
use mayfly_tlog::cosignature;
use mayfly_tlog::files::{LogKeys, LogWriter};
use mayfly_tlog::note::{Algorithm, Ed25519Key, NoteSigner};
use tempfile::TempDir;

use super::*;

const START: i64 = 1_793_491_200;
const ORIGIN: &str = "td/log/1";

/// A log in a folder, and its key.
struct World {
    _dir: TempDir,
    log: VerifiedLog,
    key: Ed25519Key,
}

fn world(entries: i64) -> World {
    let dir = tempfile::tempdir().unwrap();
    let (key, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
    let log = write(&dir.path().join("log"), entries, &key);
    World { _dir: dir, log, key }
}

/// One entry each hour.
fn write(dir: &Path, entries: i64, key: &Ed25519Key) -> VerifiedLog {
    write_by(dir, entries, key, "server")
}

/// The same, by somebody else.
fn write_other(dir: &Path, entries: i64, key: &Ed25519Key) -> VerifiedLog {
    write_by(dir, entries, key, "uid:0")
}

fn write_by(dir: &Path, entries: i64, key: &Ed25519Key, who: &str) -> VerifiedLog {
    let mut writer = LogWriter::create(dir).unwrap();
    for index in 0..entries {
        let entry = json!({
            "body": {}, "kind": "token.pruned", "origin": "", "reason": "", "revision": index + 1, "subject": "",
            "time": START + index * 3_600, "v": 1, "who": who,
        });
        writer.append(&serde_json::to_vec(&entry).unwrap()).unwrap();
    }
    let (size, root) = (writer.tree().size(), writer.tree().root());
    let signed = SignedCheckpoint::sign(Checkpoint::new(ORIGIN, size, root).unwrap(), key).unwrap();
    let log = writer.finish(&signed).unwrap();
    log.verify_all(&LogKeys::new([key.verifier_key().clone()])).unwrap()
}

impl World {
    fn keys(&self) -> Vec<VerifierKey> {
        vec![self.key.verifier_key().clone()]
    }

    /// On the second half of so many hours.
    fn report(&self, hours: i64) -> Report {
        self.report_by(hours, Thresholds::default())
    }

    fn report_by(&self, hours: i64, thresholds: Thresholds) -> Report {
        let view = View {
            from: START + hours / 2 * 3_600,
            to: START + hours * 3_600,
            scope: Scope::All,
            thresholds,
        };
        let facts = export::facts(self.log.checkpoint(), &self.keys(), vec![]);
        export::of_copy(&self.log, Details::default(), &view, facts).unwrap()
    }

    /// What fails, of a report that somebody signed as it is.
    fn failed(&self, report: &Report) -> Vec<&'static str> {
        let json = report.to_json();
        let note = note::sign(ORIGIN, &json, &self.key).unwrap().to_bytes();
        let (keys, details) = (self.keys(), Details::default());
        let with = With {
            note: Some(&note),
            keys: &keys,
            copy: Some((&self.log, &details)),
            ..With::default()
        };
        let checks = check(&json, with);
        checks
            .iter()
            .filter(|check| check.has_failed())
            .map(|check| check.what)
            .collect()
    }
}

#[test]
fn an_honest_report_passes_every_check() {
    for entries in [1, 7, 300] {
        let world = world(entries);
        let report = world.report(entries.max(2));
        assert_eq!(world.failed(&report), [""; 0], "{entries} entries");
        let begin = report.claim.log.begin.as_ref().map(|begin| begin.size);
        assert_eq!(begin, Some((entries.max(2) as u64 / 2).min(entries as u64)));
        assert_eq!(report.to_json(), world.report(entries.max(2)).to_json());
    }
}

#[test]
fn a_report_is_checked_against_a_longer_copy_and_not_against_a_shorter_or_another_one() {
    let small = world(300);
    let report = small.report(300);
    let dir = tempfile::tempdir().unwrap();
    let (json, details) = (report.to_json(), Details::default());
    let rebuilt_of = |copy: &VerifiedLog| {
        let with = With {
            copy: Some((copy, &details)),
            ..With::default()
        };
        check(&json, with).pop().unwrap()
    };
    // The log went on since.
    let longer = write(&dir.path().join("longer"), 700, &small.key);
    assert!(!rebuilt_of(&longer).has_failed(), "{:?}", rebuilt_of(&longer));
    let shorter = write(&dir.path().join("shorter"), 299, &small.key);
    assert!(rebuilt_of(&shorter).has_failed());
    let another = write_other(&dir.path().join("another"), 300, &small.key);
    assert!(rebuilt_of(&another).has_failed());
}

#[test]
fn whatever_a_signed_report_says_otherwise_than_the_log_is_told() {
    let world = world(40);
    let whole = world.report(40);
    type Lie = (&'static str, fn(&mut Report), &'static [&'static str]);
    let lies: &[Lie] = &[
        ("holds", |r| r.claim.holds = false, &["sums", REBUILT]),
        ("size", |r| r.claim.log.end.size += 1, &["sums", "checkpoint", REBUILT]),
        (
            "root",
            |r| r.claim.log.end.root = "ab".repeat(32),
            &["checkpoint", "only grew within the period", REBUILT],
        ),
        (
            "begin",
            |r| r.claim.log.begin.as_mut().unwrap().root = "cd".repeat(32),
            &["only grew within the period", REBUILT],
        ),
        (
            "proof",
            |r| drop(r.claim.log.consistency.pop()),
            &["only grew within the period", REBUILT],
        ),
        ("no checkpoint", |r| r.claim.log.checkpoint.clear(), &["checkpoint"]),
        (
            "witness",
            |r| r.claim.log.cosigned_by.push("w".into()),
            &["cosignatures", REBUILT],
        ),
        ("entries", |r| r.completeness.entries -= 1, &["sums", REBUILT]),
        ("whole", |r| r.completeness.is_whole = false, &["sums", REBUILT]),
        (
            "hours",
            |r| {
                r.zero_standing.samples.pop();
            },
            &["sums", REBUILT],
        ),
        ("violations", |r| r.joins.checks[0].violations = 1, &["sums", REBUILT]),
        ("a rule", |r| drop(r.joins.checks.pop()), &["sums", REBUILT]),
        ("power", |r| r.meter.total.privileged_seconds = 60, &["sums", REBUILT]),
        (
            "days",
            |r| r.meter.by_day[0].privileged_seconds = 60,
            &["sums", REBUILT],
        ),
        ("residual", |r| r.endings.residual.max = 3, &["sums", REBUILT]),
        ("unsettled", |r| r.debt.unsettled = 3, &["sums", REBUILT]),
        ("probes", |r| r.probes.state = State::Held, &["sums", REBUILT]),
        (
            "break-glass",
            |r| r.break_glass.privileged_seconds = 5,
            &["sums", REBUILT],
        ),
        ("limits", |r| r.limits.clear(), &[REBUILT]),
        ("controls", |r| r.controls[0].state = State::Broken, &[REBUILT]),
        ("the period", |r| r.claim.to = r.claim.from, &["sums", REBUILT]),
    ];
    for (name, lie, failed) in lies {
        let mut report = whole.clone();
        lie(&mut report);
        assert_ne!(report, whole, "{name}");
        let found = world.failed(&report);
        assert_eq!(found, *failed, "{name}");
    }
}

#[test]
fn a_report_by_other_thresholds_is_refused_by_name() {
    let world = world(40);
    type Lie = (&'static str, fn(&mut Thresholds));
    let lies: &[Lie] = &[
        ("settle_within", |t| t.settle_within = i64::MAX),
        ("exception_grace", |t| t.exception_grace += 1),
        ("chain_windows", |t| t.chain_windows = u64::MAX),
        ("random_instants", |t| t.random_instants = 0),
        ("rows", |t| t.rows = 0),
    ];
    for (name, lie) in lies {
        let mut thresholds = Thresholds::default();
        lie(&mut thresholds);
        // All that follows from them is as it should be.
        let report = world.report_by(40, thresholds);
        assert_eq!(world.failed(&report), ["thresholds", REBUILT], "{name}");
        let checks = check(&report.to_json(), With::default());
        let found = checks.iter().find(|check| check.what == "thresholds").unwrap();
        let Outcome::Failed(why) = &found.outcome else {
            panic!("{name}")
        };
        assert!(why.len() == 1 && why[0].contains(&format!("`{name}`")), "{why:?}");
    }
    let same = world.report_by(40, Thresholds::default());
    assert_eq!(world.failed(&same), [""; 0]);
}

#[test]
fn thresholds_that_ask_for_endless_work_are_refused_at_once() {
    let world = world(9);
    let mut report = world.report(9);
    report.thresholds.random_instants = u64::MAX;
    report.thresholds.rows = u64::MAX;
    report.thresholds.evidence = u64::MAX;
    assert_eq!(world.failed(&report), ["thresholds", REBUILT]);
}

#[test]
fn cosignatures_are_those_of_the_witnesses_that_are_named() {
    let world = world(3);
    let (witness, _) = Ed25519Key::generate("w.example/1", Algorithm::CosignatureV1).unwrap();
    let mut signed = world.log.checkpoint().clone();
    let cosigned = cosignature::cosign(&witness, signed.note().text(), 1_793_491_300).unwrap();
    signed.add_cosignature(witness.verifier_key(), cosigned).unwrap();
    let mut report = world.report(3);
    report.claim.log.checkpoint = signed.note().to_string();
    report.claim.log.cosigned_by = vec!["w.example/1".into()];
    let (json, keys, witnesses) = (report.to_json(), world.keys(), [witness.verifier_key().clone()]);
    let outcome = |witnesses: &[VerifierKey]| {
        let with = With {
            keys: &keys,
            witnesses,
            ..With::default()
        };
        let found = check(&json, with)
            .into_iter()
            .find(|check| check.what == "cosignatures");
        found.unwrap().outcome
    };
    assert_eq!(outcome(&witnesses), Outcome::Passed("1 of 1 witnesses".into()));
    assert!(matches!(outcome(&[]), Outcome::NotChecked(_)));
}

#[test]
fn a_report_of_somebody_else_is_none_of_the_log() {
    let world = world(9);
    let (other, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
    let json = world.report(9).to_json();
    let note = note::sign(ORIGIN, &json, &other).unwrap().to_bytes();
    let keys = world.keys();
    let outcomes = |with: With<'_>| {
        let found = check(&json, with).into_iter().find(|check| check.what == "signature");
        found.unwrap().outcome
    };
    let with = With {
        note: Some(&note),
        keys: &keys,
        ..With::default()
    };
    assert!(matches!(outcomes(with), Outcome::Failed(_)));
    // Without a key from somewhere else a signature says nothing.
    let with = With {
        note: Some(&note),
        ..With::default()
    };
    let Outcome::Failed(why) = outcomes(with) else { panic!() };
    assert!(
        why[0].contains(&keys[0].to_string()),
        "it says which key to compare: {why:?}"
    );
}

#[test]
fn what_is_no_report_is_told_and_not_looked_at() {
    for bytes in [&b""[..], b"{}", b"null", b"\xff", b"[1]"] {
        let checks = check(bytes, With::default());
        assert!(checks.len() == 1 && checks[0].has_failed(), "{checks:?}");
    }
}

#[test]
fn differences_are_named_by_their_place() {
    let place = |a: Value, b: Value| {
        first_difference(a.to_string().as_bytes(), b.to_string().as_bytes()).map(|(place, ..)| place)
    };
    assert_eq!(
        place(json!({ "a": [1, { "b": 2 }] }), json!({ "a": [1, { "b": 3 }] })),
        Some("a.1.b".into())
    );
    assert_eq!(place(json!({ "a": [1] }), json!({ "a": [1, 2] })), Some("a".into()));
    assert_eq!(place(json!({ "a": 1 }), json!({ "a": 1 })), None);
}
