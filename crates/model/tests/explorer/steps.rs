//! The steps that servers take, by what they know.

use std::time::Duration;

use mayfly_model::task::{Approval, Instance, Issuance, TaskStep, TtlTerm, Window};
use mayfly_svid::{Serial, Timestamp, WindowId};

use crate::world::{Event, PEOPLE, World, decision, id};

impl World {
    /// The step that a server takes for an event, by what it knows.
    pub(crate) fn step_of(&self, event: Event) -> (usize, TaskStep) {
        let window = |server: usize, number: usize| self.window_of(server, number).id;
        match event {
            Event::Approve(server, person) => {
                let now = self.clock(server);
                let approval = Approval {
                    person: PEOPLE[person].parse().unwrap(),
                    groups: ["leads".parse().unwrap()].into(),
                    authenticated_as: String::new(),
                    reason: String::new(),
                    at: now,
                    valid_until: now.plus(self.scenario.units(2)),
                };
                let step = TaskStep::Approve {
                    approval,
                    digest: self.servers[server].seen.digest,
                    decision: decision(self.policy_allows),
                };
                (server, step)
            }
            Event::Expire(server) => (server, TaskStep::Expire),
            Event::Extend(server, number) => {
                let window = self.window_of(server, number);
                // The first one asks for what is allowed, the second one for more.
                let more = self.scenario.units(u32::from(server > 0));
                let step = TaskStep::Extend {
                    window: window.id,
                    closes_at: window.opened_at.plus(self.scenario.longest() + more),
                    decision: decision(self.policy_allows),
                };
                (server, step)
            }
            Event::Heartbeat(server, number) => {
                let window = window(server, number);
                (server, TaskStep::Heartbeat { window })
            }
            Event::Suspend(server, number) => {
                let (window, reason) = (window(server, number), String::new());
                (server, TaskStep::Suspend { window, reason })
            }
            Event::Resume(server, number) => {
                let (window, decision) = (window(server, number), decision(self.policy_allows));
                (server, TaskStep::Resume { window, decision })
            }
            Event::RevokeSvid(server, number) => {
                let held = self.window_of(server, number);
                let newest = held.issuances.last().expect("only proposed where there is one");
                let (window, serial) = (held.id, newest.serial.clone());
                (server, TaskStep::RevokeSvid { window, serial })
            }
            Event::Close(server, number, cause) => {
                let (window, detail) = (window(server, number), String::new());
                (server, TaskStep::Close { window, cause, detail })
            }
            Event::Confirm(server, number) => {
                let window = window(server, number);
                (server, TaskStep::Confirm { window })
            }
            Event::Settle(server, number, term) => {
                let (window, checkpoints) = (window(server, number), self.consumers.said(server));
                let step = TaskStep::Settle {
                    window,
                    residual: 0,
                    term,
                    checkpoints,
                };
                (server, step)
            }
            Event::GiveUp(server, number) => {
                let (window, detail) = (window(server, number), String::new());
                let checkpoints = self.consumers.said(server);
                let step = TaskStep::GiveUp {
                    window,
                    detail,
                    checkpoints,
                };
                (server, step)
            }
            other => unreachable!("{other:?} is no step of the task, or has an arm of its own"),
        }
    }

    pub(crate) fn open(&mut self, server: usize, key: u8) {
        let now = self.clock(server);
        let closes_at = now.plus(self.scenario.window());
        let issuance = self.lease(server, key, closes_at);
        // Each server makes windows of its own.
        let number = u8::try_from(server * 8 + self.store.task.windows.len()).unwrap();
        let window_id = WindowId([number; 16]);
        let window = Window::new(
            window_id,
            Instance {
                agent_id: id("/spire/agent/t/a"),
                pid: 1,
                uid: 1,
                start_ticks: 1,
                boot_id: String::new(),
                include_descendants: false,
            },
            id("/task/pay/migrate/ns/pay/migrator"),
            issuance.clone(),
            now,
            closes_at,
        );
        let step = TaskStep::Open {
            window: Box::new(window),
            decision: decision(self.policy_allows),
        };
        self.commit_lease(server, &step, window_id, issuance, key);
    }

    pub(crate) fn renew(&mut self, server: usize, number: usize, key: u8) {
        let held = self.window_of(server, number);
        let (window, issuance) = (held.id, self.lease(server, key, held.closes_at));
        let step = TaskStep::Renew {
            window,
            issuance: issuance.clone(),
            decision: decision(self.policy_allows),
        };
        self.commit_lease(server, &step, window, issuance, key);
    }

    /// The next SVID. The second server forgets that it must not outlive its window: that is for the guard.
    fn lease(&self, server: usize, key: u8, closes_at: Timestamp) -> Issuance {
        let now = self.clock(server);
        let mut end = now.plus(self.scenario.lease());
        if server == 0 {
            end = end.min(closes_at);
        }
        let serial = u8::try_from(self.store.logged.len() + 1).unwrap();
        Issuance {
            serial: Serial::from_be_bytes(&[serial]).unwrap(),
            public_key_sha256: key.to_string(),
            not_before: now,
            not_after: end.minus(Duration::from_secs(1)),
            authority_id: String::new(),
            ttl_term: TtlTerm::Definition,
            revoked: None,
        }
    }
}
