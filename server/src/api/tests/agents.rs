//! Node attestation, tokens, and what operators do with agents.

use mayfly_proto::spire::server::agent::*;
use mayfly_proto::spire::types::{AgentMask, AttestationData, SelectorMatch};
use mayfly_proto::status::{Reason, permission_denied_reason, retry_after};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::*;

/// Attests as SPIRE's agents do; challenges are answered with themselves.
pub(super) async fn attest(
    caller: &Connected,
    method: &str,
    payload: &[u8],
    csr: &[u8],
) -> Result<types::X509svid, Status> {
    attest_with(caller, params(method, payload, csr), Some).await
}

fn params(method: &str, payload: &[u8], csr: &[u8]) -> attest_agent_request::Step {
    attest_agent_request::Step::Params(attest_agent_request::Params {
        data: Some(AttestationData {
            r#type: method.into(),
            payload: payload.to_vec(),
        }),
        params: Some(AgentX509svidParams { csr: csr.to_vec() }),
    })
}

async fn attest_with(
    caller: &Connected,
    first: attest_agent_request::Step,
    answer: impl Fn(Vec<u8>) -> Option<Vec<u8>>,
) -> Result<types::X509svid, Status> {
    let (requests, receiver) = mpsc::channel(1);
    requests.send(AttestAgentRequest { step: Some(first) }).await.unwrap();
    let mut requests = Some(requests);
    let mut answers = caller
        .agent()
        .attest_agent(ReceiverStream::new(receiver))
        .await?
        .into_inner();
    loop {
        match answers
            .message()
            .await?
            .expect("the stream does not end without a result")
            .step
            .unwrap()
        {
            attest_agent_response::Step::Result(result) => return Ok(result.svid.unwrap()),
            attest_agent_response::Step::Challenge(challenge) => match answer(challenge) {
                Some(answer) => {
                    let step = Some(attest_agent_request::Step::ChallengeResponse(answer));
                    let _ = requests.as_ref().unwrap().send(AttestAgentRequest { step }).await;
                }
                None => requests = None,
            },
        }
    }
}

// What SPIRE's agents rely on.
#[tokio::test]
async fn a_node_that_answers_its_challenges_becomes_an_agent() {
    let server = Server::new().await;
    let svid = attest(&server.remote(None), "echo", b"a", &csr()).await.unwrap();
    assert_eq!(svid.id, wire_id("/spire/agent/echo/a"));
    let parsed = to_svid(&svid);
    assert_eq!(svid.expires_at, parsed.not_after().unix());
    let get = GetAgentRequest {
        id: svid.id,
        output_mask: None,
    };
    let agent = server.local(VIEWER).agent().get_agent(get).await.unwrap().into_inner();
    assert_eq!(agent.attestation_type, "echo");
    assert_eq!(agent.x509svid_serial_number, parsed.serial().to_string());
    assert_eq!(agent.selectors, [selector("echo:name:a")]);
    assert!(agent.can_reattest && !agent.banned);
}

// Promise 7
#[tokio::test]
async fn bad_attestations_are_refused_and_nothing_changes() {
    let server = Server::new().await;
    let caller = server.remote(None);
    let before = server.done().await;
    let big = vec![b'a'; 300 * 1024];
    let no_params = attest_agent_request::Step::ChallengeResponse(vec![1]);
    let no_data = attest_agent_request::Step::Params(attest_agent_request::Params {
        data: None,
        params: None,
    });
    let cases = [
        (Code::InvalidArgument, no_params),
        (Code::InvalidArgument, no_data),
        (Code::InvalidArgument, params("", b"x", &csr())),
        (Code::InvalidArgument, params(&"m".repeat(65), b"x", &csr())),
        (Code::InvalidArgument, params("echo", b"", &csr())),
        (Code::InvalidArgument, params("echo", b"a", b"")),
        (Code::InvalidArgument, params("join_token", b"../x", &csr())),
        (Code::InvalidArgument, params("join_token", &big[..200 * 1024], &csr())),
        (Code::FailedPrecondition, params("sshpop", b"x", &csr())),
    ];
    for (number, (expected, first)) in cases.into_iter().enumerate() {
        let refused = attest_with(&caller, first, Some).await;
        assert_eq!(code(refused), expected, "case {number}");
    }
    let too_large = attest_with(&caller, params("join_token", &big, &csr()), Some)
        .await
        .unwrap_err();
    assert_eq!(too_large.code(), Code::InvalidArgument);
    assert!(too_large.message().contains("too large"), "{too_large}");
    let wrong = attest_with(&caller, params("echo", b"a", &csr()), |_| Some(vec![9])).await;
    assert_eq!(code(wrong), Code::PermissionDenied);
    let silent = attest_with(&caller, params("echo", b"a", &csr()), |_| None).await;
    assert_eq!(code(silent), Code::Unavailable);
    let endless = attest_with(&caller, params("echo", b"slow", &csr()), Some).await;
    assert_eq!(code(endless), Code::Unavailable);
    assert_eq!(server.done().await, before);
    assert_eq!(server.world.committer.snapshot().agent_count(), 0);
}

#[tokio::test]
async fn a_banned_agent_attests_again_only_after_it_was_evicted() {
    let server = Server::new().await;
    let id = || wire_id("/spire/agent/echo/a");
    server.agent("a").await;
    server
        .admin()
        .agent()
        .ban_agent(BanAgentRequest { id: id() })
        .await
        .unwrap();
    let refused = attest(&server.remote(None), "echo", b"a", &csr()).await.unwrap_err();
    assert_eq!(permission_denied_reason(&refused), Some(Reason::AgentBanned));
    server
        .admin()
        .agent()
        .delete_agent(DeleteAgentRequest { id: id() })
        .await
        .unwrap();
    server.agent("a").await;
}

// Cheap calls of strangers.
#[tokio::test(start_paused = true)]
async fn one_address_cannot_attest_as_fast_as_it_likes() {
    let limits = AttestLimits {
        burst: 3,
        per_second: 1,
        max_wait: Duration::ZERO,
        ..AttestLimits::default()
    };
    let server = Server::with_limits(limits).await;
    let caller = server.remote(None);
    for _ in 0..3 {
        assert_eq!(code(attest(&caller, "echo", b"a", b"bad").await), Code::InvalidArgument);
    }
    let refused = attest(&caller, "echo", b"a", &csr()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        retry_after(&refused).unwrap() >= Duration::from_millis(900),
        "{refused:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_attestation_ends_when_its_time_is_over() {
    let server = Server::new().await;
    let (_requests, receiver) = mpsc::channel::<AttestAgentRequest>(1);
    let mut answers = server
        .remote(None)
        .agent()
        .attest_agent(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn agents_are_listed_by_what_they_are() {
    let server = Server::new().await;
    for name in ["a", "b", "once"] {
        server.agent(name).await;
    }
    server
        .admin()
        .agent()
        .ban_agent(BanAgentRequest {
            id: wire_id("/spire/agent/echo/b"),
        })
        .await
        .unwrap();
    type Filter = list_agents_request::Filter;
    let none = Filter::default;
    let by_name = SelectorMatch {
        selectors: vec![selector("echo:name:a"), selector("echo:name:b")],
        r#match: 3,
    };
    let end = server.world.now().unix() + 3_600;
    let at = |seconds: i64| {
        Timestamp::from_unix(seconds)
            .to_string()
            .replace('T', " ")
            .replace('Z', " +0000 +00")
    };
    let cases: [(&[&str], Filter); 8] = [
        (&["a", "b", "once"], none()),
        (
            &["a", "b", "once"],
            Filter {
                by_attestation_type: "echo".into(),
                ..none()
            },
        ),
        (
            &[],
            Filter {
                by_attestation_type: "join_token".into(),
                ..none()
            },
        ),
        (
            &["b"],
            Filter {
                by_banned: Some(true),
                ..none()
            },
        ),
        (
            &["once"],
            Filter {
                by_can_reattest: Some(false),
                ..none()
            },
        ),
        (
            &["a", "b"],
            Filter {
                by_selector_match: Some(by_name),
                ..none()
            },
        ),
        (
            &[],
            Filter {
                by_expires_before: at(end),
                ..none()
            },
        ),
        (
            &["a", "b", "once"],
            Filter {
                by_expires_before: at(end + 1),
                ..none()
            },
        ),
    ];
    let viewer = server.local(VIEWER);
    for (expected, filter) in cases {
        let list = ListAgentsRequest {
            filter: Some(filter.clone()),
            ..ListAgentsRequest::default()
        };
        let agents = viewer.agent().list_agents(list).await.unwrap().into_inner().agents;
        let names: Vec<_> = agents
            .iter()
            .map(|agent| agent.id.as_ref().unwrap().path.rsplit('/').next().unwrap())
            .collect();
        assert_eq!(names, expected, "{filter:?}");
        let filter = count_agents_request::Filter {
            by_attestation_type: filter.by_attestation_type,
            by_selector_match: filter.by_selector_match,
            by_banned: filter.by_banned,
            by_can_reattest: filter.by_can_reattest,
            by_expires_before: filter.by_expires_before,
        };
        let count = viewer
            .agent()
            .count_agents(CountAgentsRequest { filter: Some(filter) })
            .await
            .unwrap()
            .into_inner()
            .count;
        assert_eq!(count as usize, expected.len());
    }
    let page = |page_token: String| {
        let mask = AgentMask {
            banned: true,
            ..AgentMask::default()
        };
        let request = ListAgentsRequest {
            page_size: 2,
            page_token,
            output_mask: Some(mask),
            ..ListAgentsRequest::default()
        };
        let mut client = viewer.agent();
        async move { client.list_agents(request).await.unwrap().into_inner() }
    };
    let first = page(String::new()).await;
    let second = page(first.next_page_token).await;
    assert_eq!(
        (first.agents.len(), second.agents.len(), second.next_page_token.as_str()),
        (2, 1, "")
    );
    assert!(
        first
            .agents
            .iter()
            .all(|agent| agent.attestation_type.is_empty() && agent.selectors.is_empty())
    );
    let soon = Filter {
        by_expires_before: "soon".into(),
        ..none()
    };
    let list = ListAgentsRequest {
        filter: Some(soon),
        ..ListAgentsRequest::default()
    };
    assert_eq!(code(viewer.agent().list_agents(list).await), Code::InvalidArgument);
}

#[tokio::test]
async fn agents_that_are_not_there_are_not_found_and_others_are_no_agents() {
    let server = Server::new().await;
    let before = server.done().await;
    let elsewhere = types::Spiffeid {
        trust_domain: "other".into(),
        path: "/spire/agent/echo/a".into(),
    };
    for (id, expected) in [
        (wire_id("/spire/agent/echo/a"), Code::NotFound),
        (wire_id("/web"), Code::InvalidArgument),
        (Some(elsewhere), Code::InvalidArgument),
        (None, Code::InvalidArgument),
    ] {
        let mut client = server.admin().agent();
        assert_eq!(
            code(
                client
                    .get_agent(GetAgentRequest {
                        id: id.clone(),
                        output_mask: None
                    })
                    .await
            ),
            expected
        );
        assert_eq!(
            code(client.ban_agent(BanAgentRequest { id: id.clone() }).await),
            expected
        );
        assert_eq!(code(client.delete_agent(DeleteAgentRequest { id }).await), expected);
    }
    assert_eq!(server.done().await, before);
}

// Who opens many attestations and says nothing keeps nobody out.
#[tokio::test]
async fn silent_callers_take_no_slot() {
    let limits = AttestLimits {
        concurrent: 1,
        ..AttestLimits::default()
    };
    let server = Server::with_limits(limits).await;
    let mut silent = vec![];
    for _ in 0..10 {
        let (requests, receiver) = mpsc::channel::<AttestAgentRequest>(1);
        let answers = server
            .remote(None)
            .agent()
            .attest_agent(ReceiverStream::new(receiver))
            .await
            .unwrap();
        let mut answers = answers.into_inner();
        let pending = futures_util::poll!(std::pin::pin!(answers.message()));
        assert!(pending.is_pending());
        silent.push((requests, answers));
    }
    server.agent("a").await;
}

// HTTP/2 asks for no answers of a stream whose caller gives it no room; its time runs out all the same.
#[tokio::test(start_paused = true)]
async fn who_stops_reading_holds_a_slot_no_longer_than_others_may() {
    let limits = AttestLimits {
        concurrent: 1,
        ..AttestLimits::default()
    };
    let server = Server::with_limits(limits).await;
    let (requests, receiver) = mpsc::channel(1);
    let step = Some(params("echo", b"slow", &csr()));
    requests.send(AttestAgentRequest { step }).await.unwrap();
    let mut stuck = server
        .remote(None)
        .agent()
        .attest_agent(ReceiverStream::new(receiver))
        .await
        .unwrap()
        .into_inner();
    stuck.message().await.unwrap().expect("a challenge");
    let other = || async { code(attest(&server.local(NOBODY), "echo", b"a", b"bad").await) };
    assert_eq!(other().await, Code::Unavailable, "the only slot is taken");
    tokio::time::sleep(limits.deadline + Duration::from_secs(1)).await;
    assert_eq!(other().await, Code::InvalidArgument, "the slot is free");
    assert_eq!(stuck.message().await.unwrap_err().code(), Code::DeadlineExceeded);
}
