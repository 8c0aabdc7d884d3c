//! Authority is ended by every scope there is: connections are cut and keys refused, and what is not meant goes on.

use std::time::{Duration, Instant};

use mayfly_tests::caller::svid;
use mayfly_tests::tasks::{Copied, Guarded, JOB_UID, Job, TASK, TaskWorld, signed_by};
use mayfly_tests::{Lane, TRUST_DOMAIN, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
/// What "at once" is on a machine that does much besides.
const AT_ONCE: Duration = Duration::from_secs(5);
const BYSTANDER: u32 = 41_201;

const TWO: &str = "name = \"pay/db-migrate\"\nowner = \"ann\"\n[allowed]\n\
                   workloads = [\"/ns/pay/migrator\", \"/ns/pay/bystander\"]\n\
                   [limits]\nmax_window = \"10m\"\n[ending]\ncheckpoints = [\"/svc/pay-db\"]\n";

/// Who holds a window, with a copy of its identity and a connection.
struct Held {
    job: Job,
    request_id: String,
    window_id: String,
    copied: Copied,
}

async fn enter(world: &TaskWorld, guarded: &Guarded, uid: u32, dir: &str) -> Held {
    let job = world.job(uid);
    let opened = job.enter().await;
    let copied = job.copy_out(guarded, &world.job_dir(dir)).await;
    Held {
        job,
        request_id: opened.request_id,
        window_id: opened.window_id,
        copied,
    }
}

impl Held {
    async fn serial(&self) -> String {
        let found = self.job.task_svid().await.expect("it holds a task SVID");
        svid(&found).serial().to_string()
    }

    async fn goes_on(&mut self) {
        assert!(self.copied.is_connected() && self.copied.is_let_in().await);
    }
}

async fn revoke(world: &TaskWorld, scope: &[&str]) -> Instant {
    let mut args = vec!["task", "revoke"];
    args.extend(scope);
    args.extend(["--reason", "a story"]);
    let outcome = world.cli.run(&args).await;
    assert_eq!(outcome.code, Some(0), "{}{}", outcome.stdout, outcome.stderr);
    Instant::now()
}

// S57
#[tokio::test(flavor = "multi_thread")]
async fn each_scope_ends_what_it_names_at_once_and_nothing_else() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(TWO).await;
    world.entry("/ns/pay/bystander", BYSTANDER).await;
    let guarded = world.guarded().await;
    let mut bystander = enter(&world, &guarded, BYSTANDER, "bystander").await;
    let workload = format!("spiffe://{TRUST_DOMAIN}/ns/pay/migrator");

    for scope in ["serial", "window", "workload"] {
        let mut held = enter(&world, &guarded, JOB_UID, scope).await;
        let serial = held.serial().await;
        let argument = match scope {
            "serial" => &serial,
            "window" => &held.window_id,
            _ => &workload,
        };
        let before = Instant::now();
        let done = revoke(&world, &[&format!("--{scope}"), argument]).await;
        let cut = held.copied.is_dead(done, AT_ONCE).await;
        println!(
            "--{scope}: the command took {:.0?}, cut {cut:.0?} after it",
            done - before
        );
        if scope == "serial" {
            // The window goes on: with another SVID.
            let next = held
                .job
                .task_svid_where(|found| found.serial().to_string() != serial)
                .await;
            let next = Copied::write(&next, &guarded, &world.job_dir("serial-next"));
            eventually("the next SVID to be let in", PATIENCE, async || {
                next.is_let_in().await.then_some(())
            })
            .await;
            held.job.complete(&held.request_id).await.unwrap();
        } else {
            held.job.is_withdrawn(PATIENCE).await;
        }
        bystander.goes_on().await;
    }

    for (scope, argument) in [("task", TASK), ("node", world.agent.id()), ("everything", "")] {
        let mut held = enter(&world, &guarded, JOB_UID, scope).await;
        let before = Instant::now();
        let option = format!("--{scope}");
        let words: Vec<&str> = match scope {
            "everything" => vec![&option, "--yes"],
            _ => vec![&option, argument],
        };
        let done = revoke(&world, &words).await;
        let cut = held.copied.is_dead(done, AT_ONCE).await;
        println!(
            "--{scope}: the command took {:.0?}, cut {cut:.0?} after it",
            done - before
        );
        bystander.copied.is_dead(done, AT_ONCE).await;
        held.job.is_withdrawn(PATIENCE).await;
        bystander.job.is_withdrawn(PATIENCE).await;
        if scope != "everything" {
            bystander = enter(&world, &guarded, BYSTANDER, &format!("bystander-{scope}")).await;
        }
    }
    // Of what is gone there is nothing to revoke, and that is said.
    let outcome = world
        .cli
        .run(&["task", "revoke", "--task", TASK, "--reason", "again"])
        .await;
    assert_ne!(outcome.code, Some(0));
    world.check_log();
}

// S57, §4.11 row 7
#[tokio::test(flavor = "multi_thread")]
async fn after_a_hard_cut_the_windows_that_go_on_have_svids_of_another_authority() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(TWO).await;
    world.entry("/ns/pay/bystander", BYSTANDER).await;
    let guarded = world.guarded().await;
    let bystander = enter(&world, &guarded, BYSTANDER, "bystander").await;
    let mut held = enter(&world, &guarded, JOB_UID, "held").await;
    let first = bystander.job.task_svid().await.unwrap();
    let issuer = signed_by(&svid(&first));
    let old_bundle = world.server.admin().bundle().await;

    let before = Instant::now();
    let done = revoke(&world, &["--window", &held.window_id, "--hard-cut"]).await;
    let cut = held.copied.is_dead(done, AT_ONCE).await;
    let next = bystander.job.task_svid_where(|found| signed_by(found) != issuer).await;
    let anew = done.elapsed();
    let old = Copied::write(&first, &guarded, &world.job_dir("old"));
    let next = Copied::write(&next, &guarded, &world.job_dir("next"));
    eventually("the SVID of the new authority to be let in", PATIENCE, async || {
        next.is_let_in().await.then_some(())
    })
    .await;
    eventually(
        "the SVID of the authority that was cut to be refused",
        PATIENCE,
        async || (!old.is_let_in().await).then_some(()),
    )
    .await;
    println!(
        "--hard-cut: the command took {:.0?}; cut {cut:.0?} after it; another window had an SVID of a new authority after \
         {anew:.0?}",
        done - before
    );
    let bundle = world.server.admin().bundle().await;
    let gone = old_bundle
        .x509_authorities
        .iter()
        .filter(|old| !bundle.x509_authorities.iter().any(|new| new.cert_der == old.cert_der))
        .count();
    assert!(gone >= 1, "the authority is out of the bundle");
    bystander.job.complete(&bystander.request_id).await.unwrap();
    world.check_log();
}

// S57: an end needs nobody (I12), but not everybody ends everything
#[tokio::test]
async fn who_has_no_say_ends_nothing_and_who_asked_does() {
    use mayfly_proto::mayfly::task::revoke_request::Scope;
    let _lane = Lane::shared();
    let world = TaskWorld::start(TWO).await;
    let job = world.job(JOB_UID);
    let opened = job.enter().await;
    let stranger = world.person(41_299);
    for scope in [
        Scope::WindowId(opened.window_id.clone()),
        Scope::Task(TASK.into()),
        Scope::Everything(true),
    ] {
        let status = stranger
            .revoke(scope, false)
            .await
            .expect_err("a stranger ends nothing");
        assert_eq!(status.code(), tonic::Code::PermissionDenied, "{status:?}");
    }
    let joe = world.person(JOB_UID);
    let cut = joe.revoke(Scope::WindowId(opened.window_id.clone()), true).await;
    assert_eq!(
        cut.expect_err("a hard cut concerns all").code(),
        tonic::Code::PermissionDenied
    );
    assert!(job.task_svid().await.is_some());
    let ended = joe
        .revoke(Scope::WindowId(opened.window_id.clone()), false)
        .await
        .unwrap();
    assert_eq!(ended.window_ids, [opened.window_id]);
    job.is_withdrawn(PATIENCE).await;
    world.check_log();
}
