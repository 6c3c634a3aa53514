//! Tables for where DaemonSet pods belong and how they are replaced.

use super::plan::*;
use super::*;
use serde_json::{Value, json};

fn now() -> jiff::Timestamp {
    "2026-01-01T01:00:00Z".parse().expect("a time")
}

fn set(strategy: Value, pod: Value) -> DaemonSet {
    serde_json::from_value(json!({ "metadata": { "name": "d", "namespace": "n", "generation": 2 },
        "spec": { "selector": {}, "updateStrategy": strategy, "template": { "spec": pod } } }))
    .expect("a set")
}

fn plain(strategy: Value) -> DaemonSet {
    set(strategy, json!({ "containers": [] }))
}

fn node(name: &str, taints: Value) -> Arc<Node> {
    let node = json!({ "metadata": { "name": name, "labels": { "disk": "ssd" } }, "spec": { "taints": taints } });
    Arc::new(serde_json::from_value(node).expect("a node"))
}

fn pod(name: &str, node: &str, hash: &str, ready: bool) -> Arc<Pod> {
    let status = if ready { "True" } else { "False" };
    let pod = json!({
        "metadata": { "name": name, "labels": { REVISION_LABEL: hash }, "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "nodeName": node, "containers": [] },
        "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": status }] },
    });
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect()
}

#[test]
fn belonging() {
    let containers = json!([]);
    for (spec, taints, want) in [
        (json!({ "containers": containers }), json!([]), (true, true)),
        (json!({ "containers": containers, "nodeSelector": { "disk": "hdd" } }), json!([]), (false, false)),
        (json!({ "containers": containers, "nodeName": "other" }), json!([]), (false, false)),
        (json!({ "containers": containers }), json!([{ "key": "x", "effect": "NoSchedule" }]), (false, true)),
        (json!({ "containers": containers }), json!([{ "key": "x", "effect": "NoExecute" }]), (false, false)),
        (json!({ "containers": containers }), json!([{ "key": "x", "effect": "PreferNoSchedule" }]), (true, true)),
        (
            json!({ "containers": containers }),
            json!([{ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }]),
            (true, true),
        ),
        (
            json!({ "containers": containers, "tolerations": [{ "operator": "Exists" }] }),
            json!([{ "key": "x", "effect": "NoExecute" }]),
            (true, true),
        ),
    ] {
        assert_eq!(belongs(&set(json!({}), spec.clone()), &node("a", taints.clone())), want, "{spec} {taints}");
    }
}

#[test]
fn a_pod_is_pinned_and_found_again() {
    let set = plain(json!({}));
    let pod = new_pod(&set, "a", "h");
    assert_eq!(target_node(&pod).as_deref(), Some("a"));
    assert_eq!(pod.spec.and_then(|spec| spec.tolerations).map(|all| all.len()), Some(6));
}

#[test]
fn one_pod_a_node() {
    let set = plain(json!({}));
    let nodes = [node("a", json!([])), node("b", json!([])), node("c", json!([{ "key": "x", "effect": "NoExecute" }]))];
    let pods = by_node(&[pod("a1", "a", "h", true), pod("a2", "a", "h", true), pod("c1", "c", "h", true)]);
    let plan = manage(&set, &nodes, &pods, "h", now());
    assert_eq!(plan.create, ["b"]);
    assert_eq!(names(&plan.delete), ["a2", "c1"]);
    let status = status(&set, &nodes, &pods, "h", now());
    assert_eq!(
        (status.desired_number_scheduled, status.current_number_scheduled, status.number_misscheduled),
        (2, 1, 1)
    );
    assert_eq!((status.number_ready, status.number_unavailable, status.observed_generation), (1, Some(1), Some(2)));
}

#[test]
fn rolling() {
    let nodes = [node("a", json!([])), node("b", json!([])), node("c", json!([]))];
    let old = || vec![pod("a", "a", "old", true), pod("b", "b", "old", true), pod("c", "c", "old", true)];
    let rolling = |update: Value| json!({ "type": "RollingUpdate", "rollingUpdate": update });
    for (strategy, pods, create, delete) in [
        (json!({ "type": "OnDelete" }), old(), vec![], vec![]),
        (rolling(json!({ "maxUnavailable": 1 })), old(), vec![], vec!["a"]),
        (rolling(json!({ "maxUnavailable": "50%" })), old(), vec![], vec!["a", "b"]),
        (
            rolling(json!({ "maxUnavailable": 1 })),
            vec![pod("a", "a", "new", false), pod("b", "b", "old", true), pod("c", "c", "old", true)],
            vec![],
            vec![],
        ),
        (
            rolling(json!({ "maxUnavailable": 1 })),
            vec![pod("a", "a", "new", true), pod("b", "b", "old", false), pod("c", "c", "old", true)],
            vec![],
            vec!["b"],
        ),
        (rolling(json!({ "maxUnavailable": 0, "maxSurge": 1 })), old(), vec!["a"], vec![]),
        (
            rolling(json!({ "maxUnavailable": 0, "maxSurge": 1 })),
            vec![
                pod("a", "a", "old", true),
                pod("a2", "a", "new", true),
                pod("b", "b", "old", true),
                pod("c", "c", "new", true),
            ],
            vec!["b"],
            vec!["a"],
        ),
    ] {
        let plan = roll(&plain(strategy.clone()), &nodes, &by_node(&pods), "new", now());
        assert_eq!(
            (plan.create, names(&plan.delete)),
            (create.into_iter().map(String::from).collect(), delete),
            "{strategy}"
        );
    }
}
