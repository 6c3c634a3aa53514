//! The services that make this machine a node.

use anyhow::Result;
use component_base::Supervisor;
use ipnet::IpNet;
use kube_proxy::{KubeProxy, KubeProxyConfig};
use network::dns::{ClusterDns, ClusterDnsConfig};
use network::{NodeNetwork, NodeNetworkConfig};

use super::cluster::{Shared, user};
use super::preflight::Held;
use crate::config::ServerOptions;

pub const BRIDGE: &str = "kedge0";

/// Adds containerd, kubelet, network, proxy and DNS.
///
/// # Errors
/// When a part refuses its configuration.
pub fn add(supervisor: &mut Supervisor, options: &ServerOptions, held: &Held, shared: &Shared) -> Result<()> {
    let informers = &shared.informers;
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

/// The pod network of this node.
///
/// # Errors
/// When the program cannot be found or the network is not IPv4.
pub fn network_config(options: &ServerOptions, node_name: &str) -> Result<NodeNetworkConfig> {
    let IpNet::V4(cluster_cidr) = options.cluster_cidr else {
        anyhow::bail!("--cluster-cidr {}: want an IPv4 network", options.cluster_cidr);
    };
    let agent = options.agent.data_dir.join("agent");
    Ok(NodeNetworkConfig {
        node_name: node_name.to_owned(),
        cluster_cidr,
        bridge: BRIDGE.into(),
        cni_conf_dir: agent.join("cni/net.d"),
        cni_bin_dir: agent.join("cni/bin"),
        program: std::env::current_exe()?,
        addresses_dir: agent.join("cni/addresses"),
    })
}
