use std::time::Duration;

use mayfly_proto::mayfly::workload::Revoked;
use tonic::Status;

use super::certs::{Leaf, new_window, now};
use super::house::{House, JOB, soon, wire};
use crate::kit::{Settings, Source, SourceError, Staleness};

#[tokio::test]
async fn it_registers_by_its_name_and_acknowledges_the_first_snapshot() {
    let house = House::open_with(|_| {}, |agent| agent.words().epoch = 7).await.unwrap();
    assert_eq!(house.agent.acknowledged(7).await.epoch, 7);
    assert_eq!(house.agent.words().hellos[0].checkpoint, "pay/db");
    assert_eq!(house.source.status().epoch, 7);
    assert_eq!(house.source.spiffe_id().unwrap().as_str(), "spiffe://td/ns/pay/db");
    // Signs of life are not acknowledged.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(house.agent.words().acks.len(), 1);
}

#[tokio::test]
async fn one_connection_to_the_agent_does_for_all_streams_and_another_one_after_a_refusal() {
    let house = House::open().await;
    house.agent.acknowledged(1).await;
    let counts = |words: &super::agent::Words| (words.streams, words.connections);
    assert_eq!(counts(&house.agent.words()), (2, 1));
    // To the agent a process is who it was when it connected: it may be somebody by another connection.
    house
        .agent
        .say(|words| words.denies = Some(Status::permission_denied("the calling process changed; connect again")));
    house.agent.until(|words| words.connections > 1).await;
    house.agent.say(|words| words.denies = None);
    soon("the identity", async {
        while house.source.spiffe_id().is_none() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn what_was_revoked_before_the_service_started_is_refused_from_its_first_connection_on() {
    let window = new_window();
    let prepare = |agent: &super::agent::FakeAgent| {
        agent.revoke(&window.to_string(), vec![]);
    };
    let house = House::open_with(|_| {}, prepare).await.unwrap();
    let job = house.ca.issue(&Leaf::task(JOB).in_window(window));
    assert!(house.refusal(&job).await.contains("Revoked"));
}

#[tokio::test]
async fn an_agent_that_is_started_anew_is_found_again_and_takes_nothing_back() {
    let house = House::open().await;
    let (job, _visit) = house.visit_of_job().await;
    let (_, mut other) = house.visit_of_job().await;
    let epoch = house.agent.revoke(&job.window.unwrap().to_string(), wire(&job.serial));
    house.agent.acknowledged(epoch).await;
    house.agent.stop().await;
    // Away: nothing changes while the word counts.
    other.talk().await;
    assert!(house.refusal(&job).await.contains("Revoked"));
    // Back, and it has not heard from its server: it knows of no revocation and says that it has no fresh word.
    house.agent.say(|words| {
        words.revoked.clear();
        words.acks.clear();
        words.lease_ms = 0;
        words.epoch = 0;
    });
    house.agent.listen();
    house.agent.until(|words| !words.acks.is_empty()).await;
    assert!(house.refusal(&job).await.contains("Revoked"));
    other.talk().await;
    let hellos = house.agent.words().hellos.clone();
    let instances: Vec<u64> = hellos.iter().map(|hello| hello.instance).collect();
    assert!(
        instances.len() == 2 && instances[0] == instances[1] && instances[0] != 0,
        "it came back: {hellos:?}"
    );
    assert!(!hellos[1].best_effort);
    // It has, and there is more.
    let (later, mut visit) = house.visit_of_job().await;
    house.agent.say(|words| words.lease_ms = 60_000);
    house.agent.revoke(&later.window.unwrap().to_string(), vec![]);
    visit.client_is_cut().await;
    // New bundles come as before.
    let second = super::TestCa::new("td");
    let both = vec![house.own.to_wire(&[&house.ca, &second])];
    house.agent.say(|words| words.svids.svids = both);
    let renewed = second.issue(&Leaf::task(JOB));
    soon("the second authority", async {
        while house.visit(&renewed).await.is_err() {}
    })
    .await;
}

#[tokio::test]
async fn a_service_does_not_start_before_it_knows_what_it_has_to() {
    let short = |settings: &mut Settings| settings.first_word = Duration::from_millis(300);
    let failed = House::open_with(short, |agent| {
        agent.words().denies = Some(Status::permission_denied("no"))
    })
    .await
    .err();
    assert!(matches!(failed, Some(SourceError::NoIdentity { .. })), "{failed:?}");
    let failed = House::open_with(short, |agent| agent.words().has_checkpoint = false)
        .await
        .err();
    assert!(matches!(failed, Some(SourceError::NoRevocations { .. })), "{failed:?}");
    // With an agent that knows nothing of tasks, best effort is what there is.
    let best_effort = |settings: &mut Settings| settings.staleness = Staleness::BestEffort;
    let house = House::open_with(best_effort, |agent| agent.words().has_checkpoint = false)
        .await
        .unwrap();
    house.visit_of_job().await.1.talk().await;
    let house = House::open_with(best_effort, |_| {}).await.unwrap();
    let hello = house.agent.words().hellos[0].clone();
    assert!(hello.best_effort && hello.instance != 0, "it says so: {hello:?}");
    let failed = Source::connect(Settings::new("/nowhere", "Not A Name")).await.err();
    assert!(matches!(failed, Some(SourceError::Settings(_))), "{failed:?}");
}

#[tokio::test]
async fn without_an_identity_nothing_is_shown() {
    let house = House::open().await;
    house
        .agent
        .say(|words| words.denies = Some(Status::permission_denied("no identity issued")));
    let job = house.ca.issue(&Leaf::task(JOB));
    soon("the withdrawal", async { while house.visit(&job).await.is_ok() {} }).await;
    assert_eq!(house.source.spiffe_id(), None);
    house.agent.say(|words| words.denies = None);
    soon("the identity", async {
        while house.visit(&job).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_broken_message_changes_nothing() {
    let house = House::open().await;
    house.agent.say(|words| {
        let mut broken = words.svids.svids[0].clone();
        broken.bundle.truncate(100);
        words.svids.svids = vec![broken];
    });
    house.agent.say(|words| words.svids.svids[0].x509_svid_key.clear());
    tokio::time::sleep(Duration::from_millis(200)).await;
    house.visit_of_job().await.1.talk().await;
}

#[tokio::test]
async fn what_is_not_understood_is_not_acknowledged_until_it_is_said_anew() {
    let house = House::open().await;
    house.agent.acknowledged(1).await;
    let (job, mut visit) = house.visit_of_job().await;
    house.agent.say(|words| {
        words.epoch = 2;
        words.revoked = vec![
            Revoked {
                window_id: "NOT A WINDOW".into(),
                serials: vec![],
                not_after: now() + 300,
                epoch: 2,
            },
            Revoked {
                window_id: job.window.unwrap().to_string(),
                serials: vec![],
                not_after: now() + 300,
                epoch: 2,
            },
        ];
    });
    // What is understood of it holds.
    visit.client_is_cut().await;
    // Signs of life come and go.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(house.agent.words().acks.iter().all(|ack| ack.epoch < 2));
    house.agent.stop().await;
    house
        .agent
        .say(|words| words.revoked.retain(|item| item.window_id != "NOT A WINDOW"));
    house.agent.listen();
    assert_eq!(house.agent.acknowledged(2).await.connections_ended, 1);
}

#[tokio::test]
async fn when_nobody_needs_it_any_more_it_leaves_the_agent_alone() {
    let house = House::open().await;
    let (_, visit) = house.visit_of_job().await;
    let agent = house.agent.clone();
    let super::house::Visit {
        server,
        client: _client,
    } = visit;
    drop(house);
    // A connection needs it.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(agent.words().streams, 2);
    drop(server);
    agent.until(|words| words.streams == 0).await;
}
