mod descent;
mod exceptions;

use std::sync::Mutex;
use std::thread::{self, ThreadId};

use mayfly_keys::{KeyError, KeyManager, KeyType, MemoryKeys, Signer};
use mayfly_model::BundleDeleteMode;
use mayfly_svid::TrustAnchors;
use mayfly_svid::verify::verify_x509_svid;

use super::*;
use crate::app::testing::{START, World, csr, id};

fn actor() -> Actor {
    Actor {
        who: "test".into(),
        origin: String::new(),
        reason: String::new(),
    }
}

async fn issue(world: &World, agent: &Agent, entry: &EntryId) -> Result<X509Svid, IssueError> {
    one(world
        .issuance
        .for_entries(&actor(), agent, vec![(entry.clone(), csr())])
        .await)
}

// SVID-01 XINH-07
#[tokio::test]
async fn an_entry_of_the_agent_is_issued_and_verifies_against_the_bundle() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world
        .entry("web", &agent.id, |spec| spec.dns_names = vec!["web.example".into()])
        .await;
    let svid = issue(&world, &agent, &entry).await.unwrap();
    assert_eq!(svid.spiffe_id(), &id("/web"));
    let state = world.committer.snapshot();
    let anchors = TrustAnchors::from_bundle(state.own_bundle().unwrap());
    verify_x509_svid(svid.chain(), &anchors, world.now()).unwrap();
    let authority = state.active_authority(KeyClass::Base).unwrap();
    assert!(svid.not_after() <= authority.not_after);
}

// An agent asks for what is not its own.
#[tokio::test]
async fn an_entry_of_another_agent_reads_as_not_found() {
    let world = World::new().await;
    let (a, b) = (world.agent("a").await, world.agent("b").await);
    let entry = world.entry("web", &b.id, |_| {}).await;
    assert!(matches!(
        issue(&world, &a, &entry).await,
        Err(IssueError::EntryNotFound)
    ));
    let unknown = EntryId::random();
    assert!(matches!(
        issue(&world, &a, &unknown).await,
        Err(IssueError::EntryNotFound)
    ));
    assert!(world.logged("svid.intended").is_empty());
}

// Promise 4: SPIRE forgets this one.
#[tokio::test]
async fn an_svid_ends_with_its_entry_and_an_expired_entry_gets_none() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let end = Timestamp::from_unix(START as i64 + 600);
    let entry = world.entry("web", &agent.id, |spec| spec.expires_at = Some(end)).await;
    assert_eq!(issue(&world, &agent, &entry).await.unwrap().not_after(), end);
    world.clock.advance(Duration::from_secs(600));
    assert!(matches!(issue(&world, &agent, &entry).await, Err(IssueError::EntryExpired(at)) if at == end));
}

#[tokio::test]
async fn a_banned_agent_gets_nothing_even_when_the_ban_came_after_the_call() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |_| {}).await;
    // The caller was looked up before the ban; the question after the commit stops it.
    world.commit(Change::AgentBan(agent.id.clone())).await.unwrap();
    assert!(matches!(
        issue(&world, &agent, &entry).await,
        Err(IssueError::AgentNotActive)
    ));
}

#[tokio::test]
async fn every_svid_has_its_intent_in_the_log_before_it_and_its_outcome_after() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |_| {}).await;
    let svid = issue(&world, &agent, &entry).await.unwrap();
    let intended = world.logged("svid.intended");
    assert_eq!(intended.len(), 1);
    assert_eq!(intended[0].body["serial"], svid.serial().to_string());
    assert_eq!(intended[0].subject, "spiffe://td/web");
    world.committer.flush().await;
    let outcome = world.logged("svid.outcome");
    assert_eq!(outcome[0].body["signed"][0], svid.serial().to_string());
    assert!(outcome[0].index > intended[0].index);
}

#[tokio::test]
async fn an_outcome_goes_with_the_next_commit_and_does_not_wait_for_long() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |_| {}).await;
    let revision = || world.committer.snapshot().revision();
    issue(&world, &agent, &entry).await.unwrap();
    let before = revision();
    // Of another SVID: its intent takes the first one's outcome along.
    issue(&world, &agent, &entry).await.unwrap();
    assert_eq!(world.logged("svid.outcome").len(), 1);
    assert_eq!(revision().0, before.0 + 1, "one transaction for both");
    // What the server does each second.
    world.committer.commit_aside().await;
    assert_eq!(world.logged("svid.outcome").len(), 2);
    let after = revision();
    world.committer.commit_aside().await;
    assert_eq!(revision(), after, "nothing waits, nothing is committed");
}

/// A key that tells on which thread it signed.
#[derive(Debug)]
struct Telling {
    key: Arc<dyn Signer>,
    is_quick: bool,
    signed_on: Mutex<Vec<ThreadId>>,
}

impl Signer for Telling {
    fn key_type(&self) -> KeyType {
        self.key.key_type()
    }

    fn public_key_der(&self) -> &[u8] {
        self.key.public_key_der()
    }

    fn is_quick(&self) -> bool {
        self.is_quick
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.signed_on.lock().unwrap().push(thread::current().id());
        self.key.sign(message)
    }
}

#[tokio::test]
async fn a_key_that_takes_its_time_holds_up_no_thread_that_serves_others() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |_| {}).await;
    for is_quick in [true, false] {
        let key = Arc::new(Telling {
            key: MemoryKeys::new().generate("a", KeyType::EcP256).await.unwrap(),
            is_quick,
            signed_on: Mutex::default(),
        });
        let (own, day) = ("td".parse().unwrap(), Duration::from_secs(86_400));
        let serial = mayfly_ca::random_serial();
        let cert = mayfly_ca::create_authority(&own, key.clone(), day, world.now(), &serial).unwrap();
        key.signed_on.lock().unwrap().clear();
        world
            .issuance
            .active
            .of(KeyClass::Base)
            .store(Some(Arc::new(ActiveIssuer {
                authority_id: "told".into(),
                issuer: Issuer::new(own, cert, key.clone()).unwrap(),
            })));
        issue(&world, &agent, &entry).await.unwrap();
        let signed_on = key.signed_on.lock().unwrap().clone();
        assert_eq!(signed_on.len(), 1);
        assert_eq!(signed_on[0] == thread::current().id(), is_quick);
    }
}

#[tokio::test]
async fn in_a_batch_each_request_stands_for_itself_and_keeps_its_place() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let web = world.entry("web", &agent.id, |_| {}).await;
    let db = world.entry("db", &agent.id, |_| {}).await;
    let wanted = vec![
        (web, csr()),
        (EntryId::random(), csr()),
        (db.clone(), vec![1, 2, 3]),
        (db, csr()),
    ];
    let results = world.issuance.for_entries(&actor(), &agent, wanted).await;
    assert_eq!(results[0].as_ref().unwrap().spiffe_id(), &id("/web"));
    assert!(matches!(results[1], Err(IssueError::EntryNotFound)));
    assert!(matches!(results[2], Err(IssueError::Csr(_))));
    assert_eq!(results[3].as_ref().unwrap().spiffe_id(), &id("/db"));
}

#[tokio::test]
async fn a_refused_companion_change_leaves_nothing_signed_and_nothing_logged() {
    let world = World::new().await;
    let agent = id("/spire/agent/t/a");
    let never = |_: &Serial, _| Change::BundleDelete {
        trust_domain: "other".parse().unwrap(),
        mode: BundleDeleteMode::Restrict,
    };
    let refused = world.issuance.for_agent(&actor(), &agent, &csr(), never).await;
    assert!(matches!(refused, Err(IssueError::Commit(CommitError::Conflict(_)))));
    world.commit(Change::TokenPrune).await.unwrap();
    assert!(world.logged("svid.intended").is_empty() && world.logged("svid.outcome").is_empty());
}

#[tokio::test]
async fn a_bad_csr_changes_nothing() {
    let world = World::new().await;
    let before = world.log().len();
    let refused = world
        .issuance
        .for_agent(&actor(), &id("/spire/agent/t/a"), b"no csr", |_, _| Change::TokenPrune)
        .await;
    assert!(matches!(refused, Err(IssueError::Csr(_))));
    assert_eq!(world.log().len(), before);
}

/// What an entry says may change between the intent and the signature; the signature must not be that of before.
#[tokio::test]
async fn what_was_prepared_for_an_entry_that_changed_is_not_signed() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |_| {}).await;
    let asked = world.committer.snapshot().entry(&entry).unwrap().clone();
    let request = Request {
        spiffe_id: asked.spec.spiffe_id.clone(),
        dns_names: vec![],
        csr_der: csr(),
        validity: Validity::For(Duration::from_secs(60)),
        entry: Some(asked),
    };
    let issuance = &world.issuance;
    let active = issuance.active.of(KeyClass::Base).load_full().unwrap();
    let prepared = request.prepare(&active, world.now()).unwrap();
    let patch = mayfly_model::EntryPatch {
        spiffe_id: Some(id("/other")),
        ..Default::default()
    };
    let (id, patch) = (entry, Box::new(patch));
    world.commit(Change::EntryUpdate { id, patch }).await.unwrap();
    let state = world.committer.snapshot();
    let refused = still_allowed(&state, &agent.id, &prepared);
    assert!(matches!(refused, Err(IssueError::EntryChanged)));
}
