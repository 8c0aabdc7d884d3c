//! Definitions, requests and windows for the fake to know.

use mayfly_proto::mayfly::task::{Acknowledged, Approval, Decision, Svid, Task, Window};

use super::{AGENT, NOW};

/// A definition that needs two approvals.
pub(crate) const EXPORT: &str = r#"# At night.
name = "pay/export"
owner = "carol"
description = "Takes the ledger out, for the auditors."
sensitivity = 2
scopes = ["ledger:read"]

[allowed]
workloads = ["/ns/pay/export"]

[limits]
max_window = "15m"

[approval]
count = 2
groups = ["pay/leads"]
"#;

/// The workload that asks for it.
pub(crate) const EXPORTER: &str = "spiffe://example.org/ns/pay/export";

/// A request that waits for two people.
pub(crate) fn request(id: &str, definition_hash: &str) -> Task {
    Task {
        request_id: id.into(),
        digest: "9c0e51d2b7aa44f09c0e51d2b7aa44f09c0e51d2b7aa44f09c0e51d2b7aa44f0".into(),
        task: "pay/export".into(),
        definition_hash: definition_hash.into(),
        stage: "awaiting_approval".into(),
        workload: EXPORTER.into(),
        agent_id: AGENT.into(),
        person: "dave".into(),
        reason: "quarterly audit".into(),
        ticket: "CHG-81".into(),
        scopes: vec!["ledger:read".into()],
        parameters: [("quarter".to_owned(), "2025Q4".to_owned())].into(),
        window_seconds: 600,
        requested_at: NOW - 300,
        expires_at: NOW + 86_100,
        approvals_needed: 2,
        approver_groups: vec!["pay/leads".into()],
        approvals: vec![],
        decisions: vec![Decision {
            phase: "request".into(),
            allowed: false,
            reasons: vec!["2 approvals are needed".into()],
            determining: vec!["export.cedar:permit-1".into()],
            policy_digest: "ab".repeat(32),
            inputs_digest: "cd".repeat(32),
            at: NOW - 300,
        }],
        windows: vec![],
        uses_left: 0,
        message: String::new(),
        review_due: false,
    }
}

/// The same with a window that is open for five minutes more.
pub(crate) fn open(id: &str, definition_hash: &str) -> Task {
    let approval = |person: &str| Approval {
        person: person.into(),
        groups: vec!["pay/leads".into()],
        authenticated_as: "uid:1000".into(),
        reason: "as planned".into(),
        at: NOW - 400,
        valid_until: NOW + 3200,
    };
    Task {
        stage: "consumed".into(),
        approvals: vec![approval("alice"), approval("erin")],
        windows: vec![window(&format!("w-{id}"))],
        ..request(id, definition_hash)
    }
}

/// The same, ended and settled.
pub(crate) fn done(id: &str, definition_hash: &str) -> Task {
    let mut task = open(id, definition_hash);
    task.requested_at = NOW - 200_000;
    let window = &mut task.windows[0];
    window.stage = "settled".into();
    window.cause = "completed".into();
    window.detail = "exit code 0".into();
    window.opened_at = NOW - 200_000;
    window.closed_at = NOW - 199_700;
    window.settled_at = NOW - 199_699;
    window.residual_seconds = 1;
    window.settled_by = "enforced".into();
    window.epoch = 812;
    window.acknowledged = vec![Acknowledged {
        checkpoint: "/svc/pay-db".into(),
        consumers: 2,
        epoch: 815,
        at: NOW - 199_699,
    }];
    window.live_svids.clear();
    task
}

fn window(id: &str) -> Window {
    Window {
        id: id.into(),
        stage: "open".into(),
        spiffe_id: "spiffe://example.org/task/pay/export/ns/pay/export".into(),
        agent_id: AGENT.into(),
        pid: 4711,
        opened_at: NOW - 300,
        closes_at: NOW + 300,
        epoch: 0,
        svids: 2,
        live_svids: vec![Svid {
            serial: "1234567890".into(),
            not_before: NOW - 30,
            not_after: NOW + 240,
            ttl_term: "attestation.fresh_until".into(),
            authority_id: "5e".repeat(20),
        }],
        ..Window::default()
    }
}
