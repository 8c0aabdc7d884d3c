use std::time::Duration;

use mayfly_model::task::{CloseCause, TaskStep};
use mayfly_svid::TrustAnchors;
use mayfly_svid::verify::verify_x509_svid;

use super::*;
use crate::app::testing::tasks::{opens, step_of};
use crate::app::testing::{START, World, csr, id};
use crate::commit::CommitError;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

// I1 I2 I3
#[tokio::test]
async fn a_window_gets_an_svid_that_says_where_its_intent_is_recorded() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let armed = world.armed(&agent).await;
    let issued = world.open_window(&armed).await.unwrap();
    assert_eq!(issued.svid.spiffe_id(), &id("/task/pay/migrate/web"));
    assert_eq!(issued.svid.not_after(), armed.request.not_after);
    let state = world.committer.snapshot();
    let anchors = TrustAnchors::from_bundle(state.own_bundle().unwrap());
    verify_x509_svid(issued.svid.chain(), &anchors, world.now()).unwrap();
    assert_eq!(
        issued.issuance.authority_id,
        state.active_authority(KeyClass::Task).unwrap().id
    );

    let said = TaskExtension::from_certificate_der(&issued.svid.chain()[0])
        .unwrap()
        .unwrap();
    assert_eq!((said.window_id, said.log_index), (armed.window_id, issued.log_index));
    assert_eq!(said.definition_hash, armed.request.definition.0[..16]);
    assert_eq!(said.closes.unix() + 1, armed.request.closes_at.unix());
    let log = world.log();
    let intent = log.iter().find(|record| record.index == said.log_index).unwrap();
    assert_eq!(intent.kind, "svid.intended");
    assert_eq!(intent.body["serial"], issued.svid.serial().to_string());
    assert_eq!(intent.body["window_id"], said.window_id.to_string());
    let opened = log.iter().find(|record| record.kind == "window.opened").unwrap();
    assert_eq!(opened.revision, intent.revision, "one commit");
    // Others in between do not change what it says.
    let (_, again) = world.opened(&agent).await;
    let said = TaskExtension::from_certificate_der(&again.svid.chain()[0])
        .unwrap()
        .unwrap();
    let intent = world
        .log()
        .into_iter()
        .find(|record| record.index == said.log_index)
        .unwrap();
    assert_eq!(intent.body["serial"], again.svid.serial().to_string());
}

#[tokio::test]
async fn a_renewal_is_an_svid_of_the_same_window_and_an_ended_one_gets_none() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let (opened, first) = world.opened(&agent).await;
    world.clock.advance(seconds(150));
    let second = world.renew(&opened).await.unwrap();
    assert_ne!(first.svid.serial(), second.svid.serial());
    assert_eq!(second.issuance.not_after, world.now().plus(seconds(300)));
    world.close(&opened).await.unwrap();
    let refused = world.renew(&opened).await;
    assert!(matches!(refused, Err(IssueError::Commit(CommitError::Conflict(_)))));
    world.committer.flush().await;
    assert_eq!(world.logged("svid.intended").len(), 2);
}

/// What the caller of a broken program might forget.
#[tokio::test]
async fn without_a_window_in_the_state_nothing_is_signed_whatever_the_caller_says() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let other = world.agent("b").await;
    let (opened, _) = world.opened(&agent).await;
    let refused = async |change: &dyn Fn(&mut WindowRequest)| {
        let mut request = WindowRequest {
            csr_der: csr(),
            ..opened.request.clone()
        };
        change(&mut request);
        // Nothing is counted to any window.
        let refused = world.issuance.for_window(&Actor::server(), request, |_| vec![]).await;
        refused.map(|issued| issued.svid).unwrap_err()
    };
    assert!(matches!(refused(&|_| {}).await, IssueError::WindowNotOpen));
    assert!(matches!(
        refused(&|it| it.task_id = TaskId::random()).await,
        IssueError::WindowNotOpen
    ));
    assert!(matches!(
        refused(&|it| it.window_id = WindowId([0; 16])).await,
        IssueError::WindowNotOpen
    ));
    let base = refused(&|it| it.spiffe_id = id("/web")).await;
    assert!(matches!(base, IssueError::Profile(ProfileError::OtherRoot { .. })));
    let foreign = refused(&|it| it.class = TaskClass::Breakglass).await;
    assert!(matches!(foreign, IssueError::Profile(ProfileError::OtherRoot { .. })));
    world.committer.flush().await;
    let outcomes = world.logged("svid.outcome");
    let failed: usize = outcomes
        .iter()
        .map(|record| record.body["failed"].as_array().unwrap().len())
        .sum();
    assert_eq!(failed, 3, "each intent has its outcome");

    // Counted, but not to what it is for.
    let variants: [&dyn Fn(&mut WindowRequest); 4] = [
        &|it| it.agent_id = other.id.clone(),
        &|it| it.spiffe_id = id("/task/pay/other/web"),
        &|it| it.definition = DefinitionHash([1; 32]),
        &|it| it.closes_at = it.closes_at.plus(seconds(1)),
    ];
    for change in variants {
        let armed = world.armed(&agent).await;
        let mut request = armed.request.clone();
        change(&mut request);
        let at = world.now();
        let record = |lease: &Lease| vec![opens(&armed.request, lease, at)];
        let refused = world.issuance.for_window(&Actor::server(), request, record).await;
        assert!(matches!(refused, Err(IssueError::WindowNotOpen)), "{:?}", refused.err());
    }
}

#[tokio::test]
async fn what_ends_the_window_in_the_same_commit_stops_the_signature() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let armed = world.armed(&agent).await;
    let at = world.now();
    let close = TaskStep::Close {
        window: armed.window_id,
        cause: CloseCause::Revoked,
        detail: String::new(),
    };
    let record = |lease: &Lease| vec![opens(&armed.request, lease, at), step_of(&armed.task_id, close)];
    let refused = world
        .issuance
        .for_window(&Actor::server(), armed.request.clone(), record)
        .await;
    assert!(matches!(refused, Err(IssueError::WindowNotOpen)));

    let armed = world.armed(&agent).await;
    let ban = Change::AgentBan(agent.id.clone());
    let record = |lease: &Lease| vec![opens(&armed.request, lease, at), ban];
    let refused = world
        .issuance
        .for_window(&Actor::server(), armed.request.clone(), record)
        .await;
    assert!(matches!(refused, Err(IssueError::AgentNotActive)));
    let intents = world.logged("svid.intended").len();
    let refused = world.open_window(&armed).await;
    assert!(matches!(refused, Err(IssueError::AgentNotActive)));
    assert_eq!(world.logged("svid.intended").len(), intents, "it is asked before, too");
}

// The hard cut comes while an SVID is on its way.
#[tokio::test]
async fn an_authority_that_was_cut_meanwhile_signs_nothing_and_the_next_one_does() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let (opened, before) = world.opened(&agent).await;
    let stale = world.issuance.active.of(KeyClass::Task).load_full();
    world
        .authorities
        .cut(&Actor::server(), KeyClass::Task, vec![])
        .await
        .unwrap();
    let state = world.committer.snapshot();
    let anchors = TrustAnchors::from_bundle(state.own_bundle().unwrap());
    assert!(verify_x509_svid(before.svid.chain(), &anchors, world.now()).is_err());
    let after = world.renew(&opened).await.unwrap();
    verify_x509_svid(after.svid.chain(), &anchors, world.now()).unwrap();
    // As it was for who took it just before.
    world.issuance.active.of(KeyClass::Task).store(stale);
    assert!(matches!(world.renew(&opened).await, Err(IssueError::AuthorityRevoked)));
}

#[tokio::test]
async fn less_than_the_floor_is_refused_and_never_rounded_up() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let start = Timestamp::from_unix(START as i64);
    for (left, is_enough) in [(19, false), (20, true), (0, false)] {
        let mut armed = world.armed(&agent).await;
        armed.request.not_after = start.plus(seconds(left));
        armed.request.ttl_term = TtlTerm::Agent;
        match world.open_window(&armed).await {
            Ok(issued) => assert!(is_enough && issued.svid.not_after() == armed.request.not_after),
            Err(refused) => {
                let text = refused.public_message();
                assert!(
                    !is_enough && text.contains("WINDOW_TOO_SHORT") && text.contains("agent_svid"),
                    "{text}"
                );
            }
        }
    }
    // The last instant of the window is not in it.
    let mut armed = world.armed(&agent).await;
    armed.request.not_after = armed.request.closes_at;
    let refused = world.open_window(&armed).await;
    assert!(matches!(
        refused,
        Err(IssueError::Profile(ProfileError::BeyondWindow { .. }))
    ));
    assert_eq!(world.logged("svid.intended").len(), 1);
}

#[tokio::test]
async fn the_term_that_won_is_the_authority_when_that_ends_first() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let end = world
        .committer
        .snapshot()
        .active_authority(KeyClass::Task)
        .unwrap()
        .not_after;
    world.clock.set(std::time::SystemTime::from(end.minus(seconds(100))));
    let (_, issued) = world.opened(&agent).await;
    assert_eq!(
        (issued.issuance.not_after, issued.issuance.ttl_term),
        (end, TtlTerm::Authority)
    );
}

// I7 Attack 3: nobody else signs what is reserved, and nobody else's key does.
#[tokio::test]
async fn base_issuing_never_signs_what_windows_give() {
    let world = World::new().await;
    let actor = Actor::server();
    for reserved in ["/task/pay/migrate/web", "/breakglass/ops/fix/web", "/task"] {
        let refused = world.issuance.minted(&actor, &id(reserved), &csr(), vec![], None).await;
        assert!(
            matches!(refused, Err(IssueError::Profile(ProfileError::OtherRoot { .. }))),
            "{reserved}"
        );
        let never = |_: &mayfly_svid::Serial, _| Change::TokenPrune;
        let refused = world.issuance.for_agent(&actor, &id(reserved), &csr(), never).await;
        assert!(
            matches!(refused, Err(IssueError::Profile(ProfileError::OtherRoot { .. }))),
            "{reserved}"
        );
    }
    assert!(world.logged("svid.intended").is_empty());
    let svid = world
        .issuance
        .minted(&actor, &id("/web"), &csr(), vec![], None)
        .await
        .unwrap();
    let state = world.committer.snapshot();
    let signed_by = |class| {
        let authority = state.active_authority(class).unwrap();
        let bundle = mayfly_svid::Bundle {
            x509_authorities: vec![mayfly_svid::X509Authority {
                cert_der: authority.cert_der.clone(),
                tainted: false,
            }],
            ..mayfly_svid::Bundle::empty(state.trust_domain().clone())
        };
        verify_x509_svid(svid.chain(), &TrustAnchors::from_bundle(&bundle), world.now()).is_ok()
    };
    assert_eq!(KeyClass::ALL.map(signed_by), [true, false, false]);
}
