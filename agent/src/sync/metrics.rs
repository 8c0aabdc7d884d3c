//! Counters of the connection to the server.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// How it stands between us and the server. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct SyncMetrics {
    /// 1 while the server is followed, by watch stream or by polling.
    pub connected: Gauge,
    /// Revision of the picture; 0 when it came by polling.
    pub revision: Gauge,
    /// Entries in the picture.
    pub entries: Gauge,
    /// End of the agent's own SVID, Unix seconds.
    pub own_svid_not_after: Gauge,
    /// Connections that were lost or could not be made.
    pub disconnects: Counter,
    /// Times that everything was asked for because the two sides held different things.
    pub resyncs: Counter,
    /// Attestations and renewals that failed.
    pub renewal_failures: Counter,
}

impl SyncMetrics {
    /// Adds the counters to `registry` as `sync_…`.
    pub fn register(&self, registry: &mut Registry) {
        let Self {
            connected,
            revision,
            entries,
            own_svid_not_after,
            disconnects,
            resyncs,
            renewal_failures,
        } = self;
        let registry = registry.sub_registry_with_prefix("sync");
        registry.register("connected", "1 while the server is followed", connected.clone());
        registry.register(
            "revision",
            "Revision of the picture, 0 if it came by polling",
            revision.clone(),
        );
        registry.register("entries", "Entries in the picture", entries.clone());
        let text = "End of the agent's own SVID, Unix seconds";
        registry.register("own_svid_not_after_timestamp_seconds", text, own_svid_not_after.clone());
        registry.register("disconnects", "Connections lost or not made", disconnects.clone());
        registry.register("resyncs", "Times that everything was asked for anew", resyncs.clone());
        registry.register(
            "renewal_failures",
            "Attestations and renewals that failed",
            renewal_failures.clone(),
        );
    }
}
