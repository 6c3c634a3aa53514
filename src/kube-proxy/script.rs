//! A plan, or the difference of two, as an nft script. Pure.
//!
//! One chain per service port and direction does the choice among endpoints; two verdict maps lead into them. Endpoints
//! that reach themselves through their service are masqueraded by one set.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::plan::{Endpoint, Plan, PortKey, PortRules, Target};

pub const TABLE: &str = "kedge-proxy";
/// Packets with this mark are masqueraded.
const MARK: &str = "0x4000";

/// The table's fixed part.
fn base() -> String {
    format!(
        r#"add table ip {TABLE}
delete table ip {TABLE}
add table ip {TABLE}
add map ip {TABLE} service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add map ip {TABLE} service-nodeports {{ type inet_proto . inet_service : verdict ; }}
add map ip {TABLE} refused-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add map ip {TABLE} refused-nodeports {{ type inet_proto . inet_service : verdict ; }}
add set ip {TABLE} cluster-ips {{ type ipv4_addr ; }}
add set ip {TABLE} hairpin {{ type ipv4_addr . ipv4_addr ; }}
add chain ip {TABLE} nat-prerouting {{ type nat hook prerouting priority dstnat ; }}
add chain ip {TABLE} nat-output {{ type nat hook output priority -100 ; }}
add chain ip {TABLE} nat-postrouting {{ type nat hook postrouting priority srcnat ; }}
add chain ip {TABLE} filter-input {{ type filter hook input priority -110 ; }}
add chain ip {TABLE} filter-forward {{ type filter hook forward priority -110 ; }}
add chain ip {TABLE} filter-output {{ type filter hook output priority -110 ; }}
add chain ip {TABLE} filter-output-late {{ type filter hook output priority -90 ; }}
add chain ip {TABLE} services
add chain ip {TABLE} check
add chain ip {TABLE} check-cluster-ips
add chain ip {TABLE} mark-for-masquerade
add chain ip {TABLE} refuse
add rule ip {TABLE} nat-prerouting jump services
add rule ip {TABLE} nat-output jump services
add rule ip {TABLE} nat-postrouting ct status dnat ip saddr . ip daddr @hairpin masquerade
add rule ip {TABLE} nat-postrouting meta mark and {MARK} == {MARK} meta mark set meta mark xor {MARK} masquerade
add rule ip {TABLE} services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip {TABLE} services fib daddr type local meta l4proto . th dport vmap @service-nodeports
add rule ip {TABLE} mark-for-masquerade meta mark set meta mark or {MARK}
add rule ip {TABLE} filter-input ct state new jump check
add rule ip {TABLE} filter-forward ct state new jump check
add rule ip {TABLE} filter-forward ct state new jump check-cluster-ips
add rule ip {TABLE} filter-output ct state new jump check
add rule ip {TABLE} filter-output-late ct state new jump check-cluster-ips
add rule ip {TABLE} check ip daddr . meta l4proto . th dport vmap @refused-ips
add rule ip {TABLE} check fib daddr type local meta l4proto . th dport vmap @refused-nodeports
add rule ip {TABLE} check-cluster-ips ip daddr @cluster-ips jump refuse
add rule ip {TABLE} refuse reject
"#
    )
}

/// Replaces the whole table.
pub fn full(plan: &Plan) -> String {
    base() + &difference(&Plan::default(), plan)
}

/// Removes the table.
pub fn teardown() -> String {
    format!("add table ip {TABLE}\ndelete table ip {TABLE}\n")
}

/// Takes the table from `old` to `new`; empty when nothing differs.
pub fn difference(old: &Plan, new: &Plan) -> String {
    let (old_elements, new_elements) = (Elements::of(old), Elements::of(new));
    let mut out = String::new();
    // References go before what they refer to, and come after it.
    old_elements.write(&new_elements, "delete", &mut out);
    let changed = |a: &Plan, b: &Plan| -> BTreeMap<String, Chain> {
        let differing = a.ports.iter().filter(|(key, rules)| b.ports.get(key) != Some(rules));
        differing.flat_map(|(key, rules)| chains(key, rules)).map(|chain| (chain.name.clone(), chain)).collect()
    };
    let (before, after) = (changed(old, new), changed(new, old));
    // Emptied first: a chain or set that something still refers to cannot be deleted.
    for (name, _) in before.iter().filter(|(name, chain)| after.get(*name) != Some(chain)) {
        let _ = writeln!(out, "flush chain ip {TABLE} {name}");
    }
    for (name, chain) in before.iter().filter(|(name, _)| !after.contains_key(*name)) {
        let _ = writeln!(out, "delete chain ip {TABLE} {name}");
        if let Some((set, _)) = &chain.affinity {
            let _ = writeln!(out, "delete set ip {TABLE} {set}");
        }
    }
    for (name, chain) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        if let Some((set, seconds)) = &chain.affinity {
            let _ = writeln!(
                out,
                "add set ip {TABLE} {set} {{ type ipv4_addr ; flags dynamic,timeout ; timeout {seconds}s ; }}"
            );
        }
        let _ = writeln!(out, "add chain ip {TABLE} {name}");
    }
    for (name, chain) in after.iter().filter(|(name, chain)| before.get(*name) != Some(chain)) {
        for rule in &chain.rules {
            let _ = writeln!(out, "add rule ip {TABLE} {name} {rule}");
        }
    }
    new_elements.write(&old_elements, "add", &mut out);
    out
}

/// Map and set elements, each as nft writes it. A value that changed is another element.
#[derive(Default)]
struct Elements(BTreeMap<&'static str, BTreeSet<String>>);

impl Elements {
    fn of(plan: &Plan) -> Self {
        let mut elements = Self::default();
        for (key, rules) in &plan.ports {
            let (protocol, port) = (key.protocol.text(), key.port);
            for ip in &rules.cluster_ips {
                elements.add("cluster-ips", ip.to_string());
                elements.address(key, &rules.internal, "i", format!("{ip} . {protocol} . {port}"), "ips");
            }
            for ip in &rules.external_ips {
                elements.address(key, &rules.external, "e", format!("{ip} . {protocol} . {port}"), "ips");
            }
            if let Some(port) = rules.node_port {
                elements.address(key, &rules.external, "e", format!("{protocol} . {port}"), "nodeports");
            }
            for target in [&rules.internal, &rules.external] {
                if let Target::Endpoints(endpoints) = target {
                    for endpoint in endpoints {
                        elements.add("hairpin", format!("{0} . {0}", endpoint.ip));
                    }
                }
            }
        }
        elements
    }

    fn address(&mut self, key: &PortKey, target: &Target, direction: &str, element: String, kind: &str) {
        let (service, refused) = match kind {
            "ips" => ("service-ips", "refused-ips"),
            _ => ("service-nodeports", "refused-nodeports"),
        };
        match target {
            Target::Endpoints(_) => self.add(service, format!("{element} : goto {}", chain_name(key, direction))),
            Target::Reject => self.add(refused, format!("{element} : goto refuse")),
            Target::Drop => self.add(refused, format!("{element} : drop")),
        }
    }

    fn add(&mut self, container: &'static str, element: String) {
        self.0.entry(container).or_default().insert(element);
    }

    /// Writes what `self` has and `other` has not.
    fn write(&self, other: &Self, verb: &str, out: &mut String) {
        for (container, mine) in &self.0 {
            // Several services may share an endpoint; a stale pair harms nobody and goes with the next full sync.
            if verb == "delete" && *container == "hairpin" {
                continue;
            }
            let theirs = other.0.get(container);
            let only: Vec<&str> =
                mine.iter().filter(|e| !theirs.is_some_and(|t| t.contains(*e))).map(String::as_str).collect();
            if !only.is_empty() {
                let _ = writeln!(out, "{verb} element ip {TABLE} {container} {{ {} }}", only.join(", "));
            }
        }
    }
}

/// A chain with its rules, and the set that belongs to it.
#[derive(PartialEq, Eq)]
struct Chain {
    name: String,
    rules: Vec<String>,
    /// Set name and timeout in seconds.
    affinity: Option<(String, u32)>,
}

/// The chains of a port.
fn chains(key: &PortKey, rules: &PortRules) -> Vec<Chain> {
    let mut chains = Vec::new();
    let external_used = rules.node_port.is_some() || !rules.external_ips.is_empty();
    let mut direction = |target: &Target, name: &str, masquerade: bool| {
        let Target::Endpoints(endpoints) = target else { return };
        let mut chain = Chain { name: chain_name(key, name), rules: Vec::new(), affinity: None };
        if masquerade {
            chain.rules.push("jump mark-for-masquerade".into());
        }
        match rules.affinity {
            None => chain.rules.push(choose(key, endpoints)),
            Some(seconds) => {
                let own: Vec<Chain> = endpoints.iter().map(|e| endpoint_chain(key, name, e, seconds)).collect();
                for (endpoint, _) in own.iter().zip(endpoints) {
                    let set = endpoint.affinity.as_ref().map(|(set, _)| set.as_str()).unwrap_or_default();
                    chain.rules.push(format!("ip saddr @{set} goto {}", endpoint.name));
                }
                let verdicts: Vec<String> =
                    own.iter().enumerate().map(|(at, endpoint)| format!("{at} : goto {}", endpoint.name)).collect();
                chain.rules.push(format!("numgen random mod {} vmap {{ {} }}", own.len(), verdicts.join(", ")));
                chains.extend(own);
            }
        }
        chains.push(chain);
    };
    direction(&rules.internal, "i", false);
    if external_used {
        direction(&rules.external, "e", rules.masquerade_external);
    }
    chains
}

fn choose(key: &PortKey, endpoints: &[Endpoint]) -> String {
    if let [only] = endpoints {
        return dnat(key, only);
    }
    let choices: Vec<String> =
        endpoints.iter().enumerate().map(|(at, e)| format!("{at} : {} . {}", e.ip, e.port)).collect();
    let protocol = key.protocol.text();
    format!("meta l4proto {protocol} dnat ip to numgen random mod {} map {{ {} }}", endpoints.len(), choices.join(", "))
}

fn dnat(key: &PortKey, to: &Endpoint) -> String {
    format!("meta l4proto {} dnat ip to {}:{}", key.protocol.text(), to.ip, to.port)
}

fn endpoint_chain(key: &PortKey, direction: &str, endpoint: &Endpoint, seconds: u32) -> Chain {
    let id = format!("{}-{}-{}-{seconds}", chain_name(key, direction), dashed(endpoint.ip), endpoint.port);
    let set = format!("aff-{id}");
    Chain {
        name: format!("ep-{id}"),
        rules: vec![format!("update @{set} {{ ip saddr }}"), dnat(key, endpoint)],
        affinity: Some((set, seconds)),
    }
}

fn dashed(ip: Ipv4Addr) -> String {
    ip.octets().map(|octet| octet.to_string()).join("-")
}

/// Unique and readable: a hash, since nft limits names to 128 bytes, and as much of the names as fits.
fn chain_name(key: &PortKey, direction: &str) -> String {
    let full = format!("{}/{}/{}/{}", key.namespace, key.service, key.protocol.text(), key.port);
    // FNV-1a: stable over builds, unlike the standard hasher.
    let hash = full
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let readable: String = format!("{}-{}", key.namespace, key.service).chars().take(40).collect();
    let readable = readable.replace('.', "-");
    format!("svc-{direction}-{hash:016x}-{readable}-{}", key.port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Protocol;

    fn plan(endpoints: &[u8], affinity: Option<u32>) -> Plan {
        let key = PortKey { namespace: "ns".into(), service: "web".into(), protocol: Protocol::Tcp, port: 80 };
        let target = match endpoints {
            [] => Target::Reject,
            some => {
                Target::Endpoints(some.iter().map(|n| Endpoint { ip: [10, 42, 0, *n].into(), port: 8080 }).collect())
            }
        };
        let rules = PortRules {
            cluster_ips: BTreeSet::from([[10, 43, 0, 9].into()]),
            external_ips: BTreeSet::new(),
            node_port: None,
            internal: target.clone(),
            external: target,
            masquerade_external: true,
            affinity,
        };
        Plan { ports: BTreeMap::from([(key, rules)]) }
    }

    #[test]
    fn a_changed_endpoint_touches_only_its_own_chain() {
        let script = difference(&plan(&[2], None), &plan(&[2, 3], None));
        let lines: Vec<&str> = script.lines().collect();
        assert_eq!(lines.len(), 3, "{script}");
        assert!(lines[0].starts_with("flush chain ip kedge-proxy svc-i-"));
        assert!(script.contains("dnat ip to numgen random mod 2 map { 0 : 10.42.0.2 . 8080, 1 : 10.42.0.3 . 8080 }"));
        assert!(script.contains("add element ip kedge-proxy hairpin { 10.42.0.3 . 10.42.0.3 }"));
        assert_eq!(difference(&plan(&[2], None), &plan(&[2], None)), "");
    }

    #[test]
    fn a_service_without_endpoints_refuses() {
        let script = difference(&plan(&[2], None), &plan(&[], None));
        assert!(
            script.contains("add element ip kedge-proxy refused-ips { 10.43.0.9 . tcp . 80 : goto refuse }"),
            "{script}"
        );
    }
}
