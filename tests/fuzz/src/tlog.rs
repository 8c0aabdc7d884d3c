//! The texts of a transparency log: what is read is written the same, what is verified is what was signed, and a witness
//! never goes back.

use std::sync::LazyLock;

use arbitrary::Unstructured;
use mayfly_tlog::bundle::{entries, push_entry};
use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::cosignature::cosign;
use mayfly_tlog::merkle::{verify_consistency, verify_inclusion};
use mayfly_tlog::note::{Algorithm, Ed25519Key, Note, NoteSigner, Signature, VerifierKey};
use mayfly_tlog::proof::Proof;
use mayfly_tlog::tile::TilePath;
use mayfly_tlog::tree::{TileSource, Tree};
use mayfly_tlog::witness::{AddCheckpoint, Witness};
use mayfly_tlog::{Hash, leaf_hash};

use crate::input::{below, byte, raw_or_edited, rest};

const ORIGIN: &str = "log.example/1";
/// What the witness has seen, and what it is shown next.
const SEEN: u64 = 20;
const SIZE: u64 = 45;

/// A log with its keys, the same in each run.
struct Genuine {
    keys: Vec<VerifierKey>,
    witnesses: Vec<VerifierKey>,
    tree: Tree,
    checkpoint: SignedCheckpoint,
    proof: String,
    request: String,
    state: String,
    bundle: Vec<u8>,
}

static GENUINE: LazyLock<Genuine> = LazyLock::new(Genuine::new);

/// One of the texts, raw or edited; the first byte says which.
///
/// # Panics
/// The property does not hold.
pub fn run(input: &[u8]) {
    let mut input = Unstructured::new(input);
    let genuine = &*GENUINE;
    match byte(&mut input) % 8 {
        0 => note(&raw_or_edited(&[&genuine.checkpoint.to_bytes()], &mut input)),
        1 => proof(&raw_or_edited(&[genuine.proof.as_bytes()], &mut input)),
        2 => request(&raw_or_edited(&[genuine.request.as_bytes()], &mut input)),
        3 => names(&raw_or_edited(
            &[b"tile/0/x001/234.p/5", b"tile/entries/000"],
            &mut input,
        )),
        4 => bundle(&raw_or_edited(&[&genuine.bundle], &mut input)),
        5 => keys(&raw_or_edited(&[genuine.keys[0].to_string().as_bytes()], &mut input)),
        6 => state(&raw_or_edited(&[genuine.state.as_bytes()], &mut input)),
        _ => hashes(&mut input),
    }
}

fn note(bytes: &[u8]) {
    let genuine = &*GENUINE;
    if let Ok(lines) = Signature::parse_all(bytes) {
        let written: String = lines.iter().map(Signature::to_string).collect();
        assert_eq!(written.as_bytes(), bytes);
    }
    let Ok(note) = Note::parse(bytes) else {
        assert!(SignedCheckpoint::open(bytes, &genuine.keys).is_err());
        return;
    };
    assert_eq!(note.to_bytes(), bytes);
    if let Ok(checkpoint) = Checkpoint::parse(note.text()) {
        assert_eq!(checkpoint.to_string(), note.text());
    }
    let opened = SignedCheckpoint::open(bytes, &genuine.keys);
    // Only one text was ever signed.
    assert_eq!(note.verified_by(&genuine.keys).is_ok(), opened.is_ok());
    if let Ok(opened) = opened {
        assert_eq!(opened.checkpoint(), genuine.checkpoint.checkpoint());
        for cosigned in opened.cosigned_by(&genuine.witnesses).into_iter().flatten() {
            assert_eq!(cosigned.timestamp, 1_700_000_000);
        }
    }
}

fn proof(bytes: &[u8]) {
    let Ok(proof) = Proof::parse(bytes) else { return };
    assert_eq!(proof.to_string().as_bytes(), bytes);
    if let Ok(proven) = proof.verify(&GENUINE.keys) {
        assert_eq!(proven.entry(), entry(proven.index()));
        assert_eq!(proven.checkpoint().root(), GENUINE.checkpoint.root());
    }
}

fn request(body: &[u8]) {
    let Ok(request) = AddCheckpoint::parse(body) else {
        return;
    };
    assert_eq!(request.to_string().as_bytes(), body);
    let mut witness = Witness::parse(&GENUINE.state).expect("it was written by us");
    match witness.consider(&request, &GENUINE.keys) {
        Ok(accepted) => {
            assert_eq!(accepted.checkpoint().checkpoint(), GENUINE.checkpoint.checkpoint());
            assert_eq!(request.old_size(), SEEN);
            witness.record(&accepted).expect("nobody else is here");
            assert_eq!(witness.known(ORIGIN).map(|known| known.size), Some(SIZE));
        }
        Err(refusal) => {
            assert!([400, 403, 404, 409, 422].contains(&refusal.status()), "{refusal}");
            assert_eq!(refusal.conflict_body().is_some(), refusal.status() == 409, "{refusal}");
        }
    }
}

fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(path) = text.parse::<TilePath>() {
        assert_eq!(path.to_string(), text);
        assert!(!text.contains("..") && (1..=256).contains(&path.width()));
    }
    if let Ok(hash) = text.parse::<Hash>() {
        assert_eq!(hash.to_string(), text);
    }
}

fn bundle(bytes: &[u8]) {
    for width in [0, 1, 3, 256] {
        match entries(bytes, width) {
            Ok(found) => {
                assert_eq!(found.len(), usize::from(width));
                let mut again = Vec::new();
                for entry in found {
                    push_entry(&mut again, entry).expect("it was in a bundle");
                }
                assert_eq!(again, bytes);
            }
            Err(error) => assert!(error.offset <= bytes.len() && error.entry <= width),
        }
    }
}

fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(key) = text.parse::<VerifierKey>() {
        assert_eq!(key.to_string(), text);
        // Whatever the point is, verifying with it only says no.
        assert!(GENUINE.keys.contains(&key) || GENUINE.checkpoint.note().verified_by(&[key]).is_err());
    }
}

fn state(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(witness) = Witness::parse(text) {
        assert_eq!(Witness::parse(&witness.to_text()), Ok(witness));
    }
}

/// Proofs of any numbers and hashes prove nothing that is not so.
fn hashes(input: &mut Unstructured<'_>) {
    let genuine = &*GENUINE;
    let root = genuine.checkpoint.root();
    let index: u64 = input.arbitrary().unwrap_or(0);
    let size: u64 = match byte(input) % 2 {
        0 => SIZE,
        _ => input.arbitrary().unwrap_or(0),
    };
    let proof = genuine.tree.prove_inclusion(index, size, &Nothing);
    let mut proof = proof.unwrap_or_default();
    let edits = below(input, 3);
    for _ in 0..edits {
        let at = below(input, proof.len() + 1);
        match (byte(input) % 3, proof.get_mut(at)) {
            (0, Some(hash)) => *hash = leaf_hash(&[byte(input)]),
            (1, Some(_)) => drop(proof.remove(at)),
            _ => proof.insert(at, root),
        }
    }
    let claimed = rest(input);
    if verify_inclusion(leaf_hash(claimed), index, size, root, &proof).is_ok() {
        assert_eq!((size, claimed), (SIZE, &entry(index)[..]));
    }
    let consistent = verify_consistency(index, leaf_hash(claimed), size, root, &proof);
    assert!(consistent.is_err(), "no leaf is a root of this log");
}

/// A log so small has no full tiles.
struct Nothing;

impl TileSource for Nothing {
    fn tile(&self, _: TilePath) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

fn entry(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

/// The key with this secret: PKCS#8 version 1 (RFC 8410 §7).
fn key(name: &str, algorithm: Algorithm, secret: u8) -> Ed25519Key {
    const START: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
    ];
    let pkcs8 = [&START[..], &[secret; 32]].concat();
    let key = Ed25519Key::from_pkcs8(name, algorithm, &pkcs8);
    key.ok().flatten().expect("it is a key")
}

// === impl Genuine ===

impl Genuine {
    fn new() -> Self {
        let log = key(ORIGIN, Algorithm::Ed25519, 1);
        let witness = key("witness.example", Algorithm::CosignatureV1, 2);
        let mut tree = Tree::new();
        let leaves: Vec<Hash> = (0..SIZE).map(|index| leaf_hash(&entry(index))).collect();
        tree.append(&leaves).expect("there is room");
        let checkpoint = Checkpoint::new(ORIGIN, SIZE, tree.root()).expect("it is one");
        let mut checkpoint = SignedCheckpoint::sign(checkpoint, &log).expect("the key signs");
        let cosignature = cosign(&witness, checkpoint.note().text(), 1_700_000_000).expect("the key signs");
        let added = checkpoint.add_cosignature(witness.verifier_key(), cosignature);
        added.expect("it is one of this checkpoint");
        let inclusion = tree.prove_inclusion(7, SIZE, &Nothing).expect("it is there");
        let proof = Proof::new(&entry(7), 7, inclusion, &checkpoint).expect("it is one");
        let consistency = tree.prove_consistency(SEEN, SIZE, &Nothing).expect("it is there");
        let request = AddCheckpoint::new(SEEN, consistency, checkpoint.note().clone()).expect("it is one");
        let seen = tree.root_at(SEEN, &Nothing).expect("it is there");
        let mut bundle = Vec::new();
        for index in 0..3 {
            push_entry(&mut bundle, &entry(index)).expect("it is short");
        }
        Self {
            keys: vec![log.verifier_key().clone()],
            witnesses: vec![witness.verifier_key().clone()],
            tree,
            checkpoint,
            proof: proof.to_string(),
            request: request.to_string(),
            state: format!("{SEEN} {seen} {ORIGIN}\n"),
            bundle,
        }
    }
}
