//! Everybody comes back at once: the server was killed, and all agents find out at the same moment.

use std::time::{Duration, Instant};

use mayfly_proto::mayfly::agent::{Ack, WatchRequest, watch_request, watch_response};
use mayfly_tests::faults::{resident, seen};
use mayfly_tests::{Agent, Caller, Lane, Millis, attest, effort};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{RECOVERY, readers, register, served_anew};
use crate::durability::open_server;

const USER: u32 = 41_001;

/// Follows the server until it is gone; tells when it was told everything. Comes back at once, as often as it takes.
async fn follow(channel: Channel, told: watch::Sender<Option<Instant>>, mut up: watch::Receiver<u32>) {
    loop {
        if let Ok((answers, mut stream)) = readers::watch(channel.clone()).await {
            while let Ok(Some(message)) = stream.message().await {
                if let Some(watch_response::Body::Update(update)) = message.body
                    && !update.more
                {
                    let body = Some(watch_request::Body::Ack(Ack {
                        revision: update.revision,
                        rejected: vec![],
                    }));
                    // Full never, as one update is told at a time; closed if it has ended.
                    let _ = answers.try_send(WatchRequest { body });
                    told.send_replace(Some(Instant::now()));
                }
            }
        }
        told.send_replace(None);
        // All at the same moment, and again as fast as an agent would.
        let _ = tokio::time::timeout(Duration::from_millis(250), up.changed()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_agents_come_back_at_once_after_the_server_was_killed() {
    let _lane = Lane::alone();
    let count: usize = effort(200, 1_000);
    let mut server = open_server().await;
    let agent = Agent::join(&server).await;
    register(&server, &agent, "/user", USER, 3_600).await;
    let mut user = Caller::spawn(USER);
    let admin = server.admin();
    let bundle = admin.bundle().await;
    let (up, _) = watch::channel(0);
    let (mut followers, mut told) = (JoinSet::new(), vec![]);
    for _ in 0..count {
        let channel = attest::channel(server.port(), &bundle, None);
        let joined = attest::join(channel, &admin.token().await).await.unwrap();
        let channel = attest::channel(server.port(), &bundle, Some(&joined));
        let (tell, heard) = watch::channel(None);
        followers.spawn(follow(channel, tell, up.subscribe()));
        told.push(heard);
    }
    for heard in &mut told {
        let all = heard.wait_for(Option::is_some);
        tokio::time::timeout(RECOVERY, all)
            .await
            .expect("everyone follows")
            .unwrap();
    }
    let before = resident(server.daemon.pid());

    server.daemon.kill();
    for heard in &mut told {
        heard.wait_for(Option::is_none).await.unwrap();
    }
    server.daemon.start();
    let ready = server.wait_ready().await;
    let begun = Instant::now();
    up.send_replace(1);
    let mut back = Millis::default();
    for heard in &mut told {
        let all = heard.wait_for(Option::is_some);
        let told = *tokio::time::timeout(RECOVERY, all)
            .await
            .expect("everyone is back")
            .unwrap();
        back.push(told.expect("waited for").saturating_duration_since(begun));
    }
    register(&server, &agent, "/after", USER, 3_600).await;
    let (_, served) = served_anew(&mut user, &agent, "").await;
    let after = resident(server.daemon.pid());
    let new = attest::join(attest::channel(server.port(), &bundle, None), &admin.token().await).await;
    assert!(new.is_ok(), "a newcomer is refused: {:?}", new.err());
    println!("{count} agents told everything: {back}");
    seen(
        &format!("kill -9 of the server with {count} agents connected (all of them and it on this machine)"),
        &format!(
            "ready after {ready:.0?}; {count} TLS connections and watches back p50 {:.1?}, last {:.1?}; a workload served \
             after {served:.1?}; memory {} MiB before, {} MiB after",
            back.quantile(0.5),
            back.quantile(1.0),
            before >> 20,
            after >> 20
        ),
    );
}
