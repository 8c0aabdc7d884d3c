//! What an agent does for tasks on its node: who may say that a revocation is enforced, for how long its word counts, and
//! what ends the window of a process that is still who it was.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mayfly_proto::mayfly::workload::checkpoint_client::CheckpointClient;
use mayfly_proto::mayfly::workload::enforce_request::Body;
use mayfly_proto::mayfly::workload::{EnforceAck, EnforceHello, EnforceRequest, EnforceResponse, RequestRequest};
use mayfly_tests::binaries::binary;
use mayfly_tests::caller::channel_over;
use mayfly_tests::faults::Paused;
use mayfly_tests::tasks::{CHECKPOINT, JOB_UID, PEOPLE, TaskWorld, UNATTENDED};
use mayfly_tests::{Caller, Lane, eventually};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(60);
const EVIL: u32 = 41_666;
const SERVICE: &str = "spiffe://example.org/svc/pay-db";

/// A process that says of itself that it enforces what is revoked.
struct Pretender {
    process: Caller,
    say: mpsc::Sender<EnforceRequest>,
    hear: Streaming<EnforceResponse>,
}

impl Pretender {
    /// Under the name of the service.
    async fn register(world: &TaskWorld, spiffe_id: &str) -> Result<Self, Status> {
        let hello = EnforceHello {
            spiffe_id: spiffe_id.into(),
            ..EnforceHello::default()
        };
        Self::register_as(world, EVIL, hello).await
    }

    /// Another consumer that is who the service is.
    async fn of_service(world: &TaskWorld, best_effort: bool) -> Self {
        let hello = EnforceHello {
            spiffe_id: SERVICE.into(),
            best_effort,
            ..EnforceHello::default()
        };
        let registered = Self::register_as(world, rustix::process::geteuid().as_raw(), hello).await;
        registered.expect("it is the service")
    }

    async fn register_as(world: &TaskWorld, uid: u32, hello: EnforceHello) -> Result<Self, Status> {
        let mut process = Caller::spawn(uid);
        let channel = channel_over(process.connect(&world.agent.socket()));
        let (say, said) = mpsc::channel(8);
        let hello = EnforceHello {
            checkpoint: CHECKPOINT.into(),
            version: "pretender".into(),
            ..hello
        };
        let body = Some(Body::Hello(hello));
        say.send(EnforceRequest { body }).await.expect("the stream is new");
        let mut request = Request::new(ReceiverStream::new(said));
        let value = "true".parse().expect("plain ASCII");
        request.metadata_mut().insert("workload.spiffe.io", value);
        let hear = CheckpointClient::new(channel).enforce(request).await?.into_inner();
        Ok(Self { process, say, hear })
    }

    /// Acknowledges whatever it is told, until it was told `epochs` of them.
    async fn acknowledges_everything(&mut self) -> u64 {
        self.acknowledges_what_it_hears().await.epoch
    }

    /// Acknowledges the next word.
    async fn acknowledges_what_it_hears(&mut self) -> EnforceResponse {
        let heard = tokio::time::timeout(PATIENCE, self.hear.message()).await;
        let heard = heard.expect("the agent speaks").expect("the stream goes on");
        let heard = heard.expect("the stream goes on");
        let ack = EnforceAck {
            epoch: heard.epoch,
            ..EnforceAck::default()
        };
        let body = Some(Body::Ack(ack));
        self.say
            .send(EnforceRequest { body })
            .await
            .expect("the stream goes on");
        heard
    }

    /// Acknowledges until it was told for how long that counts; when that is over.
    async fn counts_on_a_lease(&mut self) -> Instant {
        loop {
            let heard = self.acknowledges_what_it_hears().await;
            if heard.lease_ms > 0 {
                return Instant::now() + Duration::from_millis(heard.lease_ms.into());
            }
        }
    }
}

/// A debugger on a process, until this is dropped.
struct Debugger(Child);

impl Debugger {
    fn attach(pid: u32) -> Self {
        let mut child = Command::new(binary("debugger"))
            .arg(pid.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the debugger can be started");
        let mut said = [0; 9];
        let output = child.stdout.as_mut().expect("piped");
        std::io::Read::read_exact(output, &mut said).expect("the debugger attaches");
        assert_eq!(&said, b"attached\n");
        Self(child)
    }
}

impl Drop for Debugger {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The last window.
async fn window(world: &TaskWorld) -> Value {
    world.tasks().await[0]["windows"][0].clone()
}

async fn revoke(world: &TaskWorld, window_id: &str) {
    let outcome = world
        .cli
        .run(&["task", "revoke", "--window", window_id, "--reason", "a story"])
        .await;
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

async fn until_stage(world: &TaskWorld, stage: &str) -> Value {
    eventually(stage, PATIENCE, async || {
        let window = window(world).await;
        (window["stage"] == stage).then_some(window)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_the_name_of_a_checkpoint_neither_proves_nor_holds_up_that_authority_is_dead() {
    let _lane = Lane::shared();
    // A definition that names nobody in particular is refused.
    let sections = format!("{PEOPLE}[tasks]\nsettle_within = \"2s\"\n");
    let world = TaskWorld::start_among(UNATTENDED, &sections).await;
    world.entry("/ns/evil", EVIL).await;
    let loose = world.server.dir().join("loose.toml");
    std::fs::write(&loose, UNATTENDED.replace("pay-db@/svc/pay-db", "pay-db")).unwrap();
    let outcome = world.cli.run(&["task", "define", loose.to_str().unwrap()]).await;
    assert_ne!(outcome.code, Some(0));
    assert!(
        outcome.stderr.contains("does not say whom to believe"),
        "{}",
        outcome.stderr
    );

    let refused = Pretender::register(&world, "spiffe://example.org/svc/pay-db")
        .await
        .err();
    assert_eq!(
        refused.unwrap().code(),
        Code::PermissionDenied,
        "it is not that service"
    );
    let mut pretender = eventually("its own identity", PATIENCE, async || {
        Pretender::register(&world, "").await.ok()
    })
    .await;
    pretender.acknowledges_everything().await;
    let job = world.job(JOB_UID);
    let opened = job.enter().await;
    revoke(&world, &opened.window_id).await;
    job.is_withdrawn(PATIENCE).await;
    // It is told, and says that it enforces all of it. The service is not there, so nobody does.
    while pretender.acknowledges_everything().await == 0 {}
    let stuck = until_stage(&world, "revocation_incomplete").await;
    assert!(
        stuck["detail"].as_str().unwrap().contains("pay-db@/svc/pay-db"),
        "{stuck}"
    );

    // Now one that acknowledges nothing has the name. The service says that it enforces it, and that is that.
    drop(pretender);
    let _mute = Pretender::register(&world, "").await.unwrap();
    let _guarded = world.guarded().await;
    until_stage(&world, "settled").await;
    world.check_log();
}

// A consumer that was stopped or cut off counts on the last word that it was told, and accepts what it would refuse with the
// next one. One of best effort needs no word at all.
#[tokio::test(flavor = "multi_thread")]
async fn no_window_is_settled_by_consumers_that_are_away() {
    let _lane = Lane::alone();
    let sections =
        format!("{PEOPLE}[tasks]\nlease = \"8s\"\nsettle_within = \"2s\"\n[watch]\nbeacon_interval = \"2s\"\n");
    let world = TaskWorld::start_among(UNATTENDED, &sections).await;
    let _guarded = world.guarded().await;
    let job = world.job(JOB_UID);
    let enter = async |key: &str| {
        let asked = RequestRequest {
            idempotency_key: key.into(),
            ..mayfly_tests::tasks::asked()
        };
        let id = job.request(asked).await.unwrap().request_id;
        job.open(&id).await.unwrap().window_id
    };

    // Its connection is cut; its process lives on.
    let first = enter("first").await;
    let mut lost = Pretender::of_service(&world, false).await;
    let believes_until = lost.counts_on_a_lease().await;
    let Pretender { process, say, hear } = lost;
    drop((say, hear));
    let ended = Instant::now();
    revoke(&world, &first).await;
    let settled = until_stage(&world, "settled").await;
    let (cut, early) = (
        ended.elapsed(),
        believes_until.saturating_duration_since(Instant::now()),
    );
    assert_eq!(early, Duration::ZERO, "it was settled {cut:?} after its end: {settled}");
    assert_eq!(settled["settled_by"], "enforced", "{settled}");
    assert_eq!(settled["acknowledged"][0]["consumers"], 1, "{settled}");
    process.exit();

    // The process ends, so nobody has to be waited for.
    let second = enter("second").await;
    let mut dead = Pretender::of_service(&world, false).await;
    let believes_until = dead.counts_on_a_lease().await;
    dead.process.exit();
    let ended = Instant::now();
    revoke(&world, &second).await;
    let settled = until_stage(&world, "settled").await;
    let died = ended.elapsed();
    assert!(Instant::now() < believes_until, "only after {died:?}: {settled}");
    assert_eq!(settled["settled_by"], "enforced", "{settled}");

    // Without a word it goes on, whatever it acknowledged.
    let third = enter("third").await;
    let mut goes_on = Pretender::of_service(&world, true).await;
    while goes_on.acknowledges_everything().await == 0 {}
    revoke(&world, &third).await;
    let stuck = until_stage(&world, "revocation_incomplete").await;
    assert!(stuck["detail"].as_str().unwrap().contains("best effort"), "{stuck}");
    assert_eq!(stuck["settled_by"], "", "{stuck}");
    println!(
        "settled {cut:.1?} after the end with a consumer cut off whose lease was 8 s, {died:.1?} with one that died, not at \
         all with one of best effort"
    );
    world.check_log();
}

// Transition 25 of the task model
#[tokio::test(flavor = "multi_thread")]
async fn a_debugger_on_the_holder_of_a_window_ends_it_as_deviated() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(UNATTENDED).await;
    let guarded = world.guarded().await;
    let job = world.job(JOB_UID);
    job.enter().await;
    let mut copied = job.copy_out(&guarded, &world.job_dir("copy")).await;
    let debugger = Debugger::attach(job.pid());
    let begun = Instant::now();
    let cut = copied.is_dead(begun, PATIENCE).await;
    let gone = job.is_withdrawn(PATIENCE).await;
    let ended = until_stage(&world, "settled").await;
    println!(
        "a debugger was attached: the connection was cut {cut:.1?} later, the SVID off the stream by {gone:.1?} then"
    );
    assert_eq!(ended["cause"], "deviated", "{ended}");
    let detail = format!("process {} traces process {}", debugger.0.id(), job.pid());
    assert_eq!(ended["detail"], detail.as_str());
    drop(debugger);
    // It is still who it was, and may ask again.
    let again = job.request(mayfly_proto::mayfly::workload::RequestRequest {
        idempotency_key: "again".into(),
        ..mayfly_tests::tasks::asked()
    });
    job.open(&again.await.unwrap().request_id).await.unwrap();
    job.task_svid_where(|_| true).await;
    world.check_log();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_debugger_on_what_mayfly_run_runs_ends_it_and_one_that_it_runs_itself_does_not() {
    let _lane = Lane::shared();
    let world = TaskWorld::start(UNATTENDED).await;
    let dir = world.job_dir("job");
    let script = "sh -c 'echo $$ > pid; exec sleep 600' & wait";
    let mut run = world.run(&dir, &[], script).spawn().unwrap();
    let pid = eventually("the job to run", PATIENCE, async || {
        let text = std::fs::read_to_string(dir.join("pid")).ok()?;
        text.trim().parse::<u32>().ok()
    });
    let debugger = Debugger::attach(pid.await);
    let status = tokio::time::timeout(PATIENCE, run.wait()).await.expect("it is ended");
    assert_eq!(
        status.unwrap().code(),
        Some(123),
        "the window ended before the command did"
    );
    drop(debugger);
    assert_eq!(until_stage(&world, "closed").await["cause"], "deviated");

    // The job's own debugger has part in the window itself.
    std::fs::copy(binary("debugger"), dir.join("debugger")).unwrap();
    let script = "./debugger -- sleep 3 > said; echo fine > end";
    let mut run = world.run(&dir, &["--key", "again"], script).spawn().unwrap();
    let status = tokio::time::timeout(PATIENCE, run.wait())
        .await
        .expect("it ends by itself");
    assert_eq!(status.unwrap().code(), Some(0));
    let read = |file: &str| std::fs::read_to_string(dir.join(file)).unwrap();
    assert_eq!((read("said"), read("end")), ("attached\n".into(), "fine\n".into()));
    world.check_log();
}

// §4.11 row 5
#[tokio::test(flavor = "multi_thread")]
async fn without_a_word_of_the_server_a_service_lets_go_within_the_lease_that_the_server_names() {
    let _lane = Lane::alone();
    // Four beacons would be twice as long.
    let lease = Duration::from_secs(4);
    let sections = format!("{PEOPLE}[tasks]\nlease = \"4s\"\n[watch]\nbeacon_interval = \"2s\"\n");
    let world = TaskWorld::start_among(UNATTENDED, &sections).await;
    let guarded = world.guarded().await;
    let job = world.job(JOB_UID);
    job.enter().await;
    let mut copied = job.copy_out(&guarded, &world.job_dir("copy")).await;
    let paused = Paused::new(&world.server.daemon);
    let silent = Instant::now();
    let cut = copied.is_dead(silent, PATIENCE).await;
    job.is_withdrawn(PATIENCE).await;
    let withdrawn = silent.elapsed();
    println!("the server fell silent: the service cut {cut:.1?} later, the holder had nothing {withdrawn:.1?} later");
    assert!(cut < lease + Duration::from_secs(2), "{cut:?}");
    drop(paused);
    world.check_log();
}
