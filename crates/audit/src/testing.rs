//! A server as its log shows it: the model's own types and records, on a clock that the test moves.

mod window;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use mayfly_model::log::Envelope;
use mayfly_model::log::private::{Commitment, Hide, SALT_LEN};
use mayfly_model::task::{
    ActorClass, Approval, ApprovalRule, Decision, Definition, DefinitionVersion, Grant, Needs, Outcome, Phase,
    Revocation, StepContext, Task, TaskClass, TaskId, TaskRequest, TaskStep, Terms,
};
use mayfly_model::{
    Actor, Agent, Authority, AuthorityState, Change, Delta, Entry as RegistrationEntry, EntryId, EntrySpec, KeyClass,
    Revision, Selectors,
};
use mayfly_svid::{Timestamp, WindowId};
use serde_json::{Value, json};

use crate::{Details, Entry, Replay};

/// The log of a server that does what it should, and what a test adds to it.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) now: i64,
    pub(crate) log: Vec<Vec<u8>>,
    pub(crate) details: Details,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) policy: String,
    definitions: BTreeMap<String, Arc<DefinitionVersion>>,
    revision: u64,
    epoch: u64,
    serial: u64,
    salts: BTreeMap<String, [u8; SALT_LEN]>,
}

pub(crate) const AGENT: &str = "spiffe://td/spire/agent/join_token/a";
/// 2026-11-01, a Sunday.
pub(crate) const START: i64 = 1_793_491_200;

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

impl World {
    pub(crate) fn new() -> Self {
        let mut world = Self {
            now: START,
            log: vec![],
            details: Details::default(),
            tasks: BTreeMap::new(),
            policy: "aa".repeat(32),
            definitions: BTreeMap::new(),
            revision: 0,
            epoch: 0,
            serial: 0,
            salts: BTreeMap::new(),
        };
        for class in KeyClass::ALL {
            let authority = Authority {
                id: format!("authority-{}", class.word()),
                class,
                state: AuthorityState::Prepared,
                cert_der: vec![1, 2, 3].into(),
                key_id: "k".into(),
                not_before: Timestamp::from_unix(START),
                not_after: Timestamp::from_unix(START + 400 * 86_400),
            };
            let id = authority.id.clone();
            world.commit("server", vec![(Change::AuthorityPrepare(Box::new(authority)), vec![])]);
            world.commit("server", vec![(Change::AuthorityActivate(id), vec![])]);
        }
        let agent = Agent {
            id: AGENT.parse().unwrap(),
            attestation_type: "join_token".into(),
            serial: None,
            expires_at: Timestamp::from_unix(START + 3_600),
            renewed: None,
            selectors: Selectors::default(),
            banned: false,
            can_reattest: false,
            version: String::new(),
            attested_at: Timestamp::from_unix(START),
        };
        let attest = Change::AgentAttest {
            agent: Box::new(agent),
            token: None,
        };
        world.commit(AGENT, vec![(attest, vec![])]);
        world
    }

    pub(crate) fn at(&self) -> Timestamp {
        Timestamp::from_unix(self.now)
    }

    /// One commit of changes with what they caused.
    pub(crate) fn commit(&mut self, who: &str, changes: Vec<(Change, Vec<Delta>)>) {
        self.revision += 1;
        let actor = Actor {
            who: who.into(),
            origin: "10.0.0.1:4711".into(),
            reason: String::new(),
        };
        for (change, deltas) in changes {
            for record in change.records(&deltas) {
                let (salts, details) = (&mut self.salts, &mut self.details);
                let mut keep = |value: &str| -> Result<Commitment, Infallible> {
                    let count = salts.len() as u128;
                    let salt = *salts.entry(value.to_owned()).or_insert_with(|| count.to_be_bytes());
                    let commitment = Commitment::new(&salt, value);
                    let known = serde_json::from_str(value).unwrap();
                    details.add(&commitment.to_string(), &salt, known).unwrap();
                    Ok(commitment)
                };
                let now = Timestamp::from_unix(self.now);
                let mut hide = Hide::new(&mut keep);
                let Ok(envelope) = Envelope::new(Revision(self.revision), now, &actor, &mut hide);
                let Ok(text) = envelope.seal(record, &mut hide);
                self.log.push(text.into_bytes());
            }
        }
    }

    /// An entry that the server's code has no words for yet, or never will.
    pub(crate) fn raw(&mut self, kind: &str, subject: &str, body: Value) {
        self.revision += 1;
        self.raw_in_commit(kind, subject, body);
    }

    /// The same in the commit of the entry before.
    pub(crate) fn raw_in_commit(&mut self, kind: &str, subject: &str, body: Value) {
        let entry = Entry {
            index: 0,
            revision: self.revision,
            kind: kind.into(),
            who: json!("server"),
            origin: json!(""),
            reason: json!(""),
            subject: subject.into(),
            time: self.now,
            body,
        };
        self.log.push(entry.to_bytes());
    }

    pub(crate) fn define(&mut self, toml: &str) {
        let definition = Definition::parse(toml).unwrap();
        let name = definition.name.to_string();
        let version = DefinitionVersion {
            hash: definition.hash(),
            version: self.definitions.get(&name).map_or(1, |before| before.version + 1),
            definition: definition.clone(),
            retired: false,
            author: "olga".into(),
            defined_at: self.at(),
        };
        let version = Arc::new(version);
        self.definitions.insert(name, version.clone());
        let change = Change::DefinitionPut {
            definition: Box::new(definition),
            author: "olga".into(),
        };
        self.commit("uid:0", vec![(change, vec![Delta::DefinitionPut(version)])]);
    }

    /// An entry for an identity, perhaps with privileges; its ID.
    pub(crate) fn register(&mut self, spiffe_id: &str, admin: bool) -> EntryId {
        let selectors: Selectors = ["unix:uid:1000".parse().unwrap()].into_iter().collect();
        let mut spec = EntrySpec::new(spiffe_id.parse().unwrap(), AGENT.parse().unwrap(), selectors);
        spec.admin = admin;
        let id: EntryId = format!("entry-{}", self.log.len()).parse().unwrap();
        let entry = RegistrationEntry {
            id: id.clone(),
            spec,
            created_at: self.at(),
            revision_number: 0,
        };
        let change = Change::EntryCreate(Box::new(entry.clone()));
        self.commit("uid:0", vec![(change, vec![Delta::EntryPut(Arc::new(entry))])]);
        id
    }

    pub(crate) fn definition(&self, task: &str) -> &Definition {
        &self.definitions[task].definition
    }

    pub(super) fn decision(&self, phase: Phase, inputs: &str) -> Decision {
        Decision {
            phase,
            allowed: true,
            reasons: vec![],
            determining: vec!["builtin".into()],
            policy_digest: self.policy.clone(),
            inputs_digest: hex::encode(crate::canonical::sha256(&[inputs.as_bytes()])),
            at: self.at(),
        }
    }

    /// The record of a decision, as the server's policy writes it.
    pub(crate) fn note(decision: &Decision, phase: &str, verdict: &str, id: &TaskId, person: Value) -> Change {
        let body = json!({
            "facts": { "phase": phase, "person": person, "definition": "hash" },
            "decision": {
                "verdict": verdict,
                "reasons": [],
                "policy_digest": decision.policy_digest,
                "inputs_digest": decision.inputs_digest,
            },
        });
        Change::Note {
            kind: "policy.decided",
            subject: id.to_string(),
            body,
        }
    }

    /// A request of a workload, by a person perhaps; what it needs is what its definition says.
    pub(crate) fn request(&mut self, task: &str, workload: &str, person: Option<&str>, reason: &str) -> TaskId {
        let version = self.definitions[task].clone();
        let spec = &version.definition;
        let needs = Needs {
            approvals: if spec.approval.count > 0 {
                vec![spec.approval.clone()]
            } else {
                vec![]
            },
            ticket: false,
        };
        let request = TaskRequest {
            task: task.parse().unwrap(),
            definition: version.hash,
            workload: workload.parse().unwrap(),
            entry_id: "e".parse().unwrap(),
            agent_id: AGENT.parse().unwrap(),
            actor: ActorClass::Workload,
            person: person.map(|person| person.parse().unwrap()),
            owner: None,
            selectors: ["unix:uid:1000".parse().unwrap()].into_iter().collect(),
            reason: reason.into(),
            ticket: None,
            window: spec.limits.max_window,
            scopes: spec.scopes.clone(),
            parameters: BTreeMap::new(),
            idempotency_key: format!("{}", self.log.len()),
            requested_at: self.at(),
        };
        let grant = Grant {
            open_by: self.at().plus(seconds(3_600)),
            uses_left: spec.limits.max_uses,
            window_max: spec.limits.max_window,
            concurrency: spec.limits.concurrency,
            settle_before_next: false,
            heartbeat: None,
            review: spec.class == TaskClass::Breakglass,
            checkpoints: ["/svc/db".to_owned()].into(),
        };
        let terms = Terms {
            needs,
            grant,
            open_within: seconds(3_600),
            wait_until: self.at().plus(seconds(86_400)),
        };
        let id: TaskId = format!("00000000-0000-7000-8000-{:012x}", self.log.len())
            .parse()
            .unwrap();
        let decision = self.decision(Phase::Request, &format!("request {id}"));
        let (outcome, verdict) = match terms.needs.approvals.is_empty() {
            true => (Outcome::Permit, "allow"),
            false => (Outcome::WantApproval, "wait"),
        };
        let task = Task::submitted(id.clone(), request, decision.clone(), outcome, terms, self.at()).unwrap();
        let person = person.map_or(
            Value::Null,
            |person| json!({ "id": person, "groups": [format!("{person}s")] }),
        );
        let note = Self::note(&decision, "request", verdict, &id, person);
        self.tasks.insert(id.clone(), task.clone());
        self.commit(
            AGENT,
            vec![(Change::TaskSubmit(Box::new(task)), vec![]), (note, vec![])],
        );
        id
    }

    /// Does a step by the model's own rules, with further changes in the same commit.
    pub(crate) fn step(&mut self, id: &TaskId, step: TaskStep, also: Vec<Change>) {
        let context = StepContext {
            now: self.at(),
            next_epoch: self.epoch + 1,
        };
        let after = self.tasks[id].apply(&step, context).unwrap();
        self.tasks.insert(id.clone(), after.clone());
        let revokes = matches!(
            step,
            TaskStep::Close { .. } | TaskStep::Suspend { .. } | TaskStep::RevokeSvid { .. }
        );
        let mut deltas = match revokes {
            true => {
                self.epoch += 1;
                vec![Delta::Revoked(Arc::new(Revocation {
                    epoch: self.epoch,
                    window_id: WindowId([0; 16]),
                    serials: vec![],
                    whole_window: true,
                    authority_ids: vec![],
                    not_after: self.at(),
                }))]
            }
            false => vec![],
        };
        deltas.push(Delta::TaskPut(Arc::new(after)));
        let change = Change::TaskStep {
            id: id.clone(),
            step: Box::new(step),
        };
        let also = also.into_iter().map(|change| (change, vec![]));
        self.commit(AGENT, std::iter::once((change, deltas)).chain(also).collect());
    }

    pub(crate) fn approve(&mut self, id: &TaskId, person: &str) {
        let rule = self.tasks[id]
            .needs
            .approvals
            .first()
            .cloned()
            .unwrap_or_else(ApprovalRule::default);
        let decision = self.decision(Phase::Request, &format!("arm {id} {person}"));
        let step = TaskStep::Approve {
            approval: Approval {
                person: person.parse().unwrap(),
                groups: rule.groups.clone(),
                authenticated_as: format!("uid:{}", person.len()),
                reason: "looks right".into(),
                at: self.at(),
                valid_until: self.at().plus(rule.valid_for),
            },
            digest: self.tasks[id].digest,
            decision: decision.clone(),
        };
        self.step(id, step, vec![Self::note(&decision, "arm", "allow", id, Value::Null)]);
    }

    pub(crate) fn refuse(&mut self, id: &TaskId, person: &str) {
        self.step(
            id,
            TaskStep::Refuse {
                by: person.parse().unwrap(),
                reason: "not now".into(),
            },
            vec![],
        );
    }

    /// The entries, read from their bytes.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let entries = self.log.iter().enumerate();
        entries
            .map(|(index, bytes)| Entry::parse(index as u64, bytes).unwrap())
            .collect()
    }

    /// The log replayed, by somebody who knows no names.
    pub(crate) fn replay(&self) -> Replay {
        replay(&self.entries())
    }
}

pub(crate) fn replay(entries: &[Entry]) -> Replay {
    let mut replay = Replay::with_history(Details::default());
    entries.iter().for_each(|entry| replay.take(entry));
    replay.finish();
    replay
}

/// A definition without approvals.
pub(crate) const UNATTENDED: &str = "\
    name = \"pay/db-migrate\"\nowner = \"olga\"\nscopes = [\"schema\"]\n\
    [allowed]\nworkloads = [\"/ns/pay/*\"]\n\
    [limits]\nmax_window = \"15m\"\nmax_ttl = \"5m\"\n";

/// One that needs a person.
pub(crate) const APPROVED: &str = "\
    name = \"pay/export\"\nowner = \"olga\"\nsensitivity = 2\n\
    [allowed]\nworkloads = [\"/ns/pay/*\"]\n\
    [limits]\nmax_window = \"30m\"\nmax_ttl = \"10m\"\n\
    [approval]\ncount = 1\ngroups = [\"leads\"]\n";

pub(crate) const WORKLOAD: &str = "spiffe://td/ns/pay/migrator";
