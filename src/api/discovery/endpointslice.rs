//! EndpointSlice: some of the addresses behind a service.
//!
//! Invariants:
//! - ES-1: the address type never changes, and every address is of it.
//! - ES-2: the generation counts changes of anything but the metadata; changes of labels count too.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{has, items, items_mut, obj, opt_int, opt_text, remove, same, set_missing, text, texts};
use crate::checks::{
    dns_label, dns_subdomain, immutable, ip, ip_warning, meta, next_generation, non_special_ip, protocol,
    qualified_name, start_generation,
};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct EndpointSlice;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.discovery.v1.EndpointSlice";
    Kind::builtin(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        "endpointslices",
        Scope::Namespaced,
        DEFINITION,
        EndpointSlice,
    )
}

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20000;
const MAX_HINTS: usize = 8;

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        for port in items_mut(object, "ports") {
            set_missing(port, "name", "");
            set_missing(port, "protocol", "TCP");
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        start_generation(object);
        for endpoint in items_mut(object, "endpoints") {
            remove(endpoint, "deprecatedTopology");
        }
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        let unchanged = same(obj(object, "endpoints"), obj(old, "endpoints"));
        if !unchanged {
            for endpoint in items_mut(object, "endpoints") {
                remove(endpoint, "deprecatedTopology");
            }
        }
        let labels = |o: &Value| obj(meta(o), "labels").clone();
        let changed = ["addressType", "endpoints", "ports"].iter().any(|f| !same(obj(object, f), obj(old, f)))
            || !same(&labels(object), &labels(old));
        next_generation(object, old, changed);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let ty = text(object, "addressType");
        crate::checks::one_of(&mut errors, Path::new("addressType"), ty, &["FQDN", "IPv4", "IPv6"]);
        check_ports(&mut errors, items(object, "ports"));
        check_endpoints(&mut errors, items(object, "endpoints"), ty);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        immutable(&mut errors, Path::new("addressType"), obj(object, "addressType"), obj(old, "addressType"));
        errors
    }

    fn warnings(&self, _cx: &RequestContext, object: &Value, _old: Option<&Value>) -> Vec<String> {
        if text(object, "addressType") == "FQDN" {
            return vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()];
        }
        let path = Path::new("endpoints");
        let mut found = Vec::new();
        for (i, endpoint) in items(object, "endpoints").iter().enumerate() {
            for (j, address) in texts(endpoint, "addresses").iter().enumerate() {
                found.extend(ip_warning(&path.index(i).child("addresses").index(j), address));
            }
        }
        found
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("discovery.k8s.io/v1/endpointslices")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let ports = items(object, "ports").iter().map(|port| match opt_int(port, "port") {
            Some(number) => number.to_string(),
            None => opt_text(port, "name").unwrap_or("*").to_owned(),
        });
        let addresses = items(object, "endpoints").iter().flat_map(|e| texts(e, "addresses")).map(str::to_owned);
        vec![
            name_of(object),
            json!(text(object, "addressType")),
            json!(first_three(ports.collect())),
            json!(first_three(addresses.collect())),
            age_of(object, now),
        ]
    }
}

fn first_three(all: Vec<String>) -> String {
    const MAX: usize = 3;
    let first = all[..all.len().min(MAX)].join(",");
    match all.len() {
        n if n > MAX => format!("{first} + {} more...", n - MAX),
        _ if first.is_empty() => "<unset>".to_owned(),
        _ => first,
    }
}

fn check_ports(errors: &mut ErrorList, ports: &[Value]) {
    let path = Path::new("ports");
    if ports.len() > MAX_PORTS {
        errors.too_many(path, ports.len(), MAX_PORTS);
        return;
    }
    for (i, port) in ports.iter().enumerate() {
        let at = path.index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            dns_label(errors, at.child("name"), name);
        }
        if ports[..i].iter().any(|p| text(p, "name") == name) {
            errors.duplicate(at.child("name"), name);
        }
        protocol(errors, at.child("protocol"), text(port, "protocol"));
        if let Some(app) = opt_text(port, "appProtocol") {
            qualified_name(errors, at.child("appProtocol"), app);
        }
    }
}

fn check_endpoints(errors: &mut ErrorList, endpoints: &[Value], ty: &str) {
    let path = Path::new("endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        errors.too_many(path, endpoints.len(), MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in endpoints.iter().enumerate() {
        let at = path.index(i);
        let addresses = texts(endpoint, "addresses");
        let addresses_at = at.child("addresses");
        if addresses.is_empty() {
            errors.required(addresses_at.clone(), "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            errors.too_many(addresses_at.clone(), addresses.len(), MAX_ADDRESSES);
        }
        for (j, address) in addresses.iter().enumerate() {
            check_address(errors, &addresses_at, j, address, ty);
        }
        if let Some(node) = opt_text(endpoint, "nodeName") {
            dns_subdomain(errors, at.child("nodeName"), node);
        }
        if let Some(hostname) = opt_text(endpoint, "hostname") {
            dns_label(errors, at.child("hostname"), hostname);
        }
        if has(endpoint, "hints") {
            check_hints(errors, at.child("hints"), obj(endpoint, "hints"));
        }
    }
}

fn check_address(errors: &mut ErrorList, path: &Path, index: usize, address: &str, ty: &str) {
    let at = path.index(index);
    match ty {
        "IPv4" | "IPv6" => {
            if !ip(errors, &at, address) {
                return;
            }
            if address.contains(':') != (ty == "IPv6") {
                errors.invalid(path.clone(), address, &format!("must be an {ty} address"));
            }
            non_special_ip(errors, &at, address);
        }
        "FQDN" => domain_name(errors, at, address),
        _ => {}
    }
}

/// A fully qualified domain name: two labels or more, a dot at the end allowed.
fn domain_name(errors: &mut ErrorList, path: Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let bare = name.strip_suffix('.').unwrap_or(name);
    let bad = names::is_dns1123_subdomain(bare);
    if !bad.is_empty() {
        errors.invalid(path, bare, &bad.join(","));
        return;
    }
    if !bare.contains('.') {
        errors.invalid(path, bare, "should be a domain with at least two segments separated by dots");
        return;
    }
    for label in bare.split('.') {
        let bad = names::is_dns1123_label(label);
        if !bad.is_empty() {
            errors.invalid(path.clone(), label, &bad.join(","));
        }
    }
}

fn check_hints(errors: &mut ErrorList, path: Path, hints: &Value) {
    for list in ["forZones", "forNodes"] {
        let named = items(hints, list);
        let at = path.child(list);
        if named.len() > MAX_HINTS {
            errors.too_many(at, named.len(), MAX_HINTS);
            continue;
        }
        for (i, item) in named.iter().enumerate() {
            let name = text(item, "name");
            let name_at = at.index(i).child("name");
            if named[..i].iter().any(|n| text(n, "name") == name) {
                errors.duplicate(name_at.clone(), name);
            }
            let bad =
                if list == "forZones" { names::is_valid_label_value(name) } else { names::is_dns1123_subdomain(name) };
            errors.invalid_all(&name_at, name, bad);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx, update_errors};

    #[test]
    fn defaults_ports_and_counts_generations() {
        let slice = json!({"addressType": "IPv4", "ports": [{}], "endpoints": [{"addresses": ["10.0.0.1"], "deprecatedTopology": {"a": "b"}}]});
        let old = created(&EndpointSlice, slice);
        assert_eq!(
            old,
            json!({"metadata": {"generation": 1}, "addressType": "IPv4", "ports": [{"name": "", "protocol": "TCP"}],
                   "endpoints": [{"addresses": ["10.0.0.1"]}]})
        );
        for (change, generation) in [(json!({"annotations": {"a": "b"}}), 1), (json!({"labels": {"a": "b"}}), 2)] {
            let mut new = old.clone();
            new["metadata"] = change;
            EndpointSlice.prepare_for_update(&cx(""), &mut new, &old);
            assert_eq!(new["metadata"]["generation"], generation);
        }
    }

    #[test]
    fn checks_addresses_by_type() {
        let with = |ty: &str, addresses: Value| {
            create_errors(&EndpointSlice, json!({"addressType": ty, "endpoints": [{"addresses": addresses}]}))
        };
        assert!(with("IPv6", json!(["2001:db8::1"])).is_empty());
        assert_eq!(
            with("IPv6", json!(["10.0.0.1"])),
            ["endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address"]
        );
        assert_eq!(
            with("FQDN", json!(["", "a", "a.b."])),
            [
                "endpoints[0].addresses[0]: Required value",
                "endpoints[0].addresses[1]: Invalid value: \"a\": should be a domain with at least two segments separated by dots",
            ]
        );
        assert_eq!(
            with("", json!([])),
            ["addressType: Required value", "endpoints[0].addresses: Required value: must contain at least 1 address"]
        );
    }

    #[test]
    fn checks_hints_and_limits() {
        let zones: Vec<_> = ["a", "a", "b c"].iter().map(|z| json!({"name": z})).collect();
        let got = create_errors(
            &EndpointSlice,
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"], "hints": {"forZones": zones}}]}),
        );
        assert_eq!(got[0], "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"");
        assert!(got[1].starts_with("endpoints[0].hints.forZones[2].name: Invalid value: \"b c\""));
        let many = vec![json!({"addresses": ["10.0.0.1"]}); 1001];
        assert_eq!(
            create_errors(&EndpointSlice, json!({"addressType": "IPv4", "endpoints": many})),
            ["endpoints: Too many: 1001: must have at most 1000 items"]
        );
    }

    #[test]
    fn address_type_stays() {
        assert_eq!(
            update_errors(&EndpointSlice, json!({"addressType": "IPv4"}), json!({"addressType": "IPv6"})),
            ["addressType: Invalid value: \"IPv6\": field is immutable"]
        );
    }
}
