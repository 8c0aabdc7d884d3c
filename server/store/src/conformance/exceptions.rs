//! The register of exceptions.

use mayfly_model::task::{Proposal, ProposalState, ProposedChange};
use mayfly_model::{Change, Conflict, Delta, EntryPatch, Excepted, Exception, ExceptionState, ExceptionStep, Given};
use mayfly_svid::Timestamp;

use super::entries::update;
use super::{Fixture, World, create, entry, id};

fn at(world: &World, seconds: i64) -> Timestamp {
    Timestamp::from_unix(world.now + seconds)
}

fn grant(world: &World, id: &str, seconds: i64) -> Change {
    let exception = Exception {
        id: id.into(),
        identity: "spiffe://td/db".parse().unwrap(),
        allows: "reads backups".into(),
        scopes: ["backup:read".to_owned()].into(),
        owner: "ann".parse().unwrap(),
        reason: "the appliance knows no tasks".into(),
        compensating_control: "its network is closed".into(),
        approved_by: String::new(),
        granted_at: Timestamp::default(),
        approved_at: Timestamp::default(),
        expires_at: at(world, seconds),
        renewals: 0,
        state: ExceptionState::InForce,
        ended_at: None,
        power_removed: false,
        gives: None,
    };
    let exception = Box::new(exception);
    step(id, ExceptionStep::Grant { exception })
}

fn renew(world: &World, id: &str, seconds: i64) -> Change {
    let step_ = ExceptionStep::Renew {
        expires_at: at(world, seconds),
        reason: "still".into(),
    };
    step(id, step_)
}

fn step(id: &str, step: ExceptionStep) -> Change {
    Change::ExceptionStep {
        id: id.into(),
        step: Box::new(step),
        approved_by: "bob".into(),
    }
}

fn kinds(world: &World) -> Vec<String> {
    let log = world.log().into_iter().map(|entry| entry.kind);
    log.filter(|kind| kind.starts_with("exception.")).collect()
}

pub(crate) fn an_exception_goes_from_grant_to_end_and_the_log_says_so(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let expire = || step("1", ExceptionStep::Expire);
    assert!(matches!(world.refuses(expire()), Conflict::ExceptionNotFound));
    world.does(grant(&world, "1", 10));
    assert!(matches!(world.refuses(expire()), Conflict::ExceptionNotDue));
    let second = grant(&world, "2", 50);
    assert!(matches!(world.refuses(second.clone()), Conflict::ExceptionExists(id) if id == "1"));
    world.now += 10;
    world.does(expire());
    world.does(renew(&world, "1", 10));
    let end = |power_removed| step("1", ExceptionStep::End { power_removed });
    world.does(end(false));
    assert!(matches!(world.refuses(end(false)), Conflict::ExceptionOver));
    assert!(matches!(world.refuses(renew(&world, "1", 20)), Conflict::ExceptionOver));
    world.does(end(true));
    world.does(second);
    assert_eq!(
        kinds(&world),
        [
            "exception.granted",
            "exception.expired",
            "exception.renewed",
            "exception.ended",
            "exception.ended",
            "exception.granted"
        ]
    );
    let granted = world.log().into_iter().find(|entry| entry.kind == "exception.granted");
    let body = granted.unwrap().body;
    assert_eq!(
        (body["owner"].as_str(), body["approver"].as_str()),
        (Some("ann"), Some("bob"))
    );
    assert_eq!(body["identity"].as_str(), Some("spiffe://td/db"));
    let raw = world.archive().entries(0, 100).unwrap().concat();
    for private in ["ann", "bob", "appliance", "closed", "backups"] {
        assert!(!raw.contains(private), "{private} is in the log");
    }
    world.finish();
}

pub(crate) fn an_exception_that_was_replaced_is_not_renewed_whenever_it_was_asked_for(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    // Its ID is greater, as it was asked for later; it was granted first.
    world.does(grant(&world, "9", 10));
    world.now += 10;
    world.does(grant(&world, "1", 10));
    world.now += 10;
    let refused = world.refuses(renew(&world, "9", 10));
    assert!(matches!(refused, Conflict::ExceptionExists(id) if id == "1"));
    world.does(renew(&world, "1", 10));
    world.finish();
}

pub(crate) fn an_exception_of_an_entry_is_bound_to_what_it_gives(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let of_entry = |world: &World, name: &str| {
        let mut change = grant(world, name, 10);
        if let Change::ExceptionStep { step, .. } = &mut change
            && let ExceptionStep::Grant { exception } = step.as_mut()
        {
            exception.identity = Excepted::Entry("a".parse().unwrap());
            // It is not for who asks to say.
            exception.gives = Some(Given {
                spiffe_id: id("/else"),
                parent_id: id("/else"),
            });
        }
        change
    };
    let refused = world.refuses(of_entry(&world, "1"));
    assert!(matches!(refused, Conflict::EntryNotFound), "{refused:?}");
    let a = entry("a", "/group");
    world.does(create(a.clone()));
    let deltas = world.does(of_entry(&world, "1"));
    let [Delta::ExceptionPut(granted)] = &deltas[..] else {
        panic!("{deltas:?}")
    };
    assert_eq!(granted.gives, Some(Given::by(&a.spec)));
    // The entry does not leave it behind, and what else is said of it may change.
    let patch = |patch: EntryPatch| update("a", patch);
    let moves = [
        EntryPatch {
            spiffe_id: Some(id("/else")),
            ..EntryPatch::default()
        },
        EntryPatch {
            parent_id: Some(id("/else")),
            ..EntryPatch::default()
        },
    ];
    for moved in &moves {
        let refused = world.refuses(patch(moved.clone()));
        assert!(matches!(refused, Conflict::EntryExcepted(id) if id == "1"));
    }
    let hint = EntryPatch {
        hint: Some("new".into()),
        ..EntryPatch::default()
    };
    world.does(patch(hint));
    world.does(step("1", ExceptionStep::End { power_removed: false }));
    assert!(matches!(
        world.refuses(patch(moves[0].clone())),
        Conflict::EntryExcepted(_)
    ));
    world.does(step("1", ExceptionStep::End { power_removed: true }));
    world.does(patch(moves[0].clone()));
    world.finish();
}

pub(crate) fn a_proposed_exception_is_granted_with_its_approval(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    let Change::ExceptionStep { id, step, .. } = grant(&world, "1", 10) else {
        panic!("made above")
    };
    let proposal = Proposal {
        id: "p1".into(),
        change: ProposedChange::Exception { id, change: step },
        author: "cay".into(),
        proposed_at: at(&world, 0),
        state: ProposalState::Pending,
        decided_by: String::new(),
        decided_at: None,
    };
    world.does(Change::ProposalAdd(Box::new(proposal)));
    assert!(kinds(&world).is_empty());
    let decide = |approve| Change::ProposalDecide {
        id: "p1".into(),
        by: "bob".into(),
        approve,
    };
    let deltas = world.does(decide(true));
    let [Delta::ExceptionPut(granted), Delta::ProposalPut(_)] = &deltas[..] else {
        panic!("{deltas:?}")
    };
    assert_eq!(granted.approved_by, "cay, approved by bob");
    assert_eq!(kinds(&world), ["exception.granted"]);
    world.finish();
}
