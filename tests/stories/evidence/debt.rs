//! Standing power: what is excepted ends at its instant, and what only looks short is found.

use std::time::Duration;

use mayfly_svid::X509Svid;
use mayfly_tests::caller::{ids, svid};
use mayfly_tests::faults::SteppedClock;
use mayfly_tests::tasks::{JOB_UID, PEOPLE, TASK, TaskWorld};
use mayfly_tests::{Caller, Lane, eventually};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(60);
/// The user of what cannot ask for tasks.
const LEGACY_UID: u32 = 41_007;
const LEGACY: &str = "spiffe://example.org/legacy/backup";
/// Another one, whose exception names its entry.
const TAPE_UID: u32 = 41_009;
const TAPE: &str = "spiffe://example.org/legacy/tape";
/// The exception's life, and the step of the clock that ends it.
const LIFE: i64 = 600;

/// A task that nobody has to agree to, and that no consumer enforces.
const FREE: &str = "\
    name = \"pay/db-migrate\"\nowner = \"ann\"\nscopes = [\"backup:read\"]\n\
    [allowed]\nworkloads = [\"/ns/pay/migrator\"]\n\
    [limits]\nmax_window = \"10m\"\n";

/// What the log has of a kind, oldest first.
async fn logged(world: &TaskWorld, kind: &str) -> Vec<Value> {
    world.cli.json_lines(&["audit", "search", "--kind", kind]).await
}

async fn done(world: &TaskWorld, args: &[&str]) -> Value {
    world.cli.json(args).await
}

/// How often an SVID of the identity was to be signed.
async fn intended(world: &TaskWorld, id: &str) -> usize {
    let all = logged(world, "svid.intended").await;
    all.iter().filter(|entry| entry["subject"] == id).count()
}

// S6
#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_of_its_exception_an_identity_gets_no_more_svids_and_the_log_says_so() {
    let _lane = Lane::shared();
    let clock = SteppedClock::new();
    let mut server = TaskWorld::prepare(PEOPLE);
    clock.give_to(&mut server.daemon);
    let mut world = TaskWorld::start_prepared(server, FREE, None).await;
    world.entry("/legacy/backup", LEGACY_UID).await;
    let tape = world.entry("/legacy/tape", TAPE_UID).await;
    let grant = |who| {
        [
            "task",
            "exception",
            "grant",
            "--identity",
            who,
            "--allows",
            "reads all backups",
            "--scope",
            "backup:read",
            "--owner",
            "joe",
            "--control",
            "its network is closed",
            "--for",
            "10m",
            "--reason",
            "the appliance knows no tasks",
        ]
    };
    let granted = done(&world, &grant(LEGACY)).await["exception"].clone();
    assert_eq!(granted["state"], "in_force", "{granted}");
    let id = granted["id"].as_str().unwrap().to_owned();
    let granted = done(&world, &grant(&tape)).await["exception"].clone();
    let id_of_tape = granted["id"].as_str().unwrap().to_owned();
    let ends: X509Svid = {
        let mut legacy = Caller::spawn(LEGACY_UID);
        let answer = legacy.workload(&world.agent.socket()).fetch().await.unwrap();
        assert_eq!(ids(&answer), [LEGACY]);
        svid(&answer.svids[0])
    };
    // The second before the end is the last one of any SVID.
    let expired_at = logged(&world, "exception.granted").await[0]["body"]["expires_at"]
        .as_i64()
        .unwrap();
    assert!(ends.not_after().unix() < expired_at, "an SVID outlives the exception");

    clock.set(LIFE);
    let expired = eventually("the log to say that it is over", PATIENCE, async || {
        let expired = logged(&world, "exception.expired").await;
        expired.iter().find(|entry| entry["subject"] == id.as_str()).cloned()
    })
    .await;
    let late = expired["time"].as_i64().unwrap() - expired_at;
    println!("exception.expired is logged {late} s after its instant");
    assert!((0..=10).contains(&late), "{expired}");
    assert_eq!(expired["subject"], id.as_str());

    // An agent that starts anew holds nothing, and has to ask for everything.
    let before = (intended(&world, LEGACY).await, intended(&world, TAPE).await);
    // Nor does an entry shake its exception off that is deleted and made again.
    world.server.admin().delete(&tape).await;
    assert_ne!(world.entry("/legacy/tape", TAPE_UID).await, tape);
    world.agent.restart().await;
    let mut job = Caller::spawn(JOB_UID);
    eventually("another identity to be served", PATIENCE, async || {
        job.workload(&world.agent.socket()).fetch().await.ok()
    })
    .await;
    let (mut legacy, mut of_tape) = (Caller::spawn(LEGACY_UID), Caller::spawn(TAPE_UID));
    let nothing = async |who: &mut Caller| {
        let asked = tokio::time::timeout(Duration::from_secs(5), who.workload(&world.agent.socket()).fetch()).await;
        !matches!(asked, Ok(Ok(_)))
    };
    let none = tokio::join!(nothing(&mut legacy), nothing(&mut of_tape));
    assert_eq!(none, (true, true), "an identity whose exception is over is served");
    let dir = world.job_dir("minted");
    let mint = ["svid", "mint", "--spiffe-id", LEGACY, "--write", dir.to_str().unwrap()];
    let mint = world.cli.run(&mint).await;
    assert_ne!(mint.code, Some(0), "{mint:?}");
    assert!(
        mint.stderr.contains("EXCEPTION_OVER") && mint.stderr.contains(&id),
        "{mint:?}"
    );
    let after = (intended(&world, LEGACY).await, intended(&world, TAPE).await);
    assert_eq!(after, before, "something was signed for them");

    let debt = done(&world, &["task", "debt"]).await;
    for id in [&id, &id_of_tape] {
        let mut listed = debt["exceptions"].as_array().unwrap().iter();
        let listed = listed.find(|exception| exception["id"] == id.as_str()).unwrap();
        assert_eq!(listed["state"], "expired", "{listed}");
        assert_eq!(listed["stops_issuance"], true, "{listed}");
    }
    let found = finding(&debt, "expired-exception");
    assert!(found["remedy"].as_str().unwrap().contains("exception renew"), "{found}");

    // Somebody looks at it again.
    let renew = [
        "task",
        "exception",
        "renew",
        &id,
        "--for",
        "30m",
        "--reason",
        "still needed",
    ];
    assert_eq!(done(&world, &renew).await["exception"]["renewals"], 1);
    eventually("its identity to be served again", PATIENCE, async || {
        let asked = tokio::time::timeout(Duration::from_secs(5), legacy.workload(&world.agent.socket()).fetch()).await;
        asked.ok().and_then(Result::ok)
    })
    .await;
    assert!(intended(&world, LEGACY).await > before.0);
    let renew = [
        "task",
        "exception",
        "renew",
        &id_of_tape,
        "--for",
        "30m",
        "--reason",
        "so is this one",
    ];
    done(&world, &renew).await;
    eventually("the entry that was made again to be served", PATIENCE, async || {
        let asked = tokio::time::timeout(Duration::from_secs(5), of_tape.workload(&world.agent.socket()).fetch()).await;
        asked.ok().and_then(Result::ok)
    })
    .await;
    world.check_log();
}

// S5 S83 S85
#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_asks_again_and_again_is_standing_access_and_is_found() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(FREE).await;
    let quiet = done(&world, &["task", "debt"]).await;
    assert!(find(&quiet, "disguised-standing-access").is_none(), "{quiet}");
    let clean = world.cli.run(&["task", "lint", "--strict"]).await;
    assert_eq!(clean.code, Some(0), "{clean:?}");

    let job = world.job(JOB_UID);
    let rounds = 26;
    for _ in 1..rounds {
        let opened = job.enter().await;
        job.complete(&opened.request_id).await.unwrap();
    }
    // The last one is open for a second at least, so that there is power to measure.
    let opened = job.enter().await;
    let seconds = "mayfly_server_task_privileged_seconds_total{task=\"pay/db-migrate\"} ";
    eventually("a second of power on the page of metrics", PATIENCE, async || {
        let page = metrics(world.server.health_port()).await;
        assert!(page.contains("mayfly_server_task_open_windows 1"), "{page}");
        let line = page.lines().find_map(|line| line.strip_prefix(seconds))?;
        line.parse::<u64>().ok().filter(|seconds| *seconds > 0)
    })
    .await;
    job.complete(&opened.request_id).await.unwrap();
    let page = metrics(world.server.health_port()).await;
    assert!(page.contains("mayfly_server_task_open_windows 0"), "{page}");

    // The present second is not in the period.
    let debt = eventually("the loop to be found", PATIENCE, async || {
        let debt = done(&world, &["task", "debt"]).await;
        find(&debt, "disguised-standing-access").is_some().then_some(debt)
    })
    .await;
    let found = finding(&debt, "disguised-standing-access");
    println!("{rounds} rounds: {}", found["message"]);
    assert_eq!(found["severity"], "high");
    assert!(found["subject"].as_str().unwrap().starts_with(TASK), "{found}");
    assert_eq!(debt["by_owner"][0]["name"], "ann");
    let power = debt["by_task"][0]["privileged_seconds"].as_i64();
    assert!(power > Some(0), "{debt}");
    let strict = world.cli.run(&["task", "lint", "--strict"]).await;
    assert_eq!(strict.code, Some(1), "{strict:?}");
    assert!(
        strict.stdout.contains("S85") && !strict.stdout.contains("S19"),
        "{strict:?}"
    );
}

/// The page of metrics, headers included.
pub(super) async fn metrics(port: u16) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    page
}

/// The finding with this code, which there is.
fn finding<'a>(debt: &'a Value, code: &str) -> &'a Value {
    find(debt, code).unwrap_or_else(|| panic!("no {code} in {debt}"))
}

fn find<'a>(debt: &'a Value, code: &str) -> Option<&'a Value> {
    let mut findings = debt["findings"].as_array().unwrap().iter();
    findings.find(|finding| finding["code"] == code)
}
