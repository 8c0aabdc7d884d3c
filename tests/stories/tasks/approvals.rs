//! Who agrees, to what, for how long: each way around it that has been found elsewhere, tried here.

use std::time::Duration;

use mayfly_proto::mayfly::workload::{Stage, TaskState};
use mayfly_tests::tasks::{JOB_UID, Job, TASK, TaskWorld, asked};
use mayfly_tests::{Lane, eventually};
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(60);

const ANN: u32 = 0;
const BOB: u32 = 41_102;
const BOB_AGAIN: u32 = 41_103;
const CARL: u32 = 41_104;
const DORA: u32 = 41_105;

/// `ann`, `bob` and `dora` lead payments, `dora` as a senior; `carl` leads another team; `joe` runs jobs and leads as well.
const CROWD: &str = r#"
[[people]]
id = "ann"
uids = [0]
groups = ["pay/leads"]
[[people]]
id = "bob"
uids = [41102, 41103]
groups = ["pay/leads"]
[[people]]
id = "carl"
uids = [41104]
groups = ["web/leads", "leads"]
[[people]]
id = "dora"
uids = [41105]
groups = ["pay/seniors"]
[[people]]
id = "joe"
uids = [41001]
groups = ["pay/leads"]
[[groups]]
id = "pay/leads"
members = ["pay/directors"]
[[groups]]
id = "pay/directors"
members = ["pay/seniors"]
[[groups]]
id = "pay/seniors"
[[groups]]
id = "web/leads"
[[groups]]
id = "leads"
[[groups]]
id = "pay/nobody"
[[workloads]]
path = "/ns/pay/*"
team = "pay"
"#;

/// The same where `bob` answers for the workload that asks.
fn owned_by_bob() -> String {
    format!("{CROWD}owner = \"bob\"\n")
}

/// A definition that `approval` belongs to.
fn definition(approval: &str) -> String {
    format!(
        "name = \"{TASK}\"\nowner = \"ann\"\nsensitivity = 2\n[allowed]\nworkloads = [\"/ns/pay/migrator\"]\n\
         [limits]\nmax_window = \"5m\"\n[approval]\ngroups = [\"pay/leads\"]\n{approval}\n"
    )
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &str) {
    let status = answer.expect_err(words);
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message().contains(words), "`{words}` is not in {status:?}");
    println!("refused: {}", status.message());
}

/// Whichever guard is met first: the agent's, the policy's or that of the commit.
fn not_opened(answer: Result<TaskState, Status>) {
    let status = answer.expect_err("it is not opened");
    let codes = [Code::NotFound, Code::FailedPrecondition, Code::PermissionDenied];
    assert!(codes.contains(&status.code()), "{status:?}");
    println!("not opened: {}", status.message());
}

/// A request that waits for people.
async fn parked(world: &TaskWorld) -> (Job, TaskState) {
    let job = world.job(JOB_UID);
    let asked = job.ask().await;
    assert_eq!(asked.stage(), Stage::AwaitingApproval, "{asked:?}");
    (job, asked)
}

async fn stage(world: &TaskWorld, id: &str) -> String {
    world.person(ANN).task(id).await.stage
}

// S39, §4.11 row 18
#[tokio::test]
async fn zero_approvers_are_nobody_who_could_agree() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1"), CROWD).await;
    let ann = world.person(ANN);
    let with = |old: &str, new: &str| definition("count = 1").replace(old, new);
    for (text, says) in [
        (with("count = 1", "count = 0"), "at least one approval"),
        (with("groups = [\"pay/leads\"]\ncount = 1", ""), "at least one approval"),
        (with("[\"pay/leads\"]", "[]"), "of nobody"),
        (with("[\"pay/leads\"]", "[\"pay/nobody\"]"), "there are 0"),
        (with("[\"pay/leads\"]", "[\"no/such\"]"), "no/such"),
        (with("count = 1", "count = 9"), "9 people"),
    ] {
        refused(ann.define(&text).await, Code::InvalidArgument, says);
    }
    // Neither does a policy get below the definition, whatever it says.
    let policy = ann
        .set_policy(
            "@id(\"story/none\")\n@approvals(\"0:pay/leads\")\n\
             permit (principal, action in Mayfly::Action::\"use\", resource);",
        )
        .await;
    println!("a policy that wants nobody: {policy:?}");
    let (job, asked) = parked(&world).await;
    assert_eq!(asked.approvals_missing, 1);
    not_opened(job.open(&asked.request_id).await);
    assert_eq!(world.check_log().windows, 0);
}

// S39, §4.11 row 19
#[tokio::test]
async fn who_asks_does_not_approve() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1"), CROWD).await;
    let (job, asked) = parked(&world).await;
    let joe = world.person(JOB_UID);
    refused(
        joe.approve(&asked.request_id, &asked.digest).await,
        Code::PermissionDenied,
        "",
    );
    assert_eq!(stage(&world, &asked.request_id).await, "awaiting_approval");
    world
        .person(BOB)
        .approve(&asked.request_id, &asked.digest)
        .await
        .unwrap();
    job.open(&asked.request_id).await.unwrap();
    assert_eq!(world.check_log().windows, 1);
}

// S39, §4.11 row 19: self by proxy
#[tokio::test]
async fn the_owner_of_the_workload_does_not_approve_for_it() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1"), &owned_by_bob()).await;
    let (job, asked) = parked(&world).await;
    let bob = world.person(BOB);
    refused(
        bob.approve(&asked.request_id, &asked.digest).await,
        Code::PermissionDenied,
        "",
    );
    let bob = world.person(BOB_AGAIN);
    refused(
        bob.approve(&asked.request_id, &asked.digest).await,
        Code::PermissionDenied,
        "",
    );
    assert_eq!(stage(&world, &asked.request_id).await, "awaiting_approval");
    world
        .person(DORA)
        .approve(&asked.request_id, &asked.digest)
        .await
        .unwrap();
    job.open(&asked.request_id).await.unwrap();
    assert_eq!(world.check_log().windows, 1);
}

// S39, §4.11 row 19: second account
#[tokio::test]
async fn one_person_counts_once_by_however_many_accounts() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 2"), CROWD).await;
    let (job, asked) = parked(&world).await;
    world
        .person(BOB)
        .approve(&asked.request_id, &asked.digest)
        .await
        .unwrap();
    for uid in [BOB, BOB_AGAIN] {
        let again = world.person(uid).approve(&asked.request_id, &asked.digest).await;
        refused(again, Code::FailedPrecondition, "bob has approved already");
    }
    assert_eq!(stage(&world, &asked.request_id).await, "awaiting_approval");
    not_opened(job.open(&asked.request_id).await);
    let task = world
        .person(DORA)
        .approve(&asked.request_id, &asked.digest)
        .await
        .unwrap();
    assert_eq!(task.stage, "armed");
    job.open(&asked.request_id).await.unwrap();
    assert_eq!(world.check_log().windows, 1);
}

// S39, §4.11 row 18
#[tokio::test]
async fn a_group_of_another_team_is_another_group_although_it_ends_in_the_same_name() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1"), CROWD).await;
    let (_job, asked) = parked(&world).await;
    let carl = world.person(CARL);
    refused(
        carl.approve(&asked.request_id, &asked.digest).await,
        Code::PermissionDenied,
        "",
    );
    // Who is nobody at all does not even get there.
    let stranger = world.person(41_199);
    refused(
        stranger.approve(&asked.request_id, &asked.digest).await,
        Code::PermissionDenied,
        "",
    );
    assert_eq!(stage(&world, &asked.request_id).await, "awaiting_approval");
    world.check_log();
}

// §4.11 row 18: nested groups
#[tokio::test]
async fn a_member_of_a_group_within_the_group_approves_and_the_record_has_the_groups_of_that_time() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1"), CROWD).await;
    let (job, asked) = parked(&world).await;
    let task = world
        .person(DORA)
        .approve(&asked.request_id, &asked.digest)
        .await
        .unwrap();
    assert_eq!(task.stage, "armed");
    let approval = &task.approvals[0];
    assert_eq!(approval.groups, ["pay/directors", "pay/leads", "pay/seniors"]);
    assert_eq!(approval.authenticated_as, format!("uid:{DORA}"));
    job.open(&asked.request_id).await.unwrap();
    world.check_log();
}

// S38, §4.11 row 17
#[tokio::test]
async fn a_parameter_that_is_changed_after_the_approval_is_another_request() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1"), CROWD).await;
    let job = world.job(JOB_UID);
    let mut first = asked();
    first.parameters.insert("table".into(), "orders".into());
    first.idempotency_key = "one".into();
    let harmless = job.request(first.clone()).await.unwrap();
    let bob = world.person(BOB);
    bob.approve(&harmless.request_id, &harmless.digest).await.unwrap();

    // By the same key it is refused, by its content it is new: nobody has agreed to it.
    let mut changed = first.clone();
    changed.parameters.insert("table".into(), "salaries".into());
    refused(
        job.request(changed.clone()).await,
        Code::AlreadyExists,
        "something else",
    );
    changed.idempotency_key.clear();
    let other = job.request(changed).await.unwrap();
    assert_ne!(other.request_id, harmless.request_id);
    assert_ne!(other.digest, harmless.digest);
    assert_eq!(other.stage(), Stage::AwaitingApproval);
    not_opened(job.open(&other.request_id).await);
    // And what was looked at is not what would be approved.
    let blind = bob.approve(&other.request_id, &harmless.digest).await;
    refused(blind, Code::FailedPrecondition, "digest");
    for part in ["reason", "ticket", "window"] {
        let mut changed = first.clone();
        changed.idempotency_key.clear();
        match part {
            "reason" => changed.reason = "another".into(),
            "ticket" => changed.ticket = "CHG-2".into(),
            _ => changed.window_seconds = 60,
        }
        let other = job.request(changed).await.unwrap();
        assert_ne!(other.digest, harmless.digest, "{part}");
        assert_eq!(other.stage(), Stage::AwaitingApproval, "{part}");
    }
    job.open(&harmless.request_id).await.unwrap();
    assert_eq!(world.check_log().windows, 1);
}

// §4.11 row 17
#[tokio::test]
async fn a_definition_that_is_changed_after_the_approval_takes_the_grant_along() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1"), CROWD).await;
    let (job, asked) = parked(&world).await;
    let approved = world
        .person(BOB)
        .approve(&asked.request_id, &asked.digest)
        .await
        .unwrap();
    assert_eq!(approved.stage, "armed");
    let mut request = self::asked();
    request.reason = "another".into();
    let waiting = job.request(request).await.unwrap();
    world.define(&definition("count = 1").replace("5m", "4m")).await;
    for id in [&asked.request_id, &waiting.request_id] {
        assert_eq!(stage(&world, id).await, "superseded");
        not_opened(job.open(id).await);
    }
    let late = world.person(BOB).approve(&waiting.request_id, &waiting.digest).await;
    println!(
        "approved too late: {}",
        late.expect_err("nobody waits for it any more").message()
    );
    assert_eq!(stage(&world, &waiting.request_id).await, "superseded");
    assert_eq!(world.check_log().windows, 0);
}

// §4.11 row 21
#[tokio::test]
async fn an_approval_that_is_too_old_at_the_opening_does_not_count() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1\nvalid_for = \"2s\""), CROWD).await;
    let (job, asked) = parked(&world).await;
    let task = world
        .person(BOB)
        .approve(&asked.request_id, &asked.digest)
        .await
        .unwrap();
    let until = task.approvals[0].valid_until;
    eventually("the approval to be too old", PATIENCE, async || {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        (now.as_secs() as i64 > until).then_some(())
    })
    .await;
    // The guards of the commit, or time itself: whichever comes first.
    not_opened(job.open(&asked.request_id).await);
    eventually("the grant to lapse", PATIENCE, async || {
        (stage(&world, &asked.request_id).await == "lapsed").then_some(())
    })
    .await;
    assert_eq!(world.check_log().windows, 0);
}

// S60, §4.11 row 21
#[tokio::test]
async fn a_grant_whose_eligibility_is_gone_before_it_is_opened_is_not_opened() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1"), CROWD).await;
    let (job, asked) = parked(&world).await;
    let ann = world.person(ANN);
    world
        .person(BOB)
        .approve(&asked.request_id, &asked.digest)
        .await
        .unwrap();

    // By policy.
    ann.set_policy(
        "@id(\"story/frozen\")\n@reason(\"nothing is migrated this week\")\n\
         forbid (principal, action == Mayfly::Action::\"open\", resource);",
    )
    .await
    .unwrap();
    refused(
        job.open(&asked.request_id).await,
        Code::PermissionDenied,
        "nothing is migrated this week",
    );

    // By its entry.
    ann.set_policy("").await.unwrap();
    let admin = world.server.admin();
    let entry = admin
        .list()
        .await
        .into_iter()
        .find(|entry| entry.spiffe_id.as_ref().is_some_and(|id| id.path == "/ns/pay/migrator"))
        .unwrap();
    admin.delete(&entry.id).await;
    eventually("the workload to be nobody", PATIENCE, async || {
        let status = job
            .open(&asked.request_id)
            .await
            .expect_err("it has no identity any more");
        let is_refused = status.code() != Code::Unavailable;
        is_refused.then(|| println!("refused: {status:?}"))
    })
    .await;
    assert_eq!(stage(&world, &asked.request_id).await, "armed");
    assert_eq!(world.check_log().windows, 0);
}

// S43, §4.11 row 7
#[tokio::test]
async fn with_two_persons_nobody_puts_their_own_definition_or_policy_in_force() {
    let _lane = Lane::shared();
    let sections = format!(
        "{CROWD}[tasks]\ntwo_person = true\n\
         [[operators]]\nroles = [\"author\", \"approver\"]\nuids = [{BOB}, {BOB_AGAIN}, {CARL}]\n"
    );
    let server = TaskWorld::prepare(&sections);
    let world = TaskWorld::start_prepared(server, "", None).await;
    let (ann, bob) = (world.person(ANN), world.person(BOB));

    // ann has every role there is, and still it takes somebody else.
    let proposed = ann.define(&definition("count = 1")).await.unwrap();
    assert!(!proposed.in_force, "{proposed:?}");
    let asked = world.job(JOB_UID).request(self::asked()).await;
    refused(asked, Code::NotFound, "no task");
    refused(
        ann.approve_proposal(&proposed.proposal_id).await,
        Code::PermissionDenied,
        "",
    );
    let decided = bob.approve_proposal(&proposed.proposal_id).await.unwrap();
    assert_eq!((decided.author.as_str(), decided.decided_by.as_str()), ("ann", "bob"));
    let (_job, _asked) = parked(&world).await;

    let named = "@id(\"story/loose\")\npermit (principal, action in Mayfly::Action::\"use\", resource);";
    let proposed = bob.set_policy(named).await.unwrap();
    assert!(!proposed.in_force, "{proposed:?}");
    for uid in [BOB, BOB_AGAIN] {
        let own = world.person(uid).approve_proposal(&proposed.proposal_id).await;
        refused(own, Code::PermissionDenied, "");
    }
    // Who has no role in it does not decide either.
    let joe = world.person(JOB_UID).approve_proposal(&proposed.proposal_id).await;
    refused(joe, Code::PermissionDenied, "");
    world
        .person(CARL)
        .approve_proposal(&proposed.proposal_id)
        .await
        .unwrap();
    world.check_log();
}

// S37, S41
#[tokio::test]
async fn a_parked_request_survives_a_restart_and_the_job_that_left_comes_back_to_it() {
    let _lane = Lane::shared();
    let mut world = TaskWorld::start_among(&definition("count = 1"), CROWD).await;
    let dir = world.job_dir("job");
    let script = "test -s \"$MAYFLY_CERT_FILE\" && echo ran >> ran";
    for _ in 0..2 {
        let outcome = world
            .run(&dir, &["--no-wait", "--param", "table=orders"], script)
            .output()
            .await;
        let outcome = outcome.unwrap();
        assert_eq!(outcome.status.code(), Some(124), "{outcome:?}");
    }
    let waiting = world.tasks().await;
    assert_eq!(waiting.len(), 1, "asked twice, one request: {waiting:?}");
    let id = waiting[0]["request_id"].as_str().unwrap().to_owned();
    let digest = waiting[0]["digest"].as_str().unwrap().to_owned();

    world.server.daemon.kill();
    world.server.daemon.start();
    world.server.wait_ready().await;
    let approve = [
        "task",
        "approve",
        &id,
        "--digest",
        &digest,
        "--yes",
        "--reason",
        "as planned",
    ];
    let outcome = world.cli.run(&approve).await;
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    world.server.restart().await;

    let outcome = eventually("the job to go through", PATIENCE, async || {
        let outcome = world
            .run(&dir, &["--no-wait", "--param", "table=orders"], script)
            .output()
            .await;
        let outcome = outcome.unwrap();
        // Until the agent has found its server again.
        (outcome.status.code() != Some(121)).then_some(outcome)
    })
    .await;
    assert_eq!(outcome.status.code(), Some(0), "{outcome:?}");
    assert_eq!(std::fs::read_to_string(dir.join("ran")).unwrap(), "ran\n");
    assert_eq!(world.tasks().await.len(), 1);

    // What was approved was one run of it.
    let outcome = world
        .run(&dir, &["--no-wait", "--param", "table=orders"], script)
        .output()
        .await
        .unwrap();
    assert_eq!(outcome.status.code(), Some(124), "{outcome:?}");
    let checked = world.check_log();
    assert_eq!((checked.requests, checked.windows), (2, 1));
}

// §4.11 row 20
#[tokio::test]
async fn a_policy_takes_the_say_from_who_has_it_by_their_group() {
    let _lane = Lane::shared();
    let world = TaskWorld::start_among(&definition("count = 1"), CROWD).await;
    world
        .person(ANN)
        .set_policy(
            "@id(\"story/rested\")\n@reason(\"bob approves nothing today\")\n\
             forbid (principal == Mayfly::Human::\"bob\", action == Mayfly::Action::\"approve\", resource);",
        )
        .await
        .unwrap();
    let (_job, asked) = parked(&world).await;
    let bob = world.person(BOB).approve(&asked.request_id, &asked.digest).await;
    refused(bob, Code::PermissionDenied, "bob approves nothing today");
    world
        .person(DORA)
        .approve(&asked.request_id, &asked.digest)
        .await
        .unwrap();
    world.check_log();
}
