//! One attempt: a TLS handshake, and a look whether the consumer stays.
//!
//! In TLS 1.3 a client has finished before the server looks at its certificate, so a handshake that went well says nothing.
//! What counts is whether the consumer ends the connection in the next moment.

use std::io::{self, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_verify::{Authorize, BundleSet, SpiffeServerVerifier};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

use crate::errors::CliError;
use crate::workload::Identity;

/// How long a consumer is looked at that has not refused yet.
const LOOK: Duration = Duration::from_millis(700);
/// For the connection and each step of the handshake.
const STEP: Duration = Duration::from_secs(5);
/// Sessions to come back to: one is enough.
const SESSIONS: usize = 4;

/// Tries one credential on one consumer. Sessions of earlier attempts are offered again, as a client would.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    target: String,
    config: Arc<ClientConfig>,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The consumer ended the connection: its words.
    Refused(String),
    /// It did not.
    Accepted(Box<Open>),
}

/// A connection that the consumer keeps.
#[derive(Debug)]
pub(super) struct Open {
    tls: ClientConnection,
    tcp: TcpStream,
    /// Whether it came from an earlier session.
    pub(super) is_resumed: bool,
}

impl Outcome {
    pub(super) const REFUSED: &'static str = "refused";
    pub(super) const ACCEPTED: &'static str = "accepted";

    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Refused(_) => Self::REFUSED,
            Self::Accepted(_) => Self::ACCEPTED,
        }
    }

    pub(super) fn detail(&self) -> String {
        match self {
            Self::Refused(why) => why.clone(),
            Self::Accepted(open) if open.is_resumed => "an earlier session was taken up again".into(),
            Self::Accepted(_) => String::new(),
        }
    }
}

impl Dialer {
    /// Without a certificate; `identity` says whose servers are trusted.
    pub(super) fn anonymous(target: &str, identity: &Identity) -> Self {
        let config = builder(identity).with_no_client_auth();
        Self::with(target, config)
    }

    /// With a credential, copied out of `identity`.
    ///
    /// # Errors
    /// The key does not fit TLS.
    pub(super) fn of(target: &str, identity: &Identity) -> Result<Self, CliError> {
        let chain = identity.svid.chain().to_vec();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.to_vec()));
        let config = builder(identity).with_client_auth_cert(chain, key);
        let config = config.map_err(|error| CliError::BadAnswer {
            who: "the agent",
            what: format!("a key that TLS cannot use: {error}"),
        })?;
        Ok(Self::with(target, config))
    }

    fn with(target: &str, mut config: ClientConfig) -> Self {
        config.resumption = Resumption::in_memory_sessions(SESSIONS);
        Self {
            target: target.to_owned(),
            config: Arc::new(config),
        }
    }

    /// Tries.
    ///
    /// # Errors
    /// Nobody listens there, or whoever does is none of the trust domain's: nothing was learned about the consumer.
    pub(super) async fn dial(&self) -> Result<Outcome, CliError> {
        let this = self.clone();
        blocking(move || this.dial_now()).await?
    }

    /// Tries until it is refused, or for as long as `within`.
    ///
    /// # Errors
    /// As for [`dial`](Self::dial).
    pub(super) async fn dial_until_refused(&self, within: Duration) -> Result<(Outcome, Duration), CliError> {
        let begun = Instant::now();
        loop {
            let tried_at = begun.elapsed();
            let outcome = self.dial().await?;
            if matches!(outcome, Outcome::Refused(_)) || tried_at >= within {
                return Ok((outcome, tried_at));
            }
        }
    }

    fn dial_now(&self) -> Result<Outcome, CliError> {
        let unreached = |error: io::Error| CliError::Connect {
            who: "the consumer",
            endpoint: self.target.clone(),
            why: error.to_string(),
            hints: vec!["--connect is where it listens, as host:port".into()],
        };
        let mut addresses = self.target.to_socket_addrs().map_err(unreached)?;
        let address = addresses
            .next()
            .ok_or_else(|| unreached(io::ErrorKind::NotFound.into()))?;
        let mut tcp = TcpStream::connect_timeout(&address, STEP).map_err(unreached)?;
        tcp.set_read_timeout(Some(STEP)).map_err(unreached)?;
        tcp.set_write_timeout(Some(STEP)).map_err(unreached)?;
        // Servers are known by their SPIFFE IDs; sessions are kept under this name.
        let name = ServerName::try_from("consumer.invalid").expect("a name");
        let mut tls = ClientConnection::new(self.config.clone(), name).expect("the configuration is whole");
        while tls.is_handshaking() {
            if let Err(error) = tls.complete_io(&mut tcp) {
                return match own_fault(&error) {
                    Some(what) => Err(CliError::Failed {
                        what: format!("{} is not who is to be tried: {what}", self.target),
                        hints: vec!["nothing was learned about the consumer".into()],
                    }),
                    None => Ok(Outcome::Refused(words(&error))),
                };
            }
        }
        let is_resumed = tls.handshake_kind() == Some(HandshakeKind::Resumed);
        let mut open = Open { tls, tcp, is_resumed };
        Ok(match open.ended_within(LOOK) {
            Some(why) => Outcome::Refused(why),
            None => Outcome::Accepted(Box::new(open)),
        })
    }
}

impl Open {
    /// Waits until the consumer ends the connection, for as long as `within`; says after how long it did.
    pub(super) async fn cut_within(mut self, within: Duration) -> Result<Option<(Duration, String)>, CliError> {
        blocking(move || {
            let begun = Instant::now();
            let ended = self.ended_within(within);
            ended.map(|why| (begun.elapsed(), why))
        })
        .await
    }

    /// How it was ended, if it was. What the consumer says meanwhile is not of interest.
    fn ended_within(&mut self, within: Duration) -> Option<String> {
        let until = Instant::now() + within;
        let mut nothing = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // A timeout of zero would be none.
            self.tcp
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .ok()?;
            match rustls::Stream::new(&mut self.tls, &mut self.tcp).read(&mut nothing) {
                Ok(0) => return Some("it closed the connection".into()),
                Ok(_) if left.is_zero() => return None,
                Ok(_) => {}
                Err(error) if is_timeout(&error) => return None,
                Err(error) => return Some(words(&error)),
            }
        }
    }
}

fn builder(identity: &Identity) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let bundles = BundleSet::new();
    bundles.publish(std::iter::once(&identity.bundle).chain(&identity.federated));
    let servers = SpiffeServerVerifier::new(Arc::new(bundles), Authorize::matching(|_| true));
    ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for them")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(servers))
}

/// Why we, and not the consumer, gave up.
fn own_fault(error: &io::Error) -> Option<String> {
    let cause = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match cause {
        rustls::Error::AlertReceived(_) => None,
        other => Some(other.to_string()),
    }
}

fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "it closed the connection".into(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "it reset the connection".into(),
        _ => error.to_string(),
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| CliError::Failed {
        what: "the attempt was cut off".into(),
        hints: vec![],
    })
}
