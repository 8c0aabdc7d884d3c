//! A log that lost entries, or has others, is refused by everybody who remembers it: the agent, which then serves no
//! task SVIDs, and a witness elsewhere. Here the whole folder of the server goes, its own memory with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use mayfly_svid::{TaskExtension, X509Svid};
use mayfly_tests::binaries::binary;
use mayfly_tests::daemon::{free_port, story_dir};
use mayfly_tests::tasks::{JOB_UID, Job, PEOPLE, TaskWorld, UNATTENDED, asked};
use mayfly_tests::{Agent, Caller, EntrySpec, Lane, Program, eventually};
use mayfly_tlog::checkpoint::Checkpoint;
use mayfly_tlog::note::Note;
use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);
const WITNESS: &str = "witness.test/w";

/// A world whose log is watched by its agent and by a witness.
struct Watched {
    world: TaskWorld,
    witness: Program,
    witness_dir: TempDir,
}

impl Watched {
    async fn start() -> Self {
        let witness_dir = story_dir();
        let listen = format!("127.0.0.1:{}", free_port());
        let own = |arguments: &[&str]| {
            let mut command = Command::new(binary("mayfly"));
            command.args(["--output", "json", "audit", "witness", "--dir"]);
            command.arg(witness_dir.path().join("w")).args(arguments);
            command
        };
        let printed = own(&["--name", WITNESS, "--print-key"]).output().unwrap();
        let printed: Value = serde_json::from_slice(&printed.stdout).unwrap_or_else(|_| panic!("{printed:?}"));
        let key = printed["key"].as_str().unwrap();
        let sections = format!(
            "{PEOPLE}[watch]\nbeacon_interval = \"250ms\"\n\
             [[witnesses]]\nurl = \"http://{listen}\"\nkey = \"{key}\"\n"
        );
        let world = TaskWorld::start_among(UNATTENDED, &sections).await;
        let (_, keys) = page(world.server.health_port(), "/log/keys").await;
        let command = own(&["--listen", &listen, "--log", keys.trim()]);
        let mut witness = Program::start("witness", command.into());
        witness.expect("listening", PATIENCE).await;
        Self {
            world,
            witness,
            witness_dir,
        }
    }

    fn data(&self) -> PathBuf {
        self.world.server.dir().join("server")
    }

    /// The newest checkpoint, once the agent and the witness have cosigned it; its size.
    async fn settled(&self) -> u64 {
        let port = self.world.server.health_port();
        let agent = self.world.agent.id().trim_start_matches("spiffe://");
        eventually("both to cosign", PATIENCE, async || {
            let (status, note) = page(port, "/log/checkpoint").await;
            let note = Note::parse(note.as_bytes()).ok().filter(|_| status == 200)?;
            let has = |name: &str| note.signatures().iter().any(|signature| signature.name() == name);
            let size = Checkpoint::parse(note.text()).unwrap().size();
            (has(agent) && has(WITNESS)).then_some(size)
        })
        .await
    }

    /// Stops the server, has something done to its folder, and starts it again.
    fn restart(&mut self, change: impl FnOnce(&Path)) {
        self.world.server.daemon.stop();
        change(&self.data());
        self.world.server.daemon.start();
    }

    /// A task cannot be asked for on this node, and why; what there was of one is gone, and base SVIDs stay.
    async fn is_refused(&self, job: &Job, why: &[&str]) -> Duration {
        is_refused(&self.world.agent.socket(), job, why).await
    }

    /// The agent takes the log for good again: there are windows.
    async fn is_trusted(&self, job: &Job) {
        is_trusted(job).await;
    }

    /// How many requests the witness keeps as evidence.
    fn kept(&self) -> usize {
        std::fs::read_dir(self.witness_dir.path().join("w/refused")).map_or(0, Iterator::count)
    }

    async fn witness_refuses(&mut self) -> Value {
        let changed = |event: &Value| event["event"] == "refused" && event["log_changed"] == true;
        self.witness.find(PATIENCE, changed).await
    }
}

/// The agent behind `socket` refuses the log, for one of these reasons.
async fn is_refused(socket: &Path, job: &Job, why: &[&str]) -> Duration {
    let begun = Instant::now();
    let said = eventually("the agent to refuse the log", PATIENCE, async || {
        let refused = job.request(asked()).await.err()?;
        (refused.code() == tonic::Code::FailedPrecondition).then(|| refused.message().to_owned())
    })
    .await;
    assert!(why.iter().any(|why| said.contains(why)), "{said}");
    assert!(said.contains("docs/witness.md"), "{said}");
    assert!(job.task_svid().await.is_none());
    let mut other = Caller::spawn(JOB_UID);
    let base = other.workload(socket).fetch().await.unwrap();
    assert_eq!(base.svids.len(), 1, "base SVIDs stay");
    other.exit();
    begun.elapsed()
}

/// The agent takes the log for good again: there are windows.
async fn is_trusted(job: &Job) {
    let asked = eventually("the agent to trust the log", PATIENCE, async || {
        job.request(asked())
            .await
            .ok()
            .filter(|state| !state.request_id.is_empty())
    })
    .await;
    eventually("a window", PATIENCE, async || job.open(&asked.request_id).await.ok()).await;
    eventually("its SVID", PATIENCE, async || job.task_svid().await).await;
    job.complete(&asked.request_id).await.unwrap();
}

// S82, the second half of "must show" 1: a backup of everything, so that only those outside can tell.
#[tokio::test]
async fn an_old_copy_of_the_whole_folder_is_refused_by_agents_and_witness_and_then_by_the_server_itself() {
    let _lane = Lane::shared();
    let mut watched = Watched::start().await;
    let (backup, newest) = (
        watched.world.server.dir().join("backup"),
        watched.world.server.dir().join("newest"),
    );
    let mut job = watched.world.job(JOB_UID);
    job.enter().await;
    let before = watched.settled().await;
    watched.restart(|data| copy(data, &backup));
    watched.world.server.wait_ready().await;
    for _ in 0..5 {
        watched.world.server.admin().token().await;
    }
    let shown = watched.settled().await;
    eventually("the window's SVID after the restart", PATIENCE, async || {
        job.task_svid().await
    })
    .await;
    println!("the backup has {before} entries or some more, {shown} were shown");

    watched.restart(|data| {
        copy(data, &newest);
        copy(&backup, data);
    });
    let took = watched
        .is_refused(&job, &["it is shorter than it was", "it has another past"])
        .await;
    println!("refused by the agent, task SVID withdrawn: {took:?} after the start of the server");
    println!("refused by the witness: {}", watched.witness_refuses().await);
    let agent_log = watched.world.agent.daemon.log();
    assert!(agent_log.contains("the server's log is refused: task SVIDs withdrawn"));

    // The agent has shown the server what it signed: it says so, and signs nothing for tasks, for nobody.
    let (port, server) = (watched.world.server.health_port(), &watched.world.server);
    let (status, ready) = page(port, "/ready").await;
    // Whoever asks that page on behalf of others must not take base SVIDs from them.
    let told = "without task SVIDs: the database is not the one that belongs to the log that was shown";
    assert!(status == 200 && ready.contains(told), "{status}: {ready}");
    let (_, metrics) = page(port, "/metrics").await;
    assert!(metrics.contains("mayfly_server_log_doubted 1"), "{metrics}");
    assert!(
        server
            .daemon
            .log()
            .contains("this server's database is not the one that belongs to its log")
    );
    let newcomer = Agent::join(server).await;
    let uid = JOB_UID + 1;
    let entry = EntrySpec::new("/ns/pay/migrator", newcomer.id(), &[&format!("unix:uid:{uid}")]);
    server.admin().create(&entry).await;
    let there = Job::at(&newcomer.socket(), uid);
    let refused = eventually("the newcomer's job to be known", PATIENCE, async || {
        let asked = there.request(asked()).await.ok()?;
        there.open(&asked.request_id).await.err()
    })
    .await;
    assert!(
        refused.message().contains("the server signs nothing for tasks"),
        "{refused:?}"
    );

    // Another process of the agent, the same memory.
    watched.world.agent.restart().await;
    job.reconnect();
    watched
        .is_refused(&job, &["it is shorter than it was", "it has another past"])
        .await;

    // The right folder: trusted again by all.
    watched.restart(|data| copy(&newest, data));
    watched.world.server.wait_ready().await;
    watched.is_trusted(&job).await;
    assert!(watched.settled().await >= shown);
}

// S82: what only a hand in the database can do.
#[tokio::test]
async fn an_entry_dropped_two_swapped_or_one_changed_in_the_database_is_refused_by_agents_and_witness() {
    let _lane = Lane::shared();
    let mut watched = Watched::start().await;
    let good = watched.world.server.dir().join("good");
    let job = watched.world.job(JOB_UID);
    let whys = ["it has another past", "it is shorter than it was"];
    for (what, change) in [
        ("an entry dropped", dropped as fn(&Connection)),
        ("two swapped", swapped),
        ("one changed", changed),
    ] {
        watched.is_trusted(&job).await;
        let size = watched.settled().await;
        let kept = watched.kept();
        watched.restart(|data| {
            copy(data, &good);
            let database = Connection::open(data.join("server.db")).unwrap();
            database
                .execute_batch("DROP TRIGGER log_is_not_rewritten; DROP TRIGGER log_is_not_shortened;")
                .unwrap();
            change(&database);
            // The server's own memory of what it has shown: it makes another from the entries, and signs it.
            std::fs::remove_dir_all(data.join("log")).unwrap();
        });
        let took = watched.is_refused(&job, &whys).await;
        eventually("the witness to refuse it, too", PATIENCE, async || {
            (watched.kept() > kept).then_some(())
        })
        .await;
        println!("{what} of {size}: refused by the agent after {took:?}, and by the witness");
        watched.restart(|data| copy(&good, data));
        watched.world.server.wait_ready().await;
    }
    watched.is_trusted(&job).await;
    watched.settled().await;
    println!("{} requests are kept as evidence by the witness", watched.kept());
    println!("the first: {}", watched.witness_refuses().await);
}

// Nothing is signed that is not recorded: whoever gets the signature checks it.
#[tokio::test]
async fn an_svid_whose_record_the_log_does_not_show_or_shows_otherwise_is_refused_by_the_agent_that_got_it() {
    let _lane = Lane::shared();
    let beacons = format!("{PEOPLE}[watch]\nbeacon_interval = \"250ms\"\n");
    let mut world = TaskWorld::start_among(UNATTENDED, &beacons).await;
    let data = world.server.dir().join("server");
    let proven = |world: &TaskWorld| world.agent.daemon.log().matches("task SVID is in the log").count();
    let first = world.job(JOB_UID);
    let begun = Instant::now();
    let entered = first.enter().await;
    eventually("its record to be shown", PATIENCE, async || {
        (proven(&world) > 0).then_some(())
    })
    .await;
    println!(
        "the record of an SVID was verified {:?} after the window was asked for",
        begun.elapsed()
    );
    first.complete(&entered.request_id).await.unwrap();

    // The log is not shown any further, while SVIDs are.
    let before = proven(&world);
    hide(&data);
    let job = world.job(JOB_UID);
    job.enter().await;
    let socket = world.agent.socket();
    let took = is_refused(&socket, &job, &["does not show in it the SVID"]).await;
    println!("not shown: refused after {took:?}");
    assert_eq!(proven(&world), before);
    show(&data);
    is_trusted(&job).await;

    // The record is another one by the time that it is shown. Only somebody with the log's key can do that.
    let job = world.job(JOB_UID);
    hide(&data);
    job.enter().await;
    let svid = job.task_svid().await.unwrap();
    let leaf = X509Svid::from_concatenated_der(&svid.x509_svid).unwrap();
    let extension = TaskExtension::from_certificate_der(&leaf.chain()[0]).unwrap().unwrap();
    world.server.daemon.stop();
    show(&data);
    let database = Connection::open(data.join("server.db")).unwrap();
    let sql = "DROP TRIGGER log_is_not_rewritten; DROP TRIGGER log_is_not_shortened;";
    database.execute_batch(sql).unwrap();
    let serial = leaf.serial().to_string();
    let other = format!(
        "{}{}",
        &serial[..serial.len() - 1],
        if serial.ends_with('1') { '2' } else { '1' }
    );
    let sql = "UPDATE log SET entry = replace(entry, ?2, ?3) WHERE log_index = ?1 AND entry LIKE '%' || ?2 || '%'";
    let index = i64::try_from(extension.log_index).unwrap();
    let changed = database.execute(sql, rusqlite::params![index, serial, other]).unwrap();
    assert_eq!(changed, 1, "the entry that the certificate names has its serial number");
    drop(database);
    world.server.daemon.start();
    world.server.wait_ready().await;
    let why =
        format!("its entry {index} is not that of the SVID {serial}, which names it: it is the record of another one");
    // For good: the log cannot say otherwise any more.
    let took = is_refused(&socket, &job, &[&why]).await;
    println!("shown otherwise: refused after {took:?}");
    world.server.admin().token().await;
    world.agent.restart().await;
    let job = world.job(JOB_UID);
    is_refused(&socket, &job, &[&why]).await;
}

/// The server can commit, and cannot replace its checkpoint.
fn hide(data: &Path) {
    let checkpoint = data.join("log/checkpoint");
    std::fs::rename(&checkpoint, data.join("kept")).unwrap();
    std::fs::create_dir(&checkpoint).unwrap();
}

fn show(data: &Path) {
    let checkpoint = data.join("log/checkpoint");
    std::fs::remove_dir(&checkpoint).unwrap();
    std::fs::rename(data.join("kept"), &checkpoint).unwrap();
}

/// An entry in the midst that nothing at the start of a server is read from.
const VICTIM: i64 = 4;

fn dropped(database: &Connection) {
    database
        .execute("DELETE FROM log WHERE log_index = ?1", [VICTIM])
        .unwrap();
    let end: i64 = database
        .query_row("SELECT MAX(log_index) FROM log", [], |row| row.get(0))
        .unwrap();
    for index in VICTIM + 1..=end {
        database
            .execute("UPDATE log SET log_index = ?1 - 1 WHERE log_index = ?1", [index])
            .unwrap();
    }
}

fn swapped(database: &Connection) {
    for (from, to) in [(VICTIM, -1), (VICTIM + 1, VICTIM), (-1, VICTIM + 1)] {
        database
            .execute("UPDATE log SET log_index = ?2 WHERE log_index = ?1", [from, to])
            .unwrap();
    }
}

fn changed(database: &Connection) {
    let sql = "UPDATE log SET entry = replace(entry, '\"who\":\"', '\"who\":\"x') WHERE log_index = ?1";
    assert_eq!(database.execute(sql, [VICTIM]).unwrap(), 1);
    let entry: String = database
        .query_row("SELECT entry FROM log WHERE log_index = ?1", [VICTIM], |row| row.get(0))
        .unwrap();
    assert!(entry.contains("\"who\":\"x"), "{entry}");
}

/// Replaces the folder `to` by `from`.
fn copy(from: &Path, to: &Path) {
    if to.exists() {
        std::fs::remove_dir_all(to).unwrap();
    }
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

/// Status and text of a page.
async fn page(port: u16, path: &str) -> (u16, String) {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else {
        return (0, String::new());
    };
    let request = format!("GET {path} HTTP/1.1\r\nhost: s\r\nconnection: close\r\n\r\n");
    let mut answer = vec![];
    if stream.write_all(request.as_bytes()).await.is_err() || stream.read_to_end(&mut answer).await.is_err() {
        return (0, String::new());
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or(0), body.to_owned())
}
