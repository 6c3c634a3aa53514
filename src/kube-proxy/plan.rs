//! What should be programmed, from Services and EndpointSlices. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::NODE_LOCAL_ANNOTATION;

pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Self {
        match text {
            Some("UDP") => Self::Udp,
            Some("SCTP") => Self::Sctp,
            _ => Self::Tcp,
        }
    }

    pub fn text(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of one service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    pub namespace: String,
    pub service: String,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub ip: Ipv4Addr,
    pub port: u16,
}

/// Where the packets of a group of addresses go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Sorted.
    Endpoints(Vec<Endpoint>),
    /// No endpoint at all: refuse.
    Reject,
    /// Endpoints, but none that the traffic policy allows here: drop, so that load balancers look elsewhere.
    Drop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRules {
    pub cluster_ips: BTreeSet<Ipv4Addr>,
    /// External and load-balancer addresses.
    pub external_ips: BTreeSet<Ipv4Addr>,
    pub node_port: Option<u16>,
    pub internal: Target,
    pub external: Target,
    /// External traffic hides its source, so that answers come back over this node.
    pub masquerade_external: bool,
    /// Seconds of client affinity.
    pub affinity: Option<u32>,
}

/// Everything that should be programmed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    pub ports: BTreeMap<PortKey, PortRules>,
}

/// The rules of one service; `slices` are its own.
pub fn plan_service(service: &Service, slices: &[&EndpointSlice], node: &str) -> BTreeMap<PortKey, PortRules> {
    let mut ports = BTreeMap::new();
    let Some(spec) = &service.spec else { return ports };
    let meta = &service.metadata;
    let label = |name: &str| meta.labels.as_ref().is_some_and(|labels| labels.contains_key(name));
    let annotated = meta.annotations.as_ref().is_some_and(|all| all.contains_key(NODE_LOCAL_ANNOTATION));
    if spec.type_.as_deref() == Some("ExternalName") || label(PROXY_NAME_LABEL) || annotated {
        return ports;
    }
    let cluster_ips = parse_all(spec.cluster_ips.iter().flatten().chain(spec.cluster_ip.as_ref()));
    if cluster_ips.is_empty() {
        return ports;
    }
    let ingress = service.status.iter().flat_map(|status| status.load_balancer.iter());
    let ingress = ingress.flat_map(|lb| lb.ingress.iter().flatten());
    let ingress = ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref());
    let external_ips = parse_all(spec.external_ips.iter().flatten().chain(ingress));
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        config.and_then(|config| config.timeout_seconds).and_then(|s| u32::try_from(s).ok()).unwrap_or(10_800)
    });
    let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
    let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
    for port in spec.ports.iter().flatten() {
        let Ok(number) = u16::try_from(port.port) else { continue };
        let candidates = candidates(slices, port, node);
        let key = PortKey {
            namespace: meta.namespace.clone().unwrap_or_default(),
            service: meta.name.clone().unwrap_or_default(),
            protocol: Protocol::parse(port.protocol.as_deref()),
            port: number,
        };
        let rules = PortRules {
            cluster_ips: cluster_ips.clone(),
            external_ips: external_ips.clone(),
            node_port: port.node_port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0),
            internal: target(&candidates, internal_local),
            external: target(&candidates, external_local),
            masquerade_external: !external_local,
            affinity,
        };
        ports.insert(key, rules);
    }
    ports
}

fn parse_all<'a>(texts: impl Iterator<Item = &'a String>) -> BTreeSet<Ipv4Addr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

struct Candidate {
    endpoint: Endpoint,
    ready: bool,
    /// Still answers although its pod is going away.
    leaving: bool,
    local: bool,
}

fn candidates(slices: &[&EndpointSlice], port: &ServicePort, node: &str) -> Vec<Candidate> {
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| slice.address_type == "IPv4") {
        let wanted = port.name.as_deref().unwrap_or_default();
        let matching = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == wanted
                && Protocol::parse(p.protocol.as_deref()) == Protocol::parse(port.protocol.as_deref())
        });
        let Some(number) = matching.and_then(|p| p.port).and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            let conditions = endpoint.conditions.as_ref();
            let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
            let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
            let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
            let local = endpoint.node_name.as_deref() == Some(node);
            for ip in endpoint.addresses.iter().filter_map(|text| text.parse().ok()) {
                let endpoint = Endpoint { ip, port: number };
                found.push(Candidate {
                    endpoint,
                    ready: ready && !terminating,
                    leaving: serving && terminating,
                    local,
                });
            }
        }
    }
    found
}

/// Ready endpoints; if there are none, those that are leaving but still answer.
fn target(candidates: &[Candidate], local_only: bool) -> Target {
    let pick = |keep: &dyn Fn(&Candidate) -> bool, local: bool| {
        let chosen: BTreeSet<Endpoint> =
            candidates.iter().filter(|c| keep(c) && (!local || c.local)).map(|c| c.endpoint).collect();
        (!chosen.is_empty()).then(|| Target::Endpoints(chosen.into_iter().collect()))
    };
    let usable = |local| pick(&|c| c.ready, local).or_else(|| pick(&|c| c.leaving, local));
    match (usable(local_only), local_only) {
        (Some(target), _) => target,
        (None, true) if usable(false).is_some() => Target::Drop,
        (None, _) => Target::Reject,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn rules(spec: Value, endpoints: Value) -> PortRules {
        let mut spec = spec;
        spec["clusterIP"] = json!("10.43.0.9");
        spec["ports"] = json!([{ "name": "web", "port": 80, "nodePort": 30080 }]);
        let service = serde_json::from_value(json!({ "metadata": { "name": "s", "namespace": "n" }, "spec": spec }))
            .expect("a service");
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {}, "addressType": "IPv4", "ports": [{ "name": "web", "port": 8080 }], "endpoints": endpoints,
        }))
        .expect("a slice");
        plan_service(&service, &[&slice], "here").into_values().next().expect("one port")
    }

    fn endpoints(ips: &[[u8; 4]]) -> Target {
        Target::Endpoints(ips.iter().map(|ip| Endpoint { ip: (*ip).into(), port: 8080 }).collect())
    }

    #[test]
    fn ready_endpoints_then_leaving_ones_then_none() {
        let ready = json!({ "addresses": ["10.42.0.2"] });
        let unready = json!({ "addresses": ["10.42.0.3"], "conditions": { "ready": false } });
        let leaving = json!({ "addresses": ["10.42.0.4"], "conditions": { "ready": false, "serving": true, "terminating": true } });
        assert_eq!(rules(json!({}), json!([ready, unready, leaving])).internal, endpoints(&[[10, 42, 0, 2]]));
        assert_eq!(rules(json!({}), json!([unready, leaving])).internal, endpoints(&[[10, 42, 0, 4]]));
        assert_eq!(rules(json!({}), json!([unready])).internal, Target::Reject);
    }

    #[test]
    fn a_local_policy_uses_local_endpoints_or_drops() {
        let away = json!({ "addresses": ["10.42.1.2"], "nodeName": "there" });
        let here = json!({ "addresses": ["10.42.0.2"], "nodeName": "here" });
        let local = json!({ "externalTrafficPolicy": "Local", "sessionAffinity": "ClientIP" });
        let mixed = rules(local.clone(), json!([away, here]));
        assert_eq!((&mixed.external, mixed.masquerade_external), (&endpoints(&[[10, 42, 0, 2]]), false));
        assert_eq!(mixed.internal, endpoints(&[[10, 42, 0, 2], [10, 42, 1, 2]]));
        assert_eq!(mixed.affinity, Some(10_800));
        assert_eq!(rules(local.clone(), json!([away])).external, Target::Drop);
        assert_eq!(rules(local, json!([])).external, Target::Reject);
    }

    #[test]
    fn headless_and_external_names_are_left_alone() {
        for spec in [json!({ "clusterIP": "None" }), json!({ "type": "ExternalName", "clusterIP": "10.43.0.1" })] {
            let service =
                serde_json::from_value(json!({ "metadata": { "name": "s" }, "spec": spec })).expect("a service");
            assert!(plan_service(&service, &[], "here").is_empty());
        }
    }
}
