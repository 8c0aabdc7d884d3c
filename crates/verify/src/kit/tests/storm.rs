use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mayfly_svid::Timestamp;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::certs::{Leaf, new_window, now};
use super::house::{House, JOB, Visit, connector, soon};
use crate::kit::deny::Revocation;
use crate::kit::socket::SharedTcp;
use crate::kit::verifier::Tracking;
use crate::kit::{Connection, Ended, Matcher, Refusal, Show};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_live_connections_are_cut_by_one_revocation() {
    mayfly_runtime::raise_open_files_limit();
    const CONNECTIONS: usize = 1000;
    let house = House::open().await;
    let window = new_window();
    let job = house.ca.issue(&Leaf::task(JOB).in_window(window));
    let started = Instant::now();
    let mut visits = vec![];
    for _ in 0..CONNECTIONS {
        visits.push(house.visit(&job).await.unwrap());
    }
    let (_, mut bystander) = house.visit_of_job().await;
    println!("{CONNECTIONS} handshakes, both sides: {:?}", started.elapsed());
    assert_eq!(house.source.status().live, CONNECTIONS + 1);

    let mut readers = JoinSet::new();
    let ready = Arc::new(AtomicUsize::new(0));
    let mut kept = vec![];
    for Visit { server, mut client } in visits {
        // The server's program holds them and does nothing.
        kept.push(server);
        let ready = Arc::clone(&ready);
        readers.spawn(async move {
            ready.fetch_add(1, Ordering::SeqCst);
            let read = client.read(&mut [0]).await;
            assert!(!matches!(read, Ok(1..)));
            Instant::now()
        });
    }
    while ready.load(Ordering::SeqCst) < CONNECTIONS {
        tokio::task::yield_now().await;
    }
    let revoked = Instant::now();
    let epoch = house.agent.revoke(&window.to_string(), vec![]);
    let ack = house.agent.acknowledged(epoch).await;
    let acknowledged = revoked.elapsed();
    let mut cut: Vec<_> = soon("the end of all connections", readers.join_all())
        .await
        .into_iter()
        .map(|at| at.duration_since(revoked))
        .collect();
    cut.sort();
    println!(
        "revocation to cut, {CONNECTIONS} live: p50 {:?}, p99 {:?}, max {:?}; acknowledged after {acknowledged:?}",
        cut[CONNECTIONS / 2],
        cut[CONNECTIONS * 99 / 100],
        cut[CONNECTIONS - 1]
    );
    assert_eq!((ack.connections_ended as usize, ack.connections_left), (CONNECTIONS, 0));
    assert!(kept.iter().all(|server| server.peer().is_over()));
    assert_eq!(house.ended(Ended::Revoked) as usize, CONNECTIONS);
    bystander.talk().await;
}

// A handshake that was verified before a revocation and registered after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_while_handshakes_run_leaves_none_of_them_behind() {
    let house = Arc::new(House::open().await);
    let (mut let_in, mut refused) = (0, 0);
    for round in 0..100 {
        let job = house.ca.issue(&Leaf::task(JOB));
        let window = job.window.unwrap().to_string();
        let revoke = async {
            // Spread over the time that a handshake takes.
            tokio::time::sleep(Duration::from_micros(round * 15)).await;
            house.agent.acknowledged(house.agent.revoke(&window, vec![])).await;
        };
        let (visit, ()) = tokio::join!(house.visit(&job), revoke);
        match visit {
            Ok(visit) => {
                let_in += 1;
                assert_eq!(visit.server.peer().ended(), Some(Ended::Revoked), "round {round}");
            }
            Err(_) => refused += 1,
        }
    }
    println!("{let_in} let in and ended, {refused} refused");
    assert_eq!(house.source.status().live, 0);
}

// The order that the one above can only hope to meet: the change comes after the verification and before the
// registration.
#[tokio::test]
async fn what_changed_since_the_handshake_began_is_asked_for_again() {
    let house = House::open().await;
    let state = house.source.state();
    let wanted = Matcher::task("pay/db-migrate").unwrap();
    for revoked in [false, true] {
        let job = house.ca.issue(&Leaf::task(JOB));
        let config = house
            .source
            .server_config_with(wanted.clone(), Show::Base, Tracking::Tracked);
        let generation = state.generation();
        let address = house.listener.local_addr().unwrap();
        let client = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            connector(job.shown())
                .connect("td.invalid".try_into().unwrap(), tcp)
                .await
        };
        let server = async {
            let (tcp, _) = house.listener.accept().await.unwrap();
            TlsAcceptor::from(Arc::new(config))
                .accept(SharedTcp(Arc::new(tcp)))
                .await
        };
        let (client, server) = soon("the handshake", async { tokio::join!(client, server) }).await;
        let _client = client.unwrap();
        if revoked {
            state.revoke(&[Revocation {
                window: job.window,
                serials: vec![],
                not_after: Timestamp::from_unix(now() + 300),
            }]);
        }
        let registered = Connection::register(server.unwrap().into(), generation, &house.source, &wanted);
        match registered {
            Ok(_) => assert!(!revoked),
            Err(refusal) => assert!(revoked && matches!(refusal, Some(Refusal::Revoked { .. }))),
        }
    }
    assert_eq!(house.source.status().live, 0);
}
