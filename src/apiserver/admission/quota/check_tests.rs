//! Tests of `check`.

use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("a time")
}

fn quota(spec: Value, hard: Value, used: Value) -> Quota {
    Quota::of_value(&json!({"metadata": {"name": "q"}, "spec": spec, "status": {"hard": hard, "used": used}}))
}

fn ask(group: &str, resource: &str, object: Value, old: Option<Value>) -> Ask {
    Ask {
        measure: Measure::of(group, resource),
        group: group.to_owned(),
        resource: resource.to_owned(),
        subresource: String::new(),
        object,
        old,
        dry_run: false,
    }
}

fn pod(cpu: &str) -> Ask {
    let pod = json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    ask("", "pods", pod, None)
}

fn used(outcome: Result<Option<Vec<Quota>>, String>) -> String {
    let quotas = outcome.expect("fits").expect("takes something");
    api::quota::to_json(&quotas[0].used).to_string()
}

#[test]
fn charges_until_full() {
    let spec = json!({});
    let room =
        quota(spec.clone(), json!({"requests.cpu": "1", "pods": "3"}), json!({"requests.cpu": "0", "pods": "2"}));
    assert_eq!(
        used(check(std::slice::from_ref(&room), &pod("500m"), &[], now())),
        r#"{"pods":"3","requests.cpu":"500m"}"#
    );
    let full =
        quota(spec.clone(), json!({"requests.cpu": "1", "pods": "3"}), json!({"requests.cpu": "600m", "pods": "2"}));
    assert_eq!(
        check(&[full], &pod("500m"), &[], now()).expect_err("full"),
        "exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, limited: requests.cpu=1"
    );
    let unknown = quota(spec, json!({"pods": "3", "cpu": "1"}), json!({"cpu": "0"}));
    assert_eq!(
        check(&[unknown], &pod("500m"), &[], now()).expect_err("unknown"),
        "status unknown for quota: q, resources: cpu,pods"
    );
}

#[test]
fn out_of_scope_is_free() {
    let scoped = quota(json!({"scopes": ["BestEffort"]}), json!({"pods": "0"}), json!({"pods": "0"}));
    assert!(check(&[scoped], &pod("1"), &[], now()).expect("fits").is_none());
}

#[test]
fn updates_are_charged_the_difference() {
    let service = |ty: &str| json!({"spec": {"type": ty, "ports": [{}]}});
    let hard = json!({"services.nodeports": "1", "services": "1"});
    let known = quota(json!({}), hard.clone(), json!({"services.nodeports": "0", "services": "1"}));
    let change = ask("", "services", service("NodePort"), Some(service("ClusterIP")));
    assert_eq!(used(check(&[known], &change, &[], now())), r#"{"services":"1","services.nodeports":"1"}"#);
    let back = ask("", "services", service("ClusterIP"), Some(service("NodePort")));
    let known = quota(json!({}), hard, json!({"services.nodeports": "1", "services": "1"}));
    assert!(check(&[known], &back, &[], now()).expect("fits").is_none());
}

#[test]
fn limited_resources_need_a_quota() {
    let limited = LimitedResource {
        resource: "persistentvolumeclaims".to_owned(),
        match_contains: vec!["gold.storageclass.storage.k8s.io/requests.storage".to_owned()],
        ..LimitedResource::default()
    };
    let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}}});
    let ask = ask("", "persistentvolumeclaims", claim, None);
    assert_eq!(
        check(&[], &ask, std::slice::from_ref(&limited), now()).expect_err("limited"),
        "insufficient quota to consume: gold.storageclass.storage.k8s.io/requests.storage"
    );
    let name = "gold.storageclass.storage.k8s.io/requests.storage";
    let covering = quota(json!({}), json!({name: "2Gi"}), json!({name: "0"}));
    assert_eq!(used(check(&[covering], &ask, &[limited], now())), format!(r#"{{"{name}":"1Gi"}}"#));
    let scope = json!({"scopeName": "PriorityClass", "operator": "In", "values": ["critical"]});
    let scoped = LimitedResource {
        resource: "pods".to_owned(),
        match_scopes: Requirement::list(&[scope]),
        ..LimitedResource::default()
    };
    let mut critical = pod("1");
    critical.object["spec"]["priorityClassName"] = json!("critical");
    assert_eq!(
        check(&[], &critical, &[scoped], now()).expect_err("limited"),
        "insufficient quota to match these scopes: [{PriorityClass In [critical]}]"
    );
}
