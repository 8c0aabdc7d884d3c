//! Entries of which the log has only a commitment to the whole body: too long ones, or those that somebody hides. Of a
//! decision only the facts may be hidden in this way: what was decided, by which policy and on what digest stays legible.
//!
//! What they said has to be known here, or the log says later that it was erased. Everything else is a hole in the log. And
//! what is erased was committed to before: nobody takes note today of what a later entry will hide.

use std::collections::{BTreeMap, HashSet};

use serde_json::Value;

use super::Replay;
use crate::details::commitment_of;
use crate::{Entry, Invariant, Violation};

/// What is kept beside the log.
#[derive(Debug, Default)]
pub(super) struct Hidden {
    /// Bodies, and facts, that are neither known nor erased so far, by the commitments to them.
    unread: BTreeMap<String, Vec<Unread>>,
    /// Every commitment of the entries so far: the beginnings of their hashes, as these only grow.
    committed: HashSet<u128>,
}

#[derive(Debug)]
struct Unread {
    index: u64,
    time: i64,
    what: String,
}

impl Hidden {
    /// `what` of the entry is hidden.
    pub(super) fn hide(&mut self, commitment: &str, entry: &Entry, what: &str) {
        self.unread.entry(commitment.to_owned()).or_default().push(Unread {
            index: entry.index,
            time: entry.time,
            what: format!("{what} of a `{}`", entry.kind),
        });
    }

    /// Notes all that an entry commits to, as it stands in the log.
    pub(super) fn commits_to(&mut self, entry: &Entry) {
        for value in [&entry.who, &entry.origin, &entry.reason, &entry.body] {
            collect(value, &mut self.committed);
        }
    }

    /// These were erased. What is committed to later has other salts, so it is not among them. Answers the first one that
    /// no earlier entry has.
    pub(super) fn forget(&mut self, commitments: &Value) -> Option<String> {
        let mut invented = None;
        for commitment in commitments.as_array().into_iter().flatten() {
            let Some(commitment) = commitment.as_str() else {
                invented.get_or_insert_with(|| commitment.to_string());
                continue;
            };
            self.unread.remove(commitment);
            if !short(commitment).is_some_and(|short| self.committed.contains(&short)) {
                invented.get_or_insert_with(|| commitment.to_owned());
            }
        }
        invented
    }
}

fn collect(value: &Value, found: &mut HashSet<u128>) {
    match (commitment_of(value), value) {
        (Some(commitment), _) => found.extend(short(commitment)),
        (None, Value::Object(fields)) => fields.values().for_each(|value| collect(value, found)),
        (None, Value::Array(items)) => items.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

/// The first half of a commitment.
fn short(commitment: &str) -> Option<u128> {
    let is_whole = commitment.len() == 64;
    let half = commitment.get(..32).filter(|_| is_whole)?;
    u128::from_str_radix(half, 16).ok()
}

impl Replay {
    /// The log is read: what is hidden still was not erased.
    pub(super) fn end_hidden(&mut self) {
        let mut unread: Vec<&Unread> = self.hidden.unread.values().flatten().collect();
        unread.sort_unstable_by_key(|unread| unread.index);
        let violations = unread.into_iter().map(|Unread { index, time, what }| Violation {
            invariant: Invariant::Completeness,
            index: *index,
            time: *time,
            message: format!("{what} is kept beside the log, was not erased, and is not known here"),
        });
        self.violations.extend(violations);
    }

    /// Takes note of what was erased.
    pub(super) fn take_erased(&mut self, entry: &Entry) {
        if let Some(invented) = self.hidden.forget(entry.field("commitments")) {
            let message = format!("it erases `{invented}`, which no earlier entry commits to");
            self.violate(Invariant::Completeness, entry.index, message);
        }
    }

    /// Takes note of the facts of a decision if they are not known here.
    pub(super) fn take_hidden_facts(&mut self, entry: &Entry, facts: &Value) {
        if let Some(commitment) = commitment_of(facts) {
            self.notes.unread.push(entry.index);
            self.hidden.hide(commitment, entry, "what was known");
        }
    }
}

#[cfg(test)]
mod tests {
    use mayfly_model::Change;
    use serde_json::json;

    use super::super::tests::honest;
    use crate::canonical::{canonical, sha256};
    use crate::kinds::{KINDS, is_always_small};
    use crate::testing::World;
    use crate::{Details, Entry, Invariant, Replay};

    const SALT: &[u8] = b"0123456789abcdef";

    fn replay(entries: &[Entry], details: &Details) -> Replay {
        let mut replay = Replay::new(details.clone());
        entries.iter().for_each(|entry| replay.take(entry));
        replay.finish();
        replay
    }

    /// What is broken, and by which entries.
    fn broken(world: &World, details: &Details) -> Vec<(Invariant, u64)> {
        let replay = replay(&world.entries(), details);
        let found = replay.violations().iter();
        found.map(|violation| (violation.invariant, violation.index)).collect()
    }

    /// Hides the first body of a kind in the log: its place, the commitment to it, and the value for who may know it.
    fn hide(world: &mut World, kind: &str) -> (u64, String, Details) {
        let mut entries = world.entries();
        let entry = entries.iter_mut().find(|entry| entry.kind == kind).unwrap();
        let commitment = hex::encode(sha256(&[SALT, &canonical(&entry.body).unwrap()]));
        let mut details = Details::default();
        details.add(&commitment, SALT, entry.body.clone()).unwrap();
        entry.body = json!({ "commitment": commitment });
        world.log[entry.index as usize] = entry.to_bytes();
        (entry.index, commitment, details)
    }

    /// Hides what the first decision was taken on.
    fn hide_facts(world: &mut World) -> (u64, String, Details) {
        let mut entries = world.entries();
        let entry = entries.iter_mut().find(|entry| entry.kind == "policy.decided").unwrap();
        let facts = entry.body["facts"].take();
        let commitment = hex::encode(sha256(&[SALT, &canonical(&facts).unwrap()]));
        let mut details = Details::default();
        details.add(&commitment, SALT, facts).unwrap();
        entry.body["facts"] = json!({ "commitment": commitment });
        world.log[entry.index as usize] = entry.to_bytes();
        (entry.index, commitment, details)
    }

    #[test]
    fn what_a_decision_was_taken_on_is_known_or_erased_or_a_hole_in_the_log() {
        let mut world = honest();
        let (index, commitment, details) = hide_facts(&mut world);
        let hole = [(Invariant::Completeness, index)];
        assert_eq!(broken(&world, &Details::default()), hole);
        assert_eq!(broken(&world, &details), []);
        // What is known is judged.
        let mut other = world.entries();
        other[index as usize].subject = "another".into();
        let found = replay(&other, &details);
        assert!(found.violations().iter().any(|found| found.invariant == Invariant::I8));
        let erased = |what: &str| {
            let mut world = world.clone();
            world.raw("private.erased", "", json!({ "commitments": [what] }));
            world
        };
        let gone = erased(&commitment);
        assert_eq!(broken(&gone, &Details::default()), []);
        assert_eq!(replay(&gone.entries(), &Details::default()).notes().unread, [index]);
        // What is erased covers no decision: its verdict counts, whatever it was taken on.
        let mut entries = gone.entries();
        entries[index as usize].body["decision"]["verdict"] = json!("deny");
        let found = replay(&entries, &Details::default());
        let found: Vec<_> = found.violations().iter().map(|found| found.invariant).collect();
        assert_eq!(found, [Invariant::I8]);
        // Nothing is erased that the log never had: the first is the hole, the second who speaks of another one.
        let invented = erased(&"0".repeat(64));
        let last = invented.log.len() as u64 - 1;
        let both = [(Invariant::Completeness, last), (Invariant::Completeness, index)];
        assert_eq!(broken(&invented, &Details::default()), both);
    }

    #[test]
    fn a_decision_is_never_hidden_as_a_whole_whatever_is_said_to_be_erased() {
        let mut world = honest();
        let (index, commitment, _) = hide(&mut world, "policy.decided");
        world.raw("private.erased", "", json!({ "commitments": [commitment] }));
        let found = broken(&world, &Details::default());
        assert!(found.contains(&(Invariant::Completeness, index)), "{found:?}");
        // And what it should have allowed stands without it.
        assert!(
            found.iter().any(|(invariant, _)| *invariant == Invariant::I8),
            "{found:?}"
        );
    }

    #[test]
    fn only_what_an_earlier_entry_commits_to_is_erased() {
        let hash = "ab".repeat(32);
        let by = |world: &mut World| world.raw("proposal.added", "p", json!({ "author": { "commitment": hash } }));
        let erase = |world: &mut World, what: serde_json::Value| {
            world.raw("private.erased", "", json!({ "commitments": what }));
            world.log.len() as u64 - 1
        };
        let mut world = honest();
        by(&mut world);
        erase(&mut world, json!([hash]));
        assert_eq!(broken(&world, &Details::default()), []);
        for invented in [
            json!(["cd".repeat(32)]),
            json!([hash, "cd".repeat(32)]),
            json!([17]),
            json!(["ab"]),
        ] {
            let mut world = world.clone();
            let index = erase(&mut world, invented);
            assert_eq!(broken(&world, &Details::default()), [(Invariant::Completeness, index)]);
        }
        let mut world = honest();
        let index = erase(&mut world, json!([hash]));
        by(&mut world);
        assert_eq!(broken(&world, &Details::default()), [(Invariant::Completeness, index)]);
    }

    #[test]
    fn what_is_erased_was_there_before() {
        let body = json!({ "commitment": "ab".repeat(32) });
        let erased = json!({ "commitments": ["ab".repeat(32)] });
        let (mut before, mut after) = (honest(), honest());
        before.raw("private.erased", "", erased.clone());
        before.raw("proposal.added", "p", body.clone());
        let index = before.log.len() as u64 - 1;
        let both = [(Invariant::Completeness, index - 1), (Invariant::Completeness, index)];
        assert_eq!(broken(&before, &Details::default()), both);
        after.raw("proposal.added", "p", body);
        after.raw("private.erased", "", erased);
        assert_eq!(broken(&after, &Details::default()), []);
    }

    #[test]
    fn what_is_always_small_is_hidden_by_nobody() {
        let kinds = [
            "svid.intended",
            "svid.outcome",
            "window.opened",
            "window.renewed",
            "window.closing",
            "window.settled",
            "authority.prepared",
            "agent.attested",
            "task.approved",
            "task.refused",
            "policy.decided",
        ];
        for kind in kinds {
            let mut world = honest();
            assert_eq!(broken(&world, &Details::default()), [], "{kind}");
            let (index, commitment, details) = hide(&mut world, kind);
            let hole = (Invariant::Completeness, index);
            assert!(broken(&world, &Details::default()).contains(&hole), "{kind}");
            // Neither that somebody knows it nor that it is erased later makes it right.
            assert_eq!(broken(&world, &details), [hole], "{kind}");
            world.raw("private.erased", "", json!({ "commitments": [commitment] }));
            assert!(broken(&world, &Details::default()).contains(&hole), "{kind}");
        }
    }

    #[test]
    fn no_kind_is_hidden_in_silence() {
        for kind in KINDS {
            let mut world = honest();
            world.raw(kind.name, "x", json!({ "commitment": "ab".repeat(32) }));
            let index = world.log.len() as u64 - 1;
            let hole = [(Invariant::Completeness, index)];
            assert_eq!(broken(&world, &Details::default()), hole, "{}", kind.name);
            world.raw("private.erased", "", json!({ "commitments": ["ab".repeat(32)] }));
            let is_told = broken(&world, &Details::default()) == hole;
            assert_eq!(is_told, is_always_small(kind.name), "{}", kind.name);
        }
    }

    #[test]
    fn what_the_server_keeps_beside_the_log_because_it_is_long_is_no_hole_for_who_has_it() {
        let mut world = honest();
        let decision = |groups: u64| {
            let groups: Vec<String> = (0..groups).map(|number| format!("a-group-{number}")).collect();
            json!({ "facts": { "phase": "request", "person": { "id": "joe", "groups": groups } },
                    "decision": { "verdict": "deny", "reasons": [] } })
        };
        for (groups, is_hidden) in [(10, false), (10_000, true)] {
            let (kind, subject) = ("policy.decided", "none".to_owned());
            let body = decision(groups);
            world.commit("server", vec![(Change::Note { kind, subject, body }, vec![])]);
            let index = world.log.len() as u64 - 1;
            let told: &[_] = if is_hidden {
                &[(Invariant::Completeness, index)]
            } else {
                &[]
            };
            assert_eq!(broken(&world, &Details::default()), told);
            assert_eq!(broken(&world, &world.details), []);
        }
    }
}
