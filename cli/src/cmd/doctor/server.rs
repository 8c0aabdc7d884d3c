//! The server, seen from outside: socket, health, the caller's role, authorities, disk.

use std::path::{Path, PathBuf};

use mayfly_proto::grpc::health::HealthCheckRequest;
use mayfly_proto::grpc::health::health_check_response::ServingStatus;
use mayfly_proto::spire::server::debug::GetInfoRequest;
use mayfly_svid::{Bundle, Timestamp};
use tonic::Code;

use super::{Findings, counted, registrations, tasks};
use crate::certs::AuthorityView;
use crate::cmd::bundle;
use crate::connect::{DEV_DIR, Server};
use crate::errors::{CliError, me};
use crate::{Globals, values};

/// Less free space than this is soon too little, in bytes.
const SPACE_LOW: u64 = 1 << 30;
/// Less than this can stop the next commit, in bytes.
const SPACE_OUT: u64 = 100 << 20;
const DATA_DIR: &str = "/var/lib/mayfly";

/// Adds what is to be said of the server; gives its bundle, to compare the agent's with.
pub(super) async fn examine(
    globals: &Globals,
    data_dir: Option<&Path>,
    now: Timestamp,
    findings: &mut Findings,
) -> Option<Bundle> {
    // The disk of this machine says nothing of a server elsewhere.
    if globals.server.is_none() || data_dir.is_some() {
        disk(data_dir, findings);
    }
    let server = match Server::connect(globals).await {
        Ok(server) => server,
        Err(error) => {
            findings.failure("SERVER_UNREACHABLE", &error);
            return None;
        }
    };
    // Over TCP it connects with the first call, which is the one for its health.
    if globals.server.is_none() {
        let what = format!("the server listens at {}", server.endpoint());
        findings.ok("SERVER_REACHABLE", what);
    }
    if !health(&server, globals.server.is_none(), findings).await {
        return None;
    }
    if !role(&server, findings).await {
        return None;
    }
    own_svid(&server, now, findings).await;
    let bundle = match bundle::get(&server).await {
        Ok(bundle) => bundle,
        Err(error) => {
            findings.failure("SERVER_BUNDLE", &error);
            return None;
        }
    };
    authorities(&bundle, now, findings);
    registrations::examine(&server, now, findings).await;
    tasks::examine(&server, now, findings).await;
    Some(bundle)
}

/// Whether anything more can be asked.
async fn health(server: &Server, local: bool, findings: &mut Findings) -> bool {
    match server
        .health()
        .check(server.request(HealthCheckRequest { service: String::new() }))
        .await
    {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => {
            let which = if local {
                String::new()
            } else {
                format!(" at {},", server.endpoint())
            };
            findings.ok("SERVER_READY", format!("the server{which} is ready"));
            true
        }
        Ok(_) => {
            findings.error(
                "SERVER_NOT_READY",
                "the server lives, but is not ready to serve",
                "it is starting, or its database is away: read its log",
            );
            true
        }
        Err(status) if status.code() == Code::Unimplemented => true,
        Err(status) => {
            findings.failure("SERVER_NOT_ANSWERING", &server.failed("ask for health", status));
            false
        }
    }
}

/// Whether the caller may look further.
async fn role(server: &Server, findings: &mut Findings) -> bool {
    match server.debug().get_info(server.request(GetInfoRequest {})).await {
        Ok(_) => {
            findings.ok("CALLER_ROLE", format!("the server takes {} as an operator", me()));
            true
        }
        Err(status) if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) => {
            findings.failure("CALLER_WITHOUT_ROLE", &server.failed("look into the server", status));
            false
        }
        Err(_) => true,
    }
}

async fn own_svid(server: &Server, now: Timestamp, findings: &mut Findings) {
    // Who cannot ask has been told by `role`.
    let Ok(info) = server.debug().get_info(server.request(GetInfoRequest {})).await else {
        return;
    };
    let Some(leaf) = info.get_ref().svid_chain.first() else {
        return;
    };
    let ends = Timestamp::from_unix(leaf.expires_at);
    if ends < now {
        findings.error(
            "SERVER_SVID_EXPIRED",
            format!("the server's own SVID expired {}", values::relative(ends, now)),
            "compare its clock with this machine's; then read its log for failed renewals",
        );
    }
}

fn authorities(bundle: &Bundle, now: Timestamp, findings: &mut Findings) {
    let views: Vec<AuthorityView> = bundle.x509_authorities.iter().filter_map(AuthorityView::of).collect();
    let valid = |view: &&AuthorityView| view.not_before <= now && now <= view.not_after && !view.tainted;
    let in_force = views.iter().filter(valid).count();
    match views.iter().filter(valid).map(|view| view.not_after).max() {
        Some(last) => findings.ok(
            "BUNDLE",
            format!(
                "the bundle of {} has {} in force, {} {}",
                bundle.trust_domain,
                counted(in_force, "X.509 authority"),
                if in_force == 1 {
                    "which ends"
                } else {
                    "the last of which ends"
                },
                values::relative(last, now)
            ),
        ),
        None => findings.error(
            "NO_AUTHORITY",
            format!(
                "the bundle of {} has no X.509 authority that is valid now",
                bundle.trust_domain
            ),
            "nothing can be issued or verified: compare the clocks, then read the server's log",
        ),
    }
    for view in &views {
        let id = &view.authority_id;
        if view.not_before > now {
            findings.warning(
                "CLOCK_SKEW",
                format!(
                    "authority {id} is valid {} only",
                    values::relative(view.not_before, now)
                ),
                "the server's clock is ahead of this machine's: let both follow NTP",
            );
        }
        if view.tainted {
            findings.warning(
                "AUTHORITY_TAINTED",
                format!("authority {id} is tainted"),
                "SVIDs under it are being renewed; revoke it once they are gone",
            );
        }
        if view.not_after < now {
            findings.info(
                "AUTHORITY_EXPIRED",
                format!("authority {id} expired {}", values::relative(view.not_after, now)),
                "the server prunes it by itself",
            );
        }
    }
}

fn disk(given: Option<&Path>, findings: &mut Findings) {
    let dir = given.map(Path::to_owned).or_else(|| {
        let usual = [Path::new(DEV_DIR).join("server"), PathBuf::from(DATA_DIR)];
        usual.into_iter().find(|dir| dir.is_dir())
    });
    let Some(dir) = dir else { return };
    match rustix::fs::statvfs(&dir) {
        Ok(stat) => {
            let free = stat.f_bavail.saturating_mul(stat.f_frsize);
            let what = format!("{} MiB free under {}", free >> 20, dir.display());
            let todo = "make room: the server acknowledges nothing that it cannot write";
            match free {
                0..SPACE_OUT => findings.error("DISK_FULL", what, todo),
                SPACE_OUT..SPACE_LOW => findings.warning("DISK_LOW", what, todo),
                _ => findings.ok("DISK", what),
            }
        }
        Err(source) => {
            let error = CliError::System {
                doing: "look at",
                path: dir,
                source: source.into(),
            };
            findings.info(
                "DISK_UNKNOWN",
                error.to_string(),
                "name the data folder with --data-dir, as a user who may read it",
            );
        }
    }
}
