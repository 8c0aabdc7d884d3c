//! `mayfly audit`: a copy of the log is checked by somebody who trusts nobody, proofs hold alone, and what was private
//! can be forgotten without breaking either.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mayfly_tests::cli::{Cli, Outcome};
use mayfly_tests::tasks::{TASK, TaskWorld, UNATTENDED};
use mayfly_tests::{Server, effort, eventually};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Entries that the log shall have: more than one bundle, and a beginning of the next.
const ENTRIES: u64 = 300;

/// A world in which a job has run inside a window, which is settled by now.
struct Told {
    world: TaskWorld,
    window: String,
    serial: String,
    /// The keys of the log, as the operator has handed them out.
    keys: PathBuf,
}

impl Told {
    async fn begin() -> Self {
        let world = TaskWorld::start(UNATTENDED).await;
        let guarded = world.guarded().await;
        let dir = world.job_dir("job");
        let status = world.run(&dir, &["--ticket", "CHG-7"], "true").status().await.unwrap();
        assert!(status.success(), "{status}");
        let settled = eventually("the window to be settled", PATIENCE, async || {
            let found = world
                .cli
                .json_lines(&["audit", "search", "--kind", "window.settled"])
                .await;
            found.first().cloned()
        })
        .await;
        drop(guarded);
        let window = settled["body"]["window"].as_str().unwrap().to_owned();
        let opened = world
            .cli
            .json_lines(&["audit", "search", "--kind", "window.opened", "--window", &window])
            .await;
        let serial = opened[0]["body"]["window"]["issuances"][0]["serial"]
            .as_str()
            .unwrap()
            .to_owned();
        // Others do things, too.
        while log_size(&world).await < ENTRIES {
            world.server.admin().token().await;
        }
        let shown = world.cli.json(&["audit", "keys"]).await;
        let keys = world.server.dir().join("log.keys");
        fs::write(
            &keys,
            format!("# from the operator\n{}\n", shown["keys"][0].as_str().unwrap()),
        )
        .unwrap();
        Self {
            world,
            window,
            serial,
            keys,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.world.server.dir().join(name)
    }

    async fn run(&self, words: &[&str]) -> Outcome {
        self.world.cli.run(words).await
    }

    async fn export(&self, dir: &Path) -> Value {
        self.world
            .cli
            .json(&["audit", "export", text(dir), "--private", "--key", text(&self.keys)])
            .await
    }

    /// Runs `audit verify` without a server.
    async fn verify(&self, dir: &Path) -> (Option<i32>, Value) {
        verify(dir, &self.keys).await
    }
}

/// There is no server for it: its socket is nowhere.
pub(super) async fn verify(dir: &Path, keys: &Path) -> (Option<i32>, Value) {
    let offline = Cli::new(Path::new("/nowhere"));
    let words = ["audit", "verify", text(dir), "--key", text(keys), "--output", "json"];
    let outcome = offline.run(&words).await;
    let json = serde_json::from_str(&outcome.stdout);
    (
        outcome.code,
        json.unwrap_or_else(|error| panic!("{error}: {outcome:?}")),
    )
}

async fn log_size(world: &TaskWorld) -> u64 {
    let newest = world.cli.json_lines(&["audit", "tail", "-n", "1"]).await;
    newest[0]["index"].as_u64().unwrap() + 1
}

pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// All files below `dir`, relative to it.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => all.extend(files(&path)),
            false => all.push(path),
        }
    }
    all.sort();
    all
}

/// With modes, which keys insist on.
pub(super) fn copy_all(from: &Path, to: &Path) {
    let copied = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

fn damaged_files(found: &Value) -> Vec<&str> {
    let damages = found["damages"].as_array().unwrap().iter();
    damages.map(|damage| damage["file"].as_str().unwrap()).collect()
}

/// The entries of a bundle, each with its length in front.
fn entries_of(bundle: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut rest) = (vec![], bundle);
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length));
        all.push(rest[..2 + length].to_vec());
        rest = &behind[length..];
    }
    all
}

#[tokio::test]
async fn a_copy_is_checked_without_a_server_and_every_damage_is_named() {
    let told = Told::begin().await;
    let copy = told.path("copy");
    let exported = told.export(&copy).await;
    let (code, found) = told.verify(&copy).await;
    assert_eq!((code, &found["ok"]), (Some(0), &Value::Bool(true)), "{found:#}");
    assert_eq!(found["size"], exported["size"]);
    assert_eq!(
        (&found["totals"]["windows"], &found["private"]["not_in_the_copy"]),
        (&1.into(), &0.into())
    );
    assert_eq!(fs::metadata(copy.join("private.jsonl")).unwrap().mode() & 0o777, 0o600);
    println!("a copy of {} entries is whole: {}", found["size"], found["totals"]);

    // A second export brings what is new, and nothing else.
    told.world.server.admin().token().await;
    let again = told.export(&copy).await;
    assert!(
        again["added"].as_u64().unwrap() >= 1 && again["added"].as_u64().unwrap() < 20,
        "{again}"
    );
    assert_eq!(told.verify(&copy).await.0, Some(0));

    // Must show 1: one bit, anywhere.
    let seed: u64 = rand::random();
    let count = effort(60, 2_000);
    println!("seed {seed}, {count} flips");
    let mut random = StdRng::seed_from_u64(seed);
    let all = files(&copy);
    let sizes: Vec<u64> = all.iter().map(|path| fs::metadata(path).unwrap().len()).collect();
    for flip in 0..count {
        // Every file in turn, whatever its size, then anywhere.
        let file = flip % all.len();
        let (path, bit) = (&all[file], random.random_range(0..sizes[file] * 8));
        let whole = fs::read(path).unwrap();
        let mut bytes = whole.clone();
        bytes[usize::try_from(bit / 8).unwrap()] ^= 1 << (bit % 8);
        fs::write(path, bytes).unwrap();
        let (code, found) = told.verify(&copy).await;
        let name = path.strip_prefix(&copy).unwrap();
        assert_eq!(code, Some(1), "bit {bit} of {name:?} was flipped: {found:#}");
        assert!(
            damaged_files(&found).contains(&text(name)),
            "bit {bit} of {name:?}: {found:#}"
        );
        fs::write(path, whole).unwrap();
    }

    let bundle = copy.join("tile/entries/000");
    let whole = fs::read(&bundle).unwrap();
    let entries = entries_of(&whole);
    let mut dropped = entries.clone();
    dropped.remove(17);
    let mut swapped = entries.clone();
    swapped.swap(40, 41);
    for (what, entries, first) in [("dropped", dropped, 17), ("swapped", swapped, 40)] {
        fs::write(&bundle, entries.concat()).unwrap();
        let (code, found) = told.verify(&copy).await;
        println!("{what}: {}", found["damages"][0]);
        assert_eq!(
            (code, &found["damages"][0]["entry"]),
            (Some(1), &first.into()),
            "{what}: {found:#}"
        );
    }
    fs::write(&bundle, whole).unwrap();
    fs::remove_file(copy.join("tile/0/000")).unwrap();
    let (code, found) = told.verify(&copy).await;
    assert_eq!((code, damaged_files(&found)), (Some(1), vec!["tile/0/000"]));
}

#[tokio::test]
async fn an_svid_and_a_window_are_proved_by_a_file_alone() {
    let told = Told::begin().await;
    let offline = Cli::new(Path::new("/nowhere"));
    let check = async |file: &Path| {
        let words = [
            "audit",
            "check-proof",
            text(file),
            "--key",
            text(&told.keys),
            "--output",
            "json",
        ];
        let outcome = offline.run(&words).await;
        (
            outcome.code,
            serde_json::from_str::<Value>(&outcome.stdout).unwrap_or_default(),
        )
    };
    let kinds = |proven: &Value| {
        let entries = proven["entries"].as_array().unwrap().iter();
        entries
            .map(|proven| proven["entry"]["kind"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let hex = format!("{:#x}", told.serial.parse::<u128>().unwrap_or_default());
    let serial = if told.serial.len() < 39 { &hex } else { &told.serial };
    for (what, subject) in [("serial", serial), ("window", &told.window)] {
        let file = told.path(&format!("{what}.tlog-proof"));
        let outcome = told.run(&["audit", "prove", subject, "--out", text(&file)]).await;
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let (code, proven) = check(&file).await;
        assert_eq!(code, Some(0), "{proven}");
        let kinds = kinds(&proven);
        println!("{what}: {kinds:?}");
        for kind in [
            "task.requested",
            "svid.intended",
            "svid.outcome",
            "window.opened",
            "window.closing",
            "window.closed",
            "window.settled",
        ] {
            assert!(
                kinds.iter().any(|found| found == kind),
                "{what}: no {kind} among {kinds:?}"
            );
        }
        let proof = fs::read_to_string(&file).unwrap();
        assert!(!proof.contains("CHG-7"));
        // Another key, or another byte.
        let other = proof.replacen("index ", "index 1", 1);
        fs::write(&file, other).unwrap();
        assert_eq!(check(&file).await.0, Some(1));
    }
    let one = told.run(&["audit", "prove", "0"]).await;
    let file = told.path("one.tlog-proof");
    fs::write(&file, &one.stdout).unwrap();
    let (code, proven) = check(&file).await;
    assert_eq!((code, kinds(&proven).len()), (Some(0), 1));
    let none = told.run(&["audit", "prove", &"f".repeat(32)]).await;
    assert_eq!(none.code, Some(5), "{none:?}");
}

#[tokio::test]
async fn a_name_is_forgotten_and_everything_still_verifies() {
    let told = Told::begin().await;
    let (before, after) = (told.path("before"), told.path("after"));
    told.export(&before).await;
    let private = |dir: &Path| fs::read_to_string(dir.join("private.jsonl")).unwrap();
    assert!(private(&before).contains("\"joe\"") && private(&before).contains("\"CHG-7\""));
    let by_name = ["audit", "search", "--person", "joe"];
    let found = told.world.cli.json_lines(&by_name).await;
    assert!(!found.is_empty(), "entries about joe are found by the name");
    assert_eq!(found[0]["body"]["request"]["person"], "joe", "{}", found[0]);

    let erased = told
        .world
        .cli
        .json(&["audit", "erase", "--value", "joe", "--reason", "request 7"])
        .await;
    assert!(erased["erased"].as_u64().unwrap() >= 1, "{erased}");
    assert_eq!(
        told.run(&["audit", "erase", "--value", "joe", "--reason", "again"])
            .await
            .code,
        Some(5)
    );
    let ticket = ["audit", "erase", "--value", "CHG-7", "--reason", "request 7"];
    told.world.cli.json(&ticket).await;

    let database = rusqlite::Connection::open(told.path("server/server.db")).unwrap();
    for name in ["joe", "CHG-7"] {
        let sql = "SELECT COUNT(*) FROM private WHERE value LIKE '%\"' || ?1 || '\"%'";
        let count: i64 = database.query_row(sql, [name], |row| row.get(0)).unwrap();
        assert_eq!(count, 0, "{name} is in the table of private values");
        let sql = "SELECT COUNT(*) FROM log WHERE entry LIKE '%\"' || ?1 || '\"%'";
        let count: i64 = database.query_row(sql, [name], |row| row.get(0)).unwrap();
        assert_eq!(count, 0, "{name} is in the log");
    }
    told.export(&after).await;
    for file in files(&after) {
        let bytes = fs::read(&file).unwrap();
        let has = |name: &str| bytes.windows(name.len()).any(|window| window == name.as_bytes());
        assert!(!has("\"joe\"") && !has("CHG-7"), "{file:?}");
    }
    let (code, found) = told.verify(&after).await;
    assert_eq!(code, Some(0), "{found:#}");
    assert!(
        found["private"]["erased"].as_u64().unwrap() >= 2,
        "{}",
        found["private"]
    );
    assert_eq!(
        found["private"]["not_in_the_copy"], 0,
        "what is missing was erased, and the log says so"
    );
    // The older copy verifies as well, and so does one that was brought up to date from there.
    assert_eq!(told.verify(&before).await.0, Some(0));
    told.export(&before).await;
    assert_eq!(told.verify(&before).await.0, Some(0));
    assert!(
        !private(&before).contains("\"joe\""),
        "a copy that is renewed forgets, too"
    );
    let found = told.world.cli.json_lines(&by_name).await;
    assert!(found.is_empty(), "nobody finds joe by the name: {found:?}");
    let of_task = told
        .world
        .cli
        .json_lines(&["audit", "search", "--task", TASK, "--kind", "task.requested"])
        .await;
    assert!(
        of_task[0]["body"]["request"]["person"]["commitment"].is_string(),
        "{}",
        of_task[0]
    );
}

#[tokio::test]
async fn a_log_that_was_taken_back_is_refused_by_whoever_has_a_copy() {
    let mut server = Server::start().await;
    let cli = Cli::new(&server.socket());
    let (data, backup) = (server.dir().join("server"), server.dir().join("backup"));
    let (copy, fresh) = (server.dir().join("copy"), server.dir().join("fresh"));
    server.daemon.stop();
    copy_all(&data, &backup);
    server.daemon.start();
    server.wait_ready().await;
    for _ in 0..20 {
        server.admin().token().await;
    }
    let first = cli.json(&["audit", "export", text(&copy)]).await;
    let kept = fs::read(copy.join("checkpoint")).unwrap();

    // Everything of the server is taken back, what it has shown to others too: it cannot know.
    server.daemon.stop();
    fs::remove_dir_all(&data).unwrap();
    copy_all(&backup, &data);
    server.daemon.start();
    server.wait_ready().await;
    let refused = cli.run(&["audit", "export", text(&copy)]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("SHORTER"), "{refused:?}");
    for _ in 0..60 {
        server.admin().token().await;
    }
    let refused = cli.run(&["audit", "export", text(&copy), "--output", "json"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("LOG_FORKED") && refused.stderr.contains("its entry"),
        "{refused:?}"
    );
    println!("{}", refused.stderr);
    assert_eq!(
        fs::read(copy.join("checkpoint")).unwrap(),
        kept,
        "the copy is as it was"
    );
    assert!(
        !files(&copy.join("refused")).is_empty(),
        "what the log has signed is kept"
    );
    let (code, found) = verify(&copy, &copy.join("keys")).await;
    assert_eq!((code, &found["size"]), (Some(0), &first["size"]), "{found:#}");
    // Who has no copy cannot see it.
    cli.json(&["audit", "export", text(&fresh)]).await;
}

#[tokio::test]
async fn what_a_server_writes_has_nobody_s_address_in_it() {
    let told = Told::begin().await;
    let copy = told.path("copy");
    told.export(&copy).await;
    let (mut count, mut hidden) = (0, 0);
    for file in files(&copy.join("tile/entries")) {
        for entry in entries_of(&fs::read(file).unwrap()) {
            let entry: Value = serde_json::from_slice(&entry[2..]).unwrap();
            let origin = &entry["origin"];
            assert!(origin == "" || origin["commitment"].is_string(), "{entry}");
            hidden += usize::from(origin != "");
            count += 1;
            // Neither in any other field: all of these worlds is on this machine.
            let text = entry.to_string();
            for address in ["127.0.0.1", "[::1]", "localhost", "pid:", "uid:", "unix:"] {
                assert!(!text.contains(address), "{address} in {text}");
            }
        }
    }
    println!("{count} entries, {hidden} of them from somewhere");
    assert!(hidden > 10 && hidden < count);
    let private = fs::read_to_string(copy.join("private.jsonl")).unwrap();
    assert!(
        private.contains("127.0.0.1:"),
        "whoever may know does: where agents came from"
    );
    assert_eq!(told.verify(&copy).await.0, Some(0));
}
