//! A real pod in a real containerd, driven by the real kubelet against a tiny API server.

#![allow(clippy::print_stderr)] // Timings and skips, for who reads the test's output.
#![allow(dead_code)] // Not every test binary uses all of the support.

mod support;

use serde_json::{Value, json};
use support::api::Api;
use support::node::{IMAGE, Root, Running};
use support::pods::*;

const POD: &str = "/api/v1/namespaces/default/pods/p";

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
    eprintln!(
        "pod ready after {:?}; what was written:\n{}",
        begun.elapsed(),
        api.story("\"p\"", begun.into_std()).join("\n")
    );
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

/// Many pods at once, each with something of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pods_can_ask_for() {
    if !is_root() {
        return;
    }
    let root = Root::new("many");
    let config = root.config();
    let api = Api::new();
    let running = Running::start(config.clone(), &api).await;
    let sleep = SLEEP;
    let make = |name: &str, spec: Value| {
        let mut spec = spec;
        spec["terminationGracePeriodSeconds"] = json!(1);
        api.put(&path(name), pod(name, spec))
    };

    make(
        "done",
        json!({"restartPolicy": "Never", "containers": [
        container("c", "echo bye > /dev/termination-log")]}),
    );
    make(
        "failed",
        json!({"restartPolicy": "Never", "containers": [
        with(container("c", "echo last words; exit 7"), json!({"terminationMessagePolicy": "FallbackToLogsOnError"}))]}),
    );
    make(
        "oom",
        json!({"restartPolicy": "Never", "containers": [with(
        container("c", "dd if=/dev/zero of=/dev/null bs=200M count=5"),
        json!({"resources": {"limits": {"memory": "32Mi"}}}))]}),
    );
    make(
        "init",
        json!({
        "initContainers": [
            with(container("side", sleep), json!({"restartPolicy": "Always"})),
            with(container("prep", "echo prepared > /v/f"), json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [with(container("c", &format!("cat /v/f; {sleep}")),
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}))]}),
    );
    make(
        "sick",
        json!({"containers": [with(container("c", sleep), json!({"livenessProbe": {
        "exec": {"command": ["sh", "-c", "echo no; exit 1"]}, "periodSeconds": 1, "failureThreshold": 1}}))]}),
    );
    make(
        "slow",
        json!({"containers": [with(container("c", &format!("sleep 1; echo x > /tmp/ok; {sleep}")), json!({
        "readinessProbe": {"exec": {"command": ["test", "-e", "/tmp/ok"]}, "periodSeconds": 1}}))]}),
    );
    make(
        "noimage",
        json!({"containers": [
        with(container("c", sleep), json!({"image": "127.0.0.1:1/none:1", "imagePullPolicy": "Always"}))]}),
    );
    make("never", json!({"containers": [with(container("c", sleep), json!({"image": "127.0.0.1:1/none:1"}))]}));
    make("badname", json!({"containers": [with(container("c", sleep), json!({"image": "BAD"}))]}));
    make(
        "nomap",
        json!({"containers": [with(container("c", sleep), json!({"env": [
        {"name": "X", "valueFrom": {"configMapKeyRef": {"name": "gone", "key": "k"}}}]}))]}),
    );
    make(
        "novolume",
        json!({"volumes": [{"name": "s", "secret": {"secretName": "missing"}}],
        "containers": [container("c", sleep)]}),
    );
    make(
        "hooks",
        json!({"volumes": [{"name": "v", "hostPath": {"path": root.path.join("hooks"), "type": "DirectoryOrCreate"}}],
        "containers": [with(container("c", sleep), json!({
            "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            "lifecycle": {"postStart": {"exec": {"command": ["sh", "-c", "echo up > /v/post"]}},
                          "preStop": {"exec": {"command": ["sh", "-c", "echo down > /v/pre"]}}}}))]}),
    );
    make("late", json!({"activeDeadlineSeconds": 1, "containers": [container("c", sleep)]}));
    make(
        "user",
        json!({"securityContext": {"runAsUser": 1234, "fsGroup": 5678}, "restartPolicy": "Never",
        "volumes": [{"name": "v", "emptyDir": {}}],
        "containers": [with(container("c", "id > /v/id; cat /v/id > /dev/termination-log"),
            json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPath": "deep/er"}]}))]}),
    );

    let object = api.until(&path("done"), "succeeded", |o| phase_is(o, "Succeeded")).await.expect("there");
    assert_eq!(first(&object)["state"]["terminated"]["message"], "bye\n");
    assert_eq!(first(&object)["state"]["terminated"]["reason"], "Completed");
    let object = api.until(&path("failed"), "failed", |o| phase_is(o, "Failed")).await.expect("there");
    assert_eq!(first(&object)["state"]["terminated"]["message"], "last words\n");
    assert_eq!(first(&object)["state"]["terminated"]["exitCode"], 7);
    let killed = |o: &Value| first(o)["state"]["terminated"]["reason"] == "OOMKilled";
    let object = api.until(&path("oom"), "killed", |o| o.is_some_and(killed)).await.expect("there");
    assert_eq!(first(&object)["state"]["terminated"]["exitCode"], 137);
    let object = api.until(&path("init"), "ready", ready).await.expect("there");
    let init = &object["status"]["initContainerStatuses"];
    assert_eq!((&init[0]["ready"], &init[1]["state"]["terminated"]["reason"]), (&json!(true), &json!("Completed")));
    api.until(&path("sick"), "restarted", |o| o.is_some_and(|o| first(o)["restartCount"].as_u64() >= Some(1))).await;
    assert!(
        api.events("Unhealthy").contains(&"Liveness probe failed: no\n".to_owned()),
        "{:?}",
        api.events("Unhealthy")
    );
    assert!(api.events("Killing").contains(&"Container c failed liveness probe, will be restarted".to_owned()));
    api.until(&path("slow"), "ready", ready).await;
    let object = api.until(&path("noimage"), "back-off", |o| reason_is(o, "ImagePullBackOff")).await.expect("there");
    let message = first(&object)["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.starts_with("Back-off pulling image \"127.0.0.1:1/none:1\": ErrImagePull: "), "{message}");
    assert!(api.events("Failed").contains(&"Error: ErrImagePull".to_owned()));
    api.until(&path("never"), "never pulled", |o| reason_is(o, "ErrImageNeverPull")).await;
    api.until(&path("badname"), "refused", |o| reason_is(o, "InvalidImageName")).await;
    let object =
        api.until(&path("nomap"), "refused", |o| reason_is(o, "CreateContainerConfigError")).await.expect("there");
    assert_eq!(first(&object)["state"]["waiting"]["message"], "configmap \"gone\" not found");
    assert!(
        api.events("FailedMount")
            .contains(&"MountVolume.SetUp failed for volume \"s\" : secret \"missing\" not found".to_owned())
    );
    let object = api.until(&path("late"), "over", |o| phase_is(o, "Failed")).await.expect("there");
    assert_eq!(object["status"]["reason"], "DeadlineExceeded");
    let object = api.until(&path("user"), "succeeded", |o| phase_is(o, "Succeeded")).await.expect("there");
    let id = first(&object)["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(id.contains("uid=1234") && id.contains("5678"), "{id}");

    // What is missing appears: the pods go on by themselves.
    api.put(
        "/api/v1/namespaces/default/secrets/missing",
        json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "missing", "namespace": "default"}, "data": {"k": "eA=="}}),
    );
    api.put(
        "/api/v1/namespaces/default/configmaps/gone",
        json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "gone", "namespace": "default"}, "data": {"k": "v"}}),
    );
    api.until(&path("novolume"), "ready", ready).await;
    api.until(&path("nomap"), "ready", ready).await;

    let object = api.until(&path("hooks"), "ready", ready).await.expect("there");
    until_file(&root.path.join("hooks/post"), "up").await;
    let mut object = object;
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(5);
    api.put(&path("hooks"), object);
    api.until(&path("hooks"), "gone", |o| o.is_none()).await;
    until_file(&root.path.join("hooks/pre"), "down").await;

    // Taken away without asking: an orphan, ended all the same.
    let uid = api.remove(&path("init")).expect("there")["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let erased = async {
        while !running.access.shared.read(&uid).await.expect("answers").is_empty() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), erased).await.expect("erased");
    running.stop().await;
}

/// A CNI plug-in that gives every pod the same address.
const PLUGIN: &str = r#"#!/bin/sh
config=$(cat)
case "$CNI_COMMAND" in
ADD) echo '{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"/x"}],
  "ips":[{"version":"4","interface":0,"address":"10.99.0.5/32"}]}' ;;
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.3.1","0.4.0"]}' ;;
esac
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_with_its_own_network() {
    if !is_root() {
        return;
    }
    let root = Root::new("net");
    let mut config = root.config();
    config.cni_bin = root.path.join("plugin");
    config.cluster_dns = vec!["10.43.0.10".parse().expect("an address")];
    std::fs::write(&config.cni_bin, PLUGIN).expect("writes");
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&config.cni_bin, executable).expect("executable");
    let api = Api::new();
    let running = Running::start(config.clone(), &api).await;
    let node = api.get("/api/v1/nodes/n1").expect("registered");
    assert_eq!(node["spec"]["taints"][0]["key"], "node.kubernetes.io/not-ready");
    std::fs::create_dir_all(config.cni_conf_dir()).expect("a directory");
    std::fs::write(
        config.cni_conf_dir().join("10-kedge.conflist"),
        json!({"cniVersion": "0.4.0", "name": "kedge", "plugins": [{"type": "kedge"}]}).to_string(),
    )
    .expect("writes");
    let node = api.until("/api/v1/nodes/n1", "ready", ready).await.expect("there");
    let is = |name: &str| node["status"]["conditions"].as_array().expect("set").iter().any(|c| c["reason"] == name);
    assert!(is("KubeletReady") && is("KubeletHasNoDiskPressure"));
    assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n1");
    api.until("/api/v1/nodes/n1", "untainted", |o| {
        o.is_some_and(|o| o["spec"]["taints"].as_array().is_none_or(Vec::is_empty))
    })
    .await;
    api.until("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1", "renewed", |o| {
        o.is_some_and(|o| o["spec"]["holderIdentity"] == "n1")
    })
    .await;

    api.put(
        "/api/v1/namespaces/default/services/kubernetes",
        json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default"},
        "spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443}]}}),
    );
    let mut own = pod(
        "net",
        json!({"restartPolicy": "Never", "hostname": "web", "subdomain": "svc", "containers": [
        container("c", "cat /etc/resolv.conf /etc/hosts > /dev/termination-log; hostname >> /dev/termination-log; \
            echo $KUBERNETES_SERVICE_HOST >> /dev/termination-log")]}),
    );
    own["spec"]["hostNetwork"] = json!(false);
    own["spec"]["dnsPolicy"] = json!("ClusterFirst");
    api.put(&path("net"), own);
    let object = api.until(&path("net"), "succeeded", |o| phase_is(o, "Succeeded")).await.expect("there");
    assert_eq!(object["status"]["podIP"], "10.99.0.5");
    let text = first(&object)["state"]["terminated"]["message"].as_str().unwrap_or_default().to_owned();
    assert!(text.contains("search default.svc.cluster.local svc.cluster.local cluster.local"), "{text}");
    assert!(text.contains("nameserver 10.43.0.10") && text.contains("options ndots:5"), "{text}");
    assert!(text.contains("10.99.0.5\tweb.svc.default.svc.cluster.local\tweb"), "{text}");
    assert!(text.ends_with("web\n10.43.0.1\n"), "{text}");
    running.stop().await;
}
