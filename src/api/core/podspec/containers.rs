//! Validation of containers: names, images, ports, environment, mounts, devices, restart and resize policies.
//!
//! The order of checks is upstream's; it is the order of the causes in the answer.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use super::dns_label;
use super::env::{validate_env, validate_env_from};
use super::probes::{validate_lifecycle, validate_probe};
use super::resources::{self, Owner};
use super::security::validate_security_context;
use super::volumes::{no_backsteps, relative_path};
use crate::access::*;

/// What all container lists of one pod share.
pub(super) struct Pod<'a> {
    pub spec: &'a Value,
    /// The volumes that are valid, by name.
    pub volumes: BTreeMap<String, &'a Value>,
    pub claims: BTreeSet<String>,
    /// `spec.hostUsers` is not false.
    pub host_users: bool,
}

impl Pod<'_> {
    fn grace(&self) -> Option<i64> {
        opt_int(self.spec, "terminationGracePeriodSeconds")
    }

    fn os(&self) -> &str {
        text(obj(self.spec, "os"), "name")
    }
}

pub(super) fn validate_containers(errors: &mut ErrorList, pod: &Pod<'_>, path: &Path) {
    let containers = items(pod.spec, "containers");
    if containers.is_empty() {
        errors.required(path.clone(), "");
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        let at = path.index(i);
        validate_common(errors, pod, container, &at);
        if !seen.insert(text(container, "name")) {
            errors.duplicate(at.child("name"), text(container, "name"));
        }
        validate_lifecycle(errors, obj(container, "lifecycle"), pod.grace(), pod.os(), &at.child("lifecycle"));
        validate_probes(errors, pod, container, &at);
        validate_restart_policy(errors, container, &at);
    }
    validate_host_ports(errors, containers.iter().enumerate(), path);
}

pub(super) fn validate_init_containers(errors: &mut ErrorList, pod: &Pod<'_>, path: &Path) {
    let mut seen: BTreeSet<&str> = items(pod.spec, "containers").iter().map(|c| text(c, "name")).collect();
    for (i, container) in items(pod.spec, "initContainers").iter().enumerate() {
        let at = path.index(i);
        validate_common(errors, pod, container, &at);
        validate_restart_policy(errors, container, &at);
        let name = text(container, "name");
        if seen.contains(name) {
            errors.duplicate(at.child("name"), name);
        } else if !name.is_empty() {
            seen.insert(name);
        }
        // Init containers run one by one, so each has the host's ports to itself. Upstream counts from 0 here.
        validate_host_ports(errors, std::iter::once((0, container)), path);
        if is_sidecar(container) {
            validate_lifecycle(errors, obj(container, "lifecycle"), pod.grace(), pod.os(), &at.child("lifecycle"));
            validate_probes(errors, pod, container, &at);
        } else {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if has(container, field) {
                    errors
                        .forbidden(at.child(field), "may not be set for init containers without restartPolicy=Always");
                }
            }
        }
    }
}

/// What an ephemeral container may not have, in the order of its fields.
const NOT_EPHEMERAL: &[&str] = &[
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

pub(super) fn validate_ephemeral_containers(errors: &mut ErrorList, pod: &Pod<'_>, path: &Path) {
    let others: BTreeSet<&str> = items(pod.spec, "containers")
        .iter()
        .chain(items(pod.spec, "initContainers"))
        .map(|c| text(c, "name"))
        .collect();
    let mut all = others.clone();
    for (i, container) in items(pod.spec, "ephemeralContainers").iter().enumerate() {
        let at = path.index(i);
        validate_common(errors, pod, container, &at);
        validate_image_padding(errors, container, &at);
        let name = text(container, "name");
        if !all.insert(name) {
            errors.duplicate(at.child("name"), name);
        }
        let target = text(container, "targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.not_found(at.child("targetContainerName"), target);
        }
        for key in NOT_EPHEMERAL {
            let empty = obj(container, key).as_object().is_some_and(|o| o.is_empty() && *key == "resources");
            if has(container, key) && !empty {
                errors.forbidden(at.child(key), "cannot be set for an Ephemeral Container");
            }
        }
        for (j, mount) in items(container, "volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    let at = at.child("volumeMounts").index(j).child(field);
                    errors.forbidden(at, "cannot be set for an Ephemeral Container");
                }
            }
        }
    }
}

/// A native sidecar: an init container that keeps running.
pub fn is_sidecar(container: &Value) -> bool {
    text(container, "restartPolicy") == "Always"
}

/// Only in Pods: templates may hold an image name to be filled in.
pub(super) fn validate_image_padding(errors: &mut ErrorList, container: &Value, path: &Path) {
    let image = text(container, "image");
    if image.trim().len() != image.len() {
        errors.invalid(path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

fn validate_probes(errors: &mut ErrorList, pod: &Pod<'_>, container: &Value, at: &Path) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        validate_probe(errors, kind, obj(container, kind), pod.grace(), &at.child(kind));
    }
}

fn validate_common(errors: &mut ErrorList, pod: &Pod<'_>, container: &Value, path: &Path) {
    let name = text(container, "name");
    if name.is_empty() {
        errors.required(path.child("name"), "");
    } else {
        dns_label(errors, name, &path.child("name"));
    }
    if text(container, "image").is_empty() {
        errors.required(path.child("image"), "");
    }
    match text(container, "terminationMessagePolicy") {
        "File" | "FallbackToLogsOnError" => {}
        "" => errors.required(path.child("terminationMessagePolicy"), ""),
        other => {
            let supported = &["File", "FallbackToLogsOnError"];
            errors.not_supported(path.child("terminationMessagePolicy"), other, supported);
        }
    }
    validate_ports(errors, items(container, "ports"), &path.child("ports"));
    validate_env(errors, container, pod.spec, &pod.volumes, &path.child("env"));
    validate_env_from(errors, items(container, "envFrom"), &path.child("envFrom"));
    validate_mounts(errors, pod, container, &path.child("volumeMounts"));
    validate_devices(errors, pod, container, &path.child("volumeDevices"));
    super::validate_pull_policy(errors, text(container, "imagePullPolicy"), &path.child("imagePullPolicy"));
    let resources = obj(container, "resources");
    resources::validate(errors, Owner::Container, resources, &pod.claims, &path.child("resources"));
    validate_resize_policy(errors, pod, items(container, "resizePolicy"), &path.child("resizePolicy"));
    validate_security_context(
        errors,
        obj(container, "securityContext"),
        pod.host_users,
        &path.child("securityContext"),
    );
}

fn validate_restart_policy(errors: &mut ErrorList, container: &Value, path: &Path) {
    let rules = items(container, "restartPolicyRules");
    let Some(policy) = opt_text(container, "restartPolicy") else {
        if !rules.is_empty() {
            errors.required(path.child("restartPolicy"), "must specify restartPolicy when restart rules are used");
        }
        return;
    };
    if !matches!(policy, "Always" | "Never" | "OnFailure") {
        errors.not_supported(path.child("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
    }
    let rules_path = path.child("restartPolicyRules");
    if rules.len() > 20 {
        errors.too_many(rules_path.clone(), rules.len(), 20);
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = rules_path.index(i);
        let action = text(rule, "action");
        if !matches!(action, "Restart" | "RestartAllContainers") {
            errors.not_supported(at.child("action"), action, &["Restart", "RestartAllContainers"]);
        }
        let codes = obj(rule, "exitCodes");
        if !codes.is_object() {
            errors.required(at.child("exitCodes"), "must be specified");
            continue;
        }
        let at = at.child("exitCodes");
        let operator = text(codes, "operator");
        if !matches!(operator, "In" | "NotIn") {
            errors.not_supported(at.child("operator"), operator, &["In", "NotIn"]);
        }
        let values = items(codes, "values").len();
        if values > 255 {
            errors.too_many(at.child("values"), values, 255);
        }
    }
}

fn validate_ports(errors: &mut ErrorList, ports: &[Value], path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let messages = names::is_valid_port_name(name);
            if messages.is_empty() && !seen.insert(name) {
                errors.duplicate(at.child("name"), name);
            }
            for message in messages {
                errors.invalid(at.child("name"), name, &message);
            }
        }
        match int(port, "containerPort") {
            0 => errors.required(at.child("containerPort"), ""),
            number => super::port_number(errors, number, &at.child("containerPort")),
        }
        match int(port, "hostPort") {
            0 => {}
            number => super::port_number(errors, number, &at.child("hostPort")),
        }
        match text(port, "protocol") {
            "" => errors.required(at.child("protocol"), ""),
            "TCP" | "UDP" | "SCTP" => {}
            other => errors.not_supported(at.child("protocol"), other, &["SCTP", "TCP", "UDP"]),
        }
    }
}

fn validate_host_ports<'a>(errors: &mut ErrorList, containers: impl Iterator<Item = (usize, &'a Value)>, path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers {
        for (j, port) in items(container, "ports").iter().enumerate() {
            let number = int(port, "hostPort");
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", text(port, "protocol"), text(port, "hostIP"));
            if !seen.insert(key.clone()) {
                errors.duplicate(path.index(i).child("ports").index(j).child("hostPort"), key);
            }
        }
    }
}

fn validate_mounts(errors: &mut ErrorList, pod: &Pod<'_>, container: &Value, path: &Path) {
    let devices = items(container, "volumeDevices");
    let mut mounted = BTreeSet::new();
    for (i, mount) in items(container, "volumeMounts").iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        let (sub_path, sub_path_expr) = (text(mount, "subPath"), text(mount, "subPathExpr"));
        if name.is_empty() {
            errors.required(at.child("name"), "");
        }
        let volume = pod.volumes.get(name);
        if volume.is_none() {
            errors.not_found(at.child("name"), name);
        }
        if target.is_empty() {
            errors.required(at.child("mountPath"), "");
        }
        if !mounted.insert(target) {
            errors.invalid(at.child("mountPath"), target, "must be unique");
        }
        if devices.iter().any(|d| text(d, "name") == name) {
            errors.invalid(at.child("name"), name, "must not already exist in volumeDevices");
        }
        if devices.iter().any(|d| text(d, "devicePath") == target) {
            errors.invalid(at.child("mountPath"), target, "must not already exist as a path in volumeDevices");
        }
        // Upstream names the list here, not the item.
        if !sub_path.is_empty() {
            relative_path(errors, sub_path, &path.child("subPath"));
        }
        if !sub_path_expr.is_empty() {
            if !sub_path.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.invalid(at.child("subPathExpr"), sub_path_expr, detail);
            }
            relative_path(errors, sub_path_expr, &path.child("subPathExpr"));
        }
        validate_propagation(errors, mount, container, &path.child("mountPropagation"));
        validate_recursive_read_only(errors, mount, &path.child("recursiveReadOnly"));
    }
}

fn validate_propagation(errors: &mut ErrorList, mount: &Value, container: &Value, path: &Path) {
    let Some(mode) = opt_text(mount, "mountPropagation") else { return };
    if !matches!(mode, "Bidirectional" | "HostToContainer" | "None") {
        errors.not_supported(path.clone(), mode, &["Bidirectional", "HostToContainer", "None"]);
    }
    if mode == "Bidirectional" && !flag(obj(container, "securityContext"), "privileged") {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(path.clone(), detail);
    }
}

fn validate_recursive_read_only(errors: &mut ErrorList, mount: &Value, path: &Path) {
    match opt_text(mount, "recursiveReadOnly") {
        None | Some("Disabled") => {}
        Some("Enabled" | "IfPossible") => {
            if !flag(mount, "readOnly") {
                errors.forbidden(path.clone(), "may only be specified when readOnly is true");
            }
            if opt_text(mount, "mountPropagation").is_some_and(|p| p != "None") {
                let detail = "may only be specified when mountPropagation is None or not specified";
                errors.forbidden(path.clone(), detail);
            }
        }
        Some(other) => errors.not_supported(path.clone(), other, &["Disabled", "Enabled", "IfPossible"]),
    }
}

fn validate_devices(errors: &mut ErrorList, pod: &Pod<'_>, container: &Value, path: &Path) {
    let mounts = items(container, "volumeMounts");
    let (mut names_seen, mut paths_seen) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in items(container, "volumeDevices").iter().enumerate() {
        let at = path.index(i);
        let (name, target) = (text(device, "name"), text(device, "devicePath"));
        if name.is_empty() {
            errors.required(at.child("name"), "");
        }
        if names_seen.contains(name) {
            errors.invalid(at.child("name"), name, "must be unique");
        }
        match pod.volumes.get(name) {
            Some(volume) if !has(volume, "persistentVolumeClaim") && !has(volume, "ephemeral") => {
                let detail = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(at.child("name"), name, detail);
            }
            Some(_) => {}
            None => errors.not_found(at.child("name"), name),
        }
        if target.is_empty() {
            errors.required(at.child("devicePath"), "");
        }
        if paths_seen.contains(target) {
            errors.invalid(at.child("devicePath"), target, "must be unique");
        }
        if !target.is_empty() && !no_backsteps(target) {
            errors.invalid(at.child("devicePath"), target, "can not contain backsteps ('..')");
        } else {
            paths_seen.insert(target);
        }
        if mounts.iter().any(|m| text(m, "name") == name) {
            errors.invalid(at.child("name"), name, "must not already exist in volumeMounts");
        }
        if mounts.iter().any(|m| text(m, "mountPath") == target) {
            errors.invalid(at.child("devicePath"), target, "must not already exist as a path in volumeMounts");
        }
        if !name.is_empty() {
            names_seen.insert(name);
        }
    }
}

fn validate_resize_policy(errors: &mut ErrorList, pod: &Pod<'_>, policies: &[Value], path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, policy) in policies.iter().enumerate() {
        let (resource, restart) = (text(policy, "resourceName"), text(policy, "restartPolicy"));
        if !seen.insert(resource) {
            errors.duplicate(path.index(i), resource);
        }
        match resource {
            "cpu" | "memory" => {}
            "" => errors.required(path.clone(), ""),
            other => errors.not_supported(path.clone(), other, &["cpu", "memory"]),
        }
        match restart {
            "NotRequired" | "RestartContainer" => {}
            "" => errors.required(path.clone(), ""),
            other => errors.not_supported(path.clone(), other, &["NotRequired", "RestartContainer"]),
        }
        if text(pod.spec, "restartPolicy") == "Never" && restart != "NotRequired" {
            errors.invalid(path.clone(), restart, "must be 'NotRequired' when `restartPolicy` is 'Never'");
        }
    }
}
