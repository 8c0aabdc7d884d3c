//! `SpiffeWorkloadAPI` over X.509: the streams of SVIDs and bundles (SPIFFE Workload API §5).
//!
//! The other profiles answer `Unimplemented`, but not before the security header was looked at (AMB-18).
//!
//! Here is the service itself; [`feed`] is one stream, [`content`] what it says.

mod content;
mod feed;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures_util::stream::BoxStream;
use mayfly_proto::spiffe::workload as pb;
use mayfly_proto::spiffe::workload::spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer};
use mayfly_runtime::Clock;
use mayfly_runtime::listen::ConnInfo;
use tokio::sync::watch;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status};

use super::caller::{Caller, Callers};
use super::metrics::Refusal;
use super::{ApiMetrics, ApiSettings};
use crate::svids::Svids;
use crate::tasks::Board;
use crate::view::View;
use content::Content;
use feed::{Feed, Sources};

pub(super) use feed::{FRESH, refusal_status};

/// The metadata key that every request carries, with the value `true` (SPIFFE Workload Endpoint §3).
const HEADER: &str = "workload.spiffe.io";
/// Requests are empty or hold one token.
const MAX_REQUEST: usize = 64 * 1024;

/// The service.
#[derive(Clone)]
pub(super) struct WorkloadApi {
    sources: Arc<Sources>,
    callers: Arc<Callers>,
}

/// Lets a request through that has the security header once, with exactly the value `true` (WEP-08).
#[derive(Clone)]
pub(super) struct HeaderCheck {
    metrics: ApiMetrics,
}

type Stream<T> = BoxStream<'static, Result<T, Status>>;

impl WorkloadApi {
    pub(super) fn new(
        settings: ApiSettings,
        svids: Svids,
        views: watch::Receiver<Arc<View>>,
        board: watch::Receiver<Arc<Board>>,
        clock: Arc<dyn Clock>,
        metrics: ApiMetrics,
        callers: Arc<Callers>,
    ) -> Self {
        Self {
            sources: Arc::new(Sources {
                settings,
                svids,
                views,
                board,
                clock,
                metrics,
            }),
            callers,
        }
    }

    /// With the check of the security header in front of every RPC, known or not.
    pub(super) fn into_service(self) -> InterceptedService<SpiffeWorkloadApiServer<Self>, HeaderCheck> {
        let check = HeaderCheck::new(self.sources.metrics.clone());
        InterceptedService::new(
            SpiffeWorkloadApiServer::new(self).max_decoding_message_size(MAX_REQUEST),
            check,
        )
    }

    fn open<T, C: Content>(&self, request: &Request<T>) -> Result<Stream<C::Response>, Status> {
        let refuse = |reason| {
            self.sources.metrics.count_refusal(reason);
            refusal_status(reason)
        };
        let extensions = request.extensions();
        let (Some(caller), Some(connection)) = (extensions.get::<Arc<Caller>>(), extensions.get::<ConnInfo>()) else {
            return Err(refuse(Refusal::Internal));
        };
        let slot = self
            .callers
            .open_stream(caller)
            .ok_or_else(|| refuse(Refusal::Overload))?;
        let feed = Feed::new(Arc::clone(&self.sources), Arc::clone(caller), connection.clone(), slot);
        Ok(feed.into_stream::<C>())
    }
}

impl HeaderCheck {
    pub(super) fn new(metrics: ApiMetrics) -> Self {
        Self { metrics }
    }
}

impl Interceptor for HeaderCheck {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let mut values = request.metadata().get_all(HEADER).iter();
        let proper =
            matches!((values.next(), values.next()), (Some(value), None) if value.as_encoded_bytes() == b"true");
        if !proper {
            self.metrics.count_refusal(Refusal::Header);
            return Err(refusal_status(Refusal::Header));
        }
        Ok(request)
    }
}

fn not_offered(profile: &str) -> Status {
    Status::unimplemented(format!("the {profile} profile is not offered by this agent"))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for WorkloadApi {
    type FetchX509SVIDStream = Stream<pb::X509svidResponse>;
    type FetchX509BundlesStream = Stream<pb::X509BundlesResponse>;
    type FetchJWTBundlesStream = Stream<pb::JwtBundlesResponse>;
    type FetchWITSVIDStream = Stream<pb::WitsvidResponse>;
    type FetchWITBundlesStream = Stream<pb::WitBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<pb::X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        self.open::<_, content::Svids>(&request).map(Response::new)
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<pb::X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        self.open::<_, content::Bundles>(&request).map(Response::new)
    }

    async fn fetch_jwtsvid(&self, _: Request<pb::JwtsvidRequest>) -> Result<Response<pb::JwtsvidResponse>, Status> {
        Err(not_offered("JWT-SVID"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<pb::JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(not_offered("JWT-SVID"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<pb::ValidateJwtsvidRequest>,
    ) -> Result<Response<pb::ValidateJwtsvidResponse>, Status> {
        Err(not_offered("JWT-SVID"))
    }

    async fn fetch_witsvid(
        &self,
        _: Request<pb::WitsvidRequest>,
    ) -> Result<Response<Self::FetchWITSVIDStream>, Status> {
        Err(not_offered("WIT-SVID"))
    }

    async fn fetch_wit_bundles(
        &self,
        _: Request<pb::WitBundlesRequest>,
    ) -> Result<Response<Self::FetchWITBundlesStream>, Status> {
        Err(not_offered("WIT-SVID"))
    }
}
