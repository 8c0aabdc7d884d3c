//! An agent that says what tests tell it to say.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use mayfly_proto::mayfly::workload::checkpoint_server::{Checkpoint, CheckpointServer};
use mayfly_proto::mayfly::workload::enforce_request::Body;
use mayfly_proto::mayfly::workload::{EnforceAck, EnforceHello, EnforceRequest, EnforceResponse, Revoked};
use mayfly_proto::spiffe::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use mayfly_proto::spiffe::workload::*;
use mayfly_runtime::CancellationToken;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::certs::{Issued, TestCa};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What it says, and what it was told.
pub(super) struct Words {
    pub(super) svids: X509svidResponse,
    pub(super) denies: Option<Status>,
    pub(super) epoch: u64,
    pub(super) revoked: Vec<Revoked>,
    pub(super) lease_ms: u32,
    pub(super) lease_until_ms: u64,
    /// No signs of life.
    pub(super) silent: bool,
    pub(super) has_checkpoint: bool,
    pub(super) hellos: Vec<EnforceHello>,
    pub(super) acks: Vec<EnforceAck>,
    pub(super) streams: usize,
    /// That were ever made.
    pub(super) connections: usize,
    /// Called with each acknowledgement before it is noted.
    pub(super) on_ack: Option<Box<dyn Fn(&EnforceAck) + Send>>,
}

#[derive(Clone)]
pub(super) struct FakeAgent {
    pub(super) socket: PathBuf,
    words: Arc<Mutex<Words>>,
    changed: Arc<watch::Sender<()>>,
    told: Arc<watch::Sender<()>>,
    stop: Arc<Mutex<CancellationToken>>,
}

impl FakeAgent {
    pub(super) fn start(folder: &Path, own: &Issued, ca: &TestCa) -> Self {
        let agent = Self {
            socket: folder.join("agent.sock"),
            words: Arc::new(Mutex::new(Words {
                svids: X509svidResponse {
                    svids: vec![own.to_wire(&[ca])],
                    ..Default::default()
                },
                denies: None,
                epoch: 1,
                revoked: vec![],
                lease_ms: 60_000,
                lease_until_ms: 0,
                silent: false,
                has_checkpoint: true,
                hellos: vec![],
                acks: vec![],
                streams: 0,
                connections: 0,
                on_ack: None,
            })),
            changed: Arc::new(watch::channel(()).0),
            told: Arc::new(watch::channel(()).0),
            stop: Arc::default(),
        };
        agent.listen();
        agent
    }

    #[allow(clippy::disallowed_methods)]
    pub(super) fn listen(&self) {
        let _ = std::fs::remove_file(&self.socket);
        let listener = UnixListener::bind(&self.socket).unwrap();
        let stop = CancellationToken::new();
        *self.stop.lock().unwrap() = stop.clone();
        let agent = self.clone();
        let incoming = UnixListenerStream::new(listener).inspect(move |_| agent.words().connections += 1);
        let server = Server::builder()
            .add_service(SpiffeWorkloadApiServer::new(self.clone()))
            .add_service(CheckpointServer::new(self.clone()))
            .serve_with_incoming_shutdown(incoming, stop.cancelled_owned());
        tokio::spawn(async move { server.await.unwrap() });
    }

    /// Gone, with all streams.
    pub(super) async fn stop(&self) {
        self.stop.lock().unwrap().cancel();
        std::fs::remove_file(&self.socket).unwrap();
        self.until(|words| words.streams == 0).await;
    }

    pub(super) fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap()
    }

    /// Changes what it says, and says it.
    pub(super) fn say(&self, change: impl FnOnce(&mut Words)) {
        change(&mut self.words());
        self.changed.send_replace(());
    }

    /// Revokes what `who` has, and returns the epoch.
    pub(super) fn revoke(&self, window: &str, serials: Vec<Vec<u8>>) -> u64 {
        let mut epoch = 0;
        self.say(|words| {
            words.epoch += 1;
            epoch = words.epoch;
            words.revoked.push(Revoked {
                window_id: window.into(),
                serials,
                not_after: super::certs::now() + 300,
                epoch,
            });
        });
        epoch
    }

    /// Waits for what it was told.
    pub(super) async fn until(&self, mut holds: impl FnMut(&mut Words) -> bool) {
        let mut told = self.told.subscribe();
        let wait = async {
            while !holds(&mut self.words()) {
                told.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), wait)
            .await
            .expect("the agent was not told in time");
    }

    pub(super) async fn acknowledged(&self, epoch: u64) -> EnforceAck {
        let mut found = None;
        self.until(|words| {
            found = words.acks.iter().rev().find(|ack| ack.epoch >= epoch).copied();
            found.is_some()
        })
        .await;
        found.unwrap()
    }

    fn stream_token(&self) -> (CancellationToken, Stays) {
        self.words().streams += 1;
        let stays = Stays(self.clone());
        (self.stop.lock().unwrap().clone(), stays)
    }
}

/// One stream is open.
struct Stays(FakeAgent);

impl Drop for Stays {
    fn drop(&mut self) {
        self.0.words().streams -= 1;
        self.0.told.send_replace(());
    }
}

fn check_header<T>(request: &Request<T>) -> Result<(), Status> {
    match request.metadata().get("workload.spiffe.io") {
        Some(value) if value == "true" => Ok(()),
        _ => Err(Status::invalid_argument("security header missing from request")),
    }
}

#[tonic::async_trait]
impl Checkpoint for FakeAgent {
    type EnforceStream = Answers<EnforceResponse>;

    #[allow(clippy::disallowed_methods)]
    async fn enforce(
        &self,
        request: Request<Streaming<EnforceRequest>>,
    ) -> Result<Response<Self::EnforceStream>, Status> {
        check_header(&request)?;
        if !self.words().has_checkpoint {
            return Err(Status::unimplemented("no such service"));
        }
        let mut inbound = request.into_inner();
        let (answers, receiver) = mpsc::channel(16);
        let (stop, stays) = self.stream_token();
        let agent = self.clone();
        tokio::spawn(async move {
            let _stays = stays;
            let mut changed = agent.changed.subscribe();
            let mut sent = None;
            loop {
                let message = {
                    let words = agent.words();
                    let from = sent.unwrap_or(0);
                    EnforceResponse {
                        snapshot: sent.is_none(),
                        epoch: words.epoch,
                        revoked: words.revoked.iter().filter(|item| item.epoch > from).cloned().collect(),
                        lease_ms: words.lease_ms,
                        lease_until_ms: words.lease_until_ms,
                    }
                };
                let speaks = sent != Some(message.epoch) || !agent.words().silent;
                if speaks {
                    sent = Some(message.epoch);
                    if answers.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = answers.closed() => return,
                    _ = changed.changed() => {}
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                    told = inbound.message() => match told {
                        Ok(Some(EnforceRequest { body: Some(Body::Hello(hello)) })) => {
                            agent.words().hellos.push(hello);
                            agent.told.send_replace(());
                        }
                        Ok(Some(EnforceRequest { body: Some(Body::Ack(ack)) })) => {
                            let mut words = agent.words();
                            if let Some(on_ack) = &words.on_ack {
                                on_ack(&ack);
                            }
                            words.acks.push(ack);
                            agent.told.send_replace(());
                        }
                        _ => return,
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for FakeAgent {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<WitsvidResponse>;
    type FetchWITBundlesStream = Answers<WitBundlesResponse>;

    #[allow(clippy::disallowed_methods)]
    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        check_header(&request)?;
        let (answers, receiver) = mpsc::channel(16);
        let (stop, stays) = self.stream_token();
        let agent = self.clone();
        tokio::spawn(async move {
            let _stays = stays;
            let mut changed = agent.changed.subscribe();
            let mut sent = None;
            loop {
                let (svids, denies) = {
                    let words = agent.words();
                    (words.svids.clone(), words.denies.clone())
                };
                if let Some(status) = denies {
                    let _ = answers.send(Err(status)).await;
                    return;
                }
                if sent.as_ref() != Some(&svids) {
                    sent = Some(svids.clone());
                    if answers.send(Ok(svids)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = answers.closed() => return,
                    _ = changed.changed() => {}
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn fetch_witsvid(&self, _: Request<WitsvidRequest>) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}
