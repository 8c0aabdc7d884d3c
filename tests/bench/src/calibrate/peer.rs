//! The other side of a calibration: a process that answers and does nothing else.
//!
//! It has the messages, the TLS and the gRPC library of a server, without attestation, decision, record or signature.
//! So it costs what no server that speaks this interface can save.

use std::fs;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use anyhow::{Context, Result};
use mayfly_proto::spire::server::svid as wire;
use mayfly_proto::spire::server::svid::svid_server::{Svid, SvidServer};
use mayfly_proto::spire::types;
use mayfly_svid::{Bundle, TrustDomain, X509Authority, X509Svid};
use mayfly_verify::{Authorize, BundleSet, ClientAuth, SpiffeClientVerifier, SvidResolver, server_config};
use rustls::ServerConfig;
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::Server;
use tonic::transport::server::Connected;
use tonic::{Request, Response, Status};

/// Reads the identity that is in `dir`, answers on sockets in `dir`, writes its TCP ports there; until it is ended.
///
/// # Errors
/// It cannot listen.
pub async fn serve(dir: &Path) -> Result<()> {
    let chain = fs::read(dir.join("chain.der"))?;
    let canned = Canned(chain.clone());
    let tls = Arc::new(tls(dir, &chain)?);

    let raw = UnixListener::bind(dir.join("raw.sock"))?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = raw.accept().await {
            tokio::spawn(async move {
                let mut octet = [0; 1];
                while stream.read_exact(&mut octet).await.is_ok() && stream.write_all(&octet).await.is_ok() {}
            });
        }
    });

    let bare = TcpListener::bind("127.0.0.1:0").await?;
    let over_tls = TcpListener::bind("127.0.0.1:0").await?;
    let ports = format!("{} {}", bare.local_addr()?.port(), over_tls.local_addr()?.port());
    let acceptor = TlsAcceptor::from(Arc::clone(&tls));
    tokio::spawn(async move {
        while let Ok((stream, _)) = bare.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // Its answer tells the client that the handshake has succeeded on this side too.
                let mut stream = acceptor.accept(stream).await?;
                stream.write_all(b"!").await?;
                stream.flush().await?;
                stream.read_u8().await
            });
        }
    });

    let (accepted, connections) = mpsc::channel(16);
    let acceptor = TlsAcceptor::from(tls);
    tokio::spawn(async move {
        while let Ok((stream, _)) = over_tls.accept().await {
            let _ = stream.set_nodelay(true);
            if let Ok(stream) = acceptor.accept(stream).await {
                let _ = accepted.send(Ok::<_, io::Error>(Connection(stream))).await;
            }
        }
    });

    let unix = UnixListenerStream::new(UnixListener::bind(dir.join("rpc.sock"))?);
    let service = SvidServer::new(canned);
    fs::write(dir.join("ports.new"), ports)?;
    fs::rename(dir.join("ports.new"), dir.join("ports"))?;
    tokio::try_join!(
        Server::builder().add_service(service.clone()).serve_with_incoming(unix),
        Server::builder()
            .add_service(service)
            .serve_with_incoming(ReceiverStream::new(connections)),
    )?;
    Ok(())
}

fn tls(dir: &Path, chain: &[u8]) -> Result<ServerConfig> {
    let svid = X509Svid::from_concatenated_der(chain)?;
    let key = fs::read(dir.join("key.der"))?;
    let resolver = SvidResolver::new();
    resolver.publish(&svid, &PrivatePkcs8KeyDer::from(key.as_slice()))?;
    let trust_domain: TrustDomain = svid.spiffe_id().trust_domain();
    let mut bundle = Bundle::empty(trust_domain);
    bundle.x509_authorities = vec![X509Authority {
        cert_der: fs::read(dir.join("root.der")).context("no root")?.into(),
        tainted: false,
    }];
    let bundles = BundleSet::new();
    bundles.publish([&bundle]);
    let clients = SpiffeClientVerifier::new(
        Arc::new(bundles),
        Authorize::MemberOf(svid.spiffe_id().trust_domain()),
        ClientAuth::Required,
    );
    Ok(server_config(
        Arc::new(resolver),
        Arc::new(clients),
        Arc::new(DefaultTimeProvider),
    ))
}

/// Gives everybody the same certificate.
#[derive(Clone)]
struct Canned(Vec<u8>);

#[tonic::async_trait]
impl Svid for Canned {
    async fn batch_new_x509svid(
        &self,
        request: Request<wire::BatchNewX509svidRequest>,
    ) -> Result<Response<wire::BatchNewX509svidResponse>, Status> {
        let params = request.into_inner().params;
        let results = params.iter().map(|_| wire::batch_new_x509svid_response::Result {
            status: Some(types::Status::default()),
            svid: Some(types::X509svid {
                cert_chain: vec![self.0.clone()],
                id: Some(types::Spiffeid {
                    trust_domain: "example.org".into(),
                    path: "/calibration".into(),
                }),
                expires_at: 1,
                hint: String::new(),
            }),
        });
        Ok(Response::new(wire::BatchNewX509svidResponse {
            results: results.collect(),
        }))
    }

    async fn mint_x509svid(
        &self,
        _: Request<wire::MintX509svidRequest>,
    ) -> Result<Response<wire::MintX509svidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn mint_jwtsvid(
        &self,
        _: Request<wire::MintJwtsvidRequest>,
    ) -> Result<Response<wire::MintJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn mint_witsvid(
        &self,
        _: Request<wire::MintWitsvidRequest>,
    ) -> Result<Response<wire::MintWitsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn new_jwtsvid(
        &self,
        _: Request<wire::NewJwtsvidRequest>,
    ) -> Result<Response<wire::NewJwtsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<wire::BatchNewWitsvidRequest>,
    ) -> Result<Response<wire::BatchNewWitsvidResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<wire::NewDownstreamX509caRequest>,
    ) -> Result<Response<wire::NewDownstreamX509caResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// A TLS connection as tonic takes it.
struct Connection(TlsStream<TcpStream>);

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
