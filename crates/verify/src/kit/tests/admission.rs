use std::sync::Arc;
use std::time::Duration;

use mayfly_svid::Serial;
use rustls::HandshakeKind;
use rustls::client::Resumption;
use rustls::time_provider::DefaultTimeProvider;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::certs::{Leaf, TestCa, now};
use super::house::{House, JOB, soon, wire};
use crate::client_config;
use crate::dangerous::InsecureServerVerifier;
use crate::kit::time::TimeSource as _;
use crate::kit::{Lifetime, Matcher, Show, Staleness};

#[tokio::test]
async fn who_is_inside_a_window_of_the_task_is_let_in_and_known() {
    let house = House::open().await;
    let (job, mut visit) = house.visit_of_job().await;
    visit.talk().await;
    let peer = visit.server.peer();
    assert_eq!(peer.spiffe_id().as_str(), JOB);
    assert_eq!((peer.window(), peer.serial()), (job.window, &job.serial));
    assert_eq!(peer.task().unwrap().log_index, 42);
    assert!(peer.closes().unwrap().unix() > now() && !peer.is_over());
    let status = house.source.status();
    assert_eq!((status.live, status.refused, status.epoch), (1, 0, 1));
    drop(visit);
    assert_eq!(house.source.status().live, 0);
}

#[tokio::test]
async fn a_base_svid_is_refused_where_a_task_is_wanted() {
    let house = House::open().await;
    for id in [
        "spiffe://td/ns/pay/job",
        "spiffe://td/job",
        "spiffe://td/ns/task/pay/db-migrate/job",
    ] {
        let refusal = house.refusal(&house.ca.issue(&Leaf::base(id))).await;
        assert!(refusal.contains("NotWanted"), "{id}: {refusal}");
    }
    assert_eq!(house.source.status().refused, 3);
}

#[tokio::test]
async fn names_that_only_begin_like_the_task_are_refused() {
    let house = House::open().await;
    for id in [
        "spiffe://td/task/pay/db-migrate-all/job",
        "spiffe://td/task/pay/db/job",
        "spiffe://td/task/pay/db-migrate",
        "spiffe://td/task/payroll/db-migrate/job",
        "spiffe://td/tasks/pay/db-migrate/job",
        "spiffe://td/breakglass/pay/db-migrate/human/ann",
    ] {
        let refusal = house.refusal(&house.ca.issue(&Leaf::task(id))).await;
        assert!(refusal.contains("NotWanted"), "{id}: {refusal}");
    }
    // What is no SPIFFE ID at all.
    for id in [
        "spiffe://td/task/pay/../pay/db-migrate/job",
        "spiffe://td/task//pay/db-migrate/job",
    ] {
        let refusal = house.refusal(&house.ca.issue(&Leaf::task(id))).await;
        assert!(refusal.contains("SpiffeId"), "{id}: {refusal}");
    }
}

// X509-SVID §5.2
#[tokio::test]
async fn a_certificate_with_two_uri_names_is_refused() {
    let house = House::open().await;
    let two = Leaf::task(JOB).and_id("spiffe://td/task/pay/db-migrate/other");
    let refusal = house.refusal(&house.ca.issue(&two)).await;
    assert!(refusal.contains("UriNameCount { count: 2 }"), "{refusal}");
}

#[tokio::test]
async fn a_task_of_a_foreign_trust_domain_is_refused_and_so_is_one_under_the_wrong_bundle() {
    let house = House::open().await;
    let (other, stranger) = (TestCa::new("other"), TestCa::new("td"));
    house.agent.say(|words| {
        let der = other.bundle().x509_concatenated_der();
        words.svids.federated_bundles.insert("spiffe://other".into(), der);
    });
    let foreign = other.issue(&Leaf::task("spiffe://other/task/pay/db-migrate/ns/pay/job"));
    soon("the foreign bundle", async {
        while house.refusal(&foreign).await.contains("UnknownTrustDomain") {}
    })
    .await;
    let refusal = house.refusal(&foreign).await;
    assert!(refusal.contains("NotWanted"), "{refusal}");
    // A federated authority that signs our names, and one that nobody knows.
    for ca in [&other, &stranger] {
        let refusal = house.refusal(&ca.issue(&Leaf::task(JOB))).await;
        assert!(
            refusal.contains("UnknownIssuer") || refusal.contains("BadSignature"),
            "{refusal}"
        );
    }
    // Unless the service says so.
    let wanted = Matcher::task("pay/db-migrate")
        .unwrap()
        .in_trust_domain(&other.trust_domain);
    let acceptor = house.source.acceptor(wanted);
    house.visit_by(&acceptor, &foreign).await.unwrap().talk().await;
}

#[tokio::test]
async fn a_task_svid_has_to_say_its_window_and_the_window_has_to_be_open() {
    let house = House::open().await;
    let refusal = house
        .refusal(&house.ca.issue(&Leaf::task(JOB).without_extension()))
        .await;
    assert!(refusal.contains("NoWindow"), "{refusal}");
    let junk = Leaf::task(JOB).with_extension(&[0x30, 3, 2, 1, 9]);
    let refusal = house.refusal(&house.ca.issue(&junk)).await;
    assert!(refusal.contains("Extension"), "{refusal}");
    // The certificate itself would be valid for minutes.
    for closes in [-1, 0] {
        let refusal = house.refusal(&house.ca.issue(&Leaf::task(JOB).closes_in(closes))).await;
        assert!(refusal.contains("Expired"), "{refusal}");
    }
    let refusal = house.refusal(&house.ca.issue(&Leaf::task(JOB).expires_in(-1))).await;
    assert!(refusal.contains("Expired"), "{refusal}");
}

#[tokio::test]
async fn what_is_revoked_is_refused_by_window_and_by_serial_number() {
    let house = House::open().await;
    let [by_window, by_serial, renewed] = [(); 3].map(|()| house.ca.issue(&Leaf::task(JOB)));
    let again = house.ca.issue(&Leaf::task(JOB).in_window(by_window.window.unwrap()));
    house.visit(&by_window).await.unwrap();
    house.agent.revoke(&by_window.window.unwrap().to_string(), vec![]);
    let other_window = super::certs::new_window().to_string();
    let epoch = house.agent.revoke(&other_window, wire(&by_serial.serial));
    house.agent.acknowledged(epoch).await;
    for revoked in [&by_window, &by_serial, &again] {
        let refusal = house.refusal(revoked).await;
        assert!(refusal.contains("Revoked"), "{refusal}");
    }
    house.visit(&renewed).await.unwrap();
    assert_eq!(house.source.status().revoked, 2);
}

#[tokio::test]
async fn what_a_revocation_list_of_the_workload_api_names_is_refused_and_cut() {
    let house = House::open().await;
    let (job, mut visit) = house.visit_of_job().await;
    let list = house.ca.crl_of(7, std::slice::from_ref(&job.serial));
    house.agent.say(|words| words.svids.crl = vec![list]);
    visit.client_is_cut().await;
    let refusal = house.refusal(&job).await;
    assert!(refusal.contains("Revoked"), "{refusal}");
    house.visit_of_job().await.1.talk().await;
    // A list that a stranger signed does nothing.
    let stranger = TestCa::new("td");
    let (other, mut visit) = house.visit_of_job().await;
    let lists = vec![
        stranger.crl_of(9, std::slice::from_ref(&other.serial)),
        house.ca.crl_of(8, &[Serial::from_be_bytes(&[9]).unwrap()]),
    ];
    house.agent.say(|words| words.svids.crl = lists);
    soon("the second list", async {
        while house.visit(&job).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    visit.talk().await;
}

#[tokio::test]
async fn without_fresh_word_a_strict_service_refuses_tasks_and_one_of_best_effort_does_not() {
    for staleness in [Staleness::Strict, Staleness::BestEffort] {
        let set = |settings: &mut crate::kit::Settings| {
            settings.staleness = staleness;
            settings.lifetime = Some(Lifetime::Window);
        };
        // The agent says what it knows, and that it has no fresh word itself.
        let house = House::open_with(set, |agent| agent.words().lease_ms = 0).await.unwrap();
        let task = house.ca.issue(&Leaf::task(JOB));
        match staleness {
            Staleness::Strict => {
                let refusal = house.refusal(&task).await;
                assert!(refusal.contains("NoFreshWord"), "{refusal}");
            }
            Staleness::BestEffort => house.visit(&task).await.unwrap().talk().await,
        }
        // Base SVIDs do not depend on it.
        let acceptor = house.source.acceptor(Matcher::below("spiffe://td/ns").unwrap());
        let base = house.ca.issue(&Leaf::base("spiffe://td/ns/pay/job"));
        house.visit_by(&acceptor, &base).await.unwrap().talk().await;
        assert_eq!(house.source.status().lease, None);
    }
}

#[tokio::test]
async fn a_word_that_lay_unread_until_it_was_over_is_not_fresh() {
    // A process that was stopped reads what the agent told it long ago.
    let late = |agent: &super::agent::FakeAgent| agent.words().lease_until_ms = 1;
    let house = House::open_with(|_| {}, late).await.unwrap();
    let task = house.ca.issue(&Leaf::task(JOB));
    assert!(house.refusal(&task).await.contains("NoFreshWord"));
    let uptime = house.time.uptime();
    let until = u64::try_from((uptime + Duration::from_secs(30)).as_millis()).unwrap();
    house.agent.say(|words| words.lease_until_ms = until);
    soon("a fresh word", async { while house.visit(&task).await.is_err() {} }).await;
    let lease = house.source.status().lease.unwrap();
    assert!(
        lease <= Duration::from_secs(30),
        "{lease:?} of 60 s, of which 30 had passed"
    );
}

#[tokio::test]
async fn sessions_are_not_resumed_by_clients_that_would_like_to() {
    let house = House::open().await;
    let job = house.ca.issue(&Leaf::task(JOB));
    let mut config = client_config(
        Some(job.shown()),
        Arc::new(InsecureServerVerifier::new()),
        Arc::new(DefaultTimeProvider),
    );
    config.alpn_protocols.clear();
    config.resumption = Resumption::in_memory_sessions(16);
    config.enable_early_data = true;
    let connector = TlsConnector::from(Arc::new(config));
    for _ in 0..3 {
        let address = house.listener.local_addr().unwrap();
        let client = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            connector.connect("td.invalid".try_into().unwrap(), tcp).await.unwrap()
        };
        let server = async {
            let (tcp, _) = house.listener.accept().await.unwrap();
            house.acceptor.accept(tcp).await.unwrap()
        };
        let (mut client, mut server) = soon("the handshake", async { tokio::join!(client, server) }).await;
        let mut byte = [0];
        server.write_all(b"!").await.unwrap();
        server.flush().await.unwrap();
        client.read_exact(&mut byte).await.unwrap();
        let (_, tls) = client.get_ref();
        assert_eq!(tls.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(tls.tls13_tickets_received(), 0);
        assert!(!tls.is_early_data_accepted());
        assert_eq!(server.tls().handshake_kind(), Some(HandshakeKind::Full));
    }
}

#[tokio::test]
async fn a_client_of_the_kit_resumes_nothing_and_finds_its_server_by_the_matcher() {
    let house = House::open().await;
    let address = house.listener.local_addr().unwrap().to_string();
    // A server that offers tickets, and shows a base SVID of the same trust domain.
    let server = house.ca.issue(&Leaf::base("spiffe://td/ns/pay/other"));
    let mut config = house
        .source
        .server_config(Matcher::below("spiffe://td").unwrap(), Show::Base);
    config.cert_resolver = server.shown();
    config.send_tls13_tickets = 4;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(16);
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let wanted = Matcher::exact("spiffe://td/ns/pay/other").unwrap();
    let connector = house.source.connector(wanted);
    for _ in 0..2 {
        let accept = async {
            let (tcp, _) = house.listener.accept().await.unwrap();
            let mut tls = acceptor.accept(tcp).await.unwrap();
            tls.write_all(b"!").await.unwrap();
            tls
        };
        let (client, tls) = soon("the handshake", async {
            tokio::join!(connector.connect(&address), accept)
        })
        .await;
        let mut client = client.unwrap();
        client.read_exact(&mut [0]).await.unwrap();
        assert_eq!(client.peer().spiffe_id().as_str(), "spiffe://td/ns/pay/other");
        assert_eq!(tls.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    }
    let connector = house.source.connector(Matcher::exact("spiffe://td/ns/pay/db").unwrap());
    let accept = async {
        let (tcp, _) = house.listener.accept().await.unwrap();
        acceptor.accept(tcp).await.map(drop)
    };
    let (client, _) = soon("the handshake", async {
        tokio::join!(connector.connect(&address), accept)
    })
    .await;
    let refusal = format!("{:?}", client.unwrap_err());
    assert!(refusal.contains("NotWanted"), "{refusal}");
}

#[tokio::test]
async fn a_visitor_that_says_nothing_does_not_hold_the_door() {
    let house = House::open_with(
        |settings| settings.handshake = std::time::Duration::from_millis(100),
        |_| {},
    )
    .await
    .unwrap();
    let _tcp = TcpStream::connect(house.listener.local_addr().unwrap()).await.unwrap();
    let (tcp, _) = house.listener.accept().await.unwrap();
    let refused = soon("the deadline", house.acceptor.accept(tcp)).await;
    assert!(matches!(refused, Err(crate::kit::ConnectError::TimedOut)));
}
