//! The CNI plugin for real: a namespace that plays the node, two that play pods.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::path::PathBuf;
use std::process::Command;

use network::cni::{CniEnvironment, run};
use network::{NodeNetworkConfig, node};
use serde_json::{Value, json};

/// Network namespaces that go away with the test, also when it fails.
struct Namespaces(Vec<String>);

impl Namespaces {
    fn new(names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| format!("kt{}-{name}", std::process::id())).collect();
        let this = Self(names);
        for name in &this.0 {
            sh(&format!("ip netns add {name}"));
        }
        this
    }

    fn path(&self, at: usize) -> PathBuf {
        format!("/run/netns/{}", self.0[at]).into()
    }

    fn exec(&self, at: usize, command: &str) -> (bool, String) {
        let output = Command::new("ip").args(["netns", "exec", &self.0[at], "sh", "-c", command]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn sh(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pods_reach_each_other_the_node_and_their_host_ports() {
    let namespaces = Namespaces::new(&["node", "a", "b"]);
    let folder = tempfile::tempdir().unwrap();
    let config = NodeNetworkConfig {
        node_name: "n1".into(),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        bridge: "kedge0".into(),
        cni_conf_dir: folder.path().join("net.d"),
        cni_bin_dir: folder.path().join("bin"),
        program: "/bin/true".into(),
        addresses_dir: folder.path().join("addresses"),
    };
    sh(&format!("ip -n {} link set lo up", namespaces.0[0]));
    for _ in 0..2 {
        // Twice: setting up again must change nothing.
        sys::netns::in_namespace(&namespaces.path(0), || node::set_up(&config, "10.42.7.0/24")).unwrap().unwrap();
    }
    let list: Value =
        serde_json::from_slice(&std::fs::read(folder.path().join("net.d/10-kedge.conflist")).unwrap()).unwrap();
    let mut plugin = list["plugins"][0].clone();
    plugin["cniVersion"] = "1.0.0".into();
    plugin["name"] = "kedge".into();
    plugin["runtimeConfig"] =
        json!({ "portMappings": [{ "hostPort": 8081, "containerPort": 9000, "protocol": "tcp", "hostIP": "" }] });
    let call = |command: &str, id: &str, at: usize, plugin: &Value| {
        let environment = CniEnvironment {
            command: command.into(),
            container_id: id.into(),
            namespace: Some(namespaces.path(at)),
            interface: "eth0".into(),
        };
        let input = plugin.to_string();
        sys::netns::in_namespace(&namespaces.path(0), || async {
            std::thread::scope(|scope| scope.spawn(|| run(&environment, input.as_bytes())).join().unwrap())
        })
        .unwrap()
    };
    let loopback = json!({ "cniVersion": "0.3.1", "name": "cni-loopback", "type": "loopback" });
    let looped = call("ADD", "aaaaaaaabbbb", 1, &loopback);
    assert!(looped.success && looped.stdout.contains("127.0.0.1/8"), "{}", looped.stdout);
    assert!(namespaces.exec(1, "ip link show lo").1.contains("UP"));
    let added = call("ADD", "aaaaaaaabbbb", 1, &plugin);
    assert!(added.success, "{}", added.stdout);
    let result: Value = serde_json::from_str(&added.stdout).unwrap();
    assert_eq!(result["ips"][0]["address"], "10.42.7.2/32");
    let mut plain = plugin.clone();
    plain["runtimeConfig"] = json!({});
    let added = call("ADD", "bbbbbbbbcccc", 2, &plain);
    assert!(added.success, "{}", added.stdout);
    assert!(call("CHECK", "bbbbbbbbcccc", 2, &plain).success);

    for (at, command) in [
        (2, "ping -c1 -W2 10.42.7.2"),
        (1, "ping -c1 -W2 10.42.7.3"),
        (1, "ping -c1 -W2 10.42.7.1"),
        (0, "ping -c1 -W2 10.42.7.3"),
    ] {
        let busybox = format!("busybox {command}");
        let (ok, text) = namespaces.exec(at, &busybox);
        assert!(ok, "{at} {command}: {text}");
    }
    // The pod behind the hostPort: through the node's address, from the node, from a pod, and from itself.
    let mut server = Command::new("ip")
        .args(["netns", "exec", &namespaces.0[1], "busybox", "nc", "-ll", "-p", "9000", "-e", "/bin/echo", "hello"])
        .spawn()
        .unwrap();
    let fetch = |at: usize, address: &str| {
        let deadline = "for i in 1 2 3 4 5 6 7 8 9 10; do busybox nc -w 2 ADDR 8081 </dev/null && exit 0; busybox usleep 100000; done; exit 1";
        namespaces.exec(at, &deadline.replace("ADDR", address))
    };
    let answers: Vec<_> = [(0, "10.42.7.1"), (0, "127.0.0.1"), (2, "10.42.7.1"), (1, "10.42.7.1")]
        .map(|(at, address)| (at, address, fetch(at, address)))
        .to_vec();
    server.kill().unwrap();
    server.wait().unwrap();
    for (at, address, (ok, text)) in answers {
        assert!(ok && text.contains("hello"), "from {at} to {address}:8081: {text}");
    }

    for _ in 0..2 {
        assert!(call("DEL", "aaaaaaaabbbb", 1, &plugin).success);
    }
    let (_, rules) = namespaces.exec(0, "nft list table ip kedge-cni");
    assert!(!rules.contains("8081"), "the hostPort is gone: {rules}");
    assert!(!call("CHECK", "aaaaaaaabbbb", 1, &plain).success);
    sys::netns::in_namespace(&namespaces.path(0), || node::tear_down(&config)).unwrap().unwrap();
    let (_, links) = namespaces.exec(0, "ip -br link");
    assert!(!links.contains("kedge0") && !links.contains("veth"), "{links}");
}
