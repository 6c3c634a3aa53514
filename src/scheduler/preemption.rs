//! Making room: which pods of lower priority must go so that a pod fits. Pure.
//!
//! Invariants:
//! - PR-1: only pods of strictly lower priority are victims, and none whose removal is not needed.

use std::sync::Arc;

use crate::algorithm::{Diagnosis, count};
use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{CycleState, Framework};

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

pub struct Preemption {
    pub node: String,
    pub victims: Vec<Arc<PodInfo>>,
}

/// Either victims on one node, or upstream's sentence on why there are none.
pub fn find(
    framework: &Framework,
    pod: &PodInfo,
    snapshot: &Snapshot,
    diagnosis: &Diagnosis,
) -> Result<Preemption, String> {
    let never = pod.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref()) == Some("Never");
    if never {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".into());
    }
    if diagnosis.general.is_some() {
        let reasons = vec![NOT_HELPFUL.to_owned(); diagnosis.nodes];
        return Err(sentence(diagnosis.nodes, &reasons));
    }
    // Victims of an earlier attempt are still leaving: wait for them rather than evict more.
    let nominated = pod.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    if let Some(node) = nominated.and_then(|name| snapshot.node(name)) {
        let leaving = |p: &Arc<PodInfo>| p.pod.metadata.deletion_timestamp.is_some() && p.priority < pod.priority;
        if node.pods.iter().any(leaving) {
            return Err("preemption: not eligible due to a terminating pod on the nominated node.".into());
        }
    }
    let mut reasons = Vec::new();
    let mut best: Option<(Rank, Preemption)> = None;
    for (node, refusal) in &diagnosis.refusals {
        if refusal.unresolvable {
            reasons.push(NOT_HELPFUL.to_owned());
            continue;
        }
        match victims_on(framework, pod, node, snapshot) {
            Some(victims) => {
                let rank = rank(&victims);
                if best.as_ref().is_none_or(|(other, _)| rank < *other) {
                    best = Some((rank, Preemption { node: node.name.clone(), victims }));
                }
            }
            None => reasons.push(NO_VICTIMS.to_owned()),
        }
    }
    best.map(|(_, preemption)| preemption).ok_or_else(|| sentence(diagnosis.nodes, &reasons))
}

fn sentence(nodes: usize, reasons: &[String]) -> String {
    format!("preemption: 0/{nodes} nodes are available: {}.", count(reasons.iter()))
}

/// Lower is better: highest victim priority, sum of priorities, number of victims.
type Rank = (i32, i64, usize);

fn rank(victims: &[Arc<PodInfo>]) -> Rank {
    let highest = victims.iter().map(|victim| victim.priority).max().unwrap_or(i32::MIN);
    let sum = victims.iter().map(|victim| i64::from(victim.priority) + i64::from(i32::MAX)).sum();
    (highest, sum, victims.len())
}

fn victims_on(
    framework: &Framework,
    pod: &PodInfo,
    node: &Arc<NodeInfo>,
    snapshot: &Snapshot,
) -> Option<Vec<Arc<PodInfo>>> {
    let mut lower: Vec<Arc<PodInfo>> = node.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    let mut emptied = NodeInfo::clone(node);
    for victim in &lower {
        emptied.remove(&victim.key);
    }
    if !fits(framework, pod, &emptied, snapshot) {
        return None;
    }
    // Give back the most important first; keep as victims only those that must go.
    lower.sort_by_key(|p| (std::cmp::Reverse(p.priority), p.pod.metadata.creation_timestamp.as_ref().map(|t| t.0)));
    let mut victims = Vec::new();
    for candidate in lower {
        emptied.add(candidate.clone());
        if !fits(framework, pod, &emptied, snapshot) {
            emptied.remove(&candidate.key);
            victims.push(candidate);
        }
    }
    Some(victims)
}

fn fits(framework: &Framework, pod: &PodInfo, node: &NodeInfo, snapshot: &Snapshot) -> bool {
    let mut changed = snapshot.clone();
    if let Ok(at) = changed.nodes.binary_search_by(|other| other.name.cmp(&node.name)) {
        changed.nodes[at] = Arc::new(node.clone());
    }
    let mut state = CycleState::default();
    framework.pre_filter(&mut state, pod, &changed).is_ok() && framework.filter(&state, pod, node).is_ok()
}
