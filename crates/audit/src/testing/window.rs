//! Windows and SVIDs of the world.

use mayfly_model::task::{
    Acknowledged, CloseCause, Instance, Issuance, Phase, SettledBy, TaskId, TaskStep, TtlTerm, Window,
};
use mayfly_model::{Change, SvidIntent};
use mayfly_svid::{Serial, Timestamp, WindowId};
use serde_json::Value;

use super::{AGENT, World, seconds};

impl World {
    fn svid(&mut self, spiffe_id: &str, class: &str, not_after: i64, window: Option<WindowId>) -> (Issuance, Change) {
        self.serial += 1;
        let serial: Serial = self.serial.to_string().parse().unwrap();
        let key = crate::canonical::sha256(&[b"key", &self.serial.to_be_bytes()]);
        let authority_id = format!("authority-{class}");
        let not_after = Timestamp::from_unix(not_after);
        let issuance = Issuance {
            serial: serial.clone(),
            public_key_sha256: hex::encode(key),
            not_before: self.at().minus(seconds(10)),
            not_after,
            authority_id: authority_id.clone(),
            ttl_term: TtlTerm::Definition,
            revoked: None,
        };
        let intent = SvidIntent {
            spiffe_id: spiffe_id.parse().unwrap(),
            entry_id: None,
            serial,
            public_key_sha256: key,
            authority_id,
            not_after,
            window_id: window,
        };
        (issuance, Change::SvidIntents(vec![intent]))
    }

    fn signed(&mut self, issuance: &Issuance) {
        let change = Change::SvidOutcome {
            signed: vec![issuance.serial.clone()],
            failed: vec![],
        };
        self.commit("server", vec![(change, vec![])]);
    }

    /// A base SVID.
    pub(crate) fn base_svid(&mut self, spiffe_id: &str) {
        let (issuance, intent) = self.svid(spiffe_id, "base", self.now + 3_600, None);
        self.commit(AGENT, vec![(intent, vec![])]);
        self.signed(&issuance);
    }

    /// The identity that windows of a request give, and the class of its authority.
    fn identity(&self, id: &TaskId) -> (String, &'static str) {
        let request = &self.tasks[id].request;
        let root = self.definitions[&request.task.to_string()].definition.root();
        (
            format!("spiffe://td/{root}/{}{}", request.task, request.workload.path()),
            root,
        )
    }

    fn not_after(&self, id: &TaskId, closes_at: i64) -> i64 {
        let ttl = self
            .definition(&self.tasks[id].request.task.to_string())
            .limits
            .max_ttl
            .as_secs() as i64;
        (self.now + ttl).min(closes_at) - 1
    }

    pub(crate) fn open(&mut self, id: &TaskId) -> WindowId {
        let (spiffe_id, class) = self.identity(id);
        let closes_at = self.now + self.tasks[id].request.window.as_secs() as i64;
        let window_id = WindowId((u128::from(self.serial + 1) | 1 << 100).to_be_bytes());
        let not_after = self.not_after(id, closes_at);
        let (issuance, intent) = self.svid(&spiffe_id, class, not_after, Some(window_id));
        let decision = self.decision(Phase::Open, &format!("open {window_id}"));
        let window = Window::new(
            window_id,
            Instance {
                agent_id: AGENT.parse().unwrap(),
                pid: 1,
                uid: 1000,
                start_ticks: 1,
                boot_id: "b".into(),
                include_descendants: false,
            },
            spiffe_id.parse().unwrap(),
            issuance.clone(),
            self.at(),
            Timestamp::from_unix(closes_at),
        );
        let note = Self::note(&decision, "open", "allow", id, Value::Null);
        self.step(
            id,
            TaskStep::Open {
                window: Box::new(window),
                decision,
            },
            vec![note, intent],
        );
        self.signed(&issuance);
        window_id
    }

    pub(crate) fn renew(&mut self, id: &TaskId, window: WindowId) {
        let (spiffe_id, class) = self.identity(id);
        let closes_at = self.tasks[id].window(&window).unwrap().closes_at.unix();
        let not_after = self.not_after(id, closes_at);
        let (issuance, intent) = self.svid(&spiffe_id, class, not_after, Some(window));
        let decision = self.decision(Phase::Renew, &format!("renew {window} {}", self.serial));
        let note = Self::note(&decision, "renew", "allow", id, Value::Null);
        let step = TaskStep::Renew {
            window,
            issuance: issuance.clone(),
            decision,
        };
        self.step(id, step, vec![note, intent]);
        self.signed(&issuance);
    }

    pub(crate) fn close(&mut self, id: &TaskId, window: WindowId, cause: CloseCause) {
        self.step(
            id,
            TaskStep::Close {
                window,
                cause,
                detail: "done".into(),
            },
            vec![],
        );
    }

    pub(crate) fn confirm(&mut self, id: &TaskId, window: WindowId) {
        self.step(id, TaskStep::Confirm { window }, vec![]);
    }

    pub(crate) fn settle(&mut self, id: &TaskId, window: WindowId, residual: u32) {
        let said = Acknowledged {
            name: "/svc/db".into(),
            consumers: 1,
            epoch: self.epoch,
            at: self.at(),
        };
        let step = TaskStep::Settle {
            window,
            residual,
            term: SettledBy::Enforced,
            checkpoints: vec![said],
        };
        self.step(id, step, vec![]);
    }

    /// A window for `length` seconds, renewed as long as it takes, ended, and settled some seconds later.
    pub(crate) fn work(&mut self, id: &TaskId, length: i64) -> WindowId {
        let window = self.open(id);
        let ttl = self
            .definition(&self.tasks[id].request.task.to_string())
            .limits
            .max_ttl
            .as_secs() as i64;
        let end = self.now + length;
        while self.now + ttl / 2 < end {
            self.now += ttl / 2;
            self.renew(id, window);
        }
        self.now = end;
        self.close(id, window, CloseCause::Completed);
        self.confirm(id, window);
        self.now += 2;
        self.settle(id, window, 2);
        window
    }
}
