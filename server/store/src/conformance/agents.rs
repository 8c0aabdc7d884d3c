//! Agents and their join tokens.

use mayfly_model::{Change, Conflict, Delta};
use mayfly_svid::Timestamp;

use super::{Fixture, World, agent, attest, create, entry, id, serial, token};
use crate::Changed;

const A: &str = "/spire/agent/x509pop/a";
const JOINED: &str = "/spire/agent/join_token/t";

fn renew(path: &str, by: u8, number: u8, expires_at: i64) -> Change {
    Change::AgentRenew {
        id: id(path),
        by: serial(by),
        serial: serial(number),
        expires_at: Timestamp::from_unix(expires_at),
    }
}

fn confirm(path: &str, number: u8) -> Change {
    Change::AgentConfirm {
        id: id(path),
        serial: serial(number),
    }
}

pub(crate) fn attesting_again_keeps_nothing_but_a_ban(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(attest(agent(A, 1), None));
    world.does(renew(A, 1, 2, 3_000_000));
    world.does(Change::AgentReport {
        id: id(A),
        version: "1.2".into(),
    });

    let mut again = agent(A, 9);
    again.selectors = ["x509pop:ca:fingerprint:ff".parse().unwrap()].into_iter().collect();
    world.does(attest(again.clone(), None));
    assert_eq!(*world.memory.agents[id(A).as_str()], again);

    world.does(Change::AgentBan(id(A)));
    assert!(matches!(
        world.refuses(attest(agent(A, 3), None)),
        Conflict::AgentBanned
    ));
    world.does(Change::AgentDelete(id(A)));
    assert!(matches!(
        world.refuses(Change::AgentDelete(id(A))),
        Conflict::AgentNotFound
    ));
    world.does(attest(agent(A, 3), None));
    world.finish();
}

pub(crate) fn a_join_token_is_used_once_before_its_end(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(token("t", world.now + 10, None));
    world.does(token("late", world.now + 10, None));
    assert!(matches!(
        world.refuses(token("t", world.now + 99, None)),
        Conflict::TokenExists
    ));
    assert!(matches!(
        world.refuses(attest(agent(JOINED, 1), Some("unknown"))),
        Conflict::TokenUnusable
    ));

    // Many at once: the first of them, and nobody else, in the same commit and in later ones.
    let many = (1..=50).map(|number| attest(agent(&format!("/spire/agent/join_token/{number}"), number), Some("t")));
    let outcomes = world.commit(many).outcomes;
    assert!(outcomes[0].is_ok());
    assert!(
        outcomes[1..]
            .iter()
            .all(|outcome| matches!(outcome, Err(Conflict::TokenUnusable)))
    );
    world.restart();
    assert!(matches!(
        world.refuses(attest(agent(JOINED, 1), Some("t"))),
        Conflict::TokenUnusable
    ));

    world.now += 10;
    assert!(matches!(
        world.refuses(attest(agent(JOINED, 1), Some("late"))),
        Conflict::TokenUnusable
    ));
    world.finish();
}

pub(crate) fn a_refused_agent_does_not_use_up_the_token(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(token("t", world.now + 10, None));
    world.does(attest(agent(JOINED, 1), None));
    world.does(Change::AgentBan(id(JOINED)));
    assert!(matches!(
        world.refuses(attest(agent(JOINED, 2), Some("t"))),
        Conflict::AgentBanned
    ));
    world.does(Change::AgentDelete(id(JOINED)));
    world.does(attest(agent(JOINED, 2), Some("t")));
    world.finish();
}

pub(crate) fn a_renewed_svid_counts_when_it_was_seen(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    assert!(matches!(
        world.refuses(renew(A, 1, 2, 3_000_000)),
        Conflict::AgentNotFound
    ));
    assert!(matches!(world.refuses(confirm(A, 2)), Conflict::AgentNotFound));
    world.does(attest(agent(A, 1), None));
    assert!(matches!(world.refuses(confirm(A, 1)), Conflict::SerialNotRenewed));

    world.does(renew(A, 1, 2, 3_000_000));
    let present = world.memory.agents[id(A).as_str()].clone();
    assert!(present.uses(&serial(1)) && present.uses(&serial(2)));
    assert_eq!(present.expires_at.unix(), 2_000_000);
    assert!(matches!(world.refuses(confirm(A, 3)), Conflict::SerialNotRenewed));

    world.does(renew(A, 1, 3, 4_000_000));
    assert!(matches!(world.refuses(confirm(A, 2)), Conflict::SerialNotRenewed));
    world.does(confirm(A, 3));
    let present = world.memory.agents[id(A).as_str()].clone();
    assert!(!present.uses(&serial(1)) && present.uses(&serial(3)));
    assert_eq!((present.expires_at.unix(), &present.renewed), (4_000_000, &None));
    assert!(matches!(world.refuses(confirm(A, 3)), Conflict::SerialNotRenewed));
    world.finish();
}

pub(crate) fn an_agent_renews_by_an_svid_that_it_still_has(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(attest(agent(A, 1), None));
    // It attested anew while its renewal was on its way.
    world.does(attest(agent(A, 2), None));
    assert!(matches!(
        world.refuses(renew(A, 1, 9, 3_000_000)),
        Conflict::SerialNotInUse
    ));
    let serials = |world: &World| {
        let agent = world.memory.agents[id(A).as_str()].clone();
        (
            agent.serial.clone(),
            agent.renewed.as_ref().map(|(renewed, _)| renewed.clone()),
        )
    };
    assert_eq!(serials(&world), (Some(serial(2)), None));

    // Its answer was lost: it asks again by what it has.
    world.does(renew(A, 2, 3, 3_000_000));
    world.does(renew(A, 2, 4, 4_000_000));
    assert_eq!(serials(&world), (Some(serial(2)), Some(serial(4))));
    // By the renewed one, before that was confirmed: it is the one in use from now on, so that it outlives a lost answer.
    world.does(renew(A, 4, 5, 5_000_000));
    assert_eq!(serials(&world), (Some(serial(4)), Some(serial(5))));
    assert_eq!(world.memory.agents[id(A).as_str()].expires_at.unix(), 4_000_000);
    assert!(matches!(world.refuses(confirm(A, 4)), Conflict::SerialNotRenewed));
    assert!(matches!(
        world.refuses(renew(A, 2, 6, 5_000_000)),
        Conflict::SerialNotInUse
    ));
    world.does(renew(A, 4, 6, 5_000_000));
    world.finish();
}

pub(crate) fn a_banned_agent_has_nothing_and_gets_nothing(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    assert!(matches!(
        world.refuses(Change::AgentBan(id(A))),
        Conflict::AgentNotFound
    ));
    world.does(attest(agent(A, 1), None));
    world.does(renew(A, 1, 2, 3_000_000));
    world.does(Change::AgentBan(id(A)));
    let banned = world.memory.agents[id(A).as_str()].clone();
    assert!(banned.banned && banned.serial.is_none() && banned.renewed.is_none());
    assert!(matches!(
        world.refuses(renew(A, 1, 3, 3_000_000)),
        Conflict::AgentBanned
    ));
    assert!(matches!(world.refuses(confirm(A, 2)), Conflict::AgentBanned));
    world.does(Change::AgentReport {
        id: id(A),
        version: "1.2".into(),
    });
    world.does(Change::AgentBan(id(A)));
    world.finish();
}

pub(crate) fn a_token_brings_its_alias_when_it_is_used_and_eviction_takes_it(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(token("t", world.now + 10, Some("/node/one")));
    // Whoever reads entries does not read unused tokens: the agent's ID holds the token.
    assert!(world.memory.entries.is_empty());
    let deltas = world.does(attest(agent(JOINED, 1), Some("t")));
    let [Delta::AgentPut(_), Delta::EntryPut(alias)] = &deltas[..] else {
        panic!("{deltas:?}")
    };
    assert_eq!(
        (&alias.spec.spiffe_id, &alias.spec.parent_id),
        (&id("/node/one"), &id(JOINED))
    );
    world.does(create(entry("kept", JOINED)));
    // The mark stays through an update.
    let patch = mayfly_model::EntryPatch {
        hint: Some("h".into()),
        ..Default::default()
    };
    world.does(Change::EntryUpdate {
        id: alias.id.clone(),
        patch: Box::new(patch),
    });

    let revision = world.memory.revision;
    let deltas = world.does(Change::AgentDelete(id(JOINED)));
    assert!(matches!(&deltas[..], [Delta::EntryGone(gone), Delta::AgentGone(_)] if gone.id == alias.id));
    assert!(world.memory.entries.contains_key("kept"));
    let changed = Changed::Entry {
        id: alias.id.clone(),
        parent_id: id(JOINED),
        spiffe_id: alias.spec.spiffe_id.clone(),
    };
    assert_eq!(world.changed_since(revision), [changed, Changed::Agent(id(JOINED))]);
    world.finish();
}

pub(crate) fn a_token_of_the_same_text_brings_its_own_alias(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    for name in ["/node/one", "/node/two"] {
        world.does(token("t", world.now + 10, Some(name)));
        world.does(attest(agent(JOINED, 1), Some("t")));
        let names: Vec<_> = world
            .memory
            .entries
            .values()
            .map(|entry| entry.spec.spiffe_id.clone())
            .collect();
        assert_eq!(names, [id(name)]);
    }
    world.finish();
}

pub(crate) fn expired_tokens_are_pruned(fixture: &dyn Fn() -> Fixture) {
    let mut world = World::new(fixture);
    world.does(token("old", world.now + 10, None));
    world.does(token("new", world.now + 20, None));
    world.now += 11;
    world.does(Change::TokenPrune);
    world.does(token("old", world.now + 10, None));
    assert!(matches!(
        world.refuses(token("new", world.now + 10, None)),
        Conflict::TokenExists
    ));
    world.finish();
}
