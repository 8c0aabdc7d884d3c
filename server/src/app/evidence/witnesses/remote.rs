//! Witnesses elsewhere, which the settings name: each is sent every checkpoint, in the background.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use mayfly_runtime::{Backoff, BackoffPolicy, CancellationToken, Chain};
use mayfly_tlog::checkpoint::SignedCheckpoint;
use mayfly_tlog::cosignature;
use mayfly_tlog::note::{Note, Signature, VerifierKey};
use mayfly_tlog::witness::AddCheckpoint;
use tracing::{debug, info, warn};

use super::post::{PostError, WitnessUrl};
use super::{Head, Label, Witnesses};
use crate::app::evidence::EvidenceError;

/// After a failure.
const RETRY: BackoffPolicy = BackoffPolicy::new(Duration::from_secs(1), Duration::from_secs(60));
/// Between two checkpoints for one witness.
const GAP: Duration = Duration::from_secs(1);
/// The same checkpoint is cosigned again after so long: that a witness is there should show while nothing happens, too.
const AGAIN: Duration = Duration::from_secs(300);

/// A witness of the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteWitness {
    /// Where it takes checkpoints.
    pub url: WitnessUrl,
    /// What it cosigns by.
    pub key: VerifierKey,
}

/// There is no cosignature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum RemoteError {
    #[error(transparent)]
    Post(#[from] PostError),
    #[error("the log cannot be read")]
    Log(#[from] EvidenceError),
    /// By the letter of the protocol.
    #[error("{}: {said}", meaning(*.status))]
    Refused { status: u16, said: String },
    #[error("it knows {known} entries of this log, which has {size}: it was shown more than there is")]
    Ahead { known: u64, size: u64 },
    #[error("it contradicts itself about the size that it knows")]
    Conflicts,
    #[error("its answer has no cosignature by the key of the settings")]
    NoSignature,
}

fn meaning(status: u16) -> &'static str {
    match status {
        400 => "it cannot read what it was sent (400)",
        403 => "it knows this log by another key (403): have it take the present one",
        404 => "it does not witness this log (404): have it take the log's key, from /log/keys",
        422 => "it has seen ANOTHER PAST of this log (422)",
        _ => "it answers what no witness does",
    }
}

impl Witnesses {
    /// Sends each checkpoint to `witness`, until it is told to stop. Failures are tried again.
    pub async fn follow(self: Arc<Self>, witness: RemoteWitness, stop: CancellationToken) {
        let mut published = self.evidence.subscribe();
        let mut backoff = RETRY.start();
        let mut known = 0;
        let label = Label {
            witness: witness.key.name().to_owned(),
        };
        self.metrics.cosigned.get_or_create(&label).set(0);
        let mut has_cosigned = false;
        loop {
            published.borrow_and_update();
            let pause = tokio::select! {
                () = stop.cancelled() => return,
                pushed = self.push(&witness, &mut known) => match pushed {
                    Ok(at) => {
                        if !has_cosigned {
                            info!(witness = label.witness, url = %witness.url, size = known, "the witness cosigns");
                        }
                        has_cosigned = true;
                        backoff.reset();
                        self.metrics.cosigned.get_or_create(&label).set(i64::try_from(at).unwrap_or(i64::MAX));
                        GAP
                    }
                    Err(failure) => {
                        self.metrics.failures.get_or_create(&label).inc();
                        self.failed(&witness, &failure, &mut has_cosigned, &mut backoff).await
                    }
                },
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            if pause == GAP {
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = published.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(AGAIN) => {}
                }
            }
        }
    }

    pub(super) async fn failed(
        &self,
        witness: &RemoteWitness,
        failure: &RemoteError,
        has_cosigned: &mut bool,
        backoff: &mut Backoff,
    ) -> Duration {
        let pause = backoff.next_delay();
        let (name, url, retry_in_ms) = (witness.key.name(), &witness.url, pause.as_millis());
        warn!(witness = name, %url, error = %Chain(failure), retry_in_ms, "a witness does not cosign the log");
        *has_cosigned = false;
        let is_about_the_log = matches!(
            failure,
            RemoteError::Ahead { .. } | RemoteError::Refused { status: 422, .. }
        );
        if is_about_the_log {
            self.metrics.refusals.inc();
            // Its word alone proves nothing. What this log itself has signed does.
            if let Err(error) = self.compare_with(witness).await {
                debug!(witness = name, error = %Chain(&error), "what the witness knows cannot be looked at");
            }
        }
        pause
    }

    /// Sends the newest checkpoint; the time of the cosignature.
    pub(super) async fn push(&self, witness: &RemoteWitness, known: &mut u64) -> Result<u64, RemoteError> {
        for _ in 0..3 {
            let head = self.head(*known).await?;
            if head.from != *known {
                let ahead = RemoteError::Ahead {
                    known: *known,
                    size: head.size,
                };
                *known = 0;
                return Err(ahead);
            }
            let note = Note::parse(&head.note).expect("it was made of a note");
            let request =
                AddCheckpoint::new(head.from, head.proof.to_vec(), note).expect("a proof is as long as it may be");
            let body = request.to_string().into_bytes();
            let (status, said) = witness.url.ask(Method::POST, "add-checkpoint", body).await?;
            match status {
                200 => {
                    let at = self.take(witness, &head, &said).await?;
                    *known = head.size;
                    return Ok(at);
                }
                409 => {
                    let size = std::str::from_utf8(&said)
                        .ok()
                        .and_then(|text| text.trim_end().parse().ok());
                    *known = size.ok_or(RemoteError::Conflicts)?;
                }
                status => {
                    let said = String::from_utf8_lossy(&said)
                        .chars()
                        .filter(|c| !c.is_control())
                        .take(200)
                        .collect();
                    return Err(RemoteError::Refused { status, said });
                }
            }
        }
        Err(RemoteError::Conflicts)
    }

    async fn take(&self, witness: &RemoteWitness, head: &Head, said: &[u8]) -> Result<u64, RemoteError> {
        let note = Note::parse(&head.note).expect("it was made of a note");
        let signatures = Signature::parse_all(said).map_err(|_| RemoteError::NoSignature)?;
        let verified = signatures.into_iter().find_map(|signature| {
            let at = cosignature::verify(&witness.key, note.text(), &signature).ok()?;
            Some((at, signature))
        });
        let (at, signature) = verified.ok_or(RemoteError::NoSignature)?;
        let who = mayfly_model::Actor::server().who;
        // The settings name it, however many keys it has had.
        let entered = self.register_key(&witness.key, who, usize::MAX).await;
        // The entry itself makes a larger checkpoint, which covers it.
        if entered.is_some_and(|index| index < head.size) {
            // If a larger one is shown by now, the next cosignature is of that.
            let _ = self.evidence.add_cosignature(head.size, &witness.key, signature);
        }
        Ok(at)
    }

    /// Looks at the checkpoint that a witness has, which this log may have signed.
    async fn compare_with(&self, witness: &RemoteWitness) -> Result<(), RemoteError> {
        use aws_lc_rs::digest::{SHA256, digest};
        let origin = hex::encode(digest(&SHA256, self.evidence.origin().as_bytes()));
        let path = format!("{origin}/checkpoint");
        let (status, said) = witness.url.ask(Method::GET, &path, vec![]).await?;
        if status == 200
            && let Ok(shown) = SignedCheckpoint::open(&said, &self.evidence.verifier_keys())
            && shown.origin() == self.evidence.origin()
        {
            self.compare(witness.key.name(), &shown).await?;
        }
        Ok(())
    }
}
