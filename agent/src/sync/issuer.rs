//! Gets the certificates of workloads signed, over whatever connection there is (`BatchNewX509SVID`).

use std::sync::Arc;

use async_trait::async_trait;
use mayfly_model::ErrorKind;
use mayfly_proto::spire::server::svid::batch_new_x509svid_response::Result as Item;
use mayfly_proto::spire::server::svid::svid_client::SvidClient;
use mayfly_proto::spire::server::svid::{BatchNewX509svidRequest, NewX509svidParams};
use rustls_pki_types::CertificateDer;
use tonic::{Code, Status};

use super::call::{self, CallError};
use super::link::Link;
use crate::news::News;
use crate::svids::{IssueAnswer, IssueError, IssueRefusal, IssueRequest, Issuer};

const CALL: &str = "BatchNewX509SVID";
/// What SPIRE's servers take in one call.
const MAX_BATCH: usize = 500;

/// The server, as the one who signs.
#[derive(Clone, Debug)]
pub struct ServerIssuer {
    link: Arc<Link>,
    news: Arc<News>,
}

// === impl ServerIssuer ===

impl ServerIssuer {
    /// Signs over the connection that `link` has at the time of the call; the log that the witness of `news` knows has to
    /// grow by it.
    pub fn new(link: Arc<Link>, news: Arc<News>) -> Self {
        Self { link, news }
    }

    async fn call(&self, batch: &[IssueRequest]) -> Result<Vec<Item>, CallError> {
        let channel = self
            .link
            .channel()
            .ok_or_else(|| CallError::new(CALL, Status::unavailable("the agent is not connected to the server")))?;
        let params = batch
            .iter()
            .map(|request| NewX509svidParams {
                entry_id: request.entry_id.to_string(),
                csr: request.csr_der.clone(),
            })
            .collect();
        let mut client = SvidClient::new(channel);
        let witnessed = self.news.witness().map(|witness| (witness, witness.asks()));
        let results = call::unary(CALL, client.batch_new_x509svid(BatchNewX509svidRequest { params }))
            .await?
            .results;
        if results.len() != batch.len() {
            let what = format!("{} answers to {} requests", results.len(), batch.len());
            return Err(CallError::malformed(CALL, what));
        }
        if let Some((witness, asked)) = witnessed
            && results.iter().any(|item| item.svid.is_some())
        {
            witness.was_issued(asked);
        }
        Ok(results)
    }

    fn answer(&self, item: Item) -> IssueAnswer {
        let refuse = |kind, message: String| Err(IssueRefusal { kind, message });
        let status = item.status.unwrap_or_default();
        if status.code != i32::from(Code::Ok) {
            let kind = kind_of(Code::from(status.code));
            if kind == ErrorKind::NotFound {
                // Either the entry is gone or the server has not heard of it yet; both are known after a round.
                self.link.poll_soon();
            }
            return refuse(kind, status.message);
        }
        let chain = item.svid.map(|svid| svid.cert_chain).unwrap_or_default();
        if chain.is_empty() {
            return refuse(ErrorKind::Internal, "success without a certificate".to_owned());
        }
        Ok(chain.into_iter().map(CertificateDer::from).collect())
    }
}

#[async_trait]
impl Issuer for ServerIssuer {
    async fn issue(&self, requests: Vec<IssueRequest>) -> Result<Vec<IssueAnswer>, IssueError> {
        let mut answers: Vec<IssueAnswer> = Vec::with_capacity(requests.len());
        let mut size = MAX_BATCH;
        while answers.len() < requests.len() {
            let rest = &requests[answers.len()..];
            let batch = &rest[..size.min(rest.len())];
            match self.call(batch).await {
                Ok(items) => answers.extend(items.into_iter().map(|item| self.answer(item))),
                // Too much at a time, for the rate limit or for the message size.
                Err(error) if error.code() == Code::ResourceExhausted && batch.len() > 1 => size = batch.len() / 2,
                Err(error) => {
                    self.link.report(&error);
                    if answers.is_empty() {
                        return Err(IssueError(Box::new(error)));
                    }
                    // What was signed before is good; only the rest has to ask again.
                    let kind = kind_of(error.code());
                    let refusal = IssueRefusal {
                        kind,
                        message: error.message().to_owned(),
                    };
                    answers.resize_with(requests.len(), || Err(refusal.clone()));
                }
            }
        }
        Ok(answers)
    }
}

pub(super) fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::InvalidArgument | Code::OutOfRange => ErrorKind::InvalidArgument,
        Code::NotFound => ErrorKind::NotFound,
        Code::AlreadyExists => ErrorKind::AlreadyExists,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::PermissionDenied => ErrorKind::PermissionDenied,
        Code::FailedPrecondition => ErrorKind::FailedPrecondition,
        Code::ResourceExhausted => ErrorKind::ResourceExhausted,
        Code::Aborted => ErrorKind::Aborted,
        Code::Unavailable | Code::Cancelled => ErrorKind::Unavailable,
        Code::DeadlineExceeded => ErrorKind::DeadlineExceeded,
        Code::Unimplemented => ErrorKind::Unimplemented,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => ErrorKind::Internal,
    }
}
