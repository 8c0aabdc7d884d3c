//! Counters of the SVID worker.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Failure;

/// What the worker has done. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct SvidMetrics {
    /// SVIDs that are held, with their keys.
    pub held: Gauge,
    /// SVIDs that were asked for and are not here yet.
    pub in_flight: Gauge,
    /// SVIDs received and taken, renewals included.
    pub issued: Counter,
    /// Attempts that brought no SVID, by reason.
    pub failed: Family<FailureLabel, Counter>,
    /// SVIDs that ended before a new one had come.
    pub ended_early: Counter,
}

/// Label of [`SvidMetrics::failed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabel {
    /// Why.
    pub reason: Failure,
}

impl EncodeLabelValue for Failure {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>) -> std::fmt::Result {
        let text = match self {
            Self::ServerAway => "server_away",
            Self::Denied => "denied",
            Self::Faulty => "faulty",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}

impl SvidMetrics {
    /// Adds the counters to `registry` as `svid_…`.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            held,
            in_flight,
            issued,
            failed,
            ended_early,
        } = self;
        let registry = registry.sub_registry_with_prefix("svid");
        registry.register("held", "X.509-SVIDs held with their keys", held.clone());
        registry.register("in_flight", "X.509-SVIDs asked for", in_flight.clone());
        registry.register("issued", "X.509-SVIDs received and taken", issued.clone());
        registry.register("failed", "Attempts that brought no X.509-SVID", failed.clone());
        registry.register(
            "ended_early",
            "X.509-SVIDs that ended before a new one came",
            ended_early.clone(),
        );
    }

    pub(super) fn count_failure(&self, reason: Failure) {
        self.failed.get_or_create(&FailureLabel { reason }).inc();
    }
}
