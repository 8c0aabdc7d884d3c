//! Break-glass: its own root and authority, a ticket and a person each time, and a look at what was done before the next.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_proto::mayfly::workload::{RequestRequest, Stage, TaskState};
use mayfly_tests::caller::svid;
use mayfly_tests::tasks::{JOB_UID, Job, TaskWorld, asked, signed_by};
use mayfly_tests::{Lane, TRUST_DOMAIN, eventually};
use tonic::Code;

const PATIENCE: Duration = Duration::from_secs(60);
const ANN: u32 = 0;
const BOB: u32 = 41_302;
const ZED: u32 = 41_303;

const RESPONDERS: &str = "\
    [[people]]\nid = \"ann\"\nuids = [0]\ngroups = [\"leads\"]\n\
    [[people]]\nid = \"bob\"\nuids = [41302]\ngroups = [\"leads\"]\n\
    [[people]]\nid = \"joe\"\nuids = [41001]\ngroups = [\"leads\"]\n\
    [[people]]\nid = \"zed\"\nuids = [41303]\n\
    [[groups]]\nid = \"leads\"\n\
    [[workloads]]\npath = \"/ns/pay/*\"\nteam = \"pay\"\n";

const EMERGENCY: &str = "\
    name = \"pay/emergency\"\nowner = \"ann\"\nclass = \"breakglass\"\nescalation = \"#on-call\"\n\
    [allowed]\nworkloads = [\"/ns/pay/migrator\"]\n\
    [limits]\nmax_window = \"10m\"\n\
    [approval]\ncount = 1\ngroups = [\"leads\"]\n\
    [ticket]\nrequired = true\n";

/// A tracker: what it says of every ticket is what a file says.
struct Tracker {
    answer: PathBuf,
}

impl Tracker {
    /// Its section of the server's configuration, and itself.
    fn new(dir: &Path) -> (String, Self) {
        let (script, answer) = (dir.join("tracker"), dir.join("tracker.json"));
        std::fs::write(&script, format!("#!/bin/sh\nexec /bin/cat {}\n", answer.display())).unwrap();
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
        let tracker = Self { answer };
        tracker.says(false);
        let section = format!("[tickets]\ncommand = [\"{}\"]\ncache = \"0s\"\n", script.display());
        (section, tracker)
    }

    fn says(&self, open: bool) {
        std::fs::write(&self.answer, format!("{{\"open\": {open}, \"kind\": \"incident\"}}")).unwrap();
    }
}

fn emergency(reason: &str, ticket: &str) -> RequestRequest {
    RequestRequest {
        task: "pay/emergency".into(),
        reason: reason.into(),
        ticket: ticket.into(),
        ..asked()
    }
}

async fn stage_is(world: &TaskWorld, id: &str, wanted: &str) {
    let ann = world.person(ANN);
    eventually(wanted, PATIENCE, async || {
        (ann.task(id).await.stage == wanted).then_some(())
    })
    .await;
}

async fn opened(world: &TaskWorld, job: &Job, reason: &str, approver: u32) -> TaskState {
    let asked = job.request(emergency(reason, "INC-7")).await.unwrap();
    assert_eq!(asked.stage(), Stage::AwaitingApproval, "{asked:?}");
    let person = world.person(approver);
    person.approve(&asked.request_id, &asked.digest).await.unwrap();
    job.open(&asked.request_id).await.unwrap()
}

// S61, S62, S63, §4.11 row 24
#[tokio::test]
async fn break_glass_takes_a_ticket_and_a_person_and_is_looked_at_before_the_next_time() {
    let _lane = Lane::shared();
    let folder = tempfile::Builder::new().prefix("mf-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let (section, tracker) = Tracker::new(folder.path());
    let world = TaskWorld::start_among(EMERGENCY, &format!("{RESPONDERS}{section}")).await;
    let (ann, bob) = (world.person(ANN), world.person(BOB));
    for (old, new, says) in [
        ("10m", "61m", "1h"),
        ("count = 1\ngroups = [\"leads\"]", "", "at least one approval"),
        ("required = true", "required = false", "needs a ticket"),
        ("escalation = \"#on-call\"\n", "", "whom to tell"),
    ] {
        let status = ann.define(&EMERGENCY.replace(old, new)).await.expect_err(says);
        assert!(status.message().contains(says), "{status:?}");
    }

    // No ticket, then one that is not open: nobody is even asked.
    let job = world.job(JOB_UID);
    let without = job.request(emergency("database down", "")).await.unwrap();
    assert!(
        matches!(without.stage(), Stage::AwaitingTicket | Stage::Denied),
        "{without:?}"
    );
    let first = job.request(emergency("database down", "INC-7")).await.unwrap();
    assert_eq!(first.stage(), Stage::AwaitingTicket, "{first:?}");
    let early = ann.approve(&first.request_id, &first.digest).await;
    assert_eq!(early.expect_err("not yet").code(), Code::FailedPrecondition);
    tracker.says(true);
    stage_is(&world, &first.request_id, "awaiting_approval").await;
    assert!(job.open(&first.request_id).await.is_err(), "a ticket is not enough");
    let own = world.person(JOB_UID).approve(&first.request_id, &first.digest).await;
    assert_eq!(own.expect_err("his own").code(), Code::PermissionDenied);
    ann.approve(&first.request_id, &first.digest).await.unwrap();

    // Its own root, its own authority, and no longer than its cap.
    let state = job.open(&first.request_id).await.unwrap();
    let id = format!("spiffe://{TRUST_DOMAIN}/breakglass/pay/emergency/ns/pay/migrator");
    assert_eq!(state.spiffe_id, id);
    let emergency_svid = svid(&job.task_svid_where(|_| true).await);
    let window = ann.task(&first.request_id).await.windows[0].clone();
    assert!(window.closes_at - window.opened_at <= 600, "{window:?}");
    job.complete(&first.request_id).await.unwrap();
    job.is_withdrawn(PATIENCE).await;
    world.define(mayfly_tests::tasks::UNATTENDED).await;
    let ordinary = job.enter().await;
    let other = svid(&job.task_svid_where(|_| true).await);
    assert_eq!(other.spiffe_id().path(), "/task/pay/db-migrate/ns/pay/migrator");
    assert_ne!(signed_by(&other), signed_by(&emergency_svid), "an authority of its own");
    job.complete(&ordinary.request_id).await.unwrap();

    // Not again before somebody else has looked at it.
    let again = job.request(emergency("down again", "INC-7")).await;
    println!("before the review: {again:?}");
    assert!(
        again.as_ref().map_or(true, |state| state.stage() == Stage::Denied),
        "{again:?}"
    );
    assert!(ann.task(&first.request_id).await.review_due);
    let own = world.person(JOB_UID).review(&first.request_id).await;
    println!("his own review: {own:?}");
    own.expect_err("his own use");
    let stranger = world.person(41_399).review(&first.request_id).await;
    stranger.expect_err("nobody that is known");
    let zed = world.person(ZED).review(&first.request_id).await;
    println!("by somebody who has no part in it: {zed:?}");
    assert_eq!(zed.expect_err("no say in it").code(), Code::PermissionDenied);
    let approver = ann.review(&first.request_id).await;
    println!("by who approved it: {approver:?}");
    assert_eq!(approver.expect_err("her own approval").code(), Code::PermissionDenied);
    let reviewed = bob.review(&first.request_id).await.unwrap();
    assert!(!reviewed.review_due);

    // A second period is not approved by who approved the first.
    let second = job.request(emergency("down again", "INC-7")).await.unwrap();
    assert_eq!(second.stage(), Stage::AwaitingApproval, "{second:?}");
    let same = ann.approve(&second.request_id, &second.digest).await;
    println!("the same approver: {same:?}");
    assert_eq!(same.expect_err("twice in a row").code(), Code::PermissionDenied);
    bob.approve(&second.request_id, &second.digest).await.unwrap();
    job.open(&second.request_id).await.unwrap();
    assert!(job.task_svid().await.is_some());

    // S40: what rests on a ticket ends with it.
    tracker.says(false);
    let closed = Instant::now();
    job.is_withdrawn(PATIENCE).await;
    println!("withdrawn {:.1?} after the ticket was closed", closed.elapsed());
    let window = ann.task(&second.request_id).await.windows[0].clone();
    assert_eq!(window.cause, "policy_withdrawn", "{window:?}");
    assert!(window.detail.contains("ticket"), "{window:?}");
    world.check_log();
}

// S61: nothing makes a period longer
#[tokio::test]
async fn a_third_period_takes_a_third_decision_and_its_window_is_no_longer() {
    let _lane = Lane::shared();
    let folder = tempfile::Builder::new().prefix("mf-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let (section, tracker) = Tracker::new(folder.path());
    tracker.says(true);
    let world = TaskWorld::start_among(EMERGENCY, &format!("{RESPONDERS}{section}")).await;
    let job = world.job(JOB_UID);
    let ann = world.person(ANN);
    for (period, approver) in [(1, ANN), (2, BOB), (3, ANN)] {
        let mut request = emergency(&format!("period {period}"), "INC-7");
        request.window_seconds = 7 * 3600;
        let state = opened(&world, &job, &request.reason, approver).await;
        let window = ann.task(&state.request_id).await.windows[0].clone();
        let ends = window.closes_at;
        assert!(ends - window.opened_at <= 600, "{window:?}");
        job.renew(&state.request_id).await.unwrap();
        let window = ann.task(&state.request_id).await.windows[0].clone();
        assert_eq!(window.closes_at, ends, "a renewal moves no end");
        job.complete(&state.request_id).await.unwrap();
        world
            .person(if approver == ANN { BOB } else { ANN })
            .review(&state.request_id)
            .await
            .unwrap();
    }
    let checked = world.check_log();
    assert_eq!(checked.windows, 3);
}
