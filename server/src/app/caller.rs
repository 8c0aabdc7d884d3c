//! Who calls, and what they may call.
//!
//! A caller is what the kernel (Unix socket) or the TLS verifier says of the connection, looked up anew for each call:
//! a ban, an eviction, an expiry or the end of a federation counts from the next call on, however old the connection
//! is. There is no anonymous operator: a uid or a SPIFFE ID has a [`Role`] or it has none.
//!
//! Not here: which method is open to whom (`api`'s `SERVICES`), what a method then does with its arguments.

use std::collections::BTreeSet;
use std::sync::Arc;

use mayfly_model::{Actor, Agent, Entry, ErrorKind, is_agent_id};
use mayfly_runtime::listen::{ConnInfo, Peer};
use mayfly_svid::{Serial, SpiffeId, Timestamp, TrustDomain, X509Svid, X509SvidError};
use rustls_pki_types::CertificateDer;

use super::exceptions::{Cover, cover};
use super::standing::Operators;
use crate::commit::Snapshot;

/// Who is at the other end of a call.
#[derive(Clone, Debug)]
pub enum Caller {
    /// A process of this machine, on the local socket.
    Local {
        /// Its effective user.
        uid: u32,
        /// Its effective group; supplementary groups are not known.
        gid: u32,
        /// The process that connected, 0 if the kernel did not say.
        pid: i32,
    },
    /// An agent that has attested, is not banned, and uses an SVID that is in force.
    Agent(Arc<Agent>),
    /// Anything else with an X.509-SVID that our bundle verifies.
    Workload(SpiffeId),
    /// Nobody that we know: no client certificate.
    Anonymous,
}

/// What an operator may do. A higher one may all that a lower one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Reads.
    Viewer,
    /// Reads and changes.
    Admin,
}

/// Which callers a method is open to (as SPIRE's own table has it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Whoever can connect.
    Anyone,
    /// Attested agents.
    Agent,
    /// Operators of at least this role, on either listener.
    Operator(Role),
    /// Attested agents, and operators of at least this role.
    AgentOr(Role),
    /// Operators of at least this role, on the local socket. On TCP the method does not exist.
    Local(Role),
    /// Servers below this one: holders of an entry that says `downstream`.
    Downstream,
    /// Who may write entries, perhaps of some paths only: each item is asked about by itself.
    Register,
    /// Who may define tasks and set policies, perhaps of some teams only.
    Define,
    /// Who may agree to definitions and policies of others, perhaps of some teams only.
    Confirm,
    /// People, and operators of any role. What they may do there depends on the task.
    Person,
    /// The same for what ends authority, which no policy of operators can take from anybody.
    End,
}

/// Which users of this machine and which SPIFFE IDs are operators.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleMap {
    /// Users that may change.
    pub admin_uids: BTreeSet<u32>,
    /// Groups whose members may change; only a process's effective group counts.
    pub admin_gids: BTreeSet<u32>,
    /// Users that may read.
    pub viewer_uids: BTreeSet<u32>,
    /// Groups whose members may read.
    pub viewer_gids: BTreeSet<u32>,
    /// Remote callers that may change, besides those whose entry says `admin`.
    pub admin_ids: BTreeSet<SpiffeId>,
    /// Remote callers that may read.
    pub viewer_ids: BTreeSet<SpiffeId>,
    /// Who has which roles besides: those of some paths, and those of groups of people.
    pub operators: Vec<Operators>,
}

/// Who a connection belongs to, by [`identify`].
#[derive(Clone, Debug)]
pub struct Identified {
    /// The caller.
    pub caller: Caller,
    /// A renewed SVID was seen in use for the first time: the agent's old one can end.
    pub confirm: Option<Serial>,
}

/// Why an agent is refused. Agents act on it: they attest anew, or, when banned, give up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentRefusal {
    /// It never attested, or was evicted.
    NotAttested,
    /// It is banned.
    Banned,
    /// Its SVID is over.
    Expired,
    /// Its SVID was replaced by another one.
    NotActive,
    /// It can attest again and must, instead of renewing.
    MustReattest,
}

/// Why a caller is refused.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallerError {
    /// The method needs a caller that we know.
    #[error("this call needs a client certificate")]
    NoCertificate,
    /// The certificate is none that callers have.
    #[error("the client certificate is not an X.509-SVID")]
    NotAnSvid(#[from] X509SvidError),
    /// The SVID ended while the connection lived.
    #[error("the client's X.509-SVID expired at {not_after}")]
    SvidExpired {
        /// Its last second.
        not_after: Timestamp,
    },
    /// The SVID is of a trust domain whose bundle is gone.
    #[error("this server has no bundle of the client's trust domain `{0}`; an administrator can set it")]
    ForeignTrustDomain(TrustDomain),
    /// An agent that is not in force.
    #[error("agent `{id}` {}", .refusal.words())]
    Agent {
        /// Which one.
        id: SpiffeId,
        /// Why.
        refusal: AgentRefusal,
    },
    /// The method is for agents.
    #[error("{who} is not an attested agent")]
    NotAnAgent {
        /// Who called.
        who: String,
    },
    /// A user without a role.
    #[error(
        "uid {uid} has no role on this server; an administrator can add it to `admin_uids` or `viewer_uids` in the \
         server's configuration"
    )]
    UidWithoutRole {
        /// The user.
        uid: u32,
    },
    /// A SPIFFE ID without a role.
    #[error(
        "{id} has no role on this server; an administrator can add it to `admin_ids` or `viewer_ids` in the server's \
         configuration, or give its entry the `admin` flag"
    )]
    IdWithoutRole {
        /// The caller.
        id: SpiffeId,
    },
    /// An agent wants what only operators may.
    #[error("{id} is an agent, and agents are no operators, whatever their entries and `admin_ids` say")]
    AgentWithoutRole {
        /// The agent.
        id: SpiffeId,
    },
    /// A viewer wants to change something.
    #[error("{who} may only read; this call needs the admin role")]
    AdminOnly {
        /// Who called.
        who: String,
    },
    /// An operator without the role that it takes.
    #[error(
        "{who} may not do this{about}: it needs the role {role} or the admin role; an administrator can add it in an \
         `[[operators]]` section of the server's configuration"
    )]
    RoleMissing {
        /// Who called.
        who: String,
        /// The role.
        role: &'static str,
        /// On what, if it is about something.
        about: String,
    },
    /// A policy of the operators says no.
    #[error("{who} may not do this{about}: {reason}")]
    Forbidden {
        /// Who called.
        who: String,
        /// On what, if it is about something.
        about: String,
        /// Why not, by the policy.
        reason: String,
    },
    /// Nobody whom the configuration knows as a person.
    #[error(
        "{who} is not known as a person, and this is for people; an administrator can add a `[[people]]` section with \
         this uid or SPIFFE ID to the server's configuration"
    )]
    NotAPerson {
        /// Who called.
        who: String,
    },
    /// The method is for downstream servers.
    #[error("{who} is not a downstream server: no entry of it says `downstream`")]
    NotDownstream {
        /// Who called.
        who: String,
    },
}

/// What the certificate of a connection says. It is read once: its bytes stay the same, what they are worth does not.
struct Presented {
    id: SpiffeId,
    serial: Serial,
    not_after: Timestamp,
}

impl Presented {
    fn read(leaf: &CertificateDer<'static>) -> Result<Self, X509SvidError> {
        let svid = X509Svid::from_chain(vec![leaf.clone()])?;
        Ok(Self {
            id: svid.spiffe_id().clone(),
            serial: svid.serial().clone(),
            not_after: svid.not_after(),
        })
    }
}

/// What the certificate that the connection showed says, if it showed one.
fn presented(info: &ConnInfo) -> Option<Arc<Result<Presented, X509SvidError>>> {
    let leaf = info.peer_certificates.as_deref()?.first()?;
    Some(info.once(|| Presented::read(leaf)))
}

/// The serial number of the SVID that the connection showed, if it showed one.
pub fn presented_serial(info: &ConnInfo) -> Option<Serial> {
    presented_life(info).map(|(serial, _)| serial)
}

/// The same, and the last moment at which that SVID is valid.
pub fn presented_life(info: &ConnInfo) -> Option<(Serial, Timestamp)> {
    let presented = presented(info)?;
    let svid = presented.as_ref().as_ref().ok()?;
    Some((svid.serial.clone(), svid.not_after))
}

/// Who the connection belongs to, now.
///
/// # Errors
/// It showed a certificate that is none of an SVID, or one that is over or of a trust domain that is no longer trusted,
/// or it is an agent that is not in force.
pub fn identify(info: &ConnInfo, snapshot: &Snapshot, now: Timestamp) -> Result<Identified, CallerError> {
    let known = |caller| Ok(Identified { caller, confirm: None });
    if let Peer::Unix(peer) = &info.peer {
        return known(Caller::Local {
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid.unwrap_or(0),
        });
    }
    let Some(presented) = presented(info) else {
        return known(Caller::Anonymous);
    };
    let svid = presented.as_ref().as_ref().map_err(Clone::clone)?;
    let id = svid.id.clone();
    // An agent is one of ours; what another trust domain has below the same path is a workload to us.
    if is_agent_id(&id) && id.is_member_of(snapshot.trust_domain()) {
        return identify_agent(svid, snapshot, now);
    }
    if svid.not_after < now {
        return Err(CallerError::SvidExpired {
            not_after: svid.not_after,
        });
    }
    // TLS asked once, when the connection began; the trust may have ended since.
    let trust_domain = id.trust_domain();
    if trust_domain != *snapshot.trust_domain() && snapshot.bundle(&trust_domain).is_none() {
        return Err(CallerError::ForeignTrustDomain(trust_domain));
    }
    known(Caller::Workload(id))
}

fn identify_agent(svid: &Presented, snapshot: &Snapshot, now: Timestamp) -> Result<Identified, CallerError> {
    let refused = |refusal| CallerError::Agent {
        id: svid.id.clone(),
        refusal,
    };
    let agent = snapshot
        .agent(&svid.id)
        .ok_or_else(|| refused(AgentRefusal::NotAttested))?;
    if agent.banned {
        return Err(refused(AgentRefusal::Banned));
    }
    if svid.not_after < now {
        return Err(refused(AgentRefusal::Expired));
    }
    if !agent.uses(&svid.serial) {
        return Err(refused(AgentRefusal::NotActive));
    }
    let renewed = agent.renewed.as_ref().is_some_and(|(serial, _)| *serial == svid.serial);
    let confirm = renewed.then(|| svid.serial.clone());
    Ok(Identified {
        caller: Caller::Agent(agent.clone()),
        confirm,
    })
}

/// Whether `caller` is a server below this one.
///
/// # Errors
/// It is not.
pub(super) fn authorize_downstream(caller: &Caller, snapshot: &Snapshot, now: Timestamp) -> Result<(), CallerError> {
    match caller {
        Caller::Anonymous => Err(CallerError::NoCertificate),
        Caller::Workload(id)
            if snapshot
                .entries_of_spiffe_id(id)
                .any(|entry| entry.spec.downstream && has_power(snapshot, entry, now)) =>
        {
            Ok(())
        }
        _ => Err(CallerError::NotDownstream { who: caller.who() }),
    }
}

/// Whether the power that an entry gives counts: SVIDs of an exception that was ended live on for a while.
fn has_power(snapshot: &Snapshot, entry: &Entry, now: Timestamp) -> bool {
    !entry.is_expired(now) && !matches!(cover(snapshot, entry, now), Cover::Over { .. })
}

impl RoleMap {
    /// The role of `caller`. Agents have none, whatever the lists say: a node is not an operator.
    pub fn role_of(&self, caller: &Caller, snapshot: &Snapshot, now: Timestamp) -> Option<Role> {
        let (admin, viewer) = match caller {
            Caller::Local { uid, gid, .. } => (
                self.admin_uids.contains(uid) || self.admin_gids.contains(gid),
                self.viewer_uids.contains(uid) || self.viewer_gids.contains(gid),
            ),
            Caller::Workload(id) => {
                let by_entry = snapshot
                    .entries_of_spiffe_id(id)
                    .any(|entry| entry.spec.admin && has_power(snapshot, entry, now));
                (self.admin_ids.contains(id) || by_entry, self.viewer_ids.contains(id))
            }
            Caller::Agent(_) | Caller::Anonymous => (false, false),
        };
        match (admin, viewer) {
            (true, _) => Some(Role::Admin),
            (false, true) => Some(Role::Viewer),
            (false, false) => None,
        }
    }
}

impl Caller {
    /// Who it is in one word, as records have it: `uid:1000`, a SPIFFE ID, or `anonymous`.
    pub fn who(&self) -> String {
        match self {
            Self::Local { uid, .. } => format!("uid:{uid}"),
            Self::Agent(agent) => agent.id.to_string(),
            Self::Workload(id) => id.to_string(),
            Self::Anonymous => "anonymous".into(),
        }
    }

    /// The record of this caller: who, from where, and the reason that it gave.
    pub fn actor(&self, peer: &Peer, reason: String) -> Actor {
        let origin = match (self, peer) {
            (Self::Local { pid, .. }, _) => format!("pid:{pid}"),
            (_, peer) => peer.to_string(),
        };
        Actor {
            who: self.who(),
            origin,
            reason,
        }
    }
}

impl AgentRefusal {
    fn words(self) -> &'static str {
        match self {
            Self::NotAttested => "is not attested",
            Self::Banned => "is banned",
            Self::Expired => "uses an expired SVID",
            Self::NotActive => "uses an SVID that is no longer the active one",
            Self::MustReattest => "must attest again instead of renewing",
        }
    }
}

impl CallerError {
    /// What it means for the caller.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoCertificate | Self::NotAnSvid(_) | Self::SvidExpired { .. } | Self::ForeignTrustDomain(_) => {
                ErrorKind::Unauthenticated
            }
            _ => ErrorKind::PermissionDenied,
        }
    }

    /// Why an agent is refused, if that is what this is.
    pub fn refusal(&self) -> Option<AgentRefusal> {
        match self {
            Self::Agent { refusal, .. } => Some(*refusal),
            _ => None,
        }
    }
}
