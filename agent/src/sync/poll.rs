//! Polling, for servers without our watch stream: SPIRE's calls, every five seconds.
//!
//! A round asks for the entries (only those that changed, if the server has many), then for the bundles they need, and
//! is applied as a whole or not at all. It comes early when an entry turns out to be unknown to the server.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use mayfly_model::EntryId;
use mayfly_proto::spire::server::agent::PostStatusRequest;
use mayfly_proto::spire::server::agent::agent_client::AgentClient;
use mayfly_proto::spire::server::bundle::bundle_client::BundleClient;
use mayfly_proto::spire::server::bundle::{GetBundleRequest, GetFederatedBundleRequest};
use mayfly_proto::spire::server::entry::entry_client::EntryClient;
use mayfly_proto::spire::server::entry::{SyncAuthorizedEntriesRequest, SyncAuthorizedEntriesResponse};
use mayfly_proto::spire::types;
use mayfly_svid::TrustDomain;
use rand::Rng;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tracing::debug;

use super::call::{self, CALL_TIMEOUT, CallError};
use super::holdings::{Applied, Holdings, Replacement, Version};

const SYNC: &str = "SyncAuthorizedEntries";
const INTERVAL: Duration = Duration::from_secs(5);
/// However often somebody asks for an early round.
const MIN_GAP: Duration = Duration::from_millis(500);
/// Entries asked for by ID at a time.
const BATCH: usize = 500;
/// Entries in one answer, in full or by ID. Whoever sends more has lost its way.
const MAX_ENTRIES: usize = 1_000_000;
/// Federated bundles fetched at a time.
const PARALLEL_BUNDLES: usize = 8;

/// Polls one server.
#[derive(Debug)]
pub(super) struct Poller {
    channel: Channel,
    /// Asks for an early round.
    wake: Arc<Notify>,
    last: Option<Instant>,
    due: Instant,
}

// === impl Poller ===

impl Poller {
    /// The first round is due at once. `wake` brings the next one forward.
    pub(super) fn new(channel: Channel, wake: Arc<Notify>) -> Self {
        Self {
            channel,
            wake,
            last: None,
            due: Instant::now(),
        }
    }

    /// Waits until a round is due, makes it, and applies the outcome to `holdings`.
    ///
    /// # Errors
    /// A call failed; `holdings` are as they were.
    ///
    /// # Cancel safety
    /// Safe: a round that is interrupted begins again.
    pub(super) async fn next(&mut self, holdings: &mut Holdings) -> Result<Applied, CallError> {
        tokio::select! {
            () = tokio::time::sleep_until(self.due) => {}
            () = self.wake.notified() => {
                // From now on it is due, also if this future is dropped.
                self.due = self.last.map_or(self.due, |last| last + MIN_GAP).min(self.due);
                tokio::time::sleep_until(self.due).await;
            }
        }
        let replacement = self.round(holdings).await?;
        let applied = holdings.replace(replacement);
        let now = Instant::now();
        self.last = Some(now);
        self.due = now + INTERVAL.mul_f64(rand::rng().random_range(0.9..=1.1));
        Ok(applied)
    }

    /// Tells the server our version. Servers may not care, so a failure is only logged.
    pub(super) async fn post_status(&self, bundle_sequence: u64) {
        let request = PostStatusRequest {
            current_bundle_serial: bundle_sequence,
            agent_version: super::AGENT_VERSION.into(),
        };
        let mut client = AgentClient::new(self.channel.clone());
        if let Err(error) = call::unary("PostStatus", client.post_status(request)).await {
            debug!(%error, "the server does not take our version");
        }
    }

    async fn round(&self, holdings: &Holdings) -> Result<Replacement, CallError> {
        let mut replacement = self.sync_entries(holdings).await?;
        let mut bundles = BundleClient::new(self.channel.clone());
        let own = call::unary("GetBundle", bundles.get_bundle(GetBundleRequest::default())).await?;
        let federated: Vec<_> = federated_after(holdings, &replacement)
            .into_iter()
            .map(|trust_domain| federated_bundle(bundles.clone(), trust_domain))
            .collect();
        replacement.bundles = stream::iter(federated)
            .buffer_unordered(PARALLEL_BUNDLES)
            .try_filter_map(async |b| Ok(b))
            .try_collect()
            .await?;
        replacement.bundles.push(own);
        Ok(replacement)
    }

    async fn sync_entries(&self, holdings: &Holdings) -> Result<Replacement, CallError> {
        // One: a request is sent only when the answer to the one before has come.
        let (requests, outgoing) = mpsc::channel(1);
        let first = SyncAuthorizedEntriesRequest {
            output_mask: Some(mask()),
            ids: vec![],
        };
        let closed = |_| CallError::new(SYNC, Status::unavailable("the server ended the stream"));
        requests.send(first).await.map_err(closed)?;
        let mut client = EntryClient::new(self.channel.clone());
        let opening = client.sync_authorized_entries(ReceiverStream::new(outgoing));
        let mut responses = call::unary(SYNC, opening).await?;

        let listed = read_pages(&mut responses).await?;
        let mut replacement = Replacement {
            fetched: listed.entries,
            ..Default::default()
        };
        let mut wanted = Vec::new();
        for known in listed.entry_revisions {
            let version = Version {
                revision_number: known.revision_number,
                created_at: known.created_at,
            };
            if holdings.version_of(&known.id) != Some(version) {
                wanted.push(known.id);
            } else if holdings.is_rejected(&known.id) {
                replacement.still_rejected.insert(known.id);
            } else if let Ok(id) = known.id.parse::<EntryId>() {
                replacement.kept.insert(id);
            }
        }
        for ids in wanted.chunks(BATCH) {
            let request = SyncAuthorizedEntriesRequest {
                output_mask: None,
                ids: ids.to_vec(),
            };
            requests.send(request).await.map_err(closed)?;
            replacement.fetched.extend(read_pages(&mut responses).await?.entries);
        }
        Ok(replacement)
    }
}

/// One answer, all pages of it.
async fn read_pages(
    responses: &mut Streaming<SyncAuthorizedEntriesResponse>,
) -> Result<SyncAuthorizedEntriesResponse, CallError> {
    let mut all = SyncAuthorizedEntriesResponse::default();
    loop {
        let page = tokio::time::timeout(CALL_TIMEOUT, responses.message())
            .await
            .map_err(|_| CallError::new(SYNC, Status::deadline_exceeded("the answer did not come in time")))?
            .map_err(|status| CallError::new(SYNC, status))?
            // Half an answer is none: taken as the whole it would withdraw identities.
            .ok_or_else(|| CallError::new(SYNC, Status::unavailable("the answer broke off")))?;
        all.entries.extend(page.entries);
        all.entry_revisions.extend(page.entry_revisions);
        if all.entries.len() + all.entry_revisions.len() > MAX_ENTRIES {
            return Err(CallError::malformed(SYNC, format!("more than {MAX_ENTRIES} entries")));
        }
        if !page.more {
            return Ok(all);
        }
    }
}

async fn federated_bundle(
    mut client: BundleClient<Channel>,
    trust_domain: TrustDomain,
) -> Result<Option<types::Bundle>, CallError> {
    let request = GetFederatedBundleRequest {
        trust_domain: trust_domain.to_string(),
        output_mask: None,
    };
    match call::unary("GetFederatedBundle", client.get_federated_bundle(request)).await {
        Ok(bundle) => Ok(Some(bundle)),
        Err(error) if error.code() == Code::NotFound => {
            debug!(%trust_domain, "the server has no bundle of this trust domain");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The foreign trust domains that entries will name once `replacement` is applied.
fn federated_after(holdings: &Holdings, replacement: &Replacement) -> BTreeSet<TrustDomain> {
    let view = holdings.view();
    let kept = view.entries().filter(|entry| replacement.kept.contains(&entry.id));
    let kept = kept.flat_map(|entry| entry.spec.federates_with.iter().cloned());
    let fetched = replacement.fetched.iter().flat_map(|entry| &entry.federates_with);
    kept.chain(fetched.filter_map(|name| TrustDomain::parse_folded(name).ok()))
        .collect()
}

/// All that an agent needs of an entry. The revision number has to be asked for.
fn mask() -> types::EntryMask {
    types::EntryMask {
        spiffe_id: true,
        parent_id: true,
        selectors: true,
        x509_svid_ttl: true,
        federates_with: true,
        admin: true,
        downstream: true,
        expires_at: true,
        dns_names: true,
        revision_number: true,
        store_svid: true,
        jwt_svid_ttl: true,
        hint: true,
        created_at: true,
        additional_attributes: true,
    }
}
