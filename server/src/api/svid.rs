//! `spire.api.server.svid.v1`: SVIDs for the workloads of an agent, and for whom an operator says.

use std::sync::Arc;

use mayfly_model::{EntryId, ErrorKind};
use mayfly_proto::spire::server::svid::svid_server::Svid as SvidApi;
use mayfly_proto::spire::server::svid::*;
use tonic::{Request, Response, Status};

use super::batch::batch;
use super::status::{Failure, to_status};
use super::{Api, Call};
use crate::app::issue::IssueError;
use crate::app::mint;

/// The most SVIDs of one call; SPIRE's agents halve their batch when they are told that it is too large.
const SVIDS_MAX: usize = 500;

pub(super) struct SvidService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl SvidApi for SvidService {
    async fn mint_x509svid(
        &self,
        request: Request<MintX509svidRequest>,
    ) -> Result<Response<MintX509svidResponse>, Status> {
        let call = Call::of(&request)?;
        let MintX509svidRequest { csr, ttl } = request.into_inner();
        let minted = mint::mint(&self.0.issuance, &call.actor, call.snapshot.trust_domain(), &csr, ttl).await;
        let svid = minted.map_err(|refused| to_status(&refused))?;
        Ok(Response::new(MintX509svidResponse {
            svid: Some((&svid).into()),
        }))
    }

    /// One result per request, in order, each with a status: SPIRE's agents look at nothing else first.
    async fn batch_new_x509svid(
        &self,
        request: Request<BatchNewX509svidRequest>,
    ) -> Result<Response<BatchNewX509svidResponse>, Status> {
        let call = Call::of(&request)?;
        let agent = call.agent()?;
        let params = request.into_inner().params;
        if params.len() > SVIDS_MAX {
            let len = params.len();
            return Err(Status::resource_exhausted(format!(
                "{len} SVIDs asked for, at most {SVIDS_MAX} at a time"
            )));
        }
        let issue = |wanted| self.0.issuance.for_entries(&call.actor, agent, wanted);
        let results = batch(params.into_iter().map(read_params), issue).await;
        let results = results
            .into_iter()
            .map(|(status, svid)| batch_new_x509svid_response::Result {
                status: Some(status),
                svid: svid.and_then(Result::ok).map(|svid| (&svid).into()),
            });
        Ok(Response::new(BatchNewX509svidResponse {
            results: results.collect(),
        }))
    }

    async fn mint_jwtsvid(&self, _: Request<MintJwtsvidRequest>) -> Result<Response<MintJwtsvidResponse>, Status> {
        Err(Status::unimplemented("JWT-SVIDs are not supported yet"))
    }

    async fn mint_witsvid(&self, _: Request<MintWitsvidRequest>) -> Result<Response<MintWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT-SVIDs are not supported yet"))
    }

    async fn new_jwtsvid(&self, _: Request<NewJwtsvidRequest>) -> Result<Response<NewJwtsvidResponse>, Status> {
        Err(Status::unimplemented("JWT-SVIDs are not supported yet"))
    }

    async fn batch_new_witsvid(
        &self,
        _: Request<BatchNewWitsvidRequest>,
    ) -> Result<Response<BatchNewWitsvidResponse>, Status> {
        Err(Status::unimplemented("WIT-SVIDs are not supported yet"))
    }

    async fn new_downstream_x509ca(
        &self,
        _: Request<NewDownstreamX509caRequest>,
    ) -> Result<Response<NewDownstreamX509caResponse>, Status> {
        Err(Status::unimplemented("downstream servers are not supported"))
    }
}

fn read_params(wire: NewX509svidParams) -> Result<(EntryId, Vec<u8>), ParamsError> {
    let NewX509svidParams { entry_id, csr } = wire;
    if entry_id.is_empty() {
        return Err(ParamsError::Missing("entry_id"));
    }
    if csr.is_empty() {
        return Err(ParamsError::Missing("csr"));
    }
    // A text that is no ID is the ID of nothing.
    let id = entry_id.parse().map_err(|_| IssueError::EntryNotFound)?;
    Ok((id, csr))
}

/// Why an item of a batch is no request.
#[derive(Debug, thiserror::Error)]
enum ParamsError {
    #[error("{0}: is missing")]
    Missing(&'static str),
    #[error(transparent)]
    Unknown(#[from] IssueError),
}

impl Failure for ParamsError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Missing(_) => ErrorKind::InvalidArgument,
            Self::Unknown(error) => error.kind(),
        }
    }
}
