//! Validation of services.

use apimachinery::validation::{ErrorList, Path, meta as common, names};
use serde_json::{Value, json};

use super::{HEADLESS, OLD_TOPOLOGY, TOPOLOGY, externally_accessible, is_headless, kind_of, needs_health_check};
use crate::access::{has, int, items, obj, opt_int, opt_text, text, texts};
use crate::checks::{
    annotation, cidr, dns_label, dns_subdomain, dump, duplicate_text, ip, non_special_ip, one_of, port_number,
    protocol, qualified_name, spec, status,
};

const KUBELET_PORT: i64 = 10250;
const MAX_AFFINITY_SECONDS: i64 = 86400;
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";
const LOAD_BALANCER_ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
const SET_ONCE: &str = "may not change once set";

pub(super) fn validate(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    let path = Path::new("spec");
    check_topology(&mut errors, object);
    let ports = items(spec, "ports");
    if ports.is_empty() && !is_headless(spec) && kind_of(object) != "ExternalName" {
        errors.required(path.child("ports"), "");
    }
    check_by_type(&mut errors, spec);
    for (i, port) in ports.iter().enumerate() {
        check_port(&mut errors, path.child("ports").index(i), port, &ports[..i], ports.len() > 1);
    }
    if has(spec, "selector") {
        errors.extend(common::validate_labels(obj(spec, "selector"), &path.child("selector")));
    }
    check_affinity(&mut errors, spec);
    errors.extend(cluster_ip_fields(object));
    for (i, value) in texts(spec, "externalIPs").iter().enumerate() {
        let at = path.child("externalIPs").index(i);
        if ip(&mut errors, &at, value) {
            non_special_ip(&mut errors, &at, value);
        }
    }
    one_of(
        &mut errors,
        path.child("type"),
        text(spec, "type"),
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
    );
    check_numbers(&mut errors, spec);
    check_load_balancer(&mut errors, object);
    check_class(&mut errors, spec, None);
    check_traffic_policies(&mut errors, spec);
    errors
}

pub(super) fn validate_update(object: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    check_list_change(&mut errors, object, old, "clusterIPs", "clusterIP");
    check_list_change(&mut errors, object, old, "ipFamilies", "ipFamily");
    check_class(&mut errors, spec(object), Some(spec(old)));
    errors.extend(validate(object));
    errors
}

pub(super) fn validate_status(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let ingress = items(obj(status(object), "loadBalancer"), "ingress");
    let path = Path::new("status").child("loadBalancer").child("ingress");
    if kind_of(object) != "LoadBalancer" && !ingress.is_empty() {
        errors.forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'");
        return errors;
    }
    for (i, point) in ingress.iter().enumerate() {
        let at = path.index(i);
        let address = text(point, "ip");
        if !address.is_empty() {
            ip(&mut errors, &at.child("ip"), address);
        }
        match opt_text(point, "ipMode") {
            None if !address.is_empty() => errors.required(at.child("ipMode"), "must be specified when `ip` is set"),
            None => {}
            Some(_) if address.is_empty() => {
                errors.forbidden(at.child("ipMode"), "may not be specified when `ip` is not set");
            }
            Some(mode) if !["Proxy", "VIP"].contains(&mode) => {
                errors.not_supported(at.child("ipMode"), mode, &["Proxy", "VIP"]);
            }
            Some(_) => {}
        }
        let hostname = text(point, "hostname");
        if !hostname.is_empty() {
            dns_subdomain(&mut errors, at.child("hostname"), hostname);
            if hostname.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid(at.child("hostname"), hostname, "must be a DNS name, not an IP address");
            }
        }
    }
    errors
}

fn check_topology(errors: &mut ErrorList, object: &Value) {
    if let (Some(mode), Some(hints)) = (annotation(object, TOPOLOGY), annotation(object, OLD_TOPOLOGY)) {
        if mode != hints {
            let path = Path::new("metadata").child("annotations").key(TOPOLOGY);
            errors.invalid(path, mode, &format!("must match annotations[{OLD_TOPOLOGY}] when both are specified"));
        }
    }
}

fn check_by_type(errors: &mut ErrorList, spec: &Value) {
    let path = Path::new("spec");
    let ty = text(spec, "type");
    match ty {
        "LoadBalancer" | "NodePort" => {
            if ty == "LoadBalancer" {
                for (i, port) in items(spec, "ports").iter().enumerate().filter(|(_, p)| int(p, "port") == KUBELET_PORT)
                {
                    let detail = format!("may not expose port {KUBELET_PORT} externally since it is used by kubelet");
                    errors.invalid(path.child("ports").index(i), int(port, "port"), &detail);
                }
            }
            if is_headless(spec) {
                let detail = format!("may not be set to 'None' for {ty} services");
                errors.invalid(path.child("clusterIPs").index(0), HEADLESS, &detail);
            }
        }
        "ExternalName" => {
            const FORBIDDEN: &str = "may not be set for ExternalName services";
            for list in ["clusterIPs", "ipFamilies"] {
                if !items(spec, list).is_empty() {
                    errors.forbidden(path.child(list), FORBIDDEN);
                }
            }
            if has(spec, "ipFamilyPolicy") {
                errors.forbidden(path.child("ipFamilyPolicy"), FORBIDDEN);
            }
            let target = text(spec, "externalName");
            match target.strip_suffix('.').unwrap_or(target) {
                "" => errors.required(path.child("externalName"), ""),
                cname => dns_subdomain(errors, path.child("externalName"), cname),
            }
        }
        _ => {}
    }
}

fn check_port(errors: &mut ErrorList, path: Path, port: &Value, before: &[Value], name_required: bool) {
    let name = text(port, "name");
    if !name.is_empty() {
        dns_label(errors, path.child("name"), name);
        if before.iter().any(|p| text(p, "name") == name) {
            errors.duplicate(path.child("name"), name);
        }
    } else if name_required {
        errors.required(path.child("name"), "");
    }
    port_number(errors, path.child("port"), int(port, "port"));
    protocol(errors, path.child("protocol"), text(port, "protocol"));
    let target = path.child("targetPort");
    match obj(port, "targetPort") {
        Value::String(name) => errors.invalid_all(&target, name, names::is_valid_port_name(name)),
        number => port_number(errors, target, number.as_i64().unwrap_or(0)),
    }
    if let Some(app) = opt_text(port, "appProtocol") {
        qualified_name(errors, path.child("appProtocol"), app);
    }
}

fn check_affinity(errors: &mut ErrorList, spec: &Value) {
    let path = Path::new("spec");
    let affinity = text(spec, "sessionAffinity");
    one_of(errors, path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let config_path = path.child("sessionAffinityConfig");
    let config = obj(spec, "sessionAffinityConfig");
    if affinity == "None" && !config.is_null() {
        errors.forbidden(config_path, "must not be set when session affinity is None");
    } else if affinity == "ClientIP" {
        const NEEDED: &str = "when session affinity type is ClientIP";
        let client = obj(config, "clientIP");
        let client_path = config_path.child("clientIP");
        let seconds_path = client_path.child("timeoutSeconds");
        match opt_int(client, "timeoutSeconds") {
            _ if config.is_null() => errors.required(config_path, NEEDED),
            _ if client.is_null() => errors.required(client_path, NEEDED),
            None => errors.required(seconds_path, NEEDED),
            Some(seconds) if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) => {
                let detail = format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}");
                errors.invalid(seconds_path, seconds, &detail);
            }
            Some(_) => {}
        }
    }
}

/// What the cluster IPs, the families and the policy say of each other; also upstream's first check when it allocates.
pub(super) fn cluster_ip_fields(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = spec(object);
    if kind_of(object) == "ExternalName" {
        return errors;
    }
    let path = Path::new("spec");
    let (ips_path, families_path) = (path.child("clusterIPs"), path.child("ipFamilies"));
    let (one, all) = (text(spec, "clusterIP"), texts(spec, "clusterIPs"));
    match (one, all.first()) {
        ("", Some(_)) => {
            errors.invalid(ips_path.clone(), json!(all), "must be empty when `clusterIP` is not specified")
        }
        ("", None) => {}
        (_, None) => errors.required(ips_path.clone(), ""),
        (one, Some(first)) if one != *first => {
            errors.invalid(ips_path.clone(), json!(all), "first value must match `clusterIP`");
        }
        _ => {}
    }
    let families = texts(spec, "ipFamilies");
    for (i, family) in families.iter().enumerate() {
        if !["IPv4", "IPv6"].contains(family) {
            errors.not_supported(families_path.index(i), *family, &["IPv4", "IPv6"]);
        }
        if families[..i].contains(family) {
            errors.duplicate(families_path.index(i), *family);
        }
    }
    if let Some(policy) = opt_text(spec, "ipFamilyPolicy") {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        if !supported.contains(&policy) {
            errors.not_supported(path.child("ipFamilyPolicy"), policy, &supported);
        }
    }
    let mut bad = false;
    for (i, value) in all.iter().enumerate() {
        if i == 0 && *value == HEADLESS {
            if all.len() > 1 {
                bad = true;
                errors.invalid(ips_path.clone(), json!(all), "'None' must be the first and only value");
            }
            continue;
        }
        bad |= !ip(&mut errors, &ips_path.index(i), value);
    }
    if all.len() > 2 {
        errors.invalid(ips_path.clone(), json!(all), "may only hold up to 2 values");
    }
    if bad {
        return errors;
    }
    if all.len() > 1 && all.iter().filter(|ip| ip.contains(':')).count() * 2 != all.len() {
        errors.invalid(ips_path.clone(), json!(all), "may specify no more than one IP for each IP family");
    }
    if !is_headless(spec) && errors.is_empty() {
        for (i, (ip, family)) in all.iter().zip(&families).enumerate() {
            if ip.contains(':') != (*family == "IPv6") {
                let detail = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
                errors.invalid(ips_path.index(i), *ip, &detail);
            }
        }
    }
    errors
}

/// Node ports and (protocol, port) pairs are used once.
fn check_numbers(errors: &mut ErrorList, spec: &Value) {
    let path = Path::new("spec").child("ports");
    let ports = items(spec, "ports");
    if text(spec, "type") == "ClusterIP" {
        for (i, _) in ports.iter().enumerate().filter(|(_, p)| int(p, "nodePort") != 0) {
            errors.forbidden(path.index(i).child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
    let key = |port: &Value, number: &str| (text(port, "protocol").to_owned(), int(port, number));
    for (i, port) in ports.iter().enumerate().filter(|(_, p)| int(p, "nodePort") != 0) {
        if ports[..i].iter().any(|p| key(p, "nodePort") == key(port, "nodePort")) {
            errors.duplicate(path.index(i).child("nodePort"), int(port, "nodePort"));
        }
    }
    for (i, port) in ports.iter().enumerate() {
        if ports[..i].iter().any(|p| key(p, "port") == key(port, "port")) {
            let text = dump(&[
                ("Name", json!("")),
                ("Protocol", json!(text(port, "protocol"))),
                ("AppProtocol", Value::Null),
                ("Port", json!(int(port, "port"))),
                ("TargetPort", json!(0)),
                ("NodePort", json!(0)),
            ]);
            duplicate_text(errors, path.index(i), &text, "");
        }
    }
}

fn check_load_balancer(errors: &mut ErrorList, object: &Value) {
    let spec = spec(object);
    let is_load_balancer = kind_of(object) == "LoadBalancer";
    let ranges = texts(spec, "loadBalancerSourceRanges");
    if !ranges.is_empty() {
        let path = Path::new("spec").child("LoadBalancerSourceRanges");
        if !is_load_balancer {
            errors.forbidden(path.clone(), LOAD_BALANCER_ONLY);
        }
        for (i, range) in ranges.iter().enumerate() {
            cidr(errors, &path.index(i), range.trim());
        }
    } else if let Some(value) = annotation(object, SOURCE_RANGES) {
        let path = Path::new("metadata").child("annotations").key(SOURCE_RANGES);
        if !is_load_balancer {
            errors.forbidden(path.clone(), LOAD_BALANCER_ONLY);
        }
        let value = value.trim();
        if !value.is_empty() && value.split(',').any(|range| !names::is_valid_cidr(range.trim()).is_empty()) {
            let detail = "must be a list of IP ranges. For example, 10.240.0.0/24,10.250.0.0/24 ";
            errors.invalid(path, value, detail);
        }
    }
    let path = Path::new("spec").child("allocateLoadBalancerNodePorts");
    match (has(spec, "allocateLoadBalancerNodePorts"), is_load_balancer) {
        (true, false) => errors.forbidden(path, LOAD_BALANCER_ONLY),
        (false, true) => errors.required(path, ""),
        _ => {}
    }
}

/// The class is of load balancers, and set once.
fn check_class(errors: &mut ErrorList, spec: &Value, old: Option<&Value>) {
    let path = Path::new("spec").child("loadBalancerClass");
    let class = opt_text(spec, "loadBalancerClass");
    let is_load_balancer = text(spec, "type") == "LoadBalancer";
    if let Some(old) = old.filter(|old| is_load_balancer && text(old, "type") == "LoadBalancer") {
        if class != opt_text(old, "loadBalancerClass") {
            errors.invalid(path.clone(), class.unwrap_or("null"), SET_ONCE);
        }
    }
    match class {
        Some(class) if is_load_balancer => qualified_name(errors, path, class),
        Some(_) => errors.forbidden(path, LOAD_BALANCER_ONLY),
        None => {}
    }
}

fn check_traffic_policies(errors: &mut ErrorList, spec: &Value) {
    const POLICIES: &[&str] = &["Cluster", "Local"];
    let path = Path::new("spec");
    let external = text(spec, "externalTrafficPolicy");
    if externally_accessible(spec) {
        one_of(errors, path.child("externalTrafficPolicy"), external, POLICIES);
    } else if !external.is_empty() {
        errors.invalid(
            path.child("externalTrafficPolicy"),
            external,
            "may only be set for externally-accessible services",
        );
    }
    let health = int(spec, "healthCheckNodePort");
    let health_path = path.child("healthCheckNodePort");
    if needs_health_check(spec) {
        if health == 0 {
            errors.required(health_path, "");
        } else {
            port_number(errors, health_path, health);
        }
    } else if health != 0 {
        errors.invalid(
            health_path,
            health,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
    match opt_text(spec, "internalTrafficPolicy") {
        None if super::needs_cluster_ip(spec) => errors.required(path.child("internalTrafficPolicy"), ""),
        Some(internal) if !POLICIES.contains(&internal) => {
            errors.not_supported(path.child("internalTrafficPolicy"), internal, POLICIES);
        }
        _ => {}
    }
    const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
    if let Some(distribution) = opt_text(spec, "trafficDistribution").filter(|d| !DISTRIBUTIONS.contains(d)) {
        errors.not_supported(path.child("trafficDistribution"), distribution, DISTRIBUTIONS);
    }
}

/// The first of `clusterIPs` or `ipFamilies` stays; a second may come, and go with `SingleStack`.
fn check_list_change(errors: &mut ErrorList, object: &Value, old: &Value, list: &str, one: &str) {
    if kind_of(object) == "ExternalName" || kind_of(old) == "ExternalName" {
        return;
    }
    if is_headless(spec(object)) && is_headless(spec(old)) {
        return;
    }
    let (was, is) = (texts(spec(old), list), texts(spec(object), list));
    let path = Path::new("spec").child(list);
    if was.len() == is.len() {
        for i in (0..was.len()).filter(|i| was[*i] != is[*i]) {
            errors.invalid(path.index(i), json!(is), SET_ONCE);
        }
        return;
    }
    if is.is_empty() {
        errors.invalid(path.index(0), json!(is), &format!("primary {one} can not be unset"));
    }
    if let (Some(was), Some(now)) = (was.first(), is.first()) {
        if was != now {
            errors.invalid(path.index(0), json!(is), SET_ONCE);
        }
    }
    if was.len() > is.len() && is.len() == 1 {
        let policy = text(spec(object), "ipFamilyPolicy");
        if policy != "SingleStack" {
            let detail = format!("must be set to 'SingleStack' when releasing the secondary {one}");
            errors.invalid(Path::new("spec").child("ipFamilyPolicy"), policy, &detail);
        }
    }
}
