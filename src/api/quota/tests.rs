//! Tests of `quota`.

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn shown(amounts: &Amounts) -> String {
    amounts.iter().map(|(name, amount)| format!("{name}={amount}")).collect::<Vec<_>>().join(",")
}

fn usage(group: &str, resource: &str, object: Value) -> String {
    shown(&Measure::of(group, resource).usage(&object, now()))
}

#[test]
fn pods_add_up() {
    let pod = json!({"spec": {
        "overhead": {"cpu": "10m"},
        "containers": [
            {"name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Gi", "a.b/gpu": "2"}, "limits": {"cpu": "1"}}},
            {"name": "b", "resources": {"requests": {"cpu": "100m", "hugepages-2Mi": "4Mi"}}},
        ],
        "initContainers": [{"name": "i", "resources": {"requests": {"memory": "2Gi"}}}],
    }});
    assert_eq!(
        usage("", "pods", pod.clone()),
        "count/pods=1,cpu=210m,hugepages-2Mi=4Mi,limits.cpu=1010m,memory=2Gi,pods=1,requests.a.b/gpu=2,requests.cpu=210m,requests.hugepages-2Mi=4Mi,requests.memory=2Gi"
    );
    let mut ended = pod.clone();
    ended["status"] = json!({"phase": "Succeeded"});
    assert_eq!(usage("", "pods", ended.clone()), "count/pods=1");
    assert!(Measure::Pods.releases(&pod, &ended, now()));
    let mut overdue = pod.clone();
    overdue["metadata"] = json!({"deletionTimestamp": "2025-12-31T23:59:00Z", "deletionGracePeriodSeconds": 30});
    assert_eq!(usage("", "pods", overdue), "count/pods=1");
    let mut shrinking = pod;
    shrinking["status"] = json!({"containerStatuses": [{"name": "a", "allocatedResources": {"cpu": "300m"}}]});
    assert!(usage("", "pods", shrinking).contains("requests.cpu=410m"));
}

#[test]
fn others_add_up() {
    let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
    let service = |spec: Value| usage("", "services", json!({"spec": spec}));
    assert_eq!(
        service(json!({"type": "LoadBalancer", "ports": ports})),
        "count/services=1,services=1,services.loadbalancers=1,services.nodeports=2"
    );
    assert_eq!(
        service(json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false})),
        "count/services=1,services=1,services.loadbalancers=1,services.nodeports=1"
    );
    assert_eq!(
        service(json!({"type": "ClusterIP", "ports": ports})),
        "count/services=1,services=1,services.loadbalancers=0,services.nodeports=0"
    );
    let claim = json!({"spec": {"storageClassName": "s", "resources": {"requests": {"storage": "1500m"}}}});
    assert_eq!(
        usage("", "persistentvolumeclaims", claim),
        "count/persistentvolumeclaims=1,persistentvolumeclaims=1,requests.storage=2,s.storageclass.storage.k8s.io/persistentvolumeclaims=1,s.storageclass.storage.k8s.io/requests.storage=2"
    );
    assert_eq!(usage("", "secrets", json!({})), "count/secrets=1,secrets=1");
    assert_eq!(usage("a.b", "widgets", json!({})), "count/widgets.a.b=1");
    let claim = json!({"spec": {"devices": {"requests": [
        {"exactly": {"deviceClassName": "g", "count": 2}},
        {"firstAvailable": [{"deviceClassName": "g", "allocationMode": "All"}, {"deviceClassName": "h"}]},
    ]}}});
    assert_eq!(
        usage("resource.k8s.io", "resourceclaims", claim),
        "count/resourceclaims.resource.k8s.io=1,g.deviceclass.resource.k8s.io/devices=34,h.deviceclass.resource.k8s.io/devices=1"
    );
}

#[test]
fn names_are_covered_by_one_measure() {
    let table = [
        ("requests.cpu", Measure::Pods, true),
        ("requests.storage", Measure::Pods, false),
        ("requests.example.com/gpu", Measure::Pods, true),
        ("example.com/gpu", Measure::Pods, false),
        ("requests.hugepages-2Mi", Measure::Pods, true),
        ("gold.storageclass.storage.k8s.io/requests.storage", Measure::Claims, true),
        ("gold.storageclass.storage.k8s.io/other", Measure::Claims, false),
        ("services.nodeports", Measure::Services, true),
        ("count/deployments.apps", Measure::of("apps", "deployments"), true),
        ("configmaps", Measure::of("", "configmaps"), true),
        ("configmaps", Measure::of("x", "configmaps"), false),
    ];
    for (name, measure, want) in table {
        assert_eq!(measure.covers(name), want, "{name}");
    }
    assert_eq!(counted("count/a.b.c"), Some(("b.c".to_owned(), "a".to_owned())));
    assert_eq!(counted("secrets"), Some((String::new(), "secrets".to_owned())));
    assert_eq!(counted("pods"), None);
}

#[test]
fn scopes_select() {
    let pod = json!({"spec": {
        "activeDeadlineSeconds": 5,
        "priorityClassName": "high",
        "containers": [{"name": "a", "resources": {"requests": {"cpu": "1"}}}],
        "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"podAffinityTerm": {"namespaceSelector": {}}}]}},
    }});
    let spec = |scope: &str, operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": scope, "operator": operator, "values": values}]}});
    let table = [
        (json!({"scopes": ["Terminating", "NotBestEffort"]}), true),
        (json!({"scopes": ["Terminating", "BestEffort"]}), false),
        (json!({"scopes": ["NotTerminating"]}), false),
        (spec("PriorityClass", "In", json!(["high"])), true),
        (spec("PriorityClass", "NotIn", json!(["high"])), false),
        (spec("PriorityClass", "DoesNotExist", json!([])), false),
        (spec("CrossNamespacePodAffinity", "Exists", json!([])), true),
        (spec("VolumeAttributesClass", "Exists", json!([])), false),
    ];
    for (spec, want) in table {
        assert_eq!(Measure::Pods.matches(&requirements(&spec), ["pods"].into_iter(), &pod), want, "{spec}");
    }
    let claim = json!({"spec": {"volumeAttributesClassName": "gold"}});
    let gold = requirements(&spec("VolumeAttributesClass", "In", json!(["gold"])));
    assert!(Measure::Claims.matches(&gold, ["requests.storage"].into_iter(), &claim));
    assert!(!Measure::Claims.matches(&gold, ["requests.storage"].into_iter(), &json!({})));
}

#[test]
fn mandatory_amounts() {
    let pod = json!({"spec": {
        "containers": [{"name": "b", "resources": {"requests": {"cpu": "1"}}}, {"name": "a"}],
        "initContainers": [{"name": "i"}],
    }});
    let names = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    assert_eq!(
        Measure::Pods.unspecified(&names(&["requests.cpu", "limits.memory", "pods", "ephemeral-storage"]), &pod),
        Some("limits.memory for: a,b,i; requests.cpu for: a,i".to_owned())
    );
    assert_eq!(Measure::Pods.unspecified(&names(&["pods"]), &pod), None);
}
