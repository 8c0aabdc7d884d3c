//! `spire.api.server.agent.v1.Agent`.

use mayfly_proto::spire::server::agent::{agent_server::Agent as AgentService, *};
use mayfly_proto::spire::types::{Agent, JoinToken};
use tonic::{Request, Response, Status, Streaming};

use super::{Answers, NOW, Shared, page, unimplemented};

#[tonic::async_trait]
impl AgentService for Shared {
    type AttestAgentStream = Answers<AttestAgentResponse>;

    async fn count_agents(
        &self,
        request: Request<CountAgentsRequest>,
    ) -> Result<Response<CountAgentsResponse>, Status> {
        let state = self.enter("count_agents", &request)?;
        let banned = request.get_ref().filter.as_ref().and_then(|filter| filter.by_banned);
        let count = state
            .agents
            .iter()
            .filter(|agent| banned.is_none_or(|banned| agent.banned == banned))
            .count();
        Ok(Response::new(CountAgentsResponse {
            count: i32::try_from(count).unwrap(),
        }))
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        let state = self.enter("list_agents", &request)?;
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let passes = |agent: &&Agent| {
            (filter.by_attestation_type.is_empty() || agent.attestation_type == filter.by_attestation_type)
                && filter.by_banned.is_none_or(|banned| agent.banned == banned)
                && filter.by_can_reattest.is_none_or(|can| agent.can_reattest == can)
        };
        let all: Vec<Agent> = state.agents.iter().filter(passes).cloned().collect();
        let (agents, next_page_token) = page(&all, &state, &request.page_token);
        Ok(Response::new(ListAgentsResponse {
            agents,
            next_page_token,
        }))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Result<Response<Agent>, Status> {
        let state = self.enter("get_agent", &request)?;
        let found = state
            .agents
            .iter()
            .find(|agent| agent.id == request.get_ref().id)
            .cloned();
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found("agent not found"))
    }

    async fn delete_agent(&self, request: Request<DeleteAgentRequest>) -> Result<Response<()>, Status> {
        let mut state = self.enter("delete_agent", &request)?;
        let before = state.agents.len();
        state.agents.retain(|agent| agent.id != request.get_ref().id);
        if state.agents.len() < before {
            Ok(Response::new(()))
        } else {
            Err(Status::not_found("agent not found"))
        }
    }

    async fn ban_agent(&self, request: Request<BanAgentRequest>) -> Result<Response<()>, Status> {
        let mut state = self.enter("ban_agent", &request)?;
        let found = state.agents.iter_mut().find(|agent| agent.id == request.get_ref().id);
        found.ok_or_else(|| Status::not_found("agent not found"))?.banned = true;
        Ok(Response::new(()))
    }

    async fn create_join_token(&self, request: Request<CreateJoinTokenRequest>) -> Result<Response<JoinToken>, Status> {
        let _state = self.enter("create_join_token", &request)?;
        let expires_at = NOW + i64::from(request.get_ref().ttl);
        Ok(Response::new(JoinToken {
            value: "secret-token".into(),
            expires_at,
        }))
    }

    async fn attest_agent(
        &self,
        _: Request<Streaming<AttestAgentRequest>>,
    ) -> Result<Response<Self::AttestAgentStream>, Status> {
        Err(unimplemented())
    }

    async fn renew_agent(&self, _: Request<RenewAgentRequest>) -> Result<Response<RenewAgentResponse>, Status> {
        Err(unimplemented())
    }

    async fn post_status(&self, _: Request<PostStatusRequest>) -> Result<Response<PostStatusResponse>, Status> {
        Err(unimplemented())
    }
}
