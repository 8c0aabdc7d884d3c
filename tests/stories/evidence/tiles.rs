//! Tiles, checkpoints and proofs as implementations read and write them that share nothing with ours: the Go checksum
//! database's, and that of the transparency.dev project. `clients/go-tlog` is made of them.

use std::collections::BTreeMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use mayfly_tests::cli::Cli;
use mayfly_tests::{Lane, Server, effort, go_module};
use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::cosignature::cosign;
use mayfly_tlog::files::{LogDir, LogKeys, LogWriter};
use mayfly_tlog::note::{Algorithm, Ed25519Key, NoteSigner, VerifierKey};
use mayfly_tlog::proof::Proof;
use mayfly_tlog::tile::TilePath;
use mayfly_tlog::tree::Tree;
use mayfly_tlog::{Hash, leaf_hash};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

const ORIGIN: &str = "spiffe://example.org/mayfly/server/1";

/// What the Go program answers, and whether it was content.
fn go(arguments: &[String]) -> (Value, bool) {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| go_module::build("go-tlog"));
    let output = Command::new(program).args(arguments).output().expect("it was built");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let answer = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{arguments:?}: {text}{errors}"));
    (answer, output.status.success())
}

fn entry(index: u64) -> Vec<u8> {
    let text = format!("{{\"index\":{index},\"kind\":\"test\",\"v\":1}}");
    text.repeat(usize::try_from(index % 5).unwrap()).into_bytes()
}

/// A log that we wrote, with everything that there is to prove about it.
struct Ours {
    folder: tempfile::TempDir,
    log: VerifierKey,
    witnesses: Vec<VerifierKey>,
    checkpoint: SignedCheckpoint,
    tree: Tree,
}

impl Ours {
    fn new(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (log, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
        let mut writer = LogWriter::create(&folder.path().join("log")).unwrap();
        for index in 0..size {
            writer.append(&entry(index)).unwrap();
        }
        let tree = writer.tree().clone();
        let checkpoint = Checkpoint::new(ORIGIN, size, tree.root()).unwrap();
        let mut checkpoint = SignedCheckpoint::sign(checkpoint, &log).unwrap();
        let mut witnesses = Vec::new();
        for (time, name) in [
            (1_700_000_000, "spiffe://example.org/agent/1"),
            (1_700_000_001, "auditor.example"),
        ] {
            let (witness, _) = Ed25519Key::generate(name, Algorithm::CosignatureV1).unwrap();
            let key = witness.verifier_key().clone();
            let cosignature = cosign(&witness, checkpoint.note().text(), time).unwrap();
            checkpoint.add_cosignature(&key, cosignature).unwrap();
            witnesses.push(key);
        }
        writer.finish(&checkpoint).unwrap();
        Self {
            folder,
            log: log.verifier_key().clone(),
            witnesses,
            checkpoint,
            tree,
        }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn keys(&self) -> LogKeys {
        LogKeys::new([self.log.clone()]).with_witnesses(self.witnesses.clone())
    }

    /// Some proofs of each kind, in the form that the Go program reads.
    fn proofs(&self, random: &mut StdRng) -> Vec<Value> {
        let (dir, size) = (LogDir::open(&self.dir()), self.tree.size());
        let text = |hashes: Vec<Hash>| hashes.iter().map(Hash::to_string).collect::<Vec<_>>();
        let mut proofs = Vec::new();
        for _ in 0..effort(200, 2000) {
            let of = random.random_range(1..=size);
            let root = self.tree.root_at(of, &dir).unwrap().to_string();
            let index = random.random_range(0..of);
            let hashes = text(self.tree.prove_inclusion(index, of, &dir).unwrap());
            proofs.push(json!({ "index": index, "size": of, "root": root, "hashes": hashes }));
            let from = random.random_range(1..=of);
            let hashes = text(self.tree.prove_consistency(from, of, &dir).unwrap());
            proofs.push(json!({ "from": from, "size": of, "root": root, "hashes": hashes }));
        }
        proofs
    }

    /// Asks Go about all of it.
    fn ask_go(&self, more: &[String]) -> (Value, bool) {
        let mut arguments = vec!["-log".into(), self.log.to_string()];
        for witness in &self.witnesses {
            arguments.extend(["-witness".into(), witness.to_string()]);
        }
        arguments.extend_from_slice(more);
        arguments.push(self.dir().display().to_string());
        go(&arguments)
    }
}

fn seeded() -> StdRng {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    StdRng::seed_from_u64(seed)
}

#[test]
fn go_verifies_the_checkpoint_the_tiles_and_the_proofs_of_a_log_of_ours() {
    let _lane = Lane::shared();
    let mut random = seeded();
    // Where tiles begin and end; three levels.
    for size in [1, 2, 255, 256, 257, 600, 65_535, 65_536, 70_000] {
        let ours = Ours::new(size);
        let proofs = ours.proofs(&mut random);
        let file = ours.folder.path().join("proofs.json");
        std::fs::write(&file, serde_json::to_vec(&proofs).unwrap()).unwrap();
        let index = random.random_range(0..size);
        let dir = LogDir::open(&ours.dir());
        let hashes = ours.tree.prove_inclusion(index, size, &dir).unwrap();
        let bundle = ours.folder.path().join("entry.tlog-proof");
        let proof = Proof::new(&entry(index), index, hashes, &ours.checkpoint).unwrap();
        std::fs::write(&bundle, proof.to_string()).unwrap();

        let path = |path: &Path| path.display().to_string();
        let (answer, good) = ours.ask_go(&["-proofs".into(), path(&file), "-bundle".into(), path(&bundle)]);
        println!("{answer}");
        assert!(good, "{answer}");
        assert_eq!(answer["origin"], ORIGIN);
        assert_eq!((&answer["size"], &answer["entries"]), (&json!(size), &json!(size)));
        assert_eq!(answer["root"], ours.tree.root().to_string());
        assert_eq!(
            answer["cosigned"][1],
            json!({ "name": "auditor.example", "time": 1_700_000_001 })
        );
        let tiles = TilePath::all(size).count();
        assert_eq!(
            answer["tiles"].as_u64().unwrap() + answer["bundles"].as_u64().unwrap(),
            tiles as u64
        );
        assert_eq!(answer["their_proofs"], json!(proofs.len()));
        assert_eq!(answer["proof_files"], 1);
        assert!(answer["record_proofs"].as_u64().unwrap() >= size.min(2000));
        assert!(answer["tree_proofs"].as_u64().unwrap() >= size.min(2000));
    }
}

#[test]
fn we_verify_a_log_that_go_wrote() {
    let _lane = Lane::shared();
    for size in [1u64, 256, 700, 66_000] {
        let folder = tempfile::tempdir().unwrap();
        let (answer, good) = go(&["-make".into(), size.to_string(), folder.path().display().to_string()]);
        assert!(good, "{answer}");
        let key = |which: &str| answer[which].as_str().unwrap().parse::<VerifierKey>().unwrap();
        let keys = LogKeys::new([key("log")]).with_witnesses([key("witness")]);
        let verified = LogDir::open(folder.path()).verify_all(&keys).unwrap();
        assert_eq!((verified.checkpoint().size(), verified.cosigned().len()), (size, 1));
        let last = verified.entries().last().unwrap().unwrap();
        let text = std::fs::read(folder.path().join("last.tlog-proof")).unwrap();
        let proof = Proof::parse(&text).unwrap();
        assert_eq!(proof.to_string().into_bytes(), text, "both write it the same");
        let proven = proof.verify(&[key("log")]).unwrap();
        assert_eq!((proven.index(), proven.entry()), (last.0, &last.1[..]));
        assert_eq!(proven.checkpoint().cosigned_by(&[key("witness")]).unwrap().len(), 1);
    }
}

#[test]
fn what_is_damaged_is_refused_by_go_and_named_by_us() {
    let _lane = Lane::shared();
    let mut random = seeded();
    let ours = Ours::new(600);
    let dir = LogDir::open(&ours.dir());
    let mut files: BTreeMap<String, u64> = BTreeMap::new();
    let tiles = TilePath::all(600).map(|path| path.to_string());
    for file in tiles.chain(["checkpoint".to_owned()]) {
        let length = std::fs::metadata(ours.dir().join(&file)).unwrap().len();
        files.insert(file, length);
    }
    let flip = |file: &str, at: u64, bit: u32| {
        let options = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .open(ours.dir().join(file));
        let file = options.unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ (1 << bit)], at).unwrap();
    };
    // The last digit of base64 before `=` has bits that belong to no octet. We refuse others than zeros there, and Go reads
    // the same checkpoint.
    let checkpoint = std::fs::read(ours.dir().join("checkpoint")).unwrap();
    let is_last_digit = |file: &str, at: u64| file == "checkpoint" && checkpoint.get(at as usize + 1) == Some(&b'=');
    let flips = effort(20, 200);
    for (file, length) in &files {
        for _ in 0..flips {
            let (at, bit) = (random.random_range(0..*length), random.random_range(0..8));
            flip(file, at, bit);
            let damages = dir.verify_all(&ours.keys()).unwrap_err();
            assert!(
                damages.found.iter().any(|damage| damage.file == *file),
                "{file}, byte {at}: {damages}"
            );
            let (answer, good) = ours.ask_go(&[]);
            assert!(
                !good && answer["error"].is_string() || is_last_digit(file, at),
                "{file}, byte {at}, bit {bit}: {answer}"
            );
            flip(file, at, bit);
        }
    }
    println!("{} files, {flips} bits of each", files.len());
    assert!(dir.verify_all(&ours.keys()).is_ok());
    assert!(ours.ask_go(&[]).1);
}

#[test]
fn another_past_is_refused_by_go() {
    let _lane = Lane::shared();
    let ours = Ours::new(300);
    // The same log with one entry exchanged, hashes and all: everything agrees but the root that was signed.
    let forged = tempfile::tempdir().unwrap();
    let mut writer = LogWriter::create(forged.path()).unwrap();
    for index in 0..300 {
        let entry = if index == 200 { b"forged".to_vec() } else { entry(index) };
        writer.append(&entry).unwrap();
    }
    let (key, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
    let checkpoint = Checkpoint::new(ORIGIN, 300, writer.tree().root()).unwrap();
    assert_ne!(leaf_hash(b"forged"), leaf_hash(&entry(200)));
    writer
        .finish(&SignedCheckpoint::sign(checkpoint, &key).unwrap())
        .unwrap();
    let arguments = |key: &VerifierKey| ["-log".into(), key.to_string(), forged.path().display().to_string()];
    assert!(go(&arguments(key.verifier_key())).1, "a log of its own");
    assert!(!go(&arguments(&ours.log)).1, "not one of that key");
    std::fs::write(forged.path().join("checkpoint"), ours.checkpoint.to_bytes()).unwrap();
    let mut arguments = arguments(&ours.log).to_vec();
    for witness in &ours.witnesses {
        arguments.splice(0..0, ["-witness".to_owned(), witness.to_string()]);
    }
    let (answer, good) = go(&arguments);
    assert!(
        !good && answer["error"].as_str().unwrap().contains("the root of the entries is"),
        "{answer}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn go_verifies_what_a_server_exports_proves_and_serves() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let cli = Cli::new(&server.socket());
    // More than one bundle.
    for _ in 0..300 {
        server.admin().token().await;
    }
    let keys = cli.json(&["audit", "keys"]).await;
    let key = keys["keys"][0].as_str().unwrap();
    let copy = server.dir().join("copy");
    let exported = cli.json(&["audit", "export", copy.to_str().unwrap()]).await;
    let size = exported["size"].as_u64().unwrap();
    assert!(size > 300, "{exported}");

    let mut arguments = vec!["-log".to_owned(), key.to_owned()];
    for index in [0, 1, 255, 256, size - 1] {
        let file = server.dir().join(format!("{index}.tlog-proof"));
        let file = file.to_str().unwrap();
        let proved = cli.run(&["audit", "prove", &index.to_string(), "--out", file]).await;
        assert_eq!(proved.code, Some(0), "{proved:?}");
        arguments.extend(["-bundle".to_owned(), file.to_owned()]);
    }
    let served = format!("http://127.0.0.1:{}/log", server.health_port());
    for place in [copy.display().to_string(), served] {
        let (answer, good) = go(&[&arguments[..], &[place]].concat());
        println!("{answer}");
        assert!(good, "{answer}");
        assert!(answer["size"].as_u64().unwrap() >= size, "{answer}");
        assert_eq!(answer["proof_files"], 5);
    }
    let (answer, good) = go(&["-log".into(), Ours::new(1).log.to_string(), copy.display().to_string()]);
    assert!(!good, "another key: {answer}");
}
