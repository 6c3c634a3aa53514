//! The configuration of a pod's sandbox.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Pod;

use super::{is_host_network, security, text};
use crate::config::KubeletConfig;
use crate::containers::resources;
use crate::cri::v1;
use crate::quantity::value_of;
use crate::runtime::names;

/// The host name of `pod`, and its domain in the cluster if it has one.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    if let Some(name) = spec.and_then(|s| s.hostname_override.clone()) {
        return (name, None);
    }
    let wanted = spec.and_then(|s| s.hostname.clone()).filter(|n| !n.is_empty());
    let mut name = wanted.unwrap_or_else(|| text(&pod.metadata.name).to_owned());
    if name.len() > 63 {
        name.truncate(63);
        name = name.trim_end_matches(['-', '.']).to_owned();
    }
    let subdomain = spec.and_then(|s| s.subdomain.as_deref()).filter(|s| !s.is_empty());
    let domain = subdomain.map(|s| format!("{s}.{}.svc.{cluster_domain}", text(&pod.metadata.namespace)));
    (name, domain)
}

/// What the runtime is asked to make. `dns` comes from [`super::dns::of_pod`].
pub fn config(
    pod: &Pod,
    attempt: u32,
    config: &KubeletConfig,
    dns: Option<v1::DnsConfig>,
    cgroup_parent: String,
) -> v1::PodSandboxConfig {
    let meta = &pod.metadata;
    let (namespace, name, uid) = (text(&meta.namespace), text(&meta.name), text(&meta.uid));
    let spec = pod.spec.as_ref();
    let host_network = is_host_network(pod);
    let (mut host, domain) = hostname(pod, &config.cluster_domain);
    if let (Some(domain), Some(true)) = (&domain, spec.and_then(|s| s.set_hostname_as_fqdn)) {
        host = format!("{host}.{domain}");
    }
    let mut labels = plain(&meta.labels);
    labels.insert(names::POD_NAME.into(), name.into());
    labels.insert(names::POD_NAMESPACE.into(), namespace.into());
    labels.insert(names::POD_UID.into(), uid.into());
    let sysctls = spec
        .and_then(|s| s.security_context.as_ref())
        .and_then(|c| c.sysctls.as_ref())
        .map(|list| list.iter().map(|s| (s.name.clone(), s.value.clone())).collect())
        .unwrap_or_default();
    let total = |name: &str, limits| resources::pod_total(pod, name, limits);
    let overhead = spec.and_then(|s| s.overhead.as_ref()).map(|list| v1::LinuxContainerResources {
        memory_limit_in_bytes: value_of(Some(list), "memory").unwrap_or(0),
        cpu_shares: resources::shares(crate::quantity::milli_of(Some(list), "cpu").unwrap_or(0)) as i64,
        ..Default::default()
    });
    v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: name.into(),
            uid: uid.into(),
            namespace: namespace.into(),
            attempt,
        }),
        hostname: if host_network { String::new() } else { host },
        log_directory: config.pod_log_dir(namespace, name, uid).display().to_string(),
        dns_config: dns,
        port_mappings: if host_network { Vec::new() } else { ports(pod) },
        labels,
        annotations: plain(&meta.annotations),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent,
            security_context: Some(security::of_sandbox(pod)),
            sysctls,
            overhead,
            resources: Some(v1::LinuxContainerResources {
                cpu_shares: resources::shares(total("cpu", false)) as i64,
                cpu_quota: resources::quota(total("cpu", true)),
                cpu_period: resources::QUOTA_PERIOD as i64,
                memory_limit_in_bytes: total("memory", true) / 1000,
                ..Default::default()
            }),
        }),
    }
}

fn plain(map: &Option<BTreeMap<String, String>>) -> HashMap<String, String> {
    map.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn ports(pod: &Pod) -> Vec<v1::PortMapping> {
    let containers = super::all(pod);
    let ports = containers.iter().flat_map(|c| c.ports.iter().flatten());
    ports
        .map(|port| v1::PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => v1::Protocol::Udp,
                Some("SCTP") => v1::Protocol::Sctp,
                _ => v1::Protocol::Tcp,
            } as i32,
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::PauseImage;
    use serde_json::json;

    #[test]
    fn names_and_ports() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web-0", "namespace": "ns", "uid": "u", "labels": {"a": "b"}},
            "spec": {"subdomain": "web", "containers": [
                {"name": "c", "ports": [{"containerPort": 80, "hostPort": 8080}]}]}}))
        .expect("a pod");
        assert_eq!(hostname(&pod, "cluster.local"), ("web-0".into(), Some("web.ns.svc.cluster.local".into())));
        let pause = PauseImage { reference: "p".into(), tar: bytes::Bytes::new() };
        let kubelet = KubeletConfig::new("n", "10.0.0.1".parse().expect("an address"), pause);
        let out = config(&pod, 2, &kubelet, None, "/kubepods/podu".into());
        assert_eq!(out.labels["io.kubernetes.pod.uid"], "u");
        assert_eq!(out.labels["a"], "b");
        assert_eq!(out.log_directory, "/var/log/pods/ns_web-0_u");
        assert_eq!((out.port_mappings[0].host_port, out.metadata.expect("set").attempt), (8080, 2));
    }

    #[test]
    fn long_names_are_cut_to_a_label() {
        let name = format!("{}-{}", "a".repeat(62), "b".repeat(20));
        let pod: Pod = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a pod");
        assert_eq!(hostname(&pod, "x").0, "a".repeat(62));
    }
}
