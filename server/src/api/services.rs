//! Every method that there is, and who may call it where.

use crate::app::caller::{Access, Role};

/// A service, and who may call its methods.
#[derive(Debug)]
pub struct Service {
    /// With its package.
    pub name: &'static str,
    /// By name; what is not here does not exist for callers.
    pub methods: &'static [(&'static str, Access)],
}

pub(super) const READ: Access = Access::Operator(Role::Viewer);
const CHANGE: Access = Access::Operator(Role::Admin);

/// Every method that there is. A service is added here and in [`routes`](super::routes); a test finds methods without a row.
pub const SERVICES: &[Service] = &[
    Service {
        name: "spire.api.server.agent.v1.Agent",
        methods: &[
            ("CountAgents", READ),
            ("ListAgents", READ),
            ("GetAgent", READ),
            ("DeleteAgent", CHANGE),
            ("BanAgent", CHANGE),
            ("AttestAgent", Access::Anyone),
            ("RenewAgent", Access::Agent),
            ("CreateJoinToken", CHANGE),
            ("PostStatus", Access::Agent),
        ],
    },
    Service {
        name: "spire.api.server.bundle.v1.Bundle",
        methods: &[
            ("CountBundles", READ),
            ("GetBundle", Access::Anyone),
            ("AppendBundle", CHANGE),
            ("PublishJWTAuthority", Access::Downstream),
            ("PublishWITAuthority", Access::Downstream),
            ("ListFederatedBundles", READ),
            ("GetFederatedBundle", Access::AgentOr(Role::Viewer)),
            ("BatchCreateFederatedBundle", CHANGE),
            ("BatchUpdateFederatedBundle", CHANGE),
            ("BatchSetFederatedBundle", CHANGE),
            ("BatchDeleteFederatedBundle", CHANGE),
        ],
    },
    Service {
        name: "spire.api.server.debug.v1.Debug",
        methods: &[("GetInfo", Access::Local(Role::Viewer))],
    },
    Service {
        name: "spire.api.server.entry.v1.Entry",
        methods: &[
            ("CountEntries", READ),
            ("ListEntries", READ),
            ("GetEntry", READ),
            ("BatchCreateEntry", Access::Register),
            ("BatchUpdateEntry", Access::Register),
            ("BatchDeleteEntry", Access::Register),
            ("GetAuthorizedEntries", Access::Agent),
            ("SyncAuthorizedEntries", Access::Agent),
        ],
    },
    Service {
        name: "spire.api.server.logger.v1.Logger",
        methods: &[
            ("GetLogger", Access::Local(Role::Viewer)),
            ("SetLogLevel", Access::Local(Role::Admin)),
            ("ResetLogLevel", Access::Local(Role::Admin)),
        ],
    },
    Service {
        name: "spire.api.server.svid.v1.SVID",
        methods: &[
            ("MintX509SVID", CHANGE),
            ("MintJWTSVID", CHANGE),
            ("MintWITSVID", CHANGE),
            ("BatchNewX509SVID", Access::Agent),
            ("NewJWTSVID", Access::Agent),
            ("BatchNewWITSVID", Access::Agent),
            ("NewDownstreamX509CA", Access::Downstream),
        ],
    },
    Service {
        name: "mayfly.agent.v1.Watch",
        methods: &[("Watch", Access::Agent)],
    },
    Service {
        name: "mayfly.agent.v1.Tasks",
        methods: &[
            ("Request", Access::Agent),
            ("Open", Access::Agent),
            ("Renew", Access::Agent),
            ("Extend", Access::Agent),
            ("Heartbeat", Access::Agent),
            ("Close", Access::Agent),
        ],
    },
    Service {
        name: "mayfly.task.v1.Tasks",
        methods: &[
            ("List", Access::Person),
            ("Get", Access::Person),
            ("Approve", Access::Person),
            ("Deny", Access::Person),
            ("Cancel", Access::End),
            ("Suspend", Access::End),
            ("Resume", Access::Person),
            ("Review", Access::Person),
            ("AcceptRisk", Access::Person),
            ("Revoke", Access::End),
            ("GetRevocationLists", Access::Person),
        ],
    },
    Service {
        name: "mayfly.task.v1.Definitions",
        methods: &[
            ("Define", Access::Define),
            ("List", Access::Person),
            ("Get", Access::Person),
            ("Retire", Access::Define),
        ],
    },
    Service {
        name: "mayfly.task.v1.Policy",
        methods: &[
            ("Get", Access::Person),
            ("Set", Access::Define),
            ("Check", Access::Person),
            ("WhatIf", READ),
            ("Explain", Access::Person),
        ],
    },
    Service {
        name: "mayfly.task.v1.Proposals",
        methods: &[
            ("List", Access::Person),
            ("Approve", Access::Confirm),
            ("Reject", Access::Confirm),
        ],
    },
    Service {
        name: "mayfly.task.v1.Exceptions",
        methods: &[
            ("Grant", Access::Define),
            ("List", Access::Person),
            ("Renew", Access::Define),
            ("End", Access::Define),
        ],
    },
    Service {
        name: "mayfly.task.v1.Debt",
        methods: &[("Get", READ), ("Lint", READ)],
    },
    Service {
        name: "mayfly.audit.v1.Audit",
        methods: &[
            ("GetCheckpoint", READ),
            ("Search", READ),
            ("Export", READ),
            ("Prove", READ),
            ("Report", READ),
            ("Erase", CHANGE),
            ("RotateKey", CHANGE),
            ("RecordProbe", CHANGE),
        ],
    },
    Service {
        name: "grpc.health.v1.Health",
        methods: &[("Check", Access::Anyone), ("Watch", Access::Anyone)],
    },
    Service {
        name: "grpc.reflection.v1.ServerReflection",
        methods: &[("ServerReflectionInfo", Access::Local(Role::Viewer))],
    },
    Service {
        name: "grpc.reflection.v1alpha.ServerReflection",
        methods: &[("ServerReflectionInfo", Access::Local(Role::Viewer))],
    },
];

/// Which listener calls come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// TCP with TLS: agents and remote operators.
    Remote,
    /// The Unix socket: operators on this machine.
    Local,
}

impl Face {
    /// Whether methods with `access` exist here.
    pub(super) fn has(self, access: Access) -> bool {
        self == Self::Local || !matches!(access, Access::Local(_))
    }
}

impl Service {
    /// Whether there is a method of it on `face`.
    pub(super) fn is_on(&self, face: Face) -> bool {
        self.methods.iter().any(|(_, access)| face.has(*access))
    }
}
