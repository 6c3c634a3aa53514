//! Point 1 of issue 2: a two-tier application from one file, reached by DNS name, cluster IP and node port.

use std::collections::BTreeSet;

use crate::scene::{LONG, Scene, contains, text};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "app_two_tiers_from_one_file", run: Run::Shared(two_tiers) },
    Scenario { name: "app_seen_with_an_old_kubectl", run: Run::Shared(old_kubectl) },
];

const FILE: &str = include_str!("manifests/two-tier.yaml");

fn two_tiers(s: &Scene<'_>) {
    s.create(FILE);
    s.rolled_out("backend");
    s.rolled_out("frontend");
    s.until_endpoints("frontend", 3);
    s.until_endpoints("backend", 1);

    let ip = s.cluster_ip("frontend");
    contains(&s.get_ok(&ip, 80, "/"), "from the frontend");
    let service = s.json("service frontend");
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.expect("a node port was allocated");
    assert!((30000..=32767).contains(&port), "node port {port}");
    contains(&s.get_ok(&s.cluster.node_ip, port, "/"), "from the frontend");

    // From pod to pod by name: short, with the namespace, and in full, the last with and without the final dot.
    for host in [
        "backend".to_owned(),
        format!("backend.{}", s.ns),
        format!("backend.{}.svc", s.ns),
        format!("backend.{}.svc.cluster.local", s.ns),
        format!("backend.{}.svc.cluster.local.", s.ns),
    ] {
        contains(&s.get_ok(&ip, 80, &format!("/fetch?url=http://{host}/")), "from the backend");
    }

    let mut answered = BTreeSet::new();
    for _ in 0..60 {
        answered.insert(s.get_ok(&ip, 80, "/"));
    }
    assert_eq!(answered.len(), 3, "60 requests reached {answered:?}");

    let environment = s.get_ok(&ip, 80, "/fetch?url=http://backend/env");
    let backend = &s.pods("app=backend")[0];
    for line in [
        "GREETING=good morning",
        "PASSWORD=correct horse",
        "CPU_LIMIT=200",
        "KUBERNETES_SERVICE_HOST=10.43.0.1",
        "KUBERNETES_SERVICE_PORT=443",
        &format!("POD_IP={}", text(backend, "/status/podIP")),
        &format!("HOSTNAME={}", text(backend, "/metadata/name")),
    ] {
        contains(&environment, line);
    }
    contains(&s.get_ok(&ip, 80, "/fetch?url=http://backend/file?path=/etc/settings/backend.conf"), "color = blue");
    assert_eq!(text(backend, "/status/qosClass"), "Burstable");
}

fn old_kubectl(s: &Scene<'_>) {
    let old = s.cluster.old_kubectl.as_ref().expect("no kubectl 1.27: set KUBECTL_OLD");
    let run = |args: &[&str], input: Option<&str>| old.run(&[&["-n", s.ns.as_str()], args].concat(), input).ok();
    contains(&run(&["apply", "-f", "-"], Some(FILE)), "deployment.apps/frontend created");
    s.until_value("deployment frontend", "/status/readyReplicas", LONG, |n| n == 3);
    // The same file once more changes nothing (of a Secret's stringData kubectl cannot know).
    let again = run(&["apply", "-f", "-"], Some(FILE));
    assert!(
        again.lines().all(|line| line.ends_with(" unchanged") || line == "secret/credentials configured"),
        "{again}"
    );

    let wide = run(&["get", "pods", "-o", "wide"], None);
    for column in ["NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED NODE", "READINESS GATES"] {
        contains(&wide, column);
    }
    assert_eq!(wide.matches("1/1     Running").count(), 4, "{wide}");
    contains(&run(&["get", "deployments,services,configmaps,secrets", "-o", "wide"], None), "docker.io/kedge/pause:1");
    contains(&run(&["get", "nodes", "-o", "wide"], None), "containerd://");
    let described = run(&["describe", "deployment", "frontend"], None);
    contains(&described, "3 desired | 3 updated | 3 total | 3 available | 0 unavailable");
    contains(&described, "ScalingReplicaSet");
    let described = run(&["describe", "pod", "-l", "app=backend"], None);
    for part in ["QoS Class:", "Burstable", "Scheduled", "Pulled", "Created", "Started", "kube-api-access-"] {
        contains(&described, part);
    }
    contains(&run(&["describe", "service", "frontend"], None), "Endpoints:");
    contains(&run(&["describe", "node", &s.cluster.node], None), "Allocated resources:");
}
