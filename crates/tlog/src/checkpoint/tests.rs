use proptest::prelude::*;

use super::*;
use crate::cosignature::{MAX_TIMESTAMP, cosign};
use crate::hash::leaf_hash;
use crate::note::Ed25519Key;

// The example of tlog-cosignature: a checkpoint of a log, cosigned by a witness. Its keys are not published.
const EXAMPLE: &str = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n\
    \u{2014} example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+\
    zyWE+xeMcTOAYQ8=\n\u{2014} witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJ\
    sX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n";

const ORIGIN: &str = "log.example/1";

fn key(name: &str, algorithm: Algorithm) -> Ed25519Key {
    Ed25519Key::generate(name, algorithm).unwrap().0
}

fn checkpoint() -> Checkpoint {
    Checkpoint::new(ORIGIN, 7, leaf_hash(b"root")).unwrap()
}

fn keys(keys: &[&Ed25519Key]) -> Vec<VerifierKey> {
    keys.iter().map(|key| key.verifier_key().clone()).collect()
}

#[test]
fn the_example_of_the_specification_is_read() {
    let note = Note::parse(EXAMPLE.as_bytes()).unwrap();
    let checkpoint = Checkpoint::parse(note.text()).unwrap();
    assert_eq!(checkpoint.origin(), "example.com/behind-the-sofa");
    assert_eq!(checkpoint.size(), 20_852_163);
    assert_eq!(
        checkpoint.root().to_string(),
        "CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I="
    );
    assert_eq!(checkpoint.to_string(), note.text());
    let [_, cosignature] = note.signatures() else {
        panic!("two signatures");
    };
    assert_eq!(
        (cosignature.name(), cosignature.bytes().len()),
        ("witness.example.com/w1", 72)
    );
    // tlog-cosignature, Ed25519 signed message: `time 1679315147`.
    let (timestamp, _) = cosignature.bytes().split_first_chunk().unwrap();
    assert_eq!(u64::from_be_bytes(*timestamp), 1_679_315_147);
}

#[test]
fn what_is_not_a_checkpoint_is_refused_with_its_line() {
    let root = leaf_hash(b"");
    let refused = [
        (format!("\n7\n{root}\n"), 1),
        (format!("o\n07\n{root}\n"), 2),
        (format!("o\n+7\n{root}\n"), 2),
        (format!("o\n9223372036854775808\n{root}\n"), 2),
        ("o\n".to_owned(), 2),
        ("o\n7\n".to_owned(), 3),
        ("o\n7\nAAAA\n".to_owned(), 3),
        (format!("o\n7\n{root} \n"), 3),
        (format!("o\n7\n{root}\n\n"), 4),
        (format!("o\n7\n{root}\nextension\n\n"), 5),
    ];
    for (text, line) in refused {
        let error = Checkpoint::parse(&text).unwrap_err();
        assert!(
            matches!(error, CheckpointError::Line { line: at, .. } if at == line),
            "{text:?}: {error}"
        );
    }
    assert!(Checkpoint::parse(&format!("o\n7\n{root}")).is_err());
    assert!(Checkpoint::new("two\nlines", 7, root).is_err());
    assert!(Checkpoint::new("", 7, root).is_err());
    assert!(Checkpoint::new("o", u64::MAX, root).is_err());
    assert!(Checkpoint::new("o", 0, root).is_err());
    assert!(Checkpoint::new("o", 0, Hash::EMPTY).is_ok());
}

#[test]
fn extension_lines_are_kept_and_signed() {
    let text = format!("{ORIGIN}\n7\n{}\none\n\u{2014} two\n", leaf_hash(b""));
    let checkpoint = Checkpoint::parse(&text).unwrap();
    assert_eq!(checkpoint.extensions(), ["one", "\u{2014} two"]);
    let log = key(ORIGIN, Algorithm::Ed25519);
    let signed = SignedCheckpoint::sign(checkpoint, &log).unwrap();
    let read = SignedCheckpoint::open(&signed.to_bytes(), &keys(&[&log])).unwrap();
    assert_eq!(read.to_string().split_once("\n\n").unwrap().0, text.trim_end());
}

#[test]
fn a_checkpoint_is_believed_only_if_a_key_of_its_own_log_signed_it() {
    let (log, other) = (
        key(ORIGIN, Algorithm::Ed25519),
        key("other.example", Algorithm::Ed25519),
    );
    let signed = SignedCheckpoint::sign(checkpoint(), &log).unwrap();
    let bytes = signed.to_bytes();
    assert_eq!(SignedCheckpoint::open(&bytes, &keys(&[&other, &log])).unwrap(), signed);
    let unknown = SignedCheckpoint::open(&bytes, &keys(&[&other]));
    assert_eq!(unknown, Err(CheckpointError::Note(NoteError::NoKnownKey)));

    // A key that is trusted for another log.
    assert!(SignedCheckpoint::sign(checkpoint(), &other).is_err());
    let mut note = Note::new(checkpoint().to_string()).unwrap();
    note.sign(&other).unwrap();
    let refused = SignedCheckpoint::verify(note.clone(), &keys(&[&other, &log]));
    assert!(matches!(refused, Err(CheckpointError::Origin { origin }) if origin == ORIGIN));

    // A witness of the same name is not the log, either.
    let witness = key(ORIGIN, Algorithm::CosignatureV1);
    note.push(cosign(&witness, note.text(), 1).unwrap()).unwrap();
    let refused = SignedCheckpoint::verify(note, &keys(&[&witness]));
    assert!(matches!(refused, Err(CheckpointError::Origin { .. })));

    // A root of nothing that is not the root of nothing, signed by the log.
    let mut note = Note::new(format!("{ORIGIN}\n0\n{}\n", leaf_hash(b""))).unwrap();
    note.sign(&log).unwrap();
    let refused = SignedCheckpoint::verify(note, &keys(&[&log]));
    assert!(matches!(refused, Err(CheckpointError::EmptyRoot { .. })));
}

#[test]
fn while_a_log_changes_its_key_either_is_enough() {
    let (old, new) = (key(ORIGIN, Algorithm::Ed25519), key(ORIGIN, Algorithm::Ed25519));
    let mut signed = SignedCheckpoint::sign(checkpoint(), &old).unwrap();
    signed.sign_also(&new).unwrap();
    for known in [&old, &new] {
        assert!(SignedCheckpoint::open(&signed.to_bytes(), &keys(&[known])).is_ok());
    }
    assert!(signed.sign_also(&key("other.example", Algorithm::Ed25519)).is_err());
}

#[test]
fn a_cosignature_says_who_and_when_and_of_what() {
    let log = key(ORIGIN, Algorithm::Ed25519);
    let (one, two) = (
        key("one.example", Algorithm::CosignatureV1),
        key("two.example", Algorithm::CosignatureV1),
    );
    let mut signed = SignedCheckpoint::sign(checkpoint(), &log).unwrap();
    let text = signed.note().text().to_owned();
    for (witness, timestamp) in [(&one, 100), (&two, MAX_TIMESTAMP), (&one, 200)] {
        let cosignature = cosign(witness, &text, timestamp).unwrap();
        assert_eq!(
            signed.add_cosignature(witness.verifier_key(), cosignature),
            Ok(timestamp)
        );
    }
    let witnesses = keys(&[&two, &one]);
    let cosigned = signed.cosigned_by(&witnesses).unwrap();
    let cosigned: Vec<(&str, u64)> = cosigned.iter().map(|by| (by.key.name(), by.timestamp)).collect();
    assert_eq!(
        cosigned,
        [("one.example", 200), ("two.example", MAX_TIMESTAMP)],
        "each once, its last"
    );
    assert!(
        signed.cosigned_by(&keys(&[&log])).unwrap().is_empty(),
        "a log is not its own witness"
    );
    let read = SignedCheckpoint::open(&signed.to_bytes(), &keys(&[&log])).unwrap();
    assert_eq!(read.cosigned_by(&witnesses).unwrap().len(), 2);

    // Of another checkpoint, of another key, of another form, at another time.
    let of_another = cosign(&one, &text.replace('7', "8"), 300).unwrap();
    assert!(signed.add_cosignature(one.verifier_key(), of_another.clone()).is_err());
    let good = cosign(&one, &text, 300).unwrap();
    assert!(signed.add_cosignature(two.verifier_key(), good.clone()).is_err());
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.bytes().to_vec();
        change(&mut bytes);
        cosignature::verify(one.verifier_key(), &text, &Signature::by(one.verifier_key(), bytes))
    };
    assert_eq!(changed(&|_| {}), Ok(300));
    assert!(changed(&|bytes| bytes[7] ^= 1).is_err(), "the time is signed");
    assert!(changed(&|bytes| bytes[0] |= 0x80).is_err());
    assert!(changed(&|bytes| bytes.push(0)).is_err());
    assert!(changed(&|bytes| bytes.truncate(71)).is_err());
    assert!(changed(&|bytes| bytes.truncate(5)).is_err());
    assert!(
        changed(&|bytes| drop(bytes.drain(..8))).is_err(),
        "without a time it is a signature of the text"
    );
    let mut note = signed.note().clone();
    note.push(of_another).unwrap();
    let spoiled = SignedCheckpoint::verify(note, &keys(&[&log])).unwrap();
    assert!(spoiled.cosigned_by(&witnesses).is_err());

    for never in [0, MAX_TIMESTAMP + 1] {
        assert!(cosign(&one, &text, never).is_err(), "{never}");
    }
    assert!(cosign(&log, &text, 1).is_err(), "a log's key signs no cosignature");
    assert!(
        SignedCheckpoint::sign(checkpoint(), &key(ORIGIN, Algorithm::CosignatureV1)).is_err(),
        "nor the reverse"
    );
}

proptest! {
    #[test]
    fn text_of_others_makes_no_panic_and_what_is_read_is_written_the_same(text in "(\\PC|\n){0,100}") {
        if let Ok(checkpoint) = Checkpoint::parse(&text) {
            prop_assert_eq!(checkpoint.to_string(), text);
        }
    }

    #[test]
    fn what_is_signed_is_read(size in 1..=MAX_TREE_SIZE, root in any::<[u8; 32]>()) {
        let checkpoint = Checkpoint::new("a b+c", size, Hash::new(root)).unwrap();
        prop_assert_eq!(Checkpoint::parse(&checkpoint.to_string()), Ok(checkpoint));
    }
}
