//! Where explorations begin.

use std::collections::BTreeSet;
use std::time::Duration;

use mayfly_model::task::{
    ActorClass, ApprovalRule, CloseCause, DefinitionHash, Grant, Needs, Outcome, Task, TaskRequest, Terms,
};
use mayfly_model::{EntryId, Selectors};

use crate::world::{Event, at, decision, id};

/// A request, and what has come of it when the exploration begins.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// One step of time, in seconds.
    pub(crate) unit: i64,
    /// Two people have to agree.
    pub(crate) approvals: bool,
    /// Windows that the grant opens.
    pub(crate) uses: u32,
    /// Signs of life are due each unit and a half.
    pub(crate) heartbeat: bool,
    /// Consumers are declared.
    pub(crate) declared: bool,
    /// What has happened.
    pub(crate) begin: &'static [Event],
}

const MINUTE: i64 = 60;
const OPENED: &[Event] = &[Event::Open(0, 1), Event::Sign(0), Event::Refresh(1)];
const CLOSED: &[Event] = &[
    Event::Open(0, 1),
    Event::Sign(0),
    Event::Close(0, 0, CloseCause::Revoked),
    Event::Confirm(0, 0),
    Event::Refresh(1),
];

pub(crate) static SCENARIOS: [Scenario; 7] = [
    Scenario {
        name: "policy alone decides",
        unit: MINUTE,
        approvals: false,
        uses: 1,
        heartbeat: false,
        declared: false,
        begin: &[],
    },
    Scenario {
        name: "two people have to agree",
        unit: MINUTE,
        approvals: true,
        uses: 1,
        heartbeat: false,
        declared: false,
        begin: &[],
    },
    Scenario {
        name: "two windows",
        unit: MINUTE,
        approvals: false,
        uses: 2,
        heartbeat: false,
        declared: false,
        begin: OPENED,
    },
    Scenario {
        name: "signs of life",
        unit: MINUTE,
        approvals: false,
        uses: 1,
        heartbeat: true,
        declared: false,
        begin: OPENED,
    },
    Scenario {
        name: "consumers enforce it",
        unit: MINUTE,
        approvals: false,
        uses: 1,
        heartbeat: false,
        declared: true,
        begin: OPENED,
    },
    Scenario {
        name: "consumers enforce an end, or people accept that they do not",
        unit: MINUTE,
        approvals: false,
        uses: 1,
        heartbeat: false,
        declared: true,
        begin: CLOSED,
    },
    // Steps that are longer than what clocks may be wrong by: SVIDs are forgotten.
    Scenario {
        name: "long leases",
        unit: 10 * MINUTE,
        approvals: false,
        uses: 1,
        heartbeat: true,
        declared: true,
        begin: OPENED,
    },
];

impl Scenario {
    /// How long a window is open.
    pub(crate) fn window(&self) -> Duration {
        self.units(3)
    }

    /// With its extensions.
    pub(crate) fn longest(&self) -> Duration {
        self.units(4)
    }

    /// How long an SVID lives: it ends between two steps of the time, so that somewhat more than its life matters.
    pub(crate) fn lease(&self) -> Duration {
        self.units(4) / 3
    }

    /// Time ends here.
    pub(crate) fn end(&self) -> i64 {
        5 * self.unit
    }

    pub(crate) fn units(&self, count: u32) -> Duration {
        Duration::from_secs(self.unit.unsigned_abs()) * count
    }

    /// The request, decided for the first time.
    pub(crate) fn task(&self) -> Task {
        let request = TaskRequest {
            task: "pay/migrate".parse().unwrap(),
            definition: DefinitionHash([0; 32]),
            workload: id("/ns/pay/migrator"),
            entry_id: "e".parse::<EntryId>().unwrap(),
            agent_id: id("/spire/agent/t/a"),
            actor: ActorClass::Workload,
            person: Some("requester".parse().unwrap()),
            owner: Some("owner".parse().unwrap()),
            selectors: Selectors::default(),
            reason: String::new(),
            ticket: None,
            window: self.window(),
            scopes: BTreeSet::new(),
            parameters: [].into(),
            idempotency_key: String::new(),
            requested_at: at(0),
        };
        let rule = ApprovalRule {
            count: 2,
            groups: BTreeSet::from(["leads".parse().unwrap()]),
            distinct_groups: None,
            valid_for: self.units(2),
        };
        let checkpoints = if self.declared {
            &["/svc/db", "/svc/queue"][..]
        } else {
            &[]
        };
        let terms = Terms {
            needs: Needs {
                approvals: if self.approvals { vec![rule] } else { vec![] },
                ticket: false,
            },
            grant: Grant {
                open_by: at(0),
                uses_left: self.uses,
                window_max: self.longest(),
                concurrency: self.uses,
                settle_before_next: false,
                heartbeat: self.heartbeat.then(|| self.units(3) / 2),
                review: false,
                checkpoints: checkpoints.iter().map(ToString::to_string).collect(),
            },
            open_within: self.units(2),
            wait_until: at(3 * self.unit),
        };
        let outcome = if self.approvals {
            Outcome::WantApproval
        } else {
            Outcome::Permit
        };
        let task_id = "0190a000-0000-7000-8000-000000000000".parse().unwrap();
        Task::submitted(task_id, request, decision(true), outcome, terms, at(0)).unwrap()
    }
}
