//! The table `kedge-cni`: masquerading of what leaves the cluster, and hostPorts.
//!
//! Invariants:
//! - NA-1: only the table `kedge-cni` is touched; setting it up again keeps the hostPorts of running pods.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::cni::PortMapping;

pub const TABLE: &str = "kedge-cni";

/// Creates the table and (re)writes its chains in one transaction.
pub fn setup(bridge: &str, pods_here: Ipv4Net, cluster: Ipv4Net) -> String {
    let base = r#"
add table ip kedge-cni
add map ip kedge-cni host-ports { type inet_proto . inet_service : ipv4_addr . inet_service ; }
add map ip kedge-cni host-ip-ports { type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service ; }
add set ip kedge-cni hairpin { type ipv4_addr . ipv4_addr ; }
add chain ip kedge-cni prerouting { type nat hook prerouting priority dstnat + 5 ; }
add chain ip kedge-cni output { type nat hook output priority -95 ; }
add chain ip kedge-cni postrouting { type nat hook postrouting priority srcnat + 5 ; }
add chain ip kedge-cni forward-ports
flush chain ip kedge-cni prerouting
flush chain ip kedge-cni output
flush chain ip kedge-cni postrouting
flush chain ip kedge-cni forward-ports
add rule ip kedge-cni prerouting fib daddr type local jump forward-ports
add rule ip kedge-cni output fib daddr type local jump forward-ports
add rule ip kedge-cni forward-ports dnat ip to ip daddr . meta l4proto . th dport map @host-ip-ports
add rule ip kedge-cni forward-ports dnat ip to meta l4proto . th dport map @host-ports
"#;
    let mut script = base.to_owned();
    let rules = [
        "ip saddr . ip daddr @hairpin ct status dnat masquerade".to_owned(),
        format!("ip saddr 127.0.0.0/8 oifname \"{bridge}\" masquerade"),
        format!("ip saddr {pods_here} ip daddr != {cluster} oifname != \"{bridge}\" masquerade"),
    ];
    for rule in rules {
        let _ = writeln!(script, "add rule ip {TABLE} postrouting {rule}");
    }
    script
}

fn key(mapping: &PortMapping) -> (&'static str, String) {
    let protocol = match mapping.protocol.to_ascii_lowercase().as_str() {
        "udp" => "udp",
        "sctp" => "sctp",
        _ => "tcp",
    };
    match mapping.host_ip.as_str() {
        "" | "0.0.0.0" | "::" => ("host-ports", format!("{protocol} . {}", mapping.host_port)),
        ip => ("host-ip-ports", format!("{ip} . {protocol} . {}", mapping.host_port)),
    }
}

pub fn add_host_ports(pod: Ipv4Addr, mappings: &[PortMapping]) -> String {
    let mut script = format!("add element ip {TABLE} hairpin {{ {pod} . {pod} }}\n");
    for mapping in mappings {
        let (map, key) = key(mapping);
        let _ = writeln!(script, "add element ip {TABLE} {map} {{ {key} : {pod} . {} }}", mapping.container_port);
    }
    script
}

pub fn delete_host_port(mapping: &PortMapping) -> String {
    let (map, key) = key(mapping);
    format!("delete element ip {TABLE} {map} {{ {key} }}\n")
}

/// Removes the table.
pub fn teardown() -> String {
    format!("add table ip {TABLE}\ndelete table ip {TABLE}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_name_protocol_port_and_address() {
        let mapping = |ip: &str, protocol: &str| PortMapping {
            host_port: 80,
            container_port: 8080,
            protocol: protocol.into(),
            host_ip: ip.into(),
        };
        let script = add_host_ports(Ipv4Addr::new(10, 42, 0, 2), &[mapping("", "TCP"), mapping("10.0.0.1", "udp")]);
        assert_eq!(
            script,
            "add element ip kedge-cni hairpin { 10.42.0.2 . 10.42.0.2 }\n\
             add element ip kedge-cni host-ports { tcp . 80 : 10.42.0.2 . 8080 }\n\
             add element ip kedge-cni host-ip-ports { 10.0.0.1 . udp . 80 : 10.42.0.2 . 8080 }\n"
        );
        assert_eq!(delete_host_port(&mapping("", "TCP")), "delete element ip kedge-cni host-ports { tcp . 80 }\n");
    }
}
