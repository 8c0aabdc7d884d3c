//! A workload as its authors would write it: `spiffe`, `spiffe-rustls` and tokio, nothing of ours.
//!
//! It serves and dials mutual TLS at the same time, with the newest SVID, as `tests/clients/README.md` says.
//!
//! Arguments: the address of the Workload API, the user to become, the SPIFFE IDs of its peers with commas between them.

#![allow(
    clippy::disallowed_methods,
    reason = "a program that stands for foreign ones does not use our process kit"
)]

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mayfly_tests::lines::{commands, say};
use rustls_pki_types::ServerName;
use serde_json::json;
use spiffe::x509_source::SvidPicker;
use spiffe::{X509Source, X509Svid};
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, oneshot};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Counts {
    dialed: AtomicU64,
    dial_failed: AtomicU64,
    served: AtomicU64,
    serve_failed: AtomicU64,
    /// What `dialed` is made of.
    ports: Mutex<BTreeMap<u16, u64>>,
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1);
    let endpoint = args.next().context("address of the Workload API")?;
    let uid: u32 = args.next().context("user")?.parse()?;
    let peers = args.next().context("SPIFFE IDs of the peers")?;
    // Before there is a second thread: each thread has its own credentials.
    mayfly_tests::become_user(uid)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(run(&endpoint, &peers))
}

async fn run(endpoint: &str, peers: &str) -> Result<()> {
    let gate = Arc::new(Gate::default());
    let Some((acceptor, connector)) = follow(endpoint.to_owned(), peers.to_owned(), Arc::clone(&gate)).await? else {
        return Ok(());
    };
    let counts = Arc::new(Counts::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&json!({"event": "listening", "port": listener.local_addr()?.port()}));

    tokio::spawn(serve(listener, acceptor, Arc::clone(&counts), Arc::clone(&gate)));

    let mut commands = commands();
    let paused = Arc::new(AtomicBool::new(false));
    while let Some(command) = commands.recv().await {
        if let Some(port) = command["dial"].as_u64() {
            let (connector, counts, paused) = (connector.clone(), Arc::clone(&counts), Arc::clone(&paused));
            let gate = Arc::clone(&gate);
            tokio::spawn(async move { dial(u16::try_from(port)?, &connector, &counts, &paused, &gate).await });
        }
        if let Some(pause) = command["pause"].as_bool() {
            paused.store(pause, Ordering::Relaxed);
        }
        if command["report"].as_bool() == Some(true) {
            let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
            say(&json!({
                "event": "report",
                "dialed": read(&counts.dialed),
                "dial_failed": read(&counts.dial_failed),
                "served": read(&counts.served),
                "serve_failed": read(&counts.serve_failed),
                "ports": *counts.ports.lock().expect("nobody panics with it"),
            }));
        }
    }
    Ok(())
}

/// Keeps the newest SVID and bundle, in a thread of its own. Nothing if there is no SVID to be had.
async fn follow(endpoint: String, peers: String, gate: Arc<Gate>) -> Result<Option<(TlsAcceptor, TlsConnector)>> {
    let (ready, made) = oneshot::channel();
    std::thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let closing = Closing(Arc::clone(&gate));
            let source = match X509Source::builder().endpoint(&endpoint).picker(closing).build().await {
                Ok(source) => source,
                Err(error) => {
                    say(&json!({"event": "no_source", "error": format!("{error:?}")}));
                    return Ok(());
                }
            };
            let (server, server_status) = mtls_server(source.clone())
                .authorize(authorizer::exact(peers.split(','))?)
                .build_with_status()?;
            let (client, client_status) = mtls_client(source.clone())
                .authorize(authorizer::exact(peers.split(','))?)
                .build_with_status()?;
            let made = (
                TlsAcceptor::from(Arc::new(server)),
                TlsConnector::from(Arc::new(client)),
            );
            // Nobody waits for it any more: the program ends.
            let _ = ready.send(made);
            tokio::spawn(tell_svids(source));
            loop {
                gate.closed.notified().await;
                for status in [&server_status, &client_status] {
                    while status.current().source_revision != status.current().applied_revision {
                        tokio::task::yield_now().await;
                    }
                }
                gate.open();
            }
        })
    });
    // Not made: there was no source, and that has been said.
    Ok(made.await.ok())
}

/// Lets handshakes rest for the instant between a revision of the source and what spiffe-rustls makes of it.
///
/// In that instant it refuses them, as its documentation says; under load, some fall into it at each rotation.
#[derive(Default)]
struct Gate {
    is_closed: Mutex<bool>,
    opened: Condvar,
    closed: Notify,
}

impl Gate {
    /// Does no step of `talk` while the gate is closed.
    async fn guard<T>(&self, talk: impl Future<Output = T>) -> T {
        let mut talk = pin!(talk);
        poll_fn(|context| {
            let is_closed = self.is_closed.lock().expect("nobody panics with it");
            let _open = self
                .opened
                .wait_while(is_closed, |closed| *closed)
                .expect("nobody panics with it");
            talk.as_mut().poll(context)
        })
        .await
    }

    fn open(&self) {
        *self.is_closed.lock().expect("nobody panics with it") = false;
        self.opened.notify_all();
    }
}

/// Closes the gate when the source is about to have another revision: it asks then which SVID to take.
struct Closing(Arc<Gate>);

impl SvidPicker for Closing {
    fn pick_svid(&self, svids: &[Arc<X509Svid>]) -> Option<usize> {
        *self.0.is_closed.lock().expect("nobody panics with it") = true;
        self.0.closed.notify_one();
        (!svids.is_empty()).then_some(0)
    }
}

/// One line for each SVID that came.
async fn tell_svids(source: X509Source) {
    let mut updates = source.updated();
    let mut last = String::new();
    loop {
        if let Ok(svid) = source.svid() {
            let leaf = svid.leaf().as_bytes();
            let Ok((_, certificate)) = x509_parser::parse_x509_certificate(leaf) else {
                return;
            };
            let serial = certificate.raw_serial_as_string();
            if serial != last {
                say(&json!({"event": "svid", "spiffe_id": svid.spiffe_id().to_string(), "serial": serial}));
                last = serial;
            }
        }
        if updates.changed().await.is_err() {
            return;
        }
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, counts: Arc<Counts>, gate: Arc<Gate>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, counts, gate) = (acceptor.clone(), Arc::clone(&counts), Arc::clone(&gate));
        tokio::spawn(async move {
            let talk = async {
                let mut tls = acceptor.accept(tcp).await?;
                let mut question = [0; 4];
                tls.read_exact(&mut question).await?;
                ensure!(&question == b"ping", "a strange question");
                tls.write_all(b"pong").await?;
                tls.shutdown().await?;
                Ok(())
            };
            account(
                within_deadline(gate.guard(talk)).await,
                "serve",
                &counts.served,
                &counts.serve_failed,
            );
        });
    }
}

async fn dial(port: u16, connector: &TlsConnector, counts: &Counts, paused: &AtomicBool, gate: &Gate) -> Result<()> {
    loop {
        if !paused.load(Ordering::Relaxed) {
            let talk = async {
                let tcp = TcpStream::connect(("127.0.0.1", port)).await?;
                let mut tls = connector.connect(ServerName::try_from("peer.invalid")?, tcp).await?;
                tls.write_all(b"ping").await?;
                // In TLS 1.3 the client hears only here whether the server has accepted it.
                let mut reply = [0; 4];
                tls.read_exact(&mut reply).await?;
                ensure!(&reply == b"pong", "a strange answer");
                Ok(())
            };
            let outcome = within_deadline(gate.guard(talk)).await;
            if outcome.is_ok() {
                let mut ports = counts.ports.lock().expect("nobody panics with it");
                *ports.entry(port).or_default() += 1;
            }
            account(outcome, "dial", &counts.dialed, &counts.dial_failed);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn within_deadline(talk: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::time::timeout(HANDSHAKE_DEADLINE, talk)
        .await
        .context("took too long")?
}

fn account(outcome: Result<()>, role: &str, good: &AtomicU64, bad: &AtomicU64) {
    match outcome {
        Ok(()) => {
            good.fetch_add(1, Ordering::Relaxed);
        }
        Err(error) => {
            bad.fetch_add(1, Ordering::Relaxed);
            say(&json!({"event": "failed", "role": role, "error": format!("{error:#}")}));
        }
    }
}
