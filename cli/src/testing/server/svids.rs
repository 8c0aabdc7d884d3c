//! `spire.api.server.svid.v1.SVID`.

use mayfly_proto::spire::server::svid::{svid_server::Svid as SvidService, *};
use mayfly_proto::spire::types::X509svid;
use tonic::{Request, Response, Status};

use super::{NOW, Shared, unimplemented};

#[tonic::async_trait]
impl SvidService for Shared {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let state = self.enter("mint_x509svid", &request)?;
        let certificate = state.ca.sign(&request.get_ref().csr);
        let svid = X509svid {
            cert_chain: vec![certificate],
            expires_at: NOW + 3600,
            ..Default::default()
        };
        Ok(Response::new(MintX509svidResponse { svid: Some(svid) }))
    }

    async fn mint_jwtsvid(&self, _: Request<MintJwtsvidRequest>) -> Result<Response<MintJwtsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn mint_witsvid(&self, _: Request<MintWitsvidRequest>) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn batch_new_x509svid(
        &self,
        _: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        Err(unimplemented())
    }

    async fn new_jwtsvid(&self, _: Request<NewJwtsvidRequest>) -> Result<Response<NewJwtsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(unimplemented())
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        Err(unimplemented())
    }
}
