//! Who may call what, and who is who.

use std::fmt::Write;

use mayfly_proto::FILE_DESCRIPTOR_SET;
use mayfly_proto::spire::server::agent::{AgentX509svidParams, PostStatusRequest};
use mayfly_proto::spire::server::agent::{BanAgentRequest, DeleteAgentRequest, RenewAgentRequest};
use mayfly_proto::spire::server::bundle::GetBundleRequest;
use mayfly_proto::spire::server::entry::{BatchCreateEntryRequest, CountEntriesRequest, GetAuthorizedEntriesRequest};
use mayfly_proto::status::{Reason, permission_denied_reason};
use mayfly_svid::Serial;
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::{Code, Request, Status};
use tower::ServiceExt;

use super::*;
use crate::api::SERVICES;

/// The code of a call to `path` with an empty body.
async fn call(caller: &Connected, path: &str) -> Status {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .body(Body::empty())
        .unwrap();
    let response = caller.clone().oneshot(request).await.unwrap();
    Status::from_header_map(response.headers()).unwrap_or_else(|| Status::ok(""))
}

#[test]
fn every_method_of_every_service_has_a_row_and_every_row_a_method() {
    let mut set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    set.file.extend(
        FileDescriptorSet::decode(mayfly_proto::grpc::health::FILE_DESCRIPTOR_SET)
            .unwrap()
            .file,
    );
    let mut offered: Vec<String> = vec![];
    // Agents offer these, on the sockets of their nodes.
    set.file.retain(|file| file.package() != "mayfly.workload.v1");
    for file in &set.file {
        for service in &file.service {
            let methods = service.method.iter().map(|method| method.name());
            offered.extend(methods.map(|method| format!("{}.{}/{method}", file.package(), service.name())));
        }
    }
    let rows = SERVICES
        .iter()
        .filter(|service| !service.name.starts_with("grpc.reflection."));
    let mut listed: Vec<String> = rows
        .flat_map(|service| {
            service
                .methods
                .iter()
                .map(move |(method, _)| format!("{}/{method}", service.name))
        })
        .collect();
    offered.sort();
    listed.sort();
    assert_eq!(listed, offered);
}

// A difference to the table is a change of behaviour: who may call what.
#[tokio::test]
async fn callers_may_call_what_the_table_says_and_nothing_else() {
    let server = Server::new().await;
    let agent_id = id("/spire/agent/echo/a");
    let agent = server.agent("a").await;
    server
        .world
        .entry("by-entry", &agent_id, |spec| spec.admin = true)
        .await;
    server
        .world
        .entry("below", &agent_id, |spec| spec.downstream = true)
        .await;
    let over = server.world.now();
    server
        .world
        .entry("was-admin", &agent_id, |spec| {
            spec.admin = true;
            spec.expires_at = Some(over);
        })
        .await;
    let callers = [
        ('A', server.local(ADMIN)),
        ('V', server.local(VIEWER)),
        ('u', server.local(NOBODY)),
        ('R', server.workload("/ops").await),
        ('E', server.workload("/by-entry").await),
        ('r', server.workload("/auditor").await),
        ('w', server.workload("/some").await),
        ('x', server.workload("/was-admin").await),
        ('D', server.workload("/below").await),
        ('G', agent),
        ('n', server.remote(None)),
    ];
    let mut table = String::new();
    for service in SERVICES {
        for (method, _) in service.methods {
            let path = format!("/{}/{method}", service.name);
            let mut admitted = String::new();
            for (letter, caller) in &callers {
                let status = call(caller, &path).await;
                let refused = matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
                    || status.message() == "there is no such method here";
                if !refused {
                    admitted.push(*letter);
                }
            }
            let short = service.name.rsplit('.').next().unwrap();
            writeln!(table, "{short}/{method} {admitted}").unwrap();
        }
    }
    assert_eq!(table, include_str!("callers.txt"), "\n{table}");
}

#[tokio::test]
async fn a_refused_caller_reads_what_to_do() {
    let server = Server::new().await;
    let count = |caller: &Connected| {
        let mut client = caller.entry();
        async move {
            client
                .count_entries(CountEntriesRequest { filter: None })
                .await
                .unwrap_err()
        }
    };
    let status = count(&server.local(NOBODY)).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().contains("uid 65534") && status.message().contains("admin_uids"),
        "{status}"
    );
    let status = count(&server.workload("/some").await).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("spiffe://td/some"), "{status}");
    let status = count(&server.agent("a").await).await;
    assert_eq!(status.code(), Code::PermissionDenied);
    let no_way = !status.message().contains("an administrator can");
    assert!(
        status.message().contains("agents are no operators") && no_way,
        "{status}"
    );
    assert_eq!(count(&server.remote(None)).await.code(), Code::Unauthenticated);
    let status = server
        .local(VIEWER)
        .entry()
        .batch_create_entry(BatchCreateEntryRequest::default())
        .await
        .unwrap_err();
    let names_both = status.message().contains("needs the role registrar or the admin role");
    assert!(names_both, "{status}");
    let status = server
        .local(VIEWER)
        .agent()
        .ban_agent(BanAgentRequest::default())
        .await
        .unwrap_err();
    assert!(status.message().contains("needs the admin role"), "{status}");
}

#[tokio::test]
async fn paths_that_do_not_exist_are_unimplemented() {
    let server = Server::new().await;
    for path in [
        "/",
        "/x",
        "/spire.api.server.entry.v1.Entry/Nothing",
        "/spire.api.server.trustdomain.v1.TrustDomain/X",
    ] {
        assert_eq!(call(&server.admin(), path).await.code(), Code::Unimplemented, "{path}");
    }
}

async fn authorized(agent: &Connected) -> Result<(), Status> {
    agent
        .entry()
        .get_authorized_entries(GetAuthorizedEntriesRequest::default())
        .await
        .map(drop)
}

fn reason(result: Result<(), Status>) -> Option<Reason> {
    permission_denied_reason(&result.unwrap_err())
}

// Agents act on these reasons.
#[tokio::test]
async fn an_agent_that_is_not_in_force_is_told_why() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    let id = || wire_id("/spire/agent/echo/a");
    authorized(&agent).await.unwrap();
    let again = server.agent("a").await;
    assert_eq!(
        reason(authorized(&agent).await),
        Some(Reason::AgentNotActive),
        "it attested anew"
    );
    authorized(&again).await.unwrap();

    server
        .admin()
        .agent()
        .ban_agent(BanAgentRequest { id: id() })
        .await
        .unwrap();
    assert_eq!(reason(authorized(&again).await), Some(Reason::AgentBanned));
    server
        .admin()
        .agent()
        .delete_agent(DeleteAgentRequest { id: id() })
        .await
        .unwrap();
    assert_eq!(reason(authorized(&again).await), Some(Reason::AgentNotAttested));

    let agent = server.agent("b").await;
    server.world.clock.advance(Duration::from_secs(3_601));
    assert_eq!(reason(authorized(&agent).await), Some(Reason::AgentExpired));
    // Whoever may be anybody may also be a former agent.
    agent.bundle().get_bundle(GetBundleRequest::default()).await.unwrap();
    assert_eq!(
        code(
            server
                .workload("/ops")
                .await
                .entry()
                .count_entries(CountEntriesRequest::default())
                .await
        ),
        Code::Ok
    );
}

#[tokio::test]
async fn an_expired_svid_has_no_role_on_a_connection_that_is_still_open() {
    let server = Server::new().await;
    let ops = server.workload("/ops").await;
    assert_eq!(
        code(ops.entry().count_entries(CountEntriesRequest::default()).await),
        Code::Ok
    );
    server.world.clock.advance(Duration::from_secs(3_601));
    let status = ops
        .entry()
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("expired"), "{status}");
}

// The old serial is valid until the new one is first seen.
#[tokio::test]
async fn a_renewed_svid_ends_the_old_one_when_it_is_first_used() {
    let server = Server::new().await;
    let old = server.agent("once").await;
    let renew = |agent: &Connected| {
        let mut client = agent.agent();
        let params = Some(AgentX509svidParams { csr: csr() });
        async move {
            client
                .renew_agent(RenewAgentRequest { params })
                .await
                .map(|answer| answer.into_inner().svid)
        }
    };
    let renewed = to_svid(&renew(&old).await.unwrap().unwrap());
    authorized(&old).await.unwrap();
    let new = server.remote(Some(&renewed));
    authorized(&new).await.unwrap();
    let id = id("/spire/agent/echo/once");
    let is_confirmed =
        || server.world.committer.snapshot().agent(&id).unwrap().serial.as_ref() == Some(renewed.serial());
    for _ in 0..1000 {
        if is_confirmed() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(is_confirmed());
    authorized(&new).await.unwrap();
    assert_eq!(reason(authorized(&old).await), Some(Reason::AgentNotActive));
    assert_eq!(server.world.logged("agent.confirmed").len(), 1);

    let reattestable = server.agent("a").await;
    let refused = renew(&reattestable).await.unwrap_err();
    assert_eq!(permission_denied_reason(&refused), Some(Reason::AgentMustReattest));
}

// It attested anew while the call was on its way.
#[tokio::test]
async fn a_renewal_by_an_svid_that_was_replaced_in_the_meantime_is_refused_and_signs_nothing() {
    let server = Server::new().await;
    server.agent("once").await;
    let world = &server.world;
    let id = id("/spire/agent/echo/once");
    let agent = world.committer.snapshot().agent(&id).unwrap().clone();
    let shown = agent.serial.clone().unwrap();
    server.agent("once").await;
    let actor = mayfly_model::Actor::server();
    let renewed = crate::app::agents::renew(&world.issuance, &actor, &agent, shown, &csr()).await;
    let status = crate::api::status::to_status(&renewed.unwrap_err());
    assert_eq!(permission_denied_reason(&status), Some(Reason::AgentNotActive));
    let present = world.committer.snapshot().agent(&id).unwrap().clone();
    assert!(present.renewed.is_none() && present.serial != agent.serial);
    assert!(world.logged("agent.renewed").is_empty());
}

// TLS has verified the chain when the connection began; who is trusted no more is nobody from the next call on. SVID-15
#[tokio::test]
async fn a_foreign_caller_is_one_as_long_as_there_is_a_bundle_of_its_trust_domain() {
    let server = Server::new().await;
    let foreign = |path: &str| {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://other{path}").try_into().unwrap())];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        let leaf = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        server.remote(Some(&X509Svid::from_chain(vec![leaf.der().clone()]).unwrap()))
    };
    let count = |caller: &Connected| {
        let mut client = caller.entry();
        async move { code(client.count_entries(CountEntriesRequest::default()).await) }
    };
    let (auditor, ours_by_path) = (foreign("/auditor"), foreign("/spire/agent/echo/a"));
    server.agent("a").await;
    assert_eq!(count(&auditor).await, Code::Unauthenticated);
    server.world.commit(entries::foreign_bundle("other")).await.unwrap();
    assert_eq!(count(&auditor).await, Code::Ok);
    assert_eq!(
        count(&foreign("/ops")).await,
        Code::PermissionDenied,
        "ours is another one"
    );
    assert_eq!(code(authorized(&ours_by_path).await), Code::PermissionDenied);
    let delete = mayfly_model::Change::BundleDelete {
        trust_domain: "other".parse().unwrap(),
        mode: mayfly_model::BundleDeleteMode::Restrict,
    };
    server.world.commit(delete).await.unwrap();
    assert_eq!(count(&auditor).await, Code::Unauthenticated);
}

#[tokio::test]
async fn a_certificate_that_is_no_svid_is_no_caller() {
    let server = Server::new().await;
    let authority = server.world.committer.snapshot().own_bundle().unwrap().x509_authorities[0]
        .cert_der
        .clone();
    let mut caller = server.remote(None);
    caller.info.peer_certificates = Some(vec![authority].into());
    assert_eq!(
        code(caller.entry().count_entries(CountEntriesRequest::default()).await),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn what_an_operator_does_is_logged_with_who_from_where_and_why() {
    let server = Server::new().await;
    let mut request = Request::new(BatchCreateEntryRequest {
        entries: vec![wire_entry("/web", &id("/spire/agent/echo/a"))],
        output_mask: None,
    });
    request
        .metadata_mut()
        .insert("mayfly-reason", "ticket 7%21".parse().unwrap());
    server.admin().entry().batch_create_entry(request).await.unwrap();
    let [record] = &server.world.logged("entry.created")[..] else {
        panic!()
    };
    assert_eq!(
        (record.actor.who.as_str(), record.actor.origin.as_str()),
        ("uid:0", "pid:42")
    );
    assert_eq!(record.actor.reason, "ticket 7!");

    let ops = server.workload("/ops").await;
    let entries = vec![wire_entry("/api", &id("/spire/agent/echo/a"))];
    ops.entry()
        .batch_create_entry(BatchCreateEntryRequest {
            entries,
            output_mask: None,
        })
        .await
        .unwrap();
    let records = server.world.logged("entry.created");
    let actor = &records.last().unwrap().actor;
    assert_eq!(
        (actor.who.as_str(), actor.origin.as_str()),
        ("spiffe://td/ops", "192.0.2.7:4711")
    );
}

#[tokio::test]
async fn calls_are_counted_by_method_and_code() {
    const ENTRY: &str = "spire.api.server.entry.v1.Entry";
    let server = Server::new().await;
    server
        .admin()
        .entry()
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap();
    server
        .local(NOBODY)
        .entry()
        .count_entries(CountEntriesRequest::default())
        .await
        .unwrap_err();
    call(&server.admin(), "/no/method").await;
    let count = |service, method, code| server.api.metrics().count(service, method, code);
    assert_eq!(count(ENTRY, "CountEntries", Code::Ok), 1);
    assert_eq!(count(ENTRY, "CountEntries", Code::PermissionDenied), 1);
    assert_eq!(count("unknown", "unknown", Code::Unimplemented), 1);
}

#[tokio::test]
async fn a_version_that_is_known_costs_no_commit() {
    let server = Server::new().await;
    let agent = server.agent("a").await;
    let post = |version: &str| {
        let (mut client, agent_version) = (agent.agent(), version.to_owned());
        async move {
            code(
                client
                    .post_status(PostStatusRequest {
                        agent_version,
                        current_bundle_serial: 0,
                    })
                    .await,
            )
        }
    };
    assert_eq!(post("1.2.3").await, Code::Ok);
    let before = server.done().await;
    assert_eq!(post("1.2.3").await, Code::Ok);
    assert_eq!(post("").await, Code::Ok);
    assert_eq!(post(&"v".repeat(256)).await, Code::InvalidArgument);
    assert_eq!(post("1.2.3\x1b[2J").await, Code::InvalidArgument, "operators see it");
    assert_eq!(server.done().await, before);
    let record = server
        .world
        .committer
        .snapshot()
        .agent(&id("/spire/agent/echo/a"))
        .unwrap()
        .clone();
    assert_eq!(record.version, "1.2.3");
    assert_ne!(record.serial, None::<Serial>);
}
