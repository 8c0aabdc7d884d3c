//! Handshakes, and calls to a peer that does nothing else.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_proto::spire::server::svid::{BatchNewX509svidRequest, NewX509svidParams};
use mayfly_runtime::client::unix_channel;
use mayfly_svid::{Bundle, X509Authority, X509Svid};
use mayfly_tests::attest;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use crate::load::{closed_loop, histogram, quantile_ms, record};
use crate::pin;
use crate::process::Process;
use crate::target::{client_tls, connect};

/// Handshakes that are under way at a time.
const AT_A_TIME: usize = 64;

/// The peer process. Ends when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    dir: PathBuf,
    bare: u16,
    over_tls: u16,
    tls: Arc<ClientConfig>,
}

/// What handshakes cost.
#[derive(Debug, Clone, Copy)]
pub struct Handshakes {
    /// Per second, with one processor on each side.
    pub per_second: f64,
    /// Server CPU of one, µs.
    pub server_us: f64,
    /// Client CPU of one, µs.
    pub client_us: f64,
}

impl Peer {
    /// Starts one with its files in `dir`.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start(dir: &Path) -> Result<Self> {
        let tls = identity(dir)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("calibration-peer").arg(dir).stdin(Stdio::null());
        let child = pin::as_system(|| command.spawn())?.context("cannot start the peer")?;
        let mut peer = Self {
            child,
            dir: dir.into(),
            bare: 0,
            over_tls: 0,
            tls,
        };
        let ports = mayfly_tests::eventually("the peer of the calibration", Duration::from_secs(30), async || {
            fs::read_to_string(dir.join("ports")).ok()
        })
        .await;
        let (bare, over_tls) = ports.split_once(' ').context("two ports")?;
        (peer.bare, peer.over_tls) = (bare.parse()?, over_tls.parse()?);
        Ok(peer)
    }

    /// Its process.
    pub fn process(&self) -> Process {
        Process::new(self.child.id())
    }

    /// gRPC over its Unix socket.
    pub fn unix_rpc(&self) -> Channel {
        unix_channel(&self.dir.join("rpc.sock"))
    }

    /// gRPC over mutual TLS.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn tls_rpc(&self) -> Result<Channel> {
        connect(&format!("127.0.0.1:{}", self.over_tls), &self.tls, &Arc::default()).await
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Gone already if it failed; it has said why.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority and one SVID for both sides, as our server makes them: the leaf right below the root.
fn identity(dir: &Path) -> Result<Arc<ClientConfig>> {
    let uri = |text: &str| Ok::<_, rcgen::Error>(SanType::URI(text.try_into()?));
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.distinguished_name.push(DnType::CommonName, "calibration");
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    root.subject_alt_names = vec![uri("spiffe://example.org")?];
    let root_der = root.self_signed(&root_key)?.der().to_vec();
    let issuer = Issuer::new(root, root_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::default();
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.subject_alt_names = vec![uri("spiffe://example.org/spire/server")?];
    let leaf_der = leaf.signed_by(&key, &issuer)?.der().to_vec();

    fs::write(dir.join("root.der"), &root_der)?;
    fs::write(dir.join("chain.der"), &leaf_der)?;
    fs::write(dir.join("key.der"), key.serialize_der())?;
    let svid = X509Svid::from_concatenated_der(&leaf_der)?;
    let mut bundle = Bundle::empty(svid.spiffe_id().trust_domain());
    bundle.x509_authorities = vec![X509Authority {
        cert_der: root_der.into(),
        tainted: false,
    }];
    client_tls(&bundle, Some((&svid, &key.serialize_der())))
}

/// `count` mutual handshakes, many at a time, each over a new connection.
///
/// # Errors
/// One of them fails.
pub async fn handshakes(peer: &Peer, count: usize) -> Result<Handshakes> {
    let own = Process::new(std::process::id());
    let mut cpu = (peer.process().cpu()?, own.cpu()?);
    let mut running = JoinSet::new();
    let begun = Instant::now();
    for _ in 0..count {
        if running.len() == AT_A_TIME {
            running.join_next().await.context("there is one")???;
        }
        let (connector, port) = (TlsConnector::from(Arc::clone(&peer.tls)), peer.bare);
        running.spawn_local(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            let mut stream = connector.connect(ServerName::try_from("127.0.0.1")?, stream).await?;
            stream.read_u8().await?;
            anyhow::Ok(())
        });
    }
    while let Some(ended) = running.join_next().await {
        ended??;
    }
    let time = begun.elapsed();
    cpu = (peer.process().cpu()? - cpu.0, own.cpu()? - cpu.1);
    #[allow(clippy::cast_precision_loss, reason = "a count")]
    let count = count as f64;
    Ok(Handshakes {
        per_second: count / time.as_secs_f64(),
        server_us: cpu.0.as_secs_f64() * 1e6 / count,
        client_us: cpu.1.as_secs_f64() * 1e6 / count,
    })
}

/// An octet there and back, median, µs.
pub(super) fn raw(peer: &Peer, time: Duration) -> Result<f64> {
    let mut stream = std::os::unix::net::UnixStream::connect(peer.dir.join("raw.sock"))?;
    let mut samples = histogram();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let start = Instant::now();
        stream.write_all(&[7])?;
        stream.read_exact(&mut [0])?;
        record(&mut samples, start.elapsed());
    }
    Ok(quantile_ms(&samples, 0.5) * 1e3)
}

/// A call there and back, one at a time, median, µs.
pub(super) async fn rpc(channel: Channel, time: Duration) -> Result<f64> {
    let mut client = SvidClient::new(channel);
    client.batch_new_x509svid(BatchNewX509svidRequest::default()).await?;
    let mut samples = histogram();
    let begun = Instant::now();
    while begun.elapsed() < time {
        let start = Instant::now();
        client.batch_new_x509svid(BatchNewX509svidRequest::default()).await?;
        record(&mut samples, start.elapsed());
    }
    Ok(quantile_ms(&samples, 0.5) * 1e3)
}

/// Server CPU of a call that carries a CSR up and a certificate down, µs.
pub(super) async fn rpc_cpu(peer: &Peer, channel: Channel, time: Duration) -> Result<f64> {
    let request = BatchNewX509svidRequest {
        params: vec![NewX509svidParams {
            entry_id: "0123456789abcdef0123456789abcdef".into(),
            csr: attest::csr().0,
        }],
    };
    let load = closed_loop(peer.process(), 16, time, |_| {
        let (mut client, request) = (SvidClient::new(channel.clone()), request.clone());
        async move {
            let answer = client.batch_new_x509svid(request).await?.into_inner();
            ensure!(answer.results.len() == 1, "one answer to one request");
            Ok(())
        }
    })
    .await?;
    Ok(load.cpu_micros(1))
}
