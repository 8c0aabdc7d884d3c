//! A tracker that is asked over HTTP: one GET, no redirects, a token from a file.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::header::{ACCEPT, AUTHORIZATION, HOST};
use http::{HeaderValue, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use mayfly_runtime::files;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::{ANSWER_MAX, Answer, AskError, Tracker};

/// Where the reference stands in an address.
const PLACE: &str = "{ticket}";
/// The longest token, in bytes.
const TOKEN_MAX: u64 = 8 << 10;

/// The address of a ticket's page: `https`, or `http` of this machine, with `{ticket}` in its path or query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketUrl(Arc<UrlParts>);

#[derive(Debug, PartialEq, Eq)]
struct UrlParts {
    text: String,
    is_https: bool,
    authority: String,
    host: String,
    port: u16,
    before: String,
    after: String,
}

/// Text that is not the address of a ticket's page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TicketUrlError {
    /// Not a URL.
    #[error("is not a URL")]
    Syntax,
    /// Another scheme, or `http` of another machine.
    #[error("is neither https:// nor http:// of this machine: whoever can change the answer on its way opens tickets")]
    Scheme,
    /// Without a host that can be verified, or with a user name.
    #[error("has no host, or a user name; a token belongs into token_file")]
    Host,
    /// Nowhere, twice, or before the path.
    #[error("does not have `{PLACE}` once in its path or query, where the reference of the ticket goes")]
    Place,
}

/// A tracker behind a page.
pub(super) struct Http {
    url: TicketUrl,
    token_file: Option<PathBuf>,
    tls: Arc<ClientConfig>,
    timeout: Duration,
}

impl Http {
    pub(super) fn new(url: TicketUrl, token_file: Option<PathBuf>, tls: Arc<ClientConfig>, timeout: Duration) -> Self {
        Self {
            url,
            token_file,
            tls,
            timeout,
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let UrlParts {
            is_https, host, port, ..
        } = &*self.url.0;
        let addresses = tokio::net::lookup_host((host.as_str(), *port)).await?;
        // What `localhost` means is up to a file; that nothing leaves this machine is up to us.
        let addresses: Vec<SocketAddr> = addresses.filter(|at| *is_https || at.ip().is_loopback()).collect();
        TcpStream::connect(&*addresses).await
    }

    async fn fetch(&self, reference: &str) -> Result<Answer, AskError> {
        let UrlParts { is_https, host, .. } = &*self.url.0;
        let authorization = self.token_file.as_deref().map(bearer).transpose()?;
        let request = self.url.request(reference, authorization);
        let tcp = self.connect().await.map_err(AskError::Connect)?;
        if !is_https {
            return exchange(tcp, request).await;
        }
        let name = ServerName::try_from(host.clone()).expect("checked when it was parsed");
        let tls = TlsConnector::from(self.tls.clone());
        exchange(tls.connect(name, tcp).await.map_err(AskError::Connect)?, request).await
    }
}

#[async_trait]
impl Tracker for Http {
    async fn ask(&self, reference: &str) -> Result<Answer, AskError> {
        tokio::time::timeout(self.timeout, self.fetch(reference))
            .await
            .unwrap_or(Err(AskError::Timeout(self.timeout)))
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Empty<Bytes>>,
) -> Result<Answer, AskError> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(AskError::Broken)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(AskError::Broken)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND | StatusCode::GONE => return Err(AskError::Absent),
            other => return Err(AskError::Status(other.as_u16())),
        }
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        let body = body.map_err(|_| AskError::Body)?.to_bytes();
        Ok(Answer::parse(&body)?)
    };
    // The connection makes no progress unless it is polled; it ends before the exchange only by failing it.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

/// The header with the token of the file, which must be the owner's alone. It is marked, so that nothing shows it.
fn bearer(path: &Path) -> Result<HeaderValue, AskError> {
    let token = files::read_private(path, TOKEN_MAX).map_err(AskError::Token)?;
    let token = token.trim_ascii();
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(AskError::TokenText);
    }
    let value = Zeroizing::new([b"Bearer ", token].concat());
    let mut value = HeaderValue::from_bytes(&value).map_err(|_| AskError::TokenText)?;
    value.set_sensitive(true);
    Ok(value)
}

// === impl TicketUrl ===

impl TicketUrl {
    fn request(&self, reference: &str, authorization: Option<HeaderValue>) -> http::Request<Empty<Bytes>> {
        let UrlParts {
            authority,
            before,
            after,
            ..
        } = &*self.0;
        let target = format!("{before}{}{after}", percent_encoded(reference));
        let mut request = http::Request::get(target)
            .header(HOST, authority)
            .header(ACCEPT, "application/json")
            .body(Empty::<Bytes>::new())
            .expect("made of parts that were parsed, and of unreserved characters");
        if let Some(authorization) = authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization);
        }
        request
    }
}

/// Everything but unreserved characters (RFC 3986 §2.3) as `%XX`: a reference is one segment or one value.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_~.".contains(&byte) {
            encoded.push(byte.into());
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

impl FromStr for TicketUrl {
    type Err = TicketUrlError;

    fn from_str(text: &str) -> Result<Self, TicketUrlError> {
        // Braces are no characters of a URL: it is read with a reference in their place.
        let uri: Uri = text.replace(PLACE, "0").parse().map_err(|_| TicketUrlError::Syntax)?;
        let authority = uri.authority().ok_or(TicketUrlError::Syntax)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if authority.as_str().contains('@') || ServerName::try_from(host).is_err() {
            return Err(TicketUrlError::Host);
        }
        let is_loopback = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let (is_https, port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") if is_loopback => (false, 80),
            _ => return Err(TicketUrlError::Scheme),
        };
        let (_, rest) = text.split_once("://").ok_or(TicketUrlError::Syntax)?;
        let target = rest.find(['/', '?']).map_or("", |start| &rest[start..]);
        let (before, after) = target.split_once(PLACE).ok_or(TicketUrlError::Place)?;
        let slash = if before.starts_with('/') { "" } else { "/" };
        if rest.matches(PLACE).count() != 1 || target.contains('#') {
            return Err(TicketUrlError::Place);
        }
        Ok(Self(Arc::new(UrlParts {
            is_https,
            authority: authority.to_string(),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(port),
            before: format!("{slash}{before}"),
            after: after.to_owned(),
            text: text.to_owned(),
        })))
    }
}

impl fmt::Display for TicketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http")
            .field("url", &self.url.0.text)
            .finish_non_exhaustive()
    }
}
