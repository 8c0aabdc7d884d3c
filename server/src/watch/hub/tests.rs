use mayfly_model::EntrySpec;
use mayfly_svid::{Bundle, Timestamp};

use super::*;
use crate::watch::{Held, Session};

const NOW: Timestamp = Timestamp::from_unix(1_000);

fn id(path: &str) -> SpiffeId {
    format!("spiffe://td{path}").parse().unwrap()
}

fn entry(name: &str, parent: &str, with: &str) -> Entry {
    Entry {
        id: name.parse().unwrap(),
        spec: EntrySpec::new(
            id(&format!("/{name}")),
            id(parent),
            [with.parse().unwrap()].into_iter().collect(),
        ),
        created_at: Timestamp::from_unix(1),
        revision_number: 0,
    }
}

fn agent(name: &str, with: &[&str]) -> Agent {
    Agent {
        id: id(&format!("/spire/agent/t/{name}")),
        attestation_type: "t".into(),
        serial: None,
        expires_at: Timestamp::from_unix(9_000),
        renewed: None,
        selectors: with.iter().map(|text| text.parse().unwrap()).collect(),
        banned: false,
        can_reattest: true,
        version: String::new(),
        attested_at: Timestamp::from_unix(1),
    }
}

/// A state that commits go through, with a hub that watches.
struct World {
    hub: Hub,
    state: Arc<Snapshot>,
}

impl World {
    fn new(entries: Vec<Entry>, agents: Vec<Agent>) -> Self {
        let own = Bundle::empty("td".parse().unwrap());
        let state = mayfly_store::State {
            history: "h1".into(),
            revision: Revision(1),
            entries,
            agents,
            bundles: vec![own],
            ..mayfly_store::State::default()
        };
        let state = Snapshot::load("td".parse().unwrap(), state);
        Self {
            hub: Hub::new(History::new(vec![]), Revision(1)),
            state: Arc::new(state),
        }
    }

    fn commit(&mut self, deltas: Vec<Delta>) {
        let before = self.state.clone();
        let after = Arc::new(before.with(Revision(before.revision().0 + 1), &deltas));
        self.state = after.clone();
        self.hub.observe(&Applied {
            before,
            after,
            deltas,
            reloaded: false,
        });
    }

    fn agent(&self, name: &str) -> Arc<Agent> {
        self.state
            .agent(&id(&format!("/spire/agent/t/{name}")))
            .unwrap()
            .clone()
    }

    /// What a stream of agent `a` would be sent for `pending`: (held, dropped), by name.
    fn sent(&self, session: &mut Session, pending: Pending) -> (Vec<String>, Vec<String>) {
        let Some(mut plan) = session.next(pending, &self.agent("a"), &self.state, NOW) else {
            return (vec![], vec![]);
        };
        let chunk = plan.chunk(usize::MAX, |_| 1);
        let put = chunk.entries.iter().map(|entry| entry.id.to_string()).collect();
        (put, chunk.removed_entries.iter().map(ToString::to_string).collect())
    }
}

fn put(entry: Entry) -> Delta {
    Delta::EntryPut(Arc::new(entry))
}

const A: &str = "/spire/agent/t/a";

#[test]
fn a_commit_wakes_only_the_agents_that_it_concerns() {
    let mut world = World::new(vec![], vec![agent("a", &[]), agent("b", &[])]);
    let (a, b) = (world.hub.open(&id(A)), world.hub.open(&id("/spire/agent/t/b")));
    world.commit(vec![put(entry("web", A, "unix:uid:1"))]);
    assert_eq!(a.take().entries, BTreeSet::from(["web".parse().unwrap()]));
    assert!(b.take().is_empty());
}

#[test]
fn an_entry_that_moves_to_another_agent_is_dropped_by_the_first() {
    let mut world = World::new(
        vec![entry("web", A, "unix:uid:1")],
        vec![agent("a", &[]), agent("b", &[])],
    );
    let (a, b) = (world.hub.open(&id(A)), world.hub.open(&id("/spire/agent/t/b")));
    world.commit(vec![put(entry("web", "/spire/agent/t/b", "unix:uid:1"))]);
    let mut session = Session::new(id(A));
    assert_eq!(world.sent(&mut session, a.take()), (vec![], vec!["web".into()]));
    assert!(!b.take().is_empty());
}

#[test]
fn an_alias_concerns_every_agent_that_it_fits_and_shows_them_everything_anew() {
    let below = entry("below", "/group", "unix:uid:1");
    let mut world = World::new(vec![below], vec![agent("a", &["t:zone:1"]), agent("b", &["t:zone:2"])]);
    let (a, b) = (world.hub.open(&id(A)), world.hub.open(&id("/spire/agent/t/b")));
    world.commit(vec![put(entry("group", "/spire/server", "t:zone:1"))]);
    let pending = a.take();
    assert!(pending.everything && b.take().is_empty());
    let mut session = Session::new(id(A));
    assert_eq!(world.sent(&mut session, pending).0, ["below"]);
    // And taken away again.
    let gone = world.state.entry(&"group".parse().unwrap()).unwrap().clone();
    world.commit(vec![Delta::EntryGone(gone)]);
    assert!(a.take().everything);
}

#[test]
fn a_slow_agent_costs_a_bounded_set_and_then_gets_the_latest_state() {
    let mut world = World::new(vec![], vec![agent("a", &[])]);
    let mailbox = world.hub.open(&id(A));
    for n in 0..3_000 {
        world.commit(vec![put(entry(&format!("e{n}"), A, "unix:uid:1"))]);
    }
    let pending = mailbox.take();
    assert!(pending.everything && pending.entries.is_empty());
    let mut session = Session::new(id(A));
    assert_eq!(world.sent(&mut session, pending).0.len(), 3_000);
}

// Promise 4: ban and evict end the stream at once.
#[test]
fn ban_and_evict_end_the_stream() {
    let mut world = World::new(vec![], vec![agent("a", &[]), agent("b", &[])]);
    let (a, b) = (world.hub.open(&id(A)), world.hub.open(&id("/spire/agent/t/b")));
    world.commit(vec![Delta::AgentPut(Arc::new(Agent {
        banned: true,
        ..agent("a", &[])
    }))]);
    world.commit(vec![Delta::AgentGone(id("/spire/agent/t/b"))]);
    assert_eq!((a.take().end, b.take().end), (Some(End::Banned), Some(End::Evicted)));
}

#[test]
fn a_newer_stream_ends_the_older_and_survives_its_closing() {
    let hub = World::new(vec![], vec![agent("a", &[])]).hub;
    let older = hub.open(&id(A));
    let newer = hub.open(&id(A));
    assert_eq!(older.take().end, Some(End::Superseded));
    hub.close(&id(A), &older);
    assert_eq!(hub.open_count(), 1);
    hub.close(&id(A), &newer);
    assert_eq!(hub.open_count(), 0);
}

#[test]
fn an_agent_that_was_away_is_told_what_changed_since() {
    let mut world = World::new(
        vec![entry("old", A, "unix:uid:1")],
        vec![agent("a", &[]), agent("b", &[])],
    );
    let held = Held {
        history: "h1".into(),
        revision: world.state.revision(),
    };
    let old = world.state.entry(&"old".parse().unwrap()).unwrap().clone();
    world.commit(vec![put(entry("new", A, "unix:uid:1"))]);
    world.commit(vec![put(entry("foreign", "/spire/agent/t/b", "unix:uid:1"))]);
    world.commit(vec![Delta::EntryGone(old)]);
    let mut plan = Session::new(id(A)).first(&world.hub, &held, &world.agent("a"), &world.state, NOW);
    let chunk = plan.chunk(usize::MAX, |_| 1);
    assert!(!plan.snapshot);
    assert_eq!(chunk.entries.iter().map(|e| e.id.as_str()).collect::<Vec<_>>(), ["new"]);
    assert_eq!(chunk.removed_entries, ["old".parse().unwrap()]);
}

#[test]
fn an_agent_in_step_is_sent_an_empty_delta_after_a_reconnect() {
    let world = World::new(vec![entry("web", A, "unix:uid:1")], vec![agent("a", &[])]);
    let held = Held {
        history: "h1".into(),
        revision: world.state.revision(),
    };
    let plan = Session::new(id(A)).first(&world.hub, &held, &world.agent("a"), &world.state, NOW);
    assert!(plan.is_empty());
}

#[test]
fn another_history_or_a_revision_from_the_future_or_a_changed_alias_is_answered_with_everything() {
    let mut world = World::new(vec![entry("web", A, "unix:uid:1")], vec![agent("a", &[])]);
    let first = world.state.revision();
    let snapshot = |world: &World, history: &str, revision: u64| {
        let held = Held {
            history: history.into(),
            revision: Revision(revision),
        };
        Session::new(id(A))
            .first(&world.hub, &held, &world.agent("a"), &world.state, NOW)
            .snapshot
    };
    assert!(snapshot(&world, "", 0));
    assert!(snapshot(&world, "h2", first.0));
    assert!(snapshot(&world, "h1", first.0 + 1));
    assert!(!snapshot(&world, "h1", first.0));
    world.commit(vec![put(entry("alias", "/spire/server", "t:zone:1"))]);
    assert!(snapshot(&world, "h1", first.0));
}

#[test]
fn expired_entries_are_not_handed_out() {
    let mut expired = entry("old", A, "unix:uid:1");
    expired.spec.expires_at = Some(NOW);
    let world = World::new(vec![expired], vec![agent("a", &[])]);
    let held = Held {
        history: String::new(),
        revision: Revision(0),
    };
    let mut plan = Session::new(id(A)).first(&world.hub, &held, &world.agent("a"), &world.state, NOW);
    assert!(plan.chunk(usize::MAX, |_| 1).entries.is_empty());
}

#[test]
fn bundles_follow_the_entries_that_want_them() {
    let other: TrustDomain = "other".parse().unwrap();
    let mut web = entry("web", A, "unix:uid:1");
    web.spec.federates_with = vec![other.clone()];
    let mut world = World::new(vec![web], vec![agent("a", &[])]);
    let mailbox = world.hub.open(&id(A));
    let mut session = Session::new(id(A));
    let held = Held {
        history: String::new(),
        revision: Revision(0),
    };
    let names = |bundles: &[Arc<Bundle>]| bundles.iter().map(|b| b.trust_domain.to_string()).collect::<Vec<_>>();
    let mut plan = session.first(&world.hub, &held, &world.agent("a"), &world.state, NOW);
    assert_eq!(names(&plan.chunk(usize::MAX, |_| 1).bundles), ["td"]);
    for round in 1..3 {
        let bundle = Bundle {
            sequence_number: round,
            ..Bundle::empty(other.clone())
        };
        world.commit(vec![Delta::BundlePut(Arc::new(bundle))]);
        let mut plan = session
            .next(mailbox.take(), &world.agent("a"), &world.state, NOW)
            .unwrap();
        assert_eq!(names(&plan.chunk(usize::MAX, |_| 1).bundles), ["other"]);
    }
    world.commit(vec![Delta::BundlePut(Arc::new(Bundle::empty(
        "unwanted".parse().unwrap(),
    )))]);
    assert!(
        session
            .next(mailbox.take(), &world.agent("a"), &world.state, NOW)
            .is_none()
    );
    world.commit(vec![Delta::BundleGone(other.clone())]);
    let mut plan = session
        .next(mailbox.take(), &world.agent("a"), &world.state, NOW)
        .unwrap();
    assert_eq!(plan.chunk(usize::MAX, |_| 1).removed_bundles, [other]);
}

#[test]
fn chunks_are_bounded_and_together_hold_everything() {
    let entries: Vec<Entry> = (0..100).map(|n| entry(&format!("e{n}"), A, "unix:uid:1")).collect();
    let world = World::new(entries, vec![agent("a", &[])]);
    let held = Held {
        history: String::new(),
        revision: Revision(0),
    };
    let mut plan = Session::new(id(A)).first(&world.hub, &held, &world.agent("a"), &world.state, NOW);
    let (mut total, mut chunks) = (0, 0);
    loop {
        let chunk = plan.chunk(1_000, |_| 100);
        assert!(chunk.entries.len() <= 10);
        total += chunk.entries.len();
        chunks += 1;
        if !chunk.more {
            break;
        }
    }
    assert_eq!(total, 100);
    assert!(chunks >= 10);
}

#[test]
fn an_entry_that_came_while_the_agent_was_away_brings_the_bundle_that_it_wants() {
    let other: TrustDomain = "other".parse().unwrap();
    let mut world = World::new(vec![], vec![agent("a", &[])]);
    world.commit(vec![Delta::BundlePut(Arc::new(Bundle::empty(other.clone())))]);
    let held = Held {
        history: "h1".into(),
        revision: world.state.revision(),
    };
    let mut web = entry("web", A, "unix:uid:1");
    web.spec.federates_with = vec![other.clone()];
    world.commit(vec![put(web)]);
    let mut plan = Session::new(id(A)).first(&world.hub, &held, &world.agent("a"), &world.state, NOW);
    let sent = plan.chunk(usize::MAX, |_| 1).bundles;
    assert_eq!(
        sent.iter().map(|bundle| &bundle.trust_domain).collect::<Vec<_>>(),
        [&other]
    );
}

#[test]
fn what_stood_below_an_entry_goes_with_it_while_the_agent_is_away() {
    let gone = |world: &World, name: &str| Delta::EntryGone(world.state.entry(&name.parse().unwrap()).unwrap().clone());
    let renamed = |_: &World| {
        let mut group = entry("group", A, "unix:uid:1");
        group.spec.spiffe_id = id("/renamed");
        put(group)
    };
    let moved = |_: &World| put(entry("group", "/spire/agent/t/b", "unix:uid:1"));
    type Made<'a> = &'a dyn Fn(&World) -> Delta;
    let cases: [(&str, &[Made<'_>]); 5] = [
        ("gone", &[&|world| gone(world, "group")]),
        (
            "both gone, the lower one first",
            &[&|world| gone(world, "below"), &|world| gone(world, "group")],
        ),
        (
            "both gone, the upper one first",
            &[&|world| gone(world, "group"), &|world| gone(world, "below")],
        ),
        ("renamed", &[&renamed]),
        (
            "moved, and the lower one gone",
            &[&moved, &|world| gone(world, "below")],
        ),
    ];
    for (case, commits) in cases {
        let entries = vec![entry("group", A, "unix:uid:1"), entry("below", "/group", "unix:uid:2")];
        let mut world = World::new(entries, vec![agent("a", &[]), agent("b", &[])]);
        let held = Held {
            history: "h1".into(),
            revision: world.state.revision(),
        };
        for commit in commits {
            let delta = commit(&world);
            world.commit(vec![delta]);
        }
        let mut plan = Session::new(id(A)).first(&world.hub, &held, &world.agent("a"), &world.state, NOW);
        let chunk = plan.chunk(usize::MAX, |_| 1);
        let dropped = plan.snapshot || chunk.removed_entries.contains(&"below".parse().unwrap());
        assert!(dropped, "{case}: the agent still holds what it may not serve");
        assert!(chunk.entries.iter().all(|entry| entry.id.as_str() != "below"), "{case}");
    }
}

#[test]
fn after_the_state_was_loaded_anew_nobody_resumes_from_before() {
    let mut world = World::new(vec![], vec![agent("a", &[])]);
    let before = world.state.clone();
    let after = Arc::new(before.with(Revision(2), &[put(entry("web", A, "unix:uid:1"))]));
    world.state = after.clone();
    world.hub.observe(&Applied {
        before: before.clone(),
        after,
        deltas: vec![],
        reloaded: true,
    });
    let resumed = |revision| {
        let held = Held {
            history: "h1".into(),
            revision,
        };
        Session::new(id(A)).first(&world.hub, &held, &world.agent("a"), &world.state, NOW)
    };
    assert!(resumed(before.revision()).snapshot);
    assert!(resumed(Revision(2)).is_empty());
}
