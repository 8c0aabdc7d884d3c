//! Where the first bundle comes from: the data folder, a file, or an https address.
//!
//! All of these only read bytes and parse them; whether a server is believed is decided by [`super::trust`].

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use mayfly_runtime::files::{self, FileError};
use mayfly_svid::{Bundle, BundleFormatError, TrustDomain};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A bundle larger than this, in bytes, is not read.
const BUNDLE_MAX: u64 = 1 << 20;
/// The whole fetch, from the first DNS question to the last byte.
const FETCH_TIMEOUT: Duration = Duration::from_secs(20);
/// Certificates only: the roots that the server is verified against.
const STORED: &str = "bundle.pem";

/// Why a bundle cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleFileError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file holds something else.
    #[error("`{path}` is not a usable bundle")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: BundleFormatError,
    },
    /// The document at the address is something else.
    #[error("what `{url}` serves is not a usable bundle")]
    RemoteFormat {
        /// The address.
        url: BundleUrl,
        /// What is wrong with it.
        source: BundleFormatError,
    },
    /// It parses and holds no certificate, so no server could be verified.
    #[error("the bundle from `{from}` holds no X.509 authority")]
    NoAuthority {
        /// File or address.
        from: String,
    },
    /// No connection, or it broke.
    #[error("cannot fetch the bundle from `{url}`")]
    Connect {
        /// The address.
        url: BundleUrl,
        /// What went wrong.
        source: io::Error,
    },
    /// The connection is there, HTTP failed on it.
    #[error("cannot fetch the bundle from `{url}`")]
    Http {
        /// The address.
        url: BundleUrl,
        /// What went wrong.
        source: hyper::Error,
    },
    /// Anything but 200. Redirects are not followed: they would move the trust to another name.
    #[error("`{url}` answered with status {status}, expected 200 (redirects are not followed)")]
    Status {
        /// The address.
        url: BundleUrl,
        /// The HTTP status.
        status: u16,
    },
    /// The document is too long, or broke off.
    #[error("cannot read the bundle from `{url}`, at most {BUNDLE_MAX} bytes: {reason}")]
    Body {
        /// The address.
        url: BundleUrl,
        /// What went wrong.
        reason: String,
    },
    /// It took longer than 20 seconds.
    #[error("`{url}` did not answer within {} s", FETCH_TIMEOUT.as_secs())]
    Timeout {
        /// The address.
        url: BundleUrl,
    },
}

/// An `https` address of a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleUrl(Arc<UrlParts>);

#[derive(Debug, PartialEq, Eq)]
struct UrlParts {
    uri: http::Uri,
    host: String,
    port: u16,
}

/// Text that is not the https address of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleUrlError {
    /// Not a URL.
    #[error("not a URL")]
    Syntax,
    /// Another scheme than `https`.
    #[error("only https:// is fetched: whoever can change the bundle on its way becomes the server")]
    Scheme,
    /// Without a host that TLS could verify, or with a user name.
    #[error("the host is missing or not a name")]
    Host,
}

/// The bundle that was kept in the data folder; `None` if there is none.
///
/// # Errors
/// It is there and cannot be read or used.
pub(super) fn load_stored(data_dir: &Path, trust_domain: &TrustDomain) -> Result<Option<Bundle>, BundleFileError> {
    let path = stored_path(data_dir);
    match load_file(&path, trust_domain) {
        Err(BundleFileError::File(FileError::Read { source, .. })) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        other => other.map(Some),
    }
}

/// Keeps the X.509 authorities of `bundle` for the next start.
///
/// # Errors
/// The file cannot be written; the old one is as it was.
pub(super) fn save(data_dir: &Path, bundle: &Bundle) -> Result<(), BundleFileError> {
    Ok(files::write_atomic(
        &stored_path(data_dir),
        bundle.x509_to_pem().as_bytes(),
        files::PUBLIC,
    )?)
}

/// Where the bundle is kept.
pub(super) fn stored_path(data_dir: &Path) -> PathBuf {
    data_dir.join(STORED)
}

/// Reads a bundle, PEM or SPIFFE JSON, from a file.
///
/// # Errors
/// The file cannot be read, is neither, or holds no X.509 authority.
pub(super) fn load_file(path: &Path, trust_domain: &TrustDomain) -> Result<Bundle, BundleFileError> {
    let bytes = files::read_capped(path, BUNDLE_MAX)?;
    let bundle = parse(&bytes, trust_domain).map_err(|source| BundleFileError::Format {
        path: path.to_owned(),
        source,
    })?;
    usable(bundle, || path.display().to_string())
}

/// The TLS configuration for [`fetch`]: the public roots that browsers know, nothing shown of ourselves.
pub(super) fn public_roots() -> Arc<ClientConfig> {
    use hyper_rustls::ConfigBuilderExt;
    let provider = mayfly_runtime::provider::crypto_provider();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has suites for TLS 1.3 and 1.2")
        .with_webpki_roots()
        .with_no_client_auth();
    Arc::new(config)
}

/// Fetches a bundle, PEM or SPIFFE JSON, once.
///
/// # Errors
/// No connection, a status other than 200, too large, too slow, or not a bundle with an X.509 authority.
///
/// # Cancel safety
/// Safe: nothing is kept.
pub(super) async fn fetch(
    url: &BundleUrl,
    trust_domain: &TrustDomain,
    tls: Arc<ClientConfig>,
) -> Result<Bundle, BundleFileError> {
    let body = tokio::time::timeout(FETCH_TIMEOUT, fetch_bytes(url, tls))
        .await
        .map_err(|_| BundleFileError::Timeout { url: url.clone() })??;
    let bundle = parse(&body, trust_domain).map_err(|source| BundleFileError::RemoteFormat {
        url: url.clone(),
        source,
    })?;
    usable(bundle, || url.to_string())
}

async fn fetch_bytes(url: &BundleUrl, tls: Arc<ClientConfig>) -> Result<Bytes, BundleFileError> {
    let connect = |source| BundleFileError::Connect {
        url: url.clone(),
        source,
    };
    let failed = |source| BundleFileError::Http {
        url: url.clone(),
        source,
    };
    let name = ServerName::try_from(url.0.host.clone()).expect("checked when it was parsed");
    let tcp = TcpStream::connect((url.0.host.as_str(), url.0.port))
        .await
        .map_err(connect)?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(connect)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let request = http::Request::get(url.0.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str))
        .header(
            http::header::HOST,
            url.0.uri.authority().map_or("", http::uri::Authority::as_str),
        )
        .header(
            http::header::ACCEPT,
            "application/json, application/x-pem-file;q=0.9, */*;q=0.5",
        )
        .body(Empty::<Bytes>::new())
        .expect("made of parts that were parsed");
    let exchange = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        if status != http::StatusCode::OK {
            return Err(BundleFileError::Status {
                url: url.clone(),
                status: status.as_u16(),
            });
        }
        let limit = usize::try_from(BUNDLE_MAX).expect("a megabyte");
        let body = Limited::new(response.into_body(), limit)
            .collect()
            .await
            .map_err(|error| {
                let reason = if error.is::<LengthLimitError>() {
                    "it is longer".to_owned()
                } else {
                    error.to_string()
                };
                BundleFileError::Body {
                    url: url.clone(),
                    reason,
                }
            })?;
        Ok(body.to_bytes())
    };
    // The connection makes no progress unless it is polled; it ends before the exchange only by failing it.
    tokio::pin!(exchange, connection);
    tokio::select! {
        biased;
        result = &mut exchange => result,
        _ = &mut connection => exchange.await,
    }
}

fn parse(bytes: &[u8], trust_domain: &TrustDomain) -> Result<Bundle, BundleFormatError> {
    // A JSON object can be told from PEM by its first character; text before the first PEM block is allowed.
    if bytes.trim_ascii_start().starts_with(b"{") {
        Bundle::from_spiffe_json(trust_domain.clone(), bytes)
    } else {
        Bundle::from_pem(trust_domain.clone(), bytes)
    }
}

fn usable(bundle: Bundle, from: impl FnOnce() -> String) -> Result<Bundle, BundleFileError> {
    if bundle.x509_authorities.is_empty() {
        return Err(BundleFileError::NoAuthority { from: from() });
    }
    Ok(bundle)
}

impl std::str::FromStr for BundleUrl {
    type Err = BundleUrlError;

    fn from_str(text: &str) -> Result<Self, BundleUrlError> {
        let uri: http::Uri = text.parse().map_err(|_| BundleUrlError::Syntax)?;
        if uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
            return Err(BundleUrlError::Scheme);
        }
        let authority = uri.authority().ok_or(BundleUrlError::Host)?;
        let host = authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        if authority.as_str().contains('@') || ServerName::try_from(host.as_str()).is_err() {
            return Err(BundleUrlError::Host);
        }
        let port = authority.port_u16().unwrap_or(443);
        Ok(Self(Arc::new(UrlParts { uri, host, port })))
    }
}

impl std::fmt::Display for BundleUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.uri.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use axum::response::Redirect;
    use axum::routing::get;
    use mayfly_runtime::CancellationToken;
    use mayfly_runtime::listen::{Limits, Server, Tls, bind_tcp};
    use mayfly_runtime::provider::crypto_provider;
    use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

    use super::super::test_server::TestCa;
    use super::*;

    fn td() -> TrustDomain {
        "td".parse().unwrap()
    }

    /// An https server for `localhost`, and what a client needs to believe it.
    fn web_server(router: axum::Router) -> (u16, Arc<ClientConfig>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = rcgen::CertificateParams::new(["localhost".to_owned()])
            .unwrap()
            .self_signed(&key)
            .unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = rustls::ServerConfig::builder_with_provider(crypto_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(crypto_provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let listener = bind_tcp("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = Tls::new(Arc::new(config), &Limits::pages());
        let serve = Server::new("test", listener, Limits::pages()).acceptor(tls);
        #[allow(clippy::disallowed_methods, reason = "tests may spawn")]
        tokio::spawn(serve.serve_http1(router, CancellationToken::new()));
        (port, Arc::new(client))
    }

    // IOP-32
    #[tokio::test]
    async fn a_bundle_is_fetched_over_https_and_nothing_else_is_taken_for_one() {
        let (pem, json) = {
            let bundle = TestCa::new("td").bundle();
            (bundle.x509_to_pem(), bundle.to_spiffe_json().unwrap())
        };
        let expected = Bundle::from_pem(td(), pem.as_bytes()).unwrap().x509_authorities;
        let gone = pem.clone();
        let huge = format!("{pem}{}", " ".repeat(2 << 20));
        let router = axum::Router::new()
            .route("/bundle.pem", get(async || pem))
            .route("/bundle.json", get(async || json))
            .route("/moved", get(async || Redirect::temporary("/bundle.pem")))
            .route("/huge", get(async || huge))
            .route("/empty.json", get(async || r#"{"keys":[]}"#))
            .route("/gone", get(async || (axum::http::StatusCode::NOT_FOUND, gone)))
            .route("/page", get(async || "<html>"));
        let (port, client) = web_server(router);
        let fetch = async |path: &str| {
            let url = format!("https://localhost:{port}{path}").parse().unwrap();
            super::fetch(&url, &td(), Arc::clone(&client)).await
        };
        assert_eq!(fetch("/bundle.pem").await.unwrap().x509_authorities, expected);
        assert_eq!(fetch("/bundle.json").await.unwrap().x509_authorities, expected);
        assert!(matches!(
            fetch("/moved").await,
            Err(BundleFileError::Status { status: 307, .. })
        ));
        assert!(matches!(
            fetch("/gone").await,
            Err(BundleFileError::Status { status: 404, .. })
        ));
        assert!(matches!(
            fetch("/none").await,
            Err(BundleFileError::Status { status: 404, .. })
        ));
        assert!(matches!(fetch("/huge").await, Err(BundleFileError::Body { .. })));
        assert!(matches!(
            fetch("/empty.json").await,
            Err(BundleFileError::NoAuthority { .. })
        ));
        assert!(matches!(
            fetch("/page").await,
            Err(BundleFileError::RemoteFormat { .. })
        ));

        let url = format!("https://localhost:{port}/bundle.pem").parse().unwrap();
        let error = super::fetch(&url, &td(), public_roots()).await.unwrap_err();
        assert!(
            matches!(error, BundleFileError::Connect { .. }),
            "a server that nobody vouches for: {error}"
        );
    }

    #[test]
    fn only_https_addresses_with_a_host_are_bundle_urls() {
        assert_eq!(
            "https://x.example/b".parse::<BundleUrl>().unwrap().to_string(),
            "https://x.example/b"
        );
        for (text, why) in [
            ("http://x.example/b", BundleUrlError::Scheme),
            ("/b", BundleUrlError::Scheme),
            ("https://", BundleUrlError::Syntax),
            ("https://user@x.example/b", BundleUrlError::Host),
        ] {
            assert_eq!(text.parse::<BundleUrl>(), Err(why), "{text}");
        }
    }

    #[test]
    fn a_kept_bundle_is_read_back_and_a_damaged_one_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(load_stored(dir.path(), &td()).unwrap().is_none());
        let bundle = TestCa::new("td").bundle();
        save(dir.path(), &bundle).unwrap();
        let stored = load_stored(dir.path(), &td()).unwrap().unwrap();
        assert_eq!(stored.x509_authorities, bundle.x509_authorities);
        std::fs::write(stored_path(dir.path()), "nothing").unwrap();
        let error = load_stored(dir.path(), &td()).unwrap_err().to_string();
        assert!(error.contains("bundle.pem"), "{error}");
    }
}
