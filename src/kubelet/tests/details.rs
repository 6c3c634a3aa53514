//! Details that containers see: gRPC probes, the modes of volumes, limits of emptyDir, logs that rotate.

#![allow(clippy::print_stderr)] // Timings and skips, for who reads the test's output.
#![allow(dead_code)] // Not every test binary uses all of the support.

mod support;

use component_base::TaskGroup;
use serde_json::{Value, json};
use support::api::Api;
use support::health;
use support::node::{IMAGE, Root, Running};
use support::pods::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn grpc_probes_of_a_real_server() {
    if !is_root() {
        return;
    }
    let root = Root::new("grpc");
    let api = Api::new();
    let running = Running::start(root.config(), &api).await;
    let tasks = TaskGroup::new();
    let port = health::serve(&tasks).await;
    let make = |name: &str, kind: &str, service: Option<&str>| {
        let probe = json!({"grpc": {"port": port, "service": service}, "periodSeconds": 1, "failureThreshold": 1});
        let spec = json!({"terminationGracePeriodSeconds": 1, "containers": [with(container("c", SLEEP), json!({kind: probe}))]});
        api.put(&path(name), pod(name, spec));
    };
    make("well", "readinessProbe", None);
    make("alive", "livenessProbe", Some(""));
    make("sick", "livenessProbe", Some("sick"));
    make("odd", "readinessProbe", Some("odd"));
    api.until(&path("well"), "ready", ready).await;
    let restarted = |o: Option<&Value>| o.is_some_and(|o| first(o)["restartCount"].as_u64() >= Some(1));
    api.until(&path("sick"), "restarted", restarted).await;
    assert!(api.events("Killing").contains(&"Container c failed liveness probe, will be restarted".to_owned()));
    let unhealthy = |message: &str| api.events("Unhealthy").iter().any(|m| m == message);
    assert!(
        unhealthy("Liveness probe failed: service unhealthy (responded with \"NOT_SERVING\")"),
        "{:?}",
        api.events("Unhealthy")
    );
    let odd =
        "Readiness probe failed: error: health rpc probe failed: rpc error: code = NotFound desc = unknown service";
    api.until(&path("odd"), "refused", |_| unhealthy(odd)).await;
    assert!(!ready(api.get(&path("odd")).as_ref()));
    let object = api.until(&path("alive"), "ready", ready).await.expect("there");
    assert_eq!(first(&object)["restartCount"], 0);

    // The server goes: no longer ready.
    tasks.stop().await;
    api.until(&path("well"), "not ready", |o| !ready(o)).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_look_as_upstream_and_stay_small() {
    if !is_root() {
        return;
    }
    let root = Root::new("volumes");
    let api = Api::new();
    let running = Running::start(root.config(), &api).await;
    for (kind, list) in [("ConfigMap", "configmaps"), ("Secret", "secrets")] {
        api.put(
            &format!("/api/v1/namespaces/default/{list}/x"),
            json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": "x", "namespace": "default"},
                "data": {"key": "dmFsdWU="}}),
        );
    }
    let names = ["disk", "mem", "map", "secret", "token"];
    let volumes = json!([{"name": "disk", "emptyDir": {}}, {"name": "mem", "emptyDir": {"medium": "Memory"}},
        {"name": "map", "configMap": {"name": "x"}}, {"name": "secret", "secret": {"secretName": "x"}},
        {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}}]);
    let mounts: Vec<Value> = names.map(|name| json!({"name": name, "mountPath": format!("/{name}")})).to_vec();
    let script = "ls -ldn /disk /mem /map /secret /token > /dev/termination-log; \
        ls -ln /token/..data/ /secret/..data/ >> /dev/termination-log";
    let spec = json!({"restartPolicy": "Never", "volumes": volumes,
        "containers": [with(container("c", script), json!({"volumeMounts": mounts}))]});
    api.put(&path("plain"), pod("plain", spec.clone()));
    let mut grouped = spec;
    grouped["securityContext"] = json!({"fsGroup": 5678});
    api.put(&path("grouped"), pod("grouped", grouped));
    let big = with(
        container("c", &format!("dd if=/dev/zero of=/v/big bs=1M count=3; {SLEEP}")),
        json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
    );
    let mut limited = json!({"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}], "containers": [big]});
    api.put(&path("big"), pod("big", limited.clone()));
    limited["volumes"][0]["emptyDir"]["sizeLimit"] = json!("0");
    limited["terminationGracePeriodSeconds"] = json!(1);
    api.put(&path("unlimited"), pod("unlimited", limited));

    let said = async |name: &str| {
        let object = api.until(&path(name), "succeeded", |o| phase_is(o, "Succeeded")).await.expect("there");
        first(&object)["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned()
    };
    let mode = |text: &str, name: &str| {
        let line =
            text.lines().find(|line| line.ends_with(&format!(" /{name}")) || line.ends_with(&format!(" {name}")));
        let fields: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
        fields.first().zip(fields.get(3)).map(|(mode, group)| format!("{mode} {group}")).unwrap_or_default()
    };
    let text = said("plain").await;
    let found = names.map(|name| mode(&text, name));
    // The last one is the file: the directory's line comes first and wins.
    assert_eq!(
        found,
        ["drwxrwxrwx 0", "drwxrwxrwt 0", "drwxrwxrwx 0", "drwxrwxrwt 0", "drwxrwxrwt 0"].map(str::to_owned),
        "{text}"
    );
    assert_eq!(mode(&text, "key"), "-rw-r--r-- 0", "{text}");
    let text = said("grouped").await;
    let found = names.map(|name| mode(&text, name));
    assert_eq!(
        found,
        ["drwxrwsrwx 5678", "drwxrwsrwt 5678", "drwxrwsrwx 5678", "drwxrwsrwt 5678", "drwxrwsrwt 5678"]
            .map(str::to_owned),
        "{text}"
    );
    assert_eq!(mode(&text, "key"), "-rw-r--r-- 5678", "{text}");

    let object = api.until(&path("big"), "evicted", |o| phase_is(o, "Failed")).await.expect("there");
    let message = "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". ";
    assert_eq!((&object["status"]["reason"], &object["status"]["message"]), (&json!("Evicted"), &json!(message)));
    assert!(api.events("Evicted").iter().all(|m| m == message), "{:?}", api.events("Evicted"));
    api.until(&path("unlimited"), "ready", ready).await;
    assert_eq!(api.events("Evicted").len(), 1);

    let node = api.get("/api/v1/nodes/n1").expect("registered");
    let images = node["status"]["images"].as_array().cloned().unwrap_or_default();
    let listed = |image: &Value| image["names"].as_array().is_some_and(|names| names.contains(&json!(IMAGE)));
    assert!(images.iter().any(|image| listed(image) && image["sizeBytes"].as_u64() > Some(0)), "{images:?}");
    // As upstream's kubelet leaves it: only elected leaders acquire their leases.
    let lease = api.get("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1").expect("there");
    assert!(lease["spec"]["acquireTime"].is_null() && lease["spec"]["renewTime"].is_string(), "{lease}");
    running.stop().await;
}
