//! Two small decisions: changing definitions and policies with a second person, and ending a window.

use std::collections::BTreeSet;

use cedar_policy::{Context, Entities, Entity, EntityUid};
use mayfly_model::task::PersonId;
use mayfly_svid::{SpiffeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::cedar::{Action, Kind, entity, flag, instant, number, reference, set, text, uid};
use crate::decide::{definition_entity, human};
use crate::decision::{Decision, Reason, Verdict};
use crate::facts::{Node, Person, Pinned};
use crate::set::{Answered, PolicySet, Question};
use crate::{Digest, Obligations, reason};

/// What is changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edited {
    /// A definition, new, changed or retired.
    Definition(Pinned),
    /// The policies, of all teams if it is empty.
    Policy {
        /// Whose.
        team: String,
    },
}

/// A change of a definition or of policies. Whether the author may propose it at all is a call with
/// [`crate::Access::Define`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EditFacts {
    /// The server's time.
    pub now: Timestamp,
    /// What is changed.
    pub edited: Edited,
    /// Who proposed it.
    pub author: Person,
    /// Who confirmed exactly this.
    pub confirmed_by: Vec<Person>,
    /// Whether the settings want a second person.
    pub two_person: bool,
}

/// Who ends a window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoker {
    /// A person.
    Person(Person),
    /// A process, by its base identity.
    Process(SpiffeId),
}

/// Somebody wants to end a window. Callers with the role admin need not ask: ending needs no approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeFacts {
    /// The server's time.
    pub now: Timestamp,
    /// Who.
    pub by: Revoker,
    /// The window's ID.
    pub window: String,
    /// What it is a window of.
    pub definition: Pinned,
    /// The process that is bound.
    pub process: SpiffeId,
    /// Who answers for that.
    pub owner: Option<PersonId>,
    /// Who asked for it.
    pub requester: Option<PersonId>,
    /// Who approved.
    pub approvers: BTreeSet<PersonId>,
}

impl PolicySet {
    /// Decides whether a change takes effect.
    pub fn authorize_edit(&self, facts: &EditFacts) -> Decision {
        let answered = self.edit(facts);
        self.simple(answered, Digest::of_json("mayfly policy edit 1", facts))
    }

    /// Decides whether a window may be ended by `facts.by`.
    pub fn authorize_revoke(&self, facts: &RevokeFacts) -> Decision {
        let answered = self.revoke(facts);
        self.simple(answered, Digest::of_json("mayfly policy revoke 1", facts))
    }

    fn edit(&self, facts: &EditFacts) -> Result<Answered<'_>, String> {
        let EditFacts {
            now,
            edited,
            author,
            confirmed_by,
            two_person,
        } = facts;
        is_of_era(*now)?;
        let is_author = |person: &&Person| person.id == author.id || person.key.is_some() && person.key == author.key;
        let seconds: BTreeSet<&PersonId> = confirmed_by
            .iter()
            .filter(|person| !is_author(person))
            .map(|person| &person.id)
            .collect();
        let context = vec![
            ("now", instant(*now)),
            ("needed", number(u32::from(*two_person))),
            (
                "seconds",
                number(u32::try_from(seconds.len()).map_err(|e| e.to_string())?),
            ),
            (
                "includes_author",
                flag(confirmed_by.iter().any(|person| is_author(&person))),
            ),
        ];
        let mut entities = vec![human(author)?];
        let (action, resource, team, name) = match edited {
            Edited::Definition(definition) => {
                entities.push(definition_entity(definition)?);
                let name = definition.name.as_str();
                (
                    Action::EditDefinition,
                    uid(Kind::TaskDefinition, name),
                    definition.name.team(),
                    name,
                )
            }
            Edited::Policy { team } => (Action::EditPolicy, uid(Kind::Team, team), team.as_str(), ""),
        };
        self.ask_with(
            (action, uid(Kind::Human, author.id.as_str()), resource),
            (team, name),
            entities,
            context,
        )
    }

    fn revoke(&self, facts: &RevokeFacts) -> Result<Answered<'_>, String> {
        let RevokeFacts {
            now,
            by,
            window,
            definition,
            process,
            owner,
            requester,
            approvers,
        } = facts;
        is_of_era(*now)?;
        // What is not known of the process any more is not needed to end what it had.
        let node = Node {
            id: process.clone(),
            banned: false,
            attested_at: *now,
        };
        let mut workload = vec![
            ("path", text(process.path())),
            ("environment", text(&definition.environment)),
            ("node", reference(Kind::Node, node.id.as_str())),
            ("selectors", set([], |selector: &str| text(selector))),
            ("attested_at", instant(*now)),
        ];
        workload.extend(owner.as_ref().map(|owner| ("owner", text(owner.as_str()))));
        let mut attributes = vec![
            ("definition", reference(Kind::TaskDefinition, definition.name.as_str())),
            ("process", reference(Kind::Workload, process.as_str())),
            ("approvers", set(approvers, |person| text(person.as_str()))),
        ];
        attributes.extend(requester.as_ref().map(|person| ("requester", text(person.as_str()))));
        let resource = uid(Kind::Window, window);
        let task = uid(Kind::TaskDefinition, definition.name.as_str());
        let mut entities = vec![
            entity(uid(Kind::Workload, process.as_str()), workload, None)?,
            entity(resource.clone(), attributes, [task])?,
            definition_entity(definition)?,
        ];
        let principal = match by {
            Revoker::Process(id) => uid(Kind::Workload, id.as_str()),
            Revoker::Person(person) => {
                entities.push(human(person)?);
                uid(Kind::Human, person.id.as_str())
            }
        };
        let of = (definition.name.team(), definition.name.as_str());
        self.ask_with(
            (Action::Revoke, principal, resource),
            of,
            entities,
            vec![("now", instant(*now))],
        )
    }

    fn ask_with(
        &self,
        (action, principal, resource): (Action, EntityUid, EntityUid),
        of: (&str, &str),
        entities: Vec<Entity>,
        context: crate::cedar::Attributes,
    ) -> Result<Answered<'_>, String> {
        let entities = Entities::from_entities(entities, None).map_err(|e| e.to_string())?;
        let pairs = context.into_iter().map(|(key, value)| (key.to_owned(), value));
        let context = Context::from_pairs(pairs).map_err(|e| e.to_string())?;
        let question = Question {
            action,
            principal,
            resource,
            definition: Some(of),
            entities: &entities,
        };
        self.ask(&question, context)
    }

    fn simple(&self, answered: Result<Answered<'_>, String>, inputs_digest: Digest) -> Decision {
        let (verdict, by, mut reasons) = match answered {
            Ok(Answered::Permitted(by)) => (Verdict::Allow, by, vec![]),
            Ok(Answered::Forbidden(by)) if by.is_empty() => {
                let text = "no policy permits it; it is for who owns, asked for or approved the task";
                (Verdict::Deny, by, vec![Reason::new("no-permit", text)])
            }
            Ok(Answered::Forbidden(by)) => (Verdict::Deny, by, vec![]),
            Err(error) => {
                let text = format!("the policies could not be evaluated, so nothing is allowed: {error}");
                (Verdict::Deny, vec![], vec![Reason::new("engine-error", text)])
            }
        };
        if verdict == Verdict::Deny {
            reasons.extend(by.iter().map(|policy| {
                let own = policy.annotations.reason.clone();
                let text = own.unwrap_or_else(|| reason::of_change(&policy.id));
                Reason::new(&policy.id, text)
            }));
        }
        Decision {
            verdict,
            reasons,
            missing: vec![],
            obligations: Obligations::default(),
            determining: by.iter().map(|policy| policy.id.clone()).collect(),
            policy_digest: self.digest,
            inputs_digest,
        }
    }
}

fn is_of_era(at: Timestamp) -> Result<(), String> {
    if crate::derive::is_of_era(at) {
        Ok(())
    } else {
        Err("the time is not between 1970 and 9999".into())
    }
}
