//! The kubelet's HTTPS server: logs, streams, statistics. What it serves is upstream's, path by path.
//!
//! Invariants:
//! - KV-1: no path is served before the client is known and allowed (see [`auth`]).
//! - KV-2: the server works on what [`PodSource`] and [`Runtime`] say; it changes nothing but by running commands in
//!   containers on behalf of clients.

pub mod auth;
mod files;
mod http;
mod logs;
mod machine;
mod prometheus;
mod routes;
mod source;
mod stats;
mod streaming;
#[cfg(test)]
mod tests;
mod tls;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use component_base::supervisor::BoxError;
use component_base::{Metrics, Service, ServiceContext, SharedClock, TaskGroup};
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tracing::info;

pub use self::auth::Reviewer;
use self::routes::RequestMetrics;
pub use self::source::{PodSource, Runtime};
use crate::cgroups::PodGroups;
use crate::config::KubeletConfig;
use crate::containerd::events::RuntimeEvent;
use crate::error::{Error, Result};

/// Runtime events that a slow follower may lag behind before it looks for itself.
const EVENTS: usize = 256;

/// What the server needs to know.
#[derive(Debug, Clone)]
pub struct KubeletServerConfig {
    pub listen: SocketAddr,
    pub certificate_pem: String,
    pub key_pem: String,
    /// Client certificates must chain to one of these.
    pub client_ca_pem: String,
    pub node_name: String,
    /// `/var/log/pods`.
    pub pods_log_dir: PathBuf,
    /// What `/logs/` shows: `/var/log`.
    pub log_dir: PathBuf,
    /// On the file system that is the node's.
    pub data_dir: PathBuf,
    /// The group above `kubepods`.
    pub cgroup_root: String,
    /// What `/configz` shows.
    pub configz: serde_json::Value,
}

impl KubeletServerConfig {
    /// The part of the kubelet's configuration that concerns the server.
    ///
    /// # Errors
    /// When there is no certificate, key or client CA.
    pub fn of(config: &KubeletConfig) -> Result<Self> {
        let server = &config.server;
        let pem = |what: &Option<String>, name: &str| {
            what.clone().ok_or_else(|| Error::Config(format!("the kubelet's server has no {name}")))
        };
        Ok(Self {
            listen: server.bind,
            certificate_pem: pem(&server.certificate, "certificate")?,
            key_pem: pem(&server.key, "key")?,
            client_ca_pem: pem(&server.client_ca, "client CA")?,
            node_name: config.node_name.clone(),
            pods_log_dir: config.pods_log_dir.clone(),
            log_dir: "/var/log".into(),
            data_dir: config.data_dir.clone(),
            cgroup_root: config.cgroup_root.clone(),
            configz: routes::configz(config),
        })
    }
}

/// The service `kubelet-server`.
pub struct KubeletServer {
    config: KubeletServerConfig,
    pods: Arc<dyn PodSource>,
    runtime: Arc<dyn Runtime>,
    reviewer: Arc<dyn Reviewer>,
    metrics: Metrics,
    requests: RequestMetrics,
}

impl KubeletServer {
    /// For a kubelet: `pods` is its [`access`](crate::Kubelet::access), `runtime` a [`Cri`](crate::cri::Cri),
    /// `reviewer` a `kube::Client`.
    pub fn new(
        config: KubeletServerConfig,
        pods: impl PodSource,
        runtime: impl Runtime,
        reviewer: impl Reviewer,
        metrics: &Metrics,
    ) -> Self {
        Self {
            config,
            pods: Arc::new(pods),
            runtime: Arc::new(runtime),
            reviewer: Arc::new(reviewer),
            requests: RequestMetrics::new(metrics),
            metrics: metrics.clone(),
        }
    }

    fn state(&self, clock: &SharedClock, tasks: &TaskGroup) -> Arc<State> {
        let groups = PodGroups::new(&self.config.cgroup_root).ok();
        Arc::new(State {
            auth: auth::Auth::new(self.reviewer.clone(), self.config.node_name.clone(), clock.clone()),
            groups: groups.map(|groups| (groups.hierarchies().clone(), groups.top())),
            config: self.config.clone(),
            pods: self.pods.clone(),
            runtime: self.runtime.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            metrics: self.metrics.clone(),
            requests: self.requests.clone(),
            rates: stats::Rates::default(),
            events: broadcast::Sender::new(EVENTS),
        })
    }

    /// Serves on `listener` until `cx.shutdown`.
    async fn serve(&self, cx: &ServiceContext, listener: TcpListener) -> Result<()> {
        let config = &self.config;
        let tls = tls::server_config(&config.certificate_pem, &config.key_pem, &config.client_ca_pem)?;
        let tasks = TaskGroup::child_of(&cx.shutdown);
        let state = self.state(&cx.clock, &tasks);
        let (sender, mut receiver) = mpsc::unbounded_channel::<RuntimeEvent>();
        let (runtime, clock) = (self.runtime.clone(), cx.clock.clone());
        tasks.spawn(async move { runtime.watch(clock, sender).await });
        let events = state.events.clone();
        tasks.spawn(async move {
            while let Some(event) = receiver.recv().await {
                // Nobody follows a log: nobody to tell.
                let _ = events.send(event.id);
            }
        });
        info!(address = %listener.local_addr().unwrap_or(config.listen), "serving the kubelet's API");
        cx.ready.set();
        tls::accept(listener, tls, cx, &tasks, move |request, peer| routes::handle(state.clone(), request, peer)).await;
        tasks.stop().await;
        Ok(())
    }
}

#[async_trait]
impl Service for KubeletServer {
    fn name(&self) -> &'static str {
        "kubelet-server"
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let address = self.config.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| Error::Config(format!("listening on {address}: {error}")))?;
        Ok(self.serve(&cx, listener).await?)
    }
}

/// What requests share.
pub(crate) struct State {
    config: KubeletServerConfig,
    pods: Arc<dyn PodSource>,
    runtime: Arc<dyn Runtime>,
    auth: auth::Auth,
    clock: SharedClock,
    /// Of the server: connections, tunnels.
    tasks: TaskGroup,
    metrics: Metrics,
    requests: RequestMetrics,
    rates: stats::Rates,
    groups: Option<(sys::cgroup::Cgroups, String)>,
    /// Ids of containers that something happened to; empty: look at all.
    events: broadcast::Sender<String>,
}
