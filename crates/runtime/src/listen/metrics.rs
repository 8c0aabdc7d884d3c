//! Counters of one listener.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What a listener has seen. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct ListenMetrics {
    /// Connections that are open now.
    pub open: Gauge,
    /// Connections that were let in.
    pub accepted: Counter,
    /// Connections that were closed at once because the listener was full.
    pub refused_limit: Counter,
    /// Connections that were closed at once because their peer had too many.
    pub refused_peer_limit: Counter,
    /// Connections that failed in the acceptor or did not get through it in time.
    pub handshake_failures: Counter,
    /// Errors of `accept`.
    pub accept_errors: Counter,
}

/// One open connection, until dropped.
#[derive(Debug)]
pub(super) struct Opened(Gauge);

// === impl ListenMetrics ===

impl ListenMetrics {
    /// Adds the counters to `registry` as `<prefix>_connections_open`, `<prefix>_connections_accepted_total` and so on.
    pub fn register(&self, registry: &mut Registry, prefix: &str) {
        let Self {
            open,
            accepted,
            refused_limit,
            refused_peer_limit,
            handshake_failures,
            accept_errors,
        } = self;
        let registry = registry.sub_registry_with_prefix(prefix);
        registry.register("connections_open", "Connections that are open", open.clone());
        registry.register("connections_accepted", "Connections let in", accepted.clone());
        registry.register(
            "connections_refused_limit",
            "Connections refused: listener full",
            refused_limit.clone(),
        );
        registry.register(
            "connections_refused_peer_limit",
            "Connections refused: too many of one peer",
            refused_peer_limit.clone(),
        );
        registry.register(
            "handshake_failures",
            "Connections failed before HTTP",
            handshake_failures.clone(),
        );
        registry.register("accept_errors", "Errors of accept", accept_errors.clone());
    }

    pub(super) fn opened(&self) -> Opened {
        self.open.inc();
        Opened(self.open.clone())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.dec();
    }
}
