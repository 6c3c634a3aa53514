//! The scripts against the real kernel, in a namespace of their own: every transition must be accepted, and packets
//! must arrive.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use kube_proxy::plan::{Endpoint, Plan, PortKey, PortRules, Protocol, Target};
use kube_proxy::script;

struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        let this = Self(format!("kp{}", std::process::id()));
        sh(&format!("ip netns add {0} && ip -n {0} link set lo up", this.0));
        sh(&format!(
            "ip -n {0} link add d0 type bridge && ip -n {0} link set d0 up && ip -n {0} addr add 10.42.0.1/24 dev d0 && ip -n {0} route add default dev d0",
            this.0
        ));
        sh(&format!("ip -n {0} addr add 10.42.0.2/32 dev d0 && ip -n {0} addr add 10.42.0.3/32 dev d0", this.0));
        this
    }

    fn apply(&self, script: &str) {
        let path = PathBuf::from(format!("/run/netns/{}", self.0));
        sys::netns::in_namespace(&path, || sys::nft::apply(script))
            .unwrap()
            .unwrap_or_else(|e| panic!("{e}\n{script}"));
    }

    fn sh(&self, command: &str) -> (bool, String) {
        let output = Command::new("ip").args(["netns", "exec", &self.0, "sh", "-c", command]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    fn fetch(&self, address: &str) -> (bool, String) {
        self.sh(&format!("busybox nc -w 2 {address} </dev/null"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

fn sh(command: &str) {
    let output = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
}

fn plan(endpoints: &[u8], affinity: Option<u32>, node_port: Option<u16>) -> Plan {
    let key = PortKey { namespace: "ns".into(), service: "web.v1".into(), protocol: Protocol::Tcp, port: 80 };
    let target = match endpoints {
        [] => Target::Reject,
        some => Target::Endpoints(some.iter().map(|n| Endpoint { ip: [10, 42, 0, *n].into(), port: 8080 }).collect()),
    };
    let rules = PortRules {
        cluster_ips: BTreeSet::from([[10, 43, 0, 9].into()]),
        external_ips: BTreeSet::from([[192, 0, 2, 77].into()]),
        node_port,
        internal: target.clone(),
        external: target,
        masquerade_external: true,
        affinity,
    };
    Plan { ports: BTreeMap::from([(key, rules)]) }
}

#[test]
fn every_transition_is_accepted_and_packets_arrive() {
    let namespace = Namespace::new();
    for n in [2, 3] {
        let path = PathBuf::from(format!("/run/netns/{}", namespace.0));
        let listener =
            sys::netns::in_namespace(&path, || async move { TcpListener::bind((Ipv4Addr::new(10, 42, 0, n), 8080)) });
        let listener = listener.unwrap().unwrap();
        // A socket stays in the namespace that it was made in.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = writeln!(stream, "pod{n}");
            }
        });
    }
    let plans = [
        plan(&[], None, None),
        plan(&[2], None, None),
        plan(&[2, 3], None, Some(30080)),
        plan(&[2, 3], Some(60), Some(30080)),
        plan(&[3], Some(60), Some(30081)),
        plan(&[3], Some(90), None),
        plan(&[], None, Some(30081)),
        Plan::default(),
        plan(&[2, 3], Some(30), None),
    ];
    namespace.apply(&script::full(&Plan::default()));
    let mut current = Plan::default();
    // Every plan to every other, so that no order of change is refused.
    for from in &plans {
        for to in &plans {
            namespace.apply(&script::difference(&current, from));
            namespace.apply(&script::difference(from, to));
            current = to.clone();
        }
    }
    let settle = |to: &Plan| namespace.apply(&script::full(to));
    settle(&plan(&[2, 3], None, Some(30080)));
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        let (ok, text) = namespace.fetch("10.43.0.9 80");
        assert!(ok, "cluster IP: {text}");
        seen.insert(text);
    }
    assert_eq!(seen.len(), 2, "both endpoints answer: {seen:?}");
    for address in ["10.42.0.1 30080", "127.0.0.1 30080", "192.0.2.77 80"] {
        let (ok, text) = namespace.fetch(address);
        assert!(ok && text.starts_with("pod"), "{address}: {text}");
    }
    settle(&plan(&[2, 3], Some(60), None));
    let answers: BTreeSet<String> = (0..20).map(|_| namespace.fetch("10.43.0.9 80").1).collect();
    assert_eq!(answers.len(), 1, "one client stays with one endpoint: {answers:?}");
    settle(&plan(&[], None, Some(30080)));
    for address in ["10.43.0.9 80", "10.43.0.9 81", "10.42.0.1 30080"] {
        let (ok, text) = namespace.fetch(address);
        assert!(!ok && text.contains("refused"), "{address}: {text}");
    }
    namespace.apply(&script::teardown());
}
