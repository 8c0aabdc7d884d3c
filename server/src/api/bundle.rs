//! `spire.api.server.bundle.v1`: the own bundle for everyone, foreign ones for operators and agents.

use std::sync::Arc;

use mayfly_model::BundleDeleteMode;
use mayfly_proto::convert::{self, ConvertError};
use mayfly_proto::spire::server::bundle::bundle_server::Bundle as BundleApi;
use mayfly_proto::spire::server::bundle::*;
use mayfly_proto::spire::types;
use mayfly_svid::{Bundle, TrustDomain};
use tonic::{Request, Response, Status};

use super::batch::{NoRoom, Room, Unread, batch, check_batch, check_echo, fit};
use super::page::Wanted;
use super::status::{invalid, to_status};
use super::{Api, Call};
use crate::app::bundles::{self, BundleError, Put};

pub(super) struct BundleService(pub(super) Arc<Api>);

#[tonic::async_trait]
impl BundleApi for BundleService {
    /// The own one counts.
    async fn count_bundles(
        &self,
        request: Request<CountBundlesRequest>,
    ) -> Result<Response<CountBundlesResponse>, Status> {
        let snapshot = Call::of(&request)?.snapshot;
        let count = snapshot.federated_bundles_after(None).count() + usize::from(snapshot.own_bundle().is_some());
        Ok(Response::new(CountBundlesResponse {
            count: i32::try_from(count).unwrap_or(i32::MAX),
        }))
    }

    async fn get_bundle(&self, request: Request<GetBundleRequest>) -> Result<Response<types::Bundle>, Status> {
        let call = Call::of(&request)?;
        let mask = request.into_inner().output_mask;
        let bundle = call
            .snapshot
            .own_bundle()
            .ok_or_else(|| Status::unavailable("there is no bundle yet"))?;
        Ok(Response::new(masked(bundle, mask.as_ref())))
    }

    async fn append_bundle(&self, request: Request<AppendBundleRequest>) -> Result<Response<types::Bundle>, Status> {
        let call = Call::of(&request)?;
        let AppendBundleRequest {
            x509_authorities,
            jwt_authorities,
            output_mask,
            wit_authorities,
        } = request.into_inner();
        if !wit_authorities.is_empty() {
            return Err(invalid("wit_authorities: are not supported"));
        }
        let x509 = convert::x509_authorities(&x509_authorities).map_err(|refused| to_status(&refused))?;
        let jwt = convert::jwt_authorities(&jwt_authorities).map_err(|refused| to_status(&refused))?;
        let appended = bundles::append(&self.0.committer, &call.actor, call.now, x509, jwt).await;
        let bundle = appended.map_err(|refused| to_status(&refused))?;
        Ok(Response::new(masked(&bundle, output_mask.as_ref())))
    }

    async fn publish_jwt_authority(
        &self,
        _: Request<PublishJwtAuthorityRequest>,
    ) -> Result<Response<PublishJwtAuthorityResponse>, Status> {
        Err(Status::unimplemented("downstream servers are not supported"))
    }

    async fn publish_wit_authority(
        &self,
        _: Request<PublishWitAuthorityRequest>,
    ) -> Result<Response<PublishWitAuthorityResponse>, Status> {
        Err(Status::unimplemented("downstream servers are not supported"))
    }

    /// Pages in the order of trust domains.
    async fn list_federated_bundles(
        &self,
        request: Request<ListFederatedBundlesRequest>,
    ) -> Result<Response<ListFederatedBundlesResponse>, Status> {
        let call = Call::of(&request)?;
        let ListFederatedBundlesRequest {
            output_mask,
            page_size,
            page_token,
        } = request.into_inner();
        let wanted = Wanted::parse("bundles", &[], page_size, &page_token)?;
        let after = wanted.after::<TrustDomain>()?;
        let page = wanted
            .collect(
                call.snapshot.federated_bundles_after(after.as_ref()),
                |_| true,
                |bundle| bundle.trust_domain.to_string(),
                |bundle| masked(bundle, output_mask.as_ref()),
            )
            .await;
        Ok(Response::new(ListFederatedBundlesResponse {
            bundles: page.items,
            next_page_token: page.next_token,
        }))
    }

    async fn get_federated_bundle(
        &self,
        request: Request<GetFederatedBundleRequest>,
    ) -> Result<Response<types::Bundle>, Status> {
        let call = Call::of(&request)?;
        let GetFederatedBundleRequest {
            trust_domain,
            output_mask,
        } = request.into_inner();
        let name = name(&trust_domain).map_err(|refused| to_status(&refused))?;
        let bundle = bundles::federated(&call.snapshot, &name).map_err(|refused| to_status(&refused))?;
        Ok(Response::new(masked(bundle, output_mask.as_ref())))
    }

    async fn batch_create_federated_bundle(
        &self,
        request: Request<BatchCreateFederatedBundleRequest>,
    ) -> Result<Response<BatchCreateFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let BatchCreateFederatedBundleRequest { bundle, output_mask } = request.into_inner();
        check_batch("bundle", bundle.len())?;
        let mut room = Room::of(bundle.len());
        let read = |wire: &types::Bundle| new_bundle(&mut room, wire, output_mask.as_ref());
        let create = |wanted| bundles::put(&self.0.committer, &call.actor, call.now, wanted, Put::Create);
        let results = shown(batch(bundle.iter().map(read), create).await, output_mask.as_ref());
        let results = results.map(|(status, bundle)| batch_create_federated_bundle_response::Result {
            status: Some(status),
            bundle,
        });
        Ok(Response::new(BatchCreateFederatedBundleResponse {
            results: results.collect(),
        }))
    }

    async fn batch_update_federated_bundle(
        &self,
        request: Request<BatchUpdateFederatedBundleRequest>,
    ) -> Result<Response<BatchUpdateFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let BatchUpdateFederatedBundleRequest {
            bundle,
            input_mask,
            output_mask,
        } = request.into_inner();
        check_batch("bundle", bundle.len())?;
        let mut room = Room::of(bundle.len());
        let read = |wire: &types::Bundle| -> Result<_, Unread<ConvertError>> {
            let read = || {
                let patch = convert::bundle_patch(wire, input_mask.as_ref())?;
                Ok((name(&wire.trust_domain)?, patch))
            };
            let (name, patch) = read().map_err(Unread::Refused)?;
            // Some fields of the one and the others of the other: no larger than both.
            if let Some(present) = call.snapshot.bundle(&name) {
                reserve(&mut room, &present.as_ref().into(), output_mask.as_ref())?;
            }
            reserve(&mut room, wire, output_mask.as_ref())?;
            Ok((name, patch))
        };
        let update = |wanted| bundles::update(&self.0.committer, &call.actor, call.now, wanted);
        let results = shown(batch(bundle.iter().map(read), update).await, output_mask.as_ref());
        let results = results.map(|(status, bundle)| batch_update_federated_bundle_response::Result {
            status: Some(status),
            bundle,
        });
        Ok(Response::new(BatchUpdateFederatedBundleResponse {
            results: results.collect(),
        }))
    }

    async fn batch_set_federated_bundle(
        &self,
        request: Request<BatchSetFederatedBundleRequest>,
    ) -> Result<Response<BatchSetFederatedBundleResponse>, Status> {
        let call = Call::of(&request)?;
        let BatchSetFederatedBundleRequest { bundle, output_mask } = request.into_inner();
        check_batch("bundle", bundle.len())?;
        let mut room = Room::of(bundle.len());
        let read = |wire: &types::Bundle| new_bundle(&mut room, wire, output_mask.as_ref());
        let set = |wanted| bundles::put(&self.0.committer, &call.actor, call.now, wanted, Put::Set);
        let results = shown(batch(bundle.iter().map(read), set).await, output_mask.as_ref());
        let results = results.map(|(status, bundle)| batch_set_federated_bundle_response::Result {
            status: Some(status),
            bundle,
        });
        Ok(Response::new(BatchSetFederatedBundleResponse {
            results: results.collect(),
        }))
    }

    async fn batch_delete_federated_bundle(
        &self,
        request: Request<BatchDeleteFederatedBundleRequest>,
    ) -> Result<Response<BatchDeleteFederatedBundleResponse>, Status> {
        use batch_delete_federated_bundle_request::Mode;
        let call = Call::of(&request)?;
        let BatchDeleteFederatedBundleRequest { trust_domains, mode } = request.into_inner();
        check_batch("trust_domains", trust_domains.len())?;
        check_echo("trust_domains", &trust_domains)?;
        let mode = match Mode::try_from(mode) {
            Ok(Mode::Restrict) => BundleDeleteMode::Restrict,
            Ok(Mode::Delete) => BundleDeleteMode::Delete,
            Ok(Mode::Dissociate) => BundleDeleteMode::Dissociate,
            Err(_) => return Err(invalid(format!("mode: {mode} is not known"))),
        };
        let delete = |wanted| bundles::delete(&self.0.committer, &call.actor, call.now, wanted, mode);
        let results = batch(trust_domains.iter().map(|text| name(text)), delete).await;
        let results = results.into_iter().zip(trust_domains);
        let results = results.map(
            |((status, _), trust_domain)| batch_delete_federated_bundle_response::Result {
                status: Some(status),
                trust_domain,
            },
        );
        Ok(Response::new(BatchDeleteFederatedBundleResponse {
            results: results.collect(),
        }))
    }
}

fn name(text: &str) -> Result<TrustDomain, ConvertError> {
    convert::trust_domain("trust_domain", text)
}

/// Reads a bundle and takes the room of what will be shown of it.
fn new_bundle(
    room: &mut Room,
    wire: &types::Bundle,
    mask: Option<&types::BundleMask>,
) -> Result<Bundle, Unread<ConvertError>> {
    let bundle = Bundle::try_from(wire).map_err(Unread::Refused)?;
    reserve(room, wire, mask)?;
    Ok(bundle)
}

fn reserve(room: &mut Room, bundle: &types::Bundle, mask: Option<&types::BundleMask>) -> Result<(), NoRoom> {
    match mask {
        Some(mask) => room.reserve(&mask.project(bundle.clone())),
        None => room.reserve(bundle),
    }
}

type Answered = (types::Status, Option<Result<Arc<Bundle>, BundleError>>);

/// The statuses of all items, with the bundles that were put.
fn shown(
    results: Vec<Answered>,
    mask: Option<&types::BundleMask>,
) -> impl Iterator<Item = (types::Status, Option<types::Bundle>)> {
    let show = |(status, put): Answered| (status, put.and_then(Result::ok).map(|bundle| masked(&bundle, mask)));
    let mut results: Vec<_> = results.into_iter().map(show).collect();
    fit(&mut results);
    results.into_iter()
}

fn masked(bundle: &Bundle, mask: Option<&types::BundleMask>) -> types::Bundle {
    let wire = types::Bundle::from(bundle);
    match mask {
        Some(mask) => mask.project(wire),
        None => wire,
    }
}
