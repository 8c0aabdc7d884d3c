use mayfly_model::{Actor, Change, Revision, Step};
use mayfly_svid::Timestamp;
use serde_json::json;

use super::*;
use crate::conformance::{Fixture, own, suite};
use crate::{ArchiveReader, open_sqlite};

fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    Fixture {
        archive: {
            let path = path.clone();
            Box::new(move || ArchiveReader::open(&path).unwrap())
        },
        open: Box::new(move || open_sqlite(&path, &own()).unwrap()),
        _alive: Box::new(folder),
    }
}

suite!(fixture);

fn step(change: Change) -> Step {
    Step {
        actor: Actor::server(),
        time: Timestamp::from_unix(1_000_000),
        change,
    }
}

fn note(text: &str) -> Step {
    step(Change::Note {
        kind: "test.note",
        subject: String::new(),
        body: json!({ "text": text }),
    })
}

#[test]
fn the_files_are_for_the_server_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    std::fs::write(&path, "").unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let mut store = open_sqlite(&path, &own()).unwrap();
    store.commit(&[note("")]).unwrap();
    for name in ["server.db", "server.db-wal", "server.db-shm"] {
        let mode = std::fs::metadata(folder.path().join(name))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn a_database_of_another_trust_domain_or_a_newer_release_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    drop(open_sqlite(&path, &own()).unwrap());

    let error = open_sqlite(&path, &"other".parse().unwrap()).err().unwrap();
    assert!(matches!(&error, StoreError::ForeignTrustDomain { found, .. } if found == "td"));
    assert_eq!(
        error.to_string(),
        "the database belongs to the trust domain `td`, the server is configured for `other`"
    );
    drop(open_sqlite(&path, &own()).unwrap());

    let connection = Connection::open(&path).unwrap();
    connection
        .execute(
            "INSERT INTO refinery_schema_history SELECT 99, 'later', applied_on, checksum FROM refinery_schema_history WHERE version = 1",
            [],
        )
        .unwrap();
    let error = open_sqlite(&path, &own()).err().unwrap();
    assert!(
        matches!(error, StoreError::NewerSchema { found: 99, known: 3 }),
        "{error}"
    );
}

#[test]
fn what_is_no_database_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    std::fs::write(
        &path,
        "this is the file of somebody else, and long enough to look at".repeat(99),
    )
    .unwrap();
    let before = std::fs::read(&path).unwrap();
    assert!(matches!(open_sqlite(&path, &own()), Err(StoreError::Open { .. })));
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert!(matches!(
        open_sqlite(&folder.path().join("no/such/folder"), &own()),
        Err(StoreError::Open { .. })
    ));
}

#[test]
fn the_log_cannot_be_rewritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let mut store = open_sqlite(&path, &own()).unwrap();
    store.commit(&[note("a"), note("b")]).unwrap();
    let connection = Connection::open(&path).unwrap();
    for sql in ["UPDATE log SET entry = '{}'", "DELETE FROM log WHERE log_index = 1"] {
        let error = connection.execute(sql, []).unwrap_err();
        assert!(error.to_string().contains("append-only"), "{error}");
    }
    assert_eq!(ArchiveReader::open(&path).unwrap().size().unwrap(), 2);
}

#[test]
fn another_writer_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let mut one = open_sqlite(&path, &own()).unwrap();
    let mut other = open_sqlite(&path, &own()).unwrap();
    one.commit(&[note("a")]).unwrap();
    let error = other.commit(&[note("b")]).unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::ChangedElsewhere {
                expected: Revision(0),
                found: Revision(1)
            }
        ),
        "{error}"
    );
    other.load().unwrap();
    assert_eq!(other.commit(&[note("b")]).unwrap().revision, Revision(2));
}

/// Where each commit in a WAL file ends (SQLite file format §4.1 and §4.2).
fn commit_ends(wal: &[u8]) -> Vec<usize> {
    let number = |at: usize| u32::from_be_bytes(wal[at..at + 4].try_into().unwrap()) as usize;
    let frame = 24 + number(8);
    (32..=wal.len() - frame)
        .step_by(frame)
        .filter(|&at| number(at + 4) != 0)
        .map(|at| at + frame)
        .collect()
}

#[test]
fn a_first_start_that_was_cut_off_anywhere_can_be_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("server.db");
    let _open = open_sqlite(&path, &own()).unwrap();
    let (database, wal) = (
        std::fs::read(&path).unwrap(),
        std::fs::read(folder.path().join("server.db-wal")).unwrap(),
    );
    let ends = commit_ends(&wal);
    assert!(ends.len() > 1, "{ends:?}");
    for end in ends {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.db");
        std::fs::write(&path, &database).unwrap();
        std::fs::write(folder.path().join("server.db-wal"), &wal[..end]).unwrap();
        let opened = open_sqlite(&path, &own());
        assert!(opened.is_ok(), "cut off at {end}: {:?}", opened.err());
    }
}
