//! One pod against one snapshot: filter, score, choose. Pure.
//!
//! Large clusters are sampled as upstream does: scanning stops once enough feasible nodes are found, and the next pod
//! starts where this one stopped.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{CycleState, Framework, Refusal};

/// Below this many nodes all are looked at.
const MIN_FEASIBLE: usize = 100;

/// Where a pod fits, or why it does not.
pub enum Decision {
    Fits { node: String },
    Unschedulable(Diagnosis),
}

/// Why no node fits.
#[derive(Debug, Default)]
pub struct Diagnosis {
    pub nodes: usize,
    pub refusals: Vec<(Arc<NodeInfo>, Refusal)>,
    /// Refused before any node was looked at.
    pub general: Option<Refusal>,
}

impl Diagnosis {
    /// Upstream's sentence: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s).`
    pub fn message(&self) -> String {
        let mut message = format!("0/{} nodes are available:", self.nodes);
        if self.nodes == 0 && self.general.is_none() {
            return "no nodes available to schedule pods".into();
        }
        match &self.general {
            Some(refusal) => message += &format!(" {}.", refusal.reasons.join(", ")),
            None => message += &format!(" {}.", count(self.refusals.iter().flat_map(|(_, r)| r.reasons.iter()))),
        }
        message
    }
}

/// `2 reason a, 1 reason b`, sorted as upstream sorts it: by text.
pub fn count<'a>(reasons: impl Iterator<Item = &'a String>) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut texts: Vec<String> = counts.into_iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    texts.sort();
    texts.join(", ")
}

/// How many feasible nodes are enough: all of a small cluster, a shrinking share (down to 5 %) of a large one.
fn enough(nodes: usize) -> usize {
    if nodes < MIN_FEASIBLE {
        return nodes;
    }
    let percent = (50usize.saturating_sub(nodes / 125)).max(5);
    (nodes * percent / 100).max(MIN_FEASIBLE)
}

/// Schedules `pod`. `start` is where the scan begins and is moved on; `tie` breaks equal scores.
pub fn schedule(framework: &Framework, pod: &PodInfo, snapshot: &Snapshot, start: &mut usize, tie: u64) -> Decision {
    let nodes = snapshot.nodes.len();
    let mut state = CycleState::default();
    let refused = |general| Decision::Unschedulable(Diagnosis { nodes, refusals: Vec::new(), general });
    if nodes == 0 {
        return refused(None);
    }
    if let Err(refusal) = framework.pre_filter(&mut state, pod, snapshot) {
        return refused(Some(refusal));
    }
    // A nominated node is tried first: room was made there for this pod.
    let nominated = pod.pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    if let Some(node) = nominated.and_then(|name| snapshot.node(name)) {
        if framework.filter(&state, pod, node).is_ok() {
            return Decision::Fits { node: node.name.clone() };
        }
    }
    let wanted = enough(nodes);
    let mut feasible = Vec::new();
    let mut refusals = Vec::new();
    let mut looked_at = 0;
    while looked_at < nodes && feasible.len() < wanted {
        let node = &snapshot.nodes[(*start + looked_at) % nodes];
        looked_at += 1;
        match framework.filter(&state, pod, node) {
            Ok(()) => feasible.push(node.clone()),
            Err(refusal) => refusals.push((node.clone(), refusal)),
        }
    }
    *start = (*start + looked_at) % nodes;
    match feasible.as_slice() {
        [] => Decision::Unschedulable(Diagnosis { nodes, refusals, general: None }),
        [only] => Decision::Fits { node: only.name.clone() },
        several => {
            let scores = framework.score(&mut state, pod, several, snapshot);
            let best = scores.iter().copied().max().unwrap_or(0);
            let winners: Vec<usize> = (0..scores.len()).filter(|at| scores[*at] == best).collect();
            let winner = winners[usize::try_from(tie % winners.len() as u64).unwrap_or(0)];
            Decision::Fits { node: several[winner].name.clone() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_clusters_are_searched_whole_and_large_ones_sampled() {
        assert_eq!(
            [enough(1), enough(99), enough(100), enough(1000), enough(5000), enough(10000)],
            [1, 99, 100, 420, 500, 500]
        );
    }
}
