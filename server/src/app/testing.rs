//! A server without sockets: real store, real keys, a clock that is turned by hand.

pub(crate) mod tasks;

use crate::app::archive::Archive;
use crate::app::evidence::{Evidence, EvidenceParts};
use std::sync::Arc;
use std::time::Duration;

use mayfly_keys::{KeyType, MemoryKeys};
use mayfly_model::{Actor, Agent, Change, Delta, Entry, EntryId, EntrySpec, LogEntry, Step};
use mayfly_runtime::{Clock, ManualClock};
use mayfly_store::open_sqlite;
use mayfly_svid::{Serial, SpiffeId, Timestamp};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::authorities::{Authorities, AuthoritySettings};
use super::issue::{Issuance, IssueSettings};
use crate::commit::{Applied, Committer, Observer, StepResult};

pub(crate) const START: u64 = 1_800_000_000;

pub(crate) struct World {
    pub(crate) committer: Committer,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) authorities: Arc<Authorities>,
    pub(crate) issuance: Issuance,
    pub(crate) keys: Arc<MemoryKeys>,
    dir: Arc<TempDir>,
}

pub(crate) fn id(path: &str) -> SpiffeId {
    format!("spiffe://td{path}").parse().unwrap()
}

pub(crate) fn csr() -> Vec<u8> {
    let key = KeyPair::generate().unwrap();
    CertificateParams::default()
        .serialize_request(&key)
        .unwrap()
        .der()
        .to_vec()
}

impl World {
    /// A new server with an active authority of 24 h.
    pub(crate) async fn new() -> Self {
        Self::observed(|_| {}).await
    }

    /// As [`Self::new`], with somebody who follows along from the first commit.
    pub(crate) async fn observed(observer: impl Fn(&Applied) + Send + 'static) -> Self {
        let world = Self::unborn(observer);
        world.authorities.pass().await.unwrap();
        world
    }

    /// A new server before anything has happened.
    pub(crate) fn unborn(observer: impl Fn(&Applied) + Send + 'static) -> Self {
        Self::open(
            Arc::new(TempDir::new().unwrap()),
            Arc::new(MemoryKeys::new()),
            START,
            Box::new(observer),
        )
    }

    /// The same server started again at `now`.
    pub(crate) fn restarted(&self, now: u64) -> Self {
        Self::open(self.dir.clone(), self.keys.clone(), now, Box::new(|_| {}))
    }

    fn open(dir: Arc<TempDir>, keys: Arc<MemoryKeys>, now: u64, observer: Observer) -> Self {
        let trust_domain = "td".parse().unwrap();
        let clock = Arc::new(ManualClock::at_unix(now));
        let store = open_sqlite(&dir.path().join("server.db"), &trust_domain).unwrap();
        let committer = Committer::start(store, &trust_domain, |_, _| observer).unwrap();
        let settings = AuthoritySettings {
            ttl: Duration::from_secs(86_400),
            key_type: KeyType::EcP256,
        };
        let authorities = Authorities::new(committer.clone(), keys.clone(), clock.clone(), settings);
        let authorities = Arc::new(authorities);
        let ttl = Duration::from_secs(3_600);
        let issuance = Issuance::new(
            committer.clone(),
            clock.clone(),
            authorities.active(),
            IssueSettings {
                x509_svid_ttl: ttl,
                agent_ttl: ttl,
                require_exceptions: false,
            },
        );
        Self {
            committer,
            clock,
            authorities,
            issuance,
            keys,
            dir,
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now().into()
    }

    pub(crate) async fn commit(&self, change: Change) -> StepResult {
        self.committer
            .commit(Step {
                actor: Actor::server(),
                time: self.now(),
                change,
            })
            .await
    }

    pub(crate) async fn agent(&self, name: &str) -> Arc<Agent> {
        let agent = Agent {
            id: id(&format!("/spire/agent/t/{name}")),
            attestation_type: "t".into(),
            serial: Some(Serial::from_be_bytes(name.as_bytes()).unwrap()),
            expires_at: self.now().plus(Duration::from_secs(3_600)),
            renewed: None,
            selectors: mayfly_model::Selectors::default(),
            banned: false,
            can_reattest: true,
            version: String::new(),
            attested_at: self.now(),
        };
        self.commit(Change::AgentAttest {
            agent: Box::new(agent.clone()),
            token: None,
        })
        .await
        .unwrap();
        Arc::new(agent)
    }

    pub(crate) async fn entry(&self, name: &str, parent: &SpiffeId, with: impl FnOnce(&mut EntrySpec)) -> EntryId {
        let selectors = ["unix:uid:1".parse().unwrap()].into_iter().collect();
        let mut spec = EntrySpec::new(id(&format!("/{name}")), parent.clone(), selectors);
        with(&mut spec);
        let entry = Entry {
            id: EntryId::random(),
            spec,
            created_at: self.now(),
            revision_number: 0,
        };
        let deltas = self.commit(Change::EntryCreate(Box::new(entry))).await.unwrap();
        match &deltas[..] {
            [Delta::EntryPut(entry)] => entry.id.clone(),
            other => panic!("{other:?}"),
        }
    }

    /// The log, read by a second connection to the same database.
    pub(crate) fn log(&self) -> Vec<LogEntry> {
        let mut reader = self.archive().reader().unwrap();
        let entries = reader.entries(0, 10_000).unwrap();
        let entries = (0..).zip(&entries);
        entries
            .map(|(index, entry)| reader.read(index, entry).unwrap())
            .collect()
    }

    /// The log of this server; the first call begins it.
    pub(crate) async fn evidence(&self) -> Arc<Evidence> {
        Evidence::open(self.evidence_parts()).await.unwrap()
    }

    pub(crate) fn evidence_parts(&self) -> EvidenceParts {
        EvidenceParts {
            archive: self.archive(),
            committer: self.committer.clone(),
            keys: self.keys.clone(),
            clock: self.clock.clone(),
            dir: self.dir.path().join("log"),
        }
    }

    /// A backup: the files of the database as they are now.
    pub(crate) fn backup(&self) -> TempDir {
        let backup = TempDir::new().unwrap();
        copy_all(self.dir.path(), backup.path(), "server.db");
        backup
    }

    /// A server with this one's keys and files, and the database of `backup`.
    pub(crate) fn restored(&self, backup: &TempDir) -> Self {
        let dir = TempDir::new().unwrap();
        copy_all(backup.path(), dir.path(), "server.db");
        std::fs::create_dir(dir.path().join("log")).unwrap();
        copy_all(&self.dir.path().join("log"), &dir.path().join("log"), "checkpoint");
        Self::open(Arc::new(dir), self.keys.clone(), START, Box::new(|_| {}))
    }

    pub(crate) fn archive(&self) -> Archive {
        Archive::new(self.dir.path().join("server.db"))
    }

    pub(crate) fn logged(&self, kind: &str) -> Vec<LogEntry> {
        self.log().into_iter().filter(|record| record.kind == kind).collect()
    }
}

/// Copies the files of `from` whose names begin with `name`.
fn copy_all(from: &std::path::Path, to: &std::path::Path, name: &str) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        if file.file_name().to_str().unwrap().starts_with(name) {
            std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
        }
    }
}
