//! What is likely a mistake in a policy that loads: authority by who somebody is alone, or without an end.
//!
//! Read from the policies themselves, in Cedar's JSON. Policies that only forbid are let be: they narrow.

use cedar_policy::{ActionConstraint, Effect, EntityUid, Policy, ResourceConstraint};
use serde_json::Value;

use crate::PolicySet;
use crate::set::Loaded;

/// What a lint of a policy is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LintKind {
    /// S19: it permits by who somebody is, and asks nothing of what they want to do now.
    PrincipalsOnly,
    /// S5: it permits windows of any task, and says nowhere how long they may be.
    NoWindowBound,
}

/// A policy that is likely a mistake.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PolicyLint {
    /// What it is about.
    pub kind: LintKind,
    /// The policy's `@id`.
    pub policy: String,
    /// Its file.
    pub file: String,
}

impl LintKind {
    /// The stable word for it.
    pub fn code(self) -> &'static str {
        match self {
            Self::PrincipalsOnly => "principals-only",
            Self::NoWindowBound => "no-window-bound",
        }
    }
}

impl PolicySet {
    /// Policies of users that are likely mistakes, by file and id.
    pub fn lint(&self) -> Vec<PolicyLint> {
        let own = self.policies.values().filter(|loaded| !loaded.is_builtin);
        let mut lints: Vec<PolicyLint> = own.flat_map(of_policy).collect();
        lints.sort_by(|a, b| (&a.file, &a.policy, a.kind).cmp(&(&b.file, &b.policy, b.kind)));
        lints
    }
}

fn of_policy(loaded: &Loaded) -> Vec<PolicyLint> {
    // It was loaded, so it parses.
    let Ok(policy) = Policy::parse(None, &loaded.text) else {
        return vec![];
    };
    if policy.effect() != Effect::Permit || !opens_windows(&policy) {
        return vec![];
    }
    let Ok(json) = policy.to_json() else {
        return vec![];
    };
    let conditions = &json["conditions"];
    let mut kinds = vec![];
    if !reads(conditions, "context", None) && !reads(conditions, "resource", None) {
        kinds.push(LintKind::PrincipalsOnly);
    }
    let is_of_one_task = match policy.resource_constraint() {
        ResourceConstraint::Eq(uid) | ResourceConstraint::In(uid) | ResourceConstraint::IsIn(_, uid) => {
            uid.type_name().basename() == "TaskDefinition"
        }
        _ => false,
    };
    let bounds_itself = loaded.annotations.window_cap.is_some()
        || reads(conditions, "context", Some("duration"))
        || reads(conditions, "resource", Some("max_window"));
    if !is_of_one_task && !bounds_itself {
        kinds.push(LintKind::NoWindowBound);
    }
    let lint = |kind| PolicyLint {
        kind,
        policy: loaded.id.clone(),
        file: loaded.file.clone(),
    };
    kinds.into_iter().map(lint).collect()
}

/// Whether it is about what leads to a window: not approving, not revoking, not the API.
fn opens_windows(policy: &Policy) -> bool {
    let is_use = |uid: &EntityUid| matches!(uid.id().unescaped(), "use" | "request" | "open" | "renew" | "extend");
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => is_use(&uid),
        ActionConstraint::In(uids) => uids.iter().any(is_use),
    }
}

/// Whether an expression reads an attribute of `variable`: this one, or any.
fn reads(expression: &Value, variable: &str, attribute: Option<&str>) -> bool {
    match expression {
        Value::Object(fields) => fields.iter().any(|(operator, operands)| {
            let of_variable = matches!(operator.as_str(), "." | "has")
                && operands["left"]["Var"] == variable
                && attribute.is_none_or(|attribute| operands["attr"] == attribute);
            of_variable || reads(operands, variable, attribute)
        }),
        Value::Array(items) => items.iter().any(|item| reads(item, variable, attribute)),
        _ => false,
    }
}
