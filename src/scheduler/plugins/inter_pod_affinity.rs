//! InterPodAffinity: required affinity and anti-affinity (both ways) refuse; preferred terms of the pod and of the pods
//! that are there score.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, WeightedPodAffinityTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::cache::{NodeInfo, PodInfo, Snapshot};
use crate::framework::{CycleState, MAX_SCORE, Plugin, Refusal};
use crate::plugins::selectors::{Labels, selects};

pub struct InterPodAffinity;

/// Topology key and value → number of matching pods.
type Counts = HashMap<(String, String), i64>;

#[derive(Default)]
struct Filter {
    /// Per required affinity term of the pod.
    affinity: Vec<Counts>,
    anti_affinity: Vec<Counts>,
    /// Topologies where a pod that is there forbids this one.
    forbidden: Counts,
    /// No pod anywhere matches, and the pod matches its own terms: it may be the first of its group.
    first_of_group: bool,
}

struct Score(Counts);

fn affinity(pod: &PodInfo) -> Option<&Affinity> {
    pod.pod.spec.as_ref()?.affinity.as_ref()
}

fn required(pod: &PodInfo) -> &[PodAffinityTerm] {
    let terms = affinity(pod).and_then(|a| a.pod_affinity.as_ref());
    terms.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

fn required_anti(pod: &PodInfo) -> &[PodAffinityTerm] {
    let terms = affinity(pod).and_then(|a| a.pod_anti_affinity.as_ref());
    terms.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

fn preferred(pod: &PodInfo) -> &[WeightedPodAffinityTerm] {
    let terms = affinity(pod).and_then(|a| a.pod_affinity.as_ref());
    terms.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

fn preferred_anti(pod: &PodInfo) -> &[WeightedPodAffinityTerm] {
    let terms = affinity(pod).and_then(|a| a.pod_anti_affinity.as_ref());
    terms.and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_deref()).unwrap_or_default()
}

/// Whether the term of `owner` selects `candidate`.
fn term_selects(term: &PodAffinityTerm, owner: &PodInfo, candidate: &PodInfo, snapshot: &Snapshot) -> bool {
    let named = term.namespaces.as_deref().unwrap_or_default();
    let in_namespace = match &term.namespace_selector {
        None if named.is_empty() => candidate.namespace() == owner.namespace(),
        selector => {
            static NONE: Labels = Labels::new();
            let labels = snapshot.namespaces.get(candidate.namespace()).unwrap_or(&NONE);
            named.iter().any(|name| name == candidate.namespace()) || selects(selector.as_ref(), labels)
        }
    };
    in_namespace && selects(Some(&with_label_keys(term, owner)), candidate.labels())
}

/// matchLabelKeys and mismatchLabelKeys add the owner's own values to the selector.
fn with_label_keys(term: &PodAffinityTerm, owner: &PodInfo) -> LabelSelector {
    let mut selector = term.label_selector.clone().unwrap_or_else(|| LabelSelector {
        // An absent selector matches no pod: make it contradict itself.
        match_expressions: Some(vec![requirement("", "In", Vec::new())]),
        match_labels: None,
    });
    let keys = [("In", &term.match_label_keys), ("NotIn", &term.mismatch_label_keys)];
    for (operator, names) in keys {
        for key in names.iter().flatten() {
            if let Some(value) = owner.labels().get(key) {
                let added = requirement(key, operator, vec![value.clone()]);
                selector.match_expressions.get_or_insert_default().push(added);
            }
        }
    }
    selector
}

fn requirement(
    key: &str,
    operator: &str,
    values: Vec<String>,
) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelectorRequirement {
        key: key.into(),
        operator: operator.into(),
        values: Some(values),
    }
}

fn topology(node: &NodeInfo, key: &str) -> Option<(String, String)> {
    Some((key.to_owned(), node.labels().get(key)?.clone()))
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn pre_filter(&self, state: &mut CycleState, pod: &PodInfo, snapshot: &Snapshot) -> Result<(), Refusal> {
        let (wanted, unwanted) = (required(pod), required_anti(pod));
        let mut filter = Filter {
            affinity: vec![Counts::new(); wanted.len()],
            anti_affinity: vec![Counts::new(); unwanted.len()],
            ..Filter::default()
        };
        let mut any_match = false;
        for (node, other) in snapshot.pods() {
            for term in required_anti(other) {
                if let Some(at) = topology(node, &term.topology_key) {
                    if term_selects(term, other, pod, snapshot) {
                        *filter.forbidden.entry(at).or_default() += 1;
                    }
                }
            }
            // A pod counts for affinity only if it matches every term.
            if !wanted.is_empty() && wanted.iter().all(|term| term_selects(term, pod, other, snapshot)) {
                for (term, counts) in wanted.iter().zip(&mut filter.affinity) {
                    if let Some(at) = topology(node, &term.topology_key) {
                        any_match = true;
                        *counts.entry(at).or_default() += 1;
                    }
                }
            }
            for (term, counts) in unwanted.iter().zip(&mut filter.anti_affinity) {
                if let Some(at) = topology(node, &term.topology_key) {
                    if term_selects(term, pod, other, snapshot) {
                        *counts.entry(at).or_default() += 1;
                    }
                }
            }
        }
        filter.first_of_group = !any_match && wanted.iter().all(|term| term_selects(term, pod, pod, snapshot));
        state.put(filter);
        Ok(())
    }

    fn filter(&self, state: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let Some(filter) = state.get::<Filter>() else { return Ok(()) };
        let mut affine = true;
        for (term, counts) in required(pod).iter().zip(&filter.affinity) {
            match topology(node, &term.topology_key) {
                None => return Err(Refusal::unresolvable("node(s) didn't match pod affinity rules")),
                Some(at) => affine &= counts.get(&at).copied().unwrap_or(0) > 0,
            }
        }
        if !affine && !filter.first_of_group {
            return Err(Refusal::unresolvable("node(s) didn't match pod affinity rules"));
        }
        for (term, counts) in required_anti(pod).iter().zip(&filter.anti_affinity) {
            if topology(node, &term.topology_key).is_some_and(|at| counts.get(&at).copied().unwrap_or(0) > 0) {
                return Err(Refusal::resolvable("node(s) didn't match pod anti-affinity rules"));
            }
        }
        let here = |(key, value): &(String, String)| node.labels().get(key) == Some(value);
        if filter.forbidden.iter().any(|(at, count)| *count > 0 && here(at)) {
            return Err(Refusal::resolvable("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }

    fn weight(&self) -> i64 {
        2
    }

    fn pre_score(&self, state: &mut CycleState, pod: &PodInfo, _: &[Arc<NodeInfo>], snapshot: &Snapshot) -> bool {
        let mut counts = Counts::new();
        let mut add = |node: &NodeInfo, key: &str, weight: i64| {
            if let Some(at) = topology(node, key) {
                *counts.entry(at).or_default() += weight;
            }
        };
        for (node, other) in snapshot.pods() {
            for (terms, sign) in [(preferred(pod), 1), (preferred_anti(pod), -1)] {
                for weighted in terms.iter().filter(|w| term_selects(&w.pod_affinity_term, pod, other, snapshot)) {
                    add(node, &weighted.pod_affinity_term.topology_key, sign * i64::from(weighted.weight));
                }
            }
            for (terms, sign) in [(preferred(other), 1), (preferred_anti(other), -1)] {
                for weighted in terms.iter().filter(|w| term_selects(&w.pod_affinity_term, other, pod, snapshot)) {
                    add(node, &weighted.pod_affinity_term.topology_key, sign * i64::from(weighted.weight));
                }
            }
            // Pods that must be near this one pull with upstream's default hard weight of 1.
            for term in required(other).iter().filter(|term| term_selects(term, other, pod, snapshot)) {
                add(node, &term.topology_key, 1);
            }
        }
        let anything = !counts.is_empty();
        state.put(Score(counts));
        anything
    }

    fn score(&self, state: &CycleState, _: &PodInfo, node: &NodeInfo) -> i64 {
        let Some(Score(counts)) = state.get::<Score>() else { return 0 };
        counts.iter().filter(|((key, value), _)| node.labels().get(key) == Some(value)).map(|(_, count)| count).sum()
    }

    fn normalize(&self, _: &CycleState, scores: &mut [i64]) {
        let (min, max) = (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if max > min { (*score - min) * MAX_SCORE / (max - min) } else { 0 };
        }
    }
}
