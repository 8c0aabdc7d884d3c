//! The server's services of the fake: enough behavior for whole command lines, and every call noted.

use std::pin::Pin;

use mayfly_proto::grpc::health::health_check_response::ServingStatus;
use mayfly_proto::grpc::health::{HealthCheckRequest, HealthCheckResponse, health_server::Health};
use mayfly_proto::spire::server::debug::{GetInfoRequest, GetInfoResponse, debug_server::Debug};
use mayfly_proto::spire::types::Status as ItemStatus;
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status};

use super::{NOW, Shared, State, unimplemented};

mod agents;
mod bundles;
mod definitions;
mod entries;
mod exceptions;
mod policy;
mod svids;
mod tasks;

pub(super) use definitions::put as put_definition;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn ok() -> Option<ItemStatus> {
    Some(ItemStatus {
        code: 0,
        message: "OK".into(),
    })
}

fn item(code: Code, message: &str) -> Option<ItemStatus> {
    Some(ItemStatus {
        code: code as i32,
        message: message.into(),
    })
}

fn page<T: Clone>(all: &[T], state: &State, token: &str) -> (Vec<T>, String) {
    let start: usize = token.parse().unwrap_or(0);
    let end = all.len().min(start + state.page);
    (
        all[start..end].to_vec(),
        if end < all.len() {
            end.to_string()
        } else {
            String::new()
        },
    )
}

#[tonic::async_trait]
impl Debug for Shared {
    async fn get_info(&self, request: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let _state = self.enter("get_info", &request)?;
        Ok(Response::new(GetInfoResponse::default()))
    }
}

#[tonic::async_trait]
impl Health for Shared {
    type WatchStream = Answers<HealthCheckResponse>;

    async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let status = if self.lock().serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        Ok(Response::new(HealthCheckResponse { status: status.into() }))
    }

    async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        Err(unimplemented())
    }
}
