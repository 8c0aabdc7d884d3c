//! The witness itself: what it remembers, and `POST /add-checkpoint`, `GET /<SHA-256 of the origin>/checkpoint`.
//!
//! What was accepted is on disk before it is answered, and one checkpoint is looked at after the other, so that none
//! takes a log back.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path as UrlPath, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use mayfly_runtime::files::{FileError, PRIVATE, read_text, write_atomic};
use mayfly_runtime::{Chain, Clock, SystemClock};
use mayfly_tlog::checkpoint::{Checkpoint, CheckpointError};
use mayfly_tlog::note::{Ed25519Key, Note, NoteError, SignError, VerifierKey};
use mayfly_tlog::witness::{
    AddCheckpoint, MAX_REQUEST_BYTES, Outdated, Refusal, SIZE_CONTENT_TYPE, StateError, Witness,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// What is remembered of all logs.
const STATE_FILE: &str = "state";
/// Requests that tell of a log, by its own signature, that it does not only grow.
const REFUSED_DIR: &str = "refused";
/// More of them are not kept.
const REFUSED_MAX: usize = 100;
/// The keys of logs are read again at most so often, whoever sends checkpoints.
const KEYS_PAUSE: Duration = Duration::from_secs(1);
/// Of more keys that are not known it is not told: anybody can put a signature below a checkpoint.
const UNKNOWN_MAX: usize = 64;
/// The state of some thousand logs.
const STATE_BYTES: u64 = 4 << 20;

const TEXT: &str = "text/plain; charset=utf-8";

/// One witness. Its folder is locked by the caller.
pub(super) struct Site {
    dir: PathBuf,
    /// Reads the keys of the logs, where the operator keeps them.
    read: Box<ReadKeys>,
    signer: Ed25519Key,
    told: mpsc::Sender<Event>,
    state: Mutex<Known>,
}

/// Reads keys, or says why it cannot.
pub(super) type ReadKeys = dyn Fn() -> Result<Vec<VerifierKey>, String> + Send + Sync;

struct Known {
    witness: Witness,
    log_keys: Vec<VerifierKey>,
    keys_read: Option<Instant>,
    /// Keys that sign and were not given, as far as that was told: log and key ID.
    unknown_keys: BTreeSet<(String, u32)>,
    /// The last checkpoint of each log with its cosignature, by the hash of its origin.
    checkpoints: BTreeMap<String, Vec<u8>>,
    /// Of these it was said that they are cosigned.
    said: BTreeSet<String>,
    refused_last: Option<String>,
}

/// What happened, for who looks at the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The first cosignature for a log since the start.
    Cosigned { origin: String, size: u64 },
    /// The keys of the logs are others now.
    Keys { count: usize },
    /// A key that was not given signs beside one that was, or instead.
    NewKey {
        origin: String,
        key_id: u32,
        is_beside_a_known_one: bool,
    },
    /// A checkpoint was refused.
    Refused {
        status: u16,
        why: String,
        is_about_the_log: bool,
    },
    /// The witness itself failed.
    Failed { why: String },
}

/// What is remembered is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum SiteError {
    #[error("what the witness remembers")]
    File(#[from] FileError),
    #[error("`{0}`")]
    State(String, #[source] StateError),
    #[error("the keys of the logs: {0}")]
    Keys(String),
}

/// It could not answer.
#[derive(Debug, thiserror::Error)]
enum AddError {
    #[error("it was refused")]
    Refused(#[from] Refusal),
    #[error("what was accepted cannot be saved")]
    File(#[from] FileError),
    #[error(transparent)]
    Outdated(#[from] Outdated),
    #[error("the cosignature")]
    Sign(#[from] SignError),
    #[error("the checkpoint with its cosignature")]
    Note(#[from] NoteError),
    #[error("the checkpoint with its cosignature")]
    Checkpoint(#[from] CheckpointError),
}

// === impl Site ===

impl Site {
    /// Goes on with what `dir` keeps. Blocks.
    pub(super) fn open(
        dir: &Path,
        read: Box<ReadKeys>,
        signer: Ed25519Key,
        told: mpsc::Sender<Event>,
    ) -> Result<Arc<Self>, SiteError> {
        let log_keys = read().map_err(SiteError::Keys)?;
        let file = dir.join(STATE_FILE);
        let witness = match read_text(&file, STATE_BYTES) {
            Ok(text) => Witness::parse(&text).map_err(|error| SiteError::State(file.display().to_string(), error))?,
            Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Witness::new(),
            Err(error) => return Err(error.into()),
        };
        Ok(Arc::new(Self {
            dir: dir.to_owned(),
            read,
            signer,
            told,
            state: Mutex::new(Known {
                witness,
                checkpoints: checkpoints(dir, &log_keys),
                log_keys,
                keys_read: None,
                unknown_keys: BTreeSet::new(),
                said: BTreeSet::new(),
                refused_last: None,
            }),
        }))
    }

    /// Its pages.
    pub(super) fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/add-checkpoint", post(add_checkpoint))
            .route("/{log}/checkpoint", get(checkpoint))
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(self)
    }

    /// Reads the keys of the logs once more. If they cannot be read, those that were known count. Blocks.
    pub(super) fn read_keys(&self) {
        let read = (self.read)();
        let mut known = self.lock();
        known.keys_read = Some(Instant::now());
        match read {
            Ok(keys) if keys == known.log_keys => {}
            Ok(keys) => {
                known.checkpoints = checkpoints(&self.dir, &keys);
                known.unknown_keys.clear();
                let count = keys.len();
                known.log_keys = keys;
                self.tell(Event::Keys { count });
            }
            Err(why) => {
                let why = format!("the keys of the logs cannot be read, and the last ones count: {why}");
                self.tell(Event::Failed { why });
            }
        }
    }

    /// Looks for a key that was not given among those that signed. Blocks.
    fn look_for_new_keys(&self, request: &AddCheckpoint) {
        let note = request.checkpoint();
        let Ok(checkpoint) = Checkpoint::parse(note.text()) else {
            return;
        };
        let origin = checkpoint.origin();
        // Witnesses sign in names of their own.
        let own = || note.signatures().iter().filter(|signature| signature.name() == origin);
        let unknown = |known: &Known| -> Vec<u32> {
            let of_the_log = known.log_keys.iter().filter(|key| key.name() == origin);
            let ids: BTreeSet<u32> = of_the_log.map(VerifierKey::id).collect();
            // Of other logs nothing is known and nothing is told.
            let new = own().map(|signature| signature.key_id()).filter(|id| !ids.contains(id));
            if ids.is_empty() { vec![] } else { new.collect() }
        };
        {
            let known = self.lock();
            let was_just_read = known.keys_read.is_some_and(|read| read.elapsed() < KEYS_PAUSE);
            if was_just_read || unknown(&known).is_empty() {
                return;
            }
        }
        self.read_keys();
        let mut known = self.lock();
        for key_id in unknown(&known) {
            if known.unknown_keys.len() < UNKNOWN_MAX && known.unknown_keys.insert((origin.to_owned(), key_id)) {
                self.tell(Event::NewKey {
                    origin: origin.to_owned(),
                    key_id,
                    is_beside_a_known_one: note.verified_by(&known.log_keys).is_ok(),
                });
            }
        }
    }

    /// Decides, saves, cosigns. Blocks.
    fn add(&self, request: &AddCheckpoint) -> Result<String, AddError> {
        self.look_for_new_keys(request);
        let mut known = self.lock();
        let accepted = known.witness.consider(request, &known.log_keys)?;
        let mut next = known.witness.clone();
        next.record(&accepted)?;
        write_atomic(&self.dir.join(STATE_FILE), next.to_text().as_bytes(), PRIVATE)?;
        known.witness = next;
        let now = u64::try_from(SystemClock.unix_now()).unwrap_or(0);
        let signature = accepted.cosign(&self.signer, now)?;
        let line = signature.to_string();
        let checkpoint = accepted.checkpoint();
        let mut shown = Note::new(checkpoint.note().text())?;
        for own in checkpoint.note().verified_by(&known.log_keys)? {
            let mut signatures = checkpoint.note().signatures().iter();
            shown.push(
                signatures
                    .find(|signature| signature.is_by(own))
                    .cloned()
                    .expect("it was verified"),
            )?;
        }
        shown.push(signature)?;
        let hash = hash_of(checkpoint.origin());
        // For readers: whether it is there decides about nothing.
        let kept = write_atomic(&self.dir.join(format!("{hash}.checkpoint")), &shown.to_bytes(), PRIVATE);
        if let Err(failure) = kept {
            self.tell(Event::Failed {
                why: Chain(&failure).to_string(),
            });
        }
        known.checkpoints.insert(hash.clone(), shown.to_bytes());
        known.refused_last = None;
        if known.said.insert(hash) {
            self.tell(Event::Cosigned {
                origin: checkpoint.origin().to_owned(),
                size: checkpoint.size(),
            });
        }
        Ok(line)
    }

    /// Keeps what shows that a log does not only grow, and tells of it.
    fn refused(&self, refusal: &Refusal, request: &AddCheckpoint) {
        // That is how a log finds out where it stands.
        if matches!(refusal, Refusal::Conflict { .. }) {
            return;
        }
        let why = refusal.to_string();
        let is_about_the_log = refusal.is_about_the_log();
        if is_about_the_log && let Err(failure) = self.keep(request) {
            self.tell(Event::Failed {
                why: format!("what was refused cannot be kept: {failure}"),
            });
        }
        {
            let mut known = self.lock();
            // A log that is refused asks again and again.
            if known.refused_last.replace(why.clone()).as_ref() == Some(&why) {
                return;
            }
            known.said.clear();
        }
        self.tell(Event::Refused {
            status: refusal.status(),
            why,
            is_about_the_log,
        });
    }

    fn keep(&self, request: &AddCheckpoint) -> io::Result<()> {
        let dir = self.dir.join(REFUSED_DIR);
        fs::create_dir_all(&dir)?;
        let file = dir.join(hash_of(request.checkpoint().text()));
        if file.exists() || fs::read_dir(&dir)?.count() >= REFUSED_MAX {
            return Ok(());
        }
        fs::write(file, request.to_string())
    }

    fn tell(&self, event: Event) {
        // Nobody waits for a terminal.
        let _ = self.told.try_send(event);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn add_checkpoint(State(site): State<Arc<Site>>, body: Bytes) -> Response {
    let answered = tokio::task::spawn_blocking(move || {
        let request = match AddCheckpoint::parse(&body) {
            Ok(request) => request,
            Err(error) => return (StatusCode::BAD_REQUEST, format!("{}\n", Chain(&error))).into_response(),
        };
        match site.add(&request) {
            Ok(line) => ([(header::CONTENT_TYPE, TEXT)], line).into_response(),
            Err(AddError::Refused(refusal)) => {
                site.refused(&refusal, &request);
                refusal_response(&refusal)
            }
            Err(failure) => {
                let why = Chain(&failure).to_string();
                site.tell(Event::Failed { why });
                (StatusCode::INTERNAL_SERVER_ERROR, "the witness cannot answer now\n").into_response()
            }
        }
    });
    let stopping = |_| (StatusCode::SERVICE_UNAVAILABLE, "the witness is stopping\n").into_response();
    answered.await.unwrap_or_else(stopping)
}

fn refusal_response(refusal: &Refusal) -> Response {
    let status = StatusCode::from_u16(refusal.status()).expect("a status of the protocol");
    match refusal.conflict_body() {
        Some(size) => (status, [(header::CONTENT_TYPE, SIZE_CONTENT_TYPE)], size).into_response(),
        None => (status, [(header::CONTENT_TYPE, TEXT)], format!("{}\n", Chain(refusal))).into_response(),
    }
}

async fn checkpoint(State(site): State<Arc<Site>>, UrlPath(log): UrlPath<String>) -> Response {
    let known = site.lock().checkpoints.get(&log).cloned();
    match known {
        Some(note) => ([(header::CONTENT_TYPE, TEXT)], note).into_response(),
        None => (StatusCode::NOT_FOUND, "this witness has cosigned nothing of that log\n").into_response(),
    }
}

/// The last checkpoints with their cosignatures, for readers: one that is missing comes back with the next.
fn checkpoints(dir: &Path, log_keys: &[VerifierKey]) -> BTreeMap<String, Vec<u8>> {
    let hashes = log_keys.iter().map(|key| hash_of(key.name()));
    let kept = hashes.filter_map(|hash| {
        let note = fs::read(dir.join(format!("{hash}.checkpoint"))).ok()?;
        Some((hash, note))
    });
    kept.collect()
}

fn hash_of(text: &str) -> String {
    hex::encode(digest(&SHA256, text.as_bytes()))
}

// === impl Event ===

impl Event {
    pub(super) fn json(&self) -> Value {
        match self {
            Self::Cosigned { origin, size } => json!({"event": "cosigned", "origin": origin, "size": size}),
            Self::Keys { count } => json!({"event": "keys", "count": count}),
            Self::NewKey {
                origin,
                key_id,
                is_beside_a_known_one,
            } => json!({"event": "new_key", "origin": origin, "key_id": format!("{key_id:08x}"),
                        "beside_a_known_one": is_beside_a_known_one}),
            Self::Refused {
                status,
                why,
                is_about_the_log,
            } => json!({"event": "refused", "status": status, "why": why, "log_changed": is_about_the_log}),
            Self::Failed { why } => json!({"event": "failed", "why": why}),
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cosigned { origin, size } => write!(f, "cosigning {origin} from {size} entries on"),
            Self::Keys { count } => write!(f, "the keys of the logs were read again: {count}"),
            Self::NewKey {
                origin,
                key_id,
                is_beside_a_known_one,
            } => {
                let how = match is_beside_a_known_one {
                    true => "beside a known one: add it to --log before that one signs no more",
                    false => "and no known one does: nothing is cosigned until it is added to --log",
                };
                write!(
                    f,
                    "NEW KEY: {origin} is signed by {key_id:08x}, {how}. Have it from the log's entries (`mayfly audit \
                     export`) or from its operator"
                )
            }
            Self::Refused {
                status,
                why,
                is_about_the_log: true,
            } => write!(f, "REFUSED, the log was changed: {why} ({status})"),
            Self::Refused { status, why, .. } => write!(f, "refused: {why} ({status})"),
            Self::Failed { why } => write!(f, "failed: {why}"),
        }
    }
}
