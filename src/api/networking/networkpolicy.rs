//! NetworkPolicy: who may talk to the pods of a namespace.

use apimachinery::validation::{ErrorList, Path, names};
use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{has, items, items_mut, obj, opt_int, opt_text, same, set, set_missing, text, texts};
use crate::checks::{cidr, label_selector, next_generation, port_number, spec, start_generation};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, format_label_selector, name_of};

pub struct NetworkPolicy;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.networking.v1.NetworkPolicy";
    Kind::builtin(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "networkpolicies",
        Scope::Namespaced,
        DEFINITION,
        NetworkPolicy,
    )
    .with_short_names(&["netpol"])
}

/// The lists of rules, and the peers of each.
const DIRECTIONS: &[(&str, &str)] = &[("ingress", "from"), ("egress", "to")];

impl Strategy for NetworkPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        for (list, _) in DIRECTIONS {
            for rule in items_mut(spec, list) {
                for port in items_mut(rule, "ports") {
                    set_missing(port, "protocol", "TCP");
                }
            }
        }
        if items(spec, "policyTypes").is_empty() {
            let types =
                if items(spec, "egress").is_empty() { json!(["Ingress"]) } else { json!(["Ingress", "Egress"]) };
            set(spec, "policyTypes", types);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        start_generation(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        let changed = !same(spec(object), spec(old));
        next_generation(object, old, changed);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (spec(object), Path::new("spec"));
        label_selector(&mut errors, &path.child("podSelector"), obj(spec, "podSelector"));
        for (list, peers) in DIRECTIONS {
            for (i, rule) in items(spec, list).iter().enumerate() {
                let at = path.child(list).index(i);
                for (j, port) in items(rule, "ports").iter().enumerate() {
                    check_port(&mut errors, at.child("ports").index(j), port);
                }
                for (j, peer) in items(rule, peers).iter().enumerate() {
                    check_peer(&mut errors, at.child(peers).index(j), peer);
                }
            }
        }
        let types = texts(spec, "policyTypes");
        const TYPES: &[&str] = &["Ingress", "Egress"];
        if types.len() > TYPES.len() {
            errors.invalid(path.child("policyTypes"), json!(types), "may not specify more than two policyTypes");
            return errors;
        }
        for (i, ty) in types.iter().enumerate().filter(|(_, ty)| !TYPES.contains(ty)) {
            errors.not_supported(path.child("policyTypes").index(i), *ty, TYPES);
        }
        errors
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("networking.k8s.io/v1/networkpolicies")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let selector = format_label_selector(obj(spec(object), "podSelector"));
        vec![name_of(object), json!(selector), age_of(object, now)]
    }
}

fn check_port(errors: &mut ErrorList, path: Path, port: &Value) {
    const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];
    if let Some(protocol) = opt_text(port, "protocol").filter(|p| !PROTOCOLS.contains(p)) {
        errors.not_supported(path.child("protocol"), protocol, PROTOCOLS);
    }
    let (at, end_at) = (path.child("port"), path.child("endPort"));
    let end = opt_int(port, "endPort");
    match (obj(port, "port"), end) {
        (Value::Null, Some(end)) => errors.invalid(end_at, end, "may not be specified when `port` is not specified"),
        (Value::Null, None) => {}
        (Value::String(name), end) => {
            if let Some(end) = end {
                errors.invalid(end_at, end, "may not be specified when `port` is non-numeric");
            }
            errors.invalid_all(&at, name, names::is_valid_port_name(name));
        }
        (number, end) => {
            let number = number.as_i64().unwrap_or(0);
            port_number(errors, at, number);
            if let Some(end) = end {
                if end < number {
                    errors.invalid(end_at.clone(), number, "must be greater than or equal to `port`");
                }
                port_number(errors, end_at, end);
            }
        }
    }
}

fn check_peer(errors: &mut ErrorList, path: Path, peer: &Value) {
    let mut peers = 0;
    for selector in ["podSelector", "namespaceSelector"] {
        if has(peer, selector) {
            peers += 1;
            label_selector(errors, &path.child(selector), obj(peer, selector));
        }
    }
    let block = obj(peer, "ipBlock");
    if !block.is_null() {
        peers += 1;
        check_block(errors, path.child("ipBlock"), block);
    }
    if peers == 0 {
        errors.required(path, "must specify a peer");
    } else if peers > 1 && !block.is_null() {
        errors.forbidden(path, "may not specify both ipBlock and another peer");
    }
}

fn check_block(errors: &mut ErrorList, path: Path, block: &Value) {
    let whole = text(block, "cidr");
    if whole.is_empty() {
        errors.required(path.child("cidr"), "");
        return;
    }
    if !cidr(errors, &path.child("cidr"), whole) {
        return;
    }
    for (i, value) in texts(block, "except").iter().enumerate() {
        let at = path.child("except").index(i);
        if !cidr(errors, &at, value) {
            continue;
        }
        let inside = match (whole.parse::<IpNet>(), value.parse::<IpNet>()) {
            (Ok(whole), Ok(part)) => whole.contains(&part) && part.prefix_len() > whole.prefix_len(),
            _ => false,
        };
        if !inside {
            errors.invalid(at, *value, "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created};

    #[test]
    fn defaults_types_and_protocols() {
        let made = created(&NetworkPolicy, json!({"spec": {"egress": [{"ports": [{}]}]}}));
        assert_eq!(
            made["spec"],
            json!({"egress": [{"ports": [{"protocol": "TCP"}]}], "policyTypes": ["Ingress", "Egress"]})
        );
        assert_eq!(made["metadata"]["generation"], 1);
    }

    #[test]
    fn checks_peers() {
        let errors = |peer: Value| create_errors(&NetworkPolicy, json!({"spec": {"egress": [{"to": [peer]}]}}));
        let at = "spec.egress[0].to[0]";
        for (peer, want) in [
            (json!({"ipBlock": {"cidr": ""}}), format!("{at}.ipBlock.cidr: Required value")),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}),
                format!("{at}.ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`"),
            ),
            (
                json!({"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}),
                format!("{at}: Forbidden: may not specify both ipBlock and another peer"),
            ),
        ] {
            assert_eq!(errors(peer), [want]);
        }
        assert!(errors(json!({"podSelector": {}, "namespaceSelector": {}})).is_empty());
    }
}
