//! Changes of what gives authority: definitions, policies and exceptions, by one person or, where the settings want it, by two.
//!
//! ```text
//!   submit ─▶ sound? may the author? ─┬─ one person ──▶ in force
//!                                     └─ two_person ──▶ Proposal ─▶ decide, by somebody else: sound still? ─▶ in force
//! ```
//!
//! Whoever decides sees exactly what would be in force: a proposal holds the whole of it. That author and decider are two is
//! asked twice: by a guard of the policy that nothing overrides, and inside the commit.
//!
//! Not here: whether a definition, policy or exception is sound (`definitions`, `policy`, `exceptions`).

use std::sync::Arc;

use mayfly_model::task::{
    DefinitionError, PersonId, PolicyFiles, Proposal, ProposalState, ProposedChange, TaskId, TaskName,
};
use mayfly_model::{Actor, Change, Conflict, ErrorKind, Step};
use mayfly_policy::{Access as Kind, EditFacts, Edited, Person, Pinned, PolicyErrors, PolicySet, Reason};
use mayfly_svid::Timestamp;

use super::caller::CallerError;
use super::definitions;
use super::exceptions::{self, ExceptionError};
use super::people::People;
use super::policy::{self, PolicyHolder};
use super::standing::Standing;
use crate::commit::{CommitError, Committer, Snapshot};

/// The RPC that brings a policy into force. One under which its author could not call it would be the last one.
const SET_POLICY: &str = "mayfly.task.v1.Policy/Set";
/// Proposals that wait at a time.
const PENDING_MAX: usize = 100;
/// What they would bring into force, in bytes together: all of it is shown in one answer.
const PENDING_BYTES_MAX: usize = 2 << 20;

/// Changes definitions and policies.
pub struct Changes {
    committer: Committer,
    people: Arc<People>,
    policy: Arc<PolicyHolder>,
    two_person: bool,
}

/// Who changes something.
#[derive(Clone, Copy)]
pub struct By<'a> {
    /// What they may.
    pub standing: &'a Standing,
    /// For the log.
    pub actor: &'a Actor,
    /// The server's time.
    pub now: Timestamp,
    /// The state that the call was admitted by.
    pub snapshot: &'a Snapshot,
}

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Became {
    /// It is in force.
    InForce,
    /// It was in force before.
    Unchanged,
    /// It waits for a second person.
    Proposed {
        /// As what.
        id: String,
    },
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// It is no definition, or none that could be safe here.
    #[error("the definition is refused:\n{0}")]
    Definition(#[from] DefinitionError),
    /// It is no policy.
    #[error("the policy is refused:\n{0}")]
    Policy(#[from] PolicyErrors),
    /// Its author could not set another one afterwards.
    #[error(
        "the policy would keep you from setting another one after it; permit that to somebody who can, and let them set it"
    )]
    LockedOut,
    /// The present one is another than the one that was looked at.
    #[error("the policy in force is `{present}` by now; look at it and set yours again")]
    PolicyChanged {
        /// Its digest.
        present: String,
    },
    /// It is no exception, or none that could be granted.
    #[error(transparent)]
    Exception(#[from] ExceptionError),
    /// The caller may not, or is nobody.
    #[error(transparent)]
    Caller(#[from] CallerError),
    /// Policy says no.
    #[error("{}", .0.iter().map(|reason| reason.text.as_str()).collect::<Vec<_>>().join("; "))]
    Denied(Vec<Reason>),
    /// Something newer than the proposal is in force, which it would undo.
    #[error("what it would replace has changed since it was proposed; reject it and have it proposed anew")]
    Outdated,
    /// There are many proposals already.
    #[error("too much waits for a second person; decide the proposals that there are first")]
    Full,
    /// The commit refused it.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

// === impl Changes ===

impl Changes {
    /// Takes what it needs; with `two_person` nothing comes into force without a second person.
    pub fn new(committer: Committer, people: Arc<People>, policy: Arc<PolicyHolder>, two_person: bool) -> Self {
        Self {
            committer,
            people,
            policy,
            two_person,
        }
    }

    /// Brings `change` into force, or proposes it where a second person is wanted.
    ///
    /// # Errors
    /// It is not sound, the caller may not, or it could not be stored; nothing is changed then.
    ///
    /// # Cancel safety
    /// Dropping the future does not undo what was handed to the committer; the same for all below.
    pub async fn submit(&self, by: By<'_>, change: ProposedChange) -> Result<Became, ChangeError> {
        may(by.standing, &change)?;
        let policy = self.check(by, &change).await?;
        if policy.is_some_and(|policy| !by.standing.could(SET_POLICY, Kind::Define, &policy)) {
            return Err(ChangeError::LockedOut);
        }
        if is_in_force(&change, by.snapshot) {
            return Ok(Became::Unchanged);
        }
        let author = by.standing.author();
        if self.two_person {
            by.standing.require_person()?;
            return self.propose(by, author, change).await;
        }
        let alone = by.standing.principal().clone();
        self.authorize(by, &change, alone, vec![])?;
        let change = match change {
            ProposedChange::Definition { definition } => Change::DefinitionPut { definition, author },
            ProposedChange::Retirement { name } => Change::DefinitionRetire(name),
            ProposedChange::Policy { files } => Change::PolicySet {
                policy: Box::new(PolicyFiles {
                    files,
                    author,
                    set_at: by.now,
                }),
                // What it was compared with: of two who set one at the same time, one is told to look again.
                replaces: Some(
                    by.snapshot
                        .policy()
                        .map_or(Timestamp::default(), |present| present.set_at),
                ),
            },
            ProposedChange::Exception { id, change } => {
                exceptions::agrees(by, &id, &change)?;
                Change::ExceptionStep {
                    id,
                    step: change,
                    approved_by: author,
                }
            }
        };
        match self.commit(by, change).await {
            Ok(()) => Ok(Became::InForce),
            // Somebody else just brought the same into force.
            Err(ChangeError::Commit(CommitError::Conflict(Conflict::DefinitionUnchanged))) => Ok(Became::Unchanged),
            Err(refused) => Err(refused),
        }
    }

    /// Agrees to a proposal, or refuses it for good; its author can take it back that way.
    ///
    /// # Errors
    /// It is to be approved by its author, decided already, not sound any more, or the caller may not.
    pub async fn decide(&self, by: By<'_>, id: &str, approve: bool) -> Result<Arc<Proposal>, ChangeError> {
        let pending = |proposal: &&Arc<Proposal>| proposal.state == ProposalState::Pending;
        let not_pending = || CommitError::from(Conflict::ProposalNotPending(id.chars().take(64).collect()));
        let proposal = by.snapshot.proposal(id).filter(pending).ok_or_else(not_pending)?;
        let is_withdrawn = !approve && proposal.author == by.standing.author();
        if !is_withdrawn {
            may(by.standing, &proposal.change)?;
        }
        if self.two_person {
            by.standing.require_person()?;
        }
        if approve {
            self.check(by, &proposal.change).await?;
            if is_outdated(proposal, by.snapshot) {
                return Err(ChangeError::Outdated);
            }
            if let ProposedChange::Exception { id, change } = &proposal.change {
                exceptions::agrees(by, id, change)?;
            }
            let author = self.author_of(proposal);
            self.authorize(by, &proposal.change, author, vec![by.standing.principal().clone()])?;
        }
        let change = Change::ProposalDecide {
            id: proposal.id.clone(),
            by: by.standing.author(),
            approve,
        };
        self.commit(by, change).await?;
        let decided = self.committer.snapshot().proposal(id).cloned();
        Ok(decided.ok_or_else(not_pending)?)
    }

    /// Refuses if the policy in force is not the one with this digest.
    ///
    /// # Errors
    /// It is another one.
    pub fn check_present(&self, by: By<'_>, digest: &str) -> Result<(), ChangeError> {
        let present = self.policy.of(by.snapshot).set().digest().to_string();
        if digest.is_empty() || present == digest.to_ascii_lowercase() {
            Ok(())
        } else {
            Err(ChangeError::PolicyChanged { present })
        }
    }

    /// Whether it is sound now; the policies, if it is some.
    async fn check(&self, by: By<'_>, change: &ProposedChange) -> Result<Option<PolicySet>, ChangeError> {
        match change {
            ProposedChange::Definition { definition } => {
                definitions::check(definition, &self.people, by.snapshot).await?;
            }
            ProposedChange::Retirement { name } => {
                let present = by.snapshot.definition(name).filter(|present| !present.retired);
                present.ok_or_else(|| CommitError::from(Conflict::DefinitionNotFound(name.clone())))?;
            }
            ProposedChange::Policy { files } => return Ok(Some(policy::check_aside(files).await?)),
            ProposedChange::Exception { id, change } => exceptions::check(by, &self.people, id, change)?,
        }
        Ok(None)
    }

    /// Asks the policy in force, whose guards want two where the settings do.
    fn authorize(
        &self,
        by: By<'_>,
        change: &ProposedChange,
        author: Person,
        confirmed_by: Vec<Person>,
    ) -> Result<(), ChangeError> {
        let edited = match change {
            ProposedChange::Definition { definition } => Edited::Definition(Pinned::new(definition.as_ref().clone())),
            ProposedChange::Retirement { name } => {
                let present = by.snapshot.definition(name);
                let present = present.ok_or_else(|| CommitError::from(Conflict::DefinitionNotFound(name.clone())))?;
                Edited::Definition(Pinned::new(present.definition.clone()))
            }
            // Standing power is nobody's team's.
            ProposedChange::Policy { .. } | ProposedChange::Exception { .. } => Edited::Policy { team: String::new() },
        };
        let decision = self.policy.of(by.snapshot).set().authorize_edit(&EditFacts {
            now: by.now,
            edited,
            author,
            confirmed_by,
            two_person: self.two_person,
        });
        if decision.is_allowed() {
            Ok(())
        } else {
            Err(ChangeError::Denied(decision.reasons))
        }
    }

    async fn propose(&self, by: By<'_>, author: String, change: ProposedChange) -> Result<Became, ChangeError> {
        let waiting = by
            .snapshot
            .proposals()
            .filter(|other| other.state == ProposalState::Pending);
        let sizes: Vec<usize> = waiting.map(|other| size(&other.change)).collect();
        if sizes.len() >= PENDING_MAX || sizes.iter().sum::<usize>() + size(&change) > PENDING_BYTES_MAX {
            return Err(ChangeError::Full);
        }
        let proposal = Proposal {
            id: TaskId::random().to_string(),
            change,
            author,
            proposed_at: by.now,
            state: ProposalState::Pending,
            decided_by: String::new(),
            decided_at: None,
        };
        let id = proposal.id.clone();
        self.commit(by, Change::ProposalAdd(Box::new(proposal))).await?;
        Ok(Became::Proposed { id })
    }

    /// The author of a proposal; where that is no person, a name that no person has.
    fn author_of(&self, proposal: &Proposal) -> Person {
        let id = proposal.author.parse::<PersonId>();
        let id = id.unwrap_or_else(|_| "uid-unknown".parse().expect("letters"));
        Person {
            groups: self.people.groups_of(&id),
            key: None,
            id,
        }
    }

    async fn commit(&self, by: By<'_>, change: Change) -> Result<(), ChangeError> {
        let step = Step {
            actor: by.actor.clone(),
            time: by.now,
            change,
        };
        self.committer.commit(step).await?;
        Ok(())
    }
}

/// Whether the role of the caller is good for what the change is about.
fn may(standing: &Standing, change: &ProposedChange) -> Result<(), CallerError> {
    match change {
        ProposedChange::Definition { definition } => standing.may(&path(&definition.name)),
        ProposedChange::Retirement { name } => standing.may(&path(name)),
        ProposedChange::Policy { .. } | ProposedChange::Exception { .. } => standing.may_everywhere(),
    }
}

/// What roles of some teams are compared with: that of break-glass too.
fn path(name: &TaskName) -> String {
    format!("/task/{name}")
}

fn is_in_force(change: &ProposedChange, snapshot: &Snapshot) -> bool {
    match change {
        ProposedChange::Definition { definition } => snapshot
            .definition(&definition.name)
            .is_some_and(|present| !present.retired && present.hash == definition.hash()),
        ProposedChange::Retirement { .. } | ProposedChange::Exception { .. } => false,
        ProposedChange::Policy { files } => match snapshot.policy() {
            Some(present) => present.files == *files,
            None => files.is_empty(),
        },
    }
}

/// Whether what it would replace came into force after it was proposed: its author has not seen that.
fn is_outdated(proposal: &Proposal, snapshot: &Snapshot) -> bool {
    let since = match &proposal.change {
        ProposedChange::Definition { definition } => snapshot.definition(&definition.name).map(|now| now.defined_at),
        ProposedChange::Retirement { .. } => None,
        ProposedChange::Policy { .. } => snapshot.policy().map(|now| now.set_at),
        ProposedChange::Exception { id, .. } => snapshot.exception(id).map(|now| now.approved_at),
    };
    since.is_some_and(|since| since > proposal.proposed_at)
}

/// About what it takes to show a change, in bytes.
pub fn size(change: &ProposedChange) -> usize {
    match change {
        ProposedChange::Definition { definition } => definition.to_toml().len(),
        ProposedChange::Retirement { name } => name.as_str().len(),
        ProposedChange::Policy { files } => files.iter().map(|(name, text)| name.len() + text.len() + 16).sum(),
        ProposedChange::Exception { id, change } => exceptions::describe(id, change).len(),
    }
}

impl ChangeError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Definition(_) | Self::Policy(_) => ErrorKind::InvalidArgument,
            Self::LockedOut | Self::Outdated => ErrorKind::FailedPrecondition,
            Self::PolicyChanged { .. } => ErrorKind::Aborted,
            Self::Exception(error) => error.kind(),
            Self::Caller(error) => error.kind(),
            Self::Denied(_) => ErrorKind::PermissionDenied,
            Self::Full => ErrorKind::ResourceExhausted,
            Self::Commit(error) => error.kind(),
        }
    }
}
