//! One Prometheus registry for the process, rendered in the text format.

use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus_client::registry::{Metric, Registry};

/// Shared metrics registry. Names follow upstream's where the same thing is measured.
#[derive(Clone, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers `metric` (it is cheap to clone and shared) and gives it back.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.registry.lock().register(name, help, metric.clone());
        metric
    }

    /// The whole registry as text (OpenMetrics exposition).
    pub fn render(&self) -> String {
        let mut out = String::new();
        if prometheus_client::encoding::text::encode(&mut out, &self.registry.lock()).is_err() {
            let _ = writeln!(out, "# encoding failed");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn renders_what_was_registered() {
        let metrics = Metrics::new();
        let counter: Counter = metrics.register("apiserver_requests", "Requests served", Counter::default());
        counter.inc();
        assert!(metrics.render().contains("apiserver_requests_total 1"));
    }
}
