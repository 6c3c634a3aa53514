//! A real pod in a real containerd, driven by the real kubelet against a tiny API server.

mod support;

use serde_json::{Value, json};
use support::api::Api;
use support::node::{IMAGE, Root, Running};

const POD: &str = "/api/v1/namespaces/default/pods/p";

fn is_root() -> bool {
    let able =
        sys::capability::is_root() && sys::process::find("containerd", &["/usr/bin", "/usr/local/bin"]).is_some();
    if !able {
        eprintln!("skipped: needs root and containerd");
    }
    able
}

fn pod(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["nodeName"] = json!("n1");
    spec["hostNetwork"] = json!(true);
    spec["dnsPolicy"] = json!("Default");
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "generation": 1}, "spec": spec, "status": {"phase": "Pending"}})
}

fn condition(object: &Value, name: &str) -> bool {
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    all.iter().any(|c| c["type"] == name && c["status"] == "True")
}

fn ready(object: Option<&Value>) -> bool {
    object.is_some_and(|o| condition(o, "Ready"))
}

fn first<'a>(object: &'a Value) -> &'a Value {
    &object["status"]["containerStatuses"][0]
}

/// Reads a file until it says what it should.
async fn until_file(path: &std::path::Path, wanted: &str) {
    let read = async {
        while !std::fs::read_to_string(path).unwrap_or_default().contains(wanted) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let found = tokio::time::timeout(std::time::Duration::from_secs(20), read).await;
    assert!(found.is_ok(), "{} never said {wanted:?}", path.display());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_lives_is_adopted_restarts_and_dies() {
    if !is_root() {
        return;
    }
    let root = Root::new("pod");
    let config = root.config();
    let api = Api::new();
    api.put(
        "/api/v1/namespaces/default/configmaps/cm",
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "cm", "namespace": "default"}, "data": {"key": "one"}}),
    );
    let running = Running::start(config.clone(), &api).await;
    assert!(api.get("/api/v1/nodes/n1").is_some());

    api.put(POD, pod("p", json!({
        "terminationGracePeriodSeconds": 2,
        "volumes": [{"name": "cfg", "configMap": {"name": "cm"}}, {"name": "tmp", "emptyDir": {"medium": "Memory"}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}],
        "containers": [{
            "name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", "trap 'exit 0' TERM; cat /cfg/key /token/token; echo $KEY $POD; while test ! -e /tmp/stop; do sleep 0.1; done; exit 3"],
            "env": [{"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "key"}}},
                    {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}, {"name": "tmp", "mountPath": "/tmp"},
                {"name": "token", "mountPath": "/token"}]}]})));
    let begun = tokio::time::Instant::from_std(component_base::RealClock::shared().instant());
    let object = api.until(POD, "ready", ready).await.expect("there");
    eprintln!("pod ready after {:?}", begun.elapsed());
    assert_eq!(object["status"]["phase"], "Running");
    assert_eq!(object["status"]["podIP"], "127.0.0.1");
    assert_eq!(object["status"]["qosClass"], "Burstable");
    let id = first(&object)["containerID"].clone();
    let uid = object["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let log = config.pod_log_dir("default", "p", &uid).join("c/0.log");
    until_file(&log, "one p").await;
    until_file(&log, "onea-token").await;
    let cgroups = sys::cgroup::Cgroups::detect().expect("control groups");
    let group = format!("{}/kubepods/burstable/pod{uid}", config.cgroup_root);
    assert_eq!(cgroups.usage(&group).expect("a group").memory_limit, Some(64 << 20));

    // A changed ConfigMap shows in the file.
    let dir = config.pod_dir(&uid);
    api.put(
        "/api/v1/namespaces/default/configmaps/cm",
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "cm", "namespace": "default", "uid": "x"}, "data": {"key": "two"}}),
    );
    until_file(&dir.join("volumes/kubernetes.io~configmap/cfg/key"), "two").await;

    // We go, it stays; we come back, it is the same one.
    running.stop().await;
    let running = Running::start(config.clone(), &api).await;
    let record = running.access.container("default", "p", "c", false).await.expect("adopted");
    assert_eq!(json!(format!("containerd://{}", record.id)), id);
    assert_eq!(record.restart_count, 0);

    // It ends, and is started again.
    std::fs::write(dir.join("volumes/kubernetes.io~empty-dir/tmp/stop"), "").expect("writes");
    let object = api
        .until(POD, "restarted", |o| o.is_some_and(|o| first(o)["restartCount"].as_u64() >= Some(1)))
        .await
        .expect("there");
    assert_eq!(first(&object)["lastState"]["terminated"]["exitCode"], 3);
    let message = format!("back-off 10s restarting failed container=c pod=p_default({uid})");
    let object = api
        .until(POD, "backing off", |o| o.is_some_and(|o| !first(o)["state"]["waiting"].is_null()))
        .await
        .expect("there");
    assert_eq!(first(&object)["state"]["waiting"], json!({"reason": "CrashLoopBackOff", "message": message}));

    // Deleted: everything goes.
    let mut object = api.get(POD).expect("there");
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(2);
    api.put(POD, object);
    api.until(POD, "gone", |o| o.is_none()).await;
    let erased = async {
        while dir.exists()
            || cgroups.exists(&group)
            || !running.access.shared.read(&uid).await.expect("answers").is_empty()
        {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), erased).await.expect("erased");
    assert!(api.events("Started").contains(&"Container started".to_owned()));
    assert!(api.events("Killing").is_empty() || api.events("Killing")[0].starts_with("Stopping container c"));
    running.stop().await;
}
