//! Tests of `service`.

use super::*;
use crate::checks::testing::{created, cx, texts as shown};
use crate::kind::AllocationError;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

/// A range of a few numbers, counted up.
#[derive(Default)]
struct Pool {
    ips: BTreeSet<IpAddr>,
    ports: BTreeSet<u16>,
}

impl Allocator for Pool {
    fn take_ip(&mut self, ip: IpAddr) -> Result<(), String> {
        match ip {
            IpAddr::V4(v4) if v4.octets()[0] == 10 => {}
            _ => return Err("the provided network does not match the current range".into()),
        }
        if self.ips.insert(ip) { Ok(()) } else { Err("provided IP is already allocated".into()) }
    }

    fn next_ip(&mut self) -> Result<IpAddr, String> {
        let ip = (1..250).map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 0, n))).find(|ip| !self.ips.contains(ip));
        let ip = ip.ok_or("range is full")?;
        self.ips.insert(ip);
        Ok(ip)
    }

    fn take_port(&mut self, port: u16) -> Result<(), String> {
        if !(30000..=32767).contains(&port) {
            return Err("provided port is not in the valid range. The range of valid ports is 30000-32767".into());
        }
        if self.ports.insert(port) { Ok(()) } else { Err("provided port is already allocated".into()) }
    }

    fn next_port(&mut self) -> Result<u16, String> {
        let port = (30000..).find(|p| !self.ports.contains(p)).ok_or("range is full")?;
        self.ports.insert(port);
        Ok(port)
    }
}

/// What the server does on a write of the main resource.
fn write(pool: &mut Pool, mut object: Value, old: Option<&Value>) -> Result<Value, Vec<String>> {
    Service.default(&mut object);
    match Service.allocate(&mut object, old, pool) {
        Ok(()) => {}
        Err(AllocationError::Invalid(errors)) => return Err(shown(&errors)),
        Err(AllocationError::Internal(text)) => return Err(vec![text]),
    }
    let errors = match old {
        Some(old) => {
            Service.prepare_for_update(&cx(""), &mut object, old);
            Service.validate_update(&cx(""), &object, old)
        }
        None => {
            Service.prepare_for_create(&cx(""), &mut object);
            Service.validate(&cx(""), &object)
        }
    };
    if errors.is_empty() { Ok(object) } else { Err(shown(&errors)) }
}

fn create(spec: Value) -> Result<Value, Vec<String>> {
    write(&mut Pool::default(), json!({"spec": spec}), None)
}

fn errors(spec: Value) -> Vec<String> {
    create(spec).expect_err("the service is bad")
}

fn port() -> Value {
    json!([{"port": 80}])
}

#[test]
fn defaults_a_cluster_ip_service() {
    assert_eq!(
        create(json!({"ports": [{"port": 80, "targetPort": 0}, {"port": 81, "name": "b", "targetPort": "x"}]})),
        Err(vec!["spec.ports[0].name: Required value".to_owned()])
    );
    assert_eq!(
        create(json!({"ports": port()})),
        Ok(json!({
            "spec": {
                "type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "sessionAffinity": "None",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
            },
            "status": {"loadBalancer": {}},
        }))
    );
}

#[test]
fn headless_services() {
    let bare = create(json!({"clusterIP": "None"})).expect("valid");
    assert_eq!(bare["spec"]["ipFamilies"], json!(["IPv4", "IPv6"]));
    assert_eq!(bare["spec"]["ipFamilyPolicy"], "RequireDualStack");
    let selecting = create(json!({"clusterIP": "None", "selector": {"a": "b"}})).expect("valid");
    assert_eq!(selecting["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(
        errors(json!({"clusterIP": "None", "type": "NodePort", "ports": port()})),
        ["spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services"]
    );
}

#[test]
fn takes_node_ports() {
    let shared = create(json!({"type": "NodePort", "ports": [
        {"port": 53, "name": "u", "protocol": "UDP"}, {"port": 53, "name": "t"}, {"port": 80, "name": "h", "nodePort": 31000}]}))
    .expect("valid");
    let ports: Vec<_> = items(&shared["spec"], "ports").iter().map(|p| int(p, "nodePort")).collect();
    assert_eq!(ports, [30000, 30000, 31000]);
    assert_eq!(Service.claims(&shared).ports, [30000, 31000]);
    let local =
        create(json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": port()})).expect("valid");
    assert_eq!(local["spec"]["healthCheckNodePort"], 30001);
    let none = create(json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": port()}))
        .expect("valid");
    assert!(Service.claims(&none).ports.is_empty());
    assert_eq!(
        errors(json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 80}]})),
        [
            "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"
        ]
    );
}

#[test]
fn addresses_are_checked_before_all_else() {
    for (spec, want) in [
        (
            json!({"clusterIP": "1.2.3.4"}),
            "spec.clusterIPs: Invalid value: [\"1.2.3.4\"]: failed to allocate IP 1.2.3.4: the provided network does not match the current range",
        ),
        (
            json!({"clusterIP": "x"}),
            "spec.clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        ),
        (
            json!({"ipFamilyPolicy": "RequireDualStack"}),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
        ),
        (
            json!({"ipFamilies": ["IPv6"]}),
            "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
        ),
        (json!({"ipFamilies": ["IPv4", "IPv4"]}), "spec.ipFamilies[1]: Duplicate value: \"IPv4\""),
        (
            json!({"clusterIP": "10.0.0.1", "ipFamilies": ["IPv6"]}),
            "spec.clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            json!({"clusterIPs": ["10.0.0.1"]}),
            "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: must be empty when `clusterIP` is not specified",
        ),
    ] {
        // there are no ports either: upstream does not get that far
        assert_eq!(errors(spec), [want]);
    }
}

#[test]
fn validates_fields() {
    for (spec, want) in [
        (
            json!({"ports": [{"port": 0, "protocol": "X", "targetPort": "a_b"}]}),
            vec![
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].protocol: Unsupported value: \"X\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                "spec.ports[0].targetPort: Invalid value: \"a_b\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
            ],
        ),
        (
            json!({"ports": [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]}),
            vec![
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":1,\"TargetPort\":0,\"NodePort\":0}",
            ],
        ),
        (
            json!({"ports": port(), "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
            vec![
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
            ],
        ),
        (
            json!({"ports": port(), "externalTrafficPolicy": "Local"}),
            vec![
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        ),
        (
            json!({"type": "ExternalName", "externalName": "A"}),
            vec![
                "spec.externalName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        ),
        (
            json!({"type": "LoadBalancer", "ports": [{"port": 10250}], "loadBalancerSourceRanges": ["x"], "loadBalancerClass": "a b"}),
            vec![
                "spec.ports[0]: Invalid value: 10250: may not expose port 10250 externally since it is used by kubelet",
                "spec.LoadBalancerSourceRanges[0]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                "spec.loadBalancerClass: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            ],
        ),
    ] {
        assert_eq!(errors(spec), want);
    }
}

#[test]
fn updates_keep_what_was_taken() {
    let mut pool = Pool::default();
    let old = write(&mut pool, json!({"spec": {"type": "NodePort", "ports": port()}}), None).expect("valid");
    let new =
        write(&mut pool, json!({"spec": {"type": "NodePort", "ports": [{"port": 81}]}}), Some(&old)).expect("valid");
    assert_eq!(Service.claims(&new), Service.claims(&old));
    assert_eq!(pool.ports.len(), 1);
    let changed = write(
        &mut pool,
        json!({"spec": {"clusterIP": "10.0.0.9", "clusterIPs": ["10.0.0.9"], "ports": port()}}),
        Some(&old),
    );
    assert_eq!(
        changed,
        Err(vec!["spec.clusterIPs[0]: Invalid value: [\"10.0.0.9\"]: may not change once set".to_owned()])
    );
}

#[test]
fn changes_of_type_drop_and_take() {
    let mut pool = Pool::default();
    let lb = json!({"spec": {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "loadBalancerClass": "a/b", "ports": port()}});
    let old = write(&mut pool, lb, None).expect("valid");
    let mut patched = old.clone();
    patched["spec"]["type"] = json!("ClusterIP");
    patched["status"]["loadBalancer"] = json!({"ingress": [{"ip": "1.2.3.4"}]});
    let plain = write(&mut pool, patched, Some(&old)).expect("valid");
    assert_eq!(
        plain["spec"],
        json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "sessionAffinity": "None",
               "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}], "internalTrafficPolicy": "Cluster",
               "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"})
    );
    let mut patched = plain.clone();
    patched["spec"]["type"] = json!("ExternalName");
    patched["spec"]["externalName"] = json!("a.b");
    let name = write(&mut pool, patched, Some(&plain)).expect("valid");
    assert_eq!(
        name["spec"],
        json!({"type": "ExternalName", "externalName": "a.b", "sessionAffinity": "None",
               "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
    );
    let mut patched = name.clone();
    patched["spec"]["type"] = json!("NodePort");
    let back = write(&mut pool, patched, Some(&name)).expect("valid");
    assert_eq!(back["spec"]["clusterIP"], "10.0.0.2");
    assert_eq!(back["spec"]["externalTrafficPolicy"], "Cluster");
}

#[test]
fn status_is_for_load_balancers() {
    let service = created(&Service, json!({"spec": {"type": "LoadBalancer", "ports": port()}}));
    let with = |ingress: Value| {
        let mut changed = service.clone();
        changed["status"] = json!({"loadBalancer": {"ingress": [ingress]}});
        changed
    };
    let mut defaulted = with(json!({"ip": "1.2.3.4"}));
    Service.default(&mut defaulted);
    assert_eq!(defaulted["status"]["loadBalancer"]["ingress"][0]["ipMode"], "VIP");
    let check = |object: &Value| shown(&Service.validate_update(&cx("status"), object, &service));
    assert!(check(&defaulted).is_empty());
    assert_eq!(
        check(&with(json!({"hostname": "1.2.3.4", "ipMode": "VIP"}))),
        [
            "status.loadBalancer.ingress[0].ipMode: Forbidden: may not be specified when `ip` is not set",
            "status.loadBalancer.ingress[0].hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ]
    );
    let mut plain = defaulted.clone();
    plain["spec"]["type"] = json!("ClusterIP");
    assert_eq!(
        check(&plain),
        ["status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is 'LoadBalancer'"]
    );
}

#[test]
fn warns_and_prints() {
    let service = json!({
        "metadata": {"name": "s"},
        "spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"], "externalIPs": ["5.6.7.8"], "trafficDistribution": "PreferClose",
                 "ports": [{"port": 80, "nodePort": 30001, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}], "selector": {"b": "2", "a": "1"}},
        "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}, {"hostname": "h"}]}},
    });
    assert_eq!(
        Service.warnings(&cx(""), &service, None),
        [
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters",
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"",
        ]
    );
    let row = Service.row(&service, cx("").now);
    assert_eq!(row[2..5], [json!("10.0.0.1"), json!("1.1.1.1,h,5.6.7.8"), json!("80:30001/TCP,53/UDP")]);
    assert_eq!(row[6], "a=1,b=2");
}
