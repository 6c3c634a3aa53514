//! The service `etcd`: the server's own store for etcd clients, on a unix socket and, if wished, on TCP with mutual TLS.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use component_base::supervisor::BoxError;
use component_base::{Service, ServiceContext, SharedClock, TaskGroup};
use pki::{Authority, Subject};
use store::Maintenance;
use store::grpc::{Endpoint, Face, FaceConfig, Listener, tls};
use tracing::{info, warn};

use super::preflight::Held;
use crate::config::ServerOptions;

pub struct EtcdFace {
    store: Arc<dyn Maintenance>,
    name: String,
    node_ip: IpAddr,
    socket: PathBuf,
    tcp: Option<Endpoint>,
}

impl EtcdFace {
    /// # Errors
    /// When the certificates cannot be made.
    pub fn new(options: &ServerOptions, held: &Held, store: Arc<dyn Maintenance>, clock: &SharedClock) -> Result<Self> {
        let tcp = match options.etcd_listen_address {
            Some(at) => Some(mutual_tls(options, held, at, clock)?),
            None => None,
        };
        let socket = options.agent.run_dir.join("etcd.sock");
        Ok(Self { store, name: held.node_name.clone(), node_ip: held.node_ip, socket, tcp })
    }
}

/// Certificates for etcd's port alone: whoever holds one of its clients' may read and write everything.
fn mutual_tls(options: &ServerOptions, held: &Held, at: SocketAddr, clock: &SharedClock) -> Result<Endpoint> {
    let dir = options.agent.data_dir.join("server/tls/etcd");
    make_private(&dir)?;
    let now = clock.now();
    let ca = Authority::ensure(&dir, "ca", "kedge-etcd-ca", now)?;
    let names = vec!["localhost".to_owned(), held.node_name.clone()];
    let mut ips = vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]), held.node_ip];
    if !at.ip().is_unspecified() && !ips.contains(&at.ip()) {
        ips.push(at.ip());
    }
    let server = ca.ensure_leaf(&dir, "server", &Subject::server("kedge-etcd-server", names, ips), now)?;
    ca.ensure_leaf(&dir, "client", &Subject::client("kedge-etcd-client", None), now)?;
    Ok(Endpoint::Tls(at, tls::server_config(&server.cert_pem, &server.key_pem, Some(ca.cert_pem()))?))
}

fn make_private(dir: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    Ok(())
}

#[async_trait]
impl Service for EtcdFace {
    fn name(&self) -> &'static str {
        "etcd"
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let mut listeners = Vec::new();
        // Nothing of the cluster needs the socket: a second server on this machine goes without.
        match Listener::bind(&Endpoint::Unix(self.socket.clone())).await {
            Ok(listener) => listeners.push(listener),
            Err(error) => warn!(%error, "no etcd socket"),
        }
        let mut url = format!("unix://{}", self.socket.display());
        if let Some(endpoint) = &self.tcp {
            let listener = Listener::bind(endpoint).await?;
            if let Some(at) = listener.address() {
                info!(address = %at, "serving etcd v3");
                // One kind only: clients use the credentials that they have with each that they are told.
                let ip = if at.ip().is_unspecified() { self.node_ip } else { at.ip() };
                url = format!("https://{}", SocketAddr::new(ip, at.port()));
            }
            listeners.push(listener);
        }
        let config =
            FaceConfig { name: self.name.clone(), client_urls: vec![url], ..FaceConfig::new(cx.clock.clone()) };
        let face = Face::new(Arc::clone(&self.store), config);
        let tasks = TaskGroup::new();
        for listener in listeners {
            tasks.spawn_graceful(Arc::clone(&face).serve(listener, cx.shutdown.clone()));
        }
        cx.ready.set();
        cx.shutdown.cancelled().await;
        tasks.stop().await;
        face.stop().await;
        Ok(())
    }
}
