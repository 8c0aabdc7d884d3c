//! What can happen to the state of a server, as data: a [`Change`] is asked for, checked by its guard inside the commit,
//! and answered by the [`Delta`]s that it caused or by the [`Conflict`] that stopped it.

use std::sync::Arc;
use std::time::Duration;

use mayfly_svid::{Bundle, JwtAuthority, Serial, SpiffeId, Timestamp, TrustDomain, WindowId, X509Authority};
use serde_json::Value;

use crate::log::private::Commitment;
use crate::task::{
    Definition, DefinitionVersion, PolicyFiles, Proposal, Revocation, Task, TaskId, TaskName, TaskRefusal, TaskStep,
};
use crate::{
    Actor, AdditionalAttributes, Agent, Authority, Entry, EntryError, EntryId, EntrySpec, Exception, ExceptionStep,
    Selectors, TokenHash,
};

/// One change with who asked for it and when it was decided.
#[derive(Clone, Debug)]
pub struct Step {
    /// Who, from where, why.
    pub actor: Actor,
    /// The server's time at the decision; expiry guards compare with it.
    pub time: Timestamp,
    /// What is to happen.
    pub change: Change,
}

/// A change of the durable state. Each documents its guard: what must hold inside the commit for it to happen.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Change {
    /// Several changes that happen together or not at all. Guard: each one's, in order.
    Together(Vec<Change>),
    /// Adds an entry. Guard: its ID is free, no similar entry exists, and the bundles that it federates with are there.
    EntryCreate(Box<Entry>),
    /// Changes the stated fields of an entry and counts its revision up. Guard: it exists, the result passes
    /// [`EntrySpec::check`] and is similar to no other entry, and the bundles that it shall federate with are there.
    EntryUpdate {
        /// Which entry.
        id: EntryId,
        /// What to change.
        patch: Box<EntryPatch>,
    },
    /// Removes an entry. Guard: it exists.
    EntryDelete(EntryId),
    /// Removes an entry that has expired. Guard: it exists, and its end has come by the time of the step: an operator may
    /// just have moved it.
    EntryExpire(EntryId),
    /// Records a successful node attestation: a new agent, or the same one again. Guard: the agent is not banned; the
    /// token, if one was used, exists and has not expired, and it is used up by this very commit.
    AgentAttest {
        /// The record as attested now.
        agent: Box<Agent>,
        /// The one-time token that proved it.
        token: Option<TokenHash>,
    },
    /// Adds a renewed SVID beside the one in use. Guard: the agent exists, is not banned, and still uses `by`: it may
    /// just have attested anew. If that was itself renewed and not seen yet, it is now, and becomes the one in use.
    AgentRenew {
        /// Which agent.
        id: SpiffeId,
        /// Serial of the SVID that it showed.
        by: Serial,
        /// Serial of the new SVID.
        serial: Serial,
        /// Its `notAfter`.
        expires_at: Timestamp,
    },
    /// The renewed SVID was seen in use, the old one ends. Guard: `serial` is the renewed one of a live agent.
    AgentConfirm {
        /// Which agent.
        id: SpiffeId,
        /// The serial that was seen.
        serial: Serial,
    },
    /// Records the version that an agent reports. Guard: it exists.
    AgentReport {
        /// Which agent.
        id: SpiffeId,
        /// Its version, at most 255 characters.
        version: String,
    },
    /// Takes everything from an agent and keeps it from attesting. Guard: it exists.
    AgentBan(SpiffeId),
    /// Evicts: forgets an agent, banned or not; it may attest anew. Guard: it exists.
    AgentDelete(SpiffeId),
    /// Admits a join token. Guard: its hash is new.
    TokenCreate {
        /// Its hash.
        hash: TokenHash,
        /// Not usable from this instant on.
        expires_at: Timestamp,
        /// Another name for the agent that will use it: an entry of this name is made in the same commit that uses the
        /// token up. Not before, as its parent is the agent's ID, and that holds the token.
        alias: Option<SpiffeId>,
    },
    /// Forgets tokens that expired before `time` of the step. No guard.
    TokenPrune,
    /// Adds a prepared authority and its certificate to the own bundle. Guard: its ID is new.
    AuthorityPrepare(Box<Authority>),
    /// Makes an authority the active one of its class, the present one becomes old. Guard: it is prepared.
    AuthorityActivate(String),
    /// Removes an expired authority, and its certificate from the own bundle. Guard: it has expired.
    AuthorityPrune(String),
    /// Adds authorities of others to the own bundle; those already in it are kept as they are. No guard.
    BundleAppend {
        /// Signing certificates.
        x509_authorities: Vec<X509Authority>,
        /// JWT keys.
        jwt_authorities: Vec<JwtAuthority>,
    },
    /// Adds a foreign bundle. Guard: there is none of this trust domain.
    BundleCreate(Box<Bundle>),
    /// Replaces the stated parts of a foreign bundle. Guard: there is one.
    BundleUpdate {
        /// Whose.
        trust_domain: TrustDomain,
        /// What to replace.
        patch: Box<BundlePatch>,
    },
    /// Adds or replaces a foreign bundle. No guard.
    BundleSet(Box<Bundle>),
    /// Removes a foreign bundle. Guard: there is one; in mode `Restrict` no entry federates with it.
    BundleDelete {
        /// Whose.
        trust_domain: TrustDomain,
        /// What happens to entries that federate with it.
        mode: BundleDeleteMode,
    },
    /// Brings a version of a task definition into force, and supersedes what waits or is armed under another one. Guard:
    /// its content is not the one in force.
    DefinitionPut {
        /// It.
        definition: Box<Definition>,
        /// Who defined it.
        author: String,
    },
    /// Retires a definition and supersedes what waits or is armed under it. Guard: there is one in force.
    DefinitionRetire(TaskName),
    /// Replaces the operators' policy, whole. Guard: the present one is still `replaces`, if that is stated.
    PolicySet {
        /// It.
        policy: Box<PolicyFiles>,
        /// When the present one was set; `None`: whatever it is.
        replaces: Option<Timestamp>,
    },
    /// Adds a change that waits for a second person. Guard: its ID is new.
    ProposalAdd(Box<Proposal>),
    /// Decides a proposal; one that is approved comes into force in the same commit. Guard: it is pending, whoever decides
    /// is not its author, and the guard of what it does.
    ProposalDecide {
        /// Which.
        id: String,
        /// Who decides.
        by: String,
        /// Whether it comes into force.
        approve: bool,
    },
    /// Adds a request with its first decision. Guard: the definition that it refers to is in force, and the same workload
    /// has no other live request of this task with this key.
    TaskSubmit(Box<Task>),
    /// A step of a task. Guard: [`Task::apply`]; for the opening also that the definition is still in force, that no more
    /// windows of this workload and task are open than may be, that the last one is settled if it must be, that no
    /// break-glass of this task waits for its review, and that the key is in no other window.
    TaskStep {
        /// Which.
        id: TaskId,
        /// What happens.
        step: Box<TaskStep>,
    },
    /// Forgets tasks that were over before this instant; the log keeps them. No guard.
    TaskPrune {
        /// The instant.
        before: Timestamp,
    },
    /// A step of an exception of the register. Guard: [`Exception::after`]. Of who agrees, `approved_by` is the record.
    ExceptionStep {
        /// Which.
        id: String,
        /// What happens.
        step: Box<ExceptionStep>,
        /// Who agrees to it.
        approved_by: String,
    },
    /// Forgets private values that entries of the log commit to. Guard: at least one of them is still known.
    PrivateErase(Vec<Commitment>),
    /// Takes an authority out of the bundle: no verifier accepts what it signed. Guard: it is there and not `base`.
    AuthorityRevoke(String),
    /// Records what is about to be signed. Nothing leaves the server before this is durable. No guard.
    SvidIntents(Vec<SvidIntent>),
    /// Records which intents became certificates, and which did not. No guard.
    SvidOutcome {
        /// Signed.
        signed: Vec<Serial>,
        /// Not signed: the key manager failed, or what allowed it had ended.
        failed: Vec<Serial>,
    },
    /// Records an operator's act that changes nothing durable, such as a log level. No guard.
    Note {
        /// A constant such as `logger.level_set`.
        kind: &'static str,
        /// What it is about.
        subject: String,
        /// The particulars.
        body: Value,
    },
}

/// What happens to entries that federate with a bundle that is deleted (SPIRE's three modes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleDeleteMode {
    /// Refuse while there are any.
    Restrict,
    /// Delete them too.
    Delete,
    /// Keep them, without the federation.
    Dissociate,
}

/// New values for some fields of an entry; `None` keeps what is there.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in EntrySpec")]
pub struct EntryPatch {
    pub spiffe_id: Option<SpiffeId>,
    pub parent_id: Option<SpiffeId>,
    pub selectors: Option<Selectors>,
    pub x509_svid_ttl: Option<Option<Duration>>,
    pub jwt_svid_ttl: Option<Option<Duration>>,
    pub federates_with: Option<Vec<TrustDomain>>,
    pub admin: Option<bool>,
    pub downstream: Option<bool>,
    pub expires_at: Option<Option<Timestamp>>,
    pub dns_names: Option<Vec<String>>,
    pub store_svid: Option<bool>,
    pub hint: Option<String>,
    pub additional_attributes: Option<Option<AdditionalAttributes>>,
}

impl EntryPatch {
    /// `spec` with the stated fields replaced.
    pub fn apply(self, spec: &EntrySpec) -> EntrySpec {
        EntrySpec {
            spiffe_id: self.spiffe_id.unwrap_or_else(|| spec.spiffe_id.clone()),
            parent_id: self.parent_id.unwrap_or_else(|| spec.parent_id.clone()),
            selectors: self.selectors.unwrap_or_else(|| spec.selectors.clone()),
            x509_svid_ttl: self.x509_svid_ttl.unwrap_or(spec.x509_svid_ttl),
            jwt_svid_ttl: self.jwt_svid_ttl.unwrap_or(spec.jwt_svid_ttl),
            federates_with: self.federates_with.unwrap_or_else(|| spec.federates_with.clone()),
            admin: self.admin.unwrap_or(spec.admin),
            downstream: self.downstream.unwrap_or(spec.downstream),
            expires_at: self.expires_at.unwrap_or(spec.expires_at),
            dns_names: self.dns_names.unwrap_or_else(|| spec.dns_names.clone()),
            store_svid: self.store_svid.unwrap_or(spec.store_svid),
            hint: self.hint.unwrap_or_else(|| spec.hint.clone()),
            additional_attributes: self.additional_attributes.unwrap_or(spec.additional_attributes),
        }
    }
}

/// New values for some parts of a foreign bundle; `None` keeps what is there.
#[derive(Clone, Debug, Default)]
#[expect(missing_docs, reason = "each field is the one of the same name in Bundle")]
pub struct BundlePatch {
    pub x509_authorities: Option<Vec<X509Authority>>,
    pub jwt_authorities: Option<Vec<JwtAuthority>>,
    pub refresh_hint: Option<i64>,
    pub sequence_number: Option<u64>,
}

/// What is about to be signed.
#[derive(Clone, Debug)]
pub struct SvidIntent {
    /// The subject.
    pub spiffe_id: SpiffeId,
    /// The entry that allows it; none for agents, the server itself, and minting by an operator.
    pub entry_id: Option<EntryId>,
    /// The serial that it will have.
    pub serial: Serial,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub public_key_sha256: [u8; 32],
    /// The authority that will sign.
    pub authority_id: String,
    /// Its `notAfter`.
    pub not_after: Timestamp,
    /// The window that it is a lease on; none for base SVIDs.
    pub window_id: Option<WindowId>,
}

/// What a commit did to the state; memory applies these in order. They carry whole new values, never differences.
#[derive(Clone, Debug)]
pub enum Delta {
    /// An entry is there with this content.
    EntryPut(Arc<Entry>),
    /// An entry is gone; its last content, so that indexes and watchers know where it was.
    EntryGone(Arc<Entry>),
    /// An agent is there with this content.
    AgentPut(Arc<Agent>),
    /// An agent is gone.
    AgentGone(SpiffeId),
    /// An authority is there with this content.
    AuthorityPut(Arc<Authority>),
    /// An authority is gone.
    AuthorityGone(String),
    /// A bundle, the own or a foreign one, is there with this content.
    BundlePut(Arc<Bundle>),
    /// A foreign bundle is gone.
    BundleGone(TrustDomain),
    /// A version of a definition is the one in force, or is retired.
    DefinitionPut(Arc<DefinitionVersion>),
    /// The operators' policy is this.
    PolicyPut(Arc<PolicyFiles>),
    /// A proposal is there with this content.
    ProposalPut(Arc<Proposal>),
    /// An exception is there with this content.
    ExceptionPut(Arc<Exception>),
    /// A task is there with this content.
    TaskPut(Arc<Task>),
    /// A task was forgotten; its last content.
    TaskGone(Arc<Task>),
    /// Something is refused from its epoch on.
    Revoked(Arc<Revocation>),
}

/// The guard of a change that did not hold. Nothing of the change happened.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Conflict {
    /// The chosen entry ID is taken, or a similar entry exists; this is the one that is there.
    #[error("similar entry already exists")]
    EntryExists(Arc<Entry>),
    /// No such entry.
    #[error("entry not found")]
    EntryNotFound,
    /// The changed entry would break a rule.
    #[error(transparent)]
    EntryInvalid(#[from] EntryError),
    /// No such agent.
    #[error("agent not found")]
    AgentNotFound,
    /// The agent is banned.
    #[error("agent is banned")]
    AgentBanned,
    /// The serial is not the renewed one.
    #[error("serial is not the renewed one of this agent")]
    SerialNotRenewed,
    /// The agent has another SVID by now.
    #[error("serial is not in use by this agent any more")]
    SerialNotInUse,
    /// Used already, expired, or never there: the three are not told apart.
    #[error("join token does not exist or has already been used")]
    TokenUnusable,
    /// The token is there already.
    #[error("join token already exists")]
    TokenExists,
    /// No such authority, or not in the state that the change needs.
    #[error("authority `{0}` is not in the state for this")]
    AuthorityState(String),
    /// There is a bundle of this trust domain.
    #[error("bundle already exists")]
    BundleExists,
    /// There is none.
    #[error("bundle not found")]
    BundleNotFound,
    /// An entry would hand out a bundle that is not there.
    #[error("unable to find federated bundle `{0}`; set the bundle of this trust domain first")]
    FederatedBundleNotFound(TrustDomain),
    /// This version is the one in force.
    #[error("this version of the definition is in force already")]
    DefinitionUnchanged,
    /// No definition of this name, or it is retired.
    #[error("there is no task definition `{0}` in force")]
    DefinitionNotFound(TaskName),
    /// Another version is in force by now.
    #[error("the definition of `{0}` has changed since; ask again")]
    DefinitionChanged(TaskName),
    /// The identity has this one, or this one was granted since.
    #[error("exception `{0}` is there for this identity; renew it, or end it first")]
    ExceptionExists(String),
    /// No such exception.
    #[error("exception not found")]
    ExceptionNotFound,
    /// It was ended, or would be over before it begins.
    #[error("the exception is over; grant a new one")]
    ExceptionOver,
    /// It is not in force, or its end has not come.
    #[error("the exception does not expire now")]
    ExceptionNotDue,
    /// The entry is named by this one, which is about what the entry gives.
    #[error(
        "exception `{0}` is about what this entry gives to whom; end it with --power-removed before that changes, or \
         delete the entry"
    )]
    EntryExcepted(String),
    /// None of the values is known any more.
    #[error("there is nothing to erase: none of these values is kept any more")]
    NothingToErase,
    /// Somebody else set a policy meanwhile.
    #[error("the policy is another one by now; look at it and set yours again")]
    PolicyChanged,
    /// No such proposal, or it is decided.
    #[error("there is no pending proposal `{0}`")]
    ProposalNotPending(String),
    /// One's own.
    #[error("a proposal is decided by somebody else than its author")]
    OwnProposal,
    /// There is a live request with this key; this is it.
    #[error("the request is there already")]
    TaskExists(Arc<Task>),
    /// No such request.
    #[error("request not found")]
    TaskNotFound,
    /// A guard of the task itself.
    #[error(transparent)]
    Task(#[from] TaskRefusal),
    /// As many windows as may be.
    #[error("{open} windows of this task are open for the workload, and no more may be")]
    TooManyWindows {
        /// Open ones.
        open: usize,
    },
    /// The last window is not settled.
    #[error("window {0} of this task and workload is not settled yet, and the definition wants that first")]
    NotSettled(WindowId),
    /// Break-glass was not looked at.
    #[error("request {0} used this break-glass task and was not reviewed yet")]
    ReviewDue(TaskId),
    /// The key was used before.
    #[error("the key is that of another window; each has its own")]
    KeyReused,
    /// Entries federate with it.
    #[error("bundle is in use; entries that federate with it: {0}")]
    BundleInUse(usize),
}

impl Change {
    /// Whether its log records are all there is to it: it has no guard, nothing refuses it, and it changes no state.
    #[must_use]
    pub fn is_record(&self) -> bool {
        match self {
            Self::Together(changes) => changes.iter().all(Self::is_record),
            Self::SvidIntents(_) | Self::SvidOutcome { .. } | Self::Note { .. } => true,
            _ => false,
        }
    }
}

mod records;
