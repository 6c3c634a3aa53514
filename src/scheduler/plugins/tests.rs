//! Tables over the whole profile: pods, nodes, and where the pod may go.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::algorithm::{Decision, schedule};
use crate::cache::{Cache, PodInfo, Snapshot};
use crate::plugins::default_plugins;
use crate::preemption;

fn pod(name: &str, spec: Value, labels: Value) -> PodInfo {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{ "name": "c" }]);
    }
    let value = json!({ "metadata": { "name": name, "namespace": "ns", "labels": labels }, "spec": spec });
    PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod")))
}

fn cluster(nodes: &[Value], pods: &[(&str, PodInfo)]) -> Snapshot {
    let mut cache = Cache::default();
    for node in nodes {
        let mut node = node.clone();
        if node.get("status").is_none() {
            node["status"] = json!({ "allocatable": { "cpu": "2", "memory": "4Gi", "pods": "10" } });
        }
        cache.set_node(Arc::new(serde_json::from_value(node).expect("a node")));
    }
    for (node, pod) in pods {
        let pod = PodInfo::new(pod.pod.clone());
        cache.set_pod(Arc::new(pod), node);
    }
    cache.snapshot()
}

fn node(name: &str, labels: Value) -> Value {
    json!({ "metadata": { "name": name, "labels": labels } })
}

/// The node, or the message of `FailedScheduling` up to preemption.
fn place(snapshot: &Snapshot, pod: &PodInfo) -> String {
    match schedule(&default_plugins(), pod, snapshot, &mut 0, 0) {
        Decision::Fits { node } => node,
        Decision::Unschedulable(diagnosis) => diagnosis.message(),
    }
}

fn cpu(amount: &str) -> Value {
    json!({ "containers": [{ "name": "c", "resources": { "requests": { "cpu": amount } } }] })
}

#[test]
fn messages_count_reasons_as_upstream_does() {
    let tainted = json!({
        "metadata": { "name": "n3" },
        "spec": { "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] },
    });
    let cordoned = json!({ "metadata": { "name": "n4" }, "spec": { "unschedulable": true } });
    let snapshot = cluster(&[node("n1", json!({})), node("n2", json!({})), tainted, cordoned], &[]);
    assert_eq!(
        place(&snapshot, &pod("p", cpu("8"), json!({}))),
        "0/4 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable, 2 Insufficient cpu."
    );
    assert_eq!(place(&cluster(&[], &[]), &pod("p", cpu("1"), json!({}))), "no nodes available to schedule pods");
}

#[test]
fn requests_of_placed_pods_count() {
    let busy = pod("busy", cpu("1500m"), json!({}));
    let snapshot = cluster(&[node("n1", json!({})), node("n2", json!({}))], &[("n1", busy)]);
    assert_eq!(place(&snapshot, &pod("p", cpu("1"), json!({}))), "n2");
    assert_eq!(place(&snapshot, &pod("p", cpu("100m"), json!({}))), "n2", "the emptier node scores better");
}

#[test]
fn selectors_affinity_and_host_ports() {
    let nodes = [node("n1", json!({ "disk": "ssd", "n": "5" })), node("n2", json!({ "disk": "hdd", "n": "9" }))];
    let snapshot = cluster(&nodes, &[]);
    let cases = [
        (json!({ "nodeSelector": { "disk": "hdd" } }), "n2"),
        (
            json!({ "nodeSelector": { "disk": "tape" } }),
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector.",
        ),
        (required(json!([{ "matchExpressions": [{ "key": "n", "operator": "Gt", "values": ["6"] }] }])), "n2"),
        (required(json!([{ "matchFields": [{ "key": "metadata.name", "operator": "In", "values": ["n1"] }] }])), "n1"),
        (
            json!({ "affinity": { "nodeAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
                { "weight": 100, "preference": { "matchExpressions": [{ "key": "disk", "operator": "In", "values": ["hdd"] }] } }
            ] } } }),
            "n2",
        ),
    ];
    for (spec, want) in cases {
        assert_eq!(place(&snapshot, &pod("p", spec.clone(), json!({}))), want, "{spec}");
    }
    let ports = json!({ "containers": [{ "name": "c", "ports": [{ "containerPort": 80, "hostPort": 80, "protocol": "TCP" }] }] });
    let snapshot = cluster(&nodes[..1], &[("n1", pod("web", ports.clone(), json!({})))]);
    assert_eq!(
        place(&snapshot, &pod("p", ports, json!({}))),
        "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports."
    );
}

fn required(terms: Value) -> Value {
    json!({ "affinity": { "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": terms } } } })
}

#[test]
fn tolerations_let_pods_onto_tainted_nodes() {
    let tainted = json!({
        "metadata": { "name": "n1" },
        "spec": { "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] },
    });
    let snapshot = cluster(&[tainted], &[]);
    for toleration in [
        json!({ "key": "k", "value": "v" }),
        json!({ "key": "k", "operator": "Exists" }),
        json!({ "operator": "Exists" }),
    ] {
        assert_eq!(place(&snapshot, &pod("p", json!({ "tolerations": [toleration] }), json!({}))), "n1");
    }
    let wrong = json!({ "tolerations": [{ "key": "k", "value": "other" }] });
    assert!(place(&snapshot, &pod("p", wrong, json!({}))).starts_with("0/1"));
}

#[test]
fn pods_attract_and_repel_each_other() {
    let nodes = [node("n1", json!({ "zone": "a" })), node("n2", json!({ "zone": "b" }))];
    let term = json!([{ "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": "db" } } }]);
    let near = json!({ "affinity": { "podAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": term } } });
    let far = json!({ "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": term } } });
    let db = || pod("db", json!({}), json!({ "app": "db" }));
    let snapshot = cluster(&nodes, &[("n2", db())]);
    assert_eq!(place(&snapshot, &pod("p", near.clone(), json!({}))), "n2");
    assert_eq!(place(&snapshot, &pod("p", far.clone(), json!({}))), "n1");
    assert_eq!(
        place(&cluster(&nodes, &[]), &pod("p", near.clone(), json!({}))),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
    );
    assert_ne!(
        place(&cluster(&nodes, &[]), &pod("p", near, json!({ "app": "db" }))).chars().next(),
        Some('0'),
        "first of its group"
    );
    let repelling = pod("hermit", far, json!({ "app": "x" }));
    let snapshot = cluster(&nodes[..1], &[("n1", repelling)]);
    assert_eq!(
        place(&snapshot, &db()),
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
}

#[test]
fn spread_constraints_hold_the_skew() {
    let nodes = [node("n1", json!({ "zone": "a" })), node("n2", json!({ "zone": "b" }))];
    let labels = json!({ "app": "web" });
    let spec = json!({ "topologySpreadConstraints": [{
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": { "matchLabels": labels }
    }] });
    let snapshot = cluster(&nodes, &[("n1", pod("w1", json!({}), labels.clone()))]);
    assert_eq!(place(&snapshot, &pod("w2", spec, labels)), "n2");
}

#[test]
fn preemption_takes_the_least_important() {
    let spec = |priority: i32, amount: &str| {
        let mut spec = cpu(amount);
        spec["priority"] = json!(priority);
        spec
    };
    let snapshot = cluster(
        &[node("n1", json!({}))],
        &[("n1", pod("low", spec(1, "1"), json!({}))), ("n1", pod("mid", spec(5, "1"), json!({})))],
    );
    let incoming = pod("high", spec(9, "1"), json!({}));
    let framework = default_plugins();
    let Decision::Unschedulable(diagnosis) = schedule(&framework, &incoming, &snapshot, &mut 0, 0) else {
        panic!("full")
    };
    let preemption =
        preemption::find(&framework, &incoming, &snapshot, &diagnosis).unwrap_or_else(|text| panic!("{text}"));
    let victims: Vec<&str> = preemption.victims.iter().map(|victim| victim.key.name.as_str()).collect();
    assert_eq!((preemption.node.as_str(), victims), ("n1", vec!["low"]));

    let equal = pod("same", spec(1, "1"), json!({}));
    let Decision::Unschedulable(diagnosis) = schedule(&framework, &equal, &snapshot, &mut 0, 0) else { panic!("full") };
    assert_eq!(
        preemption::find(&framework, &equal, &snapshot, &diagnosis).err().as_deref(),
        Some("preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
    );
}
