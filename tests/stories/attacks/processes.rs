//! Processes that would be taken for others.

use std::time::{Duration, Instant};

use mayfly_tests::binaries::binary;
use mayfly_tests::caller::ids;
use mayfly_tests::{Agent, Caller, EntrySpec, Lane, Program, Server, Workload, effort};
use tonic::Code;

use super::{ATTACKER, USER};

// Attack 18
#[tokio::test(flavor = "multi_thread")]
async fn no_process_gets_the_identity_of_one_that_has_its_number_now() {
    let _lane = Lane::shared();
    mayfly_tests::needs_root();
    let server = Server::start().await;
    let mut agent = Agent::join(&server).await;
    for (path, uid) in [("/visitor", ATTACKER), ("/heir", USER)] {
        let spec = EntrySpec::new(path, agent.id(), &[&format!("unix:uid:{uid}")]);
        server.admin().create(&spec).await;
    }
    // Both SVIDs are at hand the whole time, so that nothing delays a wrong answer.
    let (mut visitor, mut heir) = (Caller::spawn(ATTACKER), Caller::spawn(USER));
    let (_, _keep) = visitor.workload(&agent.socket()).first().await.unwrap();
    let (_, _keep) = heir.workload(&agent.socket()).first().await.unwrap();

    let races = effort(2_000, 100_000);
    let mut command = tokio::process::Command::new(binary("racer"));
    command.arg("run").arg(agent.socket());
    command.args([agent.daemon.pid(), races, ATTACKER, USER].map(|number| number.to_string()));
    let mut referee = Program::start("racer", command);
    let seen = referee.expect("races", Duration::from_secs(3600)).await;
    println!("PID reuse: {seen}");
    assert_eq!(seen["wrong"], 0, "{seen}");
    assert_eq!(seen["silent"], 0, "{seen}");
    assert!(seen["reused"].as_u64().unwrap() >= u64::from(races), "{seen}");
    agent.daemon.check_alive();
    assert_eq!(
        ids(&heir.workload(&agent.socket()).fetch().await.unwrap()),
        ["spiffe://example.org/heir"]
    );
}

// Attack 19: a connection is that of the process that opened it, whoever holds it by now, and ends with that process.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_passed_on_gives_what_its_opener_could_have_passed_on_and_ends_with_it() {
    let _lane = Lane::shared();
    let server = Server::start().await;
    let agent = Agent::join(&server).await;
    for (path, uid) in [("/giver", USER), ("/taker", 0)] {
        let spec = EntrySpec::new(path, agent.id(), &[&format!("unix:uid:{uid}")]);
        server.admin().create(&spec).await;
    }
    // This process is root, and speaks over connections that another process opened.
    let mut giver = Caller::spawn(USER);
    let passed_on = Workload::over(giver.connect(&agent.socket()));
    let (first, mut stream) = passed_on.first().await.unwrap();
    assert_eq!(
        ids(&first),
        ["spiffe://example.org/giver"],
        "never that of who holds it"
    );

    let begun = Instant::now();
    giver.exit();
    let ended = loop {
        if let Err(status) = stream.next().await {
            break status;
        }
    };
    println!(
        "the end of the opener ends what was passed on after {:?}: {:?}",
        begun.elapsed(),
        ended.code()
    );
    assert_eq!(ended.code(), Code::PermissionDenied);
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(passed_on.fetch().await.is_err(), "neither is it of use for more");
}
