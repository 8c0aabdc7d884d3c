//! A server that tells a monitor too much at once, too little, or nothing.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::mayfly::audit::audit_server::{Audit, AuditServer};
use mayfly_proto::mayfly::audit::{
    EraseRequest, EraseResponse, ExportRequest, ExportResponse, GetCheckpointRequest, GetCheckpointResponse,
    ProveRequest, ProveResponse, RecordProbeRequest, RecordProbeResponse, ReportRequest, ReportResponse,
    RotateKeyRequest, RotateKeyResponse, SearchRequest, SearchResponse,
};
use mayfly_runtime::ManualClock;
use mayfly_tlog::checkpoint::{Checkpoint, SignedCheckpoint};
use mayfly_tlog::leaf_hash;
use mayfly_tlog::note::{Algorithm, Ed25519Key, NoteSigner as _};
use mayfly_tlog::tree::Tree;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use crate::testing::{Ran, mayfly};

const ORIGIN: &str = "td/log/1";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// How it answers a search.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Whole,
    /// Not at all.
    Silent,
    /// Without any entry, and without an end.
    Empty,
    /// Slowly.
    Dripping,
    /// With more than there is, for ever.
    Endless,
}

#[derive(Clone)]
struct Fake {
    entries: Vec<Vec<u8>>,
    checkpoint: Vec<u8>,
    /// The one that comes with an export.
    edge: Vec<u8>,
    key: String,
    manner: Manner,
}

impl Fake {
    /// A log in which that many definitions are put.
    fn new(definitions: usize, manner: Manner) -> Self {
        let (key, _) = Ed25519Key::generate(ORIGIN, Algorithm::Ed25519).unwrap();
        let started = format!(r#"{{"body":{{"vkey":"{}"}},"kind":"log.started"}}"#, key.verifier_key());
        let put = (0..definitions).map(|number| format!(r#"{{"kind":"definition.put","number":{number}}}"#));
        let entries: Vec<_> = std::iter::once(started).chain(put).map(String::into_bytes).collect();
        let mut tree = Tree::new();
        let leaves: Vec<_> = entries.iter().map(|entry| leaf_hash(entry)).collect();
        tree.append(&leaves).unwrap();
        let checkpoint = Checkpoint::new(ORIGIN, tree.size(), tree.root()).unwrap();
        let checkpoint = SignedCheckpoint::sign(checkpoint, &key).unwrap().to_bytes();
        Self {
            entries,
            edge: checkpoint.clone(),
            checkpoint,
            key: key.verifier_key().to_string(),
            manner,
        }
    }

    /// What `mayfly audit monitor` says to it from the first entry on; it has to end by itself.
    async fn watched(self, words: &[&str]) -> Ran {
        let dir = tempfile::tempdir().unwrap();
        self.watched_in(dir.path(), &[&["--from", "0"], words].concat()).await
    }

    async fn watched_in(self, dir: &Path, words: &[&str]) -> Ran {
        let socket = dir.join("server.sock");
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let mut servers = tokio::task::JoinSet::new();
        let server = tonic::transport::Server::builder().add_service(AuditServer::new(self));
        servers.spawn(async move { server.serve_with_incoming(incoming).await.unwrap() });
        let state = dir.join("state");
        let fixed = ["audit", "monitor", "--timeout", "1s", "--output", "json"];
        let mut args: Vec<_> = fixed.iter().chain(words).map(std::ffi::OsString::from).collect();
        args.extend(["--server-socket".into(), socket.into(), "--state".into(), state.into()]);
        let ran = mayfly(args, Arc::new(ManualClock::default()), dir);
        tokio::time::timeout(Duration::from_secs(60), ran)
            .await
            .expect("the monitor ends")
    }
}

fn none<T>() -> Result<T, Status> {
    Err(Status::unimplemented("nobody asks for this"))
}

#[tonic::async_trait]
impl Audit for Fake {
    type SearchStream = Answers<SearchResponse>;
    type ExportStream = Answers<ExportResponse>;
    type ProveStream = Answers<ProveResponse>;
    type ReportStream = Answers<ReportResponse>;

    async fn get_checkpoint(
        &self,
        _: Request<GetCheckpointRequest>,
    ) -> Result<Response<GetCheckpointResponse>, Status> {
        Ok(Response::new(GetCheckpointResponse {
            checkpoint: self.checkpoint.clone(),
            verifier_keys: vec![self.key.clone()],
        }))
    }

    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<Self::SearchStream>, Status> {
        let from = usize::try_from(request.into_inner().from_index).unwrap();
        let found = |(index, entry): (usize, Vec<u8>)| {
            Ok(SearchResponse {
                index: index as u64,
                entry,
            })
        };
        let entries = self.entries.clone().into_iter().enumerate().skip(from);
        let stream: Self::SearchStream = match self.manner {
            Manner::Whole => Box::pin(tokio_stream::iter(entries.map(found))),
            Manner::Silent => std::future::pending().await,
            Manner::Empty => Box::pin(tokio_stream::pending()),
            Manner::Dripping => Box::pin(tokio_stream::iter(entries.map(found)).throttle(Duration::from_millis(200))),
            Manner::Endless => {
                let more = (self.entries.len()..).map(|index| (index, b"{}".to_vec()));
                Box::pin(tokio_stream::iter(entries.chain(more).map(found)))
            }
        };
        Ok(Response::new(stream))
    }

    async fn export(&self, _: Request<ExportRequest>) -> Result<Response<Self::ExportStream>, Status> {
        let file = ExportResponse {
            path: "checkpoint".into(),
            data: self.edge.clone(),
            end: true,
        };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(file)))))
    }

    async fn prove(&self, _: Request<ProveRequest>) -> Result<Response<Self::ProveStream>, Status> {
        none()
    }

    async fn report(&self, _: Request<ReportRequest>) -> Result<Response<Self::ReportStream>, Status> {
        none()
    }

    async fn erase(&self, _: Request<EraseRequest>) -> Result<Response<EraseResponse>, Status> {
        none()
    }

    async fn rotate_key(&self, _: Request<RotateKeyRequest>) -> Result<Response<RotateKeyResponse>, Status> {
        none()
    }

    async fn record_probe(&self, _: Request<RecordProbeRequest>) -> Result<Response<RecordProbeResponse>, Status> {
        none()
    }
}

fn told(ran: &Ran) -> Vec<serde_json::Value> {
    ran.out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

#[tokio::test]
async fn more_than_is_kept_at_once_is_told_all_the_same() {
    let count = super::PENDING_MAX * 3 + 7;
    for manner in [Manner::Whole, Manner::Endless] {
        let ran = Fake::new(count, manner)
            .watched(&["--alerts", &count.to_string()])
            .await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        let indexes: Vec<_> = told(&ran)
            .iter()
            .map(|alert| alert["entry"]["index"].as_u64())
            .collect();
        // The first entry has the key, which is nothing to be told.
        let all: Vec<_> = (1..=count as u64).map(Some).collect();
        assert_eq!(indexes, all, "{manner:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_go_on_is_told_when_the_log_should_have_grown() {
    for manner in [Manner::Silent, Manner::Empty, Manner::Dripping] {
        let ran = Fake::new(1_000, manner)
            .watched(&["--alerts", "1", "--quiet", "2s"])
            .await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        let told = told(&ran);
        assert_eq!(
            (told.len(), &told[0]["alert"]),
            (1, &"log_frozen".into()),
            "{manner:?}: {told:?}"
        );
        println!("{manner:?}: {}", told[0]["message"]);
    }
}

#[tokio::test]
async fn what_was_refused_is_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut fake = Fake::new(3, Manner::Whole);
    // Signed by somebody else, where the other one is in order.
    let edge = Fake::new(5, Manner::Whole).checkpoint;
    fake.edge.clone_from(&edge);
    let key = fake.key.clone();
    let ran = fake.watched_in(dir.path(), &["--key", &key]).await;
    assert_eq!(
        (ran.code, &told(&ran)[0]["alert"]),
        (1, &"log_not_the_same".into()),
        "{}",
        ran.err
    );
    assert_eq!(std::fs::read(dir.path().join("state.refused")).unwrap(), edge);
}
