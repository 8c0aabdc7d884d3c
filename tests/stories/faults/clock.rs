//! The wall clock is set by ten minutes, forwards and backwards, while the daemons run.
//!
//! Certificates are dated by it, so what can be served depends on it; how long something is held must not.

use std::time::{Duration, Instant, SystemTime};

use mayfly_proto::spire::server::svid::MintX509svidRequest;
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_svid::{Timestamp, X509Svid};
use mayfly_tests::caller::{WorkloadStream, svid};
use mayfly_tests::faults::{SteppedClock, seen};
use mayfly_tests::{Agent, Caller, Lane, Server, ServerOptions, attest, eventually};

use super::{RECOVERY, assert_logged, register, serial, served_anew};

const LONG: u32 = 41_001;
const SHORT: u32 = 41_002;
const LATE: u32 = 41_003;
/// Lifetime of the short SVID, in seconds.
const TTL: u64 = 14;
const STEP: i64 = 600;

/// A server and an agent, one of them with a clock to be set, and two workloads: with an hour and with some seconds.
struct World {
    server: Server,
    agent: Agent,
    long: Caller,
    short: Caller,
    clock: SteppedClock,
}

impl World {
    async fn new(of_server: bool) -> Self {
        Self::with(of_server, "").await
    }

    /// With more lines of the server's section `svid`.
    async fn with(of_server: bool, svid: &str) -> Self {
        let clock = SteppedClock::new();
        let mut server = Server::prepare(&ServerOptions {
            sections: format!("[svid]\nx509_svid_ttl = \"{TTL}s\"\n{svid}\n"),
            ..Default::default()
        });
        if of_server {
            clock.give_to(&mut server.daemon);
        }
        server.daemon.start();
        server.wait_ready().await;
        let mut agent = Agent::prepare(&server, Default::default()).await;
        if !of_server {
            clock.give_to(&mut agent.daemon);
        }
        agent.start_joined(&server).await;
        register(&server, &agent, "/long", LONG, 3_600).await;
        register(&server, &agent, "/short", SHORT, 0).await;
        Self {
            server,
            agent,
            long: Caller::spawn(LONG),
            short: Caller::spawn(SHORT),
            clock,
        }
    }

    /// The long one is served all the time, and so is a workload that comes now.
    async fn hours_are_served(&mut self) -> Duration {
        let socket = self.agent.socket();
        self.long
            .workload(&socket)
            .fetch()
            .await
            .expect("the long SVID is served");
        let entry = register(&self.server, &self.agent, "/late", LATE, 3_600).await;
        let begun = Instant::now();
        let mut late = Caller::spawn(LATE);
        eventually("an SVID of now", RECOVERY, async || {
            late.workload(&socket).fetch().await.ok()
        })
        .await;
        let took = begun.elapsed();
        self.server.admin().delete(&entry).await;
        took
    }

    /// When the server dates what it signs, in seconds from now.
    async fn server_dates(&self) -> i64 {
        let (csr, _) = attest::csr_for("spiffe://example.org/minted");
        let mut minter = SvidClient::new(self.server.admin().channel());
        let chain = eventually("a minted SVID", RECOVERY, async || {
            let request = MintX509svidRequest {
                csr: csr.clone(),
                ttl: 600,
            };
            let answer = minter.mint_x509svid(request).await.ok()?;
            Some(answer.into_inner().svid.expect("an SVID").cert_chain)
        })
        .await;
        let minted = X509Svid::from_chain(chain.into_iter().map(Into::into).collect()).unwrap();
        minted.not_before().unix() - Timestamp::from(SystemTime::now()).unix()
    }

    /// Fails unless the agent's log is dated by the clock it was given.
    async fn agent_dates(&self, step: i64) {
        let minute = |later: i64| {
            let now = Timestamp::from(SystemTime::now()).unix() + step + later;
            Timestamp::from_unix(now).to_string()[..16].to_owned()
        };
        eventually("a log line of the agent's new time", RECOVERY, async || {
            let log = self.agent.daemon.log();
            let last = log.lines().last()?.to_owned();
            (last.starts_with(&minute(0)) || last.starts_with(&minute(-60))).then_some(())
        })
        .await;
    }
}

/// Waits until the stream is told that there is nothing any more; gives how long that took.
async fn ended(stream: &mut WorkloadStream) -> Duration {
    let begun = Instant::now();
    while stream.next().await.is_ok() {
        assert!(begun.elapsed() < RECOVERY, "the identity is still renewed");
    }
    begun.elapsed()
}

// Attack 24
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_set_forward_goes_on() {
    let _lane = Lane::shared();
    let mut world = World::new(true).await;
    let first = serial(&world.short.workload(&world.agent.socket()).fetch().await.unwrap());

    world.clock.set(STEP);
    let dated = world.server_dates().await;
    assert!((580..=600).contains(&dated), "{dated}: the clock was not set");
    let late = world.hours_are_served().await;
    let (second, renewed) = served_anew(&mut world.short, &world.agent, &first).await;

    world.clock.set(0);
    assert!((-20..=0).contains(&world.server_dates().await));
    world.hours_are_served().await;
    let (_, again) = served_anew(&mut world.short, &world.agent, &second).await;
    seen(
        "server's clock 10 min forward, then right again",
        &format!(
            "SVIDs dated {dated} s ahead; all served on: a new workload after {late:.0?}, one of {TTL} s renewed after \
             {renewed:.1?}; right again: renewed after {again:.1?}"
        ),
    );
}

// Attack 24
#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_is_set_back_extends_nothing_and_serves_again_when_it_is_right() {
    let _lane = Lane::shared();
    let mut world = World::new(true).await;
    let (first, mut stream) = world.short.workload(&world.agent.socket()).first().await.unwrap();
    let until = svid(&first.svids[0]).not_after();

    world.clock.set(-STEP);
    let dated = world.server_dates().await;
    assert!((-620..=-600).contains(&dated), "{dated}: the clock was not set");
    let late = world.hours_are_served().await;
    // What the server signs now for some seconds is over before it comes: the workload keeps what it has to its end.
    ended(&mut stream).await;
    let over = Timestamp::from(SystemTime::now()).unix() - until.unix();
    assert!(
        (0..=4).contains(&over),
        "the short SVID was told to be over {over} s after its end"
    );
    assert_logged(
        &world.server.daemon.log(),
        "the clock was set back to before the active authority",
    );
    assert_logged(&world.agent.daemon.log(), "no X509-SVID for the entry");

    world.clock.set(0);
    let (_, again) = served_anew(&mut world.short, &world.agent, &serial(&first)).await;
    world.hours_are_served().await;
    seen(
        "server's clock 10 min back, then right again",
        &format!(
            "it signs by another authority, as its own does not begin yet; SVIDs of an hour served on, new workload after \
             {late:.0?}; one of {TTL} s ended {over} s after its end, not extended; right again: served after {again:.1?}"
        ),
    );
}

// Attack 24
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_away_finds_back_to_a_server_that_was_restarted_with_its_clock_set_back() {
    let _lane = Lane::shared();
    let mut world = World::new(true).await;
    world.hours_are_served().await;
    // Away when the server makes the authority that it signs by from then on: nobody tells the agent of it.
    world.server.daemon.kill();
    world.clock.set(-STEP);
    world.server.daemon.start();
    world.server.wait_ready().await;
    assert_logged(
        &world.server.daemon.log(),
        "the clock was set back to before the active authority",
    );
    // The agent comes, and believes it. By this clock the agent's own SVID has not begun, so it has to come again.
    let tries = |world: &World| world.agent.daemon.log().matches("retry_in_ms").count();
    let before = tries(&world);
    eventually("the agent to try", RECOVERY, async || {
        (tries(&world) >= before + 3).then_some(())
    })
    .await;
    world.clock.set(0);
    let begun = Instant::now();
    world.hours_are_served().await;
    let right = begun.elapsed();
    let log = world.agent.daemon.log();
    assert!(!log.contains("the server is not believed"), "{log}");
    seen(
        "server restarted with its clock 10 min back, then right; its agent was away when that happened",
        &format!(
            "the authority that the server has to begin with is vouched for by the one before, so the agent believes it; \
             all served {right:.1?} after the clock was right"
        ),
    );
}

// Attack 24
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_clock_is_set_forward_ends_what_is_over_by_it_and_serves_again_when_it_is_right() {
    let _lane = Lane::shared();
    let mut world = World::new(false).await;
    let (first, mut stream) = world.short.workload(&world.agent.socket()).first().await.unwrap();

    world.clock.set(STEP);
    let over = ended(&mut stream).await;
    assert!(over < Duration::from_secs(5), "{over:?}");
    world.agent_dates(STEP).await;
    let late = world.hours_are_served().await;
    assert_logged(&world.agent.daemon.log(), "X509-SVID ended before a new one had come");

    world.clock.set(0);
    let (_, again) = served_anew(&mut world.short, &world.agent, &serial(&first)).await;
    world.hours_are_served().await;
    seen(
        "agent's clock 10 min forward, then right again",
        &format!(
            "one of {TTL} s taken back after {over:.1?}; SVIDs of an hour served on, new workload after {late:.0?}; right \
             again: served after {again:.1?}"
        ),
    );
}

// Attack 24
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_clock_is_set_back_extends_nothing() {
    let _lane = Lane::shared();
    let mut world = World::new(false).await;
    let first = serial(&world.short.workload(&world.agent.socket()).fetch().await.unwrap());

    world.clock.set(-STEP);
    let late = world.hours_are_served().await;
    world.agent_dates(-STEP).await;
    // Renewed in time, by a clock that is not set.
    let (_, renewed) = served_anew(&mut world.short, &world.agent, &first).await;
    let (last, mut stream) = world.short.workload(&world.agent.socket()).first().await.unwrap();
    let until = svid(&last.svids[0]).not_after();
    // Nobody renews it any more. By the agent's clock it would be good for ten minutes and some seconds.
    world.server.daemon.kill();
    ended(&mut stream).await;
    let over = Timestamp::from(SystemTime::now()).unix() - until.unix();
    assert!((0..=4).contains(&over), "told to be over {over} s after its end");

    world.clock.set(0);
    world.server.daemon.start();
    world.server.wait_ready().await;
    let (_, again) = served_anew(&mut world.short, &world.agent, &serial(&last)).await;
    world.hours_are_served().await;
    seen(
        "agent's clock 10 min back; then its server killed; then all right again",
        &format!(
            "renewed in time ({renewed:.1?}), new workload after {late:.0?}; without the server one of {TTL} s ended {over} s \
             after its end by the right clock, not extended; right again: served after {again:.1?}"
        ),
    );
}

// Attack 24
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_own_svid_is_over_by_a_wrong_clock_takes_it_up_again_when_the_clock_is_right() {
    let _lane = Lane::shared();
    let mut world = World::with(false, "agent_ttl = \"50s\"").await;
    let first = serial(&world.long.workload(&world.agent.socket()).fetch().await.unwrap());

    world.clock.set(STEP);
    // By the agent's clock the server's certificate is over as well, so there is no new connection.
    world.server.restart().await;
    world
        .agent
        .daemon
        .wait_log("the agent's own SVID has expired, attesting anew", RECOVERY)
        .await;
    let answer = world.long.workload(&world.agent.socket()).fetch().await.unwrap();
    assert_eq!(serial(&answer), first);

    world.clock.set(0);
    let begun = Instant::now();
    world.hours_are_served().await;
    let back = begun.elapsed();
    assert_logged(&world.agent.daemon.log(), "valid after all");
    assert_eq!(
        world.server.admin().list_agents().await.len(),
        1,
        "it is the same agent"
    );
    seen(
        "agent's clock past the end of its own SVID, its server restarted; then right again",
        &format!(
            "cached SVIDs are served; it does not forget its own, which a join token would not give again; right again: \
             all served after {back:.1?}"
        ),
    );
}
