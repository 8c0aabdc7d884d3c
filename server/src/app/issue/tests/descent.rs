//! An agent that asks for everything gets what descends from it, whatever the entries look like.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::app::register::authorized;

const FORESTS: u64 = 25;
const SEED: u64 = 23;

/// An entry as the test knows it.
struct Known {
    gives: SpiffeId,
    parent: SpiffeId,
    selector: String,
}

/// What an agent may serve, said as plainly as can be: the names that are its own or a fitting alias's, and then again
/// and again whatever has one of these names as its parent.
fn descendants(known: &BTreeMap<EntryId, Known>, agent: &Agent, server: &SpiffeId) -> BTreeSet<EntryId> {
    let fits = |entry: &Known| agent.selectors.iter().any(|own| own.to_string() == entry.selector);
    let mut names = BTreeSet::from([agent.id.clone()]);
    let aliases = known.values().filter(|entry| entry.parent == *server && fits(entry));
    names.extend(aliases.map(|alias| alias.gives.clone()));
    loop {
        let below = known.iter().filter(|(_, entry)| names.contains(&entry.parent));
        let (ids, more): (BTreeSet<_>, BTreeSet<_>) =
            below.map(|(id, entry)| (id.clone(), entry.gives.clone())).unzip();
        let before = names.len();
        names.extend(more);
        if names.len() == before {
            return ids;
        }
    }
}

// Attack 23
#[tokio::test]
async fn an_agent_that_asks_for_every_entry_of_a_random_forest_gets_its_descendants_and_nothing_else() {
    let world = World::new().await;
    let mut rng = StdRng::seed_from_u64(SEED);
    let server = id("/spire/server");
    let (mut granted, mut refused) = (0, 0);
    for forest in 0..FORESTS {
        let mut agents = vec![];
        // Of this forest alone: else an alias of another one would fit as well.
        let selector = |number: u32| format!("t:f{forest}:{number}");
        for (n, selectors) in [&[1, 2][..], &[3], &[]].into_iter().enumerate() {
            let agent = Agent {
                id: id(&format!("/spire/agent/t/{forest}-{n}")),
                selectors: selectors.iter().map(|&n| selector(n).parse().unwrap()).collect(),
                ..Agent::clone(&*world.agent(&format!("{forest}-{n}")).await)
            };
            let change = Change::AgentAttest {
                agent: Box::new(agent.clone()),
                token: None,
            };
            world.commit(change).await.unwrap();
            agents.push(agent);
        }
        let mut known = BTreeMap::new();
        for n in 0..rng.random_range(4..20) {
            // Names are few, so that there are shared names, chains, loops and entries below nothing.
            let gives = id(&format!("/f{forest}/p{}", rng.random_range(0..8)));
            let parent = match rng.random_range(0..14) {
                0..3 => agents[rng.random_range(0..3)].id.clone(),
                3..5 => server.clone(),
                p => id(&format!("/f{forest}/p{}", p - 5)),
            };
            if parent == gives {
                continue;
            }
            // Below the server: an alias of the agents that it fits. Else it only makes entries differ.
            let wanted = if parent == server {
                selector(rng.random_range(1..5))
            } else {
                format!("unix:uid:{n}")
            };
            let entry = world
                .entry(&format!("{forest}-{n}"), &parent, |spec| {
                    spec.spiffe_id = gives.clone();
                    spec.selectors = [wanted.parse().unwrap()].into_iter().collect();
                })
                .await;
            known.insert(
                entry,
                Known {
                    gives,
                    parent,
                    selector: wanted,
                },
            );
        }
        for agent in &agents {
            let expected = descendants(&known, agent, &server);
            let listed: BTreeSet<EntryId> = authorized(&world.committer.snapshot(), agent, world.now())
                .iter()
                .map(|entry| entry.id.clone())
                .collect();
            assert_eq!(listed, expected, "seed {SEED}, forest {forest}, {}", agent.id);
            let wanted = known.keys().map(|id| (id.clone(), csr())).collect();
            let answers = world.issuance.for_entries(&actor(), agent, wanted).await;
            for ((id, entry), answer) in known.iter().zip(answers) {
                match answer {
                    Ok(svid) => {
                        assert!(
                            expected.contains(id),
                            "seed {SEED}, forest {forest}, {}: {id}",
                            agent.id
                        );
                        assert_eq!(svid.spiffe_id(), &entry.gives);
                        granted += 1;
                    }
                    Err(IssueError::EntryNotFound) => {
                        assert!(
                            !expected.contains(id),
                            "seed {SEED}, forest {forest}, {}: {id}",
                            agent.id
                        );
                        refused += 1;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
        }
    }
    println!("{FORESTS} forests: {granted} SVIDs of descendants, {refused} refused");
    assert!(granted > 50 && refused > 50, "{granted}, {refused}");
}
