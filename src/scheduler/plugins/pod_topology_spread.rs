//! PodTopologySpread: `DoNotSchedule` constraints refuse, `ScheduleAnyway` ones score; without constraints of its own a
//! pod that belongs to a workload is spread softly over hosts and zones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{CycleState, MAX_SCORE, Plugin, Refusal};
use crate::plugins::selectors::selects;
use crate::plugins::{node_affinity, taint_toleration};

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

pub struct PodTopologySpread;

struct Constraint {
    key: String,
    max_skew: i64,
    min_domains: i64,
    matches_itself: bool,
    /// Matching pods per topology value, over the eligible nodes.
    counts: HashMap<String, i64>,
}

struct Hard(Vec<Constraint>);
struct Soft(Vec<Constraint>);

fn own(pod: &PodInfo) -> &[TopologySpreadConstraint] {
    pod.pod.spec.as_ref().and_then(|spec| spec.topology_spread_constraints.as_deref()).unwrap_or_default()
}

/// Upstream's system defaults, for pods that a workload owns: its labels stand for the workload.
fn defaults(pod: &PodInfo) -> Vec<TopologySpreadConstraint> {
    let owned = pod.pod.metadata.owner_references.iter().flatten().any(|owner| owner.controller == Some(true));
    let Some(labels) = pod.pod.metadata.labels.clone().filter(|labels| owned && !labels.is_empty()) else {
        return Vec::new();
    };
    let of = |key: &str, max_skew| TopologySpreadConstraint {
        topology_key: key.into(),
        max_skew,
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(LabelSelector { match_labels: Some(labels.clone()), match_expressions: None }),
        ..TopologySpreadConstraint::default()
    };
    vec![of(HOSTNAME, 3), of(ZONE, 5)]
}

fn eligible(constraint: &TopologySpreadConstraint, pod: &PodInfo, node: &NodeInfo) -> bool {
    if constraint.node_affinity_policy.as_deref() != Some("Ignore") && !node_affinity::matches(pod, node) {
        return false;
    }
    if constraint.node_taints_policy.as_deref() == Some("Honor") {
        let taints = node.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        let hard = taints.iter().filter(|taint| taint.effect != "PreferNoSchedule");
        for taint in hard {
            let value = taint.value.as_deref().unwrap_or_default();
            if !taint_toleration::tolerates(pod, &taint.key, value, &taint.effect) {
                return false;
            }
        }
    }
    true
}

fn compute(
    constraint: &TopologySpreadConstraint,
    pod: &PodInfo,
    nodes: &[Arc<NodeInfo>],
    keys: &HashSet<&str>,
) -> Constraint {
    let mut selector = constraint.label_selector.clone().unwrap_or_default();
    for key in constraint.match_label_keys.iter().flatten() {
        if let Some(value) = pod.labels().get(key) {
            selector.match_labels.get_or_insert_default().insert(key.clone(), value.clone());
        }
    }
    let mut counts = HashMap::new();
    for node in nodes {
        // Only nodes that have every topology key take part.
        let (Some(value), true) =
            (node.labels().get(&constraint.topology_key), keys.iter().all(|k| node.labels().contains_key(*k)))
        else {
            continue;
        };
        if !eligible(constraint, pod, node) {
            continue;
        }
        let matching = node.pods.iter().filter(|other| {
            other.namespace() == pod.namespace()
                && other.pod.metadata.deletion_timestamp.is_none()
                && selects(Some(&selector), other.labels())
        });
        *counts.entry(value.clone()).or_insert(0) += i64::try_from(matching.count()).unwrap_or(i64::MAX);
    }
    Constraint {
        key: constraint.topology_key.clone(),
        max_skew: i64::from(constraint.max_skew),
        min_domains: i64::from(constraint.min_domains.unwrap_or(1)),
        matches_itself: selects(Some(&selector), pod.labels()),
        counts,
    }
}

fn split(constraints: &[TopologySpreadConstraint], hard: bool) -> Vec<&TopologySpreadConstraint> {
    constraints.iter().filter(|c| (c.when_unsatisfiable == "DoNotSchedule") == hard).collect()
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<(), Refusal> {
        let constraints = split(own(pod), true);
        let keys = constraints.iter().map(|c| c.topology_key.as_str()).collect();
        state.put(Hard(constraints.into_iter().map(|c| compute(c, pod, &snapshot.nodes, &keys)).collect()));
        Ok(())
    }

    fn filter(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let Some(Hard(constraints)) = state.get::<Hard>() else { return Ok(()) };
        for constraint in constraints {
            let Some(value) = node.labels().get(&constraint.key) else {
                return Err(Refusal::unresolvable(
                    "node(s) didn't match pod topology spread constraints (missing required label)",
                ));
            };
            let domains = i64::try_from(constraint.counts.len()).unwrap_or(i64::MAX);
            let least = match constraint.counts.values().min() {
                Some(least) if domains >= constraint.min_domains => *least,
                _ => 0,
            };
            let here = constraint.counts.get(value).copied().unwrap_or(0);
            if here + i64::from(constraint.matches_itself) - least > constraint.max_skew {
                return Err(Refusal::resolvable("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], snapshot: &Snapshot) -> bool {
        let (constraints, keys): (Vec<TopologySpreadConstraint>, HashSet<&str>) = if own(pod).is_empty() {
            (defaults(pod), HashSet::new())
        } else {
            let soft: Vec<_> = split(own(pod), false).into_iter().cloned().collect();
            (soft, split(own(pod), false).iter().map(|c| c.topology_key.as_str()).collect())
        };
        let soft: Vec<_> = constraints.iter().map(|c| compute(c, pod, &snapshot.nodes, &keys)).collect();
        let any = !soft.is_empty();
        state.put(Soft(soft));
        any
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Soft(constraints)) = state.get::<Soft>() else { return 0 };
        let mut score = 0.0;
        for constraint in constraints {
            let Some(value) = node.labels().get(&constraint.key) else { continue };
            let here = constraint.counts.get(value).copied().unwrap_or(0) as f64;
            // Topologies with few domains weigh less, as upstream weighs them.
            let weight = (constraint.counts.len() as f64 + 2.0).ln();
            score += here * weight + (constraint.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, _: &CycleState, scores: &mut [i64]) {
        let (min, max) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if max == 0 { MAX_SCORE } else { MAX_SCORE * (max + min - *score) / max };
        }
    }
}
