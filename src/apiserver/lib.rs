//! The API server: HTTP, authentication, authorization, admission, the watch cache and the generic registry.
//!
//! Invariants:
//! - AS-1: a response never shows a state older than a write acknowledged before the request came in (unless the
//!   request allows it by naming a resourceVersion).
//! - AS-2: a stored object is encoded once, at its write; reads and watches copy bytes.
//! - AS-3: no request is served before it is authenticated and authorized.

pub mod attributes;
pub mod cache;
pub mod error;
pub mod handler;
pub mod http;
pub mod kinds;
pub mod registry;

// EDGE: authn, authz, admission, nonresource, connect, reviews, serviceaccount, bootstrap, alloc, serving
// are declared here as their files come in.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use ::http::{Request, Response};
use bytes::Bytes;
use component_base::{Metrics, SharedClock, TaskGroup};
use store::Store;

pub use attributes::{Query, RequestInfo, User};
pub use cache::{Cache, Object, ObjectReader};
pub use error::{Error, Result};
pub use handler::InProcessService;
pub use kinds::Kinds;

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Bodies of requests and responses.
pub type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>;

/// What the server is told at start.
#[derive(Debug, Clone)]
pub struct Config {
    pub advertise_address: IpAddr,
    pub port: u16,
    pub service_cidr: ipnet::IpNet,
    pub node_port_range: RangeInclusive<u16>,
    pub version: VersionInfo,
    /// `https://kubernetes.default.svc.cluster.local`
    pub service_account_issuer: String,
    /// PEM of the private key that signs service-account tokens (EC P-256 or RSA).
    pub service_account_key_pem: String,
    /// PEM of the CA that client certificates must come from.
    pub client_ca_pem: String,
    /// What the server shows to kubelets: client certificate, key and the CA of kubelet serving certificates.
    pub kubelet_client: Option<KubeletClient>,
    pub static_tokens: Vec<StaticToken>,
    /// Write `default/kubernetes` (Service, Endpoints, EndpointSlice), the system namespaces and the bootstrap RBAC.
    pub manage_system_objects: bool,
    /// Largest request body, in bytes (upstream: 3 MiB).
    pub max_request_bytes: usize,
}

/// `/version`.
#[derive(Debug, Clone)]
pub struct VersionInfo {
    pub major: String,
    pub minor: String,
    /// `v1.36.2+kedge1`
    pub git_version: String,
    pub git_commit: String,
    /// RFC 3339.
    pub build_date: String,
    /// `linux/amd64`
    pub platform: String,
}

#[derive(Clone)]
pub struct KubeletClient {
    pub certificate_pem: String,
    pub key_pem: String,
    pub ca_pem: String,
}

impl std::fmt::Debug for KubeletClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KubeletClient")
    }
}

/// A bearer token of the configuration.
#[derive(Clone)]
pub struct StaticToken {
    pub token: String,
    pub user: User,
}

impl std::fmt::Debug for StaticToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticToken({})", self.user.name)
    }
}

/// The other end of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    pub addr: std::net::SocketAddr,
    pub identity: PeerIdentity,
}

#[derive(Debug, Clone)]
pub enum PeerIdentity {
    /// The client's certificate chain, DER, leaf first; already verified against the client CA by TLS.
    Tls(Vec<Vec<u8>>),
    /// A component of this process.
    InProcess(User),
    /// No identity on the connection: a bearer token or anonymous.
    None,
}

/// The server. A cheap handle.
#[derive(Clone)]
pub struct ApiServer {
    pub(crate) server: Arc<Server>,
}

/// What every part of the server sees. Parts take `&Arc<Server>` or `&Server`.
pub struct Server {
    pub config: Config,
    pub store: Arc<dyn Store>,
    pub clock: SharedClock,
    pub metrics: Metrics,
    /// Every task of the server.
    pub tasks: TaskGroup,
    pub cache: Arc<Cache>,
    pub kinds: Arc<Kinds>,
}

impl ApiServer {
    /// Loads the watch caches; ready to serve when it returns.
    ///
    /// # Errors
    /// [`Error::Store`] when the store cannot be read.
    pub async fn new(config: Config, store: Arc<dyn Store>, clock: SharedClock, metrics: Metrics) -> Result<Self> {
        let tasks = TaskGroup::new();
        let kinds = Arc::new(Kinds::builtin());
        let cache = Cache::start(store.clone(), kinds.clone(), clock.clone(), &tasks).await?;
        let server = Arc::new(Server { config, store, clock, metrics, tasks, cache, kinds });
        Ok(Self { server })
    }

    /// Serves one request. Never fails: what goes wrong is a Status.
    pub async fn handle(&self, request: Request<Body>, peer: Peer) -> Response<Body> {
        handler::handle(&self.server, request, peer).await
    }

    /// A client's way in without sockets: `kube::Client::new(service, "default")`.
    pub fn in_process(&self, user: User) -> InProcessService {
        InProcessService::new(self.clone(), user)
    }

    /// Stops every task of the server.
    pub async fn stop(&self) {
        self.server.tasks.stop().await;
    }
}
