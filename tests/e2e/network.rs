//! Services, DNS and ports of the node beyond the sample application.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::scene::{LONG, SHORT, Scene, contains, service, shell_pod, text, web};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "network_dns_records", run: Run::Shared(dns) },
    Scenario { name: "network_service_without_endpoints_rejects", run: Run::Shared(rejects) },
    Scenario { name: "network_session_affinity", run: Run::Shared(affinity) },
    Scenario { name: "network_hairpin", run: Run::Shared(hairpin) },
    Scenario { name: "network_host_port", run: Run::Shared(host_port) },
    Scenario { name: "network_service_moves_with_its_pods", run: Run::Shared(moves) },
    Scenario { name: "network_pod_files", run: Run::Shared(files) },
];

fn dns(s: &Scene<'_>) {
    s.create(&web("web", 2));
    s.create(&service("web", ""));
    s.create(&service("headless", "  clusterIP: None\n").replace("app: headless", "app: web"));
    s.create(&shell_pod("asker"));
    s.rolled_out("web");
    s.pod_ready("asker");
    let pods = s.until_endpoints("headless", 2);
    let ip = s.cluster_ip("web");
    let ask = |kind: &str, name: &str| s.sh("asker", &format!("nslookup -type={kind} {name} 10.43.0.10")).text();
    let domain = format!("{}.svc.cluster.local", s.ns);

    contains(&ask("a", &format!("web.{domain}")), &ip);
    s.until("both pods behind the headless name", SHORT, || {
        let answer = ask("a", &format!("headless.{domain}"));
        pods.iter().all(|pod| answer.contains(pod.as_str())).then_some(())
    });
    contains(&ask("srv", &format!("_http._tcp.web.{domain}")), "80");
    let reversed: Vec<&str> = ip.split('.').rev().collect();
    contains(&ask("ptr", &format!("{}.in-addr.arpa", reversed.join("."))), &format!("web.{domain}"));
    contains(&ask("a", &format!("{}.{}.pod.cluster.local", pods[0].replace('.', "-"), s.ns)), &pods[0]);
    contains(&ask("a", &format!("absent.{domain}")), "NXDOMAIN");
    contains(&ask("a", "kubernetes.default.svc.cluster.local"), "10.43.0.1");
    // The search list of resolv.conf, through the C library's own resolver and busybox's.
    contains(&s.sh("asker", "curl -s http://web/").ok(), "Hello from");
    contains(&s.sh("asker", "wget -qO- http://web/").ok(), "Hello from");
}

fn rejects(s: &Scene<'_>) {
    s.create(&service("nobody", ""));
    let ip = s.cluster_ip("nobody");
    let begun = Instant::now();
    s.until("the connection is refused", SHORT, || {
        let begun = Instant::now();
        let error = s.get(&ip, 80, "/").err()?;
        (error.contains("refused") && begun.elapsed() < Duration::from_secs(2)).then_some(())
    });
    assert!(begun.elapsed() < SHORT);
    // As soon as there is a pod, it answers.
    s.create(&web("nobody", 1));
    s.rolled_out("nobody");
    contains(&s.get_ok(&ip, 80, "/"), "Hello from");
    s.k("scale deployment nobody --replicas=0");
    s.until_endpoints("nobody", 0);
    s.until("the connection is refused again", SHORT, || s.get(&ip, 80, "/").err().filter(|e| e.contains("refused")));
}

fn affinity(s: &Scene<'_>) {
    s.create(&web("sticky", 3));
    s.create(&service("sticky", "  sessionAffinity: ClientIP\n"));
    s.rolled_out("sticky");
    s.until_endpoints("sticky", 3);
    let ip = s.cluster_ip("sticky");
    s.get_ok(&ip, 80, "/");
    std::thread::sleep(Duration::from_secs(1));
    let answered: BTreeSet<String> = (0..20).map(|_| s.get_ok(&ip, 80, "/")).collect();
    assert_eq!(answered.len(), 1, "one client reached {answered:?}");
}

fn hairpin(s: &Scene<'_>) {
    s.create(&web("self", 1));
    s.create(&service("self", ""));
    s.rolled_out("self");
    let ip = s.cluster_ip("self");
    let body = s.get_ok(&ip, 80, "/fetch?url=http://self/");
    contains(&body, "Hello from self-");
}

fn host_port(s: &Scene<'_>) {
    let yaml = web("hosted", 1).replace("name: http}]", "name: http, hostPort: 18080}]");
    s.create(&yaml);
    s.rolled_out("hosted");
    contains(&s.get_ok(&s.cluster.node_ip, 18080, "/"), "Hello from hosted-");
    // The port is taken: a second pod cannot be placed, and the message says why.
    s.create(&yaml.replace("hosted", "second"));
    let pod = s.until("the second pod", SHORT, || s.pods("app=second").first().cloned());
    let message = s.event(&text(&pod, "/metadata/name"), "FailedScheduling", SHORT);
    contains(&message, "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.");
    s.k("delete deployment hosted --wait");
    s.until_value("deployment second", "/status/readyReplicas", LONG, |n| n == 1);
}

fn moves(s: &Scene<'_>) {
    s.create(&web("web", 1));
    s.create(&service("web", ""));
    s.rolled_out("web");
    let before = s.until_endpoints("web", 1);
    let ip = s.cluster_ip("web");
    s.k("delete pod -l app=web --wait");
    s.until("another pod behind the service", LONG, || {
        let now = s.endpoints("web");
        (now.len() == 1 && now != before).then_some(())
    });
    contains(&s.get_ok(&ip, 80, "/"), "Hello from web-");
    // A port that changes takes the rules along.
    s.kubectl(&[
        "patch",
        "service",
        "web",
        "--type=json",
        "-p",
        r#"[{"op":"replace","path":"/spec/ports/0/port","value":81}]"#,
    ])
    .ok();
    contains(&s.get_ok(&ip, 81, "/"), "Hello from web-");
    s.until("the old port is gone", SHORT, || s.get(&ip, 80, "/").is_err().then_some(()));
}

fn files(s: &Scene<'_>) {
    let yaml = shell_pod("files").replace(
        "spec:\n",
        "spec:\n  hostname: given\n  subdomain: sub\n  hostAliases: [{ip: 1.2.3.4, hostnames: [alias.example]}]\n",
    );
    s.create(&yaml);
    s.pod_ready("files");
    let resolv = s.sh("files", "cat /etc/resolv.conf").ok();
    contains(&resolv, "nameserver 10.43.0.10");
    contains(&resolv, &format!("search {}.svc.cluster.local svc.cluster.local cluster.local", s.ns));
    contains(&resolv, "options ndots:5");
    let hosts = s.sh("files", "cat /etc/hosts").ok();
    contains(&hosts, "# Kubernetes-managed hosts file.");
    contains(&hosts, &format!("given.sub.{}.svc.cluster.local\tgiven", s.ns));
    contains(&hosts, "1.2.3.4\talias.example");
    assert_eq!(s.sh("files", "hostname").ok().trim(), "given");
}
