//! What is likely a mistake: power that a task gives and somebody has anyway, policies of who somebody is, approvals that
//! nobody thinks about, windows that only look short.
//!
//! Nothing is found here: policies by themselves are `mayfly-policy`'s, all that the log tells is `mayfly-audit`'s. What a
//! finding of theirs is called as a lint, and which requirement it answers to, is said here.

use mayfly_audit::Finding;
use mayfly_audit::finding::remedy;
use mayfly_policy::{LintKind, PolicySet};

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
pub fn lint(policies: &PolicySet, findings: &[Finding]) -> Vec<Lint> {
    let mut lints: Vec<Lint> = of_policies(policies).collect();
    lints.extend(findings.iter().filter_map(of_finding));
    lints.sort();
    lints.dedup();
    lints
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

/// Of what the log tells, what a definition, a policy or a habit is to be changed for.
fn of_finding(finding: &Finding) -> Option<Lint> {
    let requirement = match finding.code.as_str() {
        "task-over-standing-power" => "S5",
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
