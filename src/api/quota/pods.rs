//! Pods: requests, limits, and how many there are.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Amounts, Requirement, add, number};
use crate::access::*;
use crate::core::podspec::{ResourceMap, aggregate_limits, aggregate_requests, is_extended, qos_class, quantities};

const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// A quota on these makes every container name its own (a mistake that upstream has to keep).
const MANDATORY: &[&str] = &["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];

pub fn covers(name: &str) -> bool {
    let compute = |name: &str| COMPUTE.contains(&name);
    let vendor = |name: &str| name.contains('/') && !name.contains("kubernetes.io/");
    matches!(name, "count/pods" | "pods")
        || compute(name)
        || name.strip_prefix("limits.").is_some_and(compute)
        || name.strip_prefix("requests.").is_some_and(|rest| compute(rest) || rest.starts_with("hugepages-"))
        || name.starts_with("hugepages-")
        || (name.starts_with("requests.") && vendor(name))
}

/// The pod takes more than its place: it has not ended, and is not overdue in going.
pub fn counts(pod: &Value, now: Timestamp) -> bool {
    if matches!(text(obj(pod, "status"), "phase"), "Failed" | "Succeeded") {
        return false;
    }
    let meta = obj(pod, "metadata");
    let (Some(deleted), Some(grace)) =
        (opt_text(meta, "deletionTimestamp"), opt_int(meta, "deletionGracePeriodSeconds"))
    else {
        return true;
    };
    let end = deleted.parse::<Timestamp>().ok().and_then(|at| at.checked_add(SignedDuration::from_secs(grace)).ok());
    end.is_none_or(|end| now <= end)
}

pub fn usage(pod: &Value, now: Timestamp) -> Amounts {
    let mut usage = Amounts::from([("count/pods".to_owned(), number(1))]);
    if counts(pod, now) {
        let (requests, limits) = totals(pod);
        add(&mut usage, &named(&requests, &limits));
        usage.insert("pods".to_owned(), number(1));
    }
    usage
}

/// Requests and limits of the pod as a whole.
fn totals(pod: &Value) -> (ResourceMap, ResourceMap) {
    let spec = obj(pod, "spec");
    let mut requests = aggregate_requests(&with_status(pod));
    let mut limits = aggregate_limits(spec);
    // What is said for the pod counts instead of what its containers say.
    requests.extend(quantities(obj(spec, "resources"), "requests"));
    limits.extend(quantities(obj(spec, "resources"), "limits"));
    let overhead = quantities(spec, "overhead");
    add(&mut requests, &overhead);
    for (name, amount) in &overhead {
        if let Some(limit) = limits.get_mut(name) {
            limit.add(amount);
        }
    }
    (requests, limits)
}

/// The spec, with containers that are being resized asking for the most of what they have and want.
fn with_status(pod: &Value) -> Cow<'_, Value> {
    let (spec, status) = (obj(pod, "spec"), obj(pod, "status"));
    let mut changed: Option<Value> = None;
    for (key, statuses) in [("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")] {
        for (index, container) in items(spec, key).iter().enumerate() {
            let found = items(status, statuses).iter().find(|s| text(s, "name") == text(container, "name"));
            let Some(found) = found else { continue };
            let mut most = quantities(obj(container, "resources"), "requests");
            for held in [quantities(obj(found, "resources"), "requests"), quantities(found, "allocatedResources")] {
                for (name, amount) in held {
                    // Only what the container names can be resized.
                    if let Some(known) = most.get_mut(&name).filter(|known| **known < amount) {
                        *known = amount;
                    }
                }
            }
            if most != quantities(obj(container, "resources"), "requests") {
                let spec = changed.get_or_insert_with(|| spec.clone());
                spec[key][index]["resources"]["requests"] = super::to_json(&most);
            }
        }
    }
    changed.map_or(Cow::Borrowed(spec), Cow::Owned)
}

/// Requests and limits under the names that quotas use.
fn named(requests: &ResourceMap, limits: &ResourceMap) -> Amounts {
    let mut named = Amounts::new();
    for (name, amount) in requests {
        let compute = COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-");
        if compute {
            named.insert(name.clone(), amount.clone());
        }
        if compute || is_extended(name) {
            named.insert(format!("requests.{name}"), amount.clone());
        }
    }
    for (name, amount) in limits.iter().filter(|(name, _)| COMPUTE.contains(&name.as_str())) {
        named.insert(format!("limits.{name}"), amount.clone());
    }
    named
}

pub fn unspecified(names: &BTreeSet<String>, pod: &Value) -> Option<String> {
    let spec = obj(pod, "spec");
    let pod_level = obj(spec, "resources");
    let whole = named(&quantities(pod_level, "requests"), &quantities(pod_level, "limits"));
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mandatory: Vec<&str> = MANDATORY.iter().filter(|name| names.contains(**name)).copied().collect();
    for container in items(spec, "containers").iter().chain(items(spec, "initContainers")) {
        let resources = obj(container, "resources");
        let own = named(&quantities(resources, "requests"), &quantities(resources, "limits"));
        for name in &mandatory {
            if !own.contains_key(*name) && !whole.contains_key(*name) {
                missing.entry(name).or_default().insert(text(container, "name"));
            }
        }
    }
    if missing.is_empty() {
        return None;
    }
    let parts =
        missing.iter().map(|(name, who)| format!("{name} for: {}", who.iter().copied().collect::<Vec<_>>().join(",")));
    Some(parts.collect::<Vec<_>>().join("; "))
}

pub fn in_scope(requirement: &Requirement, pod: &Value) -> bool {
    let spec = obj(pod, "spec");
    let terminating = || opt_int(spec, "activeDeadlineSeconds").is_some_and(|seconds| seconds >= 0);
    let best_effort = || qos_class(spec) == "BestEffort";
    match requirement.scope.as_str() {
        "Terminating" => terminating(),
        "NotTerminating" => !terminating(),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" => {
            let class = text(spec, "priorityClassName");
            requirement.selects((!class.is_empty()).then_some(class))
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(obj(spec, "affinity")),
        _ => false,
    }
}

fn crosses_namespaces(affinity: &Value) -> bool {
    let crosses = |term: &Value| !items(term, "namespaces").is_empty() || has(term, "namespaceSelector");
    ["podAffinity", "podAntiAffinity"].iter().map(|key| obj(affinity, key)).any(|terms| {
        items(terms, "requiredDuringSchedulingIgnoredDuringExecution").iter().any(crosses)
            || items(terms, "preferredDuringSchedulingIgnoredDuringExecution")
                .iter()
                .any(|weighted| crosses(obj(weighted, "podAffinityTerm")))
    })
}
