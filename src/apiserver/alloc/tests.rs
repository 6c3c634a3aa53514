//! Tests of `alloc`.

use api::{Allocator as _, Claims};
use serde_json::json;

use super::*;
use crate::authz::tests::FakeReader;

fn allocator(cidr: &str, ports: RangeInclusive<u16>) -> ServiceAllocator {
    let reader = FakeReader::with(&[]);
    ServiceAllocator::load(cidr.parse().expect("cidr"), ports, &Kinds::builtin(), reader.as_ref())
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn addresses_come_from_the_upper_band_first() {
    let allocator = allocator("10.0.0.0/24", 30000..=32767);
    assert_eq!(allocator.first_address(), ip("10.0.0.1"));
    let mut seen = std::collections::HashSet::new();
    let mut write = allocator.begin(false);
    for n in 0..254 {
        let IpAddr::V4(ip) = write.next_ip().expect("room") else { panic!("IPv4") };
        assert!(seen.insert(ip) && ip.octets()[3] != 0 && ip.octets()[3] != 255);
        assert_eq!(ip.octets()[3] >= 17, n < 238, "{ip} as number {n}");
    }
    assert_eq!(write.next_ip().expect_err("full"), "range is full");
}

#[test]
fn chosen_numbers_are_refused_with_upstreams_words() {
    let allocator = allocator("10.96.0.0/16", 30000..=32767);
    let mut write = allocator.begin(false);
    write.take_ip(ip("10.96.0.1")).expect("free");
    write.take_port(30001).expect("free");
    write.commit();
    let mut other = allocator.begin(false);
    assert_eq!(other.take_ip(ip("10.96.0.1")).expect_err("taken"), "provided IP is already allocated");
    let outside = "the provided network does not match the current range";
    assert_eq!(other.take_ip(ip("1.2.3.4")).expect_err("outside"), outside);
    assert_eq!(other.take_port(30001).expect_err("taken"), "provided port is already allocated");
    let range = "provided port is not in the valid range. The range of valid ports is 30000-32767";
    assert_eq!(other.take_port(80).expect_err("outside"), range);
    let gone = Claims { ips: vec![ip("10.96.0.1")], ports: vec![30001] };
    allocator.free(&gone, &Claims { ips: Vec::new(), ports: vec![30001] });
    other.take_ip(ip("10.96.0.1")).expect("free again");
    assert!(other.take_port(30001).is_err(), "still held");
}

#[test]
fn what_is_dropped_or_dry_is_given_back() {
    let allocator = allocator("10.0.0.0/30", 30000..=30000);
    for dry_run in [false, true] {
        let mut write = allocator.begin(dry_run);
        write.take_ip(ip("10.0.0.2")).expect("free");
        write.take_port(30000).expect("free");
        if dry_run {
            write.commit();
        }
    }
    let mut write = allocator.begin(false);
    write.take_ip(ip("10.0.0.2")).expect("given back");
    write.take_port(30000).expect("given back");
}

#[test]
fn a_restart_knows_what_is_taken() {
    let kept = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "a"}, "spec": {
        "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [{"port": 1, "nodePort": 30007}],
    }});
    let reader = FakeReader::with(&[(SERVICES, kept)]);
    let cidr = "10.96.0.0/16".parse().expect("cidr");
    let allocator = ServiceAllocator::load(cidr, 30000..=32767, &Kinds::builtin(), reader.as_ref());
    let mut write = allocator.begin(false);
    assert!(write.take_ip(ip("10.96.0.7")).is_err() && write.take_port(30007).is_err());
}
