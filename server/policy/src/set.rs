//! Loaded policies, by what they can be about, and asking them.

use std::collections::HashMap;

use cedar_policy::{Authorizer, Context, Decision as Answer, Entities, EntityUid, PolicyId, Request};

use crate::Digest;
use crate::annotation::Annotations;
use crate::cedar::{Action, SCHEMA_PARSED};

/// All policies that are in force: the built-in ones and those of users. Immutable; a change is a new set.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) slices: Vec<Slices>,
    pub(crate) policies: HashMap<PolicyId, Loaded>,
    pub(crate) digest: Digest,
}

/// What is known of one policy.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    pub(crate) id: String,
    pub(crate) file: String,
    pub(crate) text: String,
    pub(crate) annotations: Annotations,
    pub(crate) is_builtin: bool,
}

/// The policies that can be about one action, by what their resource scope names. Evaluation walks every policy of a
/// set, so a policy about another task is not in it.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    pub(crate) global: cedar_policy::PolicySet,
    pub(crate) teams: HashMap<String, cedar_policy::PolicySet>,
    pub(crate) definitions: HashMap<String, cedar_policy::PolicySet>,
}

/// A question to Cedar.
pub(crate) struct Question<'a> {
    pub(crate) action: Action,
    pub(crate) principal: EntityUid,
    pub(crate) resource: EntityUid,
    /// Team and name of the definition that the resource is or belongs to.
    pub(crate) definition: Option<(&'a str, &'a str)>,
    pub(crate) entities: &'a Entities,
}

/// Cedar's answer, of policies that all evaluated without error.
pub(crate) enum Answered<'s> {
    /// By these permits.
    Permitted(Vec<&'s Loaded>),
    /// By these forbids; none if nothing permits.
    Forbidden(Vec<&'s Loaded>),
}

impl PolicySet {
    /// SHA-256 over names and texts of all files and the built-in set.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How many policies of users there are.
    pub fn len(&self) -> usize {
        self.policies.values().filter(|policy| !policy.is_builtin).count()
    }

    /// Whether only the built-in set is in force.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All policies as `(id, file, text)`, the built-in ones included, sorted by file and id.
    pub fn policies(&self) -> Vec<(&str, &str, &str)> {
        let shown = self.policies.values();
        let mut all: Vec<_> = shown
            .map(|p| (p.id.as_str(), p.file.as_str(), p.text.as_str()))
            .collect();
        all.sort_unstable_by_key(|(id, file, _)| (*file, *id));
        all
    }

    /// Asks Cedar. Any error of any policy is an error: by itself Cedar leaves out a policy that errs, even a forbid.
    pub(crate) fn ask(&self, question: &Question, context: Context) -> Result<Answered<'_>, String> {
        let Question {
            action,
            principal,
            resource,
            definition,
            entities,
        } = question;
        // The context is built in one place of this crate; tests compare it with the schema at each question. If it did
        // not fit in spite of them, policies would err, and that denies.
        let schema = cfg!(debug_assertions).then(|| &*SCHEMA_PARSED);
        let request = Request::new(principal.clone(), action.uid(), resource.clone(), context, schema)
            .map_err(|e| e.to_string())?;
        let slices = &self.slices[*action as usize];
        let (team, name) = definition.unzip();
        let sets = [
            Some(&slices.global),
            team.and_then(|team| slices.teams.get(team)),
            name.and_then(|name| slices.definitions.get(name)),
        ];
        let authorizer = Authorizer::new();
        let (mut permits, mut forbids) = (vec![], vec![]);
        for set in sets.into_iter().flatten() {
            let response = authorizer.is_authorized(&request, set, entities);
            let mut errors = response.diagnostics().errors().map(ToString::to_string).peekable();
            if errors.peek().is_some() {
                return Err(errors.collect::<Vec<_>>().join("; "));
            }
            for id in response.diagnostics().reason() {
                let policy = self
                    .policies
                    .get(id)
                    .ok_or_else(|| format!("`{id}` decided and is unknown"))?;
                match response.decision() {
                    Answer::Allow => permits.push(policy),
                    Answer::Deny => forbids.push(policy),
                }
            }
        }
        let sorted = |mut policies: Vec<_>| {
            policies.sort_unstable_by_key(|policy: &&Loaded| (!policy.is_builtin, policy.id.clone()));
            policies
        };
        if forbids.is_empty() && !permits.is_empty() {
            Ok(Answered::Permitted(sorted(permits)))
        } else {
            Ok(Answered::Forbidden(sorted(forbids)))
        }
    }
}
