//! `/metrics/resource` and `/metrics/cadvisor`: a snapshot in Prometheus' text format, under upstream's names.
//!
//! Invariants:
//! - KP-1: every family is written once, with its help and type, and only when it has samples.

use std::fmt::Write as _;

use super::stats::{ContainerUse, PodUse, Snapshot};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Collects families in order.
struct Page {
    out: String,
    /// Milliseconds since the epoch, behind every sample.
    time: i64,
}

struct Family<'a> {
    page: &'a mut Page,
    name: &'static str,
    header: Option<(&'static str, &'static str)>,
}

impl Page {
    fn new(snapshot: &Snapshot) -> Self {
        Self { out: String::new(), time: snapshot.time.as_millisecond() }
    }

    fn family(&mut self, name: &'static str, kind: &'static str, help: &'static str) -> Family<'_> {
        Family { page: self, name, header: Some((kind, help)) }
    }
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: f64) {
        let out = &mut self.page.out;
        // Writing to a string cannot fail.
        if let Some((kind, help)) = self.header.take() {
            let _ = write!(out, "# HELP {0} {help}\n# TYPE {0} {kind}\n", self.name);
        }
        out.push_str(self.name);
        if !labels.is_empty() {
            let labels: Vec<String> =
                labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escape(value))).collect();
            let _ = write!(out, "{{{}}}", labels.join(","));
        }
        let _ = writeln!(out, " {value} {}", self.page.time);
    }
}

fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

fn containers(snapshot: &Snapshot) -> impl Iterator<Item = (&PodUse, &ContainerUse)> {
    snapshot.pods.iter().flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)))
}

/// What metrics-server reads.
pub fn resource(snapshot: &Snapshot) -> String {
    let mut page = Page::new(snapshot);
    let of = |pod: &PodUse, container: &ContainerUse| {
        [("container", container.name.clone()), ("namespace", pod.namespace.clone()), ("pod", pod.name.clone())]
    };
    let labels = |owned: &[(&'static str, String)], family: &mut Family<'_>, value: f64| {
        let labels: Vec<(&str, &str)> = owned.iter().map(|(key, value)| (*key, value.as_str())).collect();
        family.sample(&labels, value);
    };
    let mut family = page.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    for (pod, c) in containers(snapshot) {
        labels(&of(pod, c), &mut family, seconds(c.cpu.total_nanoseconds));
    }
    let mut family = page.family(
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    for (pod, c) in containers(snapshot) {
        labels(&of(pod, c), &mut family, c.memory.working_set as f64);
    }
    let mut family = page.family(
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    for (pod, c) in containers(snapshot) {
        if let Some(started) = c.started {
            labels(&of(pod, c), &mut family, started.as_millisecond() as f64 / 1e3);
        }
    }
    let mut family = page.family(
        "container_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems",
    );
    for (pod, c) in containers(snapshot) {
        if let Some(swap) = c.swap {
            labels(&of(pod, c), &mut family, swap as f64);
        }
    }
    let machine = &snapshot.machine;
    page.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    )
    .sample(&[], seconds(machine.cpu_nanoseconds));
    page.family("node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes")
        .sample(&[], machine.working_set as f64);
    page.family(
        "node_swap_usage_bytes",
        "gauge",
        "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems",
    )
    .sample(&[], machine.swap_total.saturating_sub(machine.swap_free) as f64);
    let mut family = page.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for pod in &snapshot.pods {
        let value = seconds(pod.cpu.total_nanoseconds);
        family.sample(&[("namespace", &pod.namespace), ("pod", &pod.name)], value);
    }
    let mut family =
        page.family("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    for pod in &snapshot.pods {
        family.sample(&[("namespace", &pod.namespace), ("pod", &pod.name)], pod.memory.working_set as f64);
    }
    let mut out = page.out;
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    let _ = write!(
        out,
        "# HELP resource_scrape_error {help}\n# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n"
    );
    out
}

type OfContainer = fn(&ContainerUse) -> Option<f64>;

/// cAdvisor's families of containers: name, type, help, value.
const CONTAINER_FAMILIES: &[(&str, &str, &str, OfContainer)] = &[
    (
        "container_fs_usage_bytes",
        "gauge",
        "Number of bytes that are consumed by the container on this filesystem.",
        |c| Some(c.root_bytes as f64),
    ),
    ("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", |c| {
        Some(c.memory.major_page_faults as f64)
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |c| Some(c.memory.rss as f64)),
    (
        "container_memory_usage_bytes",
        "gauge",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |c| Some(c.memory.usage as f64),
    ),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |c| {
        Some(c.memory.working_set as f64)
    }),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |c| Some(c.memory_limit as f64)),
    ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", |c| {
        c.started.map(|t| t.as_second() as f64)
    }),
];

/// The families of cAdvisor that dashboards and alerts use.
pub fn cadvisor(snapshot: &Snapshot, kernel: &str, version: &str) -> String {
    let mut page = Page::new(snapshot);
    page.family("cadvisor_version_info", "gauge", "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.")
        .sample(&[("cadvisorVersion", version), ("kernelVersion", kernel)], 1.0);
    let labels = |pod: &PodUse, c: &ContainerUse, extra: &[(&str, &str)], family: &mut Family<'_>, value: f64| {
        let mut all = vec![
            ("container", c.name.as_str()),
            ("id", c.id.as_str()),
            ("image", c.image.as_str()),
            ("name", c.id.as_str()),
            ("namespace", pod.namespace.as_str()),
            ("pod", pod.name.as_str()),
        ];
        all.extend_from_slice(extra);
        all.sort_unstable();
        family.sample(&all, value);
    };
    let mut family =
        page.family("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.");
    for (pod, c) in containers(snapshot) {
        labels(pod, c, &[("cpu", "total")], &mut family, seconds(c.cpu.total_nanoseconds));
    }
    let mut family = page.family("container_last_seen", "gauge", "Last time a container was seen by the exporter");
    for (pod, c) in containers(snapshot) {
        labels(pod, c, &[], &mut family, snapshot.time.as_second() as f64);
    }
    for (name, kind, help, value) in CONTAINER_FAMILIES {
        let mut family = page.family(name, kind, help);
        for (pod, c) in containers(snapshot) {
            // Failures are told by their kind.
            let extra: &[(&str, &str)] = match *name {
                "container_memory_failures_total" => &[("failure_type", "pgmajfault"), ("scope", "container")],
                _ => &[],
            };
            if let Some(value) = value(c) {
                labels(pod, c, extra, &mut family, value);
            }
        }
    }
    network(&mut page, snapshot);
    let mut family = page.family("container_processes", "gauge", "Number of processes running inside the container.");
    for pod in &snapshot.pods {
        if let Some(count) = pod.processes {
            family.sample(&of_sandbox(pod), count as f64);
        }
    }
    page.family("machine_cpu_cores", "gauge", "Number of logical CPU cores.")
        .sample(&[], snapshot.machine.cores as f64);
    page.family("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.")
        .sample(&[], snapshot.machine.memory_total as f64);
    page.out
}

fn of_sandbox(pod: &PodUse) -> Vec<(&str, &str)> {
    vec![
        ("container", ""),
        ("id", &pod.sandbox),
        ("image", ""),
        ("name", &pod.sandbox),
        ("namespace", &pod.namespace),
        ("pod", &pod.name),
    ]
}

fn network(page: &mut Page, snapshot: &Snapshot) {
    type OfInterface = fn(&super::machine::Interface) -> u64;
    let families: [(&str, &str, OfInterface); 4] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |i| i.rx_bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |i| {
            i.rx_errors
        }),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |i| i.tx_bytes),
        ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |i| {
            i.tx_errors
        }),
    ];
    for (name, help, value) in families {
        let mut family = page.family(name, "counter", help);
        for pod in &snapshot.pods {
            for interface in &pod.interfaces {
                let mut labels = of_sandbox(pod);
                labels.insert(3, ("interface", &interface.name));
                family.sample(&labels, value(interface) as f64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::stats::{Cpu, Memory};

    #[test]
    fn families_once_and_labels_escaped() {
        let container = ContainerUse {
            id: "abc".into(),
            name: "app".into(),
            cpu: Cpu { total_nanoseconds: 1_500_000_000, ..Cpu::default() },
            memory: Memory { working_set: 42, ..Memory::default() },
            ..ContainerUse::default()
        };
        let pod =
            PodUse { namespace: "n\"s".into(), name: "p".into(), containers: vec![container], ..PodUse::default() };
        let snapshot = Snapshot { pods: vec![pod.clone(), pod], ..Snapshot::default() };
        let text = resource(&snapshot);
        assert!(
            text.starts_with(
                "# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds\n\
                 # TYPE container_cpu_usage_seconds_total counter\n\
                 container_cpu_usage_seconds_total{container=\"app\",namespace=\"n\\\"s\",pod=\"p\"} 1.5 0\n"
            ),
            "{text}"
        );
        assert_eq!(text.matches("# TYPE container_memory_working_set_bytes").count(), 1);
        assert!(!text.contains("container_start_time_seconds"), "a family without samples");
        let text = cadvisor(&snapshot, "6.1", "v1");
        assert!(
            text.contains("container_memory_working_set_bytes{container=\"app\",id=\"abc\",image=\"\",name=\"abc\",")
        );
    }
}
