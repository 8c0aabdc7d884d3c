//! What is wrong is refused with words that help, and changes nothing: a table for each boundary.
//!
//! Each row says what is sent, which code or exit code comes back, and what the message must say. After each table the
//! server is at the same revision, with the same entries, agents and tokens.

use std::os::unix::net::UnixStream;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_proto::spire::server::bundle::{AppendBundleRequest, BatchSetFederatedBundleRequest};
use mayfly_proto::spire::server::entry::BatchCreateEntryRequest;
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_proto::spire::server::svid::{BatchNewX509svidRequest, MintX509svidRequest, NewX509svidParams};
use mayfly_proto::spire::types::{self, Entry, Spiffeid};
use mayfly_tests::binaries::binary;
use mayfly_tests::cli::Cli;
use mayfly_tests::daemon::story_dir;
use mayfly_tests::evidence::Evidence;
use mayfly_tests::nodes::NodeCa;
use mayfly_tests::{Admin, EntrySpec, Lane, Server, ServerOptions, attest, selector};
use tonic::{Code, Status};

const NODE: &str = "spiffe://example.org/node/a";

/// What may not change.
async fn fingerprint(server: &Server) -> (i64, i32, usize, i64) {
    let (admin, evidence) = (server.admin(), Evidence::of(server.dir()));
    (
        evidence.revision(),
        admin.count().await,
        admin.list_agents().await.len(),
        evidence.unused_tokens(),
    )
}

/// Collects what is not as the table says, so that one run shows all of it.
#[derive(Default)]
struct Verdicts(Vec<String>);

impl Verdicts {
    fn status(&mut self, case: &str, outcome: Result<(), Status>, code: Code, says: &str) {
        match outcome {
            Ok(()) => self.0.push(format!("{case}: accepted")),
            Err(status) => {
                println!("{case}: {:?}: {}", status.code(), status.message());
                if status.code() != code || !status.message().contains(says) {
                    let (seen, text) = (status.code(), status.message());
                    self.0.push(format!(
                        "{case}: expected {code:?} with `{says}`, got {seen:?} `{text}`"
                    ));
                }
            }
        }
    }

    fn text(&mut self, case: &str, code: Option<i32>, text: &str, expected: i32, says: &[&str]) {
        println!("{case}: exit {code:?}\n{text}");
        for said in says.iter().filter(|said| !text.contains(**said)) {
            self.0.push(format!("{case}: `{said}` is not in:\n{text}"));
        }
        if code != Some(expected) {
            self.0
                .push(format!("{case}: expected exit code {expected}, got {code:?}"));
        }
    }

    fn end(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

// Promise 7
#[test]
fn config_files_are_refused_with_line_key_and_hint() {
    let dir = story_dir();
    let mut verdicts = Verdicts::default();
    let server = "trust_domain = \"example.org\"\ndata_dir = \"data\"\n";
    let agent = "trust_domain = \"example.org\"\nserver_address = \"127.0.0.1:1\"\ndata_dir = \"data\"\n";
    let token = "[attestor.join_token]\ntoken_file = \"t\"\n";
    let cases: Vec<(&str, &str, String, &[&str])> = vec![
        (
            "empty",
            "mayfly-server",
            String::new(),
            &["trust_domain", "data_dir", "missing"],
        ),
        (
            "not TOML",
            "mayfly-server",
            "trust_domain = example.org\n".into(),
            &["server.toml:1"],
        ),
        (
            "misspelt key",
            "mayfly-server",
            format!("{server}darin = \"1s\"\n"),
            &["server.toml:3", "did you mean `drain`"],
        ),
        (
            "misspelt section",
            "mayfly-server",
            format!("{server}[lisen]\n"),
            &["lisen", "listen"],
        ),
        (
            "wrong type",
            "mayfly-server",
            format!("{server}drain = 10\n"),
            &["server.toml:3", "drain", "hint"],
        ),
        (
            "bad duration",
            "mayfly-server",
            format!("{server}drain = \"10 parsecs\"\n"),
            &["drain", "10 parsecs"],
        ),
        (
            "bad address",
            "mayfly-server",
            format!("{server}[listen]\nbind_address = \":8081\"\n"),
            &["bind_address", "127.0.0.1:8081"],
        ),
        (
            "SVID outlives",
            "mayfly-server",
            format!("{server}[svid]\nx509_svid_ttl = \"20h\"\n"),
            &["x509_svid_ttl", "authority.ttl"],
        ),
        (
            "several at once",
            "mayfly-server",
            "trust_domain = \"Not A Domain\"\n[listen]\nbind_address = \"x\"\n[log]\nlevel = \"lound\"\n".into(),
            &["server.toml:1", "server.toml:3", "server.toml:5", "data_dir"],
        ),
        (
            "empty",
            "mayfly-agent",
            String::new(),
            &["trust_domain", "server_address", "attestor"],
        ),
        (
            "no attestor",
            "mayfly-agent",
            agent.into(),
            &["no node attestor", "[attestor.join_token]"],
        ),
        (
            "token as value",
            "mayfly-agent",
            format!("{agent}[attestor.join_token]\ntoken = \"squeamish\"\n"),
            &["token_file"],
        ),
        (
            "two trust sources",
            "mayfly-agent",
            format!("insecure_bootstrap = true\ntrust_bundle_path = \"b\"\n{agent}{token}"),
            &["at most one"],
        ),
        (
            "plain http",
            "mayfly-agent",
            format!("trust_bundle_url = \"http://x/\"\n{agent}{token}"),
            &["https://"],
        ),
        (
            "address without port",
            "mayfly-agent",
            agent.replace(":1", "") + token,
            &["server_address", "port"],
        ),
        (
            "misspelt key",
            "mayfly-agent",
            format!("{agent}{token}[workload_api]\nholdd = \"1s\"\n"),
            &["did you mean `hold`"],
        ),
    ];
    for (case, program, text, says) in cases {
        let name = if program == "mayfly-server" {
            "server.toml"
        } else {
            "agent.toml"
        };
        let path = dir.path().join(name);
        std::fs::write(&path, &text).unwrap();
        for verb in ["check-config", "run"] {
            let output = Command::new(binary(program))
                .args([verb, "--config"])
                .arg(&path)
                .output()
                .unwrap();
            let printed = String::from_utf8_lossy(&output.stderr);
            verdicts.text(
                &format!("{program} {verb}, {case}"),
                output.status.code(),
                &printed,
                2,
                says,
            );
            assert!(!printed.contains("squeamish"), "a secret is repeated");
        }
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        left.retain(|name| name != "server.toml" && name != "agent.toml");
        assert!(left.is_empty(), "{case}: it has made {left:?}");
    }
    let absent = Command::new(binary("mayfly-server"))
        .args(["run", "--config", "/nonexistent.toml"])
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&absent.stderr);
    verdicts.text(
        "no such file",
        absent.status.code(),
        &printed,
        2,
        &["/nonexistent.toml"],
    );
    verdicts.end();
}

// Promise 7
#[tokio::test(flavor = "multi_thread")]
async fn certificate_requests_are_refused_and_leave_no_trace() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin = server.admin();
    let bundle = admin.bundle().await;
    let tokens = [admin.token().await, admin.token().await];
    let agent = attest::join(attest::channel(server.port(), &bundle, None), &tokens[0])
        .await
        .unwrap();
    let entry = admin
        .create(&EntrySpec::new("/w", agent.svid.spiffe_id().as_str(), &["unix:uid:1"]))
        .await;
    let (good, _) = attest::csr();
    let mut bad_signature = good.clone();
    *bad_signature.last_mut().unwrap() ^= 1;
    let mut trailing = good.clone();
    trailing.push(0);
    let oversized = [good.clone(), vec![0; 5000]].concat();
    let truncated = good[..good.len() - 10].to_vec();
    let shapes: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], ""),
        ("noise", vec![0x30; 64], "well-formed"),
        ("truncated", truncated, "well-formed"),
        ("trailing octet", trailing, "well-formed"),
        ("oversized", oversized, "4096"),
        (
            "PEM instead of DER",
            b"-----BEGIN CERTIFICATE REQUEST-----".to_vec(),
            "well-formed",
        ),
        ("signature does not verify", bad_signature, "signature"),
    ];
    let mut verdicts = Verdicts::default();
    let before = fingerprint(&server).await;
    let as_agent = attest::channel(server.port(), &bundle, Some(&agent));
    // The first call of an agent with a new SVID confirms that one: a change by design.
    let mut svids = SvidClient::new(as_agent.clone());
    let _ = svids
        .batch_new_x509svid(BatchNewX509svidRequest { params: vec![] })
        .await;
    let before = (Evidence::of(server.dir()).revision(), before.1, before.2, before.3);
    for (case, csr, says) in &shapes {
        let channel = attest::channel(server.port(), &bundle, None);
        let outcome = attest::attest(channel, attest::params("join_token", tokens[1].as_bytes(), csr.clone())).await;
        verdicts.status(
            &format!("AttestAgent, {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            says,
        );

        let params = vec![NewX509svidParams {
            entry_id: entry.clone(),
            csr: csr.clone(),
        }];
        let answer = svids
            .batch_new_x509svid(BatchNewX509svidRequest { params })
            .await
            .unwrap()
            .into_inner();
        let status = answer.results[0].status.clone().unwrap();
        let outcome = Err(Status::new(Code::from_i32(status.code), status.message));
        verdicts.status(
            &format!("BatchNewX509SVID, {case}"),
            outcome,
            Code::InvalidArgument,
            says,
        );

        let outcome = SvidClient::new(admin.channel())
            .mint_x509svid(MintX509svidRequest {
                csr: csr.clone(),
                ttl: 0,
            })
            .await;
        // It looks for the name first.
        let says = if *says == "signature" { "URI" } else { says };
        verdicts.status(
            &format!("MintX509SVID, {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            says,
        );
    }
    let mint = [
        ("another trust domain", "spiffe://other.org/x", 0, "example.org"),
        ("no path", "spiffe://example.org", 0, "example.org"),
        ("not SPIFFE", "https://example.org/x", 0, "SPIFFE ID"),
        ("the server's path", "spiffe://example.org/spire/server", 0, "reserved"),
        ("an agent's path", "spiffe://example.org/spire/agent/x", 0, "reserved"),
        (
            "a task's path",
            "spiffe://example.org/task/pay/migrate/x",
            0,
            "reserved",
        ),
        (
            "an emergency's path",
            "spiffe://example.org/breakglass/x",
            0,
            "reserved",
        ),
        ("two slashes", "spiffe://example.org//x", 0, "SPIFFE ID"),
        ("negative lifetime", "spiffe://example.org/x", -1, "lifetime"),
        ("lifetime of 5 s", "spiffe://example.org/x", 5, "lifetime"),
    ];
    for (case, uri, ttl, says) in mint {
        let (csr, _) = attest::csr_for(uri);
        let outcome = SvidClient::new(admin.channel())
            .mint_x509svid(MintX509svidRequest { csr, ttl })
            .await;
        verdicts.status(
            &format!("MintX509SVID, {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            says,
        );
    }
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    verdicts.end();
    // The token of the refused requests is as good as ever.
    attest::join(attest::channel(server.port(), &bundle, None), &tokens[1])
        .await
        .unwrap();
}

// Promise 7
#[tokio::test(flavor = "multi_thread")]
async fn evidence_of_nodes_is_refused_and_leaves_no_trace() {
    let _lane = Lane::shared();
    let (ca, other_ca, dir) = (NodeCa::new(), NodeCa::new(), story_dir());
    let sections = format!(
        "[attestor.x509pop]\nca_bundle_path = \"{}\"\n",
        ca.file(dir.path()).display()
    );
    let server = Server::start_with(ServerOptions {
        sections,
        ..Default::default()
    })
    .await;
    let bundle = server.admin().bundle().await;
    let token = server.admin().token().await;
    let payload =
        |certificate: &[u8]| format!("{{\"certificates\":[\"{}\"]}}", STANDARD.encode(certificate)).into_bytes();
    let (node, foreign) = (ca.node("node"), other_ca.node("node"));
    let mut verdicts = Verdicts::default();
    let before = fingerprint(&server).await;
    let cases: Vec<(&str, &str, Vec<u8>, Code, &str)> = vec![
        ("empty token", "join_token", vec![], Code::InvalidArgument, "payload"),
        (
            "unknown token",
            "join_token",
            b"deadbeef".to_vec(),
            Code::InvalidArgument,
            "does not exist or has already been used",
        ),
        (
            "almost the token",
            "join_token",
            format!("{token}x").into_bytes(),
            Code::InvalidArgument,
            "does not exist",
        ),
        (
            "token with a slash",
            "join_token",
            b"a/b".to_vec(),
            Code::InvalidArgument,
            "not a join token",
        ),
        ("token of dots", "join_token", b"..".to_vec(), Code::InvalidArgument, ""),
        (
            "token that is not text",
            "join_token",
            vec![0xff; 36],
            Code::InvalidArgument,
            "not a join token",
        ),
        (
            "long token",
            "join_token",
            vec![b'a'; 300],
            Code::InvalidArgument,
            "not a join token",
        ),
        (
            "huge token",
            "join_token",
            vec![b'a'; 200 << 10],
            Code::InvalidArgument,
            "131072",
        ),
        ("no method", "", b"x".to_vec(), Code::InvalidArgument, ""),
        (
            "unknown method",
            "aws_iid",
            b"x".to_vec(),
            Code::FailedPrecondition,
            "join_token, x509pop",
        ),
        (
            "x509pop: not JSON",
            "x509pop",
            b"hello".to_vec(),
            Code::InvalidArgument,
            "malformed",
        ),
        (
            "x509pop: no certificate",
            "x509pop",
            b"{\"certificates\":[]}".to_vec(),
            Code::InvalidArgument,
            "malformed",
        ),
        (
            "x509pop: not base64",
            "x509pop",
            b"{\"certificates\":[\"%%%\"]}".to_vec(),
            Code::InvalidArgument,
            "malformed",
        ),
        (
            "x509pop: noise",
            "x509pop",
            payload(&[0x30; 100]),
            Code::InvalidArgument,
            "malformed",
        ),
        (
            "x509pop: another authority",
            "x509pop",
            payload(foreign.certificate.der()),
            Code::PermissionDenied,
            "refused",
        ),
    ];
    for (case, method, payload, code, says) in cases {
        let channel = attest::channel(server.port(), &bundle, None);
        let (csr, _) = attest::csr();
        let outcome = attest::attest(channel, attest::params(method, &payload, csr)).await;
        verdicts.status(case, outcome.map(drop), code, says);
    }
    // The certificate is right, and then the answer to the challenge is not.
    use mayfly_proto::spire::server::agent::{AttestAgentRequest, attest_agent_request::Step};
    for (case, answer) in [
        ("no JSON", b"hello".to_vec()),
        ("no signature", b"{}".to_vec()),
        ("huge", vec![b' '; 20 << 10]),
    ] {
        let (csr, _) = attest::csr();
        let messages = vec![
            attest::params("x509pop", &payload(node.certificate.der()), csr),
            AttestAgentRequest {
                step: Some(Step::ChallengeResponse(answer)),
            },
        ];
        let outcome = attest::attest_all(attest::channel(server.port(), &bundle, None), messages).await;
        verdicts.status(
            &format!("x509pop: answer with {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            "",
        );
    }
    // Messages in the wrong order.
    let messages = vec![AttestAgentRequest {
        step: Some(Step::ChallengeResponse(vec![1])),
    }];
    let outcome = attest::attest_all(attest::channel(server.port(), &bundle, None), messages).await;
    verdicts.status(
        "an answer before the question",
        outcome.map(drop),
        Code::InvalidArgument,
        "",
    );
    let messages = vec![AttestAgentRequest { step: None }];
    let outcome = attest::attest_all(attest::channel(server.port(), &bundle, None), messages).await;
    verdicts.status("an empty message", outcome.map(drop), Code::InvalidArgument, "");
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    verdicts.end();
    attest::join(attest::channel(server.port(), &bundle, None), &token)
        .await
        .unwrap();
}

/// An entry that is right but for what `change` does to it.
fn wrong(change: impl FnOnce(&mut Entry)) -> Entry {
    let mut entry = EntrySpec::new("/w", NODE, &["unix:uid:1"]).to_wire();
    change(&mut entry);
    entry
}

fn id(trust_domain: &str, path: &str) -> Option<Spiffeid> {
    Some(Spiffeid {
        trust_domain: trust_domain.into(),
        path: path.into(),
    })
}

// Promise 7; WAPI-25, XSVID-05
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_refused_field_by_field() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin = server.admin();
    let first = admin.create(&EntrySpec::new("/first", NODE, &["unix:uid:1"])).await;
    let mut verdicts = Verdicts::default();
    let before = fingerprint(&server).await;
    let bad = Code::InvalidArgument;
    let cases: Vec<(&str, Entry, Code, &str)> = vec![
        ("no spiffe_id", wrong(|e| e.spiffe_id = None), bad, "spiffe_id"),
        (
            "foreign spiffe_id",
            wrong(|e| e.spiffe_id = id("other.org", "/w")),
            bad,
            "other.org",
        ),
        ("no path", wrong(|e| e.spiffe_id = id("example.org", "")), bad, "path"),
        (
            "trailing slash",
            wrong(|e| e.spiffe_id = id("example.org", "/w/")),
            bad,
            "spiffe_id",
        ),
        (
            "dots",
            wrong(|e| e.spiffe_id = id("example.org", "/w/../x")),
            bad,
            "spiffe_id",
        ),
        (
            "escape",
            wrong(|e| e.spiffe_id = id("example.org", "/w%2fx")),
            bad,
            "spiffe_id",
        ),
        (
            "very long",
            wrong(|e| e.spiffe_id = id("example.org", &format!("/{}", "a".repeat(2100)))),
            bad,
            "spiffe_id",
        ),
        (
            "an agent's path",
            wrong(|e| e.spiffe_id = id("example.org", "/spire/agent/x")),
            bad,
            "reserved",
        ),
        (
            "a task's path",
            wrong(|e| e.spiffe_id = id("example.org", "/task/pay/x/y")),
            bad,
            "reserved",
        ),
        ("no parent", wrong(|e| e.parent_id = None), bad, "parent_id"),
        (
            "foreign parent",
            wrong(|e| e.parent_id = id("other.org", "/n")),
            bad,
            "other.org",
        ),
        (
            "its own parent",
            wrong(|e| e.parent_id = id("example.org", "/w")),
            bad,
            "own parent",
        ),
        ("no selectors", wrong(|e| e.selectors.clear()), bad, "selectors"),
        (
            "selector without type",
            wrong(|e| e.selectors[0].r#type.clear()),
            bad,
            "selector",
        ),
        (
            "selector without value",
            wrong(|e| e.selectors[0].value.clear()),
            bad,
            "value",
        ),
        (
            "101 selectors",
            wrong(|e| e.selectors = (0..101).map(|n| selector(&format!("unix:uid:{n}"))).collect()),
            bad,
            "100",
        ),
        (
            "huge selector",
            wrong(|e| e.selectors[0].value = "a".repeat(100_000)),
            bad,
            "selector",
        ),
        (
            "negative lifetime",
            wrong(|e| e.x509_svid_ttl = -1),
            bad,
            "x509_svid_ttl",
        ),
        (
            "lifetime of 10 years",
            wrong(|e| e.x509_svid_ttl = 315_360_000),
            bad,
            "x509_svid_ttl",
        ),
        ("negative expiry", wrong(|e| e.expires_at = -5), bad, "expires_at"),
        (
            "not a DNS name",
            wrong(|e| e.dns_names = vec!["not a name".into()]),
            bad,
            "not a name",
        ),
        ("hint of 1025 octets", wrong(|e| e.hint = "h".repeat(1025)), bad, "1025"),
        ("entry ID with a slash", wrong(|e| e.id = "a/b".into()), bad, "entry ID"),
        ("entry ID of 256", wrong(|e| e.id = "a".repeat(256)), bad, "255"),
        (
            "unknown federation",
            wrong(|e| e.federates_with = vec!["other.org".into()]),
            bad,
            "other.org",
        ),
        (
            "federation with itself",
            wrong(|e| e.federates_with = vec!["example.org".into()]),
            bad,
            "example.org",
        ),
        (
            "the ID of another",
            wrong(|e| e.id = first.clone()),
            Code::AlreadyExists,
            "",
        ),
    ];
    for (case, entry, code, says) in cases {
        verdicts.status(case, admin.try_create(entry).await.map(drop), code, says);
    }
    let update = Entry {
        id: first.clone(),
        hint: "h".repeat(2000),
        ..Default::default()
    };
    let mask = types::EntryMask {
        hint: true,
        ..Default::default()
    };
    verdicts.status(
        "update with a long hint",
        admin.try_update(update, mask).await.map(drop),
        bad,
        "hint",
    );
    let mask = types::EntryMask {
        selectors: true,
        ..Default::default()
    };
    let update = Entry {
        id: first.clone(),
        ..Default::default()
    };
    verdicts.status(
        "update without selectors",
        admin.try_update(update, mask).await.map(drop),
        bad,
        "selectors",
    );
    let update = Entry {
        id: "no-such-entry".into(),
        ..Default::default()
    };
    verdicts.status(
        "update of nothing",
        admin.try_update(update, mask).await.map(drop),
        Code::NotFound,
        "not found",
    );
    verdicts.status(
        "delete of nothing",
        admin.try_delete("no-such-entry").await,
        Code::NotFound,
        "not found",
    );
    verdicts.status("delete without ID", admin.try_delete("").await, bad, "entry.id");
    for (case, entries, code, says) in [
        (
            "1001 entries at once",
            vec![EntrySpec::new("/b", NODE, &["unix:uid:1"]).to_wire(); 1001],
            bad,
            "1000",
        ),
        (
            "5 MiB at once",
            vec![wrong(|e| e.hint = "h".repeat(50_000)); 100],
            Code::OutOfRange,
            "limit",
        ),
    ] {
        let batch = BatchCreateEntryRequest {
            entries,
            output_mask: None,
        };
        let outcome = admin.entries().batch_create_entry(batch).await;
        verdicts.status(case, outcome.map(drop), code, says);
    }
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    assert_eq!(admin.get(&first).await.unwrap().revision_number, 0);
    verdicts.end();
}

// Promise 7
#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_refused_whole() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin = server.admin();
    let mut bundles = BundleClient::new(admin.channel());
    let mut verdicts = Verdicts::default();
    let before = fingerprint(&server).await;
    let leaf = NodeCa::new().node("x");
    let certificate = |der: &[u8]| types::X509Certificate {
        asn1: der.to_vec(),
        tainted: false,
    };
    for (case, x509_authorities, says) in [
        ("noise", vec![certificate(&[0x30; 50])], "X.509"),
        ("nothing", vec![], "no authorities"),
        (
            "a leaf instead of an authority",
            vec![certificate(leaf.certificate.der())],
            "X.509",
        ),
        (
            "one good, one bad",
            vec![
                certificate(&server.admin().bundle().await.x509_authorities[0].cert_der),
                certificate(&[1]),
            ],
            "X.509",
        ),
    ] {
        let request = AppendBundleRequest {
            x509_authorities,
            ..Default::default()
        };
        let outcome = bundles.append_bundle(request).await;
        verdicts.status(
            &format!("AppendBundle, {case}"),
            outcome.map(drop),
            Code::InvalidArgument,
            says,
        );
    }
    let own = types::Bundle {
        trust_domain: "example.org".into(),
        ..Default::default()
    };
    let misnamed = types::Bundle {
        trust_domain: "spiffe://not a domain".into(),
        ..Default::default()
    };
    let noise = types::Bundle {
        trust_domain: "other.org".into(),
        x509_authorities: vec![certificate(&[1])],
        ..Default::default()
    };
    for (case, bundle, says) in [
        ("the own domain", own, "own trust domain"),
        ("no name", misnamed, ""),
        ("noise", noise, "X.509"),
    ] {
        let request = BatchSetFederatedBundleRequest {
            bundle: vec![bundle],
            output_mask: None,
        };
        let answer = bundles
            .batch_set_federated_bundle(request)
            .await
            .map(tonic::Response::into_inner);
        let outcome = answer.and_then(|answer| {
            let status = answer.results[0].status.clone().unwrap();
            if status.code == 0 {
                Ok(())
            } else {
                Err(Status::new(Code::from_i32(status.code), status.message))
            }
        });
        verdicts.status(
            &format!("BatchSetFederatedBundle, {case}"),
            outcome,
            Code::InvalidArgument,
            says,
        );
    }
    // By the CLI, from files.
    let (cli, dir) = (Cli::new(&server.socket()), story_dir());
    for (case, content, says) in [
        ("an empty file", "", "bundle"),
        ("not a bundle", "hello", "bundle"),
        ("PEM that is cut", "-----BEGIN CERTIFICATE-----\nMIIB\n", "bundle"),
        (
            "PEM of something else",
            "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n",
            "bundle",
        ),
        ("JSON of something else", "{\"keys\": 5}", "bundle"),
    ] {
        let path = dir.path().join("bundle");
        std::fs::write(&path, content).unwrap();
        let outcome = cli
            .run(&["bundle", "set", "--id", "other.org", "--path", path.to_str().unwrap()])
            .await;
        println!("bundle set, {case}: exit {:?}: {}", outcome.code, outcome.stderr);
        assert_ne!(outcome.code, Some(0), "{case}: accepted");
        assert!(
            outcome.stderr.contains("error:") && outcome.stderr.contains(says),
            "{case}: {}",
            outcome.stderr
        );
    }
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    verdicts.end();
}

// Promise 7: errors with hints; a misspelt selector type or an unknown parent is told at creation.
#[tokio::test(flavor = "multi_thread")]
async fn the_cli_refuses_with_hints_and_changes_nothing() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin: Admin = server.admin();
    admin
        .create(&EntrySpec::new(
            "/node/a",
            "spiffe://example.org/spire/server",
            &["x509pop:subject:cn:a"],
        ))
        .await;
    let before = fingerprint(&server).await;
    let cli = Cli::new(&server.socket());
    let mut verdicts = Verdicts::default();
    let web = ["--spiffe-id", "spiffe://example.org/web", "--parent-id", NODE];
    let create = |rest: &[&'static str]| [&["entry", "create"], &web[..], rest].concat();
    let cases: Vec<(&str, Vec<&str>, i32, &[&str])> = vec![
        (
            "nothing given",
            vec!["entry", "create"],
            2,
            &["--spiffe-id", "--parent-id", "--selector", "hint"],
        ),
        ("no such command", vec!["entri", "list"], 2, &["entry"]),
        (
            "no such option",
            create(&["--selektor", "unix:uid:1"]),
            2,
            &["--selector"],
        ),
        (
            "selector without colon",
            create(&["--selector", "unix"]),
            2,
            &["unix:uid:1000"],
        ),
        (
            "misspelt selector type",
            create(&["--selector", "unixx:uid:1000"]),
            2,
            &["unixx", "unix"],
        ),
        (
            "misspelt selector name",
            create(&["--selector", "unix:uuid:1000"]),
            2,
            &["uuid", "uid"],
        ),
        (
            "unknown parent",
            vec![
                "entry",
                "create",
                "--spiffe-id",
                "spiffe://example.org/web",
                "--parent-id",
                "spiffe://example.org/node/b",
                "--selector",
                "unix:uid:1",
            ],
            1,
            &["node/b", "--allow-unknown-parent"],
        ),
        (
            "not a SPIFFE ID",
            vec!["entry", "create", "--spiffe-id", "example.org/web"],
            2,
            &["is not a SPIFFE ID", "scheme"],
        ),
        (
            "bad lifetime",
            create(&["--selector", "unix:uid:1", "--x509-svid-ttl", "soon"]),
            2,
            &["soon", "15m"],
        ),
        (
            "no such file",
            vec!["entry", "create", "--file", "/nonexistent.json"],
            2,
            &["/nonexistent.json"],
        ),
        (
            "no such entry",
            vec!["entry", "delete", "no-such-entry"],
            5,
            &["no-such-entry"],
        ),
        (
            "no such agent",
            vec!["agent", "ban", "spiffe://example.org/spire/agent/x"],
            5,
            &["spire/agent/x"],
        ),
        ("lifetime of a token", vec!["token", "create", "--ttl=-1"], 2, &["ttl"]),
    ];
    for (case, args, code, says) in cases {
        let outcome = cli.run(&args).await;
        verdicts.text(case, outcome.code, &outcome.stderr, code, says);
        assert_eq!(outcome.stdout, "", "{case}: errors go to stderr");
    }
    // Nobody listens there.
    let outcome = Cli::new(&server.dir().join("nobody.sock"))
        .run(&["entry", "list"])
        .await;
    verdicts.text(
        "no server",
        outcome.code,
        &outcome.stderr,
        3,
        &["nobody.sock", "mayfly-server run"],
    );
    assert_eq!(fingerprint(&server).await, before, "something has changed");
    verdicts.end();
}

// Promise 7: rule 6 of the design, no anonymous administrator
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_an_operator_changes_nothing() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let admin = server.admin();
    let bundle = admin.bundle().await;
    let agent = attest::join(attest::channel(server.port(), &bundle, None), &admin.token().await)
        .await
        .unwrap();
    let before = fingerprint(&server).await;
    let mut stranger = mayfly_tests::Caller::spawn(41_003);
    let connection: UnixStream = stranger.connect(&server.socket());
    let callers = [
        (
            "another user on the local socket",
            mayfly_tests::caller::channel_over(connection),
            Code::PermissionDenied,
        ),
        (
            "anonymous by TLS",
            attest::channel(server.port(), &bundle, None),
            Code::Unauthenticated,
        ),
        (
            "an agent",
            attest::channel(server.port(), &bundle, Some(&agent)),
            Code::PermissionDenied,
        ),
    ];
    let mut verdicts = Verdicts::default();
    for (who, channel, code) in callers {
        let as_them = Admin::over(channel);
        let outcome = as_them
            .try_create(EntrySpec::new("/w", NODE, &["unix:uid:1"]).to_wire())
            .await;
        verdicts.status(&format!("{who} creates an entry"), outcome.map(drop), code, "");
        verdicts.status(
            &format!("{who} makes a token"),
            as_them.try_token().await.map(drop),
            code,
            "",
        );
        let outcome = as_them.try_ban(agent.svid.spiffe_id().as_str()).await;
        verdicts.status(&format!("{who} bans an agent"), outcome, code, "");
        let (csr, _) = attest::csr_for("spiffe://example.org/w");
        let outcome = SvidClient::new(as_them.channel())
            .mint_x509svid(MintX509svidRequest { csr, ttl: 0 })
            .await;
        verdicts.status(&format!("{who} mints an SVID"), outcome.map(drop), code, "");
    }
    let after = fingerprint(&server).await;
    // The agent's SVID was used for the first time, which is a commit; nothing else is different.
    assert_eq!(
        (after.1, after.2, after.3),
        (before.1, before.2, before.3),
        "something has changed"
    );
    verdicts.end();
}
