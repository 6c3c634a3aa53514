//! IPAddress: an address of the cluster that is taken, and by whom.
//!
//! Invariants:
//! - IA-1: its name is the address, in canonical form; whom it belongs to never changes.

use std::net::IpAddr;

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{has, obj, same, text};
use crate::checks::{IMMUTABLE, dns_subdomain, name, spec};
use crate::godump;
use crate::kind::{AllocationError, Allocator, Claims, Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{columns_of, name_of};

pub struct IpAddress;

const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// The pool's text for an address that is taken.
const TAKEN: &str = "provided IP is already allocated";

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.networking.v1.IPAddress";
    Kind::builtin("networking.k8s.io/v1", "IPAddress", "ipaddresses", Scope::Cluster, DEFINITION, IpAddress)
        .with_short_names(&["ip"])
}

impl Strategy for IpAddress {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_parent(&mut errors, Path::new("spec").child("parentRef"), obj(spec(object), "parentRef"));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        let parent = obj(spec(object), "parentRef");
        if !same(parent, obj(spec(old), "parentRef")) {
            let dump = if parent.is_null() { "null".into() } else { godump::dump("ParentReference", parent) };
            errors.invalid_text(Path::new("spec").child("parentRef"), &dump, IMMUTABLE);
        }
        errors
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let parent = obj(spec(object), "parentRef");
        let of = |key| text(parent, key).to_owned();
        vec![
            ("spec.parentRef.group", of("group")),
            ("spec.parentRef.resource", of("resource")),
            ("spec.parentRef.namespace", of("namespace")),
            ("spec.parentRef.name", of("name")),
        ]
    }

    fn validate_name(&self, name: &str, _prefix: bool) -> Vec<String> {
        let found = names::is_valid_ip(name);
        match name.parse::<IpAddr>() {
            Ok(ip) if found.is_empty() && ip.to_string() != name => {
                vec![format!("must be in canonical form ({:?})", ip.to_string())]
            }
            _ => found,
        }
    }

    /// An address that somebody else than the server puts aside is no Service's.
    fn allocate(
        &self,
        object: &mut Value,
        old: Option<&Value>,
        pool: &mut dyn Allocator,
    ) -> Result<(), AllocationError> {
        for ip in self.claims(object).ips.into_iter().filter(|_| old.is_none()) {
            if let Err(text) = pool.take_ip(ip) {
                if text == TAKEN {
                    let mut errors = ErrorList::new();
                    errors.invalid(Path::new("metadata").child("name"), name(object), TAKEN);
                    return Err(AllocationError::Invalid(errors));
                }
            }
        }
        Ok(())
    }

    fn claims(&self, object: &Value) -> Claims {
        let ips = if is_the_servers(object) { Vec::new() } else { name(object).parse().into_iter().collect() };
        Claims { ips, ports: Vec::new() }
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("networking.k8s.io/v1/ipaddresses")
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let parent = obj(spec(object), "parentRef");
        let mut shown = text(parent, "resource").to_lowercase();
        if !text(parent, "group").is_empty() {
            shown = format!("{shown}.{}", text(parent, "group").to_lowercase());
        }
        for key in ["namespace", "name"] {
            if !text(parent, key).is_empty() {
                shown = format!("{shown}/{}", text(parent, key));
            }
        }
        vec![name_of(object), json!(shown)]
    }
}

fn check_parent(errors: &mut ErrorList, path: Path, parent: &Value) {
    if parent.is_null() {
        errors.required(path, "");
        return;
    }
    if has(parent, "group") && !text(parent, "group").is_empty() {
        dns_subdomain(errors, path.child("group"), text(parent, "group"));
    }
    for field in ["resource", "name"] {
        match text(parent, field) {
            "" => errors.required(path.child(field), ""),
            value => errors.invalid_all(&path.child(field), value, names::path_segment(value, false)),
        }
    }
    let namespace = text(parent, "namespace");
    if !namespace.is_empty() {
        errors.invalid_all(&path.child("namespace"), namespace, names::path_segment(namespace, false));
    }
}

/// The object that says that the Service `namespace/name` has `address`, as the server makes it.
pub fn of_service(address: IpAddr, namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "IPAddress",
        "metadata": {
            "name": address.to_string(),
            "labels": {
                "ipaddress.kubernetes.io/ip-family": if address.is_ipv4() { "IPv4" } else { "IPv6" },
                MANAGED_BY: ALLOCATOR,
            },
        },
        "spec": {"parentRef": {"resource": "services", "namespace": namespace, "name": name}},
    })
}

/// The address and, as `namespace/name`, the Service of an object that the server made.
pub fn service_of(object: &Value) -> Option<(IpAddr, String)> {
    if !is_the_servers(object) {
        return None;
    }
    let parent = obj(spec(object), "parentRef");
    let service = text(parent, "resource") == "services" && text(parent, "group").is_empty();
    let key = format!("{}/{}", text(parent, "namespace"), text(parent, "name"));
    name(object).parse().ok().filter(|_| service).map(|address| (address, key))
}

fn is_the_servers(object: &Value) -> bool {
    text(obj(crate::checks::meta(object), "labels"), MANAGED_BY) == ALLOCATOR
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    #[test]
    fn names_are_canonical_addresses() {
        let wrong = |name: &str| IpAddress.validate_name(name, false);
        assert!(wrong("10.0.0.1").is_empty() && wrong("2001:db8::1").is_empty());
        assert_eq!(wrong("2001:DB8::1"), ["must be in canonical form (\"2001:db8::1\")"]);
        assert_eq!(wrong("10.0.0.01"), ["must not have leading 0s"]);
    }

    #[test]
    fn the_parent_stays() {
        let with = |name: &str| of_service("10.0.0.1".parse().expect("an address"), "n", name);
        assert!(create_errors(&IpAddress, with("s")).is_empty());
        assert_eq!(
            update_errors(&IpAddress, with("s"), with("t")),
            [
                "spec.parentRef: Invalid value: {\"Group\":\"\",\"Resource\":\"services\",\"Namespace\":\"n\",\"Name\":\"t\"}: field is immutable"
            ]
        );
        let made = with("s");
        assert_eq!(service_of(&made).expect("a service").1, "n/s");
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(IpAddress.row(&made, now)[1], "services/n/s");
        let foreign = json!({"spec": {"parentRef": {"group": "a.b", "resource": "rs", "name": "x"}}});
        assert_eq!(IpAddress.row(&foreign, now)[1], "rs.a.b/x");
    }
}
