//! Connections that are opened for no good.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mayfly_tests::attack::honest::Honest;
use mayfly_tests::attack::http2::{self, Assault};
use mayfly_tests::attack::{Face, Stranger, Trial, tls, withstands};
use mayfly_tests::{Lane, attest, eventually};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::Scene;

/// Sets how many files a daemon may have open; gives what it was.
fn limit_open_files(pid: u32, limit: u64) -> u64 {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    // The hard limit stays, so that it can be set back.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let wanted = Rlimit {
        current: Some(limit),
        maximum,
    };
    prlimit(Some(pid), Resource::Nofile, wanted).unwrap().current.unwrap()
}

fn open_files(pid: u32) -> u64 {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as u64
}

// Attack 5
#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_file_descriptors_serves_whom_it_has_and_accepts_again_when_there_are_some() {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    for (face, pid, honest) in scene.faces().await {
        let daemon = if face.name() == "agent" {
            &scene.agent.daemon
        } else {
            &scene.server.daemon
        };
        let told = async |what: &str| {
            let patience = Duration::from_secs(60);
            eventually(what, patience, async || daemon.log().contains(what).then_some(())).await;
        };
        // Almost none left: new connections are refused, and what is there is served as ever.
        let before = limit_open_files(pid, open_files(pid) + 40);
        let mut stranger = face.stranger();
        let hold = move || (0..200).filter_map(|_| stranger.socket().ok()).collect::<Vec<_>>();
        let held = tokio::task::spawn_blocking(hold).await.unwrap();
        let begun = Instant::now();
        for _ in 0..50 {
            honest.call().await;
        }
        println!(
            "{}: 50 calls with almost no file descriptors left in {:?}",
            face.name(),
            begun.elapsed()
        );

        told("almost no file descriptors left").await;

        // None at all: who comes waits, and is accepted when there are some again.
        limit_open_files(pid, 1);
        let (late, mut stranger) = (honest.clone(), face.stranger());
        let late = tokio::spawn(async move { late.connect_and_call().await });
        let socket = tokio::task::spawn_blocking(move || stranger.socket().unwrap())
            .await
            .unwrap();
        told("cannot accept connections").await;
        drop((held, socket));
        limit_open_files(pid, before);
        let begun = Instant::now();
        late.await.unwrap();
        println!(
            "{}: who waited was served {:?} after there were some again",
            face.name(),
            begun.elapsed()
        );
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(
            daemon.log().matches("cannot accept connections").count() < 10,
            "{}",
            daemon.log_tail()
        );
    }
    scene.check_alive();
}

// Attack 5
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_gone_before_they_are_accepted_disturb_nobody() {
    each_face_withstands("5 connections aborted at once", |stranger, _| {
        u64::from(stranger.socket().is_ok())
    })
    .await;
}

// Attack 6
#[tokio::test(flavor = "multi_thread")]
async fn noise_instead_of_a_handshake_disturbs_nobody() {
    static SEED: AtomicU64 = AtomicU64::new(6);
    each_face_withstands("6 noise", |stranger, _| {
        tls::garbage(stranger, SEED.fetch_add(1, Ordering::Relaxed))
    })
    .await;
}

// Attack 6
#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_are_not_gone_on_with_disturb_nobody() {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    let [_, (face, pid, honest)] = scene.faces().await;
    let Face::Server { tls, .. } = &face else {
        unreachable!()
    };
    let hello = tls::hello(tls);
    for (name, opening) in [
        ("6 connections that say nothing", vec![]),
        ("6 half a ClientHello", hello[..hello.len() / 2].to_vec()),
        ("6 a ClientHello and no more", hello),
    ] {
        withstands(async || {
            let opening = opening.clone();
            Trial::new(name, pid, honest)
                .in_one_turn()
                .by_strangers(&face, move |stranger, running| tls::hold(stranger, &opening, running))
                .await
        })
        .await;
    }
    scene.check_alive();
}

// Attack 28: neither a certificate nor a token, so there is nothing that the disk is asked.
#[tokio::test(flavor = "multi_thread")]
async fn attestations_of_one_address_are_paced_and_leave_room_for_those_of_others() {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    let admin = scene.server.admin();
    let bundle = admin.bundle().await;
    let [_, (face, pid, honest)] = scene.faces().await;
    let runtime = tokio::runtime::Handle::current();
    let Face::Server { from, .. } = face else {
        unreachable!()
    };
    withstands(async || {
        let (runtime, bundle, port) = (runtime.clone(), bundle.clone(), scene.server.port());
        Trial::new("28 attestations with invented tokens", pid, honest)
            .attackers(8)
            .by(move || {
                let (runtime, bundle) = (runtime.clone(), bundle.clone());
                let mut channel = None;
                move |_: &dyn Fn() -> bool| {
                    let channel = channel.get_or_insert_with(|| {
                        let _inside = runtime.enter();
                        attest::channel_from(from, port, &bundle)
                    });
                    let flood = async {
                        let (csr, _) = attest::csr();
                        let refused =
                            attest::attest(channel.clone(), attest::params("join_token", b"a-guess", csr)).await;
                        assert!(refused.is_err());
                    };
                    runtime.block_on(flood);
                    1
                }
            })
            .await
    })
    .await;
    // Another address joins at once while the bucket of the first is empty.
    let token = admin.token().await;
    let begun = Instant::now();
    attest::join(attest::channel(scene.server.port(), &bundle, None), &token)
        .await
        .unwrap();
    println!("28: another address joins in {:?}", begun.elapsed());
    scene.check_alive();
}

// Attack 28
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_strangers_may_make_take_turns_however_fast_they_come() {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    for (name, assault) in [
        (
            "28 attestations or reflection, nothing in them",
            http2::streaming_calls as Assault,
        ),
        ("28 bundles, or SVIDs for nobody", http2::plain_calls),
    ] {
        for (face, pid, honest) in scene.faces().await {
            withstands(async || {
                let trial = Trial::new(format!("{name}, {}", face.name()), pid, honest);
                trial.attackers(8).by_frames(&face, assault).await
            })
            .await;
        }
    }
    scene.check_alive();
}

async fn each_face_withstands(
    name: &str,
    strike: impl Fn(&mut Stranger, &dyn Fn() -> bool) -> u64 + Clone + Send + 'static,
) {
    let _lane = Lane::alone();
    let mut scene = Scene::set().await;
    for (face, pid, honest) in scene.faces().await {
        let honest: &Honest = honest;
        withstands(async || {
            let trial = Trial::new(format!("{name}, {}", face.name()), pid, honest);
            trial.by_strangers(&face, strike.clone()).await
        })
        .await;
    }
    scene.check_alive();
}
