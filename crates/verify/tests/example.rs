//! The example of `docs/verify.md`, as a process of its own.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

#[allow(dead_code, unreachable_pub)]
#[path = "../src/kit/tests/agent.rs"]
mod agent;
#[allow(dead_code, unreachable_pub)]
#[path = "../src/kit/tests/certs.rs"]
mod certs;

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use mayfly_verify::client_config;
use mayfly_verify::dangerous::InsecureServerVerifier;
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::agent::FakeAgent;
use crate::certs::{Issued, Leaf, TestCa};

const PROGRAM: &str = include_str!("../examples/protected.rs");
const PAGE: &str = include_str!("../../../docs/verify.md");
const JOB: &str = "spiffe://td/task/pay/db-migrate/ns/pay/job";

#[test]
fn the_example_is_short_and_the_page_shows_it_as_it_is() {
    assert!(PROGRAM.lines().count() <= 40, "{} lines", PROGRAM.lines().count());
    assert!(PAGE.contains(PROGRAM), "docs/verify.md shows another program");
}

async fn connect(address: &str, who: &Issued) -> TlsStream<TcpStream> {
    let verifier = Arc::new(InsecureServerVerifier::new());
    let mut config = client_config(Some(who.shown()), verifier, Arc::new(DefaultTimeProvider));
    config.alpn_protocols.clear();
    let tcp = TcpStream::connect(address).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect("td.invalid".try_into().unwrap(), tcp).await.unwrap()
}

/// The answer to a request; empty when there is none.
async fn ask(tls: &mut TlsStream<TcpStream>, header: &str) -> String {
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\n{header}\r\n");
    let mut answer = vec![0; 4096];
    if tls.write_all(request.as_bytes()).await.is_err() {
        return String::new();
    }
    let read = tls.read(&mut answer).await.unwrap_or(0);
    String::from_utf8(answer[..read].to_vec()).unwrap()
}

#[tokio::test]
async fn the_example_answers_inside_a_window_and_only_there() {
    mayfly_runtime::install_crypto_provider();
    let folder = tempfile::tempdir().unwrap();
    let ca = TestCa::new("td");
    let own = ca.issue(&Leaf::base("spiffe://td/ns/pay/db"));
    let agent = FakeAgent::start(folder.path(), &own, &ca);
    // target/<profile>/deps/example-… is this program.
    let here = std::env::current_exe().unwrap();
    let program: PathBuf = here.ancestors().nth(2).unwrap().join("examples/protected");
    assert!(
        program.exists(),
        "build it first: cargo build -p mayfly-verify --features workload --examples"
    );
    let mut service = Command::new(program)
        .arg(&agent.socket)
        .args(["pay/db-migrate", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(service.stdout.take().unwrap()).lines();
    let told = async {
        let line = lines.next_line().await.unwrap().expect("it says where it is");
        let address = line.rsplit_once("https://").unwrap().1.to_owned();

        let base = ca.issue(&Leaf::base("spiffe://td/ns/pay/job"));
        assert_eq!(ask(&mut connect(&address, &base).await, "").await, "");
        let job = ca.issue(&Leaf::task(JOB));
        let mut tls = connect(&address, &job).await;
        for _ in 0..2 {
            let answer = ask(&mut tls, "").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(answer.contains(&format!("hello {JOB}, until 20")), "{answer}");
        }
        let epoch = agent.revoke(&job.window.unwrap().to_string(), vec![]);
        assert_eq!(agent.acknowledged(epoch).await.connections_ended, 1);
        assert_eq!(ask(&mut tls, "").await, "");
        assert_eq!(ask(&mut connect(&address, &job).await, "").await, "");
        let other = ca.issue(&Leaf::task(JOB));
        let answer = ask(&mut connect(&address, &other).await, "Connection: close\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.unwrap();
    service.kill().await.unwrap();
}
