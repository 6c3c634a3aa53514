//! Node: a machine that runs pods.
//!
//! Invariants:
//! - NO-1: `podCIDR` is `podCIDRs[0]`; once set, the CIDRs and the provider ID never change.
//! - NO-2: an update of the node keeps the status, an update of the status keeps the spec.

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, Path, meta as common, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{copy_field, entries, flag, has, items, map, obj, set, text, texts};
use crate::checks::{NOT_NEGATIVE, cidr, dump, duplicate_text, meta, spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct Node;

pub fn kind() -> Kind {
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    Kind::builtin("v1", "Node", "nodes", Scope::Cluster, "io.k8s.api.core.v1.Node", Node)
        .with_short_names(&["no"])
        .with_storage_key("minions")
        .with_subresource("proxy", "v1", "NodeProxyOptions", PROXY)
        .with_subresource("status", "v1", "Node", &["get", "patch", "update"])
}

impl Strategy for Node {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object.get_mut("spec") {
            default_pod_cidrs(spec);
        }
        if let Some(status) = object.get_mut("status") {
            if !has(status, "allocatable") && has(status, "capacity") {
                let capacity = obj(status, "capacity").clone();
                set(status, "allocatable", capacity);
            }
        }
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        copy_field(object, old, if cx.subresource == "status" { "spec" } else { "status" });
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_taints(&mut errors, object);
        check_resources(&mut errors, object);
        check_pod_cidrs(&mut errors, object);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = if cx.subresource.is_empty() { self.validate(cx, object) } else { ErrorList::new() };
        check_resources(&mut errors, object);
        let addresses = items(status(object), "addresses");
        for (i, address) in addresses.iter().enumerate() {
            if addresses[..i].contains(address) {
                let text =
                    dump(&[("Type", obj(address, "type").clone()), ("Address", obj(address, "address").clone())]);
                duplicate_text(&mut errors, Path::new("status").child("addresses").index(i), &text, "");
            }
        }
        let (was, now) = (texts(spec(old), "podCIDRs"), texts(spec(object), "podCIDRs"));
        let changed = |i: usize| now.get(i) != was.get(i);
        let times = if was.len() == now.len() { (0..was.len()).filter(|i| changed(*i)).count() } else { 1 };
        if !was.is_empty() {
            for _ in 0..times {
                let path = Path::new("spec").child("podCIDRs");
                errors.forbidden(path, "node updates may not change podCIDR except from \"\" to valid");
            }
        }
        let provider = text(spec(old), "providerID");
        if !provider.is_empty() && provider != text(spec(object), "providerID") {
            let path = Path::new("spec").child("providerID");
            errors.forbidden(path, "node updates may not change providerID except from \"\" to valid");
        }
        check_taints(&mut errors, object);
        errors
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.unschedulable", flag(spec(object), "unschedulable").to_string())]
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/nodes")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let info = obj(status(object), "nodeInfo");
        let or_unknown = |value: &str| if value.is_empty() { "<unknown>".to_owned() } else { value.to_owned() };
        let kernel = match (text(info, "kernelVersion"), text(info, "architecture")) {
            ("", _) => "<unknown>".to_owned(),
            (kernel, "") => kernel.to_owned(),
            (kernel, arch) => format!("{kernel} ({arch})"),
        };
        vec![
            name_of(object),
            json!(readiness(object)),
            json!(roles(object)),
            age_of(object, now),
            json!(text(info, "kubeletVersion")),
            json!(address(object, "InternalIP")),
            json!(address(object, "ExternalIP")),
            json!(or_unknown(text(info, "osImage"))),
            json!(kernel),
            json!(or_unknown(text(info, "containerRuntimeVersion"))),
        ]
    }
}

/// `podCIDR` wins over another `podCIDRs[0]`; where it is not set it follows it.
fn default_pod_cidrs(spec: &mut Value) {
    let one = text(spec, "podCIDR").to_owned();
    let all = texts(spec, "podCIDRs");
    if one.is_empty() {
        if let Some(first) = all.first().map(|s| (*s).to_owned()) {
            set(spec, "podCIDR", first);
        }
    } else if all.first() != Some(&one.as_str()) {
        set(spec, "podCIDRs", json!([one]));
    }
}

fn check_taints(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("metadata").child("taints");
    let taints = items(spec(object), "taints");
    for (i, taint) in taints.iter().enumerate() {
        let at = path.index(i);
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        errors.extend(common::validate_label_name(key, &at.child("key")));
        let bad = names::is_valid_label_value(value);
        if !bad.is_empty() {
            errors.invalid(at.child("value"), value, &bad.join(";"));
        }
        crate::checks::one_of(errors, at.child("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
        if taints[..i].iter().any(|t| text(t, "key") == key && text(t, "effect") == effect) {
            let dump = dump(&[
                ("Key", json!(key)),
                ("Value", json!(value)),
                ("Effect", json!(effect)),
                ("TimeAdded", obj(taint, "timeAdded").clone()),
            ]);
            duplicate_text(errors, at, &dump, "taints must be unique by key and effect pair");
        }
    }
}

fn check_resources(errors: &mut ErrorList, object: &Value) {
    for list in ["capacity", "allocatable"] {
        for (resource, amount) in entries(status(object), list) {
            let path = Path::new("status").child(list).child(resource);
            quantity(errors, path, resource, amount);
        }
    }
}

/// A resource's amount: not negative, and whole where fractions mean nothing.
pub(crate) fn quantity(errors: &mut ErrorList, path: Path, resource: &str, amount: &Value) {
    let shown = amount.as_str().unwrap_or("");
    let Ok(parsed) = shown.parse::<Quantity>() else { return };
    if parsed.milli_value() < 0 {
        errors.invalid(path.clone(), amount.clone(), NOT_NEGATIVE);
    }
    if is_integer_resource(resource) && parsed.milli_value() % 1000 != 0 {
        errors.invalid(path, amount.clone(), "must be an integer");
    }
}

/// Counts of objects, and extended resources (`example.com/gpu`).
pub(crate) fn is_integer_resource(resource: &str) -> bool {
    const COUNTED: &[&str] = &[
        "pods",
        "services",
        "replicationcontrollers",
        "resourcequotas",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "services.nodeports",
        "services.loadbalancers",
    ];
    COUNTED.contains(&resource) || is_extended_resource(resource)
}

/// Named by someone other than Kubernetes: `example.com/gpu`.
pub(crate) fn is_extended_resource(resource: &str) -> bool {
    let native = !resource.contains('/') || resource.contains("kubernetes.io/");
    !native
        && !resource.starts_with("requests.")
        && names::is_qualified_name(&format!("requests.{resource}")).is_empty()
}

fn check_pod_cidrs(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("spec").child("podCIDRs");
    let all = texts(spec(object), "podCIDRs");
    let valid = all.iter().enumerate().map(|(i, value)| cidr(errors, &path.index(i), value)).filter(|ok| *ok).count();
    if all.len() > 1 {
        if valid < all.len() {
            let bad = all.iter().find(|c| !names::is_valid_cidr(c).is_empty()).copied().unwrap_or("");
            let detail =
                format!("invalid PodCIDRs. failed to check with dual stack with error:invalid CIDR address: {bad}");
            errors.internal(path.clone(), &detail);
        }
        let six = all.iter().filter(|c| c.contains(':')).count();
        if valid < all.len() || all.len() > 2 || six != 1 {
            errors.invalid(path, json!(all), "may specify no more than one CIDR for each IP family");
        }
    }
}

/// `Ready`, `NotReady,SchedulingDisabled`, `Unknown`.
fn readiness(object: &Value) -> String {
    let ready = items(status(object), "conditions").iter().rfind(|c| text(c, "type") == "Ready");
    let shown = match ready.map(|c| text(c, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    if flag(spec(object), "unschedulable") { format!("{shown},SchedulingDisabled") } else { shown.to_owned() }
}

fn roles(object: &Value) -> String {
    let mut found = std::collections::BTreeSet::new();
    for (key, value) in map(meta(object), "labels").into_iter().flatten() {
        if let Some(role) = key.strip_prefix("node-role.kubernetes.io/").filter(|r| !r.is_empty()) {
            found.insert(role.to_owned());
        } else if key == "kubernetes.io/role" {
            let role = value.as_str().unwrap_or("");
            if !role.is_empty() {
                found.insert(role.to_owned());
            }
        }
    }
    if found.is_empty() { "<none>".to_owned() } else { Vec::from_iter(found).join(",") }
}

fn address<'a>(object: &'a Value, ty: &str) -> &'a str {
    let found = items(status(object), "addresses").iter().find(|a| text(a, "type") == ty);
    found.map_or("<none>", |a| text(a, "address"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx, texts as shown, update_errors};

    #[test]
    fn pod_cidr_and_allocatable_follow() {
        let made =
            created(&Node, json!({"spec": {"podCIDR": "x", "podCIDRs": ["y"]}, "status": {"capacity": {"cpu": "1"}}}));
        assert_eq!(made["spec"]["podCIDRs"], json!(["x"]));
        assert_eq!(made["status"]["allocatable"], json!({"cpu": "1"}));
        assert_eq!(created(&Node, json!({"spec": {"podCIDRs": ["y"]}}))["spec"]["podCIDR"], "y");
    }

    #[test]
    fn checks_taints_resources_and_cidrs() {
        let got = create_errors(
            &Node,
            json!({
                "spec": {"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"],
                         "taints": [{"key": "a", "effect": "NoExecute"}, {"key": "a", "effect": "NoExecute", "value": "v"}, {"key": "b"}]},
                "status": {"capacity": {"cpu": "-1", "pods": "1500m", "example.com/x": "0.5", "memory": "1m"}},
            }),
        );
        assert_eq!(
            got,
            [
                "metadata.taints[1]: Duplicate value: {\"Key\":\"a\",\"Value\":\"v\",\"Effect\":\"NoExecute\",\"TimeAdded\":null}: taints must be unique by key and effect pair",
                "metadata.taints[2].effect: Required value",
                "status.capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.capacity.example.com/x: Invalid value: \"0.5\": must be an integer",
                "status.capacity.pods: Invalid value: \"1500m\": must be an integer",
                // the default allocatable is the capacity
                "status.allocatable.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.allocatable.example.com/x: Invalid value: \"0.5\": must be an integer",
                "status.allocatable.pods: Invalid value: \"1500m\": must be an integer",
                "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP family",
            ]
        );
    }

    #[test]
    fn cidrs_and_provider_stay() {
        let old = json!({"spec": {"podCIDR": "10.0.0.0/24", "providerID": "p"}});
        assert_eq!(
            update_errors(&Node, old, json!({"spec": {"podCIDR": "10.0.1.0/24"}})),
            [
                "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
                "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
            ]
        );
        assert!(
            update_errors(&Node, json!({}), json!({"spec": {"podCIDR": "10.0.1.0/24", "providerID": "p"}})).is_empty()
        );
    }

    #[test]
    fn status_update_checks_the_status_once() {
        let node = json!({"status": {"allocatable": {"cpu": "-1"},
                          "addresses": [{"type": "Hostname", "address": "h"}, {"type": "Hostname", "address": "h"}]}});
        assert_eq!(
            shown(&Node.validate_update(&cx("status"), &node, &json!({}))),
            [
                "status.allocatable.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                "status.addresses[1]: Duplicate value: {\"Type\":\"Hostname\",\"Address\":\"h\"}",
            ]
        );
    }

    #[test]
    fn prints_status_roles_and_versions() {
        let node = json!({
            "metadata": {"name": "n", "labels": {"node-role.kubernetes.io/b": "", "kubernetes.io/role": "a"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "Unknown"}], "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
                       "nodeInfo": {"kernelVersion": "6.1", "architecture": "amd64", "kubeletVersion": "v1"}},
        });
        let row = Node.row(&node, cx("").now);
        assert_eq!(row[1], "NotReady,SchedulingDisabled");
        assert_eq!(row[2], "a,b");
        assert_eq!(
            row[4..],
            [
                json!("v1"),
                json!("10.0.0.1"),
                json!("<none>"),
                json!("<unknown>"),
                json!("6.1 (amd64)"),
                json!("<unknown>")
            ]
        );
    }
}
