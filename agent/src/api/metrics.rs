//! Counters of the Workload API.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// What the Workload API has seen. Clones count together.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    /// Streams that are open.
    pub streams_open: Gauge,
    /// Messages sent.
    pub messages: Counter,
    /// Calls and streams that the agent ended, by reason.
    pub refused: Family<RefusalLabel, Counter>,
    /// Seconds that an attestation took.
    pub attestation_seconds: Histogram,
    /// Seconds from a call to its first message.
    pub first_message_seconds: Histogram,
}

/// Label of [`ApiMetrics::refused`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RefusalLabel {
    /// Why.
    pub reason: Refusal,
}

/// Why a call or stream was ended by the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The security header is missing or wrong.
    Header,
    /// No entry matches the caller.
    NoIdentity,
    /// The server does not let this agent have the SVIDs of the entries that match.
    Denied,
    /// The process ended or changed.
    CallerOver,
    /// The caller could not be attested.
    Attestation,
    /// Too many streams or attestations.
    Overload,
    /// The agent has not heard the server yet.
    NotSynced,
    /// There is an identity and no SVID for it.
    NoSvid,
    /// The agent is stopping, or the connection is being closed.
    Draining,
    /// Our fault.
    Internal,
}

impl Default for ApiMetrics {
    fn default() -> Self {
        // 0.5 ms to 16 s
        let seconds = || Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        Self {
            streams_open: Gauge::default(),
            messages: Counter::default(),
            refused: Family::default(),
            attestation_seconds: seconds(),
            first_message_seconds: seconds(),
        }
    }
}

impl ApiMetrics {
    /// Adds the counters to `registry` as `workload_api_…`.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            streams_open,
            messages,
            refused,
            attestation_seconds,
            first_message_seconds,
        } = self;
        let registry = registry.sub_registry_with_prefix("workload_api");
        registry.register("streams_open", "Streams that are open", streams_open.clone());
        registry.register("messages", "Messages sent", messages.clone());
        registry.register("refused", "Calls and streams ended by the agent", refused.clone());
        registry.register(
            "attestation_seconds",
            "Time an attestation took",
            attestation_seconds.clone(),
        );
        registry.register(
            "first_message_seconds",
            "Time from a call to its first message",
            first_message_seconds.clone(),
        );
    }

    pub(super) fn count_refusal(&self, reason: Refusal) {
        self.refused.get_or_create(&RefusalLabel { reason }).inc();
    }
}

impl EncodeLabelValue for Refusal {
    fn encode(&self, encoder: &mut prometheus_client::encoding::LabelValueEncoder<'_>) -> std::fmt::Result {
        let text = match self {
            Self::Header => "header",
            Self::NoIdentity => "no_identity",
            Self::Denied => "denied",
            Self::CallerOver => "caller_over",
            Self::Attestation => "attestation",
            Self::Overload => "overload",
            Self::NotSynced => "not_synced",
            Self::NoSvid => "no_svid",
            Self::Draining => "draining",
            Self::Internal => "internal",
        };
        EncodeLabelValue::encode(&text, encoder)
    }
}
