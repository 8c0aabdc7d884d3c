//! One request to a witness over HTTP: no redirects, short answers.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::header::HOST;
use http::{Method, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The most that is read of an answer, in bytes: some signature lines, or a checkpoint.
const ANSWER_MAX: usize = 64 << 10;
/// From the first packet to the last.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Where a witness takes checkpoints: its submission prefix, `https` or `http`. Plain `http` can be cut off and
/// listened to, and no more than that: what a witness says is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WitnessUrl(Arc<UrlParts>);

#[derive(Debug, PartialEq, Eq)]
struct UrlParts {
    text: String,
    is_https: bool,
    authority: String,
    host: String,
    port: u16,
    prefix: String,
}

/// Text that is not the address of a witness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WitnessUrlError {
    /// Not a URL.
    #[error("is not a URL")]
    Syntax,
    /// Another scheme.
    #[error("is neither https:// nor http://")]
    Scheme,
    /// Without a host, or with a user name.
    #[error("has no host, or a user name")]
    Host,
    /// Not a prefix.
    #[error("has a query or a fragment; what is asked for is put behind it")]
    Query,
}

/// Nobody answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum PostError {
    #[error("it cannot be reached")]
    Connect(#[source] io::Error),
    #[error("it does not speak HTTP")]
    Http(#[source] hyper::Error),
    #[error("its answer is too long, or ends too soon")]
    Body,
    #[error("it does not answer within {} s", TIMEOUT.as_secs())]
    Timeout,
}

/// Believes whom browsers believe.
static TLS: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
    use hyper_rustls::ConfigBuilderExt;
    let builder = ClientConfig::builder_with_provider(mayfly_runtime::provider::crypto_provider())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.3 and 1.2");
    Arc::new(builder.with_webpki_roots().with_no_client_auth())
});

impl WitnessUrl {
    /// Sends `body` to `path` below the prefix; status and body of the answer.
    ///
    /// # Cancel safety
    /// The request may have been taken.
    pub(super) async fn ask(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(u16, Bytes), PostError> {
        let asked = tokio::time::timeout(TIMEOUT, self.asked(method, path, body)).await;
        asked.unwrap_or(Err(PostError::Timeout))
    }

    async fn asked(&self, method: Method, path: &str, body: Vec<u8>) -> Result<(u16, Bytes), PostError> {
        let UrlParts {
            is_https,
            authority,
            host,
            port,
            prefix,
            ..
        } = &*self.0;
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{prefix}/{path}"))
            .header(HOST, authority)
            .body(Full::new(Bytes::from(body)))
            .expect("made of parts that were parsed");
        let tcp = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(PostError::Connect)?;
        if !is_https {
            return exchange(tcp, request).await;
        }
        let name = ServerName::try_from(host.clone()).expect("checked when it was parsed");
        let tls = TlsConnector::from(TLS.clone()).connect(name, tcp).await;
        exchange(tls.map_err(PostError::Connect)?, request).await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: http::Request<Full<Bytes>>,
) -> Result<(u16, Bytes), PostError> {
    let connection = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connection.map_err(PostError::Http)?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(PostError::Http)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_MAX).collect().await;
        Ok((status, body.map_err(|_| PostError::Body)?.to_bytes()))
    };
    // The connection makes no progress unless it is polled; it ends before the exchange only by failing it.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

impl FromStr for WitnessUrl {
    type Err = WitnessUrlError;

    fn from_str(text: &str) -> Result<Self, WitnessUrlError> {
        let uri: Uri = text.parse().map_err(|_| WitnessUrlError::Syntax)?;
        let (is_https, port) = match uri.scheme_str() {
            Some("https") => (true, 443),
            Some("http") => (false, 80),
            Some(_) => return Err(WitnessUrlError::Scheme),
            None => return Err(WitnessUrlError::Syntax),
        };
        let authority = uri.authority().ok_or(WitnessUrlError::Host)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        if authority.as_str().contains('@') || ServerName::try_from(host).is_err() {
            return Err(WitnessUrlError::Host);
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(WitnessUrlError::Query);
        }
        Ok(Self(Arc::new(UrlParts {
            text: text.to_owned(),
            is_https,
            authority: authority.to_string(),
            host: host.to_owned(),
            port: authority.port_u16().unwrap_or(port),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })))
    }
}

impl fmt::Display for WitnessUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.text)
    }
}
