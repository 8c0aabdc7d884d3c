//! Counters of the witness.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What this agent knows of the server's log. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct WitnessMetrics {
    /// 1 while the log is refused.
    pub refused: Gauge,
    /// Entries of the log at the last checkpoint that was accepted.
    pub size: Gauge,
    /// Checkpoints that were cosigned.
    pub cosigned: Counter,
    /// Heads of the log that were refused.
    pub refusals: Counter,
    /// SVIDs of windows whose entry was shown.
    pub proven: Counter,
}

impl WitnessMetrics {
    /// Adds the counters to `registry` as `witness_…`.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            refused,
            size,
            cosigned,
            refusals,
            proven,
        } = self;
        let registry = registry.sub_registry_with_prefix("witness");
        registry.register("log_refused", "1 while the server's log is refused", refused.clone());
        registry.register(
            "log_entries",
            "Entries of the server's log that are vouched for",
            size.clone(),
        );
        registry.register(
            "cosigned",
            "Checkpoints of the server's log that were cosigned",
            cosigned.clone(),
        );
        registry.register(
            "proven",
            "SVIDs of windows that the server's log was shown to have where they say",
            proven.clone(),
        );
        registry.register(
            "refusals",
            "Heads of the server's log that were refused",
            refusals.clone(),
        );
    }
}
