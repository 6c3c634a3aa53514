//! Tests of `endpointslice`.

use super::*;
use serde_json::{Value, json};

fn service(spec: Value) -> Service {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "ns", "uid": "su", "labels": { "app": "x" } }, "spec": spec,
    }))
    .expect("a service")
}

fn plain_service() -> Service {
    service(
        json!({ "clusterIP": "10.0.0.1", "selector": { "app": "x" }, "ports": [{ "port": 80, "targetPort": 8080 }] }),
    )
}

fn pod(index: usize, ready: bool) -> Pod {
    serde_json::from_value(json!({
        "metadata": { "name": format!("p{index:03}"), "namespace": "ns", "uid": format!("u{index}") },
        "spec": { "nodeName": "n1", "containers": [], "hostname": "h", "subdomain": "web" },
        "status": { "podIPs": [{ "ip": format!("10.42.{}.{}", index / 200, index % 200) }], "conditions": [
            { "type": "Ready", "status": if ready { "True" } else { "False" } }] },
    }))
    .expect("a pod")
}

fn run(service: &Service, pods: &[Pod], existing: &[EndpointSlice]) -> Vec<Action> {
    let node: Node =
        serde_json::from_value(json!({ "metadata": { "name": "n1", "labels": { ZONE: "z1" } } })).expect("a node");
    let pods = pods.iter().map(|pod| (pod, Some(&node))).collect();
    plan(&Observed { service, pods, existing, trigger_time: None })
}

/// Writes as the server would.
fn stored(actions: Vec<Action>, mut existing: Vec<EndpointSlice>) -> Vec<EndpointSlice> {
    for action in actions {
        match action {
            Action::Create(mut slice) => {
                slice.metadata.name = Some(format!("web-{}", existing.len()));
                existing.push(slice);
            }
            Action::Update(slice) => {
                existing.retain(|old| old.metadata.name != slice.metadata.name);
                existing.push(slice);
            }
            Action::Delete(slice) => existing.retain(|old| old.metadata.name != slice.metadata.name),
        }
    }
    existing
}

fn addresses(slices: &[EndpointSlice]) -> Vec<String> {
    let all = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let mut all: Vec<String> = all.flat_map(|endpoint| endpoint.addresses.clone()).collect();
    all.sort();
    all
}

#[test]
fn an_endpoint_says_everything_about_its_pod() {
    let actions = run(&plain_service(), &[pod(1, true)], &[]);
    let [Action::Create(slice)] = actions.as_slice() else { panic!("{actions:?}") };
    assert_eq!(
        serde_json::to_value(slice).expect("json"),
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {
                "generateName": "web-", "namespace": "ns",
                "labels": { "app": "x", SERVICE_NAME: "web", MANAGED_BY: MANAGER },
                "ownerReferences": [{ "apiVersion": "v1", "kind": "Service", "name": "web", "uid": "su",
                    "controller": true, "blockOwnerDeletion": true }],
            },
            "ports": [{ "name": "", "port": 8080, "protocol": "TCP" }],
            "endpoints": [{
                "addresses": ["10.42.0.1"], "hostname": "h", "nodeName": "n1", "zone": "z1",
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "targetRef": { "kind": "Pod", "name": "p001", "namespace": "ns", "uid": "u1" },
            }],
        })
    );
}

#[test]
fn conditions_follow_the_pod() {
    let mut leaving = pod(1, true);
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
    let conditions = |service: &Service, pod: &Pod| {
        let found = endpoint(pod, None, service, "IPv4").and_then(|endpoint| endpoint.conditions).expect("conditions");
        (found.ready, found.serving, found.terminating)
    };
    let publishing = service(json!({ "clusterIP": "None", "publishNotReadyAddresses": true }));
    let some = |a, b, c| (Some(a), Some(b), Some(c));
    assert_eq!(conditions(&plain_service(), &pod(1, false)), some(false, false, false));
    assert_eq!(conditions(&plain_service(), &leaving), some(false, true, true));
    assert_eq!(conditions(&publishing, &pod(1, false)), some(true, false, false));
    assert_eq!(endpoint(&pod(1, true), None, &plain_service(), "IPv6"), None);
}

#[test]
fn what_is_right_is_not_written_again() {
    let pods: Vec<Pod> = (0..250).map(|index| pod(index, true)).collect();
    let slices = stored(run(&plain_service(), &pods, &[]), Vec::new());
    assert_eq!(
        slices.iter().map(|slice| slice.endpoints.as_ref().map_or(0, Vec::len)).collect::<Vec<_>>(),
        [100, 100, 50]
    );
    assert_eq!(addresses(&slices).len(), 250);
    assert_eq!(run(&plain_service(), &pods, &slices), []);
}

#[test]
fn one_change_writes_one_slice() {
    let mut pods: Vec<Pod> = (0..250).map(|index| pod(index, true)).collect();
    let slices = stored(run(&plain_service(), &pods, &[]), Vec::new());
    pods[7] = pod(7, false);
    pods.push(pod(250, true));
    let actions = run(&plain_service(), &pods, &slices);
    assert_eq!(actions.len(), 2, "the changed slice is full, the new endpoint goes where there is room");
    assert!(actions.iter().all(|action| matches!(action, Action::Update(_))));
    pods.remove(7);
    let slices = stored(actions, slices);
    let actions = run(&plain_service(), &pods, &slices);
    assert!(matches!(actions.as_slice(), [Action::Update(_)]), "{actions:?}");
    assert_eq!(addresses(&stored(actions, slices)).len(), 250);
}

#[test]
fn an_empty_service_has_one_empty_slice() {
    let slices = stored(run(&plain_service(), &[], &[]), Vec::new());
    assert_eq!((slices.len(), addresses(&slices).len()), (1, 0));
    assert_eq!(run(&plain_service(), &[], &slices), []);
    // It is written over when the first pod comes, and again when the last one goes.
    let actions = run(&plain_service(), &[pod(1, true)], &slices);
    assert!(matches!(actions.as_slice(), [Action::Update(_)]), "{actions:?}");
    let slices = stored(actions, slices);
    let actions = run(&plain_service(), &[], &slices);
    assert!(matches!(actions.as_slice(), [Action::Update(_)]), "{actions:?}");
    let slices = stored(actions, slices);
    assert_eq!((slices.len(), addresses(&slices).len()), (1, 0));
}

#[test]
fn extra_and_foreign_slices_go() {
    let mut slices = stored(run(&plain_service(), &[pod(1, true)], &[]), Vec::new());
    let mut twin = slices[0].clone();
    twin.metadata.name = Some("twin".into());
    let mut foreign = slices[0].clone();
    foreign.metadata.name = Some("foreign".into());
    foreign.metadata.owner_references = None;
    slices.extend([twin, foreign]);
    let actions = run(&plain_service(), &[pod(1, true)], &slices);
    assert!(matches!(actions.as_slice(), [Action::Delete(_), Action::Delete(_)]), "{actions:?}");
}

#[test]
fn labels_follow_the_service() {
    let slices = stored(run(&plain_service(), &[pod(1, true)], &[]), Vec::new());
    let mut headless = plain_service();
    headless.spec.as_mut().expect("a spec").cluster_ip = Some("None".into());
    headless.metadata.labels = None;
    let actions = run(&headless, &[pod(1, true)], &slices);
    let [Action::Update(slice)] = actions.as_slice() else { panic!("{actions:?}") };
    let labels = slice.metadata.labels.clone().unwrap_or_default();
    assert_eq!(labels.keys().map(String::as_str).collect::<Vec<_>>(), [MANAGED_BY, SERVICE_NAME, HEADLESS_LABEL]);
}

#[test]
fn nothing_is_created_for_a_service_that_goes() {
    let mut service = plain_service();
    service.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
    assert_eq!(run(&service, &[pod(1, true)], &[]), []);
}
