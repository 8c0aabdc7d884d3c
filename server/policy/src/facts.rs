//! What a decision may read, and nothing else: no clock, no store. A record of it replays to the same verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use cedar_policy::Entity;
use mayfly_model::Selectors;
use mayfly_model::task::{ActorClass, Definition, DefinitionHash, GroupId, PersonId};
use mayfly_svid::{SpiffeId, Timestamp, TrustDomain};
use serde::{Deserialize, Serialize};

use crate::Digest;

/// When it is in samples.
pub(crate) const SAMPLE_NOW: Timestamp = Timestamp::from_unix(1_800_000_000);

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// May it be asked for, and what does it wait for: approvals, a ticket, nothing?
    Request,
    /// The same for a request that waited: is anything missing still? Evidence may have grown old meanwhile.
    Arm,
    /// May `approver` approve it?
    Approve,
    /// May the window open now? Everything is asked.
    Open,
    /// May the window that is open have another SVID?
    Renew,
    /// May the window that is open stay open under this policy? As `Renew`, with the evidence of the last renewal.
    Sweep,
    /// May its end move? `duration` is then that of the whole window, `approvals` those for the extension.
    Extend,
}

/// A definition with its hash, which is computed here so that the two belong together. Clones share it and what
/// policies see of it: to decide often, keep one.
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "Definition", from = "Definition")]
pub struct Pinned(Arc<Inner>);

struct Inner {
    definition: Arc<Definition>,
    hash: DefinitionHash,
    entity: OnceLock<Result<Entity, String>>,
}

/// Everything that a decision about a task may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Facts {
    /// What is decided.
    pub phase: Phase,
    /// The server's time.
    pub now: Timestamp,
    /// The own one; IDs of others are never allowed.
    pub trust_domain: TrustDomain,
    /// The definition that the request is about: that version, not the newest.
    pub definition: Pinned,
    /// The process that is or would be bound.
    pub process: Process,
    /// The person who asks: by hand, or on the process's behalf.
    #[serde(default)]
    pub person: Option<Person>,
    /// What it wants to do.
    #[serde(default)]
    pub scopes: BTreeSet<String>,
    /// How long the whole window is to be.
    #[serde(with = "humantime_serde")]
    pub duration: Duration,
    /// Bytes of the reason that was given. The text authorises nothing and so is not here.
    #[serde(default)]
    pub reason_length: u32,
    /// What the request says besides; part of its digest.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// As the checker saw it just now.
    #[serde(default)]
    pub ticket: Option<Ticket>,
    /// Given for this request's digest and not withdrawn.
    #[serde(default)]
    pub approvals: Vec<Approval>,
    /// What the same workload and definition did before.
    #[serde(default)]
    pub usage: Usage,
    /// Who wants to approve; for [`Phase::Approve`].
    #[serde(default)]
    pub approver: Option<Person>,
    /// The open window; for [`Phase::Renew`], [`Phase::Sweep`] and [`Phase::Extend`].
    #[serde(default)]
    pub window: Option<OpenWindow>,
}

/// An attested process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// Its base identity.
    pub id: SpiffeId,
    /// Whether a person runs it by hand, by how it was attested.
    #[serde(default)]
    pub actor: ActorClass,
    /// Whose it is.
    #[serde(default)]
    pub team: Option<String>,
    /// Where it runs; empty if the server knows of none.
    #[serde(default)]
    pub environment: String,
    /// Who answers for it: may not approve what it asks for.
    #[serde(default)]
    pub owner: Option<PersonId>,
    /// On what it runs.
    pub node: Node,
    /// What its agent attested.
    #[serde(default)]
    pub selectors: Selectors,
    /// When.
    pub attested_at: Timestamp,
}

/// The agent's record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// The agent's ID.
    pub id: SpiffeId,
    /// Whether it is banned.
    #[serde(default)]
    pub banned: bool,
    /// When it proved itself last.
    pub attested_at: Timestamp,
}

/// A person as the server's configuration knows them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Person {
    /// Who.
    pub id: PersonId,
    /// All groups they are in, those within groups included.
    #[serde(default)]
    pub groups: BTreeSet<GroupId>,
    /// What they proved themselves with, such as the hash of a certificate's key. Two people with one key count as one.
    #[serde(default)]
    pub key: Option<String>,
}

/// Somebody's yes to this request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approval {
    /// Whose, with their groups at that time.
    pub by: Person,
    /// When.
    pub at: Timestamp,
}

/// A ticket as its checker described it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ticket {
    /// Whether work under it may go on.
    pub open: bool,
    /// Such as `change` or `incident`.
    #[serde(default)]
    pub kind: String,
    /// Who works on it.
    #[serde(default)]
    pub owner: Option<PersonId>,
}

/// What the same workload and definition did before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Usage {
    /// Windows that are open, this one not counted.
    pub open_windows: u32,
    /// Windows that are closed and not settled.
    pub unsettled: u32,
    /// Reviews of break-glass use that are due, of this definition by anybody.
    pub reviews_due: u32,
    /// Windows of the last 24 hours.
    pub same_day: u32,
    /// Who approved the previous period of break-glass.
    pub previous_approvers: BTreeSet<PersonId>,
}

/// A window that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenWindow {
    /// Since when. Approvals had to count then.
    pub opened_at: Timestamp,
    /// The last decision that gave it an SVID.
    pub renewed_at: Timestamp,
}

// === impl Pinned ===

impl Pinned {
    /// The definition with its hash.
    pub fn new(definition: impl Into<Arc<Definition>>) -> Self {
        let definition = definition.into();
        Self(Arc::new(Inner {
            hash: definition.hash(),
            definition,
            entity: OnceLock::new(),
        }))
    }

    /// The hash of its content.
    pub fn hash(&self) -> DefinitionHash {
        self.0.hash
    }

    /// It as an entity, made once.
    pub(crate) fn entity(&self, make: impl FnOnce(&Self) -> Result<Entity, String>) -> Result<Entity, String> {
        self.0.entity.get_or_init(|| make(self)).clone()
    }
}

impl Deref for Pinned {
    type Target = Definition;

    fn deref(&self) -> &Definition {
        &self.0.definition
    }
}

impl PartialEq for Pinned {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Pinned {}

impl fmt::Debug for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pinned").field(&**self).finish()
    }
}

impl From<Definition> for Pinned {
    fn from(definition: Definition) -> Self {
        Self::new(definition)
    }
}

impl From<Pinned> for Definition {
    fn from(pinned: Pinned) -> Self {
        Definition::clone(&pinned)
    }
}

// === impl Facts ===

impl Facts {
    /// Of all that is in them; equal facts have equal digests on every machine.
    pub fn digest(&self) -> Digest {
        Digest::of_json("mayfly policy facts 1", self)
    }

    /// Facts of a `phase` under which nothing is wrong: a process that `definition` allows, attested this second on a
    /// good node, in the right environment, for the whole window, with the ticket and the approvals that the definition
    /// wants. Tables of tests begin with it.
    pub fn sample(phase: Phase, definition: impl Into<Arc<Definition>>) -> Self {
        Self::sample_at(SAMPLE_NOW, phase, definition)
    }

    pub(crate) fn sample_at(now: Timestamp, phase: Phase, definition: impl Into<Arc<Definition>>) -> Self {
        let definition = Pinned::new(definition);
        let domain: TrustDomain = "example.org".parse().expect("a constant");
        let id = |path: &str| domain.with_path(path).expect("paths in definitions are valid");
        let own = definition.allowed.workloads.first();
        let path = own.map_or("/nobody".into(), |p| p.as_str().replace('*', "sample"));
        let person = |name: String, groups: BTreeSet<GroupId>| Person {
            key: Some(format!("key of {name}")),
            id: name.parse().expect("letters and digits"),
            groups,
        };
        let ticket = definition.ticket.required.then(|| Ticket {
            open: true,
            kind: definition.ticket.kinds.first().cloned().unwrap_or_default(),
            owner: None,
        });
        let groups: Vec<_> = definition.approval.groups.iter().cloned().collect();
        let approvals = (0..definition.approval.count as usize).map(|i| Approval {
            by: person(
                format!("approver{i}"),
                groups.iter().cycle().skip(i).take(1).cloned().collect(),
            ),
            at: now,
        });
        let is_human = definition.actor == ActorClass::Human;
        Self {
            phase,
            now,
            process: Process {
                id: id(&path),
                actor: definition.actor,
                team: Some(definition.name.team().into()),
                environment: definition.environment.clone(),
                owner: None,
                node: Node {
                    id: id("/spire/agent/sample"),
                    banned: false,
                    attested_at: now,
                },
                selectors: definition.allowed.selectors.clone(),
                attested_at: now,
            },
            person: is_human.then(|| person("requester".into(), BTreeSet::new())),
            scopes: definition.scopes.clone(),
            duration: definition.limits.max_window,
            reason_length: 40,
            parameters: BTreeMap::new(),
            ticket,
            approvals: approvals.collect(),
            usage: Usage::default(),
            approver: (phase == Phase::Approve).then(|| person("approver".into(), groups.iter().cloned().collect())),
            window: matches!(phase, Phase::Renew | Phase::Sweep | Phase::Extend).then_some(OpenWindow {
                opened_at: now,
                renewed_at: now,
            }),
            trust_domain: domain,
            definition,
        }
    }
}
