//! Certificates and bundles of running daemons, read by decoders of other make.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mayfly_tests::caller::ids;
use mayfly_tests::cli::Cli;
use mayfly_tests::{Agent, Caller, EntrySpec, Lane, Program, Server};
use serde_json::{Value, json};
use tonic::Code;

use super::passed;

const USER: u32 = 41_001;

/// Files that the decoder is to read.
struct Leaves {
    dir: PathBuf,
    all: Vec<Value>,
}

impl Leaves {
    fn add(&mut self, id: &str, chain: &[u8]) {
        let path = self.dir.join(format!("leaf-{}.der", self.all.len()));
        std::fs::write(&path, chain).unwrap();
        self.all.push(json!({"id": id, "chain": path}));
    }
}

/// The agent's own chain, as it keeps it.
fn chain_of_agent(agent: &Agent) -> Vec<u8> {
    let file = std::fs::read(agent.dir().join("agent/identity.json")).unwrap();
    let kept: Value = serde_json::from_slice(&file).unwrap();
    let chain = kept["svid_chain"].as_array().unwrap();
    chain
        .iter()
        .flat_map(|der| STANDARD.decode(der.as_str().unwrap()).unwrap())
        .collect()
}

fn der_of_pem(path: &Path) -> Vec<u8> {
    let pem = std::fs::read_to_string(path).unwrap();
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    assert_eq!(pem.matches("-----BEGIN").count(), 1, "one certificate");
    STANDARD.decode(lines.collect::<String>()).unwrap()
}

// SPID-08 SPID-20 SPID-21 SPID-23 SPID-24: what an operator writes is registered, kept, issued and handed out as it
// should be; the rows of certificates and bundles are named by the checks of issued.py.
#[tokio::test(flavor = "multi_thread")]
async fn every_certificate_that_is_issued_is_what_the_standards_say() {
    let _lane = Lane::shared();
    let mut server = Server::start().await;
    let stranger = Server::start().await;
    let agent = Agent::join(&server).await;
    let (admin, cli) = (server.admin(), Cli::new(&server.socket()));
    let selector = format!("unix:uid:{USER}");
    let longest = format!("/{}", "l".repeat(2048 - "spiffe://example.org/".len()));
    let mut wanted = vec![];
    for path in [&longest, "/case/a", "/case/A"] {
        admin.create(&EntrySpec::new(path, agent.id(), &[&selector])).await;
        wanted.push(format!("spiffe://example.org{path}"));
    }
    let too_long = EntrySpec::new(&format!("{longest}l"), agent.id(), &[&selector]);
    let refused = admin.try_create(too_long.to_wire()).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let written = [
        "--spiffe-id",
        "SPIFFE://Example.ORG/Folded",
        "--parent-id",
        agent.id(),
        "--selector",
        &selector,
    ];
    cli.json(&[&["entry", "create"], &written[..]].concat()).await;
    wanted.push("spiffe://example.org/Folded".into());

    let mut caller = Caller::spawn(USER);
    let answer = caller.workload(&agent.socket()).fetch().await.unwrap();
    let mut got = ids(&answer);
    got.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(got, wanted);
    assert_eq!(wanted.iter().map(String::len).max(), Some(2048));

    let mut leaves = Leaves {
        dir: server.dir().to_owned(),
        all: vec![],
    };
    for svid in &answer.svids {
        leaves.add(&svid.spiffe_id, &svid.x509_svid);
    }
    leaves.add(agent.id(), &chain_of_agent(&agent));
    let minted = server.dir().join("minted");
    let id = "spiffe://example.org/legacy/db";
    let folder = minted.to_str().unwrap();
    cli.json(&[
        "svid",
        "mint",
        "--spiffe-id",
        id,
        "--dns",
        "db.example.org",
        "--write",
        folder,
    ])
    .await;
    leaves.add(id, &der_of_pem(&minted.join("svid.pem")));

    let spiffe_bundle = server.dir().join("bundle.json");
    let shown = cli.run(&["bundle", "show", "--format", "spiffe"]).await;
    std::fs::write(&spiffe_bundle, shown.stdout).unwrap();
    let given = server.dir().join("issued.json");
    let content = json!({
        "leaves": leaves.all,
        "bundle": server.bundle_file().await,
        "spiffe_bundle": spiffe_bundle,
        "stranger": stranger.bundle_file().await,
        "port": server.port(),
    });
    std::fs::write(&given, content.to_string()).unwrap();
    let mut decoder = Program::python("issued.py", &[given.to_str().unwrap()]);
    decoder.expect("done", Duration::from_secs(120)).await;
    passed("issued.py", &decoder.seen("check"));

    // What was registered is on the disk as it was.
    server.restart().await;
    let mut kept: Vec<String> = admin
        .list()
        .await
        .iter()
        .map(|entry| mayfly_tests::admin::id_text(entry.spiffe_id.as_ref()))
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_decoder_names_the_rule_that_a_certificate_breaks() {
    let _lane = Lane::shared();
    let mut decoder = Program::python("defects.py", &[]);
    decoder.expect("done", Duration::from_secs(60)).await;
    let defects = decoder.seen("defect");
    for defect in &defects {
        let found: Vec<&str> = defect["found"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        match defect["expected"].as_str() {
            None => assert_eq!(found, Vec::<&str>::new(), "{defect}"),
            Some(row) => assert!(found.iter().any(|rows| rows.contains(row)), "{defect}"),
        }
    }
    println!("{} certificates, each with one defect or none", defects.len());
    assert!(defects.len() > 40);
}

// WEP-01 WEP-02 WEP-05 WEP-06
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_listens_on_its_unix_socket_alone() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let agent = Agent::join(&server).await;
    assert!(agent.socket().exists());
    let listening = tcp_listeners(agent.daemon.pid());
    assert_eq!(listening, Vec::<String>::new(), "the agent listens on TCP");
    // The same look finds what is there: the server has a port for agents.
    let found = tcp_listeners(server.daemon.pid());
    let port = format!(":{:04X}", server.port());
    assert!(found.iter().any(|address| address.ends_with(&port)), "{found:?}");
}

/// Local addresses on which a process listens, as `/proc/net/tcp` writes them.
fn tcp_listeners(pid: u32) -> Vec<String> {
    let sockets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| std::fs::read_link(fd.ok()?.path()).ok())
        .map(|link| link.display().to_string())
        .collect();
    let tables = ["tcp", "tcp6"].map(|table| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).unwrap());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    lines
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|fields| fields[3] == "0A" && sockets.contains(&format!("socket:[{}]", fields[9])))
        .map(|fields| fields[1].to_owned())
        .collect()
}
