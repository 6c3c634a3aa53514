//! Point 2: liveness restarts, readiness leaves the endpoints, startup holds both back.

use crate::scene::{LONG, SHORT, Scene, contains, service, text};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "probe_liveness_restarts", run: Run::Shared(liveness) },
    Scenario { name: "probe_readiness_leaves_the_endpoints", run: Run::Shared(readiness) },
    Scenario { name: "probe_startup_holds_liveness_back", run: Run::Shared(startup) },
    Scenario { name: "probe_tcp_and_http", run: Run::Shared(tcp_and_http) },
];

fn pod(name: &str, script: &str, probes: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  \
         containers:\n  - name: main\n    image: busybox:test\n    command: [sh, -c, '{script}']\n    \
         ports: [{{containerPort: 8080, name: http}}]\n{probes}"
    )
}

const SERVE: &str = "touch /tmp/ok; trap \"exit 0\" TERM; httpd -f -p 8080 -h /www & wait";

fn liveness(s: &Scene<'_>) {
    let probe = "    livenessProbe: {exec: {command: [test, -f, /tmp/ok]}, periodSeconds: 1, failureThreshold: 2}\n";
    s.create(&pod("live", SERVE, probe));
    s.pod_ready("live");
    let before = text(&s.json("pod live"), "/status/containerStatuses/0/containerID");
    s.sh("live", "rm /tmp/ok").ok();
    let after = s.until_value("pod live", "/status/containerStatuses/0/restartCount", LONG, |n| n == 1);
    assert_ne!(text(&after, "/status/containerStatuses/0/containerID"), before);
    contains(&s.event("live", "Unhealthy", SHORT), "Liveness probe failed");
    contains(&s.event("live", "Killing", SHORT), "Container main failed liveness probe, will be restarted");
    s.pod_ready("live");
}

fn readiness(s: &Scene<'_>) {
    let probe = "    readinessProbe: {exec: {command: [test, -f, /tmp/ok]}, periodSeconds: 1, failureThreshold: 1}\n";
    s.create(&pod("ready", SERVE, probe));
    s.create(&service("ready", ""));
    s.pod_ready("ready");
    s.until_endpoints("ready", 1);
    let ip = s.cluster_ip("ready");
    assert_eq!(s.get_ok(&ip, 80, "/index.html"), "v1\n");
    s.sh("ready", "rm /tmp/ok").ok();
    s.until_endpoints("ready", 0);
    s.until("no answer any more", SHORT, || s.get(&ip, 80, "/index.html").is_err().then_some(()));
    let pod = s.json("pod ready");
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0);
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().find(|c| c["type"] == "Ready").expect("there is a Ready condition");
    assert_eq!(ready["reason"], "ContainersNotReady", "{ready}");
    assert_eq!(ready["message"], "containers with unready status: [main]");
    // The old Endpoints object says so too.
    let endpoints = s.json("endpoints ready");
    assert!(endpoints["subsets"][0]["notReadyAddresses"].is_array(), "{endpoints}");
    s.sh("ready", "touch /tmp/ok").ok();
    s.until_endpoints("ready", 1);
    assert_eq!(s.get_ok(&ip, 80, "/index.html"), "v1\n");
}

fn startup(s: &Scene<'_>) {
    let probes = "    startupProbe: {httpGet: {path: /index.html, port: http}, periodSeconds: 1, failureThreshold: 30}\n    \
                  livenessProbe: {httpGet: {path: /index.html, port: http}, periodSeconds: 1, failureThreshold: 1}\n";
    s.create(&pod("slow", &SERVE.replace("httpd", "sleep 5; httpd"), probes));
    s.until_value("pod slow", "/status/containerStatuses/0/started", SHORT, |started| started == false);
    s.pod_ready("slow");
    let status = s.json("pod slow")["status"]["containerStatuses"][0].clone();
    assert_eq!(status["restartCount"], 0, "{status}");
    assert_eq!(status["started"], true, "{status}");
}

fn tcp_and_http(s: &Scene<'_>) {
    let probes = "    readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}\n    \
                  livenessProbe: {httpGet: {path: /absent, port: 8080}, periodSeconds: 1, failureThreshold: 3}\n";
    s.create(&pod("web", SERVE, probes));
    s.pod_ready("web");
    contains(&s.event("web", "Unhealthy", SHORT), "Liveness probe failed: HTTP probe failed with statuscode: 404");
    s.until_value("pod web", "/status/containerStatuses/0/restartCount", LONG, |n| n.as_u64() >= Some(1));
}
