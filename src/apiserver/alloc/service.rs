//! What a Service needs, has and keeps.

use std::net::IpAddr;

use serde_json::{Value, json};

fn kind(service: &Value) -> &str {
    service["spec"]["type"].as_str().unwrap_or("ClusterIP")
}

pub fn needs_cluster_ip(service: &Value) -> bool {
    kind(service) != "ExternalName"
}

pub fn wants_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

/// Load balancers that go to local endpoints ask the node whether it has any.
pub fn wants_health_port(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && service["spec"]["externalTrafficPolicy"].as_str() == Some("Local")
}

/// The addresses a Service has taken.
pub fn addresses(service: &Value) -> Vec<IpAddr> {
    if !needs_cluster_ip(service) {
        return Vec::new();
    }
    let spec = &service["spec"];
    let listed = spec["clusterIPs"].as_array().filter(|l| !l.is_empty());
    let texts: Vec<&str> = match listed {
        Some(list) => list.iter().filter_map(Value::as_str).collect(),
        None => spec["clusterIP"].as_str().into_iter().collect(),
    };
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

/// The node ports a Service has taken, without repetition.
pub fn node_ports(service: &Value) -> Vec<u16> {
    if !matches!(kind(service), "NodePort" | "LoadBalancer") {
        return Vec::new();
    }
    let spec = &service["spec"];
    let mut ports: Vec<u16> = spec["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| port["nodePort"].as_u64())
        .chain(spec["healthCheckNodePort"].as_u64())
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port != 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// An update that leaves out what the server had chosen keeps it; a change of type drops what no longer applies.
pub fn keep_allocated(service: &mut Value, old: &Value) {
    let blank = |value: &Value| value.as_str().unwrap_or_default().is_empty();
    if needs_cluster_ip(service) && needs_cluster_ip(old) {
        if blank(&service["spec"]["clusterIP"]) && no_items(&service["spec"]["clusterIPs"]) {
            for key in ["clusterIP", "clusterIPs"] {
                copy(service, old, key);
            }
        }
        for key in ["ipFamilies", "ipFamilyPolicy"] {
            if service["spec"][key].is_null() {
                copy(service, old, key);
            }
        }
    }
    if !needs_cluster_ip(service) && needs_cluster_ip(old) {
        // Only what the old Service had: another value is the client's own mistake, for validation to refuse.
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if service["spec"][key] == old["spec"][key] {
                drop_field(service, key);
            }
        }
    }
    if wants_node_ports(service) && wants_node_ports(old) {
        let mut used: Vec<u64> =
            ports(service).iter().filter_map(|p| p["nodePort"].as_u64()).filter(|p| *p != 0).collect();
        let known: Vec<(Value, Value, u64)> = ports(old)
            .iter()
            .map(|p| (p["protocol"].clone(), p["port"].clone(), p["nodePort"].as_u64().unwrap_or(0)))
            .collect();
        for port in ports_mut(service) {
            if port["nodePort"].as_u64().unwrap_or(0) != 0 {
                continue;
            }
            let kept =
                known.iter().find(|(protocol, number, _)| *protocol == port["protocol"] && *number == port["port"]);
            if let Some((_, _, node_port)) = kept.filter(|(_, _, p)| *p != 0 && !used.contains(p)) {
                used.push(*node_port);
                port["nodePort"] = (*node_port).into();
            }
        }
    }
    let plain = |s: &Value| matches!(kind(s), "ClusterIP" | "ExternalName");
    if plain(service) && !plain(old) {
        let before: Vec<Value> = ports(old).to_vec();
        for port in ports_mut(service) {
            let same = before.iter().any(|b| b["port"] == port["port"] && b["nodePort"] == port["nodePort"]);
            if same && let Some(map) = port.as_object_mut() {
                map.remove("nodePort");
            }
        }
    }
    if wants_health_port(service) && wants_health_port(old) {
        if service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0 {
            copy(service, old, "healthCheckNodePort");
        }
    } else if !wants_health_port(service)
        && wants_health_port(old)
        && service["spec"]["healthCheckNodePort"] == old["spec"]["healthCheckNodePort"]
    {
        drop_field(service, "healthCheckNodePort");
    }
}

/// One family: the cluster's. A headless Service without a selector asks for both, as far as there are two.
pub fn default_families(service: &mut Value, v4: bool) {
    if !needs_cluster_ip(service) {
        return;
    }
    let spec = &mut service["spec"];
    let single = spec["clusterIP"].as_str().unwrap_or_default().to_owned();
    if no_items(&spec["clusterIPs"]) && !single.is_empty() {
        spec["clusterIPs"] = vec![single].into();
    } else if single.is_empty() && !no_items(&spec["clusterIPs"]) {
        // A list without its first element repeated in clusterIP is invalid; validation says so.
        return;
    }
    let headless = spec["clusterIPs"][0].as_str() == Some("None");
    let selectorless = spec["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    let (own, other) = if v4 { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
    if spec["ipFamilyPolicy"].as_str().unwrap_or_default().is_empty() {
        let policy =
            if headless && selectorless && no_items(&spec["ipFamilies"]) { "RequireDualStack" } else { "SingleStack" };
        spec["ipFamilyPolicy"] = policy.into();
    }
    if no_items(&spec["ipFamilies"]) {
        let both = headless && selectorless && spec["ipFamilyPolicy"] != "SingleStack";
        spec["ipFamilies"] = if both { json!([own, other]) } else { json!([own]) };
    }
}

fn ports(service: &Value) -> &[Value] {
    service["spec"]["ports"].as_array().map_or(&[], Vec::as_slice)
}

/// The ports, to be changed in place.
pub fn ports_mut(service: &mut Value) -> &mut [Value] {
    service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

fn no_items(value: &Value) -> bool {
    value.as_array().is_none_or(Vec::is_empty)
}

fn copy(service: &mut Value, old: &Value, key: &str) {
    if !old["spec"][key].is_null() {
        service["spec"][key] = old["spec"][key].clone();
    }
}

fn drop_field(service: &mut Value, key: &str) {
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove(key);
    }
}
