use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use mayfly_runtime::CancellationToken;
use mayfly_tlog::checkpoint::Checkpoint;
use mayfly_tlog::merkle::verify_consistency;
use mayfly_tlog::note::{Ed25519Key, NoteSigner};
use mayfly_tlog::witness::{AddCheckpoint, Refusal, SIZE_CONTENT_TYPE, Witness};
use mayfly_tlog::{Hash, leaf_hash};

use super::super::tests::{entries, note};
use super::*;
use crate::app::testing::World;

const AGENT: &str = "spiffe://example.org/spire/agent/a";

struct Site {
    world: World,
    evidence: Arc<Evidence>,
    readiness: Readiness,
    witnesses: Arc<Witnesses>,
}

impl Site {
    async fn new() -> Self {
        let world = World::unborn(|_| {});
        let evidence = Evidence::open(world.evidence_parts()).await.unwrap();
        let readiness = Readiness::new();
        let witnesses = Witnesses::open(evidence.clone(), readiness.clone()).await.unwrap();
        Self {
            world,
            evidence,
            readiness,
            witnesses,
        }
    }

    async fn grows(&self, by: usize) -> Arc<super::super::Published> {
        note(&self.world, by).await;
        self.evidence.pass().await.unwrap();
        self.evidence.published()
    }

    /// A checkpoint that the log signs as if it had these.
    fn signs(&self, size: u64, root: Hash) -> Vec<u8> {
        let checkpoint = Checkpoint::new(self.evidence.origin(), size, root).unwrap();
        self.evidence.lock_keys().sign(checkpoint).unwrap().to_bytes()
    }

    fn registered(&self) -> usize {
        let of_kind = |entry: &&String| entry.contains("\"kind\":\"witness.registered\"");
        entries(&self.world).iter().filter(of_kind).count()
    }

    fn cosigners(&self) -> usize {
        // The log's own signature is the first.
        self.evidence.published().checkpoint.note().signatures().len() - 1
    }

    /// The agent says so, and what comes of it is done.
    async fn cosigned(&self, witnesses: &Arc<Witnesses>, key: &VerifierKey, size: u64, lines: &[u8]) {
        let agent = format!("spiffe://{}", key.name()).parse().unwrap();
        if let Some(registering) = witnesses.cosigned_by_agent(&agent, key, size, lines) {
            registering.await;
        }
    }

    fn cosign(&self, key: &Ed25519Key) -> (u64, Vec<u8>) {
        let published = self.evidence.published();
        let line = cosignature::cosign(key, published.checkpoint.note().text(), 1_800_000_000).unwrap();
        (published.checkpoint.size(), line.to_string().into_bytes())
    }
}

fn agent() -> SpiffeId {
    AGENT.parse().unwrap()
}

fn key(name: &str) -> Ed25519Key {
    Ed25519Key::generate(name, Algorithm::CosignatureV1).unwrap().0
}

#[tokio::test]
async fn whoever_knows_a_part_of_the_log_is_shown_that_it_goes_on_from_there() {
    let site = Site::new().await;
    let (first, second) = (site.grows(300).await, site.grows(500).await);
    let size = second.checkpoint.size();
    let (from, root) = (first.checkpoint.size(), first.checkpoint.root());
    for _ in 0..2 {
        let head = site
            .witnesses
            .head_for(&agent(), &first.checkpoint.to_bytes())
            .await
            .unwrap();
        assert_eq!((head.from, head.size), (from, size));
        verify_consistency(from, root, size, second.checkpoint.root(), &head.proof).unwrap();
        let shown = SignedCheckpoint::open(&head.note, &head.keys).unwrap();
        assert_eq!(shown.checkpoint(), second.checkpoint.checkpoint());
    }
    // Made once for both.
    let newest = site.witnesses.heads.newest.lock().await;
    assert_eq!(newest.as_ref().unwrap().kept(), 1);
    drop(newest);
    let head = site.witnesses.head_for(&agent(), b"").await.unwrap();
    assert_eq!((head.from, head.proof.len()), (0, 0));
    assert_eq!(site.witnesses.doubt(), None);
}

#[tokio::test]
async fn an_agents_cosignature_is_added_and_its_key_entered_in_the_log_once() {
    let site = Site::new().await;
    site.grows(3).await;
    let own = key("example.org/spire/agent/a");
    let known = site
        .witnesses
        .key_of(&agent(), &own.verifier_key().to_string())
        .unwrap();
    for round in 0..3 {
        let (size, line) = site.cosign(&own);
        site.cosigned(&site.witnesses, &known, size, &line).await;
        // The first time the log did not say by which key.
        assert_eq!(site.cosigners(), usize::from(round > 0));
        // A fleet's cosignatures are nothing for the fleet.
        let head = site.witnesses.head(0).await.unwrap();
        assert_eq!(
            mayfly_tlog::note::Note::parse(&head.note).unwrap().signatures().len(),
            1
        );
        site.grows(1).await;
        assert_eq!((site.cosigners(), site.registered()), (0, 1));
    }
    // Also for the server after this one.
    let again = Witnesses::open(site.evidence.clone(), Readiness::new()).await.unwrap();
    let (size, line) = site.cosign(&own);
    site.cosigned(&again, &known, size, &line).await;
    assert_eq!(site.cosigners(), 1);
    site.grows(1).await;
    assert_eq!(site.registered(), 1);
    // Of an agent that makes a new key each day, some are enough.
    let mut keys = vec![];
    for _ in 0..KEYS_OF_ONE + 3 {
        let next = key("example.org/spire/agent/a");
        let (size, line) = site.cosign(&next);
        site.cosigned(&again, next.verifier_key(), size, &line).await;
        keys.push(next);
    }
    site.grows(1).await;
    assert_eq!(site.registered(), KEYS_OF_ONE);
    // Only one of them stands on a checkpoint, and never one that the log does not name.
    for next in keys.iter().rev() {
        let (size, line) = site.cosign(next);
        site.cosigned(&again, next.verifier_key(), size, &line).await;
    }
    assert_eq!(site.cosigners(), 1);
    let published = site.evidence.published();
    let cosignature = &published.checkpoint.note().signatures()[1];
    let by = keys.iter().position(|key| cosignature.is_by(key.verifier_key()));
    assert_eq!(by, Some(KEYS_OF_ONE - 2), "the last that was entered after the first");
}

#[tokio::test]
async fn a_key_cosigns_no_checkpoint_that_is_not_over_the_entry_that_names_it() {
    let site = Site::new().await;
    site.grows(3).await;
    let own = key("example.org/spire/agent/a");
    let (size, line) = site.cosign(&own);
    let enters = |size, line: &[u8]| {
        site.witnesses
            .cosigned_by_agent(&agent(), own.verifier_key(), size, line)
    };
    // Nothing came of it: the next time it is tried again.
    drop(enters(size, &line).expect("the key is new"));
    let mut given_up = enters(size, &line).expect("the key is new still");
    assert!(futures_util::poll!(&mut given_up).is_pending());
    assert!(enters(size, &line).is_none(), "it is on its way");
    drop(given_up);
    enters(size, &line).expect("it was taken back").await;
    // It is durable, and this checkpoint ends before.
    assert!(enters(size, &line).is_none());
    assert_eq!(site.cosigners(), 0);
    site.evidence.pass().await.unwrap();
    let (size, line) = site.cosign(&own);
    assert!(enters(size, &line).is_none());
    assert_eq!(site.cosigners(), 1);
}

#[tokio::test]
async fn nobody_cosigns_in_anothers_name_or_with_something_else() {
    let site = Site::new().await;
    site.grows(3).await;
    let key_text = |key: &Ed25519Key| key.verifier_key().to_string();
    assert_eq!(
        site.witnesses
            .key_of(&agent(), &key_text(&key("example.org/spire/agent/b"))),
        None
    );
    let of_a_log = Ed25519Key::generate("example.org/spire/agent/a", Algorithm::Ed25519)
        .unwrap()
        .0;
    assert_eq!(site.witnesses.key_of(&agent(), &key_text(&of_a_log)), None);
    assert_eq!(site.witnesses.key_of(&agent(), "no key"), None);
    let (own, other) = (key("example.org/spire/agent/a"), key("example.org/spire/agent/a"));
    let (size, line) = site.cosign(&other);
    let known = own.verifier_key();
    let text = "another text\n";
    let elsewhere = cosignature::cosign(&own, text, 1).unwrap().to_string().into_bytes();
    for lines in [&line[..], &elsewhere, b"", b"nonsense"] {
        site.cosigned(&site.witnesses, known, size, lines).await;
    }
    let (size, line) = site.cosign(&own);
    site.cosigned(&site.witnesses, known, size + 1, &line).await;
    site.grows(1).await;
    assert_eq!((site.cosigners(), site.registered()), (0, 0));
}

#[tokio::test]
async fn agents_leave_room_for_others_on_a_checkpoint() {
    let site = Site::new().await;
    site.grows(3).await;
    let keys: Vec<_> = (0..40)
        .map(|number| key(&format!("example.org/spire/agent/{number}")))
        .collect();
    for _ in 0..2 {
        for own in &keys {
            let (size, line) = site.cosign(own);
            site.cosigned(&site.witnesses, own.verifier_key(), size, &line).await;
        }
        site.evidence.pass().await.unwrap();
    }
    for own in &keys {
        let (size, line) = site.cosign(own);
        site.cosigned(&site.witnesses, own.verifier_key(), size, &line).await;
    }
    assert_eq!(site.cosigners(), FROM_AGENTS - 1);
    site.grows(1).await;
    assert_eq!(site.registered(), 40);
}

#[tokio::test]
async fn a_checkpoint_that_this_log_signed_and_does_not_lead_to_is_a_reason_to_stop() {
    let other = leaf_hash(b"another past");
    for (ahead, root, what) in [(1, other, "which has"), (0, other, "which had others")] {
        let site = Site::new().await;
        let published = site.grows(5).await;
        let shown = site.signs(published.checkpoint.size() + ahead, root);
        // What it leads to, and what others signed, is none.
        site.witnesses
            .head_for(&agent(), &published.checkpoint.to_bytes())
            .await
            .unwrap();
        let forged = Ed25519Key::generate(site.evidence.origin(), Algorithm::Ed25519)
            .unwrap()
            .0;
        let checkpoint = Checkpoint::new(site.evidence.origin(), 1_000, root).unwrap();
        let forged = SignedCheckpoint::sign(checkpoint, &forged).unwrap().to_bytes();
        let head = site.witnesses.head_for(&agent(), &forged).await.unwrap();
        assert_eq!((head.from, site.witnesses.doubt()), (0, None));
        site.witnesses.head_for(&agent(), b"nonsense").await.unwrap();
        assert!(site.readiness.lacking().is_empty());

        let head = site.witnesses.head_for(&agent(), &shown).await.unwrap();
        assert_eq!(head.size, published.checkpoint.size(), "the agent is told all the same");
        let why = site.witnesses.doubt().unwrap();
        assert!(why.contains(AGENT) && why.contains(what), "{why}");
        // Base SVIDs stay, so does the server.
        assert!(site.readiness.is_ready());
        assert!(site.readiness.lacking().join(" ").contains(&*why));
        // Nothing that comes later takes it back.
        site.witnesses
            .head_for(&agent(), &published.checkpoint.to_bytes())
            .await
            .unwrap();
        assert_eq!(site.witnesses.doubt(), Some(why));
    }
}

/// A witness over HTTP, by the state machine of `mayfly-tlog`.
struct Elsewhere {
    key: Ed25519Key,
    log_keys: Mutex<Vec<VerifierKey>>,
    state: Mutex<(Witness, Vec<u8>)>,
    asked: AtomicUsize,
    failing: Mutex<Option<u16>>,
}

impl Elsewhere {
    fn start(evidence: &Evidence) -> (Arc<Self>, RemoteWitness, CancellationToken) {
        let this = Arc::new(Self {
            key: key("witness.example/w"),
            log_keys: Mutex::new(evidence.verifier_keys()),
            state: Mutex::default(),
            asked: AtomicUsize::new(0),
            failing: Mutex::new(None),
        });
        let router = Router::new()
            .route("/w/add-checkpoint", post(add))
            .route(
                "/w/{log}/checkpoint",
                get(async |State(this): State<Arc<Elsewhere>>| lock(&this.state).1.clone()),
            )
            .with_state(this.clone());
        let pages = mayfly_runtime::admin_http::AdminHttp::bind(([127, 0, 0, 1], 0).into(), router).unwrap();
        let witness = RemoteWitness {
            url: format!("http://{}/w/", pages.address()).parse().unwrap(),
            key: this.key.verifier_key().clone(),
        };
        let stop = CancellationToken::new();
        let stopping = stop.clone();
        #[allow(clippy::disallowed_methods, reason = "tests may spawn")]
        tokio::spawn(async move { pages.serve(stopping).await });
        (this, witness, stop)
    }
}

async fn add(State(this): State<Arc<Elsewhere>>, body: Bytes) -> Response {
    this.asked.fetch_add(1, Ordering::Relaxed);
    if let Some(status) = *lock(&this.failing) {
        return (StatusCode::from_u16(status).unwrap(), "as told").into_response();
    }
    let request = AddCheckpoint::parse(&body).unwrap();
    let mut state = lock(&this.state);
    match state.0.consider(&request, &lock(&this.log_keys)) {
        Ok(accepted) => {
            state.0.record(&accepted).unwrap();
            state.1 = accepted.checkpoint().to_bytes();
            accepted
                .cosign(&this.key, 1_800_000_000)
                .unwrap()
                .to_string()
                .into_response()
        }
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status()).unwrap();
            let body = refusal.conflict_body().unwrap_or_default();
            (status, [(header::CONTENT_TYPE, SIZE_CONTENT_TYPE)], body).into_response()
        }
    }
}

#[tokio::test]
async fn a_witness_elsewhere_is_sent_what_grew_and_its_cosignature_is_added() {
    let site = Site::new().await;
    let (elsewhere, witness, _stop) = Elsewhere::start(&site.evidence);
    let mut known = 0;
    for round in 1..=3 {
        site.grows(300).await;
        let at = site.witnesses.push(&witness, &mut known).await.unwrap();
        assert_eq!(
            (at, known, site.cosigners()),
            (1_800_000_000, site.witnesses.size(), usize::from(round > 1))
        );
        assert_eq!(elsewhere.asked.load(Ordering::Relaxed), round);
    }
    // The same once more, as when nothing happens for long.
    site.witnesses.push(&witness, &mut known).await.unwrap();
    // A server that was started anew knows nothing of it, and learns where it stands.
    let mut unknown = 0;
    site.grows(1).await;
    site.witnesses.push(&witness, &mut unknown).await.unwrap();
    assert_eq!(
        (unknown, elsewhere.asked.load(Ordering::Relaxed)),
        (site.witnesses.size(), 6)
    );
    site.grows(1).await;
    assert_eq!(site.registered(), 1);
}

#[tokio::test]
async fn a_witness_that_knows_more_than_there_is_shows_it_by_the_logs_own_signature() {
    let site = Site::new().await;
    let (elsewhere, witness, _stop) = Elsewhere::start(&site.evidence);
    let published = site.grows(5).await;
    let size = published.checkpoint.size() + 7;
    let shown = site.signs(size, leaf_hash(b"more"));
    let before = AddCheckpoint::new(0, vec![], mayfly_tlog::note::Note::parse(&shown).unwrap()).unwrap();
    {
        let mut state = lock(&elsewhere.state);
        let accepted = state.0.consider(&before, &site.evidence.verifier_keys()).unwrap();
        state.0.record(&accepted).unwrap();
    }
    let mut backoff =
        mayfly_runtime::BackoffPolicy::new(std::time::Duration::from_secs(1), std::time::Duration::from_secs(2))
            .start();
    let failure = site.witnesses.push(&witness, &mut 0).await.unwrap_err();
    assert!(
        failure.to_string().contains(&format!("it knows {size} entries")),
        "{failure}"
    );
    // It says so, and cannot show it.
    site.witnesses.failed(&witness, &failure, &mut true, &mut backoff).await;
    assert_eq!(site.witnesses.doubt(), None);
    lock(&elsewhere.state).1 = shown;
    site.witnesses.failed(&witness, &failure, &mut true, &mut backoff).await;
    assert!(
        site.witnesses
            .doubt()
            .unwrap()
            .starts_with("witness.example/w has shown")
    );
}

#[tokio::test]
async fn what_a_witness_answers_otherwise_is_told_in_words() {
    let site = Site::new().await;
    let (elsewhere, witness, _stop) = Elsewhere::start(&site.evidence);
    site.grows(5).await;
    for (status, words) in [
        (400, "cannot read"),
        (403, "another key"),
        (404, "does not witness this log"),
        (422, "ANOTHER PAST"),
        (500, "what no witness does"),
        (409, "contradicts itself"),
        (200, "no cosignature"),
    ] {
        *lock(&elsewhere.failing) = Some(status);
        let failure = site.witnesses.push(&witness, &mut 0).await.unwrap_err();
        assert!(failure.to_string().contains(words), "{status}: {failure}");
    }
    *lock(&elsewhere.failing) = None;
    // Another key than that of the settings.
    let stranger = RemoteWitness {
        key: key("witness.example/w").verifier_key().clone(),
        ..witness.clone()
    };
    let failure = site.witnesses.push(&stranger, &mut 0).await.unwrap_err();
    assert!(
        failure
            .to_string()
            .contains("no cosignature by the key of the settings")
    );
    assert_eq!((site.cosigners(), site.witnesses.doubt()), (0, None));
    assert!(matches!(
        lock(&elsewhere.state).0.consider(
            &AddCheckpoint::new(0, vec![], site.evidence.published().checkpoint.note().clone()).unwrap(),
            &site.evidence.verifier_keys()
        ),
        Err(Refusal::Conflict { .. })
    ));
}

#[test]
fn an_address_of_a_witness_is_a_prefix() {
    for text in [
        "http://[::1]:8082",
        "https://witness.example/",
        "https://witness.example:8443/a/b/",
    ] {
        assert_eq!(text.parse::<WitnessUrl>().unwrap().to_string(), text);
    }
    for (text, wrong) in [
        ("witness.example", WitnessUrlError::Syntax),
        ("ftp://witness.example", WitnessUrlError::Scheme),
        ("https://me@witness.example", WitnessUrlError::Host),
        ("https://witness.example/?a", WitnessUrlError::Query),
        ("https://witness.example/#a", WitnessUrlError::Query),
        ("", WitnessUrlError::Syntax),
    ] {
        assert_eq!(text.parse::<WitnessUrl>().unwrap_err(), wrong, "{text}");
    }
}
