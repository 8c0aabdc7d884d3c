#![allow(clippy::disallowed_methods, reason = "each test owns its tasks and ends with them")]

use std::{process::Command, sync::Arc};

use super::*;
use crate::attest::testing::{Stage, is_root};

const SOURCES: [PidSource; 2] = [PidSource::Connection, PidSource::Number];

fn look<T>(proc: Result<T, PeerError>) -> Result<T, PeerError> {
    proc
}

#[tokio::test]
async fn a_peer_is_who_connected() {
    let stage = Stage::new();
    for source in SOURCES {
        let (_client, server) = stage.own().await;
        let peer = PeerProcess::found_by(source, &server).unwrap();
        assert_eq!(peer.pid(), std::process::id());
        assert_eq!(
            (peer.uid(), peer.gid()),
            (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
        );
        assert!(peer.is_alive() && peer.start_time() > 0 && peer.fingerprint().exe.is_some());
        let exe = peer.inspect(|proc, _| look(proc.read_link("exe"))).unwrap();
        assert_eq!(
            exe,
            std::env::current_exe().unwrap().into_os_string().into_encoded_bytes()
        );
        assert_eq!(
            format!("{peer:?}"),
            format!("PeerProcess {{ pid: {}, uid: {}, .. }}", peer.pid(), peer.uid())
        );
    }
    let (_client, server) = stage.own().await;
    assert_eq!(PeerProcess::of(&server).unwrap().pid(), std::process::id());
}

#[tokio::test]
async fn a_child_is_not_its_parent() {
    let stage = Stage::new();
    for source in SOURCES {
        let mut child = stage.child("nothing");
        let peer = PeerProcess::found_by(source, &stage.accept().await).unwrap();
        assert_eq!(peer.pid(), child.child.id());
        child.act();
        peer.look().unwrap();
    }
}

#[tokio::test]
async fn a_peer_that_executes_another_program_is_refused_from_then_on() {
    let stage = Stage::new();
    for source in SOURCES {
        let mut child = stage.child("exec");
        let peer = PeerProcess::found_by(source, &stage.accept().await).unwrap();
        child.act();
        let error = peer.inspect(|_, status| look(Ok(status))).unwrap_err();
        assert!(matches!(error, PeerError::Changed { what: "program", .. }), "{error:?}");
        assert!(peer.is_alive());
    }
}

#[tokio::test]
async fn a_peer_that_changes_its_users_or_groups_is_refused_from_then_on() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    for (part, expected) in [
        ("setuid", "user"),
        ("saved uid", "user"),
        ("setgid", "group"),
        ("setgroups", "list of supplementary groups"),
    ] {
        let mut child = stage.child(part);
        let peer = PeerProcess::of(&stage.accept().await).unwrap();
        peer.look().unwrap();
        child.act();
        let error = peer.look().unwrap_err();
        assert!(
            matches!(error, PeerError::Changed { what, .. } if what == expected),
            "{part}: {error:?}"
        );
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    }
}

#[tokio::test]
async fn a_peer_that_changed_before_it_was_accepted_is_not_who_connected() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    for source in SOURCES {
        let mut child = stage.child("setuid");
        let server = stage.accept().await;
        child.act();
        let error = PeerProcess::found_by(source, &server).unwrap_err();
        assert!(
            matches!(
                error,
                PeerError::Changed {
                    what: "effective user",
                    ..
                }
            ),
            "{error:?}"
        );
    }
}

// Attack 18
#[tokio::test]
async fn a_peer_that_is_another_user_between_two_looks_is_stated_as_who_connected() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    let mut child = stage.child("another user for a while");
    let peer = PeerProcess::of(&stage.accept().await).unwrap();
    let stated = peer.inspect(|proc, status| {
        child.act();
        assert_eq!(proc.status()?.euid(), 65_534, "so it is at this moment");
        child.act();
        look(Ok(status))
    });
    assert_eq!(stated.unwrap().uids, [0; 4]);
}

// Attack 18
#[tokio::test]
async fn a_peer_that_was_seen_to_be_another_is_another_for_good() {
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    let mut child = stage.child("another user for a while");
    let peer = PeerProcess::of(&stage.accept().await).unwrap();
    child.act();
    peer.look().unwrap_err();
    child.act();
    let is_itself = peer.proc().look().unwrap().1;
    assert_eq!(peer.first.difference(&is_itself), None);
    for error in [peer.look().map(drop), peer.ensure_unchanged()].map(Result::unwrap_err) {
        assert!(matches!(error, PeerError::Changed { what: "user", .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_look_counts_for_a_moment_and_the_end_is_seen_at_once() {
    let stage = Stage::new();
    let mut child = stage.child("exec");
    let peer = PeerProcess::of(&stage.accept().await).unwrap();
    child.act();
    *peer.seen_at() = Instant::now() + Duration::from_secs(60);
    peer.ensure_unchanged().unwrap();
    *peer.seen_at() = Instant::now() - SEEN;
    let error = peer.ensure_unchanged().unwrap_err();
    assert!(matches!(error, PeerError::Changed { what: "program", .. }), "{error:?}");
    *peer.seen_at() = Instant::now() + Duration::from_secs(60);
    assert!(peer.ensure_unchanged().is_err());
    child.child.kill().unwrap();
    child.child.wait().unwrap();
    *peer.seen_at() = Instant::now() + Duration::from_secs(60);
    let error = peer.ensure_unchanged().unwrap_err();
    assert!(matches!(error, PeerError::Exited { .. }), "{error:?}");
}

#[tokio::test]
async fn an_opened_program_is_held_against_the_one_that_connected() {
    let stage = Stage::new();
    let (_client, server) = stage.own().await;
    let peer = PeerProcess::of(&server).unwrap();
    let own = std::env::current_exe().unwrap();
    peer.ensure_runs(&std::fs::File::open(&own).unwrap()).unwrap();
    // The same octets are not the same file.
    let copy = stage.folder().join("copy");
    std::fs::copy(&own, &copy).unwrap();
    let error = peer.ensure_runs(&std::fs::File::open(&copy).unwrap()).unwrap_err();
    assert!(matches!(error, PeerError::Changed { what: "program", .. }), "{error:?}");
}

#[tokio::test]
async fn what_was_read_of_a_peer_that_ended_meanwhile_does_not_count() {
    let stage = Stage::new();
    let mut child = stage.child("nothing");
    let peer = PeerProcess::of(&stage.accept().await).unwrap();
    let error = peer
        .inspect(|_, status| {
            child.child.kill().unwrap();
            child.child.wait().unwrap();
            Ok::<_, PeerError>(status)
        })
        .unwrap_err();
    assert!(matches!(error, PeerError::Exited { .. }), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_has_ended_is_an_error_reaped_or_not() {
    let stage = Stage::new();
    for source in SOURCES {
        for reap in [false, true] {
            let mut child = stage.child("leave");
            let server = stage.accept().await;
            if reap {
                child.child.wait().unwrap();
            } else {
                // Readable at the end of the stream: it has let go of everything, and is a zombie at once.
                server.readable().await.unwrap();
                while !is_hung_up(server.as_fd()) {
                    tokio::task::yield_now().await;
                }
                let pidfd = pidfd_open(Pid::from_child(&child.child), PidfdFlags::empty()).unwrap();
                while !has_ended(&pidfd) {
                    tokio::task::yield_now().await;
                }
            }
            let error = PeerProcess::found_by(source, &server).unwrap_err();
            assert!(
                matches!(error, PeerError::Exited { .. }),
                "{source:?}, reaped: {reap}: {error:?}"
            );
        }
    }
}

#[tokio::test]
async fn the_end_of_a_peer_wakes_all_who_wait_for_it() {
    let stage = Stage::new();
    let mut child = stage.child("nothing");
    let peer = Arc::new(PeerProcess::of(&stage.accept().await).unwrap());
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let peer = Arc::clone(&peer);
            tokio::spawn(async move { peer.exited().await })
        })
        .collect();
    tokio::task::yield_now().await;
    assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    child.child.kill().unwrap();
    for waiter in waiters {
        tokio::time::timeout(Duration::from_secs(20), waiter)
            .await
            .unwrap()
            .unwrap();
    }
    peer.exited().await;
    assert!(!peer.is_alive());
}

#[tokio::test]
async fn a_file_longer_than_its_limit_is_an_error() {
    let stage = Stage::new();
    let (_client, server) = stage.own().await;
    let peer = PeerProcess::of(&server).unwrap();
    let error = peer.inspect(|proc, _| look(proc.read_file("status", 10))).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("/proc/{}/status is longer than 10 bytes", peer.pid())
    );
    assert!(
        peer.inspect(|proc, _| look(proc.read_file("no-such-file", 10)))
            .is_err()
    );
    // One that does not fit into what is usual comes whole.
    let text = peer.inspect(|proc, _| look(proc.read_file("smaps", 1 << 24))).unwrap();
    assert!(
        text.len() > proc::USUAL && text.ends_with(b"\n"),
        "{} bytes",
        text.len()
    );
}

/// The number of a peer that has ended goes to another process before the peer is looked at.
#[tokio::test]
async fn a_process_that_got_the_number_of_a_peer_is_never_taken_for_it() {
    const RACES: usize = 1_000;
    const LAST: &str = "/proc/sys/kernel/ns_last_pid";
    if !is_root() {
        return;
    }
    let stage = Stage::new();
    let (mut reused, mut wrong) = (0, 0);
    for race in 0..RACES {
        // In a quarter of the races somebody else keeps the connection open, so that only the pidfd can tell.
        let open = race % 4 == 0;
        let mut peer = stage.child(if open { "leave with the socket open" } else { "leave" });
        let server = stage.accept().await;
        peer.child.wait().unwrap();
        let number = peer.child.id();
        // The next process gets the number after this one. Others on the machine may be quicker.
        std::fs::write(LAST, (number - 1).to_string()).unwrap();
        let mut usurper = Command::new("/bin/sleep").arg("60").spawn().unwrap();
        reused += usize::from(usurper.id() == number);
        let sources = if open { &SOURCES[..1] } else { &SOURCES[..] };
        for source in sources {
            wrong += usize::from(PeerProcess::found_by(*source, &server).is_ok());
        }
        usurper.kill().unwrap();
        usurper.wait().unwrap();
    }
    assert_eq!(wrong, 0, "of {RACES}, {reused} with the number reused");
    assert!(reused > RACES / 2, "only {reused} of {RACES} races got the number");
}
