//! `spire.api.server.agent.v1`: agents, for operators; attestation and renewal, for agents.

use std::net::Ipv4Addr;
use std::sync::Arc;

use mayfly_model::{Agent, is_agent_id};
use mayfly_node_attest::{Challenger, ExchangeError};
use mayfly_proto::convert::{self, ConvertError};
use mayfly_proto::spire::server::agent::agent_server::Agent as AgentApi;
use mayfly_proto::spire::server::agent::{self as wire, *};
use mayfly_proto::spire::types;
use mayfly_runtime::listen::Peer;
use mayfly_svid::{SpiffeId, Timestamp, TrustDomain};
use prost::Message;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, Streaming};
use zeroize::Zeroizing;

use super::driven::{Driven, Out, driven};
use super::limits::Source;
use super::page::{self, Wanted};
use super::status::{invalid, to_status};
use super::{Api, Call};
use crate::app::agents::{self, AgentFilter, NewToken};
use crate::app::attest_agent::{self, AttestError, AttestRequest};

/// The longest name of a node attestor that is looked up.
const METHOD_MAX: usize = 64;

pub(super) struct AgentService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl AgentApi for AgentService {
    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let call = Call::of(&request)?;
        let filter = request.into_inner().filter.map(|filter| list_agents_request::Filter {
            by_attestation_type: filter.by_attestation_type,
            by_selector_match: filter.by_selector_match,
            by_banned: filter.by_banned,
            by_can_reattest: filter.by_can_reattest,
            by_expires_before: filter.by_expires_before,
        });
        let filter = read_filter(filter.as_ref()).map_err(|refused| to_status(&refused))?;
        let count = if filter.is_empty() {
            i32::try_from(call.snapshot.agent_count()).unwrap_or(i32::MAX)
        } else {
            page::count(call.snapshot.agents_after(None), |agent| filter.matches(agent)).await
        };
        Ok(Response::new(CountAgentsResponse { count }))
    }

    /// Pages in the order of agent IDs.
    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        let call = Call::of(&request)?;
        let ListAgentsRequest {
            filter,
            output_mask,
            page_size,
            page_token,
        } = request.into_inner();
        let encoded = filter.as_ref().map(Message::encode_to_vec).unwrap_or_default();
        let wanted = Wanted::parse("agents", &encoded, page_size, &page_token)?;
        let filter = read_filter(filter.as_ref()).map_err(|refused| to_status(&refused))?;
        let after = wanted.after::<SpiffeId>()?;
        let page = wanted
            .collect(
                call.snapshot.agents_after(after.as_ref()),
                |agent| filter.matches(agent),
                |agent| agent.id.to_string(),
                |agent| masked(agent, output_mask.as_ref()),
            )
            .await;
        Ok(Response::new(ListAgentsResponse {
            agents: page.items,
            next_page_token: page.next_token,
        }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<types::Agent>, Status> {
        let call = Call::of(&request)?;
        let GetAgentRequest { id, output_mask } = request.into_inner();
        let id = agent_id(id.as_ref(), call.snapshot.trust_domain())?;
        let agent = agents::get(&call.snapshot, &id).map_err(|refused| to_status(&refused))?;
        Ok(Response::new(masked(agent, output_mask.as_ref())))
    }

    async fn delete_agent(&self, request: Request<DeleteAgentRequest>) -> Result<Response<()>, Status> {
        let call = Call::of(&request)?;
        let id = agent_id(request.into_inner().id.as_ref(), call.snapshot.trust_domain())?;
        let evicted = agents::evict(&self.0.committer, &call.actor, call.now, id).await;
        evicted.map(Response::new).map_err(|refused| to_status(&refused))
    }

    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let call = Call::of(&request)?;
        let id = agent_id(request.into_inner().id.as_ref(), call.snapshot.trust_domain())?;
        let banned = agents::ban(&self.0.committer, &call.actor, call.now, id).await;
        banned.map(Response::new).map_err(|refused| to_status(&refused))
    }

    type AttestAgentStream = Driven<AttestAgentResponse>;

    async fn attest_agent(
        &self,
        request: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        let call = Call::of(&request)?;
        let (api, inbound) = (self.0.clone(), request.into_inner());
        Ok(Response::new(driven(|out| async move {
            attest(api, call, inbound, out)
                .await
                .map_err(|refused| to_status(&refused))
        })))
    }

    async fn renew_agent(&self, request: Request<RenewAgentRequest>) -> Result<Response<RenewAgentResponse>, Status> {
        let call = Call::of(&request)?;
        let csr = request.into_inner().params.map(|params| params.csr).unwrap_or_default();
        let agent = call.agent()?;
        if csr.is_empty() && !agent.can_reattest {
            return Err(invalid("params.csr: is missing"));
        }
        let renewed = agents::renew(&self.0.issuance, &call.actor, agent, call.serial()?, &csr).await;
        let svid = renewed.map_err(|refused| to_status(&refused))?;
        Ok(Response::new(RenewAgentResponse {
            svid: Some((&svid).into()),
        }))
    }

    async fn create_join_token(
        &self,
        request: Request<CreateJoinTokenRequest>,
    ) -> Result<Response<types::JoinToken>, Status> {
        let call = Call::of(&request)?;
        let CreateJoinTokenRequest { ttl, token, agent_id } = request.into_inner();
        let token = Zeroizing::new(token);
        let alias = agent_id
            .as_ref()
            .map(|id| convert::spiffe_id("agent_id", Some(id)))
            .transpose();
        let wanted = NewToken {
            ttl_seconds: ttl.into(),
            token: Some(token).filter(|token| !token.is_empty()),
            alias: alias.map_err(|refused| to_status(&refused))?,
        };
        let (api, max) = (&self.0, self.0.join_token_max_ttl);
        let made = agents::create_token(&api.committer, &call.actor, call.now, max, wanted).await;
        let made = made.map_err(|refused| to_status(&refused))?;
        Ok(Response::new(types::JoinToken {
            value: made.token.to_string(),
            expires_at: made.expires_at.unix(),
        }))
    }

    async fn post_status(&self, request: Request<PostStatusRequest>) -> Result<Response<PostStatusResponse>, Status> {
        let call = Call::of(&request)?;
        let version = request.into_inner().agent_version;
        let reported = agents::report(&self.0.committer, &call.actor, call.now, call.agent()?, version).await;
        reported
            .map(|()| Response::new(PostStatusResponse {}))
            .map_err(|refused| to_status(&refused))
    }
}

async fn attest(
    api: Arc<Api>,
    call: Call,
    mut inbound: Streaming<AttestAgentRequest>,
    out: Out<AttestAgentResponse>,
) -> Result<(), AttestError> {
    let limits = *api.attest_guard.limits();
    let end = Instant::now() + limits.deadline;
    let request = timeout_at(end, async {
        api.attest_guard.pace(source(&call)).await?;
        read_first(&mut inbound).await
    });
    let request = request.await.unwrap_or(Err(AttestError::TooSlow(limits.deadline)))?;
    let rounds = Rounds {
        inbound,
        out,
        left: limits.challenges,
    };
    api.attest_guard
        .run(end, attest_in_rounds(api.clone(), call, request, rounds))
        .await
}

async fn attest_in_rounds(
    api: Arc<Api>,
    call: Call,
    request: AttestRequest,
    mut rounds: Rounds,
) -> Result<(), AttestError> {
    let admitted = attest_agent::attest(
        &api.committer,
        &api.issuance,
        &api.attestors,
        &call.actor,
        api.now(),
        request,
        &mut rounds,
    )
    .await?;
    let result = attest_agent_response::Result {
        svid: Some((&admitted.svid).into()),
        reattestable: admitted.reattestable,
    };
    let step = Some(attest_agent_response::Step::Result(result));
    // An agent that is gone by now attests again.
    let _ = rounds.out.send(AttestAgentResponse { step }).await;
    Ok(())
}

/// What attestations are counted by. With a certificate a caller is known, but still a stranger to the attestor.
fn source(call: &Call) -> Source {
    match call.connection.peer {
        Peer::Tcp(address) => Source::Address(address.ip()),
        Peer::Unix(peer) => Source::Uid(peer.uid),
        // Whoever has no address shares one bucket.
        _ => Source::Address(Ipv4Addr::UNSPECIFIED.into()),
    }
}

async fn read_first(inbound: &mut Streaming<AttestAgentRequest>) -> Result<AttestRequest, AttestError> {
    let first = inbound
        .message()
        .await
        .map_err(|status| AttestError::Unreadable(status.message().into()))?;
    match first.and_then(|message| message.step) {
        Some(attest_agent_request::Step::Params(params)) => read_params(params),
        _ => Err(AttestError::Request("the first message must be params")),
    }
}

fn read_params(params: attest_agent_request::Params) -> Result<AttestRequest, AttestError> {
    let missing = |what| AttestError::Request(what);
    let data = params.data.ok_or(missing("params.data is missing"))?;
    let payload = Zeroizing::new(data.payload);
    let csr_der = params.params.map(|params| params.csr).unwrap_or_default();
    if data.r#type.is_empty() || data.r#type.len() > METHOD_MAX {
        return Err(missing("params.data.type has 1 to 64 bytes"));
    }
    if payload.is_empty() {
        return Err(missing("params.data.payload is missing"));
    }
    if csr_der.is_empty() {
        return Err(missing("params.params.csr is missing"));
    }
    Ok(AttestRequest {
        method: data.r#type,
        payload,
        csr_der,
    })
}

/// The way back to the agent.
struct Rounds {
    inbound: Streaming<AttestAgentRequest>,
    out: Out<AttestAgentResponse>,
    left: usize,
}

#[tonic::async_trait]
impl Challenger for Rounds {
    async fn challenge(&mut self, challenge: Vec<u8>) -> Result<Vec<u8>, ExchangeError> {
        let broke = |why: &str| ExchangeError(why.into());
        self.left = self.left.checked_sub(1).ok_or_else(|| broke("too many challenges"))?;
        let step = Some(attest_agent_response::Step::Challenge(challenge));
        self.out
            .send(AttestAgentResponse { step })
            .await
            .map_err(|_| broke("it is gone"))?;
        match self.inbound.message().await {
            Ok(Some(AttestAgentRequest {
                step: Some(attest_agent_request::Step::ChallengeResponse(answer)),
            })) => Ok(answer),
            Ok(Some(_)) => Err(broke("it sent something else")),
            Ok(None) => Err(broke("it ended the stream")),
            Err(status) => Err(broke(status.message())),
        }
    }
}

fn masked(agent: &Agent, mask: Option<&types::AgentMask>) -> types::Agent {
    let wire = types::Agent::from(agent);
    match mask {
        Some(mask) => mask.project(wire),
        None => wire,
    }
}

fn agent_id(id: Option<&types::Spiffeid>, trust_domain: &TrustDomain) -> Result<SpiffeId, Status> {
    let id = convert::spiffe_id("id", id).map_err(|refused| to_status(&refused))?;
    if !id.is_member_of(trust_domain) || !is_agent_id(&id) {
        return Err(invalid(format!("id: `{id}` is not an agent of `{trust_domain}`")));
    }
    Ok(id)
}

fn read_filter(filter: Option<&list_agents_request::Filter>) -> Result<AgentFilter, ConvertError> {
    let Some(wire::list_agents_request::Filter {
        by_attestation_type,
        by_selector_match,
        by_banned,
        by_can_reattest,
        by_expires_before,
    }) = filter
    else {
        return Ok(AgentFilter::default());
    };
    Ok(AgentFilter {
        attestation_type: Some(by_attestation_type.clone()).filter(|name| !name.is_empty()),
        selectors: by_selector_match
            .as_ref()
            .map(|wanted| convert::selector_match("filter.by_selector_match", wanted))
            .transpose()?,
        banned: *by_banned,
        can_reattest: *by_can_reattest,
        expires_before: match by_expires_before.as_str() {
            "" => None,
            text => Some(expires_before(text)?),
        },
    })
}

/// Reads `2006-01-02 15:04:05 -0700 -07`, as SPIRE's CLI writes it. The zone's name at the end, whatever it is, only
/// repeats its offset.
fn expires_before(text: &str) -> Result<Timestamp, ConvertError> {
    const FORM: &str = "[year]-[month]-[day] [hour]:[minute]:[second] [offset_hour sign:mandatory][offset_minute]";
    let form = time::format_description::parse_borrowed::<2>(FORM).expect("a constant that parses");
    let bad = || {
        ConvertError::new(
            "filter.by_expires_before",
            "is not a time like `2030-01-31 23:59:59 +0100 +01`",
        )
    };
    let (time, zone) = text.rsplit_once(' ').ok_or_else(bad)?;
    if zone.is_empty() {
        return Err(bad());
    }
    let time = OffsetDateTime::parse(time, &form).map_err(|_| bad())?;
    Ok(Timestamp::from_unix(time.unix_timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expires_before_is_read_as_spires_cli_writes_it() {
        let unix = |text: &str| expires_before(text).map(Timestamp::unix).map_err(|error| error.field());
        assert_eq!(unix("2025-06-15 15:06:40 +0000 +00"), Ok(1_750_000_000));
        assert_eq!(unix("2025-06-15 17:06:40 +0200 +02"), Ok(1_750_000_000));
        assert_eq!(unix("2025-06-15 15:06:40 +0000 UTC"), Ok(1_750_000_000));
        for bad in [
            "now",
            "2025-06-15",
            "2025-06-15 15:06:40",
            "2025-13-15 15:06:40 +0000 +00",
            " ",
        ] {
            assert_eq!(unix(bad), Err("filter.by_expires_before"), "{bad}");
        }
    }
}
