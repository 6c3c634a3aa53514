//! Pod.
//!
//! Invariants:
//! - PO-1: an update of the pod keeps its status, an update of `status` keeps its spec, an update of
//!   `ephemeralcontainers` or `resize` keeps everything those do not own.
//! - PO-2: `metadata.generation` grows exactly when the spec changes.

mod binding;
mod printer;
mod skew;
mod update;

use std::cmp::Ordering;

use apimachinery::validation::{ErrorList, Path};
use serde_json::{Value, json};

use super::podspec::{self, Scope as SpecScope};
use crate::access::*;
use crate::apps::template::name_warning;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::columns_of;

pub use binding::{BindError, apply_binding, validate_binding};

pub struct Pod;

pub fn kind() -> Kind {
    const UPDATE: &[&str] = &["get", "patch", "update"];
    const CONNECT: &[&str] = &["create", "get"];
    Kind::builtin("v1", "Pod", "pods", Scope::Namespaced, "io.k8s.api.core.v1.Pod", Pod)
        .with_short_names(&["po"])
        .with_categories(&["all"])
        .with_subresource("attach", "v1", "PodAttachOptions", CONNECT)
        .with_subresource("binding", "v1", "Binding", &["create"])
        .with_subresource("ephemeralcontainers", "v1", "Pod", UPDATE)
        .with_subresource("eviction", "policy/v1", "Eviction", &["create"])
        .with_subresource("exec", "v1", "PodExecOptions", CONNECT)
        .with_subresource("log", "v1", "Pod", &["get"])
        .with_subresource("portforward", "v1", "PodPortForwardOptions", CONNECT)
        .with_subresource("proxy", "v1", "PodProxyOptions", &["create", "delete", "get", "patch", "update"])
        .with_subresource("resize", "v1", "Pod", UPDATE)
        .with_subresource("status", "v1", "Pod", UPDATE)
}

impl Strategy for Pod {
    fn default(&self, pod: &mut Value) {
        podspec::drop_init_container_annotations(pod);
        ensure_map(pod, "spec");
        if let Some(spec) = pod.get_mut("spec") {
            podspec::default_spec(spec);
            podspec::default_pod_only(spec);
        }
        ensure_map(pod, "status");
        if let Some(status) = pod.get_mut("status") {
            default_status_ips(status);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, pod: &mut Value) {
        if let Some(meta) = ensure_map(pod, "metadata") {
            meta.insert("generation".to_owned(), json!(1));
        }
        let mut status = json!({"phase": "Pending", "qosClass": podspec::qos_class(obj(pod, "spec"))});
        if !items(obj(pod, "spec"), "schedulingGates").is_empty() {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "observedGeneration": 1,
                "lastProbeTime": null,
                "lastTransitionTime": null,
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        set(pod, "status", status);
        drop_disabled(pod);
        skew::merge_label_keys(pod);
        skew::sync_app_armor(pod);
    }

    fn prepare_for_update(&self, cx: &RequestContext, pod: &mut Value, old: &Value) {
        drop_disabled(pod);
        match cx.subresource.as_str() {
            "status" => update::keep_for_status(pod, old),
            "ephemeralcontainers" => update::keep_for_ephemeral(pod, old),
            "resize" => update::keep_for_resize(pod, old),
            _ => {
                copy_field(pod, old, "status");
            }
        }
        let before = int(obj(old, "metadata"), "generation");
        let changed = !same(obj(pod, "spec"), obj(old, "spec"));
        let generation = if changed { before + 1 } else { before };
        if let Some(meta) = pod.get_mut("metadata") {
            if generation == 0 {
                remove(meta, "generation");
            } else {
                set(meta, "generation", generation);
            }
        }
    }

    fn validate(&self, _cx: &RequestContext, pod: &Value) -> ErrorList {
        let spec = obj(pod, "spec");
        let path = Path::new("spec");
        let mut errors = podspec::validate_pod(pod);
        if !items(spec, "ephemeralContainers").is_empty() {
            errors.forbidden(path.child("ephemeralContainers"), "cannot be set on create");
        }
        if !text(spec, "nodeName").is_empty() && !items(spec, "schedulingGates").is_empty() {
            errors.forbidden(path.child("nodeName"), "cannot be set until all schedulingGates have been cleared");
        }
        let metadata = obj(pod, "metadata");
        errors.extend(podspec::validate_seccomp_and_app_armor_match(metadata, spec, &path, SpecScope::Pod));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, pod: &Value, old: &Value) -> ErrorList {
        match cx.subresource.as_str() {
            "status" => update::validate_status(pod, old),
            "ephemeralcontainers" => update::validate_ephemeral(pod, old),
            "resize" => update::validate_resize(pod, old),
            _ => update::validate(pod, old),
        }
    }

    fn warnings(&self, _cx: &RequestContext, pod: &Value, old: Option<&Value>) -> Vec<String> {
        // Pods are updated often and rarely by hand: upstream looks at new ones only.
        if old.is_some() {
            return Vec::new();
        }
        let what = "the Pod's hostname, which can result in surprising behavior";
        let mut out: Vec<String> = name_warning(text(obj(pod, "metadata"), "name"), what).into_iter().collect();
        out.extend(podspec::warnings(pod, SpecScope::Pod, &Path::nil()));
        out
    }

    fn early_warnings(&self, _cx: &RequestContext, pod: &Value) -> Vec<String> {
        skew::app_armor_warnings(pod)
    }

    fn selectable_fields(&self, pod: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (obj(pod, "spec"), obj(pod, "status"));
        let ip = match items(status, "podIPs").first() {
            Some(first) => text(first, "ip"),
            None => text(status, "podIP"),
        };
        vec![
            ("spec.nodeName", text(spec, "nodeName").to_owned()),
            ("spec.restartPolicy", text(spec, "restartPolicy").to_owned()),
            ("spec.schedulerName", text(spec, "schedulerName").to_owned()),
            ("spec.serviceAccountName", text(spec, "serviceAccountName").to_owned()),
            ("spec.hostNetwork", flag(spec, "hostNetwork").to_string()),
            ("status.phase", text(status, "phase").to_owned()),
            ("status.podIP", ip.to_owned()),
            ("status.nominatedNodeName", text(status, "nominatedNodeName").to_owned()),
        ]
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn grace_period(&self, pod: &Value, requested: Option<i64>) -> Option<i64> {
        let spec = obj(pod, "spec");
        let wanted = requested.or(opt_int(spec, "terminationGracePeriodSeconds")).unwrap_or(0);
        let finished = matches!(text(obj(pod, "status"), "phase"), "Succeeded" | "Failed");
        if text(spec, "nodeName").is_empty() || finished {
            return Some(0);
        }
        Some(match wanted.cmp(&0) {
            Ordering::Less => 1,
            _ => wanted,
        })
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/pods")
    }

    fn row(&self, pod: &Value, now: jiff::Timestamp) -> Vec<Value> {
        printer::row(pod, now)
    }

    fn row_conditions(&self, pod: &Value) -> Vec<Value> {
        printer::row_conditions(pod)
    }
}

/// `podIP` is the first of `podIPs`; where they differ, `podIP` is right (old kubelets know only that).
fn default_status_ips(status: &mut Value) {
    let single = text(status, "podIP").to_owned();
    let first = items(status, "podIPs").first().map(|ip| text(ip, "ip").to_owned());
    match (single.is_empty(), first) {
        (false, Some(first)) if first == single => {}
        (false, _) => set(status, "podIPs", json!([{"ip": single}])),
        (true, Some(first)) if !first.is_empty() => set(status, "podIP", first),
        (true, _) => {}
    }
}

/// Fields whose feature is off by default in v1.36 are dropped.
fn drop_disabled(pod: &mut Value) {
    if let Some(spec) = pod.get_mut("spec") {
        podspec::drop_disabled(spec);
    }
}

#[cfg(test)]
#[path = "pod/tests.rs"]
mod tests;
