//! What the rest of the server knows of the store: the port and the values that cross it.

use mayfly_model::task::{DefinitionVersion, PolicyFiles, Proposal, Revocation, Task};
use mayfly_model::{Agent, Authority, Conflict, Delta, Entry, EntryId, EntrySpec, Exception, Revision, Step};
use mayfly_svid::{Bundle, SpiffeId, TrustDomain};

use crate::StoreError;

/// The whole durable state: what memory is built from at start.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// Random ID of this database, made when it was created. Revisions of another history mean nothing here, so agents
    /// resume only within the same one.
    pub history: String,
    /// The newest commit; 0 before the first.
    pub revision: Revision,
    /// All entries, by ID.
    pub entries: Vec<Entry>,
    /// All agents, banned ones too, by ID.
    pub agents: Vec<Agent>,
    /// All authorities, by ID.
    pub authorities: Vec<Authority>,
    /// All bundles by trust domain, always with the own one, which is empty until an authority is prepared.
    pub bundles: Vec<Bundle>,
    /// The newest version of each task definition, retired ones too, by name.
    pub definitions: Vec<DefinitionVersion>,
    /// The operators' policy, if one was set.
    pub policy: Option<PolicyFiles>,
    /// All proposals, by ID.
    pub proposals: Vec<Proposal>,
    /// The register of exceptions, those that are over too, in the order of granting.
    pub exceptions: Vec<Exception>,
    /// All tasks that were not forgotten, by ID.
    pub tasks: Vec<Task>,
    /// What is refused, by epoch.
    pub revocations: Vec<Revocation>,
    /// The number of the newest revocation.
    pub epoch: u64,
    /// The newest rows of the change history, at most 100,000, oldest first. Holders of the first row's revision or of a
    /// later one find here all that they missed; older holders may not (the first revision can be cut in the middle).
    pub changes: Vec<ChangeRow>,
}

/// One row of the change history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRow {
    /// The commit that it belongs to.
    pub revision: Revision,
    /// What a watcher that holds an older revision must look at again.
    pub what: Changed,
}

/// A thing that was created, changed or removed. Which other things look different because of it (aliases of an agent
/// whose selectors changed) is the watcher's matter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Changed {
    /// An entry at this place. A change of its parent or of the ID that it gives moves it: two rows, the old place first.
    Entry {
        /// Which entry.
        id: EntryId,
        /// Below what it is, or was.
        parent_id: SpiffeId,
        /// What it gives, or gave: other entries may stand below that.
        spiffe_id: SpiffeId,
    },
    /// An agent: attested, banned or evicted. Renewals and reported versions change nothing that is watched: no row.
    Agent(SpiffeId),
    /// The own bundle or a foreign one.
    Bundle(TrustDomain),
}

impl Changed {
    /// `entry` at its place.
    pub fn entry(entry: &Entry) -> Self {
        let EntrySpec {
            parent_id, spiffe_id, ..
        } = &entry.spec;
        Self::Entry {
            id: entry.id.clone(),
            parent_id: parent_id.clone(),
            spiffe_id: spiffe_id.clone(),
        }
    }

    /// The parent, if it is an entry.
    pub fn parent_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Entry { parent_id, .. } => Some(parent_id),
            Self::Agent(_) | Self::Bundle(_) => None,
        }
    }
}

/// What a commit did.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The revision that the commit took; the present one if no step happened.
    pub revision: Revision,
    /// One outcome per step, in their order.
    pub outcomes: Vec<StepOutcome>,
    /// For each step the index of its last entry in the log, if it left any.
    pub log_indexes: Vec<Option<u64>>,
}

/// What a step did to the state, in an order in which memory can apply it; or the guard that refused it, and then
/// nothing of the step happened.
pub type StepOutcome = Result<Vec<Delta>, Conflict>;

/// The durable state of a server. Blocking: it is owned by one thread, the committer's.
pub trait Store: Send {
    /// Reads everything.
    ///
    /// # Errors
    /// The database cannot be read, or holds what cannot be understood.
    fn load(&mut self) -> Result<State, StoreError>;

    /// Does `steps` in one transaction, each with its guard and with its log records. A step whose guard refuses it
    /// leaves nothing and does not disturb the others; later steps see what earlier ones did. All that happened share
    /// one revision; if nothing happened none is taken. It is durable when this returns `Ok`.
    ///
    /// # Errors
    /// Nothing happened, and the store can be used again; except [`StoreError::FateUnknown`], after which memory must be
    /// built anew from [`load`](Self::load).
    fn commit(&mut self, steps: &[Step]) -> Result<Committed, StoreError>;

    /// Whether a commit could be begun now.
    ///
    /// # Errors
    /// Why not.
    fn is_healthy(&mut self) -> Result<(), StoreError>;
}
