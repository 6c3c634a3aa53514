//! Which nodes a DaemonSet's pods belong on, and which pods come and go next. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Affinity, Node, NodeSelectorRequirement, Pod, PodSpec, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::json;

use crate::podcontrol::{count, is_available, phase, ready_since};
use crate::revisions::REVISION_LABEL;

/// Key, effect, and whether only pods on the host's network get it.
const TOLERATED: &[(&str, &str, bool)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute", false),
    ("node.kubernetes.io/unreachable", "NoExecute", false),
    ("node.kubernetes.io/disk-pressure", "NoSchedule", false),
    ("node.kubernetes.io/memory-pressure", "NoSchedule", false),
    ("node.kubernetes.io/pid-pressure", "NoSchedule", false),
    ("node.kubernetes.io/unschedulable", "NoSchedule", false),
    ("node.kubernetes.io/network-unavailable", "NoSchedule", true),
];

pub fn spec(set: &DaemonSet) -> DaemonSetSpec {
    set.spec.clone().unwrap_or_default()
}

pub fn add_tolerations(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect, host_only) in TOLERATED {
        let toleration = Toleration {
            key: Some((*key).into()),
            operator: Some("Exists".into()),
            effect: Some((*effect).into()),
            ..Toleration::default()
        };
        if (!host_only || host_network) && !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
}

/// Binds the pod to the node by affinity: the scheduler still decides when it fits.
pub fn pin(spec: &mut PodSpec, node: &str) {
    let field = json!({ "key": "metadata.name", "operator": "In", "values": [node] });
    let field: NodeSelectorRequirement = serde_json::from_value(field).expect("it is a requirement");
    let affinity = spec.affinity.get_or_insert_with(Affinity::default).node_affinity.get_or_insert_default();
    let required = affinity.required_during_scheduling_ignored_during_execution.get_or_insert_default();
    if required.node_selector_terms.is_empty() {
        required.node_selector_terms.push(Default::default());
    }
    for term in &mut required.node_selector_terms {
        term.match_fields = Some(vec![field.clone()]);
    }
}

/// The node that the pod is on, or is meant for.
pub fn target_node(pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_ref().filter(|node| !node.is_empty()) {
        return Some(node.clone());
    }
    let required = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &required.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
    let mut named = fields.filter(|field| field.key == "metadata.name" && field.operator == "In");
    named.find_map(|field| field.values.as_ref().filter(|values| values.len() == 1)?.first().cloned())
}

fn holds(requirement: &NodeSelectorRequirement, actual: Option<&String>) -> bool {
    let values = requirement.values.as_deref().unwrap_or_default();
    let number = |text: Option<&String>| text.and_then(|text| text.parse::<i64>().ok());
    match requirement.operator.as_str() {
        "In" => actual.is_some_and(|value| values.contains(value)),
        "NotIn" => actual.is_none_or(|value| !values.contains(value)),
        "Exists" => actual.is_some(),
        "DoesNotExist" => actual.is_none(),
        "Gt" => number(actual).zip(number(values.first())).is_some_and(|(actual, bound)| actual > bound),
        "Lt" => number(actual).zip(number(values.first())).is_some_and(|(actual, bound)| actual < bound),
        _ => false,
    }
}

fn affinity_fits(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.as_ref();
    let label = |key: &str| labels.and_then(|labels| labels.get(key));
    if !spec.node_selector.iter().flatten().all(|(key, value)| label(key) == Some(value)) {
        return false;
    }
    let affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    required.is_none_or(|required| {
        required.node_selector_terms.iter().any(|term| {
            let (labels, fields) = (term.match_expressions.as_deref(), term.match_fields.as_deref());
            let (labels, fields) = (labels.unwrap_or_default(), fields.unwrap_or_default());
            let name = |field: &NodeSelectorRequirement| {
                if field.key == "metadata.name" { node.metadata.name.as_ref() } else { None }
            };
            !(labels.is_empty() && fields.is_empty())
                && labels.iter().all(|requirement| holds(requirement, label(&requirement.key)))
                && fields.iter().all(|requirement| holds(requirement, name(requirement)))
        })
    })
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let named = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    if named(&toleration.effect).is_some_and(|effect| effect != taint.effect)
        || named(&toleration.key).is_some_and(|key| key != taint.key)
    {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => {
            named(&toleration.key).is_some()
                && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// Whether a pod should be on the node, and whether one that is there may stay.
pub fn belongs(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let mut pod = spec(set).template.spec.unwrap_or_default();
    let other =
        pod.node_name.as_ref().filter(|name| !name.is_empty()).is_some_and(|n| Some(n) != node.metadata.name.as_ref());
    if other || !affinity_fits(&pod, node) {
        return (false, false);
    }
    add_tolerations(&mut pod);
    let tolerations = pod.tolerations.unwrap_or_default();
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let refused: Vec<&Taint> = taints
        .into_iter()
        .flatten()
        .filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"))
        .filter(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
        .collect();
    (refused.is_empty(), !refused.iter().any(|taint| taint.effect == "NoExecute"))
}

fn resolve(value: Option<&IntOrString>, of: i32) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            i32::try_from((percent * i64::from(of) + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

/// (maxSurge, maxUnavailable) of `desired` pods; none: pods are replaced only when somebody deletes them.
pub fn bounds(set: &DaemonSet, desired: i32) -> Option<(i32, i32)> {
    let strategy = spec(set).update_strategy.unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return None;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let surge = resolve(rolling.max_surge.as_ref(), desired);
    let unavailable = match &rolling.max_unavailable {
        None if surge == 0 => 1,
        value => resolve(value.as_ref(), desired),
    };
    Some((surge, if surge == 0 && unavailable == 0 { 1 } else { unavailable }))
}

pub fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)).is_some_and(|label| label == hash)
}

pub type PodsByNode = BTreeMap<String, Vec<Arc<Pod>>>;

/// By node, oldest first.
pub fn by_node(pods: &[Arc<Pod>]) -> PodsByNode {
    let mut all = PodsByNode::new();
    for pod in pods {
        if let Some(node) = target_node(pod) {
            all.entry(node).or_default().push(pod.clone());
        }
    }
    for pods in all.values_mut() {
        pods.sort_by_key(|pod| {
            (pod.metadata.creation_timestamp.as_ref().map(|time| time.0), pod.metadata.name.clone())
        });
    }
    all
}

/// What is to be done: pods to create, by node, and pods to delete.
#[derive(Debug, Default)]
pub struct Plan {
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Of those to delete: the finished ones.
    pub failed: Vec<Arc<Pod>>,
    pub succeeded: Vec<Arc<Pod>>,
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// One pod on each node where one belongs, none elsewhere.
pub fn manage(set: &DaemonSet, nodes: &[Arc<Node>], pods: &PodsByNode, hash: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let min_ready = spec(set).min_ready_seconds.unwrap_or(0);
    let surges = bounds(set, count(nodes.len())).is_some_and(|(surge, _)| surge > 0);
    for node in nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let here = pods.get(&name).map(Vec::as_slice).unwrap_or_default();
        let (should_run, may_stay) = belongs(set, node);
        if !may_stay {
            plan.delete.extend(here.iter().filter(|pod| !is_going(pod)).cloned());
            continue;
        }
        if should_run && here.is_empty() {
            plan.create.push(name);
            continue;
        }
        let mut running = Vec::new();
        for pod in here.iter().filter(|pod| !is_going(pod)) {
            match phase(pod) {
                "Failed" => plan.failed.push(pod.clone()),
                "Succeeded" => plan.succeeded.push(pod.clone()),
                _ => running.push(pod.clone()),
            }
        }
        if !surges {
            plan.delete.extend(running.into_iter().skip(1));
            continue;
        }
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| is_updated(pod, hash));
        plan.delete.extend(
            new.iter()
                .chain(&old)
                .filter(|pod| {
                    !new.first().is_some_and(|first| Arc::ptr_eq(first, pod))
                        && !old.first().is_some_and(|first| Arc::ptr_eq(first, pod))
                })
                .cloned(),
        );
        if let (Some(new), Some(old)) = (new.first(), old.first()) {
            if ready_since(old).is_none() || is_available(new, min_ready, now) {
                plan.delete.push(old.clone());
            }
        }
    }
    // Meant for a node that is not there any more, and never bound to it: nobody else removes these.
    for (name, pods) in pods {
        if !nodes.iter().any(|node| node.metadata.name.as_ref() == Some(name)) {
            let unbound = |pod: &&Arc<Pod>| {
                pod.spec.as_ref().is_none_or(|s| s.node_name.as_deref().unwrap_or_default().is_empty())
            };
            plan.delete.extend(pods.iter().filter(unbound).filter(|pod| !is_going(pod)).cloned());
        }
    }
    plan.delete.extend(plan.failed.iter().chain(&plan.succeeded).cloned());
    plan
}

/// The next step from old pods to new ones.
pub fn roll(set: &DaemonSet, nodes: &[Arc<Node>], pods: &PodsByNode, hash: &str, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let min_ready = spec(set).min_ready_seconds.unwrap_or(0);
    let wanted: Vec<String> =
        nodes.iter().filter(|node| belongs(set, node).0).filter_map(|node| node.metadata.name.clone()).collect();
    let Some((surge, unavailable)) = bounds(set, count(wanted.len())) else { return plan };
    let (mut busy, mut first, mut later) = (0, Vec::new(), Vec::new());
    for node in &wanted {
        let here = pods.get(node).map(Vec::as_slice).unwrap_or_default();
        let (new, old): (Vec<&Arc<Pod>>, Vec<_>) =
            here.iter().filter(|pod| !is_going(pod)).partition(|pod| is_updated(pod, hash));
        let available = |pod: &Pod| is_available(pod, min_ready, now);
        match (new.as_slice(), old.as_slice(), surge > 0) {
            ([], [old], _) if !available(old) => {
                busy += i32::from(surge == 0);
                first.push((node, *old));
            }
            ([], [old], _) => later.push((node, *old)),
            ([new], [], false) if available(new) => {}
            ([_] | [], [], true) => {}
            ([new], [old], true) if available(new) => plan.delete.push((*old).clone()),
            _ => busy += 1,
        }
    }
    let room = usize::try_from(if surge > 0 { surge } else { unavailable } - busy).unwrap_or(0);
    for (node, old) in first.into_iter().chain(later.into_iter().take(room)) {
        if surge > 0 {
            plan.create.push(node.clone());
        } else {
            plan.delete.push(old.clone());
        }
    }
    plan
}

pub fn status(set: &DaemonSet, nodes: &[Arc<Node>], pods: &PodsByNode, hash: &str, now: Timestamp) -> DaemonSetStatus {
    let min_ready = spec(set).min_ready_seconds.unwrap_or(0);
    let known = set.status.clone().unwrap_or_default();
    let mut status = DaemonSetStatus {
        observed_generation: set.metadata.generation,
        collision_count: known.collision_count,
        conditions: known.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut available, mut updated) = (0, 0);
    for node in nodes {
        let here = pods.get(node.metadata.name.as_deref().unwrap_or_default());
        let oldest = here.and_then(|pods| pods.first());
        match (belongs(set, node).0, oldest) {
            (false, None) => {}
            (false, Some(_)) => status.number_misscheduled += 1,
            (true, oldest) => {
                status.desired_number_scheduled += 1;
                let Some(pod) = oldest else { continue };
                status.current_number_scheduled += 1;
                status.number_ready += i32::from(ready_since(pod).is_some());
                available += i32::from(is_available(pod, min_ready, now));
                updated += i32::from(is_updated(pod, hash));
            }
        }
    }
    let nonzero = |n: i32| (n != 0).then_some(n);
    status.number_available = nonzero(available);
    status.updated_number_scheduled = nonzero(updated);
    status.number_unavailable = nonzero(status.desired_number_scheduled - available);
    status
}
