//! A database from another time is not taken for the present one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mayfly_tests::shown::Shown;
use mayfly_tests::{Server, ServerOptions, eventually};

/// Until a checkpoint covers what was done.
const PATIENCE: Duration = Duration::from_secs(10);

/// The files of the database, which a server that was stopped in order has left whole.
const DATABASE: &str = "server.db";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_start_on_an_old_backup_and_says_why_and_starts_on_the_right_one() {
    let mut server = Server::start().await;
    let folder = server.dir().join("server");
    let (backup, newest) = (server.dir().join("backup"), server.dir().join("newest"));
    server.daemon.stop();
    copy(&folder, &backup);

    server.daemon.start();
    server.wait_ready().await;
    for _ in 0..3 {
        server.admin().token().await;
    }
    server.daemon.stop();
    let mut shown = Shown::of(server.dir());
    shown.look();
    copy(&folder, &newest);

    copy(&backup, &folder);
    server.daemon.start();
    let status = server.daemon.wait(PATIENCE);
    assert!(!status.success(), "{status}");
    let log = server.daemon.log();
    assert!(log.contains("the database is older than its log"), "{log}");
    assert!(log.contains("Restore a newer one"), "{log}");

    copy(&newest, &folder);
    server.daemon.start();
    server.wait_ready().await;
    eventually("a checkpoint over what the start has added", PATIENCE, async || {
        shown.look();
        (shown.check() > 1).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_key_was_in_memory_goes_on_with_another_after_a_restart_loudly_and_says_so_itself() {
    let mut server = Server::start_with(ServerOptions {
        sections: "[authority]\nkey_manager = \"memory\"\n".into(),
        ..ServerOptions::default()
    })
    .await;
    assert!(server.daemon.log().contains("keys are kept in memory"));
    let mut shown = Shown::of(server.dir());
    shown.look();
    let said = "the key of the log is lost";
    assert!(!server.daemon.log().contains(said));
    for restarts in 1..=2 {
        server.daemon.stop();
        server.daemon.start();
        server.wait_ready().await;
        let log = server.daemon.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(said)).collect();
        assert_eq!(lines.len(), restarts, "{log}");
        assert!(
            lines[0].contains("ERROR") && lines[0].contains("docs/witness.md"),
            "{}",
            lines[0]
        );
    }
    // All that was shown under the lost keys is where it was, and the log names each of them.
    eventually("a checkpoint by the last key", PATIENCE, async || {
        shown.look();
        (shown.check() > 1).then_some(())
    })
    .await;
    let database = rusqlite::Connection::open(server.dir().join("server").join(DATABASE)).unwrap();
    let lost: i64 = database
        .query_row(
            "SELECT COUNT(*) FROM log WHERE kind = 'log.key_rotated' AND entry LIKE '%\"lost\":true%'",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(lost, 2);
}

/// Replaces the database in `to` by the one in `from`.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let is_database = |name: &str| name.starts_with(DATABASE);
    for file in fs::read_dir(to).unwrap() {
        let file = file.unwrap();
        if is_database(file.file_name().to_str().unwrap()) {
            fs::remove_file(file.path()).unwrap();
        }
    }
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if is_database(file.file_name().to_str().unwrap()) {
            fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}
