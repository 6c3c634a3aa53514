//! ServiceCIDR: a range that Services get their addresses from.
//!
//! Invariants:
//! - SC-1: a range never changes; a second one of the other family may be added.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{copy_field, obj, texts};
use crate::checks::{IMMUTABLE, spec};
use crate::godump;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ServiceCidr;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.networking.v1.ServiceCIDR";
    let version = "networking.k8s.io/v1";
    Kind::builtin(version, "ServiceCIDR", "servicecidrs", Scope::Cluster, DEFINITION, ServiceCidr).with_subresource(
        "status",
        version,
        "ServiceCIDR",
        &["get", "patch", "update"],
    )
}

impl Strategy for ServiceCidr {
    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        copy_field(object, old, if cx.subresource == "status" { "spec" } else { "status" });
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(&mut errors, spec(object));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.subresource == "status" {
            return errors;
        }
        let path = Path::new("spec").child("cidrs");
        let (new, old) = (texts(spec(object), "cidrs"), texts(spec(old), "cidrs"));
        match (old.len(), new.len()) {
            (a, b) if a == b => {
                for (i, (new, _)) in new.iter().zip(&old).enumerate().filter(|(_, (new, old))| new != old) {
                    errors.invalid(path.index(i), *new, IMMUTABLE);
                }
            }
            (1, 2) => {
                if new[0] != old[0] {
                    errors.invalid(path.index(0), new[0], IMMUTABLE);
                }
                check_spec(&mut errors, spec(object));
            }
            _ => errors.invalid(path, obj(spec(object), "cidrs").clone(), IMMUTABLE),
        }
        errors
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("networking.k8s.io/v1/servicecidrs")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), json!(texts(spec(object), "cidrs").join(",")), age_of(object, now)]
    }
}

fn check_spec(errors: &mut ErrorList, spec: &Value) {
    let path = Path::new("spec").child("cidrs");
    let cidrs = texts(spec, "cidrs");
    if cidrs.is_empty() {
        errors.required(path, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        errors.invalid_text(path, &godump::dump("ServiceCIDRSpec", spec), "may only hold up to 2 values");
        return;
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        errors.invalid_all(&path.index(i), cidr, strict_cidr(cidr));
    }
    if let [first, second] = cidrs[..] {
        let family = |cidr: &str| names::is_valid_cidr(cidr).is_empty().then(|| cidr.contains(':'));
        if family(first).is_some() && family(first) == family(second) {
            let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.invalid(path, json!(cidrs), detail);
        }
    }
}

/// A CIDR in a field of today: besides being one, it is in its canonical spelling.
fn strict_cidr(cidr: &str) -> Vec<String> {
    let found = names::is_valid_cidr(cidr);
    match cidr.parse::<ipnet::IpNet>() {
        Ok(parsed) if found.is_empty() && parsed.to_string() != cidr => {
            vec![format!("must be in canonical form ({:?})", parsed.to_string())]
        }
        _ => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    fn with(cidrs: &[&str]) -> Value {
        json!({"spec": {"cidrs": cidrs}})
    }

    #[test]
    fn one_range_of_each_family() {
        assert!(create_errors(&ServiceCidr, with(&["10.0.0.0/16", "2001:db8::/64"])).is_empty());
        assert_eq!(
            create_errors(&ServiceCidr, with(&["10.0.0.0/16", "10.1.0.0/16"])),
            [
                "spec.cidrs: Invalid value: [\"10.0.0.0/16\",\"10.1.0.0/16\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"
            ]
        );
        assert_eq!(
            create_errors(&ServiceCidr, with(&["10.0.0.1/16"])),
            ["spec.cidrs[0]: Invalid value: \"10.0.0.1/16\": must not have bits set beyond the prefix length"]
        );
    }

    #[test]
    fn may_become_dual_stack_only() {
        let update = |old: &[&str], new: &[&str]| update_errors(&ServiceCidr, with(old), with(new));
        assert!(update(&["10.0.0.0/16"], &["10.0.0.0/16", "2001:db8::/64"]).is_empty());
        assert_eq!(
            update(&["10.0.0.0/16"], &["10.1.0.0/16"]),
            ["spec.cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"]
        );
    }
}
