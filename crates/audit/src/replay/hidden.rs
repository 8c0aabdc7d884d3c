//! Entries of which the log has only a commitment to the whole body: too long ones, or those that somebody hides.
//!
//! What they said has to be known here, or the log says later that it was erased. Everything else is a hole in the log.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Replay;
use crate::{Entry, Invariant, Violation};

/// Bodies that are neither known nor erased so far, by the commitments to them.
#[derive(Debug, Default)]
pub(super) struct Hidden(BTreeMap<String, Vec<Unread>>);

#[derive(Debug)]
struct Unread {
    index: u64,
    time: i64,
    kind: String,
}

impl Hidden {
    pub(super) fn hide(&mut self, commitment: &str, entry: &Entry) {
        self.0.entry(commitment.to_owned()).or_default().push(Unread {
            index: entry.index,
            time: entry.time,
            kind: entry.kind.clone(),
        });
    }

    /// These were erased. What is committed to later has other salts, so it is not among them.
    pub(super) fn forget(&mut self, commitments: &Value) {
        for commitment in commitments.as_array().into_iter().flatten() {
            commitment.as_str().map(|commitment| self.0.remove(commitment));
        }
    }
}

impl Replay {
    /// The log is read: what is hidden still was not erased.
    pub(super) fn end_hidden(&mut self) {
        let hidden = std::mem::take(&mut self.hidden).0;
        let mut unread: Vec<Unread> = hidden.into_values().flatten().collect();
        unread.sort_unstable_by_key(|unread| unread.index);
        let violations = unread.into_iter().map(|Unread { index, time, kind }| Violation {
            invariant: Invariant::Completeness,
            index,
            time,
            message: format!("the body of a `{kind}` is kept beside the log, was not erased, and is not known here"),
        });
        self.violations.extend(violations);
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

    #[test]
    fn a_hidden_decision_is_known_or_erased_or_a_hole_in_the_log() {
        let mut world = honest();
        let (index, commitment, details) = hide(&mut world, "policy.decided");
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
        assert_eq!(broken(&erased(&"0".repeat(64)), &Details::default()), hole);
    }

    #[test]
    fn what_is_erased_was_there_before() {
        let body = json!({ "commitment": "ab".repeat(32) });
        let erased = json!({ "commitments": ["ab".repeat(32)] });
        let (mut before, mut after) = (honest(), honest());
        before.raw("private.erased", "", erased.clone());
        before.raw("proposal.added", "p", body.clone());
        let index = before.log.len() as u64 - 1;
        assert_eq!(broken(&before, &Details::default()), [(Invariant::Completeness, index)]);
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
