//! The Workload API of the fake.

use std::pin::Pin;

use mayfly_proto::spiffe::workload::spiffe_workload_api_server::SpiffeWorkloadApi;
use mayfly_proto::spiffe::workload::*;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::{Shared, unimplemented};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Shared {
    type FetchX509SVIDStream = Answers<X509svidResponse>;
    type FetchX509BundlesStream = Answers<X509BundlesResponse>;
    type FetchJWTBundlesStream = Answers<JwtBundlesResponse>;
    type FetchWITSVIDStream = Answers<WitsvidResponse>;
    type FetchWITBundlesStream = Answers<WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        // WEP-07
        if request
            .metadata()
            .get("workload.spiffe.io")
            .is_none_or(|value| value != "true")
        {
            return Err(Status::invalid_argument("security header missing"));
        }
        let mut state = self.lock();
        state.calls.push("fetch_x509svid");
        let answer = if state.workload.len() > 1 {
            state.workload.remove(0)
        } else {
            state.workload[0].clone()
        };
        let svids = answer?.into_iter().map(|id| {
            let (x509_svid, x509_svid_key) = state.ca.svid(id);
            X509svid {
                spiffe_id: id.into(),
                x509_svid,
                x509_svid_key,
                bundle: state.ca.bundle.x509_concatenated_der(),
                hint: "internal".into(),
            }
        });
        let answer = X509svidResponse {
            svids: svids.collect(),
            crl: vec![],
            federated_bundles: Default::default(),
        };
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(answer)))))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(unimplemented())
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(unimplemented())
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn fetch_witsvid(&self, _: Request<WitsvidRequest>) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(unimplemented())
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(unimplemented())
    }
}
