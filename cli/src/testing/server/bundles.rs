//! `spire.api.server.bundle.v1.Bundle`.

use mayfly_proto::spire::server::bundle::{bundle_server::Bundle as BundleService, *};
use mayfly_proto::spire::types::Bundle;
use tonic::{Code, Request, Response, Status};

use super::{Shared, item, ok, page, unimplemented};
use crate::certs::{bundle_from_wire, bundle_to_wire};

#[tonic::async_trait]
impl BundleService for Shared {
    async fn count_bundles(&self, _: Request<CountBundlesRequest>) -> Result<Response<CountBundlesResponse>, Status> {
        Err(unimplemented())
    }

    async fn get_bundle(&self, request: Request<GetBundleRequest>) -> Result<Response<Bundle>, Status> {
        let state = self.enter("get_bundle", &request)?;
        Ok(Response::new(bundle_to_wire(&state.ca.bundle)))
    }

    async fn append_bundle(&self, _: Request<AppendBundleRequest>) -> Result<Response<Bundle>, Status> {
        Err(unimplemented())
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        Err(unimplemented())
    }

    async fn publish_wit_authority(
        &self,
        _: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        Err(unimplemented())
    }

    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        let state = self.enter("list_federated_bundles", &request)?;
        let all: Vec<Bundle> = state.foreign.iter().map(bundle_to_wire).collect();
        let (bundles, next_page_token) = page(&all, &state, &request.get_ref().page_token);
        Ok(Response::new(ListFederatedBundlesResponse {
            bundles,
            next_page_token,
        }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<Bundle>, Status> {
        let state = self.enter("get_federated_bundle", &request)?;
        let wanted = &request.get_ref().trust_domain;
        let found = state
            .foreign
            .iter()
            .find(|bundle| bundle.trust_domain.as_str() == wanted);
        found
            .map(|bundle| Response::new(bundle_to_wire(bundle)))
            .ok_or_else(|| Status::not_found("bundle not found"))
    }

    async fn batch_create_federated_bundle(
        &self,
        _: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        Err(unimplemented())
    }

    async fn batch_update_federated_bundle(
        &self,
        _: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        Err(unimplemented())
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        let mut state = self.enter("batch_set_federated_bundle", &request)?;
        let bundle = bundle_from_wire(&request.into_inner().bundle[0]).unwrap();
        state.foreign.retain(|other| other.trust_domain != bundle.trust_domain);
        state.foreign.push(bundle);
        let results = vec![batch_set_federated_bundle_response::Result {
            status: ok(),
            bundle: None,
        }];
        Ok(Response::new(BatchSetFederatedBundleResponse { results }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        let mut state = self.enter("batch_delete_federated_bundle", &request)?;
        let request = request.into_inner();
        let trust_domain = request.trust_domains[0].clone();
        let in_use = state
            .entries
            .iter()
            .any(|entry| entry.federates_with.contains(&trust_domain));
        let status = if in_use && request.mode == 0 {
            item(Code::FailedPrecondition, "1 entry federates with it")
        } else {
            state
                .foreign
                .retain(|bundle| bundle.trust_domain.as_str() != trust_domain);
            ok()
        };
        let results = vec![batch_delete_federated_bundle_response::Result { status, trust_domain }];
        Ok(Response::new(BatchDeleteFederatedBundleResponse { results }))
    }
}
