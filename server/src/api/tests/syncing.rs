//! How SPIRE's agents learn what they may serve.

use mayfly_proto::spire::server::agent::BanAgentRequest;
use mayfly_proto::spire::server::entry::*;
use mayfly_proto::spire::types::EntryMask;
use mayfly_proto::status::{Reason, permission_denied_reason};
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

use super::*;

struct Sync {
    requests: mpsc::Sender<SyncAuthorizedEntriesRequest>,
    answers: Streaming<SyncAuthorizedEntriesResponse>,
}

impl Sync {
    async fn open(agent: &Connected, mask: Option<EntryMask>) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        requests
            .send(SyncAuthorizedEntriesRequest {
                output_mask: mask,
                ids: vec![],
            })
            .await
            .unwrap();
        let answers = agent
            .entry()
            .sync_authorized_entries(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self { requests, answers }
    }

    async fn ask(&self, ids: impl IntoIterator<Item = String>) {
        let ids = ids.into_iter().collect();
        self.requests
            .send(SyncAuthorizedEntriesRequest { output_mask: None, ids })
            .await
            .unwrap();
    }

    async fn next(&mut self) -> SyncAuthorizedEntriesResponse {
        let answer = self.answers.message().await.unwrap().expect("an answer");
        assert!(answer.encoded_len() < 1 << 20);
        answer
    }

    /// All answers up to one without `more`.
    async fn round(&mut self) -> Vec<SyncAuthorizedEntriesResponse> {
        let mut answers = vec![];
        loop {
            answers.push(self.next().await);
            if !answers[answers.len() - 1].more {
                return answers;
            }
        }
    }
}

fn parent() -> SpiffeId {
    id("/spire/agent/echo/a")
}

#[tokio::test]
async fn few_entries_come_at_once_with_their_revision_and_the_stream_ends() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    let mut sync = Sync::open(&agent, None).await;
    assert_eq!(
        sync.next().await,
        SyncAuthorizedEntriesResponse::default(),
        "nothing is an answer as well"
    );
    let entry = server.world.entry("web", &parent(), |_| {}).await;
    server.world.entry("else", &id("/spire/agent/echo/b"), |_| {}).await;
    let update = mayfly_model::EntryPatch {
        hint: Some("h".into()),
        ..mayfly_model::EntryPatch::default()
    };
    let change = mayfly_model::Change::EntryUpdate {
        id: entry.clone(),
        patch: Box::new(update),
    };
    server.world.commit(change).await.unwrap();
    let mask = EntryMask {
        spiffe_id: true,
        ..EntryMask::default()
    };
    let mut sync = Sync::open(&agent, Some(mask)).await;
    let answer = sync.next().await;
    let [got] = &answer.entries[..] else {
        panic!("{answer:?}")
    };
    assert_eq!(
        (got.id.as_str(), &got.spiffe_id, got.selectors.len()),
        (entry.as_str(), &wire_id("/web"), 0)
    );
    assert_eq!(got.revision_number, 1, "whatever the mask says");
    assert!(!answer.more && answer.entry_revisions.is_empty());
    assert_eq!(sync.answers.message().await.unwrap(), None);
}

#[tokio::test]
async fn many_entries_come_as_revisions_and_then_by_id() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    let entries: Vec<_> = (0..1201).map(|n| wire_entry(&format!("/w{n}"), &parent())).collect();
    for part in entries.chunks(1000) {
        let request = BatchCreateEntryRequest {
            entries: part.to_vec(),
            output_mask: None,
        };
        server.admin().entry().batch_create_entry(request).await.unwrap();
    }
    let foreign = server.world.entry("else", &id("/spire/agent/echo/b"), |_| {}).await;
    let mut sync = Sync::open(&agent, None).await;
    let pages = sync.round().await;
    assert_eq!(
        pages.iter().map(|page| page.entry_revisions.len()).collect::<Vec<_>>(),
        [500, 500, 201]
    );
    assert!(pages.iter().all(|page| page.entries.is_empty()));
    let revisions: Vec<_> = pages.into_iter().flat_map(|page| page.entry_revisions).collect();
    assert!(
        revisions
            .iter()
            .all(|revision| revision.created_at == server.world.now().unix())
    );

    let ids: Vec<String> = revisions.iter().take(700).map(|revision| revision.id.clone()).collect();
    let strange = [foreign.to_string(), "unknown".into(), "a/b".into(), String::new()];
    sync.ask(strange.clone().into_iter().chain(ids.clone())).await;
    let answers = sync.round().await;
    assert_eq!(
        answers.iter().map(|answer| answer.entries.len()).collect::<Vec<_>>(),
        [500, 200]
    );
    let got: Vec<_> = answers
        .into_iter()
        .flat_map(|answer| answer.entries)
        .map(|entry| entry.id)
        .collect();
    assert_eq!(got, ids);
    sync.ask(strange).await;
    assert_eq!(
        sync.round().await,
        [SyncAuthorizedEntriesResponse::default()],
        "left out without a word"
    );

    // A ban ends the stream at the next question.
    server
        .admin()
        .agent()
        .ban_agent(BanAgentRequest {
            id: Some((&parent()).into()),
        })
        .await
        .unwrap();
    sync.ask(ids).await;
    let refused = sync.answers.message().await.unwrap_err();
    assert_eq!(permission_denied_reason(&refused), Some(Reason::AgentBanned));
}

// However many entries, no message is large.
#[tokio::test]
async fn large_entries_come_in_small_messages() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    for n in 0..12 {
        let selectors = (0..100)
            .map(|s| format!("unix:path:/{s}/{}", "x".repeat(2000)).parse().unwrap())
            .collect();
        server
            .world
            .entry(&format!("w{n}"), &parent(), |spec| spec.selectors = selectors)
            .await;
    }
    let mut sync = Sync::open(&agent, None).await;
    let pages = sync.round().await;
    let ids: Vec<String> = pages
        .iter()
        .flat_map(|page| &page.entry_revisions)
        .map(|revision| revision.id.clone())
        .collect();
    assert_eq!(ids.len(), 12);
    sync.ask(ids).await;
    let answers = sync.round().await;
    assert!(answers.len() > 2);
    assert_eq!(answers.iter().map(|answer| answer.entries.len()).sum::<usize>(), 12);
}

#[tokio::test]
async fn the_first_message_has_no_ids() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    let first = SyncAuthorizedEntriesRequest {
        output_mask: None,
        ids: vec!["x".into()],
    };
    let mut answers = agent
        .entry()
        .sync_authorized_entries(tokio_stream::iter([first]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn expired_entries_are_given_to_nobody_and_an_alias_brings_what_is_below_it() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    let end = server.world.now().plus(Duration::from_secs(60));
    let short = server
        .world
        .entry("short", &parent(), |spec| spec.expires_at = Some(end))
        .await;
    let server_id = server.world.committer.snapshot().trust_domain().server_id();
    let selectors: mayfly_model::Selectors = ["echo:name:a".parse().unwrap()].into_iter().collect();
    for alias in ["group/1", "group/2"] {
        let selectors = selectors.clone();
        server
            .world
            .entry(alias, &server_id, |spec| spec.selectors = selectors)
            .await;
    }
    let below = server.world.entry("below", &id("/group/1"), |_| {}).await;
    let authorized = async || {
        let answer = agent
            .entry()
            .get_authorized_entries(GetAuthorizedEntriesRequest::default())
            .await;
        let mut ids: Vec<_> = answer
            .unwrap()
            .into_inner()
            .entries
            .into_iter()
            .map(|entry| entry.id)
            .collect();
        ids.sort();
        ids
    };
    let mut both = [short.to_string(), below.to_string()];
    both.sort();
    assert_eq!(authorized().await, both);
    server.world.clock.advance(Duration::from_secs(60));
    assert_eq!(authorized().await, [below.to_string()]);
}

// A stream lives as long as the SVID that opened it: what an agent has replaced may be in other hands.
#[tokio::test]
async fn a_stream_ends_with_the_svid_that_opened_it() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    for n in 0..501 {
        server.world.entry(&format!("e{n}"), &parent(), |_| {}).await;
    }
    let mut replaced = Sync::open(&agent, None).await;
    replaced.round().await;
    let again = server.agent("a").await;
    replaced.ask([]).await;
    let refused = replaced.answers.message().await.unwrap_err();
    assert_eq!(permission_denied_reason(&refused), Some(Reason::AgentNotActive));

    let mut expired = Sync::open(&again, None).await;
    expired.round().await;
    server.world.clock.advance(Duration::from_secs(3_601));
    expired.ask([]).await;
    let refused = expired.answers.message().await.unwrap_err();
    assert_eq!(permission_denied_reason(&refused), Some(Reason::AgentExpired));
}
