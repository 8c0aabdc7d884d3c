//! A store under test, and the memory that a server would have beside it.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_model::task::{DefinitionVersion, PolicyFiles, Proposal, Revocation, Task};
use mayfly_model::{
    Actor, Agent, Authority, AuthorityState, Change, Conflict, Delta, Entry, EntrySpec, Exception, KeyClass, LogEntry,
    Revision, Step, TokenHash,
};
use mayfly_svid::{Bundle, Serial, SpiffeId, Timestamp, TrustDomain, X509Authority};

use crate::{ArchiveReader, Changed, Committed, Store};

/// Opens one database, again and again; whatever must live as long as it is kept beside it.
pub(crate) struct Fixture {
    pub(crate) open: Box<dyn Fn() -> Box<dyn Store>>,
    pub(crate) archive: Box<dyn Fn() -> ArchiveReader>,
    pub(crate) _alive: Box<dyn Any>,
}

/// What memory makes of deltas.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Memory {
    pub(crate) revision: Revision,
    pub(crate) entries: BTreeMap<String, Arc<Entry>>,
    pub(crate) agents: BTreeMap<String, Arc<Agent>>,
    pub(crate) authorities: BTreeMap<String, Arc<Authority>>,
    pub(crate) bundles: BTreeMap<String, BundleText>,
    pub(crate) definitions: BTreeMap<String, Arc<DefinitionVersion>>,
    pub(crate) policy: Option<Arc<PolicyFiles>>,
    pub(crate) proposals: BTreeMap<String, Arc<Proposal>>,
    pub(crate) exceptions: BTreeMap<String, Arc<Exception>>,
    pub(crate) tasks: BTreeMap<String, Arc<Task>>,
    pub(crate) revocations: BTreeMap<u64, Arc<Revocation>>,
}

/// A bundle, comparable and printable.
pub(crate) type BundleText = (Vec<(String, bool)>, Vec<String>, i64, u64);

fn bundle_text(bundle: &Bundle) -> BundleText {
    (
        bundle
            .x509_authorities
            .iter()
            .map(|authority| (hex::encode(&authority.cert_der), authority.tainted))
            .collect(),
        bundle
            .jwt_authorities
            .iter()
            .map(|authority| format!("{authority:?}"))
            .collect(),
        bundle.refresh_hint,
        bundle.sequence_number,
    )
}

impl Memory {
    pub(crate) fn load(store: &mut dyn Store) -> Self {
        let state = store.load().unwrap();
        Self {
            revision: state.revision,
            entries: state
                .entries
                .into_iter()
                .map(|entry| (entry.id.to_string(), Arc::new(entry)))
                .collect(),
            agents: state
                .agents
                .into_iter()
                .map(|agent| (agent.id.to_string(), Arc::new(agent)))
                .collect(),
            authorities: state
                .authorities
                .into_iter()
                .map(|a| (a.id.clone(), Arc::new(a)))
                .collect(),
            bundles: state
                .bundles
                .iter()
                .map(|b| (b.trust_domain.to_string(), bundle_text(b)))
                .collect(),
            definitions: state
                .definitions
                .into_iter()
                .map(|version| (version.definition.name.to_string(), Arc::new(version)))
                .collect(),
            policy: state.policy.map(Arc::new),
            proposals: state
                .proposals
                .into_iter()
                .map(|proposal| (proposal.id.clone(), Arc::new(proposal)))
                .collect(),
            exceptions: state
                .exceptions
                .into_iter()
                .map(|exception| (exception.id.clone(), Arc::new(exception)))
                .collect(),
            tasks: state
                .tasks
                .into_iter()
                .map(|task| (task.id.to_string(), Arc::new(task)))
                .collect(),
            revocations: state
                .revocations
                .into_iter()
                .map(|revocation| (revocation.epoch, Arc::new(revocation)))
                .collect(),
        }
    }

    /// Applies deltas the way a server does; what is said to go must have been there as it was said.
    pub(crate) fn apply(&mut self, deltas: &[Delta]) {
        deltas.iter().for_each(|delta| self.apply_one(delta));
    }

    fn apply_one(&mut self, delta: &Delta) {
        match delta {
            Delta::EntryPut(entry) => drop(self.entries.insert(entry.id.to_string(), entry.clone())),
            Delta::EntryGone(entry) => assert_eq!(self.entries.remove(entry.id.as_str()).as_ref(), Some(entry)),
            Delta::AgentPut(agent) => drop(self.agents.insert(agent.id.to_string(), agent.clone())),
            Delta::AgentGone(id) => assert!(self.agents.remove(id.as_str()).is_some()),
            Delta::AuthorityPut(authority) => drop(self.authorities.insert(authority.id.clone(), authority.clone())),
            Delta::AuthorityGone(id) => assert!(self.authorities.remove(id).is_some()),
            Delta::BundlePut(bundle) => {
                drop(
                    self.bundles
                        .insert(bundle.trust_domain.to_string(), bundle_text(bundle)),
                );
            }
            Delta::BundleGone(trust_domain) => assert!(self.bundles.remove(trust_domain.as_str()).is_some()),
            Delta::DefinitionPut(version) => {
                drop(
                    self.definitions
                        .insert(version.definition.name.to_string(), version.clone()),
                );
            }
            Delta::PolicyPut(policy) => self.policy = Some(policy.clone()),
            Delta::ExceptionPut(put) => drop(self.exceptions.insert(put.id.clone(), put.clone())),
            Delta::ProposalPut(proposal) => {
                self.proposals.insert(proposal.id.clone(), proposal.clone());
                for forgotten in Proposal::forgotten(self.proposals.values().map(AsRef::as_ref)) {
                    self.proposals.remove(&forgotten);
                }
            }
            Delta::TaskPut(task) => drop(self.tasks.insert(task.id.to_string(), task.clone())),
            Delta::TaskGone(task) => assert_eq!(self.tasks.remove(task.id.as_str()).as_ref(), Some(task)),
            Delta::Revoked(revocation) => drop(self.revocations.insert(revocation.epoch, revocation.clone())),
        }
    }
}

/// The whole log.
pub(crate) fn read_all(archive: &mut ArchiveReader) -> Vec<LogEntry> {
    let entries = archive.entries(0, usize::MAX).unwrap();
    let entries = (0..).zip(&entries);
    entries
        .map(|(index, entry)| archive.read(index, entry).unwrap())
        .collect()
}

pub(crate) struct World {
    fixture: Fixture,
    pub(crate) store: Box<dyn Store>,
    pub(crate) memory: Memory,
    /// The time of the next steps.
    pub(crate) now: i64,
}

impl World {
    pub(crate) fn new(fixture: &dyn Fn() -> Fixture) -> Self {
        let fixture = fixture();
        let mut store = (fixture.open)();
        let memory = Memory::load(store.as_mut());
        Self {
            fixture,
            store,
            memory,
            now: 1_000_000,
        }
    }

    pub(crate) fn step(&self, change: Change) -> Step {
        let actor = Actor {
            who: "uid:1000".into(),
            origin: "pid:7".into(),
            reason: "because".into(),
        };
        Step {
            actor,
            time: Timestamp::from_unix(self.now),
            change,
        }
    }

    /// Commits, and lets memory follow.
    pub(crate) fn commit(&mut self, changes: impl IntoIterator<Item = Change>) -> Committed {
        let steps: Vec<Step> = changes.into_iter().map(|change| self.step(change)).collect();
        let committed = self.store.commit(&steps).unwrap();
        assert_eq!(committed.outcomes.len(), steps.len());
        committed
            .outcomes
            .iter()
            .flatten()
            .for_each(|deltas| self.memory.apply(deltas));
        self.memory.revision = committed.revision;
        committed
    }

    /// The deltas of a change that must happen.
    pub(crate) fn does(&mut self, change: Change) -> Vec<Delta> {
        self.commit([change]).outcomes.remove(0).unwrap()
    }

    /// The conflict of a change that must not happen.
    pub(crate) fn refuses(&mut self, change: Change) -> Conflict {
        let before = self.memory.clone();
        let conflict = self.commit([change]).outcomes.remove(0).unwrap_err();
        assert_eq!(self.memory, before, "a refused change did something");
        conflict
    }

    pub(crate) fn log(&self) -> Vec<LogEntry> {
        read_all(&mut self.archive())
    }

    pub(crate) fn archive(&self) -> ArchiveReader {
        (self.fixture.archive)()
    }

    /// The change history behind `revision`.
    pub(crate) fn changed_since(&mut self, revision: Revision) -> Vec<Changed> {
        let changes = self.store.load().unwrap().changes;
        changes
            .into_iter()
            .filter(|row| row.revision > revision)
            .map(|row| row.what)
            .collect()
    }

    pub(crate) fn restart(&mut self) {
        self.store = (self.fixture.open)();
    }

    /// Restarts, and compares what is there then with memory.
    pub(crate) fn finish(&mut self) {
        self.restart();
        assert_eq!(Memory::load(self.store.as_mut()), self.memory);
        let log = self.log();
        for (record, index) in log.iter().zip(0..) {
            assert_eq!(record.index, index);
            assert!(record.revision <= self.memory.revision);
        }
        assert!(log.is_sorted_by_key(|record| record.revision));
        let changes = self.store.load().unwrap().changes;
        assert!(changes.is_sorted_by_key(|row| row.revision));
        assert!(self.store.is_healthy().is_ok());
    }
}

pub(crate) fn own() -> TrustDomain {
    "td".parse().unwrap()
}

pub(crate) fn id(path: &str) -> SpiffeId {
    own().with_path(path).unwrap()
}

pub(crate) fn serial(number: u8) -> Serial {
    Serial::from_be_bytes(&[number]).unwrap()
}

/// An entry with the ID `name` for `/name`, below `parent`.
pub(crate) fn entry(name: &str, parent: &str) -> Entry {
    let selectors = ["unix:uid:1000".parse().unwrap()].into_iter().collect();
    Entry {
        id: name.parse().unwrap(),
        spec: EntrySpec::new(id(&format!("/{name}")), id(parent), selectors),
        created_at: Timestamp::from_unix(1_000_000),
        revision_number: 0,
    }
}

pub(crate) fn agent(path: &str, number: u8) -> Agent {
    Agent {
        id: id(path),
        attestation_type: "x509pop".into(),
        serial: Some(serial(number)),
        expires_at: Timestamp::from_unix(2_000_000),
        renewed: None,
        selectors: ["x509pop:subject:cn:a".parse().unwrap()].into_iter().collect(),
        banned: false,
        can_reattest: true,
        version: String::new(),
        attested_at: Timestamp::from_unix(1_000_000),
    }
}

pub(crate) fn authority(name: &str, not_after: i64) -> Authority {
    Authority {
        id: name.into(),
        class: KeyClass::Base,
        state: AuthorityState::Prepared,
        cert_der: name.as_bytes().to_vec().into(),
        key_id: format!("key-{name}"),
        not_before: Timestamp::from_unix(0),
        not_after: Timestamp::from_unix(not_after),
    }
}

pub(crate) fn x509(name: &str) -> X509Authority {
    X509Authority {
        cert_der: name.as_bytes().to_vec().into(),
        tainted: false,
    }
}

pub(crate) fn bundle(trust_domain: &str, certificates: &[&str]) -> Bundle {
    Bundle {
        x509_authorities: certificates.iter().map(|name| x509(name)).collect(),
        ..Bundle::empty(trust_domain.parse().unwrap())
    }
}

pub(crate) fn create(entry: Entry) -> Change {
    Change::EntryCreate(Box::new(entry))
}

pub(crate) fn attest(agent: Agent, token: Option<&str>) -> Change {
    Change::AgentAttest {
        agent: Box::new(agent),
        token: token.map(TokenHash::of),
    }
}

pub(crate) fn token(text: &str, expires_at: i64, alias: Option<&str>) -> Change {
    let expires_at = Timestamp::from_unix(expires_at);
    Change::TokenCreate {
        hash: TokenHash::of(text),
        expires_at,
        alias: alias.map(id),
    }
}

/// The one entry of deltas that hold nothing else.
pub(crate) fn only_entry(deltas: &[Delta]) -> Arc<Entry> {
    match deltas {
        [Delta::EntryPut(entry)] => entry.clone(),
        other => panic!("{other:?}"),
    }
}
