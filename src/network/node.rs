//! This node's part of the pod network: bridge, forwarding, masquerading, and the configuration that tells containerd
//! to call us. It waits for the Node's podCIDR, by watch.
//!
//! Invariants:
//! - ND-1: applying the same podCIDR again changes nothing, and running pods keep their cables and addresses.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, Informers, WorkQueue, run_workers};
use component_base::supervisor::BoxError;
use component_base::{Service, ServiceContext, TaskGroup};
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;
use sys::netlink::{Netlink, NetlinkError, set_sysctl};
use sys::nft::NftError;
use tracing::info;

use crate::cni::{self, NetworkConfig};
use crate::nat;

#[derive(Debug, Clone)]
pub struct NodeNetworkConfig {
    pub node_name: String,
    pub cluster_cidr: Ipv4Net,
    /// `kedge0`.
    pub bridge: String,
    /// Where the kubelet's containerd looks for `*.conflist`.
    pub cni_conf_dir: PathBuf,
    /// Where it looks for plugin programs.
    pub cni_bin_dir: PathBuf,
    /// This very program.
    pub program: PathBuf,
    /// Folder of the address book.
    pub addresses_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum NodeNetworkError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Nft(#[from] NftError),
    #[error("{path}: {source}")]
    File { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Sysctl(std::io::Error),
    #[error("node {node}: podCIDR {cidr:?} is not an IPv4 network of /30 or larger")]
    PodCidr { node: String, cidr: String },
}

/// The service `network`: ready once the bridge and the configuration are there.
pub struct NodeNetwork {
    config: NodeNetworkConfig,
    informers: Informers,
}

impl NodeNetwork {
    pub fn new(config: NodeNetworkConfig, informers: Informers) -> Self {
        Self { config, informers }
    }
}

#[async_trait]
impl Service for NodeNetwork {
    fn name(&self) -> &'static str {
        "network"
    }

    fn depends_on(&self) -> &'static [&'static str] {
        &["apiserver"]
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let tasks = TaskGroup::child_of(&cx.shutdown);
        let nodes = self.informers.selected::<Node>(Some(&format!("metadata.name={}", self.config.node_name)));
        let queue = WorkQueue::<String>::new(cx.clock.clone());
        let adder = queue.clone();
        nodes.on_change(move |change| {
            if let Change::Added(node) | Change::Updated { new: node, .. } = change {
                if let Some(cidr) = node.spec.as_ref().and_then(|spec| spec.pod_cidr.clone()) {
                    adder.add(cidr);
                }
            }
        });
        let (config, ready) = (self.config.clone(), cx.ready.clone());
        let applied = std::sync::Arc::new(parking_lot::Mutex::new(None::<String>));
        run_workers(&tasks, "network", &queue, 1, move |cidr: String| {
            let (config, ready, applied) = (config.clone(), ready.clone(), applied.clone());
            async move {
                if applied.lock().as_deref() == Some(cidr.as_str()) {
                    return Ok::<Option<Duration>, NodeNetworkError>(None);
                }
                set_up(&config, &cidr).await?;
                info!(node = config.node_name, pod_cidr = cidr, "pod network ready");
                *applied.lock() = Some(cidr);
                ready.set();
                Ok(None)
            }
        });
        cx.shutdown.cancelled().await;
        tasks.stop().await;
        Ok(())
    }
}

/// Brings the node into the state that `pod_cidr` asks for.
///
/// # Errors
/// Names what could not be done.
pub async fn set_up(config: &NodeNetworkConfig, pod_cidr: &str) -> Result<(), NodeNetworkError> {
    let bad = || NodeNetworkError::PodCidr { node: config.node_name.clone(), cidr: pod_cidr.to_owned() };
    let subnet: Ipv4Net = pod_cidr.parse().map_err(|_| bad())?;
    let gateway = subnet.hosts().next().filter(|_| subnet.prefix_len() <= 30).ok_or_else(bad)?;
    let netlink = Netlink::open()?;
    let mtu = uplink_mtu(&netlink).await?;
    let bridge = netlink.ensure_bridge(&config.bridge, mtu, mac_of(gateway)).await?;
    let address = IpNet::V4(Ipv4Net::new(gateway, subnet.prefix_len()).expect("the prefix of a network"));
    netlink.keep_only_address(&bridge, address).await?;
    netlink.add_address(&bridge, address).await?;
    let settings = [
        ("net.ipv4.ip_forward".to_owned(), "1"),
        // A hostPort or NodePort on 127.0.0.1 leaves through the bridge.
        (format!("net.ipv4.conf.{}.route_localnet", config.bridge), "1"),
        // Pods have /32s: the way over the node is the right one.
        (format!("net.ipv4.conf.{}.send_redirects", config.bridge), "0"),
        (format!("net.ipv4.conf.{}.rp_filter", config.bridge), "0"),
    ];
    for (name, value) in settings {
        set_sysctl(&name, value).map_err(NodeNetworkError::Sysctl)?;
    }
    sys::nft::apply(&nat::setup(&config.bridge, subnet, config.cluster_cidr)).await?;
    write_cni(config, subnet, gateway, mtu)
}

/// Removes the bridge, the pods' cables and the table (`kedge killall`).
///
/// # Errors
/// Names what could not be removed.
pub async fn tear_down(config: &NodeNetworkConfig) -> Result<(), NodeNetworkError> {
    let netlink = Netlink::open()?;
    if let Some(bridge) = netlink.link(&config.bridge).await? {
        for port in netlink.links().await?.into_iter().filter(|link| link.controller == Some(bridge.index)) {
            netlink.delete_link(&port.name).await?;
        }
        netlink.delete_link(&config.bridge).await?;
    }
    sys::nft::apply(&nat::teardown()).await?;
    Ok(())
}

async fn uplink_mtu(netlink: &Netlink) -> Result<u32, NodeNetworkError> {
    let Some((index, _)) = netlink.default_route().await? else { return Ok(1500) };
    let links = netlink.links().await?;
    Ok(links.iter().find(|link| link.index == index).map_or(1500, |link| link.mtu))
}

/// A locally administered address made from the gateway's, so that it is the same after every start.
fn mac_of(ip: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = ip.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn write_cni(config: &NodeNetworkConfig, subnet: Ipv4Net, gateway: Ipv4Addr, mtu: u32) -> Result<(), NodeNetworkError> {
    let network = NetworkConfig {
        cni_version: String::new(),
        name: String::new(),
        bridge: config.bridge.clone(),
        mtu,
        subnet,
        gateway,
        addresses: config.addresses_dir.clone(),
        runtime_config: cni::RuntimeConfig::default(),
    };
    let mut plugin = serde_json::to_value(&network).expect("a configuration is JSON");
    let fields = plugin.as_object_mut().expect("a struct is an object");
    fields.retain(|name, _| name != "cniVersion" && name != "name");
    fields.insert("type".into(), cni::PLUGIN.into());
    fields.insert("capabilities".into(), json!({ "portMappings": true }));
    let list = json!({ "cniVersion": "1.0.0", "name": "kedge", "plugins": [plugin] });
    link_program(config, cni::PLUGIN)?;
    link_program(config, cni::LOOPBACK)?;
    let path = config.cni_conf_dir.join("10-kedge.conflist");
    let text = format!("{list:#}\n");
    if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| NodeNetworkError::File { path, source }
    };
    std::fs::create_dir_all(&config.cni_conf_dir).map_err(failed(&config.cni_conf_dir))?;
    let temporary = path.with_extension("new");
    std::fs::write(&temporary, text).map_err(failed(&temporary))?;
    std::fs::rename(&temporary, &path).map_err(failed(&path))
}

/// The plugin folder names this program by the plugin's name.
fn link_program(config: &NodeNetworkConfig, plugin: &str) -> Result<(), NodeNetworkError> {
    let link = config.cni_bin_dir.join(plugin);
    if std::fs::read_link(&link).is_ok_and(|target| target == config.program) {
        return Ok(());
    }
    let failed = |source| NodeNetworkError::File { path: link.clone(), source };
    std::fs::create_dir_all(&config.cni_bin_dir).map_err(failed)?;
    let temporary = config.cni_bin_dir.join(format!(".{plugin}"));
    let _ = std::fs::remove_file(&temporary);
    std::os::unix::fs::symlink(&config.program, &temporary).map_err(failed)?;
    std::fs::rename(&temporary, &link).map_err(failed)
}
