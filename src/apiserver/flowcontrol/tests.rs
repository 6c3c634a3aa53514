//! Tests of matching requests to levels.

use ::http::Method;
use component_base::FakeClock;
use serde_json::json;

use super::*;
use crate::authz::tests::FakeReader;

fn control(objects: &[(&'static str, Value)]) -> FlowControl {
    let reader = FakeReader::with(objects);
    FlowControl::new(600, reader.as_ref(), FakeClock::new(jiff::Timestamp::UNIX_EPOCH), &Metrics::new())
}

fn matched(control: &FlowControl, user: &User, method: Method, uri: &str) -> String {
    let info = RequestInfo::parse(&method, &uri.parse().expect("a path"));
    let compiled = control.compiled.load();
    let schema = compiled.schemas.iter().find(|schema| schema.matches(user, &info)).expect("a schema");
    format!("{}/{} {}", schema.name, schema.level.name, schema.flow(user, &info))
}

#[test]
fn bootstrap_schemas() {
    let control = control(&[]);
    let node = User::new("system:node:a", &["system:nodes"]);
    let account = |namespace: &str| {
        let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
        User::new(format!("system:serviceaccount:{namespace}:x"), &groups)
    };
    let table = [
        (User::new("a", &["system:masters"]), Method::DELETE, "/api/v1/pods", "exempt/exempt "),
        (User::new("a", &[]), Method::GET, "/readyz", "probes/exempt "),
        (node.clone(), Method::PATCH, "/api/v1/nodes/a/status", "system-node-high/node-high system:node:a"),
        (
            node.clone(),
            Method::PUT,
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a",
            "system-node-high/node-high system:node:a",
        ),
        (node, Method::GET, "/api/v1/pods", "system-nodes/system system:node:a"),
        (
            account("kube-system"),
            Method::GET,
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/a",
            "system-leader-election/leader-election system:serviceaccount:kube-system:x",
        ),
        (
            account("kube-system"),
            Method::GET,
            "/api/v1/namespaces/n/pods",
            "kube-system-service-accounts/workload-high n",
        ),
        (account("b"), Method::GET, "/api/v1/pods", "service-accounts/workload-low system:serviceaccount:b:x"),
        (User::new("joe", &[]), Method::GET, "/api/v1/pods", "global-default/global-default joe"),
    ];
    for (user, method, uri, expected) in table {
        assert_eq!(matched(&control, &user, method, uri), expected, "{uri}");
    }
}

#[test]
fn stored_objects_decide() {
    let level = json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "PriorityLevelConfiguration",
        "metadata": {"name": "mine", "uid": "u"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
    let schema = |name: &str, level: &str, resource: &str| {
        json!({"apiVersion": "flowcontrol.apiserver.k8s.io/v1", "kind": "FlowSchema", "metadata": {"name": name},
        "spec": {"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": 50, "rules": [{
            "subjects": [{"kind": "User", "user": {"name": "*"}}],
            "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource], "namespaces": ["n"]}],
        }]}})
    };
    let control = control(&[
        (LEVELS, level),
        (SCHEMAS, schema("dangling", "nope", "pods")),
        (SCHEMAS, schema("pods", "mine", "pods")),
        (SCHEMAS, schema("status", "mine", "pods/status")),
    ]);
    let joe = User::new("joe", &[]);
    let of = |uri: &str| matched(&control, &joe, Method::GET, uri);
    assert_eq!(of("/api/v1/namespaces/n/pods/a"), "pods/mine ");
    assert_eq!(of("/api/v1/namespaces/n/pods/a/status"), "status/mine ");
    // Only the mandatory ones are there besides.
    assert_eq!(of("/api/v1/namespaces/m/pods/a"), "catch-all/catch-all joe");
}

#[test]
fn pages() {
    let control = control(&[]);
    let levels = control.dump("dump_priority_levels", false).expect("a page");
    let mut lines = levels.lines();
    assert!(lines.next().expect("a head").starts_with("PriorityLevelName, ActiveQueues, IsIdle, IsQuiescing,"));
    assert!(lines.next().expect("a level").starts_with("catch-all,         0,            true,   false,"));
    assert_eq!(levels.lines().count(), 9);
    assert!(control.dump("dump_requests", true).expect("a page").contains("StartTime, "));
    assert!(control.dump("nope", false).is_none());
}
