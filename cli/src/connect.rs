//! How the server is found and reached: its Unix socket on this machine, or mutual TLS with an admin SVID from elsewhere.
//!
//! The socket is `--server-socket`, else `MAYFLY_SERVER_SOCKET`, else `.mayfly/server.sock` if `mayfly dev` made one in
//! this folder, else `/run/mayfly/server.sock`. With `--server` the SVID comes from the Workload API.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use mayfly_proto::grpc::health::health_client::HealthClient;
use mayfly_proto::mayfly::audit::audit_client::AuditClient;
use mayfly_proto::mayfly::task::debt_client::DebtClient;
use mayfly_proto::mayfly::task::definitions_client::DefinitionsClient;
use mayfly_proto::mayfly::task::exceptions_client::ExceptionsClient;
use mayfly_proto::mayfly::task::policy_client::PolicyClient;
use mayfly_proto::mayfly::task::proposals_client::ProposalsClient;
use mayfly_proto::mayfly::task::tasks_client::TasksClient;
use mayfly_proto::spire::server::agent::agent_client::AgentClient;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_proto::spire::server::debug::debug_client::DebugClient;
use mayfly_proto::spire::server::entry::entry_client::EntryClient;
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_runtime::client::{ChannelSettings, HostPort, tls_channel, unix_channel};
use mayfly_runtime::env;
use mayfly_verify::{Authorize, BundleSet, SpiffeServerVerifier, SvidResolver, client_config};
use rustls::time_provider::DefaultTimeProvider;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;
use tonic::{Request, Status};

use crate::errors::{CliError, me};
use crate::workload::Workload;
use crate::{Globals, values};

/// Environment variable with the path of the server's socket.
pub(crate) const SERVER_SOCKET_ENV: &str = "MAYFLY_SERVER_SOCKET";
/// Where `mayfly dev` keeps its state, unless told otherwise.
pub(crate) const DEV_DIR: &str = ".mayfly";
const SERVER_SOCKET: &str = "/run/mayfly/server.sock";
/// Metadata with what the operator says about why.
const REASON: &str = "mayfly-reason";
/// The longest reason, in bytes as sent.
const REASON_MAX: usize = 1024;
/// Answers are pages of at most some hundred items; a bundle of many authorities is larger than tonic's default.
const ANSWER_MAX: usize = 16 << 20;

/// Why the operator does this.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct ReasonArg {
    /// Why; kept with the server's record of the change
    #[arg(long, value_name = "TEXT", value_parser = reason, help_heading = "Common options")]
    reason: Option<AsciiMetadataValue>,
}

/// Why the operator does this, where nobody may do it without saying so.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SaidReason {
    /// Why; kept with the record, for all whom it concerns
    #[arg(long, value_name = "TEXT", required = true, value_parser = said, help_heading = "Common options")]
    reason: Said,
}

/// A reason as it was typed and as metadata carries it.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    text: String,
    encoded: AsciiMetadataValue,
}

/// A server that answered a first connection.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    channel: Channel,
    endpoint: String,
    timeout: Duration,
    reason: Option<AsciiMetadataValue>,
}

/// Which socket is the server's, in the order of this module's header.
pub(crate) fn server_socket(globals: &Globals) -> PathBuf {
    let chosen = globals.server_socket.clone().or_else(|| env::path(SERVER_SOCKET_ENV));
    chosen.unwrap_or_else(|| {
        let dev = Path::new(DEV_DIR).join("server.sock");
        if dev.exists() {
            dev
        } else {
            PathBuf::from(SERVER_SOCKET)
        }
    })
}

/// Whether somebody listens on the Unix socket `path`.
///
/// # Errors
/// What the kernel says, in words, with what to do; `start` says how to start who should listen.
pub(crate) async fn probe(who: &'static str, path: &Path, start: &str) -> Result<(), CliError> {
    let fail = |why: String, hints: Vec<String>| CliError::Connect {
        who,
        endpoint: path.display().to_string(),
        why,
        hints,
    };
    match tokio::fs::metadata(path).await {
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(fail(
                "this is not a socket".into(),
                vec!["name the socket, not a folder or a file".into()],
            ));
        }
        // What stat may not see, connect explains as well.
        Ok(_) | Err(_) => {}
    }
    let Err(error) = tokio::net::UnixStream::connect(path).await else {
        return Ok(());
    };
    Err(match error.kind() {
        io::ErrorKind::NotFound => fail(
            "no such socket; it is not running, or listens elsewhere".into(),
            vec![start.into(), dev_hint()],
        ),
        io::ErrorKind::ConnectionRefused => fail(
            "nobody listens; it was stopped and left its socket behind".into(),
            vec![start.into(), dev_hint()],
        ),
        io::ErrorKind::PermissionDenied => fail(
            format!("{} may not open it", me()),
            vec![
                format!("look at owner and mode: ls -l {}", path.display()),
                "run this as root or as its owner".into(),
            ],
        ),
        io::ErrorKind::InvalidInput => fail(
            "the path is too long for a socket (107 bytes at most)".into(),
            vec!["change into its folder and give a relative path".into()],
        ),
        _ => fail(error.to_string(), vec![start.into()]),
    })
}

fn dev_hint() -> String {
    if Path::new(DEV_DIR).is_dir() {
        format!("or start `mayfly dev` again: its state is in {DEV_DIR}")
    } else {
        "or try things with `mayfly dev`, which starts both here".to_owned()
    }
}

// === impl Server ===

impl Server {
    /// The server that the options point to.
    ///
    /// # Errors
    /// Nobody listens there, or the identity for a remote one cannot be had.
    pub(crate) async fn connect(globals: &Globals) -> Result<Self, CliError> {
        match &globals.server {
            Some(address) => Self::connect_remote(globals, address).await,
            None => Self::connect_local(&server_socket(globals), globals.timeout).await,
        }
    }

    /// The server behind a Unix socket.
    ///
    /// # Errors
    /// Nobody listens there.
    pub(crate) async fn connect_local(socket: &Path, timeout: Duration) -> Result<Self, CliError> {
        let start = "start it with `mayfly-server run`, or name its socket with --server-socket";
        probe("the server", socket, start).await?;
        Ok(Self {
            channel: unix_channel(socket),
            endpoint: socket.display().to_string(),
            timeout,
            reason: None,
        })
    }

    async fn connect_remote(globals: &Globals, address: &HostPort) -> Result<Self, CliError> {
        let workload =
            Workload::connect(globals.identity_socket.as_deref().or(globals.agent_socket.as_deref())).await?;
        let identities = workload.fetch(globals.timeout).await?;
        let own = identities.first().ok_or(CliError::BadAnswer {
            who: "the agent",
            what: "an answer without an SVID".into(),
        })?;
        let trust_domain = own.svid.spiffe_id().trust_domain();
        let resolver = SvidResolver::new();
        resolver
            .publish(&own.svid, &PrivatePkcs8KeyDer::from(own.key.as_slice()))
            .map_err(|error| CliError::BadAnswer {
                who: "the agent",
                what: format!("an SVID that cannot be used: {error}"),
            })?;
        let bundles = BundleSet::new();
        bundles.publish([&own.bundle]);
        let verifier = SpiffeServerVerifier::new(Arc::new(bundles), Authorize::Id(trust_domain.server_id()));
        let config = client_config(
            Some(Arc::new(resolver)),
            Arc::new(verifier),
            Arc::new(DefaultTimeProvider),
        );
        let settings = ChannelSettings {
            connect_timeout: globals.timeout,
            ..ChannelSettings::default()
        };
        Ok(Self {
            channel: tls_channel(address, Arc::new(config), &settings),
            endpoint: format!("{address}, asked as {}", own.svid.spiffe_id()),
            timeout: globals.timeout,
            reason: None,
        })
    }

    /// Says why, with each call from now on.
    #[must_use]
    pub(crate) fn because(mut self, reason: &ReasonArg) -> Self {
        self.reason.clone_from(&reason.reason);
        self
    }

    /// Says why, as somebody had to.
    #[must_use]
    pub(crate) fn said(mut self, reason: &SaidReason) -> Self {
        self.reason = Some(reason.reason.encoded.clone());
        self
    }

    /// Path or address.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// A request with deadline and reason.
    pub(crate) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        if let Some(reason) = &self.reason {
            request.metadata_mut().insert(REASON, reason.clone());
        }
        request
    }

    /// A request without a deadline, for answers that come for as long as they like.
    pub(crate) fn stream_request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(reason) = &self.reason {
            request.metadata_mut().insert(REASON, reason.clone());
        }
        request
    }

    /// The error of a call that was to `doing`.
    pub(crate) fn failed(&self, doing: impl Into<String>, status: Status) -> CliError {
        CliError::Call {
            doing: doing.into(),
            endpoint: self.endpoint.clone(),
            status: Box::new(status),
            hints: vec![],
        }
    }

    /// `spire.api.server.entry.v1.Entry`.
    pub(crate) fn entries(&self) -> EntryClient<Channel> {
        EntryClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `spire.api.server.agent.v1.Agent`.
    pub(crate) fn agents(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `spire.api.server.bundle.v1.Bundle`.
    pub(crate) fn bundles(&self) -> BundleClient<Channel> {
        BundleClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `spire.api.server.svid.v1.SVID`.
    pub(crate) fn svids(&self) -> SvidClient<Channel> {
        SvidClient::new(self.channel.clone())
    }

    /// `spire.api.server.debug.v1.Debug`.
    pub(crate) fn debug(&self) -> DebugClient<Channel> {
        DebugClient::new(self.channel.clone())
    }

    /// `mayfly.task.v1.Definitions`.
    pub(crate) fn definitions(&self) -> DefinitionsClient<Channel> {
        DefinitionsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `mayfly.task.v1.Policy`.
    pub(crate) fn policy(&self) -> PolicyClient<Channel> {
        PolicyClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `mayfly.task.v1.Proposals`.
    pub(crate) fn proposals(&self) -> ProposalsClient<Channel> {
        ProposalsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `mayfly.task.v1.Exceptions`.
    pub(crate) fn exceptions(&self) -> ExceptionsClient<Channel> {
        ExceptionsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `mayfly.task.v1.Debt`.
    pub(crate) fn debt(&self) -> DebtClient<Channel> {
        DebtClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `mayfly.task.v1.Tasks`.
    pub(crate) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `mayfly.audit.v1.Audit`.
    pub(crate) fn audit(&self) -> AuditClient<Channel> {
        AuditClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX)
    }

    /// `grpc.health.v1.Health`.
    pub(crate) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }
}

/// Everything that a listing call has, page by page: `call` takes the token of a page and gives its items and the token of
/// the next one.
///
/// # Errors
/// That of the call; or the pages do not end.
pub(crate) async fn all_pages<T>(
    mut call: impl AsyncFnMut(String) -> Result<(Vec<T>, String), CliError>,
) -> Result<Vec<T>, CliError> {
    let mut all = Vec::new();
    let mut token = String::new();
    loop {
        let (items, next) = call(token.clone()).await?;
        // A page that is empty or leads to itself could be asked for for ever.
        if next == token && !next.is_empty() || items.is_empty() && !next.is_empty() {
            return Err(CliError::BadAnswer {
                who: "the server",
                what: "a list that does not end".into(),
            });
        }
        all.extend(items);
        if next.is_empty() {
            return Ok(all);
        }
        token = next;
    }
}

/// A reason as metadata carries it: what is not printable ASCII, and `%`, is percent-encoded, as in gRPC's own messages.
fn reason(text: &str) -> Result<AsciiMetadataValue, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("say something, or leave the option out".into());
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => encoded.push_str("%25"),
            0x20..=0x7e => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    if encoded.len() > REASON_MAX {
        return Err(format!(
            "this has {} bytes as sent, at most {REASON_MAX} are allowed",
            encoded.len()
        ));
    }
    encoded.parse().map_err(|_| "this cannot be sent".into())
}

fn said(text: &str) -> Result<Said, String> {
    let encoded = reason(text)?;
    Ok(Said {
        text: text.trim().to_owned(),
        encoded,
    })
}

// === impl SaidReason ===

impl SaidReason {
    /// As typed, without space around it.
    pub(crate) fn text(&self) -> &str {
        &self.reason.text
    }
}

/// Parses `--server`.
pub(crate) fn host_port(text: &str) -> Result<HostPort, String> {
    text.parse()
        .map_err(|error| format!("{error}; write it as ca.example.org:8081"))
}

/// Parses `--timeout`.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    match values::duration(text)? {
        Duration::ZERO => Err("it has to be 1 s or longer".into()),
        timeout => Ok(timeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_travels_as_printable_ascii() {
        assert_eq!(
            reason("INC-7: Schlüssel 100%").unwrap().to_str().unwrap(),
            "INC-7: Schl%C3%BCssel 100%25"
        );
        assert_eq!(reason("a\nb").unwrap().to_str().unwrap(), "a%0Ab");
        assert!(reason("  ").is_err());
        assert!(reason(&"x".repeat(1025)).is_err());
    }

    #[tokio::test]
    async fn a_list_that_does_not_end_is_left() {
        for (items, next) in [(vec![1], "same"), (vec![], "more")] {
            let error = all_pages(async |_| Ok((items.clone(), next.to_owned())))
                .await
                .unwrap_err();
            assert!(error.to_string().contains("does not end"), "{error}");
        }
    }

    #[tokio::test]
    async fn each_way_of_not_being_there_has_its_own_sentence() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.sock");
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let dead = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let long = dir.path().join("x".repeat(120));
        for (path, why) in [
            (&missing, "no such socket"),
            (&file, "not a socket"),
            (&dead, "left its socket behind"),
            (&long, "too long for a socket"),
        ] {
            let error = probe("the server", path, "start it").await.unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(!error.hints().is_empty());
            assert_eq!(error.exit(), crate::errors::Exit::Unreachable);
        }
    }
}
