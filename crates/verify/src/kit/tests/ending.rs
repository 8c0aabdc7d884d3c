use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mayfly_proto::mayfly::workload::EnforceAck;

use super::certs::{Leaf, TestCa, now};
use super::house::{House, JOB, soon, wire};
use crate::kit::{Ended, Lifetime, Matcher, Staleness};

#[tokio::test]
async fn a_revocation_cuts_live_connections_and_is_acknowledged_afterwards() {
    let house = House::open().await;
    let (job, mut visit) = house.visit_of_job().await;
    let (_, mut bystander) = house.visit_of_job().await;
    // At the moment of the acknowledgement it holds.
    let seen = Arc::new(Mutex::new(vec![]));
    let (peer, state) = (visit.server.peer().clone(), Arc::clone(house.source.state()));
    let (noted, cert_der) = (Arc::clone(&seen), job.cert_der.clone());
    house.agent.words().on_ack = Some(Box::new(move |ack| {
        let matcher = Matcher::task("pay/db-migrate").unwrap();
        let refused = state.admit(&cert_der, &[], &matcher).is_err();
        noted.lock().unwrap().push((ack.epoch, refused, peer.is_over()));
    }));
    let epoch = house.agent.revoke(&job.window.unwrap().to_string(), wire(&job.serial));
    let ack = house.agent.acknowledged(epoch).await;
    assert_eq!((ack.connections_ended, ack.connections_left), (1, 0));
    assert_eq!(*seen.lock().unwrap(), [(epoch, true, true)]);
    visit.client_is_cut().await;
    assert_eq!(visit.server_is_told().await, Ended::Revoked);
    assert_eq!(visit.server.peer().over().await, Ended::Revoked);
    bystander.talk().await;
    assert_eq!(house.ended(Ended::Revoked), 1);
    // The next one counts from zero.
    let epoch = house.agent.revoke(&super::certs::new_window().to_string(), vec![]);
    assert_eq!(house.agent.acknowledged(epoch).await.connections_ended, 0);
}

#[tokio::test]
async fn a_revoked_serial_number_alone_cuts_its_connections() {
    let house = House::open().await;
    let (job, mut visit) = house.visit_of_job().await;
    house.agent.revoke("", wire(&job.serial)); // As the wire has it when the window goes on.
    visit.client_is_cut().await;
    assert_eq!(visit.server_is_told().await, Ended::Revoked);
}

#[tokio::test]
async fn the_end_of_the_window_cuts_without_any_message() {
    let house = House::open().await;
    // The certificate would be valid for five minutes.
    let job = house.ca.issue(&Leaf::task(JOB).closes_in(3));
    let closes = now() + 3;
    let mut visit = house.visit(&job).await.unwrap();
    visit.talk().await;
    house.agent.say(|words| words.silent = true);
    visit.client_is_cut().await;
    assert!(now() >= closes, "cut {} s early", closes - now());
    assert!(now() <= closes + 5, "cut {} s late", now() - closes);
    assert_eq!(visit.server_is_told().await, Ended::WindowOver);
    assert!(house.refusal(&job).await.contains("Expired"));
    assert_eq!(house.ended(Ended::WindowOver), 1);
}

#[tokio::test]
async fn a_connection_outlives_its_certificate_only_to_the_end_of_the_window() {
    let set = |lifetime| move |settings: &mut crate::kit::Settings| settings.lifetime = Some(lifetime);
    let svid = House::open_with(set(Lifetime::Svid), |_| {}).await.unwrap();
    let window = House::open_with(set(Lifetime::Window), |_| {}).await.unwrap();
    let mut short = svid
        .visit(&svid.ca.issue(&Leaf::task(JOB).expires_in(2)))
        .await
        .unwrap();
    let leaf = Leaf::task(JOB).expires_in(2).closes_in(200);
    let mut long = window.visit(&window.ca.issue(&leaf)).await.unwrap();
    short.client_is_cut().await;
    assert_eq!(short.server_is_told().await, Ended::Expired);
    long.talk().await;
    // A base SVID has no window: its connections end with the certificate.
    let acceptor = window.source.acceptor(Matcher::below("spiffe://td/ns").unwrap());
    let base = window.ca.issue(&Leaf::base("spiffe://td/ns/pay/job").expires_in(2));
    let mut visit = window.visit_by(&acceptor, &base).await.unwrap();
    visit.client_is_cut().await;
    assert_eq!(visit.server_is_told().await, Ended::Expired);
    long.talk().await;
    window.time.pass(Duration::from_secs(201));
    assert_eq!(long.server_is_told().await, Ended::WindowOver);
}

#[tokio::test]
async fn losing_the_lease_refuses_and_cuts_when_strict_and_not_with_best_effort() {
    for staleness in [Staleness::Strict, Staleness::BestEffort] {
        let set = |settings: &mut crate::kit::Settings| settings.staleness = staleness;
        let house = House::open_with(set, |agent| agent.words().lease_ms = 1500)
            .await
            .unwrap();
        let (job, mut visit) = house.visit_of_job().await;
        let base = house.ca.issue(&Leaf::base("spiffe://td/ns/pay/job"));
        let acceptor = house.source.acceptor(Matcher::below("spiffe://td/ns").unwrap());
        let mut base = house.visit_by(&acceptor, &base).await.unwrap();
        // Signs of life renew it.
        tokio::time::sleep(Duration::from_secs(2)).await;
        visit.talk().await;
        let silent = Instant::now();
        house.agent.say(|words| words.silent = true);
        soon("the lease's end", async {
            while house.source.status().lease.is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        match staleness {
            Staleness::Strict => {
                visit.client_is_cut().await;
                println!("cut {:?} after the last word of 1.5 s", silent.elapsed());
                assert_eq!(visit.server_is_told().await, Ended::NoFreshWord);
                assert!(house.refusal(&job).await.contains("NoFreshWord"));
                // And again in when there is word.
                house.agent.say(|words| words.silent = false);
                soon("a fresh word", async {
                    while house.visit(&job).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                })
                .await;
            }
            Staleness::BestEffort => {
                visit.talk().await;
                house.visit(&job).await.unwrap();
            }
        }
        base.talk().await;
    }
}

// Clock jumps extend nothing.
#[tokio::test]
async fn setting_the_clock_back_extends_neither_a_window_nor_a_certificate() {
    let house = House::open().await;
    let closing = house.ca.issue(&Leaf::task(JOB).closes_in(3));
    let expiring = house.ca.issue(&Leaf::task(JOB).expires_in(2));
    let closes = now() + 3;
    let mut visit = house.visit(&closing).await.unwrap();
    house.time.jump(-600);
    visit.talk().await;
    visit.client_is_cut().await;
    assert!(now() >= closes && now() <= closes + 5, "{} s late", now() - closes);
    assert_eq!(visit.server_is_told().await, Ended::WindowOver);
    assert!(house.refusal(&closing).await.contains("Expired"));
    assert!(house.refusal(&expiring).await.contains("Expired"));
    house.visit_of_job().await.1.talk().await;
}

#[tokio::test]
async fn setting_the_clock_forward_ends_early_and_setting_it_back_again_revives_nothing() {
    let house = House::open().await;
    let (job, mut visit) = house.visit_of_job().await;
    house.time.jump(600);
    // Nobody has to wait for a timer: the next byte is refused.
    assert_eq!(visit.server_is_told().await, Ended::WindowOver);
    visit.client_is_cut().await;
    assert!(house.refusal(&job).await.contains("Expired"));
    house.time.jump(-600);
    assert!(visit.server.peer().is_over());
    // It is still inside its window by every clock.
    house.visit(&job).await.unwrap().talk().await;
    // What the machine slept through counts, for windows and for the agent's word.
    let (_, mut visit) = house.visit_of_job().await;
    house.agent.say(|words| words.silent = true);
    house.time.pass(Duration::from_secs(61));
    assert_eq!(visit.server_is_told().await, Ended::NoFreshWord);
}

#[tokio::test]
async fn an_idle_connection_is_cut_within_seconds_when_the_clock_is_set_past_its_end() {
    let house = House::open().await;
    let (_, mut visit) = house.visit_of_job().await;
    house.time.jump(600);
    let started = Instant::now();
    visit.client_is_cut().await;
    println!("cut {:?} after the jump", started.elapsed());
}

// The hard cut.
#[tokio::test]
async fn an_authority_that_is_taken_away_takes_its_connections_with_it() {
    let house = House::open().await;
    let second = TestCa::new("td");
    house
        .agent
        .say(|words| words.svids.svids = vec![house.own.to_wire(&[&house.ca, &second])]);
    let other = second.issue(&Leaf::task(JOB));
    soon("the second authority", async {
        while house.visit(&other).await.is_err() {}
    })
    .await;
    let mut visit = house.visit(&other).await.unwrap();
    let (_, mut bystander) = house.visit_of_job().await;
    house
        .agent
        .say(|words| words.svids.svids = vec![house.own.to_wire(&[&house.ca])]);
    visit.client_is_cut().await;
    assert_eq!(visit.server_is_told().await, Ended::AuthorityGone);
    let refusal = house.refusal(&other).await;
    assert!(
        refusal.contains("Unknown") || refusal.contains("BadSignature"),
        "{refusal}"
    );
    bystander.talk().await;
}

#[tokio::test]
async fn an_authority_that_has_done_its_time_takes_nothing_with_it() {
    let house = House::open().await;
    let second = TestCa::new("td");
    let both = vec![house.own.to_wire(&[&house.ca, &second])];
    house.agent.say(|words| words.svids.svids = both);
    let leaf = Leaf::task(JOB).expires_in(2).closes_in(200);
    let mut visit = soon("the second authority", async {
        loop {
            if let Ok(visit) = house.visit(&second.issue(&leaf)).await {
                return visit;
            }
        }
    })
    .await;
    // Its last certificate has expired, the window goes on.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let third = TestCa::new("td");
    let rotated = vec![house.own.to_wire(&[&house.ca, &third])];
    house.agent.say(|words| words.svids.svids = rotated);
    let new = third.issue(&Leaf::task(JOB));
    soon("the third authority", async {
        while house.visit(&new).await.is_err() {}
    })
    .await;
    visit.talk().await;
    assert_eq!(house.ended(Ended::AuthorityGone), 0);
}

#[tokio::test]
async fn connections_that_others_keep_are_counted_as_not_ended_until_their_window_is_over() {
    let house = House::open().await;
    // The window outlives the certificate, and the connection both.
    let job = house.ca.issue(&Leaf::task(JOB).expires_in(100).closes_in(200));
    let wanted = Matcher::task("pay/db-migrate").unwrap();
    let config = Arc::new(house.source.server_config(wanted, crate::kit::Show::Base));
    let address = house.listener.local_addr().unwrap();
    let client = async {
        let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
        super::house::connector(job.shown())
            .connect("td.invalid".try_into().unwrap(), tcp)
            .await
    };
    let server = async {
        let (tcp, _) = house.listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(config).accept(tcp).await
    };
    let (client, server) = soon("the handshake", async { tokio::join!(client, server) }).await;
    let _both = (client.unwrap(), server.unwrap());
    let epoch = house.agent.revoke(&job.window.unwrap().to_string(), wire(&job.serial));
    let ack = house.agent.acknowledged(epoch).await;
    assert_eq!((ack.connections_ended, ack.connections_left), (0, 1));
    // What else is revoked ends nothing of it.
    let other = || house.agent.revoke(&super::certs::new_window().to_string(), vec![]);
    let epoch = other();
    assert_eq!(house.agent.acknowledged(epoch).await.connections_left, 1);
    // Neither does another connection to the agent, which is told at once.
    house.agent.stop().await;
    house.agent.words().acks.clear();
    house.agent.listen();
    house.agent.until(|words| !words.acks.is_empty()).await;
    let first = house.agent.words().acks[0];
    assert_eq!((first.epoch, first.connections_left), (epoch, 1));
    house.time.pass(Duration::from_secs(150));
    let epoch = other();
    assert_eq!(house.agent.acknowledged(epoch).await.connections_left, 1);
    // The end of the window is told by itself.
    house.time.pass(Duration::from_secs(51));
    let is_told = |ack: &EnforceAck| (ack.epoch, ack.connections_left) == (epoch, 0);
    house.agent.until(|words| words.acks.last().is_some_and(is_told)).await;
}

#[tokio::test]
async fn work_that_outlives_its_connection_is_told_as_well() {
    let house = House::open().await;
    let (job, visit) = house.visit_of_job().await;
    let peer = visit.server.peer().clone();
    drop(visit);
    assert_eq!(house.source.status().live, 0);
    assert!(!peer.is_over());
    let epoch = house.agent.revoke(&job.window.unwrap().to_string(), vec![]);
    assert_eq!(soon("the end", peer.over()).await, Ended::Revoked);
    // There was no connection to end.
    assert_eq!(house.agent.acknowledged(epoch).await.connections_ended, 0);
    assert_eq!(house.ended(Ended::Revoked), 0);
}
