//! Pods to ask for, and what their statuses say.

use serde_json::{Value, json};

use super::node::IMAGE;

/// Runs until it is told to stop.
pub const SLEEP: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

pub fn is_root() -> bool {
    let able =
        sys::capability::is_root() && sys::process::find("containerd", &["/usr/bin", "/usr/local/bin"]).is_some();
    if !able {
        eprintln!("skipped: needs root and containerd");
    }
    able
}

pub fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = json!("n1");
    spec["hostNetwork"] = json!(true);
    spec["dnsPolicy"] = json!("Default");
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "generation": 1}, "spec": spec, "status": {"phase": "Pending"}})
}

pub fn condition(object: &Value, name: &str) -> bool {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().any(|c| c["type"] == name && c["status"] == "True")
}

pub fn ready(object: Option<&Value>) -> bool {
    object.is_some_and(|o| condition(o, "Ready"))
}

pub fn first(object: &Value) -> &Value {
    &object["status"]["containerStatuses"][0]
}

/// Reads a file until it says what it should.
pub async fn until_file(path: &std::path::Path, wanted: &str) {
    let read = async {
        while !std::fs::read_to_string(path).unwrap_or_default().contains(wanted) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(std::time::Duration::from_secs(20), read).await;
    assert!(found.is_ok(), "{} never said {wanted:?}", path.display());
}

pub fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script]})
}

pub fn with(mut container: Value, more: Value) -> Value {
    for (key, value) in more.as_object().expect("an object") {
        container[key] = value.clone();
    }
    container
}

pub fn path(name: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{name}")
}

pub fn phase_is(object: Option<&Value>, phase: &str) -> bool {
    object.is_some_and(|o| o["status"]["phase"] == phase)
}

pub fn reason_is(object: Option<&Value>, reason: &str) -> bool {
    object.is_some_and(|o| first(o)["state"]["waiting"]["reason"] == reason)
}

/// Asks for the pod's deletion, as the API server marks it.
pub fn mark_deleted(api: &super::api::Api, name: &str, grace: i64) {
    let mut object = api.get(&path(name)).expect("there");
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    api.put(&path(name), object);
}
