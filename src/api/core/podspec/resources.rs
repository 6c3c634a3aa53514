//! Resource names, requests and limits: sums, quality of service, validation.

use std::collections::{BTreeMap, BTreeSet};

use apimachinery::quantity::Quantity;
use apimachinery::validation::{ErrorList, FieldError, Path, names};
use serde_json::Value;

use crate::access::*;

/// Quantities by resource name, in the order of names.
pub type ResourceMap = BTreeMap<String, Quantity>;

const STANDARD: &[&str] = &[
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "storage",
    "requests.storage",
    "services.nodeports",
    "services.loadbalancers",
];

const INTEGER: &[&str] = &[
    "pods",
    "resourcequotas",
    "services",
    "replicationcontrollers",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
];

/// `hugepages-2Mi`.
pub fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// What may be set for the pod as a whole.
pub fn is_pod_level_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || is_huge_page(name)
}

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || name.starts_with("requests.hugepages-") || is_huge_page(name)
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Resources of other vendors: qualified, not of Kubernetes, and valid with the prefix a quota puts before them.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && names::is_qualified_name(&format!("requests.{name}")).is_empty()
}

fn overcommit_allowed(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

fn is_integer(name: &str) -> bool {
    INTEGER.contains(&name) || is_extended(name)
}

/// A list of resources as quantities; what cannot be read counts as absent.
pub fn quantities(holder: &Value, key: &str) -> ResourceMap {
    let mut out = ResourceMap::new();
    for (name, value) in entries(holder, key) {
        if let Ok(quantity) = Quantity::from_json(value) {
            out.insert(name.to_owned(), quantity);
        }
    }
    out
}

fn add(to: &mut ResourceMap, other: &ResourceMap) {
    for (name, quantity) in other {
        match to.get_mut(name) {
            Some(sum) => sum.add(quantity),
            None => {
                to.insert(name.clone(), quantity.clone());
            }
        }
    }
}

fn raise(to: &mut ResourceMap, other: &ResourceMap) {
    for (name, quantity) in other {
        match to.get_mut(name) {
            Some(top) if (*top).cmp(quantity) == std::cmp::Ordering::Less => *top = quantity.clone(),
            Some(_) => {}
            None => {
                to.insert(name.clone(), quantity.clone());
            }
        }
    }
}

/// What the containers of a pod ask together: the regular ones and sidecars add up; an init container counts with the
/// sidecars started before it, and only as far as it is more.
pub fn aggregate_requests(spec: &Value) -> ResourceMap {
    aggregate(spec, "requests")
}

/// As [`aggregate_requests`], of the limits.
pub fn aggregate_limits(spec: &Value) -> ResourceMap {
    aggregate(spec, "limits")
}

fn aggregate(spec: &Value, key: &str) -> ResourceMap {
    let mut sum = ResourceMap::new();
    for container in items(spec, "containers") {
        add(&mut sum, &quantities(obj(container, "resources"), key));
    }
    let mut sidecars = ResourceMap::new();
    let mut init_top = ResourceMap::new();
    for container in items(spec, "initContainers") {
        let mut own = quantities(obj(container, "resources"), key);
        if text(container, "restartPolicy") == "Always" {
            add(&mut sum, &own);
            add(&mut sidecars, &own);
            own = sidecars.clone();
        } else {
            add(&mut own, &sidecars);
        }
        raise(&mut init_top, &own);
    }
    raise(&mut sum, &init_top);
    sum
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos_class(spec: &Value) -> &'static str {
    let computes = |name: &str| matches!(name, "cpu" | "memory");
    let zero = Quantity::zero();
    let positive = |q: &Quantity| q.cmp(&zero) == std::cmp::Ordering::Greater;
    let mut requests = ResourceMap::new();
    let mut limits = ResourceMap::new();
    let mut guaranteed = true;
    let pod_level = obj(spec, "resources");
    if pod_level.is_object() && (has(pod_level, "requests") || has(pod_level, "limits")) {
        for (name, quantity) in quantities(pod_level, "requests") {
            if computes(&name) && positive(&quantity) {
                requests.insert(name, quantity);
            }
        }
        for (name, quantity) in quantities(pod_level, "limits") {
            if computes(&name) && positive(&quantity) {
                limits.insert(name, quantity);
            }
        }
        guaranteed = ["cpu", "memory"].iter().all(|n| limits.contains_key(*n));
    } else {
        for container in items(spec, "containers").iter().chain(items(spec, "initContainers")) {
            let resources = obj(container, "resources");
            for (name, quantity) in quantities(resources, "requests") {
                if computes(&name) && positive(&quantity) {
                    add(&mut requests, &ResourceMap::from([(name, quantity)]));
                }
            }
            let mut limited = BTreeSet::new();
            for (name, quantity) in quantities(resources, "limits") {
                if computes(&name) && positive(&quantity) {
                    limited.insert(name.clone());
                    add(&mut limits, &ResourceMap::from([(name, quantity)]));
                }
            }
            guaranteed &= limited.len() == 2;
        }
    }
    if requests.is_empty() && limits.is_empty() {
        return "BestEffort";
    }
    let equal = requests
        .iter()
        .all(|(name, quantity)| limits.get(name).is_some_and(|l| l.cmp(quantity) == std::cmp::Ordering::Equal));
    if guaranteed && equal && requests.len() == limits.len() { "Guaranteed" } else { "Burstable" }
}

/// A negative or fractional quantity of a resource that may not be.
pub fn validate_quantity(errors: &mut ErrorList, name: &str, quantity: &Quantity, path: &Path) {
    let zero = Quantity::zero();
    if quantity.cmp(&zero) == std::cmp::Ordering::Less {
        errors.invalid(path.clone(), quantity.to_string(), super::NEGATIVE);
    }
    if is_integer(name) && quantity.milli_value() % 1000 != 0 {
        errors.invalid(path.clone(), quantity.to_string(), "must be an integer");
    }
}

/// Whose resources are validated.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Container,
    Pod,
}

/// `resources` of a container or a pod, or an overhead (as `{limits: overhead}`).
pub(super) fn validate(
    errors: &mut ErrorList,
    owner: Owner,
    resources: &Value,
    claims: &BTreeSet<String>,
    path: &Path,
) {
    let limits = quantities(resources, "limits");
    let requests = quantities(resources, "requests");
    let (limit_path, request_path) = (path.child("limits"), path.child("requests"));
    let computes = |m: &ResourceMap| m.keys().any(|n| matches!(n.as_str(), "cpu" | "memory"));
    let huge = |m: &ResourceMap| m.keys().any(|n| is_huge_page(n));
    for (name, quantity) in &limits {
        let at = limit_path.key(name);
        validate_name(errors, owner, name, &at);
        validate_quantity(errors, name, quantity, &at);
        validate_huge_page(errors, name, quantity, &at);
    }
    for (name, quantity) in &requests {
        let at = request_path.key(name);
        validate_name(errors, owner, name, &at);
        validate_quantity(errors, name, quantity, &at);
        match limits.get(name) {
            Some(limit) => {
                let order = quantity.cmp(limit);
                if order != std::cmp::Ordering::Equal && !overcommit_allowed(name) {
                    let detail = format!("must be equal to {name} limit of {limit}");
                    errors.invalid(request_path.clone(), quantity.to_string(), &detail);
                } else if order == std::cmp::Ordering::Greater {
                    let detail = format!("must be less than or equal to {name} limit of {limit}");
                    errors.invalid(request_path.clone(), quantity.to_string(), &detail);
                }
            }
            None if !overcommit_allowed(name) => {
                errors.required(limit_path.clone(), "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
        validate_huge_page(errors, name, quantity, &at);
    }
    if !computes(&limits) && !computes(&requests) && (huge(&limits) || huge(&requests)) {
        errors.forbidden(path.clone(), "HugePages require cpu or memory");
    }
    validate_claim_names(errors, items(resources, "claims"), claims, &path.child("claims"));
}

fn validate_name(errors: &mut ErrorList, owner: Owner, name: &str, path: &Path) {
    let plain = !name.contains('/');
    let qualified = names::is_qualified_name(name);
    let mut known = qualified.is_empty();
    errors.invalid_all(path, name, qualified);
    if known && plain && !is_standard(name) {
        errors.invalid(path.clone(), name, "must be a standard resource type or fully qualified");
        known = false;
    }
    match owner {
        Owner::Container if plain => {
            if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
                errors.invalid(path.clone(), name, "must be a standard resource for containers");
            }
        }
        Owner::Container => {
            if !is_native(name) && !is_extended(name) {
                errors.invalid(path.clone(), name, "doesn't follow extended resource name standard");
            }
        }
        Owner::Pod => {
            if known && !is_pod_level_resource(name) {
                errors.not_supported(path.clone(), name, &["cpu", "hugepages-", "memory"]);
            }
        }
    }
}

fn validate_huge_page(errors: &mut ErrorList, name: &str, quantity: &Quantity, path: &Path) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let divisible = Quantity::parse(size).is_ok_and(|size| {
        let page = size.value();
        page > 0 && quantity.value() % page == 0
    });
    if !divisible {
        let detail = format!("{quantity} is not positive integer multiple of {name}");
        errors.invalid(path.clone(), quantity.to_string(), &detail);
    }
}

fn validate_claim_names(errors: &mut ErrorList, claims: &[Value], known: &BTreeSet<String>, path: &Path) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in claims.iter().enumerate() {
        let at = path.index(i);
        let name = text(claim, "name");
        if name.is_empty() {
            errors.required(at, "");
            continue;
        }
        let request = text(claim, "request");
        if seen.contains(name) {
            errors.duplicate(at.clone(), name);
        } else {
            let mut key = name.to_owned();
            if !request.is_empty() {
                super::dns_label(errors, request, &at.child("request"));
                key = format!("{name}/{request}");
            }
            if seen.contains(&key) {
                errors.duplicate(at.clone(), key.as_str());
            } else if request.is_empty() {
                for other in &seen {
                    if other.split_once('/').is_some_and(|(claim, _)| claim == name) {
                        errors.duplicate(at.clone(), name);
                    }
                }
            }
            seen.insert(key);
        }
        if !known.contains(name) {
            let mut detail = "must be one of the names in pod.spec.resourceClaims".to_owned();
            if known.is_empty() {
                detail.push_str(" which is empty");
            } else {
                let list: Vec<_> = known.iter().map(String::as_str).collect();
                detail.push_str(&format!(": {}", list.join(", ")));
            }
            let ty = apimachinery::validation::ErrorType::NotFound;
            errors.push(FieldError::new(ty, &at, name, detail));
        }
    }
}

/// Pod-level `resources`: names, and that they hold what the containers have.
pub(super) fn validate_pod_level(errors: &mut ErrorList, spec: &Value, claims: &BTreeSet<String>, path: &Path) {
    let resources = obj(spec, "resources");
    if !resources.is_object() {
        return;
    }
    if has(resources, "claims") {
        errors.forbidden(path.child("claims"), "claims cannot be set for Resources at pod-level");
    }
    validate(errors, Owner::Pod, resources, claims, path);
    let pod_requests = quantities(resources, "requests");
    let pod_limits = quantities(resources, "limits");
    let zero = Quantity::zero();
    for (name, needed) in aggregate_requests(spec) {
        let given = pod_requests.get(&name).unwrap_or(&zero);
        if is_pod_level_resource(&name) && needed.cmp(given) == std::cmp::Ordering::Greater {
            let detail = format!("must be greater than or equal to aggregate container requests of {needed}");
            errors.invalid(path.child("requests").key(&name), given.to_string(), &detail);
        }
    }
    for (i, container) in items(spec, "containers").iter().enumerate() {
        for (name, limit) in quantities(obj(container, "resources"), "limits") {
            if let Some(pod_limit) = pod_limits.get(&name) {
                if limit.cmp(pod_limit) == std::cmp::Ordering::Greater {
                    let at = path.child("containers").index(i).key(&name).child("limits");
                    let detail = format!("must be less than or equal to pod limits of {pod_limit}");
                    errors.invalid(at, limit.to_string(), &detail);
                }
            }
        }
    }
}
