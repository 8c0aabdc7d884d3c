//! The pace of those who have not shown who they are.

use super::*;

/// Says that every peer showed a certificate.
struct Certified;

impl Acceptor<DuplexStream> for Certified {
    type Io = DuplexStream;

    async fn accept(&self, socket: DuplexStream, peer: Peer) -> io::Result<Accepted<DuplexStream>> {
        let mut accepted = Accepted::new(socket, peer.clone());
        accepted.info = ConnInfo::new(peer, Some(Arc::new([])));
        Ok(accepted)
    }
}

/// Asks so many times at once on two connections; how long each had to wait, or `None` if it was refused.
async fn waits(acceptor: impl Acceptor<DuplexStream>, requests: usize) -> Vec<Option<Duration>> {
    let (dial, listener) = memory();
    let limits = Limits {
        max_requests_per_second: Some(20),
        ..Limits::default()
    };
    let _running = start(Server::new("test", listener, limits).acceptor(acceptor));
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(speak(connect(&dial).await).await.unwrap().0);
    }
    let begun = Instant::now();
    let asked = (0..requests).map(|number| {
        let mut client = clients[number % 2].clone();
        spawn(async move {
            let answer = get(&mut client, "/who").await.ok()?;
            text(answer).await;
            Some(begun.elapsed())
        })
    });
    let mut waits = Vec::new();
    for answer in asked.collect::<Vec<_>>() {
        waits.push(answer.await.unwrap());
    }
    waits.sort();
    waits
}

// Attack 28
#[tokio::test(start_paused = true)]
async fn requests_of_strangers_are_begun_at_a_pace_and_too_many_not_at_all() {
    let waits = waits(Plain, 60).await;
    let (refused, begun) = waits.split_at(waits.iter().filter(|wait| wait.is_none()).count());
    // Two at once, and then one every 50 ms within two seconds.
    assert_eq!((refused.len(), begun.len()), (18, 42));
    for (number, wait) in begun.iter().enumerate() {
        let due = Duration::from_millis(50) * u32::try_from(number.saturating_sub(1)).unwrap();
        let wait = wait.unwrap();
        assert!(
            wait >= due && wait < due + Duration::from_millis(10),
            "{number}: {wait:?}"
        );
    }
}

// Attack 28
#[tokio::test(start_paused = true)]
async fn who_has_shown_a_certificate_asks_as_often_as_it_likes() {
    let waits = waits(Certified, 60).await;
    assert!(waits.iter().all(|wait| *wait == Some(Duration::ZERO)), "{waits:?}");
}
