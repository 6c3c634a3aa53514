//! Defaults of a PodSpec, as upstream's v1 defaulting sets them.
//!
//! Invariants:
//! - PD-1: idempotent.
//! - PD-2: what only a Pod gets (requests from limits, service links, host ports) is not set in a template.

use apimachinery::quantity::Quantity;
use serde_json::{Map, Value, json};

use super::image;
use super::resources::{aggregate_limits, aggregate_requests, is_huge_page, is_pod_level_resource};
use crate::access::*;

const INIT_CONTAINER_ANNOTATIONS: &[&str] = &[
    "pod.beta.kubernetes.io/init-containers",
    "pod.alpha.kubernetes.io/init-containers",
    "pod.beta.kubernetes.io/init-container-statuses",
    "pod.alpha.kubernetes.io/init-container-statuses",
];

/// Defaults of a PodTemplateSpec (below `template`).
pub fn default_template(template: &mut Value) {
    if !template.is_object() {
        return;
    }
    set_missing(template, "metadata", json!({}));
    drop_init_container_annotations(template);
    ensure_map(template, "spec");
    if let Some(spec) = template.get_mut("spec") {
        default_spec(spec);
    }
}

/// Removes the annotations in which init containers were kept before they had a field.
pub fn drop_init_container_annotations(object: &mut Value) {
    let Some(meta) = object.get_mut("metadata") else { return };
    let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) else { return };
    for key in INIT_CONTAINER_ANNOTATIONS {
        annotations.remove(*key);
    }
    if annotations.is_empty() {
        remove(meta, "annotations");
    }
}

/// Defaults of a PodSpec, wherever it is.
pub fn default_spec(spec: &mut Value) {
    set_blank(spec, "dnsPolicy", "ClusterFirst");
    set_blank(spec, "restartPolicy", "Always");
    set_missing(spec, "securityContext", json!({}));
    set_missing(spec, "terminationGracePeriodSeconds", 30);
    set_blank(spec, "schedulerName", "default-scheduler");
    mirror_service_account(spec);
    for volume in items_mut(spec, "volumes") {
        default_volume(volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            default_container(container);
        }
    }
    round_up_resources(spec, "overhead");
    if let Some(resources) = spec.get_mut("resources") {
        round_up_resources(resources, "limits");
        round_up_resources(resources, "requests");
    }
}

/// What a Pod (not a template) gets besides [`default_spec`].
pub fn default_pod_only(spec: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in items_mut(spec, list) {
            if let Some(resources) = container.get_mut("resources") {
                requests_from_limits(resources);
            }
        }
    }
    default_pod_level_resources(spec);
    set_missing(spec, "enableServiceLinks", true);
    if flag(spec, "hostNetwork") {
        for list in ["containers", "initContainers"] {
            for container in items_mut(spec, list) {
                for port in items_mut(container, "ports") {
                    let number = int(port, "containerPort");
                    set_zero(port, "hostPort", number);
                    if number == 0 && int(port, "hostPort") == 0 {
                        remove(port, "hostPort");
                    }
                }
            }
        }
    }
    if opt_int(spec, "terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        set(spec, "terminationGracePeriodSeconds", 1);
    }
}

/// `serviceAccount` is the old name of `serviceAccountName` and always shows the same.
fn mirror_service_account(spec: &mut Value) {
    let name = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount"),
        name => name,
    }
    .to_owned();
    if name.is_empty() {
        remove(spec, "serviceAccountName");
        remove(spec, "serviceAccount");
    } else {
        set(spec, "serviceAccountName", name.clone());
        set(spec, "serviceAccount", name);
    }
}

fn default_container(container: &mut Value) {
    set_missing(container, "resources", json!({}));
    if text(container, "imagePullPolicy").is_empty() {
        let policy = pull_policy(text(container, "image"));
        set(container, "imagePullPolicy", policy);
    }
    set_blank(container, "terminationMessagePath", "/dev/termination-log");
    set_blank(container, "terminationMessagePolicy", "File");
    for port in items_mut(container, "ports") {
        set_blank(port, "protocol", "TCP");
    }
    for env in items_mut(container, "env") {
        if let Some(from) = env.get_mut("valueFrom") {
            default_field_ref(from);
            default_divisor(from);
            if let Some(file) = from.get_mut("fileKeyRef") {
                set_missing(file, "optional", false);
            }
        }
    }
    if let Some(resources) = container.get_mut("resources") {
        round_up_resources(resources, "limits");
        round_up_resources(resources, "requests");
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|p| p.is_object()) {
            set_zero(probe, "timeoutSeconds", 1);
            set_zero(probe, "periodSeconds", 10);
            set_zero(probe, "successThreshold", 1);
            set_zero(probe, "failureThreshold", 3);
            default_handler(probe);
            if let Some(grpc) = probe.get_mut("grpc").filter(|g| g.is_object()) {
                set_missing(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = container.get_mut("lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = lifecycle.get_mut(hook) {
                default_handler(handler);
            }
        }
    }
    if let Some(context) = container.get_mut("securityContext").filter(|c| c.is_object()) {
        if context.get("procMount").is_some_and(|p| p.as_str() == Some("")) {
            set(context, "procMount", "Default");
        }
    }
}

/// `Always` for `latest`, `IfNotPresent` for any other tag, a digest, or a reference that cannot be read.
fn pull_policy(reference: &str) -> &'static str {
    if image::tag(reference).as_deref() == Some("latest") { "Always" } else { "IfNotPresent" }
}

fn default_handler(handler: &mut Value) {
    if let Some(http) = handler.get_mut("httpGet").filter(|h| h.is_object()) {
        set_blank(http, "path", "/");
        set_blank(http, "scheme", "HTTP");
    }
}

fn default_field_ref(holder: &mut Value) {
    if let Some(field_ref) = holder.get_mut("fieldRef").filter(|f| f.is_object()) {
        set_blank(field_ref, "apiVersion", "v1");
    }
}

/// `divisor` is a Quantity that is no pointer: Go always writes it.
fn default_divisor(holder: &mut Value) {
    if let Some(resource_ref) = holder.get_mut("resourceFieldRef").filter(|f| f.is_object()) {
        set_missing(resource_ref, "divisor", "0");
    }
}

fn default_volume(volume: &mut Value) {
    let Some(map) = volume.as_object_mut() else { return };
    if map.iter().all(|(key, value)| key == "name" || value.is_null()) {
        map.insert("emptyDir".to_owned(), json!({}));
    }
    for (source, value) in map.iter_mut() {
        match source.as_str() {
            "secret" | "configMap" => set_missing(value, "defaultMode", 0o644),
            "downwardAPI" => {
                set_missing(value, "defaultMode", 0o644);
                default_downward_items(value);
            }
            "projected" => default_projected(value),
            "hostPath" => set_missing(value, "type", ""),
            "iscsi" => set_blank(value, "iscsiInterface", "default"),
            "rbd" => {
                set_blank(value, "pool", "rbd");
                set_blank(value, "user", "admin");
                set_blank(value, "keyring", "/etc/ceph/keyring");
            }
            "azureDisk" => {
                set_missing(value, "cachingMode", "ReadWrite");
                set_missing(value, "fsType", "ext4");
                set_missing(value, "readOnly", false);
                set_missing(value, "kind", "Shared");
            }
            "scaleIO" => {
                set_blank(value, "storageMode", "ThinProvisioned");
                set_blank(value, "fsType", "xfs");
            }
            "ephemeral" => {
                if let Some(template) = value.get_mut("volumeClaimTemplate").filter(|t| t.is_object()) {
                    set_missing(template, "metadata", json!({}));
                    ensure_map(template, "spec");
                    if let Some(claim) = template.get_mut("spec") {
                        default_claim_spec(claim);
                    }
                }
            }
            "image" if text(value, "pullPolicy").is_empty() => {
                let policy = pull_policy(text(value, "reference"));
                set(value, "pullPolicy", policy);
            }
            _ => {}
        }
    }
}

/// Defaults of a PersistentVolumeClaimSpec.
pub fn default_claim_spec(claim: &mut Value) {
    set_missing(claim, "volumeMode", "Filesystem");
    set_missing(claim, "resources", json!({}));
    if let Some(resources) = claim.get_mut("resources") {
        round_up_resources(resources, "limits");
        round_up_resources(resources, "requests");
    }
}

fn default_projected(projected: &mut Value) {
    set_missing(projected, "defaultMode", 0o644);
    for source in items_mut(projected, "sources") {
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|t| t.is_object()) {
            set_missing(token, "expirationSeconds", 3600);
        }
        if let Some(downward) = source.get_mut("downwardAPI") {
            default_downward_items(downward);
        }
        if let Some(certificate) = source.get_mut("podCertificate").filter(|t| t.is_object()) {
            set_missing(certificate, "maxExpirationSeconds", 86400);
        }
    }
}

fn default_downward_items(source: &mut Value) {
    for item in items_mut(source, "items") {
        default_field_ref(item);
        default_divisor(item);
    }
}

/// Quantities are kept to the milli: `0.5m` is `1m`.
pub fn round_up_resources(holder: &mut Value, key: &str) {
    let Some(list) = holder.get_mut(key).and_then(Value::as_object_mut) else { return };
    for value in list.values_mut() {
        if let Ok(mut quantity) = Quantity::from_json(value) {
            if !quantity.round_up(-3) {
                *value = Value::String(quantity.to_string());
            }
        }
    }
}

fn requests_from_limits(resources: &mut Value) {
    let Some(limits) = map(resources, "limits").filter(|l| !l.is_empty()).cloned() else { return };
    if let Some(requests) = ensure_map(resources, "requests") {
        for (name, quantity) in limits {
            requests.entry(name).or_insert(quantity);
        }
    }
}

/// Pod-level requests: of what the containers ask together, else of the pod-level limit.
fn default_pod_level_resources(spec: &mut Value) {
    if !obj(spec, "resources").is_object() {
        return;
    }
    let empty = Map::new();
    let container_limits = aggregate_limits(spec);
    let container_requests = aggregate_requests(spec);
    let mut limits = map(obj(spec, "resources"), "limits").unwrap_or(&empty).clone();
    let mut requests = map(obj(spec, "resources"), "requests").unwrap_or(&empty).clone();
    for (name, quantity) in container_limits {
        // Huge pages cannot be overcommitted, so their limit is at least what the containers have.
        if is_huge_page(&name) && !limits.contains_key(&name) {
            limits.insert(name, Value::String(quantity.to_string()));
        }
    }
    for (name, quantity) in container_requests {
        if is_pod_level_resource(&name) && !requests.contains_key(&name) {
            let shown = match limits.get(&name) {
                Some(limit) if is_huge_page(&name) => limit.clone(),
                _ => Value::String(quantity.to_string()),
            };
            requests.insert(name, shown);
        }
    }
    for (name, limit) in &limits {
        if is_pod_level_resource(name) && !requests.contains_key(name) {
            requests.insert(name.clone(), limit.clone());
        }
    }
    if let Some(resources) = spec.get_mut("resources") {
        if !limits.is_empty() {
            set(resources, "limits", limits);
        }
        if !requests.is_empty() {
            set(resources, "requests", requests);
        }
    }
}
