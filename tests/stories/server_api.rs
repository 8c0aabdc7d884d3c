//! The server's API seen by the clients that others wrote for it: spire-api-sdk, grpc-go and go-spiffe, in the hands of
//! a program that calls as spire-agent, the spire-server CLI and spire-controller-manager do.
//!
//! The checks are in `clients/server_api`, one file a subject. Here each subject gets a server of its own.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use mayfly_tests::nodes::NodeCa;
use mayfly_tests::server::ServerOptions;
use mayfly_tests::{Lane, Program, Server, go_module};
use serde_json::Value;
use tokio::process::Command;

/// Nothing here takes longer by itself; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(600);

fn options(sections: &str) -> ServerOptions {
    ServerOptions {
        sections: format!("[limits]\nattestations_per_second = 1000\nattestation_burst = 1000\n{sections}"),
        ..ServerOptions::default()
    }
}

/// As [`drive`], twice: as an operator of the machine, and as one who comes over TCP with an SVID.
async fn drive_both(section: &str, least: usize) {
    drive(section, least, options(""), &[]).await;
    let remote = options("[roles]\nadmin_ids = [\"spiffe://example.org/operator\"]\n");
    drive(section, least, remote, &["-remote".to_owned()]).await;
}

/// Runs one section of the program against a fresh server; at least `least` checks have to hold, and none may fail.
async fn drive(section: &str, least: usize, options: ServerOptions, arguments: &[String]) {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let program = PROGRAM.get_or_init(|| go_module::build("server_api"));
    let server = Server::start_with(options).await;
    let mut command = Command::new(program);
    command
        .arg("-socket")
        .arg(server.socket())
        .arg("-address")
        .arg(format!("127.0.0.1:{}", server.port()))
        .args(arguments)
        .arg(section);
    let mut checks = Program::start(&format!("server_api {section}"), command);
    checks.expect("done", PATIENCE).await;
    for figure in checks.seen("figure") {
        println!("{section}: {}: {}", figure["name"].as_str().unwrap(), figure["value"]);
    }
    let all = checks.seen("check");
    let wrong: Vec<&&Value> = all.iter().filter(|check| check["ok"] != true).collect();
    println!("{section}: {} checks", all.len());
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(all.len() >= least, "only {} checks", all.len());
}

fn argument(name: &str, value: impl ToString) -> [String; 2] {
    [format!("-{name}"), value.to_string()]
}

fn path(name: &str, value: &Path) -> [String; 2] {
    argument(name, value.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn our_descriptors_are_those_of_the_sdk() {
    let _lane = Lane::shared();
    drive("descriptors", 300, options(""), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_published_method_admits_whom_the_table_says_and_nobody_else() {
    let _lane = Lane::shared();
    drive("matrix", 350, options(""), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_attests_renews_and_reads_why_it_is_refused() {
    let _lane = Lane::shared();
    drive_both("attest", 49).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_svid_expired_is_told_to_attest() {
    let _lane = Lane::shared();
    drive("expiry", 4, options("[svid]\nagent_ttl = \"5s\"\n"), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_proves_its_certificate_in_the_published_form() {
    let _lane = Lane::shared();
    let nodes = tempfile::tempdir().unwrap();
    let authority = NodeCa::new();
    let bundle = authority.file(nodes.path());
    let (certificate, key) = authority.node("node 1").files(nodes.path());
    let section = format!("[attestor.x509pop]\nca_bundle_path = {bundle:?}\n");
    let arguments = [path("node-certificate", &certificate), path("node-key", &key)].concat();
    drive("x509pop", 20, options(&section), &arguments).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_of_svids_answer_in_order_and_operators_mint() {
    let _lane = Lane::shared();
    drive_both("svids", 45).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_more_than_500_entries_fetches_what_it_does_not_hold() {
    let _lane = Lane::shared();
    drive("sync", 13, options(""), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_made_changed_and_removed_by_mask() {
    let _lane = Lane::shared();
    drive_both("entries", 80).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_listed_and_counted_by_every_filter_in_pages() {
    let _lane = Lane::shared();
    drive_both("filters", 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_listed_banned_and_evicted() {
    let _lane = Lane::shared();
    drive_both("agents", 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bundles_are_brought_changed_and_removed_in_three_ways() {
    let _lane = Lane::shared();
    drive_both("bundles", 50).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_tells_of_itself_and_changes_its_log_level() {
    let _lane = Lane::shared();
    drive("operate", 30, options(""), &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_probes_and_reconciles_until_nothing_is_left_to_do() {
    let _lane = Lane::shared();
    drive_both("controller", 15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_larger_than_clients_read() {
    let _lane = Lane::shared();
    drive_both("answers", 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_thousand_entries_of_one_agent_and_a_hundred_pages_of_a_thousand() {
    let _lane = Lane::shared();
    let arguments = [argument("authorized", 20_000), argument("listed", 100_000)].concat();
    drive("many", 7, options(""), &arguments).await;
}
