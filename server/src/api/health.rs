//! `grpc.health.v1`: whether this server can do its work. Alive but unable to commit is not serving.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use mayfly_proto::grpc::health::health_check_response::ServingStatus;
use mayfly_proto::grpc::health::health_server::Health;
use mayfly_proto::grpc::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::{Request, Response, Status};

use super::{Api, Face, SERVICES};

pub(super) struct HealthService(pub(super) Arc<Api>, pub(super) Face);

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// The server as a whole under the empty name, and the same answer for each service of this listener.
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let name = &request.get_ref().service;
        let mut services = SERVICES.iter().filter(|service| service.is_on(self.1));
        if !name.is_empty() && !services.any(|service| service.name == name) {
            return Err(Status::not_found("there is no such service here"));
        }
        let serving = self.0.readiness.is_ready() && *self.0.committer.healthy().borrow();
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    /// Not offered: callers are not known here, and each stream would cost for as long as they like.
    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(Status::unimplemented("call Check"))
    }
}
