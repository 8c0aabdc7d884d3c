//! A tracker on this machine.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;
use std::thread;

use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;

/// Answers each connection with `response` and tells what it was asked; a response that is empty is none.
fn tracker(response: Vec<u8>) -> (u16, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (tell, asked) = mpsc::channel();
    // Ends with the process: nothing is in it that has to be put away.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = vec![];
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.extend(byte);
            }
            let _ = tell.send(String::from_utf8(request).unwrap());
            if response.is_empty() {
                thread::sleep(TIMEOUT);
            }
            let _ = stream.write_all(&response);
        }
    });
    (port, asked)
}

fn said(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}").into_bytes()
}

fn http(url: &str, token_file: Option<PathBuf>, ca_file: Option<PathBuf>, timeout: Duration) -> Arc<dyn TicketChecker> {
    let url = url.parse().unwrap();
    let source = TicketSource::Http {
        url,
        token_file,
        ca_file,
    };
    made(source, timeout)
}

fn page(port: u16) -> String {
    format!("http://127.0.0.1:{port}/api/tickets/{{ticket}}?fields=state")
}

async fn check(response: Vec<u8>) -> TicketState {
    http(&page(tracker(response).0), None, None, TIMEOUT)
        .check("CHG-1")
        .await
}

fn secret(dir: &std::path::Path, text: &str, mode: u32) -> PathBuf {
    let path = dir.join(format!("token-{mode:o}-{}", text.len()));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    path
}

#[tokio::test]
async fn a_page_is_asked_for_with_the_token_of_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let token = secret(dir.path(), "s3cret\n", 0o600);
    let (port, asked) = tracker(said(
        "200 OK",
        "",
        r#"{"open": true, "kind": "change", "owner": "bob"}"#,
    ));
    let checker = http(&page(port), Some(token.clone()), None, TIMEOUT);
    let state = checker.check("org/repo#12?x=1&y").await;
    assert!(
        state.open && state.kind == "change" && state.owner.as_deref() == Some("bob"),
        "{state:?}"
    );
    let request = asked.recv().unwrap();
    let expected = "GET /api/tickets/org%2Frepo%2312%3Fx%3D1%26y?fields=state HTTP/1.1\r\n";
    assert!(request.starts_with(expected), "{request}");
    assert!(request.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{request}");
    assert!(request.contains("authorization: Bearer s3cret\r\n"), "{request}");
    // Another token is in force with the next question.
    std::fs::write(&token, "other").unwrap();
    checker.check("CHG-2").await;
    assert!(asked.recv().unwrap().contains("authorization: Bearer other\r\n"));
    assert!(!format!("{checker:?}").contains("other"));
}

#[tokio::test]
async fn a_token_that_others_may_read_or_that_is_none_is_not_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (port, asked) = tracker(said("200 OK", "", r#"{"open": true}"#));
    for path in [
        secret(dir.path(), "s3cret", 0o644),
        secret(dir.path(), "s3cret\r\nx-admin: yes", 0o600),
        secret(dir.path(), "", 0o600),
        dir.path().join("none"),
    ] {
        let state = http(&page(port), Some(path), None, TIMEOUT).check("CHG-1").await;
        assert!(!state.open && state.problem.contains("token"), "{state:?}");
        assert!(!state.problem.contains("s3cret"));
    }
    assert!(asked.try_recv().is_err(), "nobody was asked");
}

#[tokio::test]
async fn what_a_page_does_not_say_is_not_open() {
    let long = format!("{{\"open\": true, \"x\": \"{}\"}}", "x".repeat(70_000));
    for (response, why) in [
        (said("200 OK", "", r#"{"open": false}"#), "not open"),
        (said("404 Not Found", "", r#"{"open": true}"#), "no such ticket"),
        (said("500 Oops", "", r#"{"open": true}"#), "status 500"),
        (said("401 Who", "", r#"{"open": true}"#), "status 401"),
        (said("204 Nothing", "", ""), "status 204"),
        (said("200 OK", "", "<html>"), "cannot be read"),
        (said("200 OK", "", &long), "longer than"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"open\": true}".to_vec(),
            "broke off",
        ),
        (b"SSH-2.0\r\n\r\n".to_vec(), "broke off"),
    ] {
        let state = check(response).await;
        assert!(!state.open && state.problem.contains(why), "{why}: {state:?}");
    }
    let state = http("http://127.0.0.1:1/{ticket}", None, None, TIMEOUT)
        .check("CHG-1")
        .await;
    assert!(
        !state.open && state.problem.contains("could not be reached"),
        "{state:?}"
    );
}

// Else whoever answers could send the token elsewhere, and have somebody else's answer count.
#[tokio::test]
async fn a_redirect_is_not_followed() {
    let (other, asked) = tracker(said("200 OK", "", r#"{"open": true}"#));
    let location = format!("location: http://127.0.0.1:{other}/CHG-1\r\n");
    for status in ["301 Moved", "302 Found", "307 Elsewhere"] {
        let state = check(said(status, &location, "")).await;
        assert!(
            !state.open && state.problem.contains("redirects are not followed"),
            "{state:?}"
        );
    }
    assert!(asked.try_recv().is_err());
}

#[tokio::test]
async fn a_page_that_takes_too_long_is_given_up() {
    let (port, _asked) = tracker(vec![]);
    let state = http(&page(port), None, None, Duration::from_millis(200))
        .check("CHG-1")
        .await;
    assert!(!state.open && state.problem.contains("200 ms"), "{state:?}");
}

/// A tracker with TLS for `localhost`, and the file with its authority.
async fn tls_tracker(dir: &std::path::Path) -> (u16, PathBuf) {
    let key = rcgen::KeyPair::generate().unwrap();
    let cert = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    let cert = cert.self_signed(&key).unwrap();
    let ca_file = dir.join("ca.pem");
    std::fs::write(&ca_file, cert.pem()).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(mayfly_runtime::provider::crypto_provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let mut request = [0; 4096];
            // A client that does not believe us ends it here.
            if stream.read(&mut request).is_ok() {
                let _ = stream.write_all(&said("200 OK", "", r#"{"open": true}"#));
                let _ = stream.flush();
            }
        }
    });
    (port, ca_file)
}

#[tokio::test]
async fn a_tracker_over_tls_is_believed_by_the_authorities_of_the_file_only() {
    let dir = tempfile::tempdir().unwrap();
    let (port, ca_file) = tls_tracker(dir.path()).await;
    let url = |host: &str| format!("https://{host}:{port}/{{ticket}}");
    let state = http(&url("localhost"), None, Some(ca_file.clone()), TIMEOUT)
        .check("CHG-1")
        .await;
    assert!(state.open, "{state:?}");
    // The wrong name, and the authorities that browsers know.
    for (host, ca_file) in [("127.0.0.1", Some(ca_file)), ("localhost", None)] {
        let state = http(&url(host), None, ca_file, TIMEOUT).check("CHG-1").await;
        assert!(
            !state.open && state.problem.contains("could not be reached"),
            "{state:?}"
        );
    }
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "nothing").unwrap();
    assert!(matches!(
        tls::client(Some(&empty)),
        Err(TicketSetupError::NoAuthority { .. })
    ));
}

#[test]
fn an_address_is_https_or_of_this_machine_and_has_one_place_for_the_ticket() {
    for good in [
        "https://tracker.example.org/t/{ticket}",
        "https://tracker.example.org:8443?id={ticket}",
        "https://[2001:db8::1]/{ticket}",
        "http://localhost:8080/{ticket}.json",
        "http://127.0.0.9/{ticket}",
        "http://[::1]:8080/{ticket}",
    ] {
        let url: TicketUrl = good.parse().unwrap_or_else(|error| panic!("{good}: {error}"));
        assert_eq!(url.to_string(), good);
    }
    for (bad, why) in [
        ("", TicketUrlError::Syntax),
        ("tracker/{ticket}", TicketUrlError::Syntax),
        ("http://tracker.example.org/{ticket}", TicketUrlError::Scheme),
        ("http://10.0.0.1/{ticket}", TicketUrlError::Scheme),
        ("ftp://localhost/{ticket}", TicketUrlError::Scheme),
        ("https://user:word@tracker.example.org/{ticket}", TicketUrlError::Host),
        ("https://tracker.example.org/t", TicketUrlError::Place),
        ("https://tracker.example.org/{ticket}/{ticket}", TicketUrlError::Place),
        ("https://{ticket}.example.org/", TicketUrlError::Place),
        ("https://example.org/#{ticket}", TicketUrlError::Place),
    ] {
        assert_eq!(bad.parse::<TicketUrl>(), Err(why), "{bad}");
    }
}
