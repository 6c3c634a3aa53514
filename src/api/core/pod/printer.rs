//! A pod's row in `kubectl get`.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::podspec::is_sidecar;
use crate::access::*;
use crate::printers::{age_of, name_of, since};

pub(super) fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (obj(pod, "spec"), obj(pod, "status"));
    let summary = Summary::of(pod);
    let restarts = match (summary.restarts, &summary.last_restart) {
        (0, _) | (_, None) => summary.restarts.to_string(),
        (count, Some(time)) => format!("{count} ({} ago)", since(&time.to_string(), now)),
    };
    let or_none = |s: &str| if s.is_empty() { json!("<none>") } else { json!(s) };
    let ip = items(status, "podIPs").first().map_or("", |ip| text(ip, "ip"));
    vec![
        name_of(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.reason),
        json!(restarts),
        age_of(pod, now),
        or_none(ip),
        or_none(text(spec, "nodeName")),
        or_none(text(status, "nominatedNodeName")),
        json!(readiness_gates(spec, status)),
    ]
}

/// Finished pods are marked in the table so that clients can leave them out.
pub(super) fn row_conditions(pod: &Value) -> Vec<Value> {
    let (reason, message) = match text(obj(pod, "status"), "phase") {
        "Succeeded" => ("Succeeded", "The pod has completed successfully."),
        "Failed" => ("Failed", "The pod failed."),
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

struct Summary {
    ready: usize,
    total: usize,
    reason: String,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

/// Restarts and the latest time a container had ended before one.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count += int(container, "restartCount");
        let ended = obj(obj(container, "lastState"), "terminated");
        if let Ok(time) = text(ended, "finishedAt").parse::<Timestamp>() {
            self.last = self.last.max(Some(time));
        }
    }
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let (spec, status) = (obj(pod, "spec"), obj(pod, "status"));
        let phase = text(status, "phase");
        let mut reason = match text(status, "reason") {
            "" => phase.to_owned(),
            given => given.to_owned(),
        };
        let gated = |c: &Value| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated";
        if items(status, "conditions").iter().any(gated) {
            reason = "SchedulingGated".to_owned();
        }
        let inits = items(spec, "initContainers");
        let sidecar = |name: &str| inits.iter().any(|c| text(c, "name") == name && is_sidecar(c));
        let total = items(spec, "containers").len() + inits.iter().filter(|c| is_sidecar(c)).count();
        let mut ready = 0;
        let (mut all, mut of_sidecars) = (Restarts::default(), Restarts::default());
        let mut initializing = false;
        for (i, container) in items(status, "initContainerStatuses").iter().enumerate() {
            all.add(container);
            let is_sidecar = sidecar(text(container, "name"));
            if is_sidecar {
                of_sidecars.add(container);
            }
            let state = obj(container, "state");
            let ended = field(state, "terminated");
            if ended.is_some_and(|e| int(e, "exitCode") == 0) {
                continue;
            }
            if is_sidecar && flag(container, "started") {
                ready += usize::from(flag(container, "ready"));
                continue;
            }
            let waiting = text(obj(state, "waiting"), "reason");
            reason = if let Some(ended) = ended {
                format!("Init:{}", end_reason(ended))
            } else if !waiting.is_empty() && waiting != "PodInitializing" {
                format!("Init:{waiting}")
            } else {
                format!("Init:{i}/{}", inits.len())
            };
            initializing = true;
            break;
        }
        if !initializing || condition_is_true(status, "Initialized") {
            all = of_sidecars;
            let mut running = false;
            for container in items(status, "containerStatuses").iter().rev() {
                all.add(container);
                let state = obj(container, "state");
                let waiting = text(obj(state, "waiting"), "reason");
                if !waiting.is_empty() {
                    reason = waiting.to_owned();
                } else if let Some(ended) = field(state, "terminated") {
                    reason = end_reason(ended);
                } else if flag(container, "ready") && has(state, "running") {
                    running = true;
                    ready += 1;
                }
            }
            if reason == "Completed" && running {
                reason = if condition_is_true(status, "Ready") { "Running" } else { "NotReady" }.to_owned();
            }
        }
        if has(obj(pod, "metadata"), "deletionTimestamp") {
            if text(status, "reason") == "NodeLost" {
                reason = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                reason = "Terminating".to_owned();
            }
        }
        Self { ready, total, reason, restarts: all.count, last_restart: all.last }
    }
}

fn end_reason(ended: &Value) -> String {
    match (text(ended, "reason"), int(ended, "signal")) {
        ("", 0) => format!("ExitCode:{}", int(ended, "exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn condition_is_true(status: &Value, ty: &str) -> bool {
    items(status, "conditions").iter().any(|c| text(c, "type") == ty && text(c, "status") == "True")
}

fn readiness_gates(spec: &Value, status: &Value) -> String {
    let gates = items(spec, "readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates.iter().filter(|gate| {
        let ty = text(gate, "conditionType");
        let condition = items(status, "conditions").iter().find(|c| text(c, "type") == ty);
        condition.is_some_and(|c| text(c, "status") == "True")
    });
    format!("{}/{}", open.count(), gates.len())
}
