//! Random batches against a model of the guards: what the store refuses is what the documentation of `Change` says, and
//! what it does survives a restart.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_model::{AuthorityState, BundleDeleteMode, BundlePatch, Change, EntryPatch};
use mayfly_svid::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{Fixture, Memory, World, agent, attest, authority, bundle, create, entry, id, serial, token, x509};

/// A change by small numbers, so that they meet often.
#[derive(Clone, Copy, Debug)]
struct Op {
    kind: u8,
    a: u8,
    b: u8,
    c: u8,
}

fn agent_path(number: u8) -> String {
    format!("/spire/agent/x509pop/{number}")
}

fn foreign(number: u8) -> String {
    format!("foreign{number}")
}

fn change_of(op: Op, now: i64) -> Change {
    let Op { kind, a, b, c } = op;
    let entry_id = || format!("e{a}").parse().unwrap();
    let some_entry = || {
        let mut entry = entry(&format!("w{b}"), &agent_path(c));
        entry.id = entry_id();
        entry.created_at = Timestamp::from_unix(now);
        entry.spec.federates_with = (0..b % 3).map(|number| foreign(number).parse().unwrap()).collect();
        entry
    };
    let some_bundle = || {
        Box::new(bundle(
            &if a == 3 { "td".into() } else { foreign(a) },
            &["x", "y"][..usize::from(b % 3)],
        ))
    };
    match kind {
        0..=2 => create(some_entry()),
        3 | 4 => {
            let path = if b == 3 { "/task/x".into() } else { format!("/w{b}") };
            let patch = EntryPatch {
                spiffe_id: Some(id(&path)),
                parent_id: Some(id(&agent_path(c))),
                federates_with: (a == 3).then(|| vec![foreign(b % 3).parse().unwrap()]),
                ..EntryPatch::default()
            };
            Change::EntryUpdate {
                id: entry_id(),
                patch: Box::new(patch),
            }
        }
        5 => Change::EntryDelete(entry_id()),
        6 => attest(agent(&agent_path(a), b + 1), None),
        7 => attest(agent(&agent_path(a), b + 1), Some(&format!("t{c}"))),
        8 => Change::AgentRenew {
            id: id(&agent_path(a)),
            by: serial(c + 1),
            serial: serial(b + 1),
            expires_at: Timestamp::from_unix(now + 60),
        },
        9 => Change::AgentConfirm {
            id: id(&agent_path(a)),
            serial: serial(b + 1),
        },
        10 => Change::AgentReport {
            id: id(&agent_path(a)),
            version: format!("{b}"),
        },
        11 => Change::AgentBan(id(&agent_path(a))),
        12 => Change::AgentDelete(id(&agent_path(a))),
        13 => token(&format!("t{c}"), now + i64::from(b), None),
        14 => token(&format!("t{c}"), now + i64::from(b) + 2, Some(&format!("/alias/{a}"))),
        15 => Change::TokenPrune,
        16 => Change::AuthorityPrepare(Box::new(authority(&format!("a{a}"), now + i64::from(b)))),
        17 => Change::AuthorityActivate(format!("a{a}")),
        18 => Change::AuthorityPrune(format!("a{a}")),
        19 => Change::BundleAppend {
            x509_authorities: vec![x509(&format!("a{a}"))],
            jwt_authorities: vec![],
        },
        20 => Change::BundleCreate(some_bundle()),
        21 => {
            let patch = BundlePatch {
                refresh_hint: Some(b.into()),
                ..BundlePatch::default()
            };
            Change::BundleUpdate {
                trust_domain: foreign(a).parse().unwrap(),
                patch: Box::new(patch),
            }
        }
        22 => Change::BundleSet(some_bundle()),
        _ => {
            let mode = [
                BundleDeleteMode::Restrict,
                BundleDeleteMode::Delete,
                BundleDeleteMode::Dissociate,
            ][usize::from(b % 3)];
            Change::BundleDelete {
                trust_domain: foreign(a).parse().unwrap(),
                mode,
            }
        }
    }
}

/// What the guards ask for and memory does not hold.
#[derive(Default)]
struct Secret {
    /// Usable tokens by hash, with the end of each.
    tokens: BTreeMap<[u8; 32], i64>,
    /// Aliases that came with a token.
    aliases: BTreeSet<String>,
}

/// Whether the guard of `change` holds, by its documentation.
fn guard_holds(memory: &Memory, secret: &Secret, change: &Change, now: i64) -> bool {
    let free = |entry: &mayfly_model::Entry| {
        memory
            .entries
            .values()
            .all(|there| there.id != entry.id && !there.spec.is_similar_to(&entry.spec))
    };
    let live = |id: &mayfly_svid::SpiffeId| memory.agents.get(id.as_str()).filter(|agent| !agent.banned);
    let is_foreign = |trust_domain: &mayfly_svid::TrustDomain| {
        trust_domain.as_str() != "td" && memory.bundles.contains_key(trust_domain.as_str())
    };
    let federates = |names: &[mayfly_svid::TrustDomain]| {
        let mut names = names.iter();
        names.all(|name| memory.bundles.contains_key(name.as_str()))
    };
    match change {
        Change::EntryCreate(entry) => free(entry) && federates(&entry.spec.federates_with),
        Change::EntryUpdate { id, patch } => memory.entries.get(id.as_str()).is_some_and(|present| {
            let spec = patch.clone().apply(&present.spec);
            let others = memory.entries.values().filter(|other| other.id != *id);
            let bundles_are_there = patch.federates_with.as_deref().is_none_or(federates);
            spec.check(&super::own()).is_ok()
                && bundles_are_there
                && others.into_iter().all(|other| !other.spec.is_similar_to(&spec))
        }),
        Change::EntryDelete(id) => memory.entries.contains_key(id.as_str()),
        Change::AgentAttest { agent, token } => {
            let banned = memory.agents.get(agent.id.as_str()).is_some_and(|there| there.banned);
            !banned && token.is_none_or(|hash| secret.tokens.get(hash.as_bytes()).is_some_and(|end| *end > now))
        }
        Change::AgentRenew { id, by, .. } => live(id).is_some_and(|agent| agent.uses(by)),
        Change::AgentConfirm { id, serial } => {
            live(id).is_some_and(|agent| agent.renewed.as_ref().is_some_and(|(renewed, _)| renewed == serial))
        }
        Change::AgentReport { id, .. } | Change::AgentBan(id) | Change::AgentDelete(id) => {
            memory.agents.contains_key(id.as_str())
        }
        Change::TokenCreate { hash, .. } => !secret.tokens.contains_key(hash.as_bytes()),
        Change::AuthorityPrepare(authority) => !memory.authorities.contains_key(&authority.id),
        Change::AuthorityActivate(id) => memory
            .authorities
            .get(id)
            .is_some_and(|authority| authority.state == AuthorityState::Prepared),
        Change::AuthorityPrune(id) => memory
            .authorities
            .get(id)
            .is_some_and(|authority| authority.not_after.unix() < now),
        Change::BundleCreate(bundle) => !memory.bundles.contains_key(bundle.trust_domain.as_str()),
        Change::BundleSet(bundle) => bundle.trust_domain.as_str() != "td",
        Change::BundleUpdate { trust_domain, .. } => is_foreign(trust_domain),
        Change::BundleDelete { trust_domain, mode } => {
            let used = memory
                .entries
                .values()
                .any(|entry| entry.spec.federates_with.contains(trust_domain));
            is_foreign(trust_domain) && (*mode != BundleDeleteMode::Restrict || !used)
        }
        _ => true,
    }
}

/// Follows a change that happened; `before` is memory in front of it.
fn follow(secret: &mut Secret, before: &Memory, after: &Memory, change: &Change, now: i64) {
    match change {
        Change::TokenCreate { hash, expires_at, .. } => drop(secret.tokens.insert(*hash.as_bytes(), expires_at.unix())),
        Change::AgentAttest { token: Some(hash), .. } => {
            secret.tokens.remove(hash.as_bytes());
            let new = after.entries.keys().filter(|name| !before.entries.contains_key(*name));
            secret.aliases.extend(new.cloned());
        }
        Change::TokenPrune => secret.tokens.retain(|_, end| *end >= now),
        Change::AgentDelete(id) => {
            let is_alias =
                |entry: &mayfly_model::Entry| entry.spec.parent_id == *id && secret.aliases.contains(entry.id.as_str());
            for (name, entry) in &before.entries {
                assert_eq!(after.entries.contains_key(name), !is_alias(entry), "{name}");
            }
        }
        _ => {}
    }
    secret.aliases.retain(|alias| after.entries.contains_key(alias));
    let active = after
        .authorities
        .values()
        .filter(|authority| authority.state == AuthorityState::Active);
    assert!(active.count() <= 1);
    let (certificates, ..) = &after.bundles["td"];
    for authority in after.authorities.values() {
        assert!(
            certificates
                .iter()
                .any(|(text, _)| *text == hex::encode(&authority.cert_der)),
            "{}",
            authority.id
        );
    }
}

pub(crate) fn random_changes_do_what_their_guards_say_and_survive_a_restart(fixture: &dyn Fn() -> Fixture) {
    let op = (0..24u8, 0..4u8, 0..4u8, 0..4u8).prop_map(|(kind, a, b, c)| Op { kind, a, b, c });
    let batch = proptest::collection::vec(op, 1..12);
    let batches = proptest::collection::vec(batch, 1..16);
    let mut runner = TestRunner::new(Config {
        cases: 64,
        failure_persistence: None,
        ..Config::default()
    });
    let result = runner.run(&batches, |batches| {
        let mut world = World::new(fixture);
        let mut secret = Secret::default();
        for ops in batches {
            world.now += 1;
            let changes: Vec<Change> = ops.iter().map(|op| change_of(*op, world.now)).collect();
            let revision = world.memory.revision;
            // Memory of each moment within the batch: the guards of later steps see what earlier ones did.
            let mut moment = world.memory.clone();
            let committed = world.commit(changes.clone());
            for (change, outcome) in changes.iter().zip(&committed.outcomes) {
                prop_assert_eq!(
                    outcome.is_ok(),
                    guard_holds(&moment, &secret, change, world.now),
                    "{:?}",
                    change
                );
                if let Ok(deltas) = outcome {
                    let before = moment.clone();
                    moment.apply(deltas);
                    follow(&mut secret, &before, &moment, change, world.now);
                }
            }
            let happened = u64::from(committed.outcomes.iter().any(Result::is_ok));
            prop_assert_eq!(committed.revision.0, revision.0 + happened);
        }
        world.finish();
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}
