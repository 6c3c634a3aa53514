//! What must not disturb pods, and what must end them at once: a containerd that is killed, deletions in the middle of
//! something, a changed image.

#![allow(clippy::print_stderr)] // Timings and skips, for who reads the test's output.
#![allow(dead_code)] // Not every test binary uses all of the support.

mod support;

use std::time::Duration;

use component_base::{Clock as _, RealClock};
use serde_json::{Value, json};
use support::api::Api;
use support::image::busybox;
use support::node::{IMAGE, Root, Running};
use support::pods::*;
use tokio::net::TcpListener;

const OTHER_IMAGE: &str = "docker.io/test/busybox:2";

fn is_running(object: Option<&Value>) -> bool {
    object.is_some_and(|o| !first(o)["state"]["running"].is_null())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn containers_outlive_a_killed_containerd() {
    if !is_root() {
        return;
    }
    let root = Root::new("killed");
    let config = root.config();
    let api = Api::new();
    let running = Running::start(config.clone(), &api).await;
    let stays = with(
        container("c", SLEEP),
        json!({"livenessProbe": {"exec": {"command": ["test", "-e", "/bin/sh"]}, "periodSeconds": 1, "failureThreshold": 1},
               "readinessProbe": {"exec": {"command": ["test", "-e", "/bin/sh"]}, "periodSeconds": 1}}),
    );
    api.put(&path("stays"), pod("stays", json!({"terminationGracePeriodSeconds": 1, "containers": [stays]})));
    let ends = with(
        container("c", "while test ! -e /v/stop; do sleep 0.05; done; exit 5"),
        json!({"volumeMounts": [{"name": "v", "mountPath": "/v"}]}),
    );
    let volumes = json!([{"name": "v", "hostPath": {"path": root.path.join("v"), "type": "DirectoryOrCreate"}}]);
    api.put(&path("ends"), pod("ends", json!({"restartPolicy": "Never", "volumes": volumes, "containers": [ends]})));
    let object = api.until(&path("stays"), "ready", ready).await.expect("there");
    let id = first(&object)["containerID"].clone();
    api.until(&path("ends"), "running", is_running).await;

    let pid_file = config.run_dir.join("containerd/containerd.pid");
    let pid = || std::fs::read_to_string(&pid_file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    let old = pid().expect("a process id");
    let begun = RealClock.instant();
    sys::process::force_kill(old).expect("killed");
    // While nobody looks.
    std::fs::write(root.path.join("v/stop"), "").expect("writes");
    let object = api.until(&path("ends"), "failed", |o| phase_is(o, "Failed")).await.expect("there");
    eprintln!("the end of a container seen {:?} after containerd was killed", RealClock.instant() - begun);
    assert_eq!(first(&object)["state"]["terminated"]["exitCode"], 5);
    assert_eq!(first(&object)["restartCount"], 0);
    assert!(pid().is_some_and(|new| new != old && sys::process::alive(new)));

    // The new containerd runs new pods, and commands in the old one's.
    api.put(&path("after"), pod("after", json!({"restartPolicy": "Never", "containers": [container("c", "exit 0")]})));
    api.until(&path("after"), "succeeded", |o| phase_is(o, "Succeeded")).await;
    let record = running.access.container("default", "stays", "c", false).await.expect("adopted");
    assert_eq!((json!(format!("containerd://{}", record.id)), record.restart_count), (id.clone(), 0));
    let said = running.access.cri().exec_sync(&record.id, &["echo".into(), "hi".into()], Duration::from_secs(10)).await;
    assert_eq!(said.expect("runs").stdout, b"hi\n");
    let object = api.until(&path("stays"), "ready", ready).await.expect("there");
    assert_eq!((&first(&object)["containerID"], &first(&object)["restartCount"]), (&id, &json!(0)));
    assert_eq!(api.events("Killing"), Vec::<String>::new());
    assert_eq!(api.events("SandboxChanged"), Vec::<String>::new());

    // Again, when it is not our child but was adopted.
    running.stop().await;
    let running = Running::start(config.clone(), &api).await;
    let old = pid().expect("a process id");
    sys::process::force_kill(old).expect("killed");
    api.put(&path("later"), pod("later", json!({"restartPolicy": "Never", "containers": [container("c", "exit 0")]})));
    api.until(&path("later"), "succeeded", |o| phase_is(o, "Succeeded")).await;
    assert!(pid().is_some_and(|new| new != old && sys::process::alive(new)));
    let record = running.access.container("default", "stays", "c", false).await.expect("adopted");
    assert_eq!((json!(format!("containerd://{}", record.id)), record.restart_count), (id.clone(), 0));
    let object = api.until(&path("stays"), "ready", ready).await.expect("there");
    assert_eq!((&first(&object)["containerID"], &first(&object)["restartCount"]), (&id, &json!(0)));
    assert_eq!(api.events("Killing"), Vec::<String>::new());

    let log = std::fs::read_to_string(config.data_dir.join("containerd.log")).unwrap_or_default();
    let asked = log.lines().filter(|line| line.contains("GetContainerEvents")).count();
    eprintln!("asked {asked} times for CRI events");
    // Once by each kubelet.
    assert!(asked <= 2, "asked {asked} times for what this containerd does not have");
    running.stop().await;
}

/// A registry that takes connections and never answers.
async fn silent_registry() -> (u16, component_base::TaskGroup) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let tasks = component_base::TaskGroup::new();
    tasks.spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    (port, tasks)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_interrupts_whatever_is_going_on() {
    if !is_root() {
        return;
    }
    let root = Root::new("deleted");
    let config = root.config();
    let api = Api::new();
    let running = Running::start(config.clone(), &api).await;
    let (port, registry) = silent_registry().await;
    let make = |name: &str, mut spec: Value| {
        spec["terminationGracePeriodSeconds"] = json!(1);
        api.put(&path(name), pod(name, spec))
    };
    let image = format!("127.0.0.1:{port}/never/answers:1");
    make(
        "pulling",
        json!({"containers": [with(container("c", SLEEP), json!({"image": image, "imagePullPolicy": "Always"}))]}),
    );
    make("init", json!({"initContainers": [container("i", SLEEP)], "containers": [container("c", SLEEP)]}));
    make("crash", json!({"containers": [container("c", "exit 1")]}));
    make(
        "waiting",
        json!({"volumes": [{"name": "s", "secret": {"secretName": "missing"}}], "containers": [container("c", SLEEP)]}),
    );

    let event = |reason: &'static str, part: String| {
        let api = api.clone();
        move |_: Option<&Value>| api.events(reason).iter().any(|message| message.contains(&part))
    };
    api.until(&path("pulling"), "pulling", event("Pulling", image.clone())).await;
    let init_runs =
        |o: Option<&Value>| o.is_some_and(|o| !o["status"]["initContainerStatuses"][0]["state"]["running"].is_null());
    api.until(&path("init"), "initializing", init_runs).await;
    api.until(&path("crash"), "backing off", |o| reason_is(o, "CrashLoopBackOff")).await;
    api.until(&path("waiting"), "not mounted", event("FailedMount", "missing".into())).await;

    for name in ["pulling", "init", "crash", "waiting"] {
        let uid = api.get(&path(name)).expect("there")["metadata"]["uid"].as_str().expect("a uid").to_owned();
        let begun = RealClock.instant();
        mark_deleted(&api, name, 1);
        api.until(&path(name), "gone", |o| o.is_none()).await;
        eprintln!("{name}: gone {:?} after its deletion", RealClock.instant() - begun);
        let erased = async {
            while !running.access.shared.read(&uid).await.expect("answers").is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), erased).await.expect("erased");
        assert!(!config.pod_dir(&uid).exists(), "{name} left its directory");
    }
    registry.stop().await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_image_restarts_only_its_container() {
    if !is_root() {
        return;
    }
    let root = Root::new("update");
    let config = root.config();
    // Another image, or containerd would show the first of its names.
    let archive = busybox(OTHER_IMAGE, &["/bin/cat"]);
    std::fs::write(config.images_dir().join("other.tar"), archive).expect("writes");
    let api = Api::new();
    let running = Running::start(config, &api).await;
    let spec =
        json!({"terminationGracePeriodSeconds": 2, "containers": [container("a", SLEEP), container("b", SLEEP)]});
    api.put(&path("two"), pod("two", spec));
    let before = api.until(&path("two"), "ready", ready).await.expect("there");
    let mut object = before.clone();
    object["spec"]["containers"][0]["image"] = json!(OTHER_IMAGE);
    object["metadata"]["generation"] = json!(2);
    api.put(&path("two"), object);
    let restarted = |o: Option<&Value>| o.is_some_and(|o| first(o)["restartCount"] == 1 && condition(o, "Ready"));
    let after = api.until(&path("two"), "restarted", restarted).await.expect("there");
    assert_eq!((&first(&before)["image"], &first(&after)["image"]), (&json!(IMAGE), &json!(OTHER_IMAGE)));
    let second = |o: &Value| o["status"]["containerStatuses"][1].clone();
    assert_eq!(second(&before)["containerID"], second(&after)["containerID"]);
    assert_eq!(second(&after)["restartCount"], 0);
    assert_eq!(api.events("Killing"), ["Container a definition changed, will be restarted"]);
    assert_eq!(api.events("SandboxChanged"), Vec::<String>::new());
    running.stop().await;
}
