//! Requests that wait for people.

use mayfly_proto::mayfly::workload::Stage;
use nix::sys::signal::Signal;

use crate::agent::Agent;
use crate::start;

// S37
#[tokio::test]
async fn a_request_that_waits_is_parked_and_found_again_by_the_same_command_line() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let agent = Agent::start(Stage::AwaitingApproval).await;
        let run = start(&agent, &["--ticket", "OPS-7"], "echo did it");
        run.said("to approve it: mayfly task approve r1").await;
        run.signal(signal);
        let ran = run.end().await;
        assert_eq!((ran.code, ran.out.as_str()), (124, ""), "{ran:?}");
        for said in [
            "pay/db-migrate waits for 2 approvals of dba or sre",
            "request r1, digest d16e57",
            "request r1 stays parked",
            "to come back: ",
            "-- sh -c 'echo did it'",
        ] {
            assert!(ran.err.contains(said), "`{said}` is missing: {}", ran.err);
        }
        agent.set(Stage::Armed, &[]);
        let ran = start(&agent, &["--ticket", "OPS-7"], "echo did it").end().await;
        assert_eq!((ran.code, ran.out.as_str()), (0, "did it\n"), "{ran:?}");
        assert!(
            agent.calls().contains(&"open r1 true".to_owned()),
            "{:?}",
            agent.calls()
        );
    }
}

#[tokio::test]
async fn it_goes_on_when_people_have_approved() {
    let agent = Agent::start(Stage::AwaitingTicket).await;
    let run = start(&agent, &["--ticket", "OPS-7"], "echo did it");
    run.said("pay/db-migrate waits for ticket OPS-7").await;
    agent.modify(|task| {
        task.set_stage(Stage::AwaitingApproval);
        task.approvals_missing = 2;
        task.approver_groups = vec!["dba".into()];
    });
    run.said("waits for 2 approvals of dba").await;
    agent.modify(|task| task.approvals_missing = 1);
    run.said("waits for 1 approval of dba").await;
    assert!(!agent.calls().iter().any(|call| call.starts_with("open")));
    agent.set(Stage::Armed, &[]);
    let ran = run.end().await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "did it\n"), "{ran:?}");
    assert_eq!(ran.err.matches("to approve it").count(), 1, "{}", ran.err);
    assert!(!ran.err.contains('\r'), "a pipe gets plain lines: {:?}", ran.err);
}

#[tokio::test]
async fn who_does_not_wait_has_a_code_of_its_own() {
    let agent = Agent::start(Stage::AwaitingApproval).await;
    for _ in 0..2 {
        let ran = start(&agent, &["--no-wait"], "echo did it").end().await;
        assert_eq!((ran.code, ran.out.as_str()), (124, ""), "{ran:?}");
        assert!(ran.err.contains("mayfly task approve r1"), "{}", ran.err);
    }
    agent.set(Stage::Armed, &[]);
    let ran = start(&agent, &["--no-wait"], "echo did it").end().await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "did it\n"));
}

#[tokio::test]
async fn a_request_that_people_refuse_or_forget_ends_the_waiting() {
    for (stage, code, said) in [
        (Stage::Denied, 120, "pay/db-migrate is refused: not-now"),
        (Stage::Lapsed, 122, "request r1 is over: not-now"),
    ] {
        let agent = Agent::start(Stage::AwaitingApproval).await;
        let run = start(&agent, &[], "echo did it");
        run.said("to approve it").await;
        agent.set(stage, &["not-now"]);
        let ran = run.end().await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{ran:?}");
        assert!(ran.err.contains(said), "{}", ran.err);
    }
}

#[tokio::test]
async fn an_agent_that_restarts_while_people_think_is_asked_again() {
    let mut agent = Agent::start(Stage::AwaitingApproval).await;
    let run = start(&agent, &[], "echo did it");
    run.said("to approve it").await;
    agent.stop();
    run.said("the agent is away").await;
    agent.serve();
    agent.set(Stage::Armed, &[]);
    let ran = run.end().await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "did it\n"), "{ran:?}");
}
