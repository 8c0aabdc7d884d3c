//! Counterfactuals: which facts would have to be otherwise for another verdict.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::Selectors;
use mayfly_model::task::{ActorClass, Definition};
use serde::{Deserialize, Serialize};

use crate::derive::{self, Assumed};
use crate::facts::{Approval, Facts, Person, Pinned};
use crate::{PolicySet, Verdict};

/// One fact and how it would have to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signal {
    /// Which, such as `process.environment`.
    pub fact: String,
    /// In words.
    pub words: String,
}

/// Facts that together flip the verdict; none of them can be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flip {
    /// What would have to be otherwise.
    pub facts: Vec<Signal>,
    /// What would then be said.
    pub verdict: Verdict,
}

/// Something that can be changed.
struct Change {
    signal: Signal,
    apply: Box<dyn Fn(&mut Facts)>,
}

impl PolicySet {
    /// The smallest sets of facts that flip the verdict: for a denial (or a wait) what would have to hold, for a
    /// permission what would take it away. First single facts, then pairs; if more are needed, one set from which none
    /// can be left out.
    pub fn why_not(&self, facts: &Facts) -> Vec<Flip> {
        let before = self.decide(facts).verdict;
        let changes = if before == Verdict::Allow {
            spoiled(facts)
        } else {
            self.mended(facts)
        };
        let verdict_of = |chosen: &[&Change]| {
            let mut changed = facts.clone();
            chosen.iter().for_each(|change| (change.apply)(&mut changed));
            self.decide(&changed).verdict
        };
        let flips = |verdict| match before {
            Verdict::Allow => verdict != Verdict::Allow,
            Verdict::Wait => verdict == Verdict::Allow,
            Verdict::Deny => verdict != Verdict::Deny,
        };
        let flip = |chosen: &[&Change]| {
            let verdict = verdict_of(chosen);
            flips(verdict).then(|| Flip {
                facts: chosen.iter().map(|change| change.signal.clone()).collect(),
                verdict,
            })
        };
        let singles: Vec<Flip> = changes.iter().filter_map(|one| flip(&[one])).collect();
        if !singles.is_empty() {
            return singles;
        }
        let pairs = changes
            .iter()
            .enumerate()
            .flat_map(|(i, one)| changes[i + 1..].iter().map(move |two| [one, two]));
        let pairs: Vec<Flip> = pairs.filter_map(|pair| flip(&pair)).collect();
        if !pairs.is_empty() {
            return pairs;
        }
        let mut needed: Vec<&Change> = changes.iter().collect();
        if !flips(verdict_of(&needed)) {
            return vec![];
        }
        let mut at = 0;
        while at < needed.len() {
            let mut fewer = needed.clone();
            fewer.remove(at);
            if flips(verdict_of(&fewer)) {
                needed = fewer;
            } else {
                at += 1;
            }
        }
        flip(&needed).into_iter().collect()
    }

    /// Everything that is not as it should be, with how it should be.
    fn mended(&self, facts: &Facts) -> Vec<Change> {
        let mut changes = vec![];
        let definition = &facts.definition;
        let mut add = |fact: &str, words: String, apply: Box<dyn Fn(&mut Facts)>| {
            let mut changed = facts.clone();
            apply(&mut changed);
            if changed != *facts {
                let fact = fact.into();
                changes.push(Change {
                    signal: Signal { fact, words },
                    apply,
                });
            }
        };
        let Facts { process: sample, .. } = Facts::sample(facts.phase, Definition::clone(definition));
        if let Ok(id) = facts.trust_domain.with_path(sample.id.path())
            && !definition
                .allowed
                .workloads
                .iter()
                .any(|path| path.matches(&facts.process.id, &facts.trust_domain))
        {
            let paths: Vec<&str> = definition.allowed.workloads.iter().map(|path| path.as_str()).collect();
            let words = format!("the process had an identity such as {}", paths.join(" or "));
            add("process.id", words, Box::new(move |f| f.process.id = id.clone()));
        }
        let all: Selectors = facts
            .process
            .selectors
            .iter()
            .chain(&definition.allowed.selectors)
            .cloned()
            .collect();
        add(
            "process.selectors",
            "the process had all selectors that the definition names".into(),
            Box::new(move |f| f.process.selectors = all.clone()),
        );
        let environment = definition.environment.clone();
        add(
            "process.environment",
            format!("the process ran in environment `{environment}`"),
            Box::new(move |f| f.process.environment.clone_from(&environment)),
        );
        let team = definition.name.team().to_owned();
        add(
            "process.team",
            format!("the process belonged to team `{team}`"),
            Box::new(move |f| f.process.team = Some(team.clone())),
        );
        if definition.actor != facts.process.actor {
            let actor = definition.actor;
            let words = match actor {
                ActorClass::Workload => "no person ran it by hand",
                ActorClass::Human => "a person ran it by hand",
            };
            add(
                "process.actor",
                words.into(),
                Box::new(move |f| {
                    f.process.actor = actor;
                    if actor == ActorClass::Human && f.person.is_none() {
                        f.person = Some(somebody("somebody", BTreeSet::new()));
                    }
                }),
            );
        }
        add(
            "process.node.banned",
            "the node were not banned".into(),
            Box::new(|f| f.process.node.banned = false),
        );
        if derive::evidence_age(facts, &Assumed::default()) != 0 {
            add(
                "process.attested_at",
                "the process had been attested just now".into(),
                Box::new(|f| f.process.attested_at = f.window.as_ref().map_or(f.now, |w| w.renewed_at.max(f.now))),
            );
        }
        let scopes: BTreeSet<String> = facts.scopes.intersection(&definition.scopes).cloned().collect();
        add(
            "scopes",
            "it asked only for scopes that the definition has".into(),
            Box::new(move |f| f.scopes.clone_from(&scopes)),
        );
        let duration = facts
            .duration
            .min(definition.limits.max_window)
            .max(Duration::from_secs(1));
        add(
            "duration",
            format!("it asked for {}", humantime::format_duration(duration)),
            Box::new(move |f| f.duration = duration),
        );
        if definition.review_by.is_some_and(|at| facts.now >= at) {
            add(
                "definition.review_by",
                "the definition had been reviewed".into(),
                Box::new(|f| {
                    let mut reviewed = Definition::clone(&f.definition);
                    reviewed.review_by = None;
                    f.definition = Pinned::new(reviewed);
                }),
            );
        }
        add(
            "usage.unsettled",
            "earlier windows were settled".into(),
            Box::new(|f| f.usage.unsettled = 0),
        );
        add(
            "usage.open_windows",
            "no other window were open".into(),
            Box::new(|f| f.usage.open_windows = 0),
        );
        add(
            "usage.reviews_due",
            "earlier uses were reviewed".into(),
            Box::new(|f| f.usage.reviews_due = 0),
        );
        add(
            "usage.same_day",
            "it were the first window of the day".into(),
            Box::new(|f| f.usage.same_day = 0),
        );
        if facts.reason_length < 100 {
            let words = "the reason had 100 bytes".into();
            add("reason_length", words, Box::new(|f| f.reason_length = 100));
        }
        let assumed = Assumed {
            ticket: true,
            ..Assumed::default()
        };
        let ticket = derive::ticket(facts, &assumed);
        if definition.ticket.required || facts.ticket.is_some() {
            let words = "its ticket were there, open, and of the right kind".into();
            add("ticket", words, Box::new(move |f| f.ticket.clone_from(&ticket)));
        }
        self.mend_people(facts, &mut add);
        changes
    }

    /// Approvals, and who approves.
    fn mend_people(&self, facts: &Facts, add: &mut impl FnMut(&str, String, Box<dyn Fn(&mut Facts)>)) {
        let of_policies = self
            .policies
            .values()
            .filter_map(|policy| policy.annotations.approvals.as_ref());
        let rules = of_policies.chain([&facts.definition.approval]);
        let groups: BTreeSet<_> = rules.flat_map(|rule| rule.groups.iter().cloned()).collect();
        if facts.phase == crate::Phase::Approve {
            let stranger = somebody("somebody-else", facts.definition.approval.groups.clone());
            let words = "somebody else of the groups that are asked approved it".into();
            return add(
                "approver",
                words,
                Box::new(move |f| f.approver = Some(stranger.clone())),
            );
        }
        if groups.is_empty() {
            return;
        }
        let at = match (&facts.window, facts.phase) {
            (Some(window), crate::Phase::Renew | crate::Phase::Sweep) => window.opened_at,
            _ => facts.now,
        };
        let approval = |i| Approval {
            by: somebody(&format!("somebody-{i}"), groups.clone()),
            at,
        };
        let approvals: Vec<Approval> = (0..mayfly_model::task::APPROVALS_MAX).map(approval).collect();
        let words = "enough other people of the groups that are asked had approved".into();
        add(
            "approvals",
            words,
            Box::new(move |f| f.approvals.clone_from(&approvals)),
        );
    }
}

pub(crate) fn somebody(name: &str, groups: BTreeSet<mayfly_model::task::GroupId>) -> Person {
    Person {
        id: name.parse().expect("letters, digits and dashes"),
        groups,
        key: Some(format!("key of {name}")),
    }
}

/// What could be otherwise in facts under which all is well.
fn spoiled(facts: &Facts) -> Vec<Change> {
    let mut changes = vec![];
    let mut add = |fact: &str, words: &str, apply: Box<dyn Fn(&mut Facts)>| {
        let mut changed = facts.clone();
        apply(&mut changed);
        if changed != *facts {
            let (fact, words) = (fact.into(), words.into());
            changes.push(Change {
                signal: Signal { fact, words },
                apply,
            });
        }
    };
    if let Ok(other) = facts.trust_domain.with_path("/somebody/else") {
        add(
            "process.id",
            "the process had another identity",
            Box::new(move |f| f.process.id = other.clone()),
        );
    }
    add(
        "process.selectors",
        "the process had no selectors",
        Box::new(|f| f.process.selectors = Selectors::default()),
    );
    add(
        "process.environment",
        "the process ran in another environment",
        Box::new(|f| f.process.environment.push_str("-other")),
    );
    add(
        "process.team",
        "the process belonged to no team",
        Box::new(|f| f.process.team = None),
    );
    add(
        "process.actor",
        "the other class of actor ran it",
        Box::new(|f| {
            f.process.actor = match f.process.actor {
                ActorClass::Workload => ActorClass::Human,
                ActorClass::Human => ActorClass::Workload,
            };
            f.person.get_or_insert_with(|| somebody("somebody", BTreeSet::new()));
        }),
    );
    add(
        "process.node.banned",
        "the node were banned",
        Box::new(|f| f.process.node.banned = true),
    );
    add(
        "process.attested_at",
        "the attestation were older than the definition allows",
        Box::new(|f| {
            let age = f.definition.limits.evidence_max_age + Duration::from_secs(1);
            f.process.attested_at = f
                .window
                .as_ref()
                .map_or(f.now, |window| window.renewed_at.min(f.now))
                .minus(age);
        }),
    );
    add(
        "scopes",
        "it asked for a scope that the definition does not have",
        Box::new(|f| f.scopes.extend(["no-such-scope".into()])),
    );
    add(
        "duration",
        "it asked for more than the definition allows",
        Box::new(|f| f.duration = f.definition.limits.max_window + Duration::from_secs(1)),
    );
    add(
        "definition.review_by",
        "the definition's review were overdue",
        Box::new(|f| {
            let mut overdue = Definition::clone(&f.definition);
            overdue.review_by = Some(f.now);
            f.definition = Pinned::new(Arc::new(overdue));
        }),
    );
    add(
        "usage.unsettled",
        "an earlier window were not settled",
        Box::new(|f| f.usage.unsettled += 1),
    );
    add(
        "usage.open_windows",
        "as many windows were open as may be",
        Box::new(|f| f.usage.open_windows = f.definition.limits.concurrency),
    );
    add(
        "usage.reviews_due",
        "an earlier use were not reviewed",
        Box::new(|f| f.usage.reviews_due += 1),
    );
    add(
        "usage.same_day",
        "it were the 100th window of the day",
        Box::new(|f| f.usage.same_day = 99),
    );
    add(
        "reason_length",
        "no reason were given",
        Box::new(|f| f.reason_length = 0),
    );
    add("ticket", "there were no ticket", Box::new(|f| f.ticket = None));
    add(
        "ticket.open",
        "the ticket were closed",
        Box::new(|f| f.ticket.iter_mut().for_each(|ticket| ticket.open = false)),
    );
    add("approvals", "nobody had approved", Box::new(|f| f.approvals.clear()));
    changes
}
