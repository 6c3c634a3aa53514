//! What an object takes of its namespace's quotas. Admission charges by it, the quota controller counts by it.
//!
//! Invariants:
//! - QU-1: both sides measure with the same code, so that counting again never finds another number.

mod pods;
mod storage;

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::quantity::{Format, Quantity};
use jiff::Timestamp;
use serde_json::Value;

use crate::access::*;

/// Quantities by the names that quotas use, in their order.
pub type Amounts = BTreeMap<String, Quantity>;

/// A quota of these by their old names, as well as by `count/…`.
const OLD_NAMES: &[&str] = &["configmaps", "resourcequotas", "replicationcontrollers", "secrets"];

/// How one resource is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    Pods,
    Services,
    Claims,
    ResourceClaims,
    /// Only how many there are.
    Count {
        /// `count/deployments.apps`
        name: String,
        old_name: Option<&'static str>,
    },
}

/// One scope that a quota asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub scope: String,
    pub operator: String,
    pub values: Vec<String>,
}

impl Requirement {
    fn of_value(value: &Value) -> Self {
        Self {
            scope: text(value, "scopeName").to_owned(),
            operator: text(value, "operator").to_owned(),
            values: texts(value, "values").iter().map(|v| (*v).to_owned()).collect(),
        }
    }

    /// Scopes of a list of `{scopeName, operator, values}`.
    pub fn list(values: &[Value]) -> Vec<Self> {
        values.iter().map(Self::of_value).collect()
    }

    /// The requirement as a selector on one label that may be there.
    fn selects(&self, label: Option<&str>) -> bool {
        let among = label.is_some_and(|label| self.values.iter().any(|value| value == label));
        match self.operator.as_str() {
            "In" => among,
            "NotIn" => !among,
            "Exists" => label.is_some(),
            "DoesNotExist" => label.is_none(),
            _ => false,
        }
    }
}

/// The scopes of a quota's spec.
pub fn requirements(spec: &Value) -> Vec<Requirement> {
    let exists =
        |scope: &str| Requirement { scope: scope.to_owned(), operator: "Exists".to_owned(), values: Vec::new() };
    let mut found: Vec<Requirement> = texts(spec, "scopes").into_iter().map(exists).collect();
    found.extend(Requirement::list(items(obj(spec, "scopeSelector"), "matchExpressions")));
    found
}

/// Resources that no quota counts.
pub fn is_ignored(group: &str, resource: &str) -> bool {
    matches!(
        (group, resource),
        ("", "bindings" | "componentstatuses" | "events")
            | ("events.k8s.io", "events")
            | ("authentication.k8s.io" | "authorization.k8s.io", _)
    )
}

/// `count/deployments.apps`, `count/pods`.
pub fn count_name(group: &str, resource: &str) -> String {
    if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") }
}

/// Group and resource that a name of a quota counts; none: it is measured otherwise.
pub fn counted(name: &str) -> Option<(String, String)> {
    if OLD_NAMES.contains(&name) {
        return Some((String::new(), name.to_owned()));
    }
    let rest = name.strip_prefix("count/")?;
    let (resource, group) = rest.split_once('.').unwrap_or((rest, ""));
    Some((group.to_owned(), resource.to_owned()))
}

impl Measure {
    pub fn of(group: &str, resource: &str) -> Self {
        match (group, resource) {
            ("", "pods") => Self::Pods,
            ("", "services") => Self::Services,
            ("", "persistentvolumeclaims") => Self::Claims,
            ("resource.k8s.io", "resourceclaims") => Self::ResourceClaims,
            _ => Self::Count {
                name: count_name(group, resource),
                old_name: OLD_NAMES.iter().find(|name| group.is_empty() && **name == resource).copied(),
            },
        }
    }

    /// A write of this sort may change what is used. `old` is there for updates.
    pub fn handles(&self, subresource: &str, object: &Value, old: Option<&Value>) -> bool {
        let plain = subresource.is_empty();
        match self {
            Self::Pods => (plain && old.is_none()) || (subresource == "resize" && old.is_some()),
            Self::Services => plain,
            Self::Claims => {
                let classes_change = || old.is_some_and(|old| storage::classes(object) != storage::classes(old));
                plain || (subresource == "status" && classes_change())
            }
            Self::ResourceClaims | Self::Count { .. } => plain && old.is_none(),
        }
    }

    /// What the object takes.
    pub fn usage(&self, object: &Value, now: Timestamp) -> Amounts {
        match self {
            Self::Pods => pods::usage(object, now),
            Self::Services => services(object),
            Self::Claims => storage::usage(object),
            Self::ResourceClaims => devices(object),
            Self::Count { name, old_name } => {
                let names = std::iter::once(name.as_str()).chain(*old_name);
                names.map(|name| (name.to_owned(), number(1))).collect()
            }
        }
    }

    /// A quota's name that this measures.
    pub fn covers(&self, name: &str) -> bool {
        match self {
            Self::Pods => pods::covers(name),
            Self::Services => {
                matches!(name, "count/services" | "services" | "services.nodeports" | "services.loadbalancers")
            }
            Self::Claims => storage::covers(name),
            Self::ResourceClaims => name == "count/resourceclaims.resource.k8s.io" || name.ends_with(DEVICES),
            Self::Count { name: own, old_name } => name == own || *old_name == Some(name),
        }
    }

    /// The object is of the scope. Objects without scopes are of none.
    pub fn in_scope(&self, requirement: &Requirement, object: &Value) -> bool {
        match self {
            Self::Pods => pods::in_scope(requirement, object),
            Self::Claims => storage::in_scope(requirement, object),
            _ => false,
        }
    }

    /// A quota (with these scopes, on these names) counts the object.
    pub fn matches<'a>(
        &self,
        scopes: &[Requirement],
        mut names: impl Iterator<Item = &'a str>,
        object: &Value,
    ) -> bool {
        names.any(|name| self.covers(name)) && scopes.iter().all(|requirement| self.in_scope(requirement, object))
    }

    /// What a quota on these names makes mandatory and the object does not say: `limits.cpu for: a,b; …`.
    pub fn unspecified(&self, names: &BTreeSet<String>, object: &Value) -> Option<String> {
        match self {
            Self::Pods => pods::unspecified(names, object),
            _ => None,
        }
    }

    /// A change after which something may be free, though the object is still there.
    pub fn releases(&self, old: &Value, new: &Value, now: Timestamp) -> bool {
        match self {
            Self::Pods => pods::counts(old, now) && !pods::counts(new, now),
            Self::Services | Self::Claims => self.usage(old, now) != self.usage(new, now),
            _ => false,
        }
    }
}

fn number(value: i64) -> Quantity {
    Quantity::new(value, Format::DecimalSI)
}

fn services(object: &Value) -> Amounts {
    let spec = obj(object, "spec");
    let ports = items(spec, "ports");
    let (node_ports, balancers) = match text(spec, "type") {
        "NodePort" => (ports.len(), 0),
        // Without node ports of their own, only those that are asked for by number.
        "LoadBalancer" if opt_flag(spec, "allocateLoadBalancerNodePorts") == Some(false) => {
            (ports.iter().filter(|port| int(port, "nodePort") != 0).count(), 1)
        }
        "LoadBalancer" => (ports.len(), 1),
        _ => (0, 0),
    };
    Amounts::from([
        ("count/services".to_owned(), number(1)),
        ("services".to_owned(), number(1)),
        ("services.nodeports".to_owned(), number(i64::try_from(node_ports).unwrap_or(i64::MAX))),
        ("services.loadbalancers".to_owned(), number(balancers)),
    ])
}

const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// "All devices" counts as the most that a claim can be given.
const MOST_DEVICES: i64 = 32;

fn devices(object: &Value) -> Amounts {
    let mut amounts = Amounts::from([("count/resourceclaims.resource.k8s.io".to_owned(), number(1))]);
    let of = |request: &Value| -> (String, i64) {
        let count = match text(request, "allocationMode") {
            "All" => MOST_DEVICES,
            _ => opt_int(request, "count").unwrap_or(1),
        };
        (format!("{}{DEVICES}", text(request, "deviceClassName")), count)
    };
    for request in items(obj(obj(object, "spec"), "devices"), "requests") {
        // Of alternatives, the most that one of them takes.
        let mut most: BTreeMap<String, i64> = BTreeMap::new();
        let exactly = field(request, "exactly").into_iter();
        for part in exactly.chain(items(request, "firstAvailable")) {
            let (name, count) = of(part);
            let known = most.entry(name).or_default();
            *known = (*known).max(count);
        }
        for (name, count) in most {
            add(&mut amounts, &Amounts::from([(name, number(count))]));
        }
    }
    amounts
}

/// `to` and `other` together.
pub fn add(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        to.entry(name.clone()).and_modify(|sum| sum.add(amount)).or_insert_with(|| amount.clone());
    }
}

/// A JSON object of quantities.
pub fn amounts(value: &Value) -> Amounts {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(name, amount)| Some((name.clone(), Quantity::from_json(amount).ok()?))).collect()
}

/// The amounts as a JSON object.
pub fn to_json(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::String(amount.to_string()))).collect()
}

#[cfg(test)]
mod tests;
