//! Who gets which identity. What workloads do with it through rotations and restarts: `clients::pairs`.

use mayfly_tests::caller::{ids, svid};
use mayfly_tests::daemon::story_dir;
use mayfly_tests::nodes::NodeCa;
use mayfly_tests::{Agent, AgentOptions, Caller, EntrySpec, Join, Lane, Server, ServerOptions, selector};
use tonic::Code;

const WEB: u32 = 41_001;
const DB: u32 = 41_002;
const STRANGER: u32 = 41_003;

// Promise 2; WEP-20, WEP-21, WEP-27, WAPI-06, WAX-01, WAX-02, WAX-16, IOP-14
#[tokio::test(flavor = "multi_thread")]
async fn two_users_get_their_own_svids_and_the_third_gets_none() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let agent = Agent::join(&server).await;
    let admin = server.admin();
    admin
        .create(&EntrySpec::new("/web", agent.id(), &[&format!("unix:uid:{WEB}")]))
        .await;
    admin
        .create(&EntrySpec::new(
            "/db",
            agent.id(),
            &[&format!("unix:uid:{DB}"), &format!("unix:gid:{DB}")],
        ))
        .await;

    let (mut web, mut db, mut stranger) = (Caller::spawn(WEB), Caller::spawn(DB), Caller::spawn(STRANGER));
    let web_gets = web.workload(&agent.socket()).fetch().await.unwrap();
    let db_gets = db.workload(&agent.socket()).fetch().await.unwrap();
    assert_eq!(ids(&web_gets), ["spiffe://example.org/web"]);
    assert_eq!(ids(&db_gets), ["spiffe://example.org/db"]);
    for answer in [&web_gets, &db_gets] {
        assert_eq!(svid(&answer.svids[0]).spiffe_id().as_str(), answer.svids[0].spiffe_id);
    }
    assert_ne!(web_gets.svids[0].x509_svid_key, db_gets.svids[0].x509_svid_key);

    let refused = stranger.workload(&agent.socket()).fetch().await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, "no identity issued")
    );
}

// Promise 2; the flow of nodes with certificates, renewal and restart included
#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_certificate_joins_again_and_again_as_the_same_agent() {
    let _lane = Lane::shared();
    let (ca, dir) = (NodeCa::new(), story_dir());
    let sections = format!(
        "[attestor.x509pop]\nca_bundle_path = \"{}\"\n",
        ca.file(dir.path()).display()
    );
    let server = Server::start_with(ServerOptions {
        sections,
        ..Default::default()
    })
    .await;
    let (certificate, key) = ca.node("rack-7").files(dir.path());
    let join = Join::X509Pop { certificate, key };
    let agent = Agent::join_with(
        &server,
        AgentOptions {
            join: Some(join.clone()),
            ..Default::default()
        },
    )
    .await;
    let id = agent.id().to_owned();
    assert!(id.starts_with("spiffe://example.org/spire/agent/x509pop/"), "{id}");
    let admin = server.admin();
    let known = admin.get_agent(&id).await.unwrap();
    assert!(
        known.can_reattest && known.selectors.contains(&selector("x509pop:subject:cn:rack-7")),
        "{known:?}"
    );

    // Entries may name a set of nodes, by what is known of them.
    admin
        .create(&EntrySpec::new(
            "/racks",
            "spiffe://example.org/spire/server",
            &["x509pop:subject:cn:rack-7"],
        ))
        .await;
    admin
        .create(&EntrySpec::new(
            "/web",
            "spiffe://example.org/racks",
            &[&format!("unix:uid:{WEB}")],
        ))
        .await;
    let mut web = Caller::spawn(WEB);
    assert_eq!(
        ids(&web.workload(&agent.socket()).fetch().await.unwrap()),
        ["spiffe://example.org/web"]
    );

    // Another process with the same certificate and nothing else is the same agent.
    drop(agent);
    let mut again = Agent::prepare(
        &server,
        AgentOptions {
            join: Some(join),
            ..Default::default()
        },
    )
    .await;
    again.daemon.start();
    again.wait_ready().await;
    assert_eq!(admin.list_agents().await.len(), 1);
    assert_eq!(
        ids(&web.workload(&again.socket()).fetch().await.unwrap()),
        ["spiffe://example.org/web"]
    );
}
