//! PodSpec: defaults and validation, for pods and for every kind that holds a pod template.
//!
//! Invariants:
//! - PS-1: messages and their order are upstream's v1.36.
//! - PS-2: works on defaulted, normalized objects; never changes one while validating.

mod annotations;
mod claims;
mod containers;
mod defaults;
mod disabled;
mod env;
mod image;
mod probes;
mod projections;
mod resources;
mod scheduling;
mod security;
mod volumes;
mod warnings;

use std::collections::BTreeSet;

use apimachinery::validation::meta::{self, LabelSelectorOptions};
use apimachinery::validation::{ErrorList, Path, names};
use serde_json::{Value, json};

use crate::access::*;

pub use annotations::{validate_annotation_update, validate_annotations, validate_seccomp_and_app_armor_match};
pub use claims::validate_claim_spec;
pub use containers::is_sidecar;
pub use defaults::{
    default_claim_spec, default_pod_only, default_spec, default_template, drop_init_container_annotations,
    round_up_resources,
};
pub use disabled::{drop_disabled, drop_disabled_in_template};
pub use probes::port_number_or_name;
pub use resources::validate_quantity;
pub use resources::{
    ResourceMap, aggregate_limits, aggregate_requests, is_extended, is_huge_page, is_pod_level_resource, qos_class,
    quantities,
};
pub use scheduling::{
    validate_added_tolerations, validate_deleted_gates, validate_node_affinity_growth, validate_node_selector,
    validate_node_selector_growth, validate_tolerations,
};
pub use volumes::validate_csi_driver_name;
pub(crate) use volumes::validate_volume_source;
pub use warnings::warnings;

pub(crate) const NEGATIVE: &str = "must be greater than or equal to 0";
pub(crate) const POSITIVE: &str = "must be greater than zero";

/// Where a PodSpec is: some rules hold for pods alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Pod,
    Template,
}

/// Validates a PodSpec. `metadata` is that of the pod; null for a template.
pub fn validate_spec(spec: &Value, metadata: &Value, scope: Scope, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let e = &mut errors;
    if !has(spec, "terminationGracePeriodSeconds") {
        e.required(path.child("terminationGracePeriodSeconds"), "");
    }
    let pod_name = text(metadata, "name");
    let volumes = volumes::validate_volumes(e, items(spec, "volumes"), pod_name, scope, &path.child("volumes"));
    let claims: BTreeSet<String> =
        items(spec, "resourceClaims").iter().map(|c| text(c, "name").to_owned()).filter(|n| !n.is_empty()).collect();
    validate_resource_claims(e, items(spec, "resourceClaims"), &path.child("resourceClaims"));
    let host_users = opt_flag(spec, "hostUsers") != Some(false);
    let pod = containers::Pod { spec, volumes, claims, host_users };
    containers::validate_containers(e, &pod, &path.child("containers"));
    containers::validate_init_containers(e, &pod, &path.child("initContainers"));
    containers::validate_ephemeral_containers(e, &pod, &path.child("ephemeralContainers"));
    resources::validate_pod_level(e, spec, &pod.claims, &path.child("resources"));
    validate_host_network(e, spec, scope, &path.child("containers"));
    required_of(e, spec, "restartPolicy", &["Always", "OnFailure", "Never"], path);
    required_of(e, spec, "dnsPolicy", &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"], path);
    e.extend(meta::validate_labels(obj(spec, "nodeSelector"), &path.child("nodeSelector")));
    security::validate_pod_security_context(e, spec, &path.child("securityContext"));
    scheduling::validate_affinity(e, obj(spec, "affinity"), &path.child("affinity"));
    validate_dns_config(e, spec, &path.child("dnsConfig"));
    for (i, gate) in items(spec, "readinessGates").iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        qualified_name(e, text(gate, "conditionType"), &at);
    }
    scheduling::validate_gates(e, items(spec, "schedulingGates"), &path.child("schedulingGates"));
    let spread = path.child("topologySpreadConstraints");
    scheduling::validate_spread(e, items(spec, "topologySpreadConstraints"), &spread);
    security::validate_host_process(e, spec, path);
    security::validate_host_users(e, spec, path);
    validate_hostname_override(e, spec, path);
    for key in ["serviceAccountName", "nodeName"] {
        let name = text(spec, key);
        if !name.is_empty() {
            e.invalid_all(&path.child(key), name, names::dns1123_subdomain(name, false));
        }
    }
    if let Some(seconds) = opt_int(spec, "activeDeadlineSeconds") {
        for message in names::in_range(seconds, 1, i64::from(i32::MAX)) {
            e.invalid(path.child("activeDeadlineSeconds"), seconds, &message);
        }
    }
    for key in ["hostname", "subdomain"] {
        if !text(spec, key).is_empty() {
            dns_label(e, text(spec, key), &path.child(key));
        }
    }
    scheduling::validate_tolerations(e, items(spec, "tolerations"), &path.child("tolerations"));
    validate_host_aliases(e, items(spec, "hostAliases"), &path.child("hostAliases"));
    for key in ["priorityClassName", "runtimeClassName"] {
        let name = text(spec, key);
        if !name.is_empty() || (key == "runtimeClassName" && has(spec, key)) {
            e.invalid_all(&path.child(key), name, names::dns1123_subdomain(name, false));
        }
    }
    if has(spec, "preemptionPolicy") {
        required_of(e, spec, "preemptionPolicy", &["PreemptLowerPriority", "Never"], path);
    }
    if has(spec, "overhead") {
        let limits = json!({"limits": obj(spec, "overhead")});
        resources::validate(e, resources::Owner::Container, &limits, &BTreeSet::new(), &path.child("overhead"));
    }
    security::validate_os(e, spec, path);
    errors
}

/// What is checked of a Pod's spec and annotations, but not of a template's.
pub fn validate_pod(pod: &Value) -> ErrorList {
    let (spec, metadata) = (obj(pod, "spec"), obj(pod, "metadata"));
    let path = Path::new("spec");
    let mut errors = validate_annotations(metadata, spec, &Path::new("metadata").child("annotations"));
    errors.extend(validate_spec(spec, metadata, Scope::Pod, &path));
    if text(spec, "serviceAccountName").is_empty() {
        for (i, volume) in items(spec, "volumes").iter().enumerate() {
            for (j, source) in items(obj(volume, "projected"), "sources").iter().enumerate() {
                if has(source, "serviceAccountToken") {
                    let at = path.child("volumes").index(i).children(&["projected", "sources"]).index(j);
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.forbidden(at.child("serviceAccountToken"), detail);
                }
            }
        }
    }
    for list in ["containers", "initContainers"] {
        for (i, container) in items(spec, list).iter().enumerate() {
            containers::validate_image_padding(&mut errors, container, &path.child(list).index(i));
        }
    }
    errors
}

/// Validates a PodTemplateSpec at `path` (`spec.template`).
pub fn validate_template(template: &Value, path: &Path) -> ErrorList {
    let (spec, metadata) = (obj(template, "spec"), obj(template, "metadata"));
    let mut errors = meta::validate_labels(obj(metadata, "labels"), &path.child("labels"));
    errors.extend(meta::validate_annotations(obj(metadata, "annotations"), &path.child("annotations")));
    errors.extend(validate_annotations(metadata, spec, &path.child("annotations")));
    errors.extend(validate_spec(spec, &Value::Null, Scope::Template, &path.child("spec")));
    let at = path.child("spec");
    errors.extend(validate_seccomp_and_app_armor_match(metadata, spec, &at, Scope::Template));
    if !items(spec, "ephemeralContainers").is_empty() {
        errors.forbidden(at.child("ephemeralContainers"), "ephemeral containers not allowed in pod template");
    }
    errors
}

/// Init, regular and ephemeral containers in the order in which upstream visits them, with their paths.
pub fn containers_with_paths<'a>(spec: &'a Value, path: &Path) -> Vec<(&'a Value, Path)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| {
            let path = path.child(list);
            items(spec, list).iter().enumerate().map(move |(i, container)| (container, path.index(i)))
        })
        .collect()
}

fn validate_resource_claims(errors: &mut ErrorList, claims: &[Value], path: &Path) {
    let mut seen = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let at = path.index(i);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(at.child("name"), "");
        } else if !seen.insert(name) {
            errors.duplicate(at.child("name"), name);
        } else {
            dns_label(errors, name, &at.child("name"));
        }
        let dump = || crate::godump::dump("PodResourceClaim", claim);
        match (has(claim, "resourceClaimName"), has(claim, "resourceClaimTemplateName")) {
            (true, true) => {
                let detail = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errors.invalid_text(at.clone(), &dump(), detail);
            }
            (false, false) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errors.invalid_text(at.clone(), &dump(), detail);
            }
            _ => {}
        }
        for key in ["resourceClaimName", "resourceClaimTemplateName"] {
            if let Some(name) = opt_text(claim, key) {
                errors.invalid_all(&at.child(key), name, names::dns1123_subdomain(name, false));
            }
        }
    }
}

fn validate_host_network(errors: &mut ErrorList, spec: &Value, scope: Scope, path: &Path) {
    if !flag(spec, "hostNetwork") {
        return;
    }
    for (i, container) in items(spec, "containers").iter().enumerate() {
        for (j, port) in items(container, "ports").iter().enumerate() {
            let (host, own) = (int(port, "hostPort"), int(port, "containerPort"));
            if (scope == Scope::Pod || host != 0) && host != own {
                let at = path.index(i).child("ports").index(j).child("hostPort");
                errors.invalid(at, host, "must match `containerPort` when `hostNetwork` is true");
            }
        }
    }
}

fn validate_dns_config(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let config = field(spec, "dnsConfig");
    if text(spec, "dnsPolicy") == "None" {
        let Some(config) = config else {
            errors.required(path.clone(), "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        };
        if items(config, "nameservers").is_empty() {
            let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(path.child("nameservers"), detail);
            return;
        }
    }
    let Some(config) = config else { return };
    let servers = texts(config, "nameservers");
    if servers.len() > 3 {
        let value = obj(config, "nameservers").clone();
        errors.invalid(path.child("nameservers"), value, "must not have more than 3 nameservers");
    }
    for (i, server) in servers.into_iter().enumerate() {
        errors.invalid_all(&path.child("nameservers").index(i), server, names::is_valid_ip(server));
    }
    let searches = texts(config, "searches");
    if searches.len() > 32 {
        let value = obj(config, "searches").clone();
        errors.invalid(path.child("searches"), value, "must not have more than 32 search paths");
    }
    if searches.join(" ").len() > 2048 {
        let value = obj(config, "searches").clone();
        let detail = "must not have more than 2048 characters (including spaces) in the search list";
        errors.invalid(path.child("searches"), value, detail);
    }
    for (i, search) in searches.into_iter().enumerate() {
        if search != "." {
            let search = search.strip_suffix('.').unwrap_or(search);
            let messages = names::is_dns1123_subdomain_with_underscore(search);
            errors.invalid_all(&path.child("searches").index(i), search, messages);
        }
    }
    for (i, option) in items(config, "options").iter().enumerate() {
        if text(option, "name").is_empty() {
            errors.required(path.child("options").index(i), "must not be empty");
        }
    }
}

fn validate_hostname_override(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let Some(name) = opt_text(spec, "hostnameOverride") else { return };
    let at = path.child("hostnameOverride");
    if flag(spec, "setHostnameAsFQDN") {
        errors.forbidden(at.clone(), "may not be specified when setHostnameAsFQDN is true");
    }
    if flag(spec, "hostNetwork") {
        errors.forbidden(at.clone(), "may not be specified when hostNetwork is true");
    }
    if name.len() > 64 {
        errors.too_long(at.clone(), name, 64);
    }
    errors.invalid_all(&at, name, names::is_dns1123_subdomain(name));
}

fn validate_host_aliases(errors: &mut ErrorList, aliases: &[Value], path: &Path) {
    for (i, alias) in aliases.iter().enumerate() {
        let at = path.index(i);
        errors.invalid_all(&at.child("ip"), text(alias, "ip"), names::is_valid_ip(text(alias, "ip")));
        for (j, name) in texts(alias, "hostnames").into_iter().enumerate() {
            errors.invalid_all(&at.child("hostnames").index(j), name, names::is_dns1123_subdomain(name));
        }
    }
}

pub(crate) fn validate_pull_policy(errors: &mut ErrorList, policy: &str, path: &Path) {
    match policy {
        "Always" | "IfNotPresent" | "Never" => {}
        "" => errors.required(path.clone(), ""),
        other => errors.not_supported(path.clone(), other, &["Always", "IfNotPresent", "Never"]),
    }
}

/// A field that must be one of these.
pub(crate) fn required_of(errors: &mut ErrorList, holder: &Value, key: &str, known: &[&str], path: &Path) {
    match text(holder, key) {
        "" => errors.required(path.child(key), ""),
        value if known.contains(&value) => {}
        other => errors.not_supported(path.child(key), other, known),
    }
}

/// A field that, if set, must be one of these.
pub(crate) fn supported(errors: &mut ErrorList, holder: &Value, key: &str, known: &[&str], path: &Path) {
    if let Some(value) = opt_text(holder, key).filter(|v| !known.contains(v)) {
        errors.not_supported(path.child(key), value, known);
    }
}

pub(crate) fn dns_label(errors: &mut ErrorList, value: &str, path: &Path) {
    errors.invalid_all(path, value, names::is_dns1123_label(value));
}

pub(crate) fn qualified_name(errors: &mut ErrorList, value: &str, path: &Path) {
    errors.invalid_all(path, value, names::is_qualified_name(value));
}

pub(crate) fn label_selector(errors: &mut ErrorList, selector: &Value, path: &Path) {
    errors.extend(meta::validate_label_selector(selector, LabelSelectorOptions::default(), path));
}

pub(crate) fn nonnegative(errors: &mut ErrorList, value: i64, path: &Path) {
    if value < 0 {
        errors.invalid(path.clone(), value, NEGATIVE);
    }
}

pub(crate) fn port_number(errors: &mut ErrorList, value: i64, path: &Path) {
    for message in names::is_valid_port_num(value) {
        errors.invalid(path.clone(), value, &message);
    }
}
