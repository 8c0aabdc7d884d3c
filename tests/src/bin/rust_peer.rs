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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mayfly_tests::lines::{commands, say};
use rustls_pki_types::ServerName;
use serde_json::json;
use spiffe::X509Source;
use spiffe_rustls::{authorizer, mtls_client, mtls_server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
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
    let source = match X509Source::builder().endpoint(endpoint).build().await {
        Ok(source) => source,
        Err(error) => {
            say(&json!({"event": "no_source", "error": format!("{error:?}")}));
            return Ok(());
        }
    };
    let acceptor = TlsAcceptor::from(Arc::new(
        mtls_server(source.clone())
            .authorize(authorizer::exact(peers.split(','))?)
            .build()?,
    ));
    let connector = TlsConnector::from(Arc::new(
        mtls_client(source.clone())
            .authorize(authorizer::exact(peers.split(','))?)
            .build()?,
    ));
    let counts = Arc::new(Counts::default());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    say(&json!({"event": "listening", "port": listener.local_addr()?.port()}));

    tokio::spawn(tell_svids(source));
    tokio::spawn(serve(listener, acceptor, Arc::clone(&counts)));

    let mut commands = commands();
    let paused = Arc::new(AtomicBool::new(false));
    while let Some(command) = commands.recv().await {
        if let Some(port) = command["dial"].as_u64() {
            let (connector, counts, paused) = (connector.clone(), Arc::clone(&counts), Arc::clone(&paused));
            tokio::spawn(async move { dial(u16::try_from(port).unwrap_or(0), &connector, &counts, &paused).await });
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

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, counts: Arc<Counts>) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (acceptor, counts) = (acceptor.clone(), Arc::clone(&counts));
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
                within_deadline(talk).await,
                "serve",
                &counts.served,
                &counts.serve_failed,
            );
        });
    }
}

async fn dial(port: u16, connector: &TlsConnector, counts: &Counts, paused: &AtomicBool) {
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
            let outcome = within_deadline(talk).await;
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
