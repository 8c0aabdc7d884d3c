use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::checkpoint::Checkpoint;
use crate::cosignature::cosign;
use crate::note::{Algorithm, Ed25519Key, NoteSigner};
use crate::tree::Tree;

const ORIGIN: &str = "log.example/1";

struct Fixture {
    log: Ed25519Key,
    witness: Ed25519Key,
    checkpoint: SignedCheckpoint,
    tree: Tree,
}

fn entry(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

fn fixture(size: u64) -> Fixture {
    let (log, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
    let (witness, _) = Ed25519Key::generate("witness.example", Algorithm::CosignatureV1).unwrap();
    let mut tree = Tree::new();
    let leaves: Vec<Hash> = (0..size).map(|index| leaf_hash(&entry(index))).collect();
    tree.append(&leaves).unwrap();
    let checkpoint = Checkpoint::new(ORIGIN, size, tree.root()).unwrap();
    let mut checkpoint = SignedCheckpoint::sign(checkpoint, &log).unwrap();
    let cosignature = cosign(&witness, checkpoint.note().text(), 99).unwrap();
    checkpoint.add_cosignature(witness.verifier_key(), cosignature).unwrap();
    Fixture {
        log,
        witness,
        checkpoint,
        tree,
    }
}

impl Fixture {
    fn proof(&self, index: u64) -> Proof {
        let hashes = self.tree.prove_inclusion(index, self.tree.size(), &BTreeMap::new());
        Proof::new(&entry(index), index, hashes.unwrap(), &self.checkpoint).unwrap()
    }

    fn keys(&self) -> [VerifierKey; 1] {
        [self.log.verifier_key().clone()]
    }
}

#[test]
fn a_proof_verifies_alone_with_its_witnesses() {
    let log = fixture(100);
    for index in [0, 1, 63, 64, 99] {
        let text = log.proof(index).to_string();
        let proof = Proof::parse(text.as_bytes()).unwrap();
        let proven = proof.verify(&log.keys()).unwrap();
        assert_eq!((proven.index(), proven.entry()), (index, &entry(index)[..]));
        let witnesses = [log.witness.verifier_key().clone()];
        assert_eq!(proven.checkpoint().cosigned_by(&witnesses).unwrap()[0].timestamp, 99);
    }
    let alone = fixture(1).proof(0).to_string();
    assert!(
        alone.starts_with("c2sp.org/tlog-proof@v1\nextra ZW50cnkgMA==\nindex 0\n\nlog.example/1\n1\n"),
        "{alone}"
    );
}

#[test]
fn a_proof_without_the_entry_verifies_for_who_has_it() {
    let log = fixture(10);
    let text = log.proof(4).to_string();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.remove(1);
    let proof = Proof::parse(format!("{}\n", lines.join("\n")).as_bytes()).unwrap();
    assert_eq!(proof.entry(), None);
    assert_eq!(proof.verify(&log.keys()), Err(ProofTextError::NoEntry));
    assert_eq!(proof.verify_entry(&entry(4), &log.keys()).unwrap().index(), 4);
    assert!(matches!(
        proof.verify_entry(&entry(5), &log.keys()),
        Err(ProofTextError::Inclusion(_))
    ));
    assert_eq!(
        log.proof(4).verify_entry(&entry(5), &log.keys()),
        Err(ProofTextError::OtherEntry)
    );
}

#[test]
fn no_changed_byte_of_a_proof_is_believed() {
    let log = fixture(10);
    let good = log.proof(4);
    let (text, keys) = (good.to_string().into_bytes(), log.keys());
    let cosignature = text.len() - good.checkpoint().signatures()[1].to_string().len();
    for at in 0..cosignature {
        for bit in 0..8 {
            let mut changed = text.clone();
            changed[at] ^= 1 << bit;
            let believed = Proof::parse(&changed).is_ok_and(|proof| proof.verify(&keys).is_ok());
            assert!(!believed, "byte {at}, bit {bit}");
        }
    }
    assert!(matches!(good.verify(&[]), Err(ProofTextError::Checkpoint(_))));
    assert!(
        Proof::new(b"another", 4, Vec::new(), &log.checkpoint).is_err(),
        "what does not verify is not written"
    );
}

#[test]
fn what_is_not_a_proof_is_refused_with_its_line() {
    let text = fixture(3).proof(1).to_string();
    let with = |from: &str, to: &str| Proof::parse(text.replacen(from, to, 1).as_bytes());
    let line = |result: Result<Proof, ProofTextError>| match result {
        Err(ProofTextError::Line { line, .. }) => line,
        other => panic!("{other:?}"),
    };
    assert_eq!(line(with("@v1", "@v2")), 1);
    assert_eq!(line(with("extra ", "extra  ")), 2);
    assert_eq!(line(with("extra ", "Extra ")), 2);
    assert_eq!(line(with("index 1", "index 01")), 3);
    assert_eq!(line(with("index 1\n", "index 1\nAAAA\n")), 4);
    assert_eq!(
        line(with(
            "index 1\n",
            &format!("index 1\n{}", format!("{}\n", Hash::EMPTY).repeat(64))
        )),
        67
    );
    assert_eq!(line(Proof::parse(b"")), 1);
    assert_eq!(line(Proof::parse(b"c2sp.org/tlog-proof@v1\nindex 0\n")), 3);
    let long = vec![b'a'; MAX_TEXT_BYTES + 1];
    assert!(matches!(Proof::parse(&long), Err(ProofTextError::TooLong { .. })));
}

#[test]
fn the_longest_entry_fits() {
    let (log, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
    let entry = vec![0xff; MAX_ENTRY_BYTES];
    let checkpoint = Checkpoint::new(ORIGIN, 1, leaf_hash(&entry)).unwrap();
    let checkpoint = SignedCheckpoint::sign(checkpoint, &log).unwrap();
    let proof = Proof::new(&entry, 0, Vec::new(), &checkpoint).unwrap();
    assert_eq!(Proof::parse(proof.to_string().as_bytes()), Ok(proof));
}

proptest! {
    #[test]
    fn bytes_of_others_make_no_panic(tail in any::<Vec<u8>>(), cut in 0..400usize) {
        let mut bytes = fixture(3).proof(1).to_string().into_bytes();
        bytes.truncate(cut);
        bytes.extend(tail);
        if let Ok(proof) = Proof::parse(&bytes) {
            prop_assert_eq!(proof.to_string().into_bytes(), bytes);
        }
    }
}
