//! Point 6: kedge ends, however it ends; pods and services do not notice, and nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::scene::{LONG, SHORT, Scene, contains, name, service, shell_pod, text, web};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "survival_stop_and_start", run: Run::Last(stop_and_start) },
    Scenario { name: "survival_kill_under_load", run: Run::Last(kill) },
    Scenario { name: "survival_second_server_on_the_same_data", run: Run::Last(second_server) },
];

/// Container ids and restart counts by pod.
fn containers(s: &Scene<'_>) -> BTreeMap<String, (String, u64)> {
    let list = s.json("pods");
    let pods = list["items"].as_array().cloned().unwrap_or_default();
    let of = |pod: &Value| {
        let restarts = pod.pointer("/status/containerStatuses/0/restartCount").and_then(Value::as_u64).unwrap_or(99);
        (name(pod), (text(pod, "/status/containerStatuses/0/containerID"), restarts))
    };
    pods.iter().map(of).collect()
}

fn started_again(s: &Scene<'_>) {
    let mut server = s.cluster.server();
    server.spawn();
    server.wait_for_api(LONG);
    server.wait_for_node(LONG);
}

fn application(s: &Scene<'_>) -> String {
    s.create(&web("web", 2));
    s.create(&service("web", ""));
    s.create(&shell_pod("box"));
    s.rolled_out("web");
    s.pod_ready("box");
    s.until_endpoints("web", 2);
    let ip = s.cluster_ip("web");
    s.get_ok(&ip, 80, "/");
    ip
}

/// The cluster works as before: same containers, streams, and new pods.
fn still_whole(s: &Scene<'_>, before: &BTreeMap<String, (String, u64)>) {
    s.until("all pods Ready", LONG, || {
        let list = s.find("pods")?;
        let pods = list["items"].as_array()?;
        pods.iter().all(|pod| pod["status"]["containerStatuses"][0]["ready"] == true).then_some(())
    });
    assert_eq!(&containers(s), before, "containers were touched");
    assert_eq!(s.sh("box", "echo here").ok(), "here\n");
    s.k("scale deployment web --replicas=3");
    s.until_endpoints("web", 3);
    s.k("scale deployment web --replicas=2");
    s.until_endpoints("web", 2);
    s.create(&shell_pod("after"));
    s.pod_ready("after");
    contains(&s.k("logs deployment/web"), "serving on port 8080");
}

fn stop_and_start(s: &Scene<'_>) {
    let ip = application(s);
    let before = containers(s);
    s.k("create configmap kept --from-literal=a=b");
    let (took, code) = s.cluster.server().terminate();
    let still = s.get(&ip, 80, "/");
    started_again(s);
    assert_eq!(code, Some(0), "a clean stop");
    assert!(took < Duration::from_secs(5), "SIGTERM took {took:?}");
    assert!(matches!(still, Ok((200, _))), "the service stopped with kedge: {still:?}");
    assert_eq!(s.json("configmap kept")["data"]["a"], "b");
    still_whole(s, &before);
}

fn kill(s: &Scene<'_>) {
    let ip = application(s);
    let before = containers(s);
    let stop = AtomicBool::new(false);
    let lost = AtomicU32::new(0);
    let mut acknowledged = Vec::new();
    std::thread::scope(|scope| {
        // Clients of the service, all the time.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                if !matches!(s.get(&ip, 80, "/"), Ok((200, _))) {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        // Writers, until the server is gone.
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                scope.spawn(move || {
                    let mut written = Vec::new();
                    for i in 0..2000 {
                        let name = format!("load-{writer}-{i}");
                        if !s.kubectl(&["create", "configmap", &name, "--from-literal=a=b"]).success() {
                            break;
                        }
                        written.push(name);
                    }
                    written
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(4));
        s.cluster.server().kill();
        for writer in writers {
            acknowledged.extend(writer.join().expect("it does not panic"));
        }
        std::thread::sleep(Duration::from_secs(2));
        let restarted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| started_again(s)));
        std::thread::sleep(Duration::from_secs(1));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = restarted {
            std::panic::resume_unwind(panic);
        }
    });
    assert_eq!(lost.load(Ordering::Relaxed), 0, "requests failed while kedge was away");
    assert!(acknowledged.len() > 5, "only {} writes before the kill", acknowledged.len());
    let list = s.json("configmaps");
    let there: Vec<String> = list["items"].as_array().into_iter().flatten().map(name).collect();
    let missing: Vec<&String> = acknowledged.iter().filter(|name| !there.contains(name)).collect();
    assert!(missing.is_empty(), "of {} acknowledged writes these are lost: {missing:?}", acknowledged.len());
    still_whole(s, &before);
}

fn second_server(s: &Scene<'_>) {
    let server = s.cluster.server();
    let mut args: Vec<String> = server.arguments().to_vec();
    let at = args.iter().position(|arg| arg == "--https-listen-port").expect("a port is given") + 1;
    args[at] = kedge_tests::http::free_port().to_string();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let refusal = server.run_other(&args, SHORT);
    drop(server);
    assert_eq!(refusal.code, Some(1), "{}", refusal.text());
    crate::startup::one_line(&refusal, &["data", "another"]);
    // And the first does not care.
    s.create(&shell_pod("after"));
    s.pod_ready("after");
}
