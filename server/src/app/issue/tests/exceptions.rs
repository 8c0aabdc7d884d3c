//! Standing power that is excepted: nothing without it, nothing after it, nothing longer than it (S6).

use mayfly_model::{Conflict, Excepted, Exception, ExceptionState, ExceptionStep};

use super::*;

const DAY: u64 = 86_400;

async fn step(world: &World, id: &str, step: ExceptionStep) {
    let change = Change::ExceptionStep {
        id: id.into(),
        step: Box::new(step),
        approved_by: "bob".into(),
    };
    world.commit(change).await.unwrap();
}

async fn grant(world: &World, id: &str, identity: Excepted, life: Duration) {
    let exception = Exception {
        id: id.into(),
        identity,
        allows: "everything".into(),
        scopes: ["mayfly:admin".to_owned()].into(),
        owner: "ann".parse().unwrap(),
        reason: "no task fits".into(),
        compensating_control: "watched".into(),
        approved_by: String::new(),
        granted_at: world.now(),
        approved_at: world.now(),
        expires_at: world.now().plus(life),
        renewals: 0,
        state: ExceptionState::InForce,
        ended_at: None,
        power_removed: false,
        gives: None,
    };
    let exception = Box::new(exception);
    step(world, id, ExceptionStep::Grant { exception }).await;
}

fn web() -> Excepted {
    Excepted::Identity(id("/web"))
}

fn is_over(result: &Result<X509Svid, IssueError>, id: &str) -> bool {
    matches!(result, Err(IssueError::ExceptionOver(over)) if over == id)
}

// S6
#[tokio::test]
async fn an_identity_gets_nothing_from_the_instant_that_its_exception_is_over() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |spec| spec.admin = true).await;
    let other = world.entry("other", &agent.id, |_| {}).await;
    issue(&world, &agent, &entry).await.unwrap();
    grant(&world, "e", web(), Duration::from_secs(1000)).await;
    let svid = issue(&world, &agent, &entry).await.unwrap();
    assert_eq!(
        svid.not_after(),
        world.now().plus(Duration::from_secs(999)),
        "it outlives its exception"
    );
    world.clock.advance(Duration::from_secs(990));
    issue(&world, &agent, &entry).await.unwrap();
    // Nobody has noted yet that it is over.
    world.clock.advance(Duration::from_secs(10));
    assert!(is_over(&issue(&world, &agent, &entry).await, "e"));
    let minted = world.issuance.minted(&actor(), &id("/web"), &csr(), vec![], None).await;
    assert!(is_over(&minted, "e"));
    issue(&world, &agent, &other).await.unwrap();
    step(&world, "e", ExceptionStep::Expire).await;
    assert!(is_over(&issue(&world, &agent, &entry).await, "e"));

    let renew = ExceptionStep::Renew {
        expires_at: world.now().plus(Duration::from_secs(DAY)),
        reason: "still".into(),
    };
    step(&world, "e", renew).await;
    issue(&world, &agent, &entry).await.unwrap();
    step(&world, "e", ExceptionStep::End { power_removed: false }).await;
    assert!(is_over(&issue(&world, &agent, &entry).await, "e"));
    step(&world, "e", ExceptionStep::End { power_removed: true }).await;
    issue(&world, &agent, &entry).await.unwrap();
}

#[tokio::test]
async fn of_an_entry_and_its_identity_the_exception_that_is_over_counts() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |_| {}).await;
    let far = Duration::from_secs(DAY);
    grant(&world, "identity", web(), far).await;
    grant(
        &world,
        "entry",
        Excepted::Entry(entry.clone()),
        Duration::from_secs(100),
    )
    .await;
    issue(&world, &agent, &entry).await.unwrap();
    world.clock.advance(Duration::from_secs(100));
    assert!(is_over(&issue(&world, &agent, &entry).await, "entry"));
    // A new one takes the place of what is over.
    grant(&world, "again", Excepted::Entry(entry.clone()), far).await;
    issue(&world, &agent, &entry).await.unwrap();
    // After a restart as well.
    step(&world, "again", ExceptionStep::End { power_removed: false }).await;
    let again = world.restarted(START + 200);
    again.authorities.pass().await.unwrap();
    assert!(is_over(&issue(&again, &agent, &entry).await, "again"));
}

// S6
#[tokio::test]
async fn an_entry_that_is_made_again_has_the_exception_that_it_had() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let elsewhere = world.agent("b").await;
    let first = world.entry("web", &agent.id, |spec| spec.admin = true).await;
    grant(&world, "e", Excepted::Entry(first.clone()), Duration::from_secs(100)).await;
    let again = async |world: &World, old: EntryId| {
        world.commit(Change::EntryDelete(old)).await.unwrap();
        world.entry("web", &agent.id, |spec| spec.admin = true).await
    };
    // In force it covers the new one as well, and no SVID of that outlives it.
    let second = again(&world, first).await;
    let svid = issue(&world, &agent, &second).await.unwrap();
    assert_eq!(svid.not_after(), world.now().plus(Duration::from_secs(99)));
    // Over, it stops it: the one that was there, and whatever is made in its place.
    world.clock.advance(Duration::from_secs(100));
    assert!(is_over(&issue(&world, &agent, &second).await, "e"));
    let third = again(&world, second).await;
    assert!(is_over(&issue(&world, &agent, &third).await, "e"));
    // What gives another identity, or the same to somebody else, has nothing to do with it.
    let other = world.entry("other", &agent.id, |_| {}).await;
    issue(&world, &agent, &other).await.unwrap();
    let there = world.entry("web", &elsewhere.id, |_| {}).await;
    issue(&world, &elsewhere, &there).await.unwrap();
    // An entry that becomes like it has it too.
    let becomes = world.entry("spare", &agent.id, |_| {}).await;
    issue(&world, &agent, &becomes).await.unwrap();
    world.commit(Change::EntryDelete(third.clone())).await.unwrap();
    let patch = mayfly_model::EntryPatch {
        spiffe_id: Some(id("/web")),
        ..Default::default()
    };
    let update = Change::EntryUpdate {
        id: becomes.clone(),
        patch: Box::new(patch),
    };
    world.commit(update).await.unwrap();
    assert!(is_over(&issue(&world, &agent, &becomes).await, "e"));
    // After a restart as well, and until there is a new exception.
    let world = world.restarted(START + 200);
    world.authorities.pass().await.unwrap();
    assert!(is_over(&issue(&world, &agent, &becomes).await, "e"));
    grant(
        &world,
        "new",
        Excepted::Entry(becomes.clone()),
        Duration::from_secs(DAY),
    )
    .await;
    issue(&world, &agent, &becomes).await.unwrap();
    let last = again(&world, becomes).await;
    issue(&world, &agent, &last).await.unwrap();
}

#[tokio::test]
async fn an_exception_that_ends_while_the_intent_is_written_stops_the_signature() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let entry = world.entry("web", &agent.id, |_| {}).await;
    grant(&world, "e", web(), Duration::from_secs(DAY)).await;
    let prepared = world.committer.snapshot();
    let before = world
        .issuance
        .validity_of(&prepared, prepared.entry(&entry).unwrap(), world.now());
    before.unwrap();
    step(&world, "e", ExceptionStep::End { power_removed: false }).await;
    let after = world.committer.snapshot();
    let refused = world
        .issuance
        .validity_of(&after, after.entry(&entry).unwrap(), world.now());
    assert!(matches!(refused, Err(IssueError::ExceptionOver(_))));
}

#[tokio::test]
async fn where_exceptions_are_required_power_over_the_server_needs_one() {
    let world = World::new().await;
    let agent = world.agent("a").await;
    let strict = Issuance {
        settings: IssueSettings {
            require_exceptions: true,
            ..world.issuance.settings
        },
        ..world.issuance.clone()
    };
    let ask = async |entry: &EntryId| one(strict.for_entries(&actor(), &agent, vec![(entry.clone(), csr())]).await);
    let admin = world.entry("web", &agent.id, |spec| spec.admin = true).await;
    let below = world.entry("below", &agent.id, |spec| spec.downstream = true).await;
    let plain = world.entry("plain", &agent.id, |_| {}).await;
    for privileged in [&admin, &below] {
        assert!(matches!(ask(privileged).await, Err(IssueError::ExceptionNeeded)));
    }
    ask(&plain).await.unwrap();
    grant(&world, "1", web(), Duration::from_secs(DAY)).await;
    grant(&world, "2", Excepted::Entry(below.clone()), Duration::from_secs(DAY)).await;
    ask(&admin).await.unwrap();
    ask(&below).await.unwrap();
    // Giving the power back in words only is not enough.
    step(&world, "1", ExceptionStep::End { power_removed: true }).await;
    assert!(matches!(ask(&admin).await, Err(IssueError::ExceptionNeeded)));
    let twice = world
        .commit(Change::ExceptionStep {
            id: "2".into(),
            step: Box::new(ExceptionStep::Expire),
            approved_by: String::new(),
        })
        .await;
    assert!(matches!(twice, Err(CommitError::Conflict(Conflict::ExceptionNotDue))));
}
