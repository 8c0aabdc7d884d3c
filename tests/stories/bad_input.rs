//! What is wrong is refused with words that help, and changes nothing: a table for each boundary.
//!
//! Each row says what is sent, which code or exit code comes back, and what the message must say. After each table the
//! server is at the same revision, with the same entries, agents and tokens.

mod bundles;
mod cli;
mod config;
mod entries;
mod nodes;
mod operators;
mod requests;

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
