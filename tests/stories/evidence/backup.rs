//! A database from another time is not taken for the present one.

use std::fs;
use std::path::Path;
use std::time::Duration;

use mayfly_tests::shown::Shown;
use mayfly_tests::{Server, eventually};

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
