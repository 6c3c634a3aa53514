//! The scheduling framework: upstream's extension points, as traits over a snapshot.
//!
//! Invariants:
//! - FW-1: a plugin is pure: it sees the pod and the snapshot, and decides; only the driver writes.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::Arc;

use crate::cache::{NodeInfo, PodInfo, Snapshot};

pub const MAX_SCORE: i64 = 100;

/// Why a node (or every node) is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Upstream's wording; they are counted in the event.
    pub reasons: Vec<String>,
    /// Removing pods from the node cannot help.
    pub unresolvable: bool,
}

impl Refusal {
    pub fn resolvable(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: false }
    }

    pub fn unresolvable(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], unresolvable: true }
    }
}

/// What plugins computed once for this pod and cycle.
#[derive(Default, Clone)]
pub struct CycleState {
    values: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
}

impl CycleState {
    pub fn put<T: Any + Send + Sync>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Arc::new(value));
    }

    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>()).and_then(|value| value.downcast_ref())
    }
}

/// One plugin; it overrides the extension points that it takes part in.
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// The pod may not even be queued yet: the message for its condition.
    fn pre_enqueue(&self, _pod: &PodInfo) -> Result<(), String> {
        Ok(())
    }

    /// Computes what `filter` needs, once per cycle.
    fn pre_filter(&self, _state: &mut CycleState, _pod: &PodInfo, _snapshot: &Snapshot) -> Result<(), Refusal> {
        Ok(())
    }

    fn filter(&self, _state: &CycleState, _pod: &PodInfo, _node: &NodeInfo) -> Result<(), Refusal> {
        Ok(())
    }

    /// Weight of the score; 0: this plugin does not score.
    fn weight(&self) -> i64 {
        0
    }

    /// Computes what `score` needs; `false`: nothing to score for this pod, skip.
    fn pre_score(
        &self,
        _state: &mut CycleState,
        _pod: &PodInfo,
        _nodes: &[Arc<NodeInfo>],
        _snapshot: &Snapshot,
    ) -> bool {
        true
    }

    fn score(&self, _state: &CycleState, _pod: &PodInfo, _node: &NodeInfo) -> i64 {
        0
    }

    /// Brings the scores of all nodes to 0..=[`MAX_SCORE`].
    fn normalize(&self, _state: &CycleState, _scores: &mut [i64]) {}
}

/// Scales so that the highest is [`MAX_SCORE`]; `reverse` makes the lowest the best.
pub fn default_normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        *score = match (max, reverse) {
            (0, true) => MAX_SCORE,
            (0, false) => 0,
            (max, true) => MAX_SCORE - *score * MAX_SCORE / max,
            (max, false) => *score * MAX_SCORE / max,
        };
    }
}

/// The plugins of a scheduler, in the order in which they are asked.
#[derive(Clone)]
pub struct Framework {
    pub plugins: Arc<[Box<dyn Plugin>]>,
}

impl Framework {
    pub fn new(plugins: Vec<Box<dyn Plugin>>) -> Self {
        Self { plugins: plugins.into() }
    }

    pub fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), String> {
        self.plugins.iter().try_for_each(|plugin| plugin.pre_enqueue(pod))
    }

    pub fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<(), Refusal> {
        self.plugins.iter().try_for_each(|plugin| plugin.pre_filter(state, pod, snapshot))
    }

    /// The first plugin's refusal, as upstream reports it.
    pub fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        self.plugins.iter().try_for_each(|plugin| plugin.filter(state, pod, node))
    }

    /// Weighted sums, one per node.
    pub fn score(
        &self,
        state: &mut CycleState,
        pod: &PodInfo,
        nodes: &[Arc<NodeInfo>],
        snapshot: &Snapshot,
    ) -> Vec<i64> {
        let mut totals = vec![0; nodes.len()];
        for plugin in self.plugins.iter().filter(|plugin| plugin.weight() > 0) {
            if !plugin.pre_score(state, pod, nodes, snapshot) {
                continue;
            }
            let mut scores: Vec<i64> = nodes.iter().map(|node| plugin.score(state, pod, node)).collect();
            plugin.normalize(state, &mut scores);
            for (total, score) in totals.iter_mut().zip(scores) {
                *total += plugin.weight() * score;
            }
        }
        totals
    }
}
