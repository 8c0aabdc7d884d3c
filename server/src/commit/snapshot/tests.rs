use mayfly_model::EntrySpec;
use proptest::prelude::*;
use std::collections::BTreeSet;

use super::*;

fn id(path: &str) -> SpiffeId {
    format!("spiffe://td{path}").parse().unwrap()
}

fn selectors(texts: &[&str]) -> mayfly_model::Selectors {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn entry(name: &str, spiffe_id: &str, parent: &str, with: &[&str]) -> Entry {
    Entry {
        id: name.parse().unwrap(),
        spec: EntrySpec::new(id(spiffe_id), id(parent), selectors(with)),
        created_at: Timestamp::from_unix(1),
        revision_number: 0,
    }
}

fn agent(name: &str, with: &[&str]) -> Agent {
    Agent {
        id: id(&format!("/spire/agent/t/{name}")),
        attestation_type: "t".into(),
        serial: None,
        expires_at: Timestamp::from_unix(9),
        renewed: None,
        selectors: selectors(with),
        banned: false,
        can_reattest: true,
        version: String::new(),
        attested_at: Timestamp::from_unix(1),
    }
}

fn snapshot(entries: Vec<Entry>, agents: Vec<Agent>) -> Snapshot {
    let state = State {
        history: "h".into(),
        revision: Revision(1),
        entries,
        agents,
        ..State::default()
    };
    Snapshot::load("td".parse().unwrap(), state)
}

fn names(entries: &[Arc<Entry>]) -> Vec<&str> {
    let mut names: Vec<_> = entries.iter().map(|entry| entry.id.as_str()).collect();
    names.sort_unstable();
    names
}

#[test]
fn an_agent_may_serve_what_descends_from_it_or_from_its_aliases_and_nothing_else() {
    let a = agent("a", &["t:zone:1", "t:role:web"]);
    let b = agent("b", &["t:zone:2"]);
    let state = snapshot(
        vec![
            entry("own", "/own", "/spire/agent/t/a", &["unix:uid:1"]),
            entry("nested", "/nested", "/own", &["unix:uid:2"]),
            entry("zone1", "/group/zone1", "/spire/server", &["t:zone:1"]),
            entry("grouped", "/grouped", "/group/zone1", &["unix:uid:3"]),
            entry("both", "/group/both", "/spire/server", &["t:zone:1", "t:role:db"]),
            entry("hidden", "/hidden", "/group/both", &["unix:uid:4"]),
            entry("others", "/others", "/spire/agent/t/b", &["unix:uid:5"]),
        ],
        vec![a.clone(), b.clone()],
    );
    assert_eq!(names(&state.authorized_entries(&a)), ["grouped", "nested", "own"]);
    assert_eq!(names(&state.authorized_entries(&b)), ["others"]);
    assert_eq!(state.agents_below(&id("/group/zone1")), BTreeSet::from([a.id.clone()]));
    assert_eq!(state.agents_below(&id("/own")), BTreeSet::from([a.id]));
}

#[test]
fn an_agent_of_a_fleet_that_shares_a_name_is_below_it_only_by_an_entry_of_its_own() {
    let fleet: Vec<Agent> = (0..50).map(|n| agent(&format!("m{n}"), &[])).collect();
    let (stranger, busy) = (agent("stranger", &[]), agent("busy", &[]));
    let names = fleet.iter().chain([&busy]).enumerate();
    let mut entries: Vec<Entry> = names
        .map(|(n, agent)| entry(&format!("n{n}"), "/fleet", agent.id.path(), &["t:x:1"]))
        .collect();
    // More than lead up from the name.
    let more = (0..90).map(|n| entry(&format!("m{n}"), &format!("/m/{n}"), busy.id.path(), &["unix:uid:1"]));
    entries.extend(more);
    entries.push(entry("alone", "/alone", stranger.id.path(), &["unix:uid:1"]));
    entries.push(entry("shared", "/shared", "/fleet", &["unix:uid:1"]));
    entries.push(entry("nested", "/nested", "/shared", &["unix:uid:1"]));
    let all = [fleet.clone(), vec![stranger.clone(), busy.clone()]].concat();
    let state = snapshot(entries, all);
    for name in ["shared", "nested"] {
        let shared = state.entry(&name.parse().unwrap()).unwrap();
        for member in fleet.iter().chain([&busy]) {
            assert!(state.is_authorized(member, shared), "{} {name}", member.id);
        }
        assert!(!state.is_authorized(&stranger, shared), "{name}");
    }
}

#[test]
fn entries_that_are_each_others_parents_end_the_walk() {
    let a = agent("a", &[]);
    let state = snapshot(
        vec![
            entry("x", "/x", "/y", &["unix:uid:1"]),
            entry("y", "/y", "/x", &["unix:uid:1"]),
        ],
        vec![a.clone()],
    );
    assert!(state.authorized_entries(&a).is_empty());
    assert!(state.agents_below(&id("/x")).is_empty());
}

#[test]
fn the_next_expiry_follows_the_entries() {
    let mut early = entry("early", "/a", "/b", &["unix:uid:1"]);
    early.spec.expires_at = Some(Timestamp::from_unix(5));
    let mut late = entry("late", "/c", "/b", &["unix:uid:1"]);
    late.spec.expires_at = Some(Timestamp::from_unix(50));
    let state = snapshot(vec![early.clone(), late], vec![]);
    assert_eq!(
        state.next_expiry(),
        Some((Timestamp::from_unix(5), "early".parse().unwrap()))
    );
    let gone = state.with(Revision(2), &[Delta::EntryGone(Arc::new(early))]);
    assert_eq!(
        gone.next_expiry(),
        Some((Timestamp::from_unix(50), "late".parse().unwrap()))
    );
    assert_eq!(state.entry_count(), 2, "the old snapshot is untouched");
}

proptest! {
    // Over random forests the walk down and the walk up agree, and updates in place equal a fresh load.
    #[test]
    fn both_walks_and_both_ways_of_building_agree(
        edges in proptest::collection::vec((0..8usize, 0..11usize, 0..3usize), 1..24),
        moves in proptest::collection::vec((0..24usize, 0..11usize), 0..8),
    ) {
        let parents = ["/p/0", "/p/1", "/p/2", "/p/3", "/p/4", "/p/5", "/p/6", "/p/7",
                       "/spire/agent/t/a", "/spire/agent/t/b", "/spire/server"];
        let kinds = ["t:x:1", "t:x:2", "t:x:3"];
        let mut entries: Vec<Entry> = edges.iter().enumerate()
            .map(|(i, (to, from, kind))| entry(&format!("e{i}"), &format!("/p/{to}"), parents[*from], &[kinds[*kind]]))
            .collect();
        let agents = vec![agent("a", &["t:x:1", "t:x:2"]), agent("b", &["t:x:3"])];
        let mut state = snapshot(entries.clone(), agents.clone());
        for (which, to) in moves {
            let which = which % entries.len();
            entries[which].spec.parent_id = id(parents[to]);
            state = state.with(Revision(2), &[Delta::EntryPut(Arc::new(entries[which].clone()))]);
        }
        let fresh = snapshot(entries.clone(), agents.clone());
        for agent in &agents {
            let down = state.authorized_entries(agent);
            let again = fresh.authorized_entries(agent);
            prop_assert_eq!(names(&down), names(&again));
            for entry in &entries {
                let listed = down.iter().any(|e| e.id == entry.id);
                prop_assert_eq!(listed, state.is_authorized(agent, entry), "{} {}", agent.id, entry.id);
                prop_assert_eq!(listed, state.agents_below(&entry.spec.parent_id).contains(&agent.id));
            }
        }
    }
}

#[test]
fn two_aliases_of_one_name_list_what_is_below_them_once() {
    let a = agent("a", &["t:zone:1", "t:role:web"]);
    let state = snapshot(
        vec![
            entry("zone", "/group", "/spire/server", &["t:zone:1"]),
            entry("role", "/group", "/spire/server", &["t:role:web"]),
            entry("below", "/below", "/group", &["unix:uid:1"]),
        ],
        vec![a.clone()],
    );
    assert_eq!(names(&state.authorized_entries(&a)), ["below"]);
}
