//! The resolver configuration of a pod, by its `dnsPolicy` and `dnsConfig`.
//!
//! Invariants:
//! - DN-1: at most 3 name servers and 32 search domains of together 2048 characters; what is cut is told.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod;

use super::{is_host_network, text};
use crate::cri::v1::DnsConfig;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// What a resolver file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        for line in text.lines() {
            let mut words = line.split(['#', ';']).next().unwrap_or_default().split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                // The last line of its kind counts; "." has no meaning in a search list.
                Some("search") => {
                    out.searches =
                        words.map(|w| if w == "." { w } else { w.trim_end_matches('.') }.to_owned()).collect();
                }
                Some("options") => out.options = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        out
    }
}

/// The resolver of `pod`, and what had to be left out (for the event `DNSConfigForming`).
pub fn of_pod(pod: &Pod, host: &Resolver, cluster_dns: &[IpAddr], domain: &str) -> (DnsConfig, Vec<String>) {
    let spec = pod.spec.as_ref();
    let policy = spec.and_then(|s| s.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirst" => !is_host_network(pod),
        "ClusterFirstWithHostNet" => true,
        _ => false,
    } && !cluster_dns.is_empty();
    let mut resolver = if policy == "None" {
        Resolver::default()
    } else if cluster {
        let namespace = text(&pod.metadata.namespace);
        let own = [format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        let mut searches = own.to_vec();
        searches.extend(host.searches.iter().cloned());
        Resolver {
            servers: cluster_dns.iter().map(ToString::to_string).collect(),
            searches: unique(searches),
            options: vec!["ndots:5".into()],
        }
    } else {
        host.clone()
    };
    if let Some(config) = spec.and_then(|s| s.dns_config.as_ref()) {
        resolver.servers.extend(config.nameservers.iter().flatten().cloned());
        resolver.searches.extend(config.searches.iter().flatten().cloned());
        resolver.servers = unique(resolver.servers);
        resolver.searches = unique(resolver.searches);
        for option in config.options.iter().flatten() {
            let name = text(&option.name);
            resolver.options.retain(|o| o.split(':').next() != Some(name));
            resolver.options.push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            });
        }
    }
    let mut notes = Vec::new();
    if resolver.servers.len() > MAX_SERVERS {
        resolver.servers.truncate(MAX_SERVERS);
        notes.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            resolver.servers.join(" ")
        ));
    }
    let asked = resolver.searches.len();
    resolver.searches.truncate(MAX_SEARCHES);
    while resolver.searches.join(" ").len() > MAX_SEARCH_CHARS {
        resolver.searches.pop();
    }
    if resolver.searches.len() < asked {
        notes.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            resolver.searches.join(" ")
        ));
    }
    let Resolver { servers, searches, options } = resolver;
    (DnsConfig { servers, searches, options }, notes)
}

fn unique(list: Vec<String>) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for item in list {
        if !out.contains(&item) {
            out.push(item);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec})).expect("a pod")
    }

    fn resolve(spec: serde_json::Value) -> DnsConfig {
        let host = Resolver::parse("# x\nnameserver 9.9.9.9\nsearch lan. corp\noptions edns0\n");
        of_pod(&pod(spec), &host, &["10.43.0.10".parse().expect("an address")], "cluster.local").0
    }

    #[test]
    fn policies() {
        let first = resolve(json!({"containers": []}));
        assert_eq!(first.servers, ["10.43.0.10"]);
        assert_eq!(first.searches, ["ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan", "corp"]);
        assert_eq!(first.options, ["ndots:5"]);
        for spec in [json!({"containers": [], "dnsPolicy": "Default"}), json!({"containers": [], "hostNetwork": true})]
        {
            let host = resolve(spec);
            assert_eq!((host.servers, host.options), (vec!["9.9.9.9".to_owned()], vec!["edns0".to_owned()]));
        }
        let net = resolve(json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}));
        assert_eq!(net.servers, ["10.43.0.10"]);
    }

    #[test]
    fn own_configuration_is_merged_and_cut() {
        let own = resolve(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        assert_eq!((own.servers, own.searches), (vec!["1.1.1.1".to_owned()], vec!["a".to_owned()]));
        assert_eq!(own.options, ["ndots:2", "edns0"]);
        let spec = json!({"containers": [], "dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3"],
            "options": [{"name": "ndots", "value": "2"}]}});
        let (config, notes) =
            of_pod(&pod(spec), &Resolver::default(), &["10.43.0.10".parse().expect("an address")], "cluster.local");
        assert_eq!((config.servers.len(), config.options, notes.len()), (3, vec!["ndots:2".to_owned()], 1));
    }
}
