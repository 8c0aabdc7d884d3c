use std::sync::{Arc, Mutex};

use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::note::{Note, NoteSigner, Signature, VerifierKey};
use mayfly_tlog::tile::TilePath;
use mayfly_tlog::tree::{TileSource, Tree};
use mayfly_tlog::{Hash, leaf_hash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// A tree of fewer than 256 entries has no full tiles.
struct NoTiles;

impl TileSource for NoTiles {
    fn tile(&self, _: TilePath) -> Result<Option<Vec<u8>>, Box<dyn std::error::Error + Send + Sync>> {
        Ok(None)
    }
}

struct Log {
    key: Ed25519Key,
    entries: Vec<u8>,
}

impl Log {
    fn new(origin: &str) -> Self {
        Self {
            key: Ed25519Key::generate(origin, Algorithm::Ed25519).unwrap().0,
            entries: vec![],
        }
    }

    fn grown(mut self, to: u8) -> Self {
        self.entries = (0..to).collect();
        self
    }

    /// The body of `add-checkpoint`.
    fn body(&self, old: u64) -> String {
        let mut tree = Tree::new();
        let leaves: Vec<Hash> = self.entries.iter().map(|entry| leaf_hash(&[*entry])).collect();
        tree.append(&leaves).unwrap();
        let checkpoint = Checkpoint::new(self.key.verifier_key().name(), tree.size(), tree.root()).unwrap();
        let signed = SignedCheckpoint::sign(checkpoint, &self.key).unwrap();
        let proof = tree
            .prove_consistency(old.min(tree.size()), tree.size(), &NoTiles)
            .unwrap();
        let proof: String = proof.iter().map(|hash| format!("{hash}\n")).collect();
        format!("old {old}\n{proof}\n{signed}")
    }
}

struct Running {
    dir: tempfile::TempDir,
    address: SocketAddr,
    key: VerifierKey,
    events: mpsc::Receiver<Event>,
    stop: CancellationToken,
    site: Arc<Site>,
}

impl Running {
    fn start(logs: &[&Log]) -> Self {
        Self::in_dir(tempfile::tempdir().unwrap(), logs)
    }

    fn in_dir(dir: tempfile::TempDir, logs: &[&Log]) -> Self {
        let signer = own_key(dir.path(), Some("witness.example/w")).unwrap();
        let (told, events) = mpsc::channel(EVENTS);
        let keys: Vec<VerifierKey> = logs.iter().map(|log| log.key.verifier_key().clone()).collect();
        Self::with_keys(dir, Box::new(move || Ok(keys.clone())), signer, (told, events))
    }

    fn with_keys(
        dir: tempfile::TempDir,
        read: Box<site::ReadKeys>,
        signer: Ed25519Key,
        (told, events): (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    ) -> Self {
        let key = signer.verifier_key().clone();
        let site = Site::open(dir.path(), read, signer, told).unwrap();
        let pages = AdminHttp::bind(([127, 0, 0, 1], 0).into(), site.clone().router()).unwrap();
        let (address, stop) = (pages.address(), CancellationToken::new());
        let stopping = stop.clone();
        #[allow(clippy::disallowed_methods, reason = "tests may spawn")]
        tokio::spawn(async move { pages.serve(stopping).await });
        Self {
            dir,
            address,
            key,
            events,
            stop,
            site,
        }
    }

    fn restart(self, logs: &[&Log]) -> Self {
        self.stop.cancel();
        Self::in_dir(self.dir, logs)
    }

    async fn says(&self, request: &str, body: &str) -> (u16, String, String) {
        says(self.address, request, body).await
    }

    async fn add(&self, body: &str) -> (u16, String) {
        let (status, _, said) = self.says("POST /add-checkpoint", body).await;
        (status, said)
    }
}

/// Status, headers in lower case, and body.
async fn says(address: SocketAddr, request: &str, body: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let length = body.len();
    let head = format!("{request} HTTP/1.1\r\nhost: w\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    // A body that is too long is answered before it was read.
    let _ = stream.write_all(body.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

// C2SP tlog-witness, add-checkpoint.
#[tokio::test]
async fn a_log_that_goes_on_is_cosigned_and_each_refusal_has_its_status() {
    let log = Log::new("log.example/a").grown(5);
    let witness = Running::start(&[&log]);
    let (status, head, said) = witness.says("POST /add-checkpoint", &log.body(0)).await;
    assert_eq!(status, 200, "{said}");
    assert!(head.contains("content-type: text/plain"));
    let mut cosigned = {
        let body = log.body(0);
        let note = body.split_once("\n\n").unwrap().1.as_bytes().to_vec();
        SignedCheckpoint::open(&note, &[log.key.verifier_key().clone()]).unwrap()
    };
    let signature = Signature::parse_all(said.as_bytes()).unwrap().remove(0);
    assert!(cosigned.add_cosignature(&witness.key, signature).unwrap() > 1_700_000_000);

    // The one before, once more; and on.
    assert_eq!(witness.add(&log.body(5)).await.0, 200);
    let log = log.grown(9);
    assert_eq!(witness.add(&log.body(5)).await.0, 200);

    // 409, with where it stands.
    let (status, head, said) = witness.says("POST /add-checkpoint", &log.body(0)).await;
    assert_eq!((status, said.as_str()), (409, "9\n"));
    assert!(head.contains("content-type: text/x.tlog.size"), "{head}");
    // 400: no such body, or it says that it knows more than it shows.
    for body in ["", "old 5\n", "old 05\n\n", &log.body(9).replace("old 9", "old 10")] {
        assert_eq!(witness.add(body).await.0, 400, "{body}");
    }
    // 403: in its name, and not by its key.
    let thief = Log::new("log.example/a").grown(10);
    assert_eq!(witness.add(&thief.body(9)).await.0, 403);
    // 404: not one of ours.
    let stranger = Log::new("log.example/b").grown(1);
    assert_eq!(witness.add(&stranger.body(0)).await.0, 404);
    // 405, and 413 for what is longer than any.
    assert_eq!(witness.says("GET /add-checkpoint", "").await.0, 405);
    let long = format!("old 9\n\n{}", "x".repeat(1_100_000));
    assert!([400, 413].contains(&witness.add(&long).await.0));
}

#[tokio::test]
async fn a_log_that_lost_entries_changed_one_or_swapped_two_is_refused_and_that_is_kept() {
    let log = Log::new("log.example/a").grown(9);
    let mut witness = Running::start(&[&log]);
    assert_eq!(witness.add(&log.body(0)).await.0, 200);
    let mut forged = log;
    // Shorter: it is told what was seen.
    forged.entries.pop();
    assert_eq!(witness.add(&forged.body(8)).await, (409, "9\n".into()));
    let changes: [fn(&mut Vec<u8>); 3] = [
        |entries| {
            entries.remove(3);
        },
        |entries| entries.swap(3, 4),
        |entries| entries[3] = 99,
    ];
    for change in changes {
        forged.entries = (0..9).collect();
        change(&mut forged.entries);
        forged.entries.extend([9, 10]);
        assert_eq!(witness.add(&forged.body(9)).await.0, 422);
    }
    // At the same size.
    forged.entries = (0..9).rev().collect();
    assert_eq!(witness.add(&forged.body(9)).await.0, 422);
    let kept = fs::read_dir(witness.dir.path().join("refused")).unwrap().count();
    assert_eq!(kept, 5);
    let mut changed = 0;
    while let Ok(event) = witness.events.try_recv() {
        changed += usize::from(event.to_string().contains("REFUSED, the log was changed"));
    }
    assert!(changed >= 3, "{changed}");
    // The log as it was goes on.
    forged.entries = (0..12).collect();
    assert_eq!(witness.add(&forged.body(9)).await.0, 200);
}

#[tokio::test]
async fn a_restart_forgets_nothing_and_readers_get_the_checkpoint() {
    let logs = [Log::new("log.example/a").grown(9), Log::new("log.example/b").grown(3)];
    let both = [&logs[0], &logs[1]];
    let witness = Running::start(&both);
    for log in both {
        assert_eq!(witness.add(&log.body(0)).await.0, 200);
    }
    let key = witness.key.clone();
    let witness = witness.restart(&both);
    assert_eq!(witness.key, key);
    for (log, size) in both.into_iter().zip(["9\n", "3\n"]) {
        assert_eq!(witness.add(&log.body(0)).await, (409, size.into()));
        let hash = hex::encode(aws_lc_rs::digest::digest(
            &aws_lc_rs::digest::SHA256,
            log.key.verifier_key().name().as_bytes(),
        ));
        let (status, _, note) = witness.says(&format!("GET /{hash}/checkpoint"), "").await;
        assert_eq!(status, 200);
        let shown = SignedCheckpoint::open(note.as_bytes(), &[log.key.verifier_key().clone()]).unwrap();
        assert_eq!(shown.cosigned_by(std::slice::from_ref(&key)).unwrap().len(), 1);
    }
    let (status, ..) = witness.says(&format!("GET /{}/checkpoint", "0".repeat(64)), "").await;
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_cosignature_is_handed_out_only_for_what_is_on_disk() {
    let log = Log::new("log.example/a").grown(5);
    let witness = Running::start(&[&log]);
    assert_eq!(witness.add(&log.body(0)).await.0, 200);
    let log = log.grown(9);
    let state = witness.dir.path().join("state");
    let kept = fs::read(&state).unwrap();
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    let (status, said) = witness.add(&log.body(5)).await;
    assert!(status == 500 && !said.contains('\u{2014}'), "{said}");
    fs::remove_dir(&state).unwrap();
    fs::write(&state, kept).unwrap();
    assert_eq!(witness.add(&log.body(5)).await.0, 200);
}

#[tokio::test]
async fn of_checkpoints_that_come_at_once_none_takes_the_log_back() {
    let log = Log::new("log.example/a").grown(1);
    let witness = Running::start(&[&log]);
    assert_eq!(witness.add(&log.body(0)).await.0, 200);
    let mut log = log;
    let bodies: Vec<String> = (2..=40)
        .map(|size| {
            log.entries = (0..size).collect();
            log.body(1)
        })
        .collect();
    let mut all = tokio::task::JoinSet::new();
    for body in bodies {
        let address = witness.address;
        all.spawn(async move { says(address, "POST /add-checkpoint", &body).await });
    }
    let mut accepted = 0;
    while let Some(said) = all.join_next().await {
        let (status, _, said) = said.unwrap();
        assert!([200, 409].contains(&status), "{said}");
        accepted += usize::from(status == 200);
    }
    assert_eq!(accepted, 1, "the others were told where it stands by then");
}

#[test]
fn a_witness_keeps_its_name_and_one_that_cannot_read_what_it_knew_does_not_begin_anew() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        own_key(dir.path(), None)
            .unwrap_err()
            .to_string()
            .contains("needs a name")
    );
    let first = own_key(dir.path(), Some("w.example")).unwrap();
    let again = own_key(dir.path(), None).unwrap();
    assert_eq!(first.verifier_key(), again.verifier_key());
    assert!(
        own_key(dir.path(), Some("v.example"))
            .unwrap_err()
            .to_string()
            .contains("`w.example`")
    );
    fs::write(dir.path().join("state"), "5 nonsense log.example/a\n").unwrap();
    let (told, _events) = mpsc::channel(1);
    assert!(Site::open(dir.path(), Box::new(|| Ok(vec![])), first, told).is_err());
}

#[tokio::test]
async fn there_is_nothing_else_there() {
    let witness = Running::start(&[]);
    for path in [
        "/",
        "/sign-subtree",
        "/key",
        "/state",
        "/refused/x",
        "/../key/checkpoint",
    ] {
        let (status, ..) = witness.says(&format!("POST {path}"), "").await;
        assert!([404, 405].contains(&status), "{path}: {status}");
    }
}

/// What the operator keeps the keys of logs in.
type Given = Arc<Mutex<Result<Vec<VerifierKey>, String>>>;

fn with_given(given: &Given) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let signer = own_key(dir.path(), Some("witness.example/w")).unwrap();
    let reading = given.clone();
    let read = Box::new(move || reading.lock().unwrap().clone());
    Running::with_keys(dir, read, signer, mpsc::channel(EVENTS))
}

/// The body of `add-checkpoint` with the signatures of two keys, as after a rotation.
fn signed_by_both(log: &Log, next: &Log, old: u64) -> String {
    let body = log.body(old);
    let (proof, note) = body.split_once("\n\n").unwrap();
    let mut note = Note::parse(note.as_bytes()).unwrap();
    note.sign(&next.key).unwrap();
    format!("{proof}\n\n{}", String::from_utf8(note.to_bytes()).unwrap())
}

#[tokio::test]
async fn a_new_key_of_the_log_is_told_and_counts_once_the_operator_has_given_it() {
    let log = Log::new("log.example/a").grown(5);
    let next = Log::new("log.example/a").grown(9);
    let given = Given::new(Mutex::new(Ok(vec![log.key.verifier_key().clone()])));
    let mut witness = with_given(&given);
    assert_eq!(witness.add(&signed_by_both(&log, &next, 0)).await.0, 200);
    // The old one signs no more, and nobody has done anything.
    assert_eq!(witness.add(&next.body(5)).await.0, 403);
    // What cannot be read takes nothing away.
    let first = given.lock().unwrap().clone().unwrap();
    *given.lock().unwrap() = Err("it is torn".into());
    witness.site.read_keys();
    assert_eq!(witness.add(&log.body(5)).await.0, 200);
    *given.lock().unwrap() = Ok([first, vec![next.key.verifier_key().clone()]].concat());
    witness.site.read_keys();
    assert_eq!(witness.add(&next.body(5)).await.0, 200);
    // What the operator takes away does not count any more.
    *given.lock().unwrap() = Ok(vec![next.key.verifier_key().clone()]);
    witness.site.read_keys();
    assert_eq!(witness.add(&log.grown(12).body(9)).await.0, 403);

    let mut told = vec![];
    while let Ok(event) = witness.events.try_recv() {
        told.push(event.json());
    }
    let of = |kind: &str| told.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    let key_id = format!("{:08x}", next.key.verifier_key().id());
    assert_eq!(of("new_key").len(), 1, "{told:?}");
    assert_eq!(of("new_key")[0]["key_id"], key_id);
    assert_eq!(of("new_key")[0]["beside_a_known_one"], true);
    assert_eq!((of("keys").len(), of("failed").len()), (2, 1), "{told:?}");
}

#[tokio::test]
async fn keys_that_were_added_to_the_file_count_without_a_word() {
    let log = Log::new("log.example/a").grown(5);
    let next = Log::new("log.example/a").grown(9);
    let given = Given::new(Mutex::new(Ok(vec![log.key.verifier_key().clone()])));
    let witness = with_given(&given);
    assert_eq!(witness.add(&log.body(0)).await.0, 200);
    given
        .lock()
        .unwrap()
        .as_mut()
        .unwrap()
        .push(next.key.verifier_key().clone());
    assert_eq!(witness.add(&next.body(5)).await.0, 200);
}
