//! The services that make this machine a node.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use component_base::Supervisor;
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Taint;
use kube_proxy::{KubeProxy, KubeProxyConfig};
use kubelet::cri::Cri;
use kubelet::server::{KubeletServer, KubeletServerConfig};
use kubelet::{Containerd, ContainerdMode, Kubelet, KubeletConfig, PauseImage};
use network::dns::{ClusterDns, ClusterDnsConfig};
use network::{NodeNetwork, NodeNetworkConfig};

use super::cluster::{Shared, user};
use super::preflight::Held;
use crate::config::ServerOptions;
use crate::config::options::KubeletArg;
use crate::pause_image;

pub const BRIDGE: &str = "kedge0";
const KUBELET_PORT: u16 = 10250;

/// Adds containerd, kubelet, network, proxy and DNS.
///
/// # Errors
/// When a part refuses its configuration.
pub fn add(supervisor: &mut Supervisor, options: &ServerOptions, held: &Held, shared: &Shared) -> Result<()> {
    let informers = &shared.informers;
    let config = Arc::new(kubelet_config(options, held, shared)?);
    supervisor.add(Containerd::new(config.clone()));
    let identity = user(&format!("system:node:{}", held.node_name), &["system:nodes"]);
    let client = shared.client("kubelet", identity)?;
    let kubelet = Kubelet::new(config.clone(), client.clone(), informers.clone(), &shared.metrics);
    let server = KubeletServerConfig::of(&config)?;
    let cri = Cri::new(&config.runtime_endpoint());
    // Token and access reviews are asked as the kubelet's own identity, as upstream does.
    supervisor.add(KubeletServer::new(server, kubelet.access(), cri, client, &shared.metrics));
    supervisor.add(kubelet);

    supervisor.add(NodeNetwork::new(network_config(options, &held.node_name)?, informers.clone()));
    let proxy = KubeProxyConfig { node_name: held.node_name.clone() };
    supervisor.add(KubeProxy::new(proxy, informers.clone(), &shared.metrics));
    let dns = ClusterDnsConfig {
        address: options.cluster_dns(),
        domain: options.cluster_domain.clone(),
        resolv_conf: options.agent.resolv_conf.clone(),
        publish: true,
    };
    let client = shared.client("kedge-dns", user("system:apiserver", &["system:masters"]))?;
    supervisor.add(ClusterDns::new(dns, client, informers.clone(), &shared.metrics));
    Ok(())
}

fn kubelet_config(options: &ServerOptions, held: &Held, shared: &Shared) -> Result<KubeletConfig> {
    let pause = PauseImage { reference: pause_image::REFERENCE.into(), tar: Bytes::from(pause_image::archive()?) };
    let mut config = KubeletConfig::new(&held.node_name, held.node_ip, pause);
    let agent = &options.agent;
    config.data_dir = agent.data_dir.join("agent");
    config.run_dir.clone_from(&agent.run_dir);
    config.containerd = match &agent.container_runtime_endpoint {
        Some(socket) => ContainerdMode::External { endpoint: format!("unix://{}", socket.display()) },
        None => ContainerdMode::Managed { binary: None },
    };
    config.cni_bin = std::env::current_exe()?;
    config.cluster_dns = vec![options.cluster_dns()];
    config.cluster_domain.clone_from(&options.cluster_domain);
    config.node_labels = agent.node_label.iter().cloned().collect();
    config.node_taints = agent
        .node_taint
        .iter()
        .map(|taint| Taint {
            key: taint.key.clone(),
            value: Some(taint.value.clone()).filter(|value| !value.is_empty()),
            effect: taint.effect.clone(),
            time_added: None,
        })
        .collect();
    config.resolv_conf.clone_from(&agent.resolv_conf);
    for argument in &agent.kubelet_arg {
        match argument {
            KubeletArg::MaxPods(n) => config.max_pods = *n,
            KubeletArg::LogMaxSize(bytes) => config.log_rotation.max_bytes = *bytes,
            KubeletArg::LogMaxFiles(n) => config.log_rotation.max_files = usize::try_from(*n)?,
        }
    }
    let credentials = shared.pki.ensure_node(&held.node_name, &[], &[held.node_ip], shared.clock.now())?;
    config.server.bind = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), KUBELET_PORT);
    config.server.certificate = Some(credentials.serving.cert_pem);
    config.server.key = Some(credentials.serving.key_pem);
    config.server.client_ca = Some(credentials.client_ca_pem);
    Ok(config)
}

/// The pod network of this node.
///
/// # Errors
/// When the program cannot be found or the network is not IPv4.
pub fn network_config(options: &ServerOptions, node_name: &str) -> Result<NodeNetworkConfig> {
    let IpNet::V4(cluster_cidr) = options.cluster_cidr else {
        anyhow::bail!("--cluster-cidr {}: want an IPv4 network", options.cluster_cidr);
    };
    let agent = options.agent.data_dir.join("agent");
    // Somebody else's containerd looks where every containerd looks.
    let (cni_conf_dir, cni_bin_dir) = match options.agent.container_runtime_endpoint {
        Some(_) => ("/etc/cni/net.d".into(), "/opt/cni/bin".into()),
        None => (agent.join("cni/net.d"), agent.join("cni/bin")),
    };
    Ok(NodeNetworkConfig {
        node_name: node_name.to_owned(),
        cluster_cidr,
        bridge: BRIDGE.into(),
        cni_conf_dir,
        cni_bin_dir,
        program: std::env::current_exe()?,
        addresses_dir: agent.join("cni/addresses"),
    })
}
