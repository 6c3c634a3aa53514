//! `kedge killall`: ends every pod and everything that `kedge server` leaves running on purpose.

use std::path::PathBuf;

use anyhow::Result;
use clap::Args;
use component_base::RealClock;
use tracing::{info, warn};

use crate::config::{LogFormat, LogOptions};
use crate::server::node::BRIDGE;

#[derive(Debug, Args)]
pub struct Options {
    /// Folder of all state
    #[arg(long, short = 'd', env = "KEDGE_DATA_DIR", default_value = "/var/lib/kedge")]
    pub data_dir: PathBuf,
    /// Folder of sockets and run-time state
    #[arg(long, env = "KEDGE_RUN_DIR", default_value = "/run/kedge")]
    pub run_dir: PathBuf,
    /// Address of the cluster's DNS
    #[arg(long, env = "KEDGE_CLUSTER_DNS", default_value = "10.43.0.10")]
    pub cluster_dns: std::net::IpAddr,
}

pub fn run(options: &Options) -> Result<()> {
    crate::logging::init(&LogOptions { debug: false, log_format: LogFormat::Text });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(clean(options))
}

async fn clean(options: &Options) -> Result<()> {
    let agent = options.data_dir.join("agent");
    kubelet::containerd::teardown::tear_down(&agent, &options.run_dir, &RealClock::shared()).await?;
    let network = network::NodeNetworkConfig {
        node_name: String::new(),
        cluster_cidr: "10.42.0.0/16".parse()?,
        bridge: BRIDGE.into(),
        cni_conf_dir: agent.join("cni/net.d"),
        cni_bin_dir: agent.join("cni/bin"),
        program: std::env::current_exe()?,
        addresses_dir: agent.join("cni/addresses"),
    };
    if let Err(error) = network::node::tear_down(&network).await {
        warn!(%error, "pod network not removed");
    }
    if let Err(error) = kube_proxy::tear_down().await {
        warn!(%error, "service rules not removed");
    }
    if let Err(error) = network::dns::drop_address(options.cluster_dns).await {
        warn!(%error, "DNS address not removed");
    }
    info!("removed network, service rules and DNS address");
    Ok(())
}
