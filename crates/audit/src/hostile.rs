//! Logs that somebody made to break the reader: whatever entries say, they are judged, and nothing ends in a panic.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::meter::View;
use crate::report::{LogFacts, Report};
use crate::testing::{APPROVED, START, UNATTENDED, WORKLOAD, World};
use crate::{Details, Entry, Scope, Thresholds};

/// One change of a log.
#[derive(Clone, Debug)]
enum Change {
    /// The value at this place of an entry's body is another one.
    Leaf(usize, usize, usize),
    Drop(usize),
    Swap(usize, usize),
    Again(usize),
    Time(usize, i64),
    Revision(usize, u64),
    Kind(usize, usize),
}

fn changes() -> impl Strategy<Value = Change> {
    let at = || any::<usize>();
    prop_oneof![
        6 => (at(), at(), at()).prop_map(|(entry, leaf, value)| Change::Leaf(entry, leaf, value)),
        1 => at().prop_map(Change::Drop),
        1 => (at(), at()).prop_map(|(a, b)| Change::Swap(a, b)),
        1 => at().prop_map(Change::Again),
        1 => (at(), any::<i64>()).prop_map(|(entry, time)| Change::Time(entry, time)),
        1 => (at(), any::<u64>()).prop_map(|(entry, revision)| Change::Revision(entry, revision)),
        1 => (at(), at()).prop_map(|(entry, kind)| Change::Kind(entry, kind)),
    ]
}

/// What somebody could put where something else belongs.
fn odd(number: usize) -> Value {
    let values = [
        json!(null),
        json!(i64::MIN),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(-1),
        json!(0),
        json!(""),
        json!("é/*"),
        json!([]),
        json!({}),
        json!({ "commitment": "0".repeat(64) }),
        json!(true),
    ];
    values[number % values.len()].clone()
}

/// Puts `with` in the place of the leaf with this number; the number that is left if there are fewer.
fn replace(value: &mut Value, number: &mut usize, with: &Value) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            fields.values_mut().for_each(|field| replace(field, number, with))
        }
        Value::Array(items) if !items.is_empty() => items.iter_mut().for_each(|item| replace(item, number, with)),
        leaf => {
            if *number == 0 {
                *leaf = with.clone();
            }
            *number = number.wrapping_sub(1);
        }
    }
}

fn apply(entries: &mut Vec<Entry>, change: &Change) {
    let count = entries.len();
    match *change {
        Change::Leaf(at, leaf, value) => {
            // None has more leaves than that.
            replace(&mut entries[at % count].body, &mut (leaf % 64), &odd(value));
        }
        Change::Drop(at) => drop(entries.remove(at % count)),
        Change::Swap(a, b) => entries.swap(a % count, b % count),
        Change::Again(at) => entries.push(entries[at % count].clone()),
        Change::Time(at, time) => entries[at % count].time = time,
        Change::Revision(at, revision) => entries[at % count].revision = revision,
        Change::Kind(at, kind) => entries[at % count].kind = crate::KINDS[kind % crate::KINDS.len()].name.into(),
    }
}

fn log() -> Vec<Entry> {
    let mut world = World::new();
    world.define(UNATTENDED);
    world.define(APPROVED);
    world.register(WORKLOAD, true);
    let id = world.request("pay/db-migrate", WORKLOAD, None, "schema 17");
    world.work(&id, 500);
    let id = world.request("pay/export", WORKLOAD, Some("joe"), "figures");
    world.now += 60;
    world.approve(&id, "ann");
    world.work(&id, 600);
    let exception = json!({ "id": "x", "identity": WORKLOAD, "owner": "olga", "expires_at": world.now + 60 });
    world.raw("exception.granted", "x", exception);
    world.raw("checkpoint.registered", "db", json!({ "name": "db", "consumers": 1 }));
    world.raw(
        "probe.finished",
        "db",
        json!({ "checkpoint": "db", "kind": "base", "outcome": "a", "expected": "b" }),
    );
    world.entries()
}

fn report(entries: Vec<Entry>, (from, to): (i64, i64)) -> Report {
    let view = View {
        from,
        to,
        scope: Scope::All,
        thresholds: Thresholds::default(),
    };
    Report::build(
        entries.into_iter().map(Ok),
        Details::default(),
        &view,
        LogFacts::default(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn no_log_breaks_the_reader(changes in proptest::collection::vec(changes(), 1..12)) {
        let mut entries = log();
        for change in &changes {
            apply(&mut entries, change);
        }
        let period = (START, START + 86_400);
        prop_assert_eq!(report(entries.clone(), period), report(entries, period));
    }
}

#[test]
fn no_period_breaks_the_reader() {
    for period in [
        (i64::MIN, i64::MAX),
        (START, START),
        (START + 1, START),
        (i64::MAX, i64::MIN),
        (0, START + 7),
    ] {
        let report = report(log(), period);
        assert_eq!((report.claim.from, report.claim.to), period);
    }
}
