//! How an identity is taken back: by the operator, by time, and by the process becoming something else.
//!
//! Each bound is asserted and the measured time is printed. What the operator does is pushed, so it takes milliseconds.
//! What a process does to itself the agent finds at its next look (`workload_api.sweep_interval`, 500 ms by default).

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use mayfly_tests::binaries::binary;
use mayfly_tests::caller::ids;
use mayfly_tests::{Agent, Caller, EntrySpec, Lane, Server, WorkloadStream, eventually};
use tonic::{Code, Status};

const USER: u32 = 41_001;
/// Pushed: some milliseconds; the rest is for a machine that does many things at once.
const PUSHED: Duration = Duration::from_secs(2);
/// The agent's look at its callers, and an attestation.
const LOOKED: Duration = Duration::from_secs(3);

/// A server, an agent, and an open stream of a process of `uid` that has `/web`.
struct Scene {
    server: Server,
    agent: Agent,
    caller: Caller,
    stream: WorkloadStream,
    entry_id: String,
}

impl Scene {
    async fn set(uid: u32, selectors: &[&str]) -> Self {
        let server = Server::start().await;
        let agent = Agent::join(&server).await;
        let entry_id = server
            .admin()
            .create(&EntrySpec::new("/web", agent.id(), selectors))
            .await;
        let mut caller = Caller::spawn(uid);
        let (first, stream) = caller.workload(&agent.socket()).first().await.unwrap();
        assert_eq!(ids(&first), ["spiffe://example.org/web"]);
        Self {
            server,
            agent,
            caller,
            stream,
            entry_id,
        }
    }

    /// Waits for the end of the stream; checks that it comes in time and that nobody gets the identity again.
    async fn is_withdrawn(&mut self, what: &str, since: Instant, bound: Duration) -> Status {
        let ended = end(&mut self.stream).await;
        let took = since.elapsed();
        println!(
            "{what}: withdrawn after {:.1} ms ({:?})",
            took.as_secs_f64() * 1e3,
            ended.code()
        );
        assert!(took <= bound, "{what}: {took:?}, promised {bound:?}");
        ended
    }
}

async fn end(stream: &mut WorkloadStream) -> Status {
    loop {
        if let Err(status) = stream.next().await {
            return status;
        }
    }
}

fn uid() -> String {
    format!("unix:uid:{USER}")
}

fn no_identity(status: &Status) {
    assert_eq!(
        (status.code(), status.message()),
        (Code::PermissionDenied, "no identity issued")
    );
}

fn changed(status: &Status) {
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("the calling process changed"), "{status}");
}

/// A second program: the holder at another path, with another digest.
fn another_program(scene_dir: &std::path::Path) -> PathBuf {
    let path = scene_dir.join("another");
    let mut program = std::fs::read(binary("holder")).unwrap();
    program.push(0);
    std::fs::write(&path, program).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

fn sha256_of(path: &std::path::Path) -> String {
    let output = std::process::Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .split(' ')
        .next()
        .unwrap()
        .to_owned()
}

// Promise 4; WAPI-29, WAX-16
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_entry_ends_the_identity_at_once() {
    let _lane = Lane::shared();
    let mut scene = Scene::set(USER, &[&uid()]).await;
    let begun = Instant::now();
    scene.server.admin().delete(&scene.entry_id).await;
    no_identity(&scene.is_withdrawn("entry deleted", begun, PUSHED).await);
    no_identity(&scene.caller.workload(&scene.agent.socket()).fetch().await.unwrap_err());
}

// Promise 4; SPIRE forgets it
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_expires_ends_the_identity_at_its_second() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let agent = Agent::join(&server).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let expires_at = now.as_secs() + 4;
    let spec = EntrySpec {
        expires_at: i64::try_from(expires_at).unwrap(),
        ..EntrySpec::new("/web", agent.id(), &[&uid()])
    };
    server.admin().create(&spec).await;
    let mut caller = Caller::spawn(USER);
    let (first, mut stream) = caller.workload(&agent.socket()).first().await.unwrap();
    let not_after = mayfly_tests::caller::svid(&first.svids[0]).not_after().unix();
    assert!(
        not_after <= i64::try_from(expires_at).unwrap(),
        "the SVID outlives its entry: {not_after} > {expires_at}"
    );

    no_identity(&end(&mut stream).await);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let late = now.as_secs_f64() - f64::from(u32::try_from(expires_at).unwrap());
    println!("entry expired: withdrawn {:.0} ms after the second", late * 1e3);
    assert!((-0.05..=2.0).contains(&late), "{late} s");
    no_identity(&caller.workload(&agent.socket()).fetch().await.unwrap_err());
}

// Promise 4
#[tokio::test(flavor = "multi_thread")]
async fn a_banned_agent_serves_nobody_and_gets_nothing() {
    let _lane = Lane::shared();
    let mut scene = Scene::set(USER, &[&uid()]).await;
    let begun = Instant::now();
    scene.server.admin().try_ban(scene.agent.id()).await.unwrap();
    let ended = scene.is_withdrawn("agent banned", begun, PUSHED).await;
    assert!(
        matches!(ended.code(), Code::Unavailable | Code::PermissionDenied),
        "{ended}"
    );
    let refused = scene.caller.workload(&scene.agent.socket()).fetch().await.unwrap_err();
    assert!(
        matches!(refused.code(), Code::Unavailable | Code::PermissionDenied),
        "{refused}"
    );
    println!("a caller of a banned agent is told: {refused}");
    assert!(scene.server.admin().get_agent(scene.agent.id()).await.unwrap().banned);
}

// Promise 4
#[tokio::test(flavor = "multi_thread")]
async fn an_evicted_agent_serves_nobody_until_it_has_attested_again() {
    let _lane = Lane::shared();
    let mut scene = Scene::set(USER, &[&uid()]).await;
    let admin = scene.server.admin();
    let begun = Instant::now();
    admin.try_evict(scene.agent.id()).await.unwrap();
    let ended = scene.is_withdrawn("agent evicted", begun, PUSHED).await;
    assert!(
        matches!(ended.code(), Code::Unavailable | Code::PermissionDenied),
        "{ended}"
    );
    assert_eq!(
        admin.get_agent(scene.agent.id()).await.unwrap_err().code(),
        Code::NotFound
    );

    // A token of its own brings it back, as a new agent with nothing.
    std::fs::write(scene.agent.dir().join("join-token"), admin.token().await).unwrap();
    let back = eventually("the agent to join again", Duration::from_secs(60), async || {
        admin.list_agents().await.into_iter().next()
    })
    .await;
    let back = mayfly_tests::admin::id_text(back.id.as_ref());
    assert_ne!(back, scene.agent.id());
    // Its entry names the agent that is gone.
    let refused = eventually("the agent to serve again", Duration::from_secs(30), async || {
        let refused = scene.caller.workload(&scene.agent.socket()).fetch().await.unwrap_err();
        (refused.code() != Code::Unavailable).then_some(refused)
    })
    .await;
    no_identity(&refused);
}

// Promise 4
#[tokio::test(flavor = "multi_thread")]
async fn executing_another_program_ends_the_identity_of_the_first() {
    let _lane = Lane::shared();
    let holder = std::fs::canonicalize(binary("holder")).unwrap();
    let by_path = format!("unix:path:{}", holder.display());
    let by_digest = format!("unix:sha256:{}", sha256_of(&holder));
    for selector in [&by_path, &by_digest] {
        let mut scene = Scene::set(USER, &[&uid(), selector]).await;
        let another = another_program(scene.agent.dir());
        let begun = Instant::now();
        scene.caller.exec(&another);
        let what = format!("exec, entry by {}", selector.split(':').nth(1).unwrap());
        changed(&scene.is_withdrawn(&what, begun, LOOKED).await);
        no_identity(&scene.caller.workload(&scene.agent.socket()).fetch().await.unwrap_err());
    }
}

// Promise 4: a connection belongs to the program that opened it. What still matches is had by connecting again, which
// a client is made to do: the agent closes the connection, so that nobody retries on it for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_still_matches_connects_again_after_exec() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let agent = Agent::join(&server).await;
    server
        .admin()
        .create(&EntrySpec::new("/web", agent.id(), &[&uid()]))
        .await;
    let mut caller = Caller::spawn(USER);
    let before = caller.workload(&agent.socket());
    let (_, mut stream) = before.first().await.unwrap();
    caller.exec(&another_program(agent.dir()));
    changed(&end(&mut stream).await);

    // Until the end of the connection has arrived, each call on it is refused.
    let begun = Instant::now();
    loop {
        let refused = before.fetch().await.unwrap_err();
        println!("on the connection of before: {refused}");
        if refused.message().contains("the connection is lost") {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "it is still open: {refused}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let again = caller.workload(&agent.socket()).fetch().await.unwrap();
    assert_eq!(ids(&again), ["spiffe://example.org/web"]);
}

// Promise 4
#[tokio::test(flavor = "multi_thread")]
async fn another_user_after_connect_ends_the_identity_of_the_first() {
    let _lane = Lane::shared();
    let mut scene = Scene::set(0, &["unix:uid:0"]).await;
    let begun = Instant::now();
    scene.caller.set_uid(USER);
    changed(&scene.is_withdrawn("setuid after connect", begun, LOOKED).await);
    no_identity(&scene.caller.workload(&scene.agent.socket()).fetch().await.unwrap_err());
}

// Promise 4; WAPI-08
#[tokio::test(flavor = "multi_thread")]
async fn the_death_of_the_process_ends_what_others_hold_of_its_connection() {
    let _lane = Lane::shared();
    let mut scene = Scene::set(USER, &[&uid()]).await;
    let Scene { caller, stream, .. } = &mut scene;
    let begun = Instant::now();
    std::mem::replace(caller, Caller::spawn(USER)).exit();
    let ended = end(stream).await;
    println!(
        "process gone: ended after {:.1} ms: {ended}",
        begun.elapsed().as_secs_f64() * 1e3
    );
    assert!(begun.elapsed() <= LOOKED);
}
