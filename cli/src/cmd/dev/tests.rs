//! What can be seen without the daemons; the whole of it is in the end-to-end tests.

use std::os::unix::fs::PermissionsExt;

use super::child::{Binaries, Child};
use super::layout::Layout;
use super::{config, own_id};

/// Takes the folder again. A process that another test starts at this moment holds the lock until its exec.
fn again(given: &std::path::Path) -> Layout {
    for _ in 0..1000 {
        if let Ok(layout) = Layout::prepare(given) {
            return layout;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    panic!("{} stays locked", given.display())
}

fn me() -> config::Me {
    config::Me::of(Some("Alice"), 1000)
}

#[test]
fn a_second_dev_in_one_folder_is_told_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let given = dir.path().join(".mayfly");
    let first = Layout::prepare(&given).unwrap();
    let error = Layout::prepare(&given).err().unwrap();
    assert!(error.to_string().contains(&format!(
        "runs in {} already (pid {})",
        given.display(),
        std::process::id()
    )));
    drop(first);
    again(&given);
}

#[test]
fn sockets_of_a_deep_folder_are_put_where_their_paths_are_short() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("d".repeat(60)).join("e".repeat(60));
    let layout = Layout::prepare(&deep).unwrap();
    assert!(layout.server_socket().as_os_str().len() <= 107);
    std::os::unix::net::UnixListener::bind(layout.server_socket()).unwrap();
    assert!(deep.join("server.sock").exists(), "the folder has a link to it");
    let short = layout.server_socket().parent().unwrap().to_owned();
    assert_eq!(std::fs::metadata(&short).unwrap().permissions().mode() & 0o777, 0o700);
    drop(layout);
    assert_eq!(
        again(&deep).server_socket().parent(),
        Some(short.as_path()),
        "the same each time"
    );
    std::fs::remove_dir_all(short).unwrap();
}

#[test]
fn a_later_start_keeps_the_trust_domain_of_the_first() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::prepare(dir.path()).unwrap();
    let (usual, acme) = ("dev.mayfly.local".parse().unwrap(), "acme.example".parse().unwrap());
    assert_eq!(layout.trust_domain(None).unwrap(), usual);
    assert_eq!(layout.trust_domain(Some(&acme)).unwrap(), acme);
    std::fs::write(layout.server_toml(), config::server(&layout, &acme, 4711, &me())).unwrap();
    assert_eq!(
        layout.trust_domain(Some(&usual)).unwrap(),
        usual,
        "a start that failed binds to nothing"
    );

    std::fs::create_dir(layout.server_data()).unwrap();
    std::fs::write(layout.server_data().join("mayfly.db"), "").unwrap();
    assert_eq!(layout.trust_domain(None).unwrap(), acme);
    let error = layout.trust_domain(Some(&usual)).unwrap_err();
    assert!(
        error.to_string().ends_with("belongs to the trust domain acme.example"),
        "{error}"
    );
}

#[test]
fn the_files_for_the_daemons_are_as_they_read_them() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::prepare(dir.path()).unwrap();
    let trust_domain = "dev.mayfly.local".parse().unwrap();
    let here = std::fs::canonicalize(dir.path()).unwrap();
    let shown = |text: String| text.replace(here.to_str().unwrap(), "<dir>");
    insta::assert_snapshot!(
        "server_toml",
        shown(config::server(&layout, &trust_domain, 4711, &me()))
    );
    insta::assert_snapshot!("agent_toml", shown(config::agent(&layout, &trust_domain, 4711)));
}

#[test]
fn a_missing_daemon_is_named_with_how_to_build_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = Binaries::find_beside(&dir.path().join("mayfly")).unwrap_err();
    assert!(error.to_string().starts_with("mayfly-server is not beside mayfly"));
    assert!(error.hints()[0].contains("cargo build"));
}

#[test]
fn a_user_name_that_no_id_may_hold_gives_way_to_the_number() {
    let trust_domain = "td".parse().unwrap();
    assert_eq!(
        own_id(&trust_domain, Some("alice"), 7).as_str(),
        "spiffe://td/user/alice"
    );
    assert_eq!(
        own_id(&trust_domain, Some("DOM\\bob"), 7).as_str(),
        "spiffe://td/user/7"
    );
    assert_eq!(own_id(&trust_domain, None, 7).as_str(), "spiffe://td/user/7");
}

#[tokio::test]
async fn a_daemon_that_dies_is_quoted_and_one_that_lives_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::prepare(dir.path()).unwrap();
    let script = |name: &str, body: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let config = layout.server_toml();
    let mut dies = Child::start("server", &script("dies", "echo cannot bind; exit 3"), &config, &layout).unwrap();
    let error = super::child::first_death(std::slice::from_mut(&mut dies)).await;
    assert_eq!(error.to_string(), "the server ended: exit code 3");
    assert!(error.hints()[0].ends_with("    cannot bind"), "{:?}", error.hints());

    let lives = Child::start(
        "agent",
        &script("lives", "trap 'exit 0' TERM; echo up; while :; do sleep 0.05; done"),
        &config,
        &layout,
    );
    let lives = lives.unwrap();
    while !lives.last_words().contains("up") {
        tokio::task::yield_now().await;
    }
    assert_eq!(lives.stop().await, Ok(()));
}
