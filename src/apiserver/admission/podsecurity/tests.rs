//! Tests of `podsecurity`.

use serde_json::json;

use super::*;

fn plugin() -> PodSecurity {
    PodSecurity::new(PodSecurityConfig::default())
}

fn pod(name: &str, owner: Option<&str>, spec: Value) -> (String, Value) {
    let owners: Vec<Value> = owner.map(|uid| json!({"uid": uid, "controller": true})).into_iter().collect();
    (name.to_owned(), json!({"metadata": {"name": name, "ownerReferences": owners}, "spec": spec}))
}

#[test]
fn existing_pods_are_counted() {
    let bad = || json!({"hostNetwork": true, "containers": [{"name": "c"}]});
    let level = LevelVersion { level: Level::Baseline, ..LevelVersion::default() };
    let pods = vec![
        pod("b", Some("1"), bad()),
        pod("a", Some("1"), bad()),
        pod("c", None, bad()),
        pod("d", None, json!({"hostPID": true, "volumes": [{"name": "v", "hostPath": {}}]})),
        pod("e", None, json!({})),
    ];
    assert_eq!(
        plugin().existing("n", pods, level),
        [
            "existing pods in namespace \"n\" violate the new PodSecurity enforce level \"baseline:latest\"",
            "a (and 2 other pods): host namespaces",
            "d: host namespaces, hostPath volumes",
        ]
    );
    let many = (0..3001).map(|i| pod(&format!("p{i}"), None, json!({}))).collect();
    assert_eq!(
        plugin().existing("n", many, level),
        ["new PodSecurity enforce level only checked against the first 3000 of 3001 existing pods"]
    );
}

#[test]
fn what_matters_in_an_update() {
    let old = json!({"metadata": {}, "spec": {"containers": [{"name": "c", "image": "a"}]}});
    let mut new = old.clone();
    new["metadata"]["labels"] = json!({"x": "y"});
    new["spec"]["tolerations"] = json!([{}]);
    assert!(!is_significant(&new, &old));
    new["spec"]["ephemeralContainers"] = json!([{"name": "e"}]);
    assert!(is_significant(&new, &old));
    let mut new = old.clone();
    new["metadata"]["annotations"] = json!({"container.apparmor.security.beta.kubernetes.io/c": "x"});
    assert!(is_significant(&new, &old));
    let mut new = old.clone();
    new["spec"]["containers"][0]["image"] = json!("b");
    assert!(is_significant(&new, &old));
}
