//! Counters of calls. Labels are closed sets: names of our methods, names of codes.

use mayfly_proto::status::code_name;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tonic::Code;

/// Upper ends, in seconds.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MethodLabels {
    pub(super) service: &'static str,
    pub(super) method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    service: &'static str,
    method: &'static str,
    code: &'static str,
}

/// What has been called, how it ended, how long it took. Clones count together.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    open: Family<MethodLabels, Gauge>,
    ended: Family<EndLabels, Counter>,
    seconds: Family<MethodLabels, Histogram, fn() -> Histogram>,
}

impl ApiMetrics {
    /// Adds `rpc_open`, `rpc_total` and `rpc_seconds` to `registry`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("rpc_open", "Calls that are being answered", self.open.clone());
        registry.register("rpc", "Calls that ended, by code", self.ended.clone());
        registry.register(
            "rpc_seconds",
            "Time from a call's headers to its end",
            self.seconds.clone(),
        );
    }

    pub(super) fn began(&self, labels: &MethodLabels) {
        self.open.get_or_create(labels).inc();
    }

    pub(super) fn ended(&self, labels: &MethodLabels, code: Code, seconds: f64) {
        self.open.get_or_create(labels).dec();
        let MethodLabels { service, method } = labels;
        self.ended
            .get_or_create(&EndLabels {
                service,
                method,
                code: code_name(code),
            })
            .inc();
        self.seconds.get_or_create(labels).observe(seconds);
    }

    /// How many calls ended so.
    #[cfg(test)]
    pub(super) fn count(&self, service: &'static str, method: &'static str, code: Code) -> u64 {
        self.ended
            .get_or_create(&EndLabels {
                service,
                method,
                code: code_name(code),
            })
            .get()
    }
}

impl Default for ApiMetrics {
    fn default() -> Self {
        Self {
            open: Family::default(),
            ended: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}
