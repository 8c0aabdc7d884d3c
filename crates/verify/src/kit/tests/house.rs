//! A service under the kit, its agent, and visitors.

use std::sync::Arc;
use std::time::Duration;

use mayfly_svid::Serial;
use rustls::client::ResolvesClientCert;
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::agent::FakeAgent;
use super::certs::{Issued, Leaf, TestCa};
use super::time::TestTime;
use crate::client_config;
use crate::dangerous::InsecureServerVerifier;
use crate::kit::{Acceptor, ConnectError, Connection, Ended, Matcher, Settings, Source, SourceError};

pub(super) const JOB: &str = "spiffe://td/task/pay/db-migrate/ns/pay/job";

pub(super) struct House {
    pub(super) ca: TestCa,
    pub(super) agent: FakeAgent,
    pub(super) source: Source,
    pub(super) acceptor: Acceptor,
    pub(super) time: Arc<TestTime>,
    pub(super) own: Issued,
    pub(super) listener: TcpListener,
    _folder: tempfile::TempDir,
}

/// A connection, both ends.
pub(super) struct Visit {
    pub(super) server: Connection,
    pub(super) client: TlsStream<TcpStream>,
}

/// Long enough for a loaded machine.
pub(super) async fn soon<F: Future>(what: &str, future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen in time"))
}

pub(super) fn wire(serial: &Serial) -> Vec<Vec<u8>> {
    vec![serial.as_be_bytes().to_vec()]
}

impl House {
    /// Strict, for `pay/db-migrate`.
    pub(super) async fn open() -> Self {
        Self::open_with(|_| {}, |_| {}).await.unwrap()
    }

    pub(super) async fn open_with(
        set: impl FnOnce(&mut Settings),
        prepare: impl FnOnce(&FakeAgent),
    ) -> Result<Self, SourceError> {
        mayfly_runtime::install_crypto_provider();
        let folder = tempfile::tempdir().unwrap();
        let ca = TestCa::new("td");
        let own = ca.issue(&Leaf::base("spiffe://td/ns/pay/db").expires_in(3000));
        let agent = FakeAgent::start(folder.path(), &own, &ca);
        prepare(&agent);
        let mut settings = Settings::new(&agent.socket, "pay/db");
        set(&mut settings);
        let time = Arc::new(TestTime::running());
        let source = Source::connect_at(settings, time.clone()).await?;
        Ok(Self {
            acceptor: source.acceptor(Matcher::task("pay/db-migrate").unwrap()),
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            ca,
            agent,
            source,
            time,
            own,
            _folder: folder,
        })
    }

    /// A visitor that wants to come in, and would trust any server.
    pub(super) async fn visit(&self, who: &Issued) -> Result<Visit, ConnectError> {
        self.visit_by(&self.acceptor, who).await
    }

    pub(super) async fn visit_by(&self, acceptor: &Acceptor, who: &Issued) -> Result<Visit, ConnectError> {
        let address = self.listener.local_addr().unwrap();
        let client = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            connector(who.shown())
                .connect("td.invalid".try_into().unwrap(), tcp)
                .await
        };
        let server = async {
            let (tcp, _) = self.listener.accept().await.unwrap();
            acceptor.accept(tcp).await
        };
        let (client, server) = soon("the handshake", async { tokio::join!(client, server) }).await;
        Ok(Visit {
            server: server?,
            client: client.unwrap(),
        })
    }

    /// A visitor with a task SVID that is good for everything.
    pub(super) async fn visit_of_job(&self) -> (Issued, Visit) {
        let job = self.ca.issue(&Leaf::task(JOB));
        let visit = self.visit(&job).await.unwrap();
        (job, visit)
    }

    pub(super) async fn refusal(&self, who: &Issued) -> String {
        match self.visit(who).await {
            Ok(_) => panic!("{} was let in", who.id),
            Err(error) => format!("{error:?}"),
        }
    }

    pub(super) fn ended(&self, reason: Ended) -> u64 {
        let status = self.source.status();
        status.ended.iter().find(|(of, _)| *of == reason).unwrap().1
    }
}

pub(super) fn connector(shown: Arc<dyn ResolvesClientCert>) -> TlsConnector {
    let verifier = Arc::new(InsecureServerVerifier::new());
    let mut config = client_config(Some(shown), verifier, Arc::new(DefaultTimeProvider));
    config.alpn_protocols.clear();
    TlsConnector::from(Arc::new(config))
}

impl Visit {
    /// Both ends can talk.
    pub(super) async fn talk(&mut self) {
        let mut byte = [0];
        self.client.write_all(b"?").await.unwrap();
        self.server.read_exact(&mut byte).await.unwrap();
        self.server.write_all(b"!").await.unwrap();
        self.server.flush().await.unwrap();
        self.client.read_exact(&mut byte).await.unwrap();
        assert_eq!(&byte, b"!");
    }

    /// Waits until the client has nobody to talk to any more, without the server's program doing anything.
    pub(super) async fn client_is_cut(&mut self) {
        let mut byte = [0];
        let read = soon("the end of the connection", self.client.read(&mut byte)).await;
        assert!(!matches!(read, Ok(1..)), "the server said {byte:?}");
    }

    /// What the server's program is told when it goes on.
    pub(super) async fn server_is_told(&mut self) -> Ended {
        let mut byte = [0];
        let error = soon("an error", self.server.read(&mut byte)).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        let ended = *error.get_ref().unwrap().downcast_ref::<Ended>().unwrap();
        let error = self.server.write(b"x").await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted);
        assert!(self.server.peer().is_over());
        ended
    }
}
