//! The agent on this machine: socket, health, the SVID it gives to the caller, and whether that fits the server's bundle.

use mayfly_proto::grpc::health::HealthCheckRequest;
use mayfly_proto::grpc::health::health_check_response::ServingStatus;
use mayfly_svid::verify::{VerifyError, verify_x509_svid};
use mayfly_svid::{Bundle, Timestamp, TrustAnchors};
use tonic::{Code, Request};

use super::Findings;
use crate::errors::{CliError, Exit, me};
use crate::workload::{Identity, Workload};
use crate::{Globals, values};

/// Adds what is to be said of the agent. `server_bundle` is what the server trusts, if it could be asked.
pub(super) async fn examine(
    globals: &Globals,
    server_bundle: Option<&Bundle>,
    now: Timestamp,
    findings: &mut Findings,
) {
    let workload = match Workload::connect(globals.agent_socket.as_deref()).await {
        Ok(workload) => workload,
        Err(error) => return findings.failure("AGENT_UNREACHABLE", &error),
    };
    findings.ok(
        "AGENT_REACHABLE",
        format!("the agent listens at {}", workload.address()),
    );
    health(&workload, globals, findings).await;
    match workload.fetch(globals.timeout).await {
        Ok(identities) => {
            for identity in &identities {
                look_at(identity, server_bundle, now, findings);
            }
        }
        Err(error) if error.exit() == Exit::Denied => {
            let uid = nix::unistd::Uid::effective();
            findings.info(
                "NO_IDENTITY",
                format!("the agent answers, and has no identity for {}", me()),
                format!("if there should be one: mayfly entry create … --selector unix:uid:{uid}"),
            );
        }
        Err(error @ CliError::BadAnswer { .. }) => findings.failure("AGENT_ANSWER", &error),
        Err(error) => findings.failure("AGENT_NOT_SERVING", &error),
    }
}

async fn health(workload: &Workload, globals: &Globals, findings: &mut Findings) {
    let mut request = Request::new(HealthCheckRequest { service: String::new() });
    request.set_timeout(globals.timeout);
    match workload.health().check(request).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
            findings.ok("AGENT_READY", "the agent is ready");
        }
        Ok(_) => findings.error(
            "AGENT_NOT_SYNCED",
            "the agent lives, but is not in step with its server",
            "read its log: it has not attested, or cannot reach the server",
        ),
        // SPIRE's agent may have it elsewhere.
        Err(status) if status.code() == Code::Unimplemented => {}
        Err(status) => findings.failure("AGENT_NOT_ANSWERING", &workload.failed(status)),
    }
}

fn look_at(identity: &Identity, server_bundle: Option<&Bundle>, now: Timestamp, findings: &mut Findings) {
    let svid = &identity.svid;
    let id = svid.spiffe_id();
    match verify_x509_svid(svid.chain(), &TrustAnchors::from_bundle(&identity.bundle), now) {
        Ok(_) => findings.ok(
            "SVID",
            format!("you are {id}, for {}", values::span(svid.not_after().since(now))),
        ),
        Err(VerifyError::NotYetValid { not_before }) => {
            return findings.error(
                "CLOCK_SKEW",
                format!("the SVID of {id} is valid {} only", values::relative(not_before, now)),
                "this machine's clock is behind the server's: let both follow NTP",
            );
        }
        Err(VerifyError::Expired { not_after }) => {
            return findings.error(
                "SVID_EXPIRED",
                format!("the SVID of {id} expired {}", values::relative(not_after, now)),
                "the agent could not renew it: read its log; is the server away, or this clock ahead?",
            );
        }
        Err(error) => {
            return findings.error(
                "SVID_NOT_VERIFIED",
                format!(
                    "the SVID of {id} does not verify against the bundle beside it: {}",
                    mayfly_runtime::Chain(&error)
                ),
                "restart the agent; if it stays, the server's authorities and bundle do not fit: read its log",
            );
        }
    }
    let Some(server_bundle) = server_bundle.filter(|bundle| id.is_member_of(&bundle.trust_domain)) else {
        return;
    };
    let certificates = |bundle: &Bundle| {
        let mut all: Vec<_> = bundle
            .x509_authorities
            .iter()
            .map(|authority| authority.cert_der.clone())
            .collect();
        all.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
        all
    };
    if certificates(server_bundle) != certificates(&identity.bundle) {
        findings.warning(
            "AGENT_BUNDLE_STALE",
            "the agent gives out another bundle than the server has now",
            "it follows within moments; if this stays, the agent has lost its server: read its log",
        );
    } else if let Err(error) = verify_x509_svid(svid.chain(), &TrustAnchors::from_bundle(server_bundle), now) {
        findings.error(
            "SVID_NOT_VERIFIED",
            format!(
                "the SVID of {id} does not verify against the server's bundle: {}",
                mayfly_runtime::Chain(&error)
            ),
            "is the agent of another server with the same trust domain?",
        );
    }
}
