//! Tests of `alloc`.

use serde_json::json;

use super::*;
use crate::authz::tests::FakeReader;

fn allocator(cidr: &str, ports: RangeInclusive<u16>) -> ServiceAllocator {
    ServiceAllocator::load(cidr.parse().expect("cidr"), ports, FakeReader::with(&[]).as_ref())
}

fn service(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "a"}, "spec": spec})
}

fn stored(allocator: &ServiceAllocator, spec: Value) -> Value {
    let mut service = service(spec);
    allocator.assign(&mut service, None, false).expect("assigns").commit();
    service
}

#[test]
fn addresses_come_from_the_upper_band_first() {
    let allocator = allocator("10.0.0.0/24", 30000..=32767);
    assert_eq!(allocator.first_address().to_string(), "10.0.0.1");
    let mut seen = std::collections::HashSet::new();
    for n in 0..254 {
        let made = stored(&allocator, json!({"ports": [{"port": 80}]}));
        let ip: Ipv4Addr = made["spec"]["clusterIP"].as_str().expect("ip").parse().expect("ip");
        assert!(seen.insert(ip) && ip.octets()[3] != 0 && ip.octets()[3] != 255);
        assert_eq!(ip.octets()[3] >= 17, n < 238, "{ip} as number {n}");
    }
    let mut more = service(json!({}));
    let full = allocator.assign(&mut more, None, false).err().expect("full");
    assert_eq!(full.message, "Internal error occurred: failed to allocate a serviceIP: range is full");
}

#[test]
fn chosen_addresses() {
    let allocator = allocator("10.96.0.0/16", 30000..=32767);
    stored(&allocator, json!({"clusterIP": "10.96.0.1"}));
    let refuse = |ip: &str| {
        let mut wanted = service(json!({"clusterIP": ip}));
        allocator.assign(&mut wanted, None, false).err().expect("refused").message
    };
    assert_eq!(
        refuse("10.96.0.1"),
        r#"Service "s" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.1"]: failed to allocate IP 10.96.0.1: provided IP is already allocated"#
    );
    assert_eq!(
        refuse("1.2.3.4"),
        r#"Service "s" is invalid: spec.clusterIPs: Invalid value: ["1.2.3.4"]: failed to allocate IP 1.2.3.4: the provided network does not match the current range"#
    );
    allocator.release(&service(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"]})));
    stored(&allocator, json!({"clusterIP": "10.96.0.1"}));
}

#[test]
fn what_is_dropped_or_dry_is_given_back() {
    let allocator = allocator("10.0.0.0/30", 30000..=30000);
    let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
    for dry_run in [false, true] {
        let mut first = service(spec.clone());
        drop(allocator.assign(&mut first, None, dry_run).expect("assigns"));
        assert_eq!(first["spec"]["ports"][0]["nodePort"], 30000);
    }
    stored(&allocator, spec.clone());
    // The address that was taken before the ports ran out is free again.
    let full = allocator.assign(&mut service(spec), None, false).err().expect("full").message;
    assert!(full.contains("nodePort"), "{full}");
    stored(&allocator, json!({}));
}

#[test]
fn node_ports() {
    let allocator = allocator("10.96.0.0/16", 30000..=32767);
    let made = stored(
        &allocator,
        json!({"type": "NodePort", "ports": [
            {"port": 53, "protocol": "UDP", "name": "u"}, {"port": 53, "protocol": "TCP", "name": "t"},
            {"port": 80, "protocol": "TCP", "name": "h", "nodePort": 30080},
        ]}),
    );
    let ports = &made["spec"]["ports"];
    assert_eq!(ports[0]["nodePort"], ports[1]["nodePort"]);
    assert!(ports[0]["nodePort"].as_u64().expect("a port") >= 30086);
    let refuse = |port: u16| {
        let mut wanted = service(json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]}));
        allocator.assign(&mut wanted, None, false).err().expect("refused").message
    };
    assert_eq!(
        refuse(30080),
        r#"Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated"#
    );
    assert_eq!(
        refuse(80),
        r#"Service "s" is invalid: spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767"#
    );
    let local =
        stored(&allocator, json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "ports": [{"port": 80}]}));
    assert!(local["spec"]["healthCheckNodePort"].as_u64().is_some());
    let without = stored(
        &allocator,
        json!({"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{"port": 80}]}),
    );
    assert!(without["spec"]["ports"][0]["nodePort"].is_null());
}

#[test]
fn updates_keep_and_give_up() {
    let allocator = allocator("10.96.0.0/16", 30000..=32767);
    let update = |old: &Value, spec: Value| {
        let mut new = service(spec);
        allocator.assign(&mut new, Some(old), false).expect("assigns").commit();
        new
    };
    let first = stored(&allocator, json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
    let (ip, port) = (first["spec"]["clusterIP"].clone(), first["spec"]["ports"][0]["nodePort"].clone());
    let same = update(&first, json!({"type": "NodePort", "ports": [{"port": 80, "protocol": "TCP"}]}));
    assert_eq!((&same["spec"]["clusterIP"], &same["spec"]["ports"][0]["nodePort"]), (&ip, &port));
    let mut spec = same["spec"].clone();
    spec["type"] = "ClusterIP".into();
    let plain = update(&same, spec);
    assert!(plain["spec"]["ports"][0]["nodePort"].is_null());
    assert_eq!(plain["spec"]["clusterIP"], ip);
    // The port is free for others now, the address is not.
    stored(&allocator, json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": port}]}));
    let mut spec = plain["spec"].clone();
    spec["type"] = "ExternalName".into();
    let external = update(&plain, spec);
    for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        assert!(external["spec"][key].is_null(), "{key}");
    }
    stored(&allocator, json!({"clusterIP": ip}));
}

#[test]
fn headless_services_take_nothing() {
    let allocator = allocator("10.96.0.0/16", 30000..=32767);
    let made = stored(&allocator, json!({"clusterIP": "None", "selector": {"a": "b"}}));
    assert_eq!(made["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(made["spec"]["ipFamilyPolicy"], "SingleStack");
}

#[test]
fn a_restart_knows_what_is_taken() {
    let kept = service(
        json!({"type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 1, "nodePort": 30007}]}),
    );
    let reader = FakeReader::with(&[(SERVICES, kept)]);
    let allocator = ServiceAllocator::load("10.96.0.0/16".parse().expect("cidr"), 30000..=32767, reader.as_ref());
    for spec in
        [json!({"clusterIP": "10.96.0.7"}), json!({"type": "NodePort", "ports": [{"port": 1, "nodePort": 30007}]})]
    {
        assert!(allocator.assign(&mut service(spec), None, false).is_err());
    }
}
