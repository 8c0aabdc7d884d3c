//! `spire.api.server.debug.v1`: the server in numbers.

use std::sync::Arc;

use mayfly_proto::spire::server::debug::debug_server::Debug;
use mayfly_proto::spire::server::debug::get_info_response::Cert;
use mayfly_proto::spire::server::debug::{GetInfoRequest, GetInfoResponse};
use mayfly_svid::X509Svid;
use tonic::{Request, Response, Status};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::{FromDer, GeneralName};

use super::{Api, Call};

pub(super) struct DebugService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl Debug for DebugService {
    /// Uptime in seconds, the chain of the server's SVID with the authority, and how many of each thing there are.
    /// Federated bundles are the foreign ones (SPIRE counts its own among them).
    async fn get_info(&self, request: Request<GetInfoRequest>) -> Result<Response<GetInfoResponse>, Status> {
        let snapshot = Call::of(&request)?.snapshot;
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        Ok(Response::new(GetInfoResponse {
            svid_chain: (self.0.own_svid)().map(|svid| chain(&svid)).unwrap_or_default(),
            uptime: i32::try_from(self.0.started.elapsed().as_secs()).unwrap_or(i32::MAX),
            agents_count: number(snapshot.agent_count()),
            federated_bundles_count: number(snapshot.federated_bundles_after(None).count()),
            entries_count: number(snapshot.entry_count()),
        }))
    }
}

fn chain(svid: &X509Svid) -> Vec<Cert> {
    let certificates = svid
        .chain()
        .iter()
        .filter_map(|der| X509Certificate::from_der(der).ok());
    certificates
        .map(|(_, certificate)| {
            let names = certificate.subject_alternative_name().ok().flatten();
            let uri = names
                .iter()
                .flat_map(|names| &names.value.general_names)
                .find_map(|name| match name {
                    GeneralName::URI(uri) => uri.parse::<mayfly_svid::SpiffeId>().ok(),
                    _ => None,
                });
            Cert {
                id: uri.as_ref().map(Into::into),
                expires_at: certificate.validity().not_after.timestamp(),
                subject: certificate.subject().to_string(),
            }
        })
        .collect()
}
