use proptest::prelude::*;

use super::*;

// The example of signed-note: a verifier key, and a note that it verifies.
const VKEY: &str = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
const NOTE: &str = "This is an example message.\n\n\u{2014} example.com/foo \
    Uw2QOkn8srV1yJGh2VYRlL1Tnagv1YEq6TfXppzi2ONncAlTgK7Ztg1ERYNZXsYjOBH3mFXmRKuwHjG1Yu72IneyaQM=\n";

fn key(name: &str) -> Ed25519Key {
    Ed25519Key::generate(name, Algorithm::Ed25519).unwrap().0
}

#[test]
fn the_example_of_the_specification_verifies() {
    let vkey: VerifierKey = VKEY.parse().unwrap();
    assert_eq!(
        (vkey.name(), vkey.id(), vkey.to_string().as_str()),
        ("example.com/foo", 0x530d_903a, VKEY)
    );
    let note = Note::parse(NOTE.as_bytes()).unwrap();
    assert_eq!(note.text(), "This is an example message.\n");
    assert_eq!(note.to_string(), NOTE);
    let keys = [vkey];
    assert_eq!(note.verified_by(&keys).unwrap(), [&keys[0]]);
}

#[test]
fn a_text_may_have_blank_lines_and_any_letters() {
    let signer = key("a.example/ö");
    for text in [
        "\n",
        "\n\n",
        "one\n\n\ntwo\n",
        "— looks like a signature\n\n— and so does this\n",
        "für é \u{7f}\n",
    ] {
        let mut note = Note::new(text).unwrap();
        note.sign(&signer).unwrap();
        let read = Note::parse(&note.to_bytes()).unwrap();
        assert_eq!(read, note, "{text:?}");
        assert_eq!(read.text(), text);
        read.verified_by(std::slice::from_ref(signer.verifier_key())).unwrap();
    }
}

#[test]
fn signatures_of_unknown_keys_are_ignored_and_bad_ones_of_known_keys_spoil_the_note() {
    let (log, other, unknown) = (key("log.example"), key("other.example"), key("log.example"));
    let keys = [log.verifier_key().clone(), other.verifier_key().clone()];
    let mut note = Note::new("text\n").unwrap();
    assert_eq!(note.verified_by(&keys), Err(NoteError::NoKnownKey), "nobody has signed");
    note.sign(&unknown).unwrap();
    assert_eq!(
        note.verified_by(&keys),
        Err(NoteError::NoKnownKey),
        "the same name is another key"
    );
    note.sign(&log).unwrap();
    note.sign(&log).unwrap();
    assert_eq!(note.verified_by(&keys).unwrap(), [&keys[0]], "twice is once");
    assert_eq!(note.verified_by(&[]), Err(NoteError::NoKnownKey));

    // A good signature, over another text.
    let mut elsewhere = Note::new("another text\n").unwrap();
    elsewhere.sign(&other).unwrap();
    note.push(elsewhere.signatures()[0].clone()).unwrap();
    let bad = NoteError::BadSignature {
        name: "other.example".into(),
        key_id: other.verifier_key().id(),
    };
    assert_eq!(note.verified_by(&keys), Err(bad));
    assert_eq!(
        note.verified_by(&keys[..1]).unwrap(),
        [&keys[0]],
        "who does not know the key does not look"
    );
}

#[test]
fn what_is_not_a_note_is_refused_with_its_place() {
    let good = |text: &str| Note::parse(NOTE.replacen("This is an example message.\n", text, 1).as_bytes());
    assert!(good("x\n").is_ok());
    assert_eq!(good("x\t\n"), Err(NoteError::NotText { offset: 1 }));
    assert_eq!(good("x\r\n"), Err(NoteError::NotText { offset: 1 }));
    assert_eq!(Note::parse(b"x\xff\n\n"), Err(NoteError::NotText { offset: 1 }));
    assert_eq!(Note::parse(b""), Err(NoteError::Unsigned));
    assert_eq!(Note::parse(b"text\n"), Err(NoteError::Unsigned));
    assert_eq!(Note::parse(b"text\n\n"), Err(NoteError::Unsigned));
    assert_eq!(Note::parse(NOTE.trim_end().as_bytes()), Err(NoteError::Unended));
    assert_eq!(Note::new("text"), Err(NoteError::Unended));
    assert_eq!(Note::new(""), Err(NoteError::Unended));

    let (text, line) = NOTE.split_once("\n\n").unwrap();
    let value = line.trim_end().rsplit(' ').next().unwrap();
    let lines = [
        "- example.com/foo".to_owned() + " " + value,
        format!("\u{2014}  {value}"),
        format!("\u{2014} {value}"),
        format!("\u{2014} a+b {value}"),
        format!("\u{2014} a\u{a0}b {value}"),
        format!("\u{2014} a  {value}"),
        format!("\u{2014} a {value} "),
        format!("\u{2014} a {}", value.trim_end_matches('=')),
        format!("\u{2014} a {}", value.replacen('w', "_", 1)),
        // A key ID and no signature; not even a key ID.
        "\u{2014} a AAAAAA==".to_owned(),
        "\u{2014} a AAA=".to_owned(),
        format!("\u{2014} a {}", "AAAA".repeat(MAX_SIGNATURE_BYTES)),
        format!("\u{2014} {} {value}", "a".repeat(MAX_NAME_BYTES + 1)),
    ];
    for line in lines {
        let note = format!("{text}\n\n\u{2014} good {value}\n{line}\n");
        let refused = Note::parse(note.as_bytes());
        assert!(
            matches!(refused, Err(NoteError::Line { line: 4, .. })),
            "{line}: {refused:?}"
        );
    }
}

#[test]
fn a_note_is_bounded() {
    let long = format!("{}\n", "x".repeat(MAX_NOTE_BYTES));
    assert!(matches!(Note::new(long.clone()), Err(NoteError::TooLong { .. })));
    assert!(matches!(Note::parse(long.as_bytes()), Err(NoteError::TooLong { .. })));
    let line = NOTE.split_once("\n\n").unwrap().1;
    let with = |count: usize| format!("x\n\n{}", line.repeat(count));
    assert_eq!(
        Note::parse(with(MAX_SIGNATURES).as_bytes()).unwrap().signatures().len(),
        100
    );
    assert_eq!(
        Note::parse(with(MAX_SIGNATURES + 1).as_bytes()),
        Err(NoteError::TooManySignatures)
    );
    let mut full = Note::parse(with(MAX_SIGNATURES).as_bytes()).unwrap();
    let one = full.signatures()[0].clone();
    assert_eq!(full.push(one), Err(NoteError::TooManySignatures));
    assert!(full.sign(&key("a")).is_err());
}

#[test]
fn a_verifier_key_has_one_spelling() {
    let (name_id, key) = VKEY.rsplit_once('+').unwrap();
    let refused = [
        String::new(),
        name_id.to_owned(),
        VKEY.replace("530d903a", "530D903A"),
        VKEY.replace("530d903a", "530d903b"),
        VKEY.replace("530d903a", "0530d903a"),
        VKEY.replace("530d903a", "+30d903a"),
        VKEY.replace("example.com/foo", ""),
        VKEY.replace("example.com/foo", "example.com/bar"),
        VKEY.replace("example.com/foo", "example.com foo"),
        format!("{VKEY}="),
        format!("{VKEY}\n"),
        format!("{name_id}+{}", &key[..40]),
        format!("{name_id}+"),
        "a".repeat(100_000),
    ];
    for text in refused {
        assert!(text.parse::<VerifierKey>().is_err(), "{text}");
    }
    // The other kind of key has another ID, so that one does not pass for the other.
    let key: VerifierKey = VKEY.parse().unwrap();
    let cosigner = VerifierKey::new(key.name(), Algorithm::CosignatureV1, *key.public_key()).unwrap();
    assert_ne!(cosigner.id(), key.id());
    assert_eq!(cosigner.to_string().parse(), Ok(cosigner));
}

#[test]
fn a_key_of_a_key_manager_becomes_a_verifier_key() {
    use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    let pair = Ed25519KeyPair::generate().unwrap();
    let spki: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    let key = VerifierKey::from_spki("a", Algorithm::Ed25519, spki.as_ref()).unwrap();
    assert_eq!(key.public_key(), pair.public_key().as_ref());
    for other in [
        &spki.as_ref()[1..],
        &spki.as_ref()[..43],
        pair.public_key().as_ref(),
        b"",
    ] {
        assert!(VerifierKey::from_spki("a", Algorithm::Ed25519, other).is_err());
    }
}

#[test]
fn the_key_of_a_file_is_the_same_the_next_time() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("witness.pk8");
    let open = |name| Ed25519Key::open_or_create(&path, name, Algorithm::CosignatureV1);
    let first = open("a.example").unwrap();
    assert_eq!(first.verifier_key(), open("a.example").unwrap().verifier_key());
    assert_ne!(
        first.verifier_key().id(),
        open("b.example").unwrap().verifier_key().id()
    );
    let secret = std::fs::read(&path).unwrap();
    assert!(!format!("{first:?}").contains(&format!("{secret:?}")));
    assert!(matches!(open("a b"), Err(KeyFileError::Name(_))));
    std::fs::write(&path, b"something else").unwrap();
    assert!(matches!(open("a.example"), Err(KeyFileError::NotAKey { .. })));
    assert_eq!(
        std::fs::read(&path).unwrap(),
        b"something else",
        "what is there is not replaced"
    );
}

#[test]
fn openssl_reads_the_key_and_verifies_what_it_signs() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let key = Ed25519Key::open_or_create(&file("key.pk8"), "a", Algorithm::Ed25519).unwrap();
    let mut note = Note::new("signed by one, verified by another\n").unwrap();
    note.sign(&key).unwrap();
    std::fs::write(file("text"), note.text()).unwrap();
    std::fs::write(file("signature"), note.signatures()[0].bytes()).unwrap();
    let openssl = |args: &[&str]| {
        let run = std::process::Command::new("openssl")
            .args(args)
            .current_dir(dir.path())
            .output();
        let run = run.expect("openssl is installed: apt-get install openssl");
        assert!(
            run.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&run.stderr)
        );
    };
    openssl(&[
        "pkey",
        "-inform",
        "DER",
        "-in",
        "key.pk8",
        "-pubout",
        "-out",
        "public.pem",
    ]);
    openssl(&[
        "pkeyutl",
        "-verify",
        "-rawin",
        "-pubin",
        "-inkey",
        "public.pem",
        "-in",
        "text",
        "-sigfile",
        "signature",
    ]);
}

proptest! {
    #[test]
    fn bytes_of_others_make_no_panic_and_what_is_read_is_written_the_same(bytes in any::<Vec<u8>>()) {
        if let Ok(note) = Note::parse(&bytes) {
            prop_assert_eq!(note.to_bytes(), bytes);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_or_changes_nothing_that_was_signed(at in 0..NOTE.len(), byte in any::<u8>()) {
        let keys = [VKEY.parse::<VerifierKey>().unwrap()];
        let mut bytes = NOTE.as_bytes().to_vec();
        bytes[at] = byte;
        let believed = Note::parse(&bytes).is_ok_and(|note| note.verified_by(&keys).is_ok());
        prop_assert_eq!(believed, bytes == NOTE.as_bytes());
    }
}
