//! What the server says it did, it did once: under a thousand callers at once. Killed at any moment: `faults::kills`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use mayfly_proto::spire::server::bundle::GetBundleRequest;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_tests::evidence::Evidence;
use mayfly_tests::{Lane, Server, ServerOptions, attest};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

/// Enough for one address to be everybody.
pub(crate) const OPEN_DOORS: &str = "[limits]\nattestations_per_second = 100000\nattestation_burst = 100000\n\
                          attestations = 2000\nconnections_per_address = 4000\nhandshakes = 2000\n\
                          handshake_timeout = \"60s\"\n";
const AT_ONCE: usize = 1_000;
const CONNECTIONS: usize = 250;

pub(crate) async fn open_server() -> Server {
    Server::start_with(ServerOptions {
        sections: OPEN_DOORS.into(),
        ..Default::default()
    })
    .await
}

// Promise 5
#[tokio::test(flavor = "multi_thread")]
async fn one_join_token_offered_a_thousand_times_at_once_makes_one_agent() {
    let _lane = Lane::alone();
    let server = open_server().await;
    let admin = server.admin();
    let token = admin.token().await;
    let bundle = admin.bundle().await;
    let start = Arc::new(Barrier::new(AT_ONCE));
    let mut callers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let channel = attest::channel(server.port(), &bundle, None);
        for _ in 0..AT_ONCE / CONNECTIONS {
            let (channel, token, start) = (channel.clone(), token.clone(), Arc::clone(&start));
            callers.spawn(async move {
                let (csr, _) = attest::csr();
                // The handshake is done before the race begins.
                let mut bundles = BundleClient::new(channel.clone());
                bundles
                    .get_bundle(GetBundleRequest { output_mask: None })
                    .await
                    .expect("anybody may ask for the bundle");
                start.wait().await;
                attest::attest(channel, attest::params("join_token", token.as_bytes(), csr)).await
            });
        }
    }
    let begun = Instant::now();
    let (mut admitted, mut refused) = (0, BTreeMap::<(String, String), usize>::new());
    while let Some(outcome) = callers.join_next().await {
        match outcome.unwrap() {
            Ok(_) => admitted += 1,
            Err(status) => {
                *refused
                    .entry((format!("{:?}", status.code()), status.message().to_owned()))
                    .or_default() += 1;
            }
        }
    }
    println!(
        "{AT_ONCE} offers over {CONNECTIONS} connections, all answered after {:?}",
        begun.elapsed()
    );
    println!("admitted: {admitted}; refused: {refused:?}");
    assert_eq!(admitted, 1);
    // Each of them reached the decision, none was turned away for being too many.
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(admin.list_agents().await.len(), 1);
    let evidence = Evidence::of(server.dir());
    assert_eq!((evidence.count("agent.attested"), evidence.unused_tokens()), (1, 0));
}
