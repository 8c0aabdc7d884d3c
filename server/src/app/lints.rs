//! What is likely a mistake: power that a task gives and its workload has anyway, policies of who somebody is, approvals
//! that nobody thinks about, windows that only look short.
//!
//! Policies by themselves are `mayfly-policy`'s, people and windows `mayfly-audit`'s; here is what takes definitions and
//! exceptions to see.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_audit::Finding;
use mayfly_model::{Excepted, Exception};
use mayfly_policy::{LintKind, PolicySet};
use mayfly_svid::{SpiffeId, Timestamp};

use super::debt::{in_force, remedy};
use super::exceptions::power_of;
use crate::commit::Snapshot;

/// Entries that are looked at, at most: those of identities that are excepted, or have power over the server.
const HOLDERS_MAX: usize = 100_000;

/// Something that is likely a mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lint {
    /// The requirement that it answers to.
    pub requirement: &'static str,
    /// A stable word.
    pub code: String,
    /// What it is about.
    pub subject: String,
    /// The file of a policy.
    pub file: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: &'static str,
}

/// All of them, by requirement, code and subject. `findings` are those of a period of the log.
pub fn lint(snapshot: &Snapshot, policies: &PolicySet, findings: &[Finding], now: Timestamp) -> Vec<Lint> {
    let mut lints = of_definitions(snapshot, now);
    lints.extend(of_policies(policies));
    lints.extend(findings.iter().filter_map(of_finding));
    lints.sort();
    lints.dedup();
    lints
}

/// S5: the task gives what somebody has without it. One for each task and identity.
fn of_definitions(snapshot: &Snapshot, now: Timestamp) -> Vec<Lint> {
    let holders = holders(snapshot, now);
    let mut lints = vec![];
    for definition in in_force(snapshot).filter(|definition| !definition.scopes.is_empty()) {
        for (identity, standing) in &holders {
            let common: Vec<&str> = definition.scopes.intersection(standing).map(String::as_str).collect();
            if common.is_empty() {
                continue;
            }
            let own = snapshot.trust_domain();
            let mut allowed = definition.allowed.workloads.iter();
            let (who, what) = match allowed.any(|pattern| pattern.matches(identity, own)) {
                true => ("which may ask for this task,", "the task adds nothing"),
                false => ("a base identity,", "there is a way around the task"),
            };
            let scopes = common.join("`, `");
            lints.push(Lint {
                requirement: "S5",
                code: "base-has-scopes".into(),
                subject: definition.name.to_string(),
                file: String::new(),
                message: format!("{identity}, {who} has `{scopes}` standing: {what}"),
                remedy: "take the standing power away, and end its exception with `--power-removed`",
            });
        }
    }
    lints
}

/// Base identities with standing power that is known: by exceptions in force, and by entries with power over this server.
fn holders(snapshot: &Snapshot, now: Timestamp) -> BTreeMap<SpiffeId, BTreeSet<String>> {
    let mut holders: BTreeMap<SpiffeId, BTreeSet<String>> = BTreeMap::new();
    for entry in snapshot
        .privileged_entries()
        .filter(|entry| !entry.is_expired(now))
        .take(HOLDERS_MAX)
    {
        let scopes = power_of(entry).map(str::to_owned);
        holders.entry(entry.spec.spiffe_id.clone()).or_default().extend(scopes);
    }
    let counts = |exception: &&std::sync::Arc<Exception>| exception.is_in_force(now);
    for exception in snapshot.exceptions().filter(counts) {
        let identity = match &exception.identity {
            Excepted::Identity(id) => Some(id.clone()),
            Excepted::Entry(id) => snapshot.entry(id).map(|entry| entry.spec.spiffe_id.clone()),
        };
        if let Some(identity) = identity {
            holders
                .entry(identity)
                .or_default()
                .extend(exception.scopes.iter().cloned());
        }
    }
    holders
}

fn of_policies(policies: &PolicySet) -> impl Iterator<Item = Lint> {
    policies.lint().into_iter().map(|found| {
        let (requirement, message, remedy) = match found.kind {
            LintKind::PrincipalsOnly => (
                "S19",
                "permits by who somebody is, whatever they want to do and whatever the definition says",
                "ask for the intent: `when { context.allowed }`, scopes, sensitivity, time",
            ),
            LintKind::NoWindowBound => (
                "S5",
                "permits windows of any task, and says nowhere how long they may be",
                "add `@window_cap(\"15m\")` or a condition on `context.duration`, or name the one task",
            ),
        };
        Lint {
            requirement,
            code: found.kind.code().into(),
            subject: found.policy,
            file: found.file,
            message: message.into(),
            remedy,
        }
    })
}

/// S42 and S85, of which the log tells.
fn of_finding(finding: &Finding) -> Option<Lint> {
    let requirement = match finding.code.as_str() {
        "rubber-stamping" | "never-refuses" | "self-group-approvals" => "S42",
        "disguised-standing-access" => "S85",
        _ => return None,
    };
    Some(Lint {
        requirement,
        code: finding.code.clone(),
        subject: finding.subject.clone(),
        file: String::new(),
        message: finding.message.clone(),
        remedy: remedy(&finding.code),
    })
}

#[cfg(test)]
mod tests;
