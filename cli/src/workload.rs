//! The Workload API as a client: where its socket is, and the X.509-SVIDs that it gives to this process.
//!
//! The address is `--agent-socket` (a path or a URI), else `SPIFFE_ENDPOINT_SOCKET` (a URI, SPIFFE Workload Endpoint §4),
//! else `.mayfly/agent.sock` if it is there, else `/run/mayfly/agent.sock`.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_proto::grpc::health::health_client::HealthClient;
use mayfly_proto::mayfly::workload::tasks_client::TasksClient;
use mayfly_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mayfly_proto::spiffe::workload::{X509svidRequest, X509svidResponse};
use mayfly_runtime::client::unix_channel;
use mayfly_runtime::env;
use mayfly_svid::{Bundle, SpiffeId, TrustDomain, X509Svid};
use rcgen::PublicKeyData;
use rustls_pki_types::PrivatePkcs8KeyDer;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use zeroize::Zeroizing;

use crate::connect::{DEV_DIR, probe};
use crate::errors::{CliError, me};

/// Environment variable with the address (SPIFFE Workload Endpoint §4).
pub(crate) const ENDPOINT_ENV: &str = "SPIFFE_ENDPOINT_SOCKET";
const AGENT_SOCKET: &str = "/run/mayfly/agent.sock";
const ANSWER_MAX: usize = 16 << 20;

/// Where a Workload API listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// TCP, in the clear: for debugging and for gateways on loopback.
    Tcp(SocketAddr),
}

/// Text that is no address of a Workload API, and which rule of SPIFFE Workload Endpoint §4 it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not the address of a Workload API: {rule}")]
pub(crate) struct AddressError {
    text: String,
    rule: &'static str,
}

/// A Workload API that answered a first connection.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    address: Address,
    channel: Channel,
}

/// One X.509-SVID as it was handed out. Shape and key are checked; whether it verifies is for the reader to find out.
pub(crate) struct Identity {
    /// Who, until when, chain.
    pub(crate) svid: X509Svid,
    /// PKCS#8 DER. Secret.
    pub(crate) key: Zeroizing<Vec<u8>>,
    /// The X.509 authorities of its trust domain.
    pub(crate) bundle: Bundle,
    /// What it is for, in the operator's words.
    pub(crate) hint: String,
    /// Bundles of foreign trust domains.
    pub(crate) federated: Vec<Bundle>,
}

impl Address {
    /// The address in force: `explicit`, the environment, or the default.
    ///
    /// # Errors
    /// It is not one.
    pub(crate) fn resolve(explicit: Option<&str>) -> Result<Self, CliError> {
        if let Some(text) = explicit {
            let hint = "give the path of the socket, or unix:///<path>, or tcp://<ip>:<port>";
            return Self::parse_explicit(text).map_err(|error| CliError::input(error.to_string(), hint));
        }
        // An empty variable counts as unset (WEP-11).
        match env::var(ENDPOINT_ENV) {
            Ok(Some(text)) => text.parse().map_err(|error: AddressError| {
                CliError::input(
                    format!("{ENDPOINT_ENV}: {error}"),
                    "write it as unix:///run/mayfly/agent.sock, or override it with --agent-socket",
                )
            }),
            Ok(None) => {
                let dev = Path::new(DEV_DIR).join("agent.sock");
                Ok(Self::Unix(if dev.exists() { dev } else { PathBuf::from(AGENT_SOCKET) }))
            }
            Err(error) => Err(CliError::input(error.to_string(), "override it with --agent-socket")),
        }
    }

    fn parse_explicit(text: &str) -> Result<Self, AddressError> {
        if text.is_empty() {
            return Err(AddressError {
                text: String::new(),
                rule: "it is empty",
            });
        }
        // On the command line a path is a path; the rule that it be a URI is for the variable.
        let is_uri = text.starts_with("unix:") || text.contains("://");
        if is_uri {
            text.parse()
        } else {
            Ok(Self::Unix(PathBuf::from(text)))
        }
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    // WEP-12 to WEP-19
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let fail = |rule| AddressError {
            text: text.chars().take(120).collect(),
            rule,
        };
        let Some((scheme, rest)) = text.split_once(':') else {
            return Err(fail("it has no scheme; write unix:///path/of/the.sock"));
        };
        if rest.contains(['?', '#']) {
            return Err(fail("it has a query or a fragment"));
        }
        match scheme.to_ascii_lowercase().as_str() {
            "unix" => {
                let path = match rest.strip_prefix("//") {
                    Some(after) if after.starts_with('/') => after,
                    Some("") => return Err(fail("it has no path")),
                    Some(_) => return Err(fail("`unix` has no host: three slashes, then the path")),
                    None => rest,
                };
                if !path.starts_with('/') || path == "/" {
                    return Err(fail("the path of the socket has to be absolute"));
                }
                let path = percent_decoded(path).ok_or(fail("its percent-encoding is broken"))?;
                Ok(Self::Unix(PathBuf::from(path)))
            }
            "tcp" => {
                let host_port = rest.strip_prefix("//").ok_or(fail("write it as tcp://<ip>:<port>"))?;
                if host_port.contains('/') {
                    return Err(fail("`tcp` has no path"));
                }
                if host_port.contains('@') {
                    return Err(fail("it has user information"));
                }
                let address = host_port.parse::<SocketAddr>();
                address
                    .map(Self::Tcp)
                    .map_err(|_| fail("`tcp` needs an IP address and a port"))
            }
            _ => Err(fail("its scheme is neither `unix` nor `tcp`")),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => path.display().fmt(f),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

// === impl Workload ===

impl Workload {
    /// The Workload API that the option, the environment or the default points to.
    ///
    /// # Errors
    /// The address is none, or nobody listens there.
    pub(crate) async fn connect(explicit: Option<&str>) -> Result<Self, CliError> {
        let workload = Self::at(Address::resolve(explicit)?);
        workload.probe().await?;
        Ok(workload)
    }

    /// The Workload API at `address`; connects when first used, and again when the connection is lost.
    pub(crate) fn at(address: Address) -> Self {
        let channel = match &address {
            Address::Unix(path) => unix_channel(path),
            Address::Tcp(socket) => Endpoint::try_from(format!("http://{socket}"))
                .expect("an IP address and a port are a valid authority")
                .connect_lazy(),
        };
        Self { address, channel }
    }

    /// Whether somebody listens there.
    ///
    /// # Errors
    /// Nobody does.
    pub(crate) async fn probe(&self) -> Result<(), CliError> {
        let Address::Unix(path) = &self.address else {
            return Ok(()); // the first call tells
        };
        let start =
            "start it with `mayfly-agent run`, or name its socket with --agent-socket or SPIFFE_ENDPOINT_SOCKET";
        probe("the agent", path, start).await
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// `grpc.health.v1.Health` of the agent.
    pub(crate) fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// `mayfly.workload.v1.Tasks` of the agent.
    pub(crate) fn tasks(&self) -> TasksClient<Channel> {
        TasksClient::new(self.channel.clone())
    }

    /// Opens the stream of X.509-SVIDs.
    ///
    /// # Errors
    /// The agent's status.
    pub(crate) async fn stream(&self) -> Result<Streaming<X509svidResponse>, Status> {
        let mut client = SpiffeWorkloadApiClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_MAX);
        let mut request = Request::new(X509svidRequest {});
        // WEP-07
        request
            .metadata_mut()
            .insert("workload.spiffe.io", AsciiMetadataValue::from_static("true"));
        Ok(client.fetch_x509svid(request).await?.into_inner())
    }

    /// The SVIDs that this process has now, the default one first.
    ///
    /// # Errors
    /// No answer in `timeout`, a refusal, or an answer that breaks the standard.
    pub(crate) async fn fetch(&self, timeout: Duration) -> Result<Vec<Identity>, CliError> {
        let first = tokio::time::timeout(timeout, async {
            let answer = self.stream().await?.message().await?;
            answer.ok_or_else(|| Status::unavailable("the agent ended the stream without an answer"))
        });
        let answer = first.await.unwrap_or_else(|_| Err(Status::deadline_exceeded("")));
        identities(answer.map_err(|status| self.failed(status))?)
    }

    /// The error of a call that was to fetch SVIDs.
    pub(crate) fn failed(&self, status: Status) -> CliError {
        // The agent's refusal is about this process, not about a role.
        if status.code() == Code::PermissionDenied {
            return CliError::Call {
                doing: "get an SVID".into(),
                endpoint: self.address.to_string(),
                status: Box::new(Status::new(Code::PermissionDenied, status.message())),
                hints: vec![format!(
                    "no entry matches this process, which is {}: mayfly entry list --selector unix:uid:{}",
                    me(),
                    nix::unistd::Uid::effective()
                )],
            };
        }
        CliError::Call {
            doing: "get an SVID".into(),
            endpoint: self.address.to_string(),
            status: Box::new(status),
            hints: vec![],
        }
    }
}

/// Reads an answer of the Workload API.
///
/// # Errors
/// It breaks a rule of the X.509-SVID profile.
pub(crate) fn identities(answer: X509svidResponse) -> Result<Vec<Identity>, CliError> {
    let bad = |what: String| CliError::BadAnswer { who: "the agent", what };
    let mut all = Vec::with_capacity(answer.svids.len());
    for wire in answer.svids {
        let key = Zeroizing::new(wire.x509_svid_key);
        let id: SpiffeId = wire
            .spiffe_id
            .parse()
            .map_err(|error| bad(format!("an SVID with a wrong name: {error}")))?;
        let svid = X509Svid::from_concatenated_der(&wire.x509_svid)
            .map_err(|error| bad(format!("an SVID for {id} that is none: {error}")))?;
        if *svid.spiffe_id() != id {
            return Err(bad(format!("an SVID of {} under the name {id}", svid.spiffe_id())));
        }
        let pair = rcgen::KeyPair::try_from(&PrivatePkcs8KeyDer::from(key.as_slice()))
            .map_err(|_| bad(format!("a key for {id} that cannot be read")))?;
        if pair.subject_public_key_info() != svid.public_key_der() {
            return Err(bad(format!("a key for {id} that is not that of its certificate")));
        }
        let bundle = Bundle::from_concatenated_der(id.trust_domain(), &wire.bundle)
            .map_err(|_| bad(format!("a bundle of {} that cannot be read", id.trust_domain())))?;
        let federated = federated(&answer.federated_bundles).map_err(bad)?;
        all.push(Identity {
            svid,
            key,
            bundle,
            hint: wire.hint,
            federated,
        });
    }
    if all.is_empty() {
        return Err(bad("an answer without an SVID".into()));
    }
    Ok(all)
}

fn federated(wire: &BTreeMap<String, Vec<u8>>) -> Result<Vec<Bundle>, String> {
    let one = |(name, der): (&String, &Vec<u8>)| {
        let trust_domain = TrustDomain::parse_folded(name).map_err(|error| error.to_string())?;
        Bundle::from_concatenated_der(trust_domain, der).map_err(|_| format!("a bundle of {name} that cannot be read"))
    };
    wire.iter().map(one).collect()
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    // WEP-12 to WEP-19
    #[test]
    fn the_address_follows_the_standard() {
        for (text, path) in [
            ("unix:///a.sock", "/a.sock"),
            ("unix:/a.sock", "/a.sock"),
            ("unix:///a%20b", "/a b"),
        ] {
            assert_eq!(text.parse(), Ok(Address::Unix(path.into())), "{text}");
        }
        for text in ["tcp://127.0.0.1:8000", "tcp://[::1]:8000"] {
            assert!(matches!(text.parse(), Ok(Address::Tcp(_))), "{text}");
        }
        for text in [
            "",
            "/a.sock",
            "http://127.0.0.1:80",
            "dns:a",
            "unix-abstract:a",
            "unix://host/path",
            "unix:a.sock",
            "unix://",
            "unix:///",
            "unix:///a?x",
            "unix:///a#f",
            "unix://u@/a",
            "unix:///a%0",
            "tcp://localhost:8000",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:8000/",
            "tcp://127.0.0.1:8000/foo",
            "tcp://127.0.0.1:8000?x",
            "tcp://127.0.0.1:8000#f",
            "tcp://u@127.0.0.1:8000",
            "tcp:127.0.0.1:80",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }

    #[test]
    fn on_the_command_line_a_path_is_enough() {
        assert_eq!(
            Address::resolve(Some("rel/a.sock")).unwrap(),
            Address::Unix("rel/a.sock".into())
        );
        assert_eq!(
            Address::resolve(Some("unix:///a.sock")).unwrap(),
            Address::Unix("/a.sock".into())
        );
        for text in ["http://a/b", ""] {
            assert!(Address::resolve(Some(text)).is_err(), "{text}");
        }
    }
}
