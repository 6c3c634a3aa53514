//! What the server counts about its requests, under upstream's names.

use component_base::Metrics;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::attributes::RequestInfo;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Target {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlight {
    request_kind: &'static str,
}

/// `apiserver_request_total`, `apiserver_request_duration_seconds`, `apiserver_current_inflight_requests`.
pub struct RequestMetrics {
    total: Family<Outcome, Counter>,
    duration: Family<Target, Histogram>,
    in_flight: Family<InFlight, Gauge>,
}

/// A request under way; dropping it ends the count.
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RequestMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        let buckets = || Histogram::new([0.005, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]);
        Self {
            total: metrics.register(
                "apiserver_request",
                "Counter of apiserver requests broken out for each verb, group, version, resource, scope and HTTP response code",
                Family::default(),
            ),
            duration: metrics.register(
                "apiserver_request_duration_seconds",
                "Response latency distribution in seconds for each verb, group, version, resource, subresource and scope",
                Family::new_with_constructor(buckets as fn() -> Histogram),
            ),
            in_flight: metrics.register(
                "apiserver_current_inflight_requests",
                "Currently used inflight request limit of this apiserver",
                Family::default(),
            ),
        }
    }

    /// A request begins.
    pub fn begin(&self, info: &RequestInfo) -> Running {
        let reading = matches!(info.verb.as_str(), "get" | "list" | "watch");
        let labels = InFlight { request_kind: if reading { "readOnly" } else { "mutating" } };
        let gauge = self.in_flight.get_or_create_owned(&labels);
        gauge.inc();
        Running(gauge)
    }

    /// A request was answered with `code` after `seconds`. Only known resources are told apart, so that strangers
    /// cannot make up labels.
    pub fn end(&self, info: &RequestInfo, known: bool, code: u16, seconds: f64) {
        let text = |value: &str| if known { value.to_owned() } else { String::new() };
        let scope = match (known && info.is_resource, info.namespace.is_empty(), info.path_name().is_some()) {
            (false, ..) => "",
            (_, _, true) => "resource",
            (_, false, _) => "namespace",
            (_, true, _) => "cluster",
        };
        let verb = match info.verb.as_str() {
            "get" | "list" | "watch" | "create" | "update" | "patch" | "delete" | "deletecollection" | "post"
            | "put" | "head" | "options" => info.verb.to_ascii_uppercase(),
            _ => "OTHER".to_owned(),
        };
        let target = Target {
            verb,
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: text(&info.subresource),
            scope: scope.to_owned(),
        };
        if target.verb != "WATCH" {
            self.duration.get_or_create(&target).observe(seconds);
        }
        let Target { verb, group, version, resource, subresource, scope } = target;
        self.total.get_or_create(&Outcome { verb, group, version, resource, subresource, scope, code }).inc();
    }
}
