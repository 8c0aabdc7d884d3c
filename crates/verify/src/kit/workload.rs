//! Follows the SPIFFE Workload API: own SVIDs, bundles, revocation lists.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use mayfly_proto::spiffe::workload::spiffe_workload_api_client::SpiffeWorkloadApiClient;
use mayfly_proto::spiffe::workload::{X509svid, X509svidRequest, X509svidResponse};
use mayfly_runtime::{BackoffPolicy, CancellationToken, Chain};
use mayfly_svid::{Bundle, SpiffeId, X509Svid};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::sync::watch;
use tonic::{Code, Request, Status};
use tracing::{debug, warn};
use zeroize::Zeroizing;

use super::line::{Call, Line};
use super::own::{OwnSvid, OwnSvids};
use super::source::Progress;
use super::state::State;
use crate::resolver::certified;

/// Between two attempts to reach an agent: it is on this machine, and services wait for it.
pub(crate) const RECONNECT: BackoffPolicy = BackoffPolicy::new(Duration::from_millis(50), Duration::from_secs(5));
/// The largest message that is read.
pub(crate) const MESSAGE_MAX: usize = 64 * 1024 * 1024;

#[derive(Clone)]
pub(crate) struct Workload {
    line: Line,
    state: Arc<State>,
    progress: Arc<watch::Sender<Progress>>,
    /// The bundles of the last message.
    bundles: Arc<Mutex<Vec<Bundle>>>,
}

/// What one message says.
struct Material {
    own: OwnSvids,
    bundles: Vec<Bundle>,
    crls: Vec<Vec<u8>>,
}

/// Adds what the Workload API and its neighbours on the socket ask for (SPIFFE Workload Endpoint §4).
pub(crate) fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let yes = "true".parse().expect("a constant is a metadata value");
    request.metadata_mut().insert("workload.spiffe.io", yes);
    request
}

impl Workload {
    pub(crate) fn new(line: &Line, state: &Arc<State>, progress: &Arc<watch::Sender<Progress>>) -> Self {
        Self {
            line: line.clone(),
            state: Arc::clone(state),
            progress: Arc::clone(progress),
            bundles: Arc::default(),
        }
    }

    /// Runs until `stop`.
    pub(crate) async fn follow(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut backoff = RECONNECT.start();
        loop {
            let (mut heard, call) = (false, self.line.call());
            let ended = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                ended = self.stream(&call, &mut heard) => ended,
            };
            if heard {
                backoff.reset();
            }
            if let Err(status) = &ended {
                debug!(%status, "the workload api's stream ended");
                self.line.ended(&call, status);
                if status.code() == Code::PermissionDenied {
                    // No identity any more (SPIFFE Workload API §5.2.1).
                    self.withdraw();
                }
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = backoff.wait() => {}
            }
        }
    }

    async fn stream(&self, call: &Call, heard: &mut bool) -> Result<(), Status> {
        let mut client = SpiffeWorkloadApiClient::new(call.channel.clone()).max_decoding_message_size(MESSAGE_MAX);
        let request = with_header(X509svidRequest::default());
        let mut messages = client.fetch_x509svid(request).await?.into_inner();
        while let Some(message) = messages.message().await? {
            match read(message) {
                Ok(material) => {
                    self.publish(material);
                    *heard = true;
                }
                // Half of a message is not taken over: the last one stays.
                Err(error) => warn!(error = %Chain::of(&error), "a message of the workload api is ignored"),
            }
        }
        Ok(())
    }

    fn publish(&self, material: Material) {
        let Material { own, bundles, crls } = material;
        let mut had = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = *had != bundles;
        self.state.own.store(Arc::new(own));
        if changed {
            self.state.publish_bundles(&bundles, &had);
        }
        self.state.publish_crls(&crls, &bundles, changed);
        *had = bundles;
        self.progress.send_modify(|progress| progress.material = true);
    }

    fn withdraw(&self) {
        let trust_domain = self.state.own.load().trust_domain.clone();
        self.state.own.store(Arc::new(OwnSvids {
            trust_domain,
            svids: vec![],
        }));
    }
}

fn read(message: X509svidResponse) -> anyhow::Result<Material> {
    let X509svidResponse {
        svids,
        crl,
        federated_bundles,
    } = message;
    let mut bundles: Vec<Bundle> = Vec::new();
    // Own ones come last, and a trust domain that is there twice is told by the last.
    let mut add = |bundle: Bundle| {
        bundles.retain(|known| known.trust_domain != bundle.trust_domain);
        bundles.push(bundle);
    };
    for (name, der) in &federated_bundles {
        let name = if name.starts_with("spiffe://") {
            name.clone()
        } else {
            format!("spiffe://{name}")
        };
        let id: SpiffeId = name.parse().context("the name of a federated bundle")?;
        add(Bundle::from_concatenated_der(id.trust_domain(), der).with_context(|| format!("the bundle of {id}"))?);
    }
    let mut own = OwnSvids::default();
    for entry in svids {
        let (svid, bundle) = read_svid(entry)?;
        own.trust_domain
            .get_or_insert_with(|| svid.svid.spiffe_id().trust_domain());
        own.svids.push(svid);
        add(bundle);
    }
    anyhow::ensure!(!own.svids.is_empty(), "it has no SVID");
    Ok(Material {
        own,
        bundles,
        crls: crl,
    })
}

fn read_svid(entry: X509svid) -> anyhow::Result<(OwnSvid, Bundle)> {
    let X509svid {
        spiffe_id,
        x509_svid,
        x509_svid_key,
        bundle,
        hint,
    } = entry;
    let key = Zeroizing::new(x509_svid_key);
    let svid = X509Svid::from_concatenated_der(&x509_svid).with_context(|| format!("the SVID of {spiffe_id}"))?;
    anyhow::ensure!(
        svid.spiffe_id().as_str() == spiffe_id,
        "the SVID of {spiffe_id} names {}",
        svid.spiffe_id()
    );
    let key = certified(&svid, &PrivatePkcs8KeyDer::from(&key[..]))?;
    let bundle = Bundle::from_concatenated_der(svid.spiffe_id().trust_domain(), &bundle)
        .with_context(|| format!("the bundle of {spiffe_id}"))?;
    Ok((OwnSvid { svid, hint, key }, bundle))
}
