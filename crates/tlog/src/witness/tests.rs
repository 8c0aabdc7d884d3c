use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::hash::leaf_hash;
use crate::note::{Ed25519Key, Note};
use crate::tree::Tree;

const ORIGIN: &str = "log.example/1";

fn key(name: &str, algorithm: Algorithm) -> Ed25519Key {
    Ed25519Key::generate(name, algorithm).unwrap().0
}

/// A log that answers what it is asked, honestly.
struct Log {
    key: Arc<Ed25519Key>,
    tree: Tree,
}

impl Log {
    fn new(entries: u64) -> Self {
        let mut log = Self {
            key: Arc::new(key(ORIGIN, Algorithm::Ed25519)),
            tree: Tree::new(),
        };
        log.append("entry", entries);
        log
    }

    fn append(&mut self, what: &str, entries: u64) {
        let size = self.tree.size();
        let leaves: Vec<Hash> = (size..size + entries)
            .map(|index| leaf_hash(format!("{what} {index}").as_bytes()))
            .collect();
        self.tree.append(&leaves).unwrap();
    }

    fn note(&self, size: u64, root: Hash) -> Note {
        let checkpoint = Checkpoint::parse(&format!("{ORIGIN}\n{size}\n{root}\n")).unwrap();
        SignedCheckpoint::sign(checkpoint, &*self.key).unwrap().note().clone()
    }

    /// The request for the first `size` entries, to a witness that knows `old`.
    fn request(&self, old: u64, size: u64) -> AddCheckpoint {
        let tiles = BTreeMap::new();
        let root = self.tree.root_at(size, &tiles).unwrap();
        let proof = self.tree.prove_consistency(old.min(size), size, &tiles).unwrap();
        AddCheckpoint::new(old, proof, self.note(size, root)).unwrap()
    }

    fn keys(&self) -> [VerifierKey; 2] {
        [
            key("another.example", Algorithm::Ed25519).verifier_key().clone(),
            self.key.verifier_key().clone(),
        ]
    }
}

/// What a witness does: considers and remembers.
fn accept(witness: &mut Witness, request: &AddCheckpoint, log: &Log) -> Accepted {
    let accepted = witness.consider(request, &log.keys()).unwrap();
    witness.record(&accepted).unwrap();
    accepted
}

#[test]
fn a_log_that_only_grows_is_cosigned() {
    let log = Log::new(200);
    let mut witness = Witness::new();
    let key = key("witness.example", Algorithm::CosignatureV1);
    let mut known = 0;
    for size in [0, 0, 1, 1, 100, 200] {
        let accepted = accept(&mut witness, &log.request(known, size), &log);
        let cosignature = accepted.cosign(&key, 1_700_000_000).unwrap();
        let mut checkpoint = accepted.checkpoint().clone();
        assert_eq!(
            checkpoint.add_cosignature(key.verifier_key(), cosignature),
            Ok(1_700_000_000)
        );
        known = size;
        assert_eq!(witness.known(ORIGIN).unwrap().size, size);
        assert_eq!(
            Witness::parse(&witness.to_text()),
            Ok(witness.clone()),
            "kept over a restart"
        );
    }
}

#[test]
fn who_does_not_know_where_the_witness_is_learns_it() {
    let log = Log::new(50);
    let mut witness = Witness::new();
    let refusal = witness.consider(&log.request(10, 50), &log.keys()).unwrap_err();
    assert_eq!(
        (refusal.status(), refusal.conflict_body().as_deref()),
        (409, Some("0\n"))
    );
    accept(&mut witness, &log.request(0, 20), &log);
    for old in [0, 10, 30] {
        let refusal = witness.consider(&log.request(old, 50), &log.keys()).unwrap_err();
        assert_eq!(refusal, Refusal::Conflict { known: 20, old });
        assert_eq!(
            (refusal.status(), refusal.conflict_body().as_deref()),
            (409, Some("20\n"))
        );
        assert!(!refusal.is_about_the_log());
    }
    accept(&mut witness, &log.request(20, 50), &log);
}

#[test]
fn a_shorter_log_is_refused() {
    let log = Log::new(50);
    let mut witness = Witness::new();
    accept(&mut witness, &log.request(0, 50), &log);
    // To who asks from where it is, and to who tells of no past.
    for (old, status, body) in [(50, 400, None), (20, 409, Some("50\n")), (0, 409, Some("50\n"))] {
        let refusal = witness.consider(&log.request(old, 20), &log.keys()).unwrap_err();
        assert_eq!(
            refusal,
            Refusal::Shorter {
                known: 50,
                size: 20,
                old
            }
        );
        assert_eq!((refusal.status(), refusal.conflict_body().as_deref()), (status, body));
        assert!(refusal.is_about_the_log());
    }
    let refusal = witness.consider(&log.request(50, 0), &log.keys()).unwrap_err();
    assert_eq!(refusal.status(), 400);
}

#[test]
fn a_log_with_another_past_is_refused() {
    let log = Log::new(50);
    let mut witness = Witness::new();
    accept(&mut witness, &log.request(0, 50), &log);
    let mut fork = Log {
        key: log.key,
        tree: Tree::new(),
    };
    fork.append("another", 60);
    let refusal = witness.consider(&fork.request(50, 50), &fork.keys()).unwrap_err();
    assert!(matches!(refusal, Refusal::Fork { size: 50, .. }), "{refusal}");
    assert_eq!((refusal.status(), refusal.is_about_the_log()), (422, true));
    let refusal = witness.consider(&fork.request(50, 60), &fork.keys()).unwrap_err();
    assert_eq!(refusal, Refusal::BadProof { old: 50 });
    assert_eq!((refusal.status(), refusal.is_about_the_log()), (422, true));
}

#[test]
fn a_proof_that_proves_nothing_is_refused() {
    let log = Log::new(50);
    let mut witness = Witness::new();
    let good = log.request(20, 50);
    let with = |old, proof: &[Hash]| AddCheckpoint::new(old, proof.to_vec(), good.checkpoint().clone()).unwrap();
    let status = |witness: &Witness, request| {
        witness
            .consider(&request, &log.keys())
            .map_or_else(|no| no.status(), |_| 200)
    };
    assert_eq!(
        status(&witness, with(0, good.proof())),
        422,
        "the way from nothing needs no proof"
    );
    accept(&mut witness, &log.request(0, 20), &log);
    assert_eq!(status(&witness, with(20, &[])), 422);
    assert_eq!(status(&witness, with(20, &good.proof()[1..])), 422);
    assert_eq!(
        status(&witness, with(20, &[good.proof(), &[Hash::EMPTY]].concat())),
        422
    );
    assert_eq!(status(&witness, with(51, good.proof())), 400);
    assert_eq!(status(&witness, good), 200);
    let same = log.request(20, 20);
    assert_eq!(
        status(
            &witness,
            AddCheckpoint::new(20, vec![Hash::EMPTY], same.checkpoint().clone()).unwrap()
        ),
        422
    );
    assert_eq!(status(&witness, same), 200, "the same once more");
}

#[test]
fn only_logs_that_are_known_and_signed_are_looked_at() {
    let log = Log::new(5);
    let witness = Witness::new();
    let request = log.request(0, 5);
    let stranger = key("another.example", Algorithm::Ed25519).verifier_key().clone();
    let refusal = witness.consider(&request, std::slice::from_ref(&stranger)).unwrap_err();
    assert_eq!((refusal.status(), refusal.is_about_the_log()), (404, false));
    // The same name, another key: nobody that is known has signed.
    let namesake = key(ORIGIN, Algorithm::Ed25519).verifier_key().clone();
    let refusal = witness.consider(&request, &[namesake]).unwrap_err();
    assert_eq!((refusal.status(), refusal.is_about_the_log()), (403, false));
    // A signature in the name of the key.
    let forged = request.to_string().replace("\n5\n", "\n4\n");
    let forged = AddCheckpoint::parse(forged.as_bytes()).unwrap();
    assert_eq!(witness.consider(&forged, &log.keys()).unwrap_err().status(), 403);
    // Not a checkpoint at all.
    let mut note = Note::new("something else\n").unwrap();
    note.sign(&*log.key).unwrap();
    let request = AddCheckpoint::new(0, Vec::new(), note).unwrap();
    assert_eq!(witness.consider(&request, &log.keys()).unwrap_err().status(), 400);
    // Signed by the log, but no log without entries has that root.
    let request = AddCheckpoint::new(0, Vec::new(), {
        let mut note = Note::new(format!("{ORIGIN}\n0\n{}\n", leaf_hash(b""))).unwrap();
        note.sign(&*log.key).unwrap();
        note
    });
    assert_eq!(
        witness.consider(&request.unwrap(), &log.keys()).unwrap_err().status(),
        422
    );
}

#[test]
fn of_two_that_were_considered_at_once_one_is_recorded() {
    let log = Log::new(50);
    let mut witness = Witness::new();
    let long = witness.consider(&log.request(0, 50), &log.keys()).unwrap();
    let short = witness.consider(&log.request(0, 20), &log.keys()).unwrap();
    witness.record(&long).unwrap();
    assert_eq!(witness.record(&short), Err(Outdated), "it would take the log back");
    assert_eq!(witness.known(ORIGIN).unwrap().size, 50);
}

#[test]
fn a_damaged_state_is_no_new_beginning() {
    let root = leaf_hash(b"");
    let good = format!("5 {root} a.example\n7 {root} b with blanks\n");
    assert_eq!(Witness::parse(&good).unwrap().to_text(), good);
    for (bad, line) in [
        ("x\n".to_owned(), 1),
        (format!("5 {root}\n"), 1),
        (format!("05 {root} a\n"), 1),
        (format!("0 {root} a\n"), 1),
        (format!("{good}5 {root} a.example\n"), 3),
        (format!("{good}\n"), 3),
        (format!("5 {root} \n"), 1),
    ] {
        assert_eq!(Witness::parse(&bad), Err(StateError { line }), "{bad:?}");
    }
}

#[test]
fn the_body_of_a_request_has_one_spelling() {
    let log = Log::new(50);
    let request = log.request(20, 50);
    let body = request.to_string();
    assert!(body.starts_with("old 20\n"), "{body}");
    assert_eq!(AddCheckpoint::parse(body.as_bytes()), Ok(request));
    let line = |body: &str| match AddCheckpoint::parse(body.as_bytes()) {
        Err(RequestError::Line { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    assert_eq!(line(""), 1);
    assert_eq!(line("old 20"), 1);
    assert_eq!(line(&body.replacen("old 20", "old 020", 1)), 1);
    assert_eq!(line(&body.replacen("old 20", "OLD 20", 1)), 1);
    assert_eq!(line(&body.replacen("old 20\n", "old 20\r\n", 1)), 1);
    assert_eq!(line(&body.replacen("old 20\n", "old 20\nAAAA\n", 1)), 2);
    let hashes = |count| {
        format!(
            "old 20\n{}\n{}",
            format!("{}\n", Hash::EMPTY).repeat(count),
            body.split_once("\n\n").unwrap().1
        )
    };
    assert_eq!(AddCheckpoint::parse(hashes(63).as_bytes()).unwrap().proof().len(), 63);
    assert_eq!(line(&hashes(64)), 65);
    assert!(matches!(
        AddCheckpoint::parse(b"old 0\n\nno note"),
        Err(RequestError::Note(_))
    ));
    let long = vec![b'a'; MAX_REQUEST_BYTES + 1];
    assert!(matches!(AddCheckpoint::parse(&long), Err(RequestError::TooLong { .. })));
}

proptest! {
    #[test]
    fn whatever_a_log_says_a_witness_never_goes_back(steps in prop::collection::vec((0..40u64, 0..40u64, any::<bool>()), 1..20)) {
        let log = Log::new(40);
        // The same log with another past.
        let mut fork = Log { key: log.key.clone(), tree: Tree::new() };
        fork.append("another", 40);
        let keys = log.keys();
        let mut witness = Witness::new();
        let mut past: Option<bool> = None;
        let mut last = 0;
        for (old, size, forked) in steps {
            let old = if old % 2 == 0 { last } else { old };
            let request = if forked { &fork } else { &log }.request(old, size);
            if let Ok(accepted) = witness.consider(&request, &keys) {
                witness.record(&accepted).unwrap();
                prop_assert!(size >= last && old == last);
                if size > 0 {
                    prop_assert!(past.is_none_or(|past| past == forked), "two pasts were cosigned");
                    past = Some(forked);
                }
                last = size;
            }
        }
    }

    #[test]
    fn bytes_of_others_make_no_panic(tail in any::<Vec<u8>>(), cut in 0..400usize) {
        let mut bytes = Log::new(9).request(3, 9).to_string().into_bytes();
        bytes.truncate(cut);
        bytes.extend(tail);
        if let Ok(request) = AddCheckpoint::parse(&bytes) {
            prop_assert_eq!(request.to_string().into_bytes(), bytes);
        }
    }
}
