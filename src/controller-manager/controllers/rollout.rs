//! The arithmetic of a rollout: how many replicas each ReplicaSet of a Deployment should have next. Pure.
//!
//! Invariants:
//! - RO-1: never more than replicas + maxSurge pods, never fewer than replicas - maxUnavailable available ones by our doing.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn set_replicas(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

pub fn total(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().map(|set| set_replicas(set)).sum()
}

pub fn total_available(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().map(|set| available(set)).sum()
}

pub fn actual(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().map(|set| set.status.as_ref().map_or(0, |status| status.replicas)).sum()
}

pub fn is_rolling(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("Recreate")
}

fn resolve(value: Option<&IntOrString>, of: i32, round_up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i32 = text.trim_end_matches('%').parse().unwrap_or(0);
            let exact = i64::from(percent) * i64::from(of);
            let rounded = if round_up { (exact + 99) / 100 } else { exact / 100 };
            i32::try_from(rounded).unwrap_or(i32::MAX)
        }
    }
}

/// (maxSurge, maxUnavailable) as numbers; both zero would never move, so then one may be missing.
pub fn fenceposts(deployment: &Deployment) -> (i32, i32) {
    if !is_rolling(deployment) {
        return (0, 0);
    }
    let rolling =
        deployment.spec.as_ref().and_then(|spec| spec.strategy.as_ref()).and_then(|s| s.rolling_update.as_ref());
    let of = replicas(deployment);
    let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), of, true);
    let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), of, false).min(of);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

/// The size of the new ReplicaSet.
pub fn new_size(deployment: &Deployment, all: &[Arc<ReplicaSet>], new: &ReplicaSet) -> i32 {
    let wanted = replicas(deployment);
    if !is_rolling(deployment) {
        return wanted;
    }
    let (surge, _) = fenceposts(deployment);
    let room = wanted + surge - total(all);
    if room <= 0 { set_replicas(new) } else { set_replicas(new) + room.min(wanted - set_replicas(new)) }
}

/// The next sizes of the old ReplicaSets (name, size), unhealthy pods first; empty: nothing may go now.
pub fn old_sizes(
    deployment: &Deployment,
    all: &[Arc<ReplicaSet>],
    old: &[Arc<ReplicaSet>],
    new: &ReplicaSet,
) -> Vec<(String, i32)> {
    let (_, max_unavailable) = fenceposts(deployment);
    let min_available = replicas(deployment) - max_unavailable;
    let new_unavailable = set_replicas(new) - available(new);
    let mut budget = total(all) - min_available - new_unavailable;
    if budget <= 0 || total(old) == 0 {
        return Vec::new();
    }
    let mut sorted: Vec<&Arc<ReplicaSet>> = old.iter().collect();
    sorted.sort_by_key(|set| set.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let mut sizes: Vec<(String, i32)> =
        sorted.iter().map(|set| (set.metadata.name.clone().unwrap_or_default(), set_replicas(set))).collect();
    // Pods that are not available protect nothing: they go first.
    for (set, (_, size)) in sorted.iter().zip(&mut sizes) {
        let unhealthy = (*size - available(set)).clamp(0, budget);
        *size -= unhealthy;
        budget -= unhealthy;
    }
    let mut spare = (total_available(all) - min_available).min(budget);
    for (_, size) in &mut sizes {
        let cut = (*size).min(spare.max(0));
        *size -= cut;
        spare -= cut;
    }
    let changed = sizes.iter().zip(&sorted).filter(|((_, size), set)| *size != set_replicas(set));
    changed.map(|(entry, _)| entry.clone()).collect()
}

/// A change of `spec.replicas` in the middle of a rollout is shared out in proportion: new sizes by name.
pub fn proportional(deployment: &Deployment, active: &[Arc<ReplicaSet>]) -> Vec<(String, i32)> {
    let wanted = replicas(deployment);
    let (surge, _) = fenceposts(deployment);
    let allowed = if wanted > 0 { wanted + surge } else { 0 };
    let to_add = allowed - total(active);
    let mut sorted: Vec<&Arc<ReplicaSet>> = active.iter().collect();
    // Growing, the larger and newer first; shrinking, the larger and older first.
    sorted.sort_by_key(|set| {
        let created = set.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
        (-set_replicas(set), if to_add >= 0 { -created } else { created })
    });
    let mut added = 0;
    let mut sizes: Vec<(String, i32)> = Vec::new();
    for set in &sorted {
        let size = set_replicas(set);
        let mut next = size;
        if to_add != 0 {
            let annotated = set.metadata.annotations.as_ref().and_then(|all| all.get(MAX_REPLICAS));
            let before: i32 = annotated.and_then(|text| text.parse().ok()).filter(|n| *n > 0).unwrap_or(allowed.max(1));
            let share = (f64::from(size) * f64::from(allowed) / f64::from(before)).round() as i32 - size;
            let left = to_add - added;
            let share = if to_add > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
            next += share;
            added += share;
        }
        sizes.push((set.metadata.name.clone().unwrap_or_default(), next));
    }
    // What rounding left over goes to the first.
    if let Some((_, first)) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment(replicas: i32, surge: &str, unavailable: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "name": "d" },
            "spec": {
                "replicas": replicas, "selector": {}, "template": {},
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } },
            },
        }))
        .expect("a deployment")
    }

    fn set(name: &str, size: i32, available: i32, max: i32) -> Arc<ReplicaSet> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": { "name": name, "annotations": { MAX_REPLICAS: max.to_string() } },
                "spec": { "replicas": size, "selector": {}, "template": {} },
                "status": { "replicas": size, "availableReplicas": available },
            }))
            .expect("a set"),
        )
    }

    #[test]
    fn percentages_round_up_for_surge_and_down_for_unavailable() {
        assert_eq!(fenceposts(&deployment(3, "25%", "25%")), (1, 0));
        assert_eq!(fenceposts(&deployment(10, "25%", "25%")), (3, 2));
        assert_eq!(fenceposts(&deployment(1, "0%", "25%")), (0, 1));
    }

    #[test]
    fn a_rollout_step_by_step() {
        let d = deployment(3, "1", "0");
        let (old, new) = (set("old", 3, 3, 4), set("new", 0, 0, 4));
        assert_eq!(new_size(&d, &[old.clone(), new.clone()], &new), 1);
        let new = set("new", 1, 0, 4);
        assert_eq!(old_sizes(&d, &[old.clone(), new.clone()], std::slice::from_ref(&old), &new), []);
        let new = set("new", 1, 1, 4);
        assert_eq!(old_sizes(&d, &[old.clone(), new.clone()], std::slice::from_ref(&old), &new), [("old".into(), 2)]);
    }

    #[test]
    fn broken_old_pods_go_at_once() {
        let d = deployment(3, "1", "0");
        let (old, new) = (set("old", 1, 0, 4), set("new", 3, 3, 4));
        assert_eq!(old_sizes(&d, &[old.clone(), new.clone()], std::slice::from_ref(&old), &new), [("old".into(), 0)]);
    }

    #[test]
    fn scaling_amid_a_rollout_keeps_the_proportion() {
        let d = deployment(20, "0", "1");
        let sizes = proportional(&d, &[set("a", 8, 8, 10), set("b", 2, 2, 10)]);
        assert_eq!(sizes, [("a".into(), 16), ("b".into(), 4)]);
    }
}
