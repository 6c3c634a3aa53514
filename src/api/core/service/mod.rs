//! Service: a stable address for pods.
//!
//! Invariants:
//! - SV-1: `clusterIP` is `clusterIPs[0]`, and neither changes except from and to ExternalName.
//! - SV-2: fields that a change of type makes meaningless are dropped, unless the same request changed them too.
//! - SV-3: addresses and ports are taken before validation, as upstream does; see [`allocation`].

mod allocation;
mod validation;

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{
    copy_field, ensure_map, has, int, items, items_mut, obj, opt_flag, remove, same, set, set_blank, set_missing, text,
    texts,
};
use crate::checks::{annotation, format_labels, ip_warning, spec, status};
use crate::kind::{AllocationError, Allocator, Claims, Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct Service;

pub fn kind() -> Kind {
    const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];
    Kind::builtin("v1", "Service", "services", Scope::Namespaced, "io.k8s.api.core.v1.Service", Service)
        .with_short_names(&["svc"])
        .with_categories(&["all"])
        .with_storage_key("services/specs")
        .with_subresource("proxy", "v1", "ServiceProxyOptions", PROXY)
        .with_subresource("status", "v1", "Service", &["get", "patch", "update"])
}

pub(super) const HEADLESS: &str = "None";
const OLD_TOPOLOGY: &str = "service.kubernetes.io/topology-aware-hints";
const TOPOLOGY: &str = "service.kubernetes.io/topology-mode";

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        if let Some(spec) = object.get_mut("spec") {
            default_spec(spec);
        }
        for ingress in object.pointer_mut("/status/loadBalancer").map_or(&mut [][..], |lb| items_mut(lb, "ingress")) {
            if !text(ingress, "ip").is_empty() {
                set_missing(ingress, "ipMode", "VIP");
            }
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"loadBalancer": {}}));
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        if cx.subresource == "status" {
            copy_field(object, old, "spec");
            return;
        }
        copy_field(object, old, "status");
        drop_type_dependent(object, old);
        if kind_of(object) != "LoadBalancer" {
            if let Some(status) = object.get_mut("status").filter(|s| s.is_object()) {
                set(status, "loadBalancer", json!({}));
            }
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        validation::validate(object)
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        match cx.subresource.as_str() {
            "status" => validation::validate_status(object),
            _ => validation::validate_update(object, old),
        }
    }

    fn warnings(&self, cx: &RequestContext, object: &Value, _old: Option<&Value>) -> Vec<String> {
        if cx.subresource == "status" { Vec::new() } else { warnings(object) }
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let named = |key: &str| text(spec(object), key).to_owned();
        vec![("spec.clusterIP", named("clusterIP")), ("spec.type", named("type"))]
    }

    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        names::dns1123_label(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allocate(
        &self,
        object: &mut Value,
        old: Option<&Value>,
        pool: &mut dyn Allocator,
    ) -> Result<(), AllocationError> {
        allocation::allocate(object, old, pool)
    }

    fn claims(&self, object: &Value) -> Claims {
        allocation::claims(object)
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/services")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = spec(object);
        let ports: Vec<_> = items(spec, "ports").iter().map(shown_port).collect();
        let or_none = |value: String| if value.is_empty() { "<none>".to_owned() } else { value };
        vec![
            name_of(object),
            json!(text(spec, "type")),
            json!(texts(spec, "clusterIPs").first().unwrap_or(&"<none>")),
            json!(external_ip(object)),
            json!(or_none(ports.join(","))),
            age_of(object, now),
            json!(format_labels(obj(spec, "selector"))),
        ]
    }
}

fn default_spec(spec: &mut Value) {
    set_blank(spec, "sessionAffinity", "None");
    let timeless = spec.pointer("/sessionAffinityConfig/clientIP/timeoutSeconds").is_none_or(Value::is_null);
    match text(spec, "sessionAffinity") {
        "None" => {
            remove(spec, "sessionAffinityConfig");
        }
        "ClientIP" if timeless => set(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}})),
        _ => {}
    }
    set_blank(spec, "type", "ClusterIP");
    for port in items_mut(spec, "ports") {
        set_blank(port, "protocol", "TCP");
        let target = obj(port, "targetPort");
        if target.is_null() || *target == json!(0) || *target == json!("") {
            let number = int(port, "port");
            set(port, "targetPort", number);
        }
    }
    if externally_accessible(spec) {
        set_blank(spec, "externalTrafficPolicy", "Cluster");
    }
    if matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer") {
        set_missing(spec, "internalTrafficPolicy", "Cluster");
    }
    if text(spec, "type") == "LoadBalancer" {
        set_missing(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Drops, after a change of type, what the new type does not have and the client did not touch.
fn drop_type_dependent(object: &mut Value, old: &Value) {
    let untouched = |object: &Value, field: &str| same(obj(spec(object), field), obj(spec(old), field));
    let was = spec(old);
    let mut gone: Vec<&str> = Vec::new();
    {
        let is = spec(object);
        let lost = |needs: fn(&Value) -> bool| needs(was) && !needs(is);
        if lost(needs_cluster_ip) {
            if untouched(object, "clusterIPs") {
                gone.extend(["clusterIP", "clusterIPs"]);
            }
            gone.extend(["ipFamilies", "ipFamilyPolicy"].into_iter().filter(|f| untouched(object, f)));
            gone.extend(Some("internalTrafficPolicy").filter(|f| untouched(object, f)));
        }
        if lost(needs_health_check) && int(is, "healthCheckNodePort") == int(was, "healthCheckNodePort") {
            gone.push("healthCheckNodePort");
        }
        if lost(is_load_balancer) {
            gone.extend(
                ["allocateLoadBalancerNodePorts", "loadBalancerClass"].into_iter().filter(|f| untouched(object, f)),
            );
        }
        if lost(externally_accessible) && untouched(object, "externalTrafficPolicy") {
            gone.push("externalTrafficPolicy");
        }
    }
    let ports_gone =
        needs_node_port(was) && !needs_node_port(spec(object)) && node_ports(spec(object)) == node_ports(was);
    let Some(spec) = object.get_mut("spec") else { return };
    for field in gone {
        remove(spec, field);
    }
    if ports_gone {
        for port in items_mut(spec, "ports") {
            remove(port, "nodePort");
        }
    }
}

pub(super) fn kind_of(object: &Value) -> &str {
    text(spec(object), "type")
}

pub(super) fn is_headless(spec: &Value) -> bool {
    let ips = texts(spec, "clusterIPs");
    ips.len() == 1 && ips[0] == HEADLESS
}

pub(super) fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(text(spec, "type"), "ClusterIP" | "NodePort" | "LoadBalancer")
}

pub(super) fn needs_node_port(spec: &Value) -> bool {
    matches!(text(spec, "type"), "NodePort" | "LoadBalancer")
}

fn is_load_balancer(spec: &Value) -> bool {
    text(spec, "type") == "LoadBalancer"
}

pub(super) fn needs_health_check(spec: &Value) -> bool {
    is_load_balancer(spec) && text(spec, "externalTrafficPolicy") == "Local"
}

/// Reachable from outside the cluster: then it has an external traffic policy.
pub(super) fn externally_accessible(spec: &Value) -> bool {
    needs_node_port(spec) || (text(spec, "type") == "ClusterIP" && !items(spec, "externalIPs").is_empty())
}

/// A port without a node port gets one.
pub(super) fn wants_node_ports(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" => true,
        "LoadBalancer" => opt_flag(spec, "allocateLoadBalancerNodePorts").unwrap_or(true),
        _ => false,
    }
}

/// The node ports in use, sorted.
pub(super) fn node_ports(spec: &Value) -> std::collections::BTreeSet<i64> {
    items(spec, "ports").iter().map(|p| int(p, "nodePort")).filter(|p| *p != 0).collect()
}

fn warnings(object: &Value) -> Vec<String> {
    let spec = spec(object);
    let path = Path::new("spec");
    let mut found = Vec::new();
    if annotation(object, OLD_TOPOLOGY).is_some() {
        found.push(format!("annotation {OLD_TOPOLOGY} is deprecated, please use {TOPOLOGY} instead"));
    }
    for list in ["clusterIPs", "externalIPs"] {
        for (i, ip) in texts(spec, list).iter().enumerate() {
            found.extend(ip_warning(&path.child(list).index(i), ip));
        }
    }
    found.extend(ip_warning(&path.child("loadBalancerIP"), text(spec, "loadBalancerIP")));
    let external_name = text(spec, "type") == "ExternalName";
    let external_ips = !items(spec, "externalIPs").is_empty();
    if external_ips && !external_name {
        found.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if external_name && external_ips {
        found.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external_name && has(spec, "externalName") && !text(spec, "externalName").is_empty() {
        found.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(spec, "trafficDistribution") == "PreferClose" {
        found.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    if text(spec, "clusterIP") == HEADLESS && text(spec, "sessionAffinity") == "ClientIP" {
        found.push("spec.SessionAffinity is ignored for headless services".to_owned());
    }
    found
}

fn shown_port(port: &Value) -> String {
    let (number, protocol) = (int(port, "port"), text(port, "protocol"));
    match int(port, "nodePort") {
        0 => format!("{number}/{protocol}"),
        node => format!("{number}:{node}/{protocol}"),
    }
}

fn external_ip(object: &Value) -> String {
    let spec = spec(object);
    let external = texts(spec, "externalIPs").join(",");
    match text(spec, "type") {
        "ClusterIP" | "NodePort" if external.is_empty() => "<none>".to_owned(),
        "ClusterIP" | "NodePort" => external,
        "LoadBalancer" => {
            let ingress = items(obj(status(object), "loadBalancer"), "ingress").iter();
            let mut all: Vec<_> = ingress
                .map(|i| if text(i, "ip").is_empty() { text(i, "hostname") } else { text(i, "ip") })
                .filter(|s| !s.is_empty())
                .collect();
            // a set upstream: sorted, each once
            all.sort_unstable();
            all.dedup();
            all.extend(texts(spec, "externalIPs"));
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => text(spec, "externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests;
