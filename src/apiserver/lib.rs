//! The API server: HTTP, authentication, authorization, admission, the watch cache and the generic registry.
//!
//! Invariants:
//! - AS-1: a response never shows a state older than a write acknowledged before the request came in (unless the
//!   request allows it by naming a resourceVersion).
//! - AS-2: a stored object is encoded once, at its write; reads and watches copy bytes.
//! - AS-3: no request is served before it is authenticated and authorized.

pub mod admission;
pub mod alloc;
pub mod apiextensions;
pub mod attributes;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod cache;
pub mod connect;
pub mod error;
pub mod flowcontrol;
pub mod handler;
pub mod kinds;
pub mod loopback;
pub mod nonresource;
pub mod notes;
pub mod outbound;
pub mod registry;
pub mod reviews;
pub mod serviceaccount;
pub mod tls;
mod trust;
#[cfg(test)]
mod webhook_tests;
pub mod webhooks;
pub mod wire;

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
#[derive(Clone)]
pub struct Config {
    pub advertise_address: IpAddr,
    pub port: u16,
    pub service_cidr: ipnet::IpNet,
    pub node_port_range: RangeInclusive<u16>,
    pub version: VersionInfo,
    /// `https://kubernetes.default.svc.cluster.local`
    pub service_account_issuer: String,
    /// Signs service-account tokens.
    pub service_account_key: pki::SigningKey,
    /// PEM of the CA that client certificates must come from.
    pub client_ca_pem: String,
    /// What the server shows to kubelets: client certificate, key and the CA of kubelet serving certificates.
    pub kubelet_client: Option<KubeletClient>,
    pub static_tokens: Vec<StaticToken>,
    /// Write `default/kubernetes` (Service, Endpoints, EndpointSlice), the system namespaces and the bootstrap RBAC.
    pub manage_system_objects: bool,
    /// Largest request body, in bytes (upstream: 3 MiB).
    pub max_request_bytes: usize,
    pub admission: admission::AdmissionConfig,
    /// Requests that run at once, shared out by priority and fairness (upstream: 400 reading and 200 writing ones).
    pub max_requests_in_flight: u32,
    pub authentication: authn::AuthenticationConfig,
    pub authorization: authz::AuthorizationConfig,
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
    /// Custom resources.
    pub crds: Arc<apiextensions::Crds>,
    pub issuer: Arc<serviceaccount::TokenIssuer>,
    pub authenticator: authn::Authenticator,
    pub authorizer: Arc<authz::Authorizer>,
    pub admission: admission::Admission,
    /// Calls the webhooks of admission and of custom resources.
    pub webhooks: Arc<webhooks::Caller>,
    /// Cluster IPs and node ports.
    pub services: alloc::ServiceAllocator,
    pub health: nonresource::Health,
    pub kubelets: connect::Kubelets,
    pub requests: nonresource::metrics::RequestMetrics,
    pub flow: flowcontrol::FlowControl,
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
        let crds = apiextensions::Crds::start(kinds.clone(), cache.clone(), &tasks).await;
        let issuer = Arc::new(serviceaccount::TokenIssuer::new(
            config.service_account_key.clone(),
            config.service_account_issuer.clone(),
        ));
        let authorizer = Arc::new(authz::Authorizer::configured(&config.authorization, cache.clone(), &clock, &tasks)?);
        let authenticator =
            authn::Authenticator::new(cache.clone(), issuer.clone(), clock.clone(), config.static_tokens.clone())
                .configured(&config.authentication, &config.client_ca_pem, &tasks)?;
        let webhooks = Arc::new(webhooks::Caller::new(tasks.clone(), clock.clone()));
        let admission = admission::Admission::new(
            &config.admission,
            authorizer.clone(),
            clock.clone(),
            kinds.clone(),
            webhooks.clone(),
        )?;
        let services =
            alloc::ServiceAllocator::load(config.service_cidr, config.node_port_range.clone(), &kinds, cache.as_ref());
        let kubelets = connect::Kubelets::new(config.kubelet_client.as_ref())?;
        let requests = nonresource::metrics::RequestMetrics::new(&metrics);
        let health = nonresource::Health::new(clock.now());
        let seats = i64::from(config.max_requests_in_flight);
        let flow = flowcontrol::FlowControl::new(seats, cache.as_ref(), clock.clone(), &metrics);
        let server = Arc::new(Server {
            config,
            store,
            clock,
            metrics,
            tasks,
            cache,
            kinds,
            crds,
            issuer,
            authenticator,
            authorizer,
            admission,
            webhooks,
            services,
            health,
            kubelets,
            requests,
            flow,
        });
        server.health.set_caches_loaded();
        let this = Self { server };
        let extensions = this.clone();
        this.server.tasks.spawn(async move { apiextensions::controllers::run(extensions).await });
        if this.server.config.manage_system_objects {
            let system = this.clone();
            this.server.tasks.spawn(async move { bootstrap::run(&system).await });
            let follower = this.clone();
            this.server.tasks.spawn(async move { flowcontrol::run(&follower).await });
            let keeper = this.clone();
            this.server.tasks.spawn(async move { alloc::addresses::run(&keeper).await });
        }
        Ok(this)
    }

    /// Serves one request. Never fails: what goes wrong is a Status.
    pub async fn handle(&self, request: Request<Body>, peer: Peer) -> Response<Body> {
        handler::handle(self.server.clone(), request, peer).await
    }

    /// A client's way in without sockets: `kube::Client::new(service, "default")`.
    pub fn in_process(&self, user: User) -> InProcessService {
        InProcessService::new(self.clone(), user)
    }

    /// Returns once the objects that every cluster has are in place, as `/readyz` says too.
    pub async fn ready(&self) {
        if self.server.config.manage_system_objects {
            self.server.health.bootstrapped().await;
        }
    }

    /// Serves HTTPS on `listener` until `shutdown`; `tls` is made by [`tls::server_config`].
    ///
    /// # Errors
    /// None but those of the listener.
    pub async fn serve(
        &self,
        listener: tokio::net::TcpListener,
        tls: Arc<rustls::ServerConfig>,
        shutdown: component_base::CancellationToken,
    ) -> Result<()> {
        let this = self.clone();
        let stopping = this.clone();
        let token = shutdown.clone();
        let announce = async move {
            token.cancelled().await;
            stopping.server.health.set_stopping();
            std::future::pending::<()>().await;
        };
        let handle = move |request, peer| {
            let this = this.clone();
            async move { this.handle(request, peer).await }
        };
        tokio::select! {
            ended = tls::serve(listener, tls, shutdown, handle) => ended,
            () = announce => Ok(()),
        }
    }

    /// Makes the server know another kind of bearer token.
    pub fn add_token_source(&self, source: Arc<dyn authn::TokenSource>) {
        self.server.authenticator.add_source(source);
    }

    /// Makes a component of the control plane known to `componentstatuses`.
    pub fn add_component(&self, name: &'static str, probe: nonresource::Probe) {
        self.server.health.add_component(name, probe);
    }

    /// Stops every task of the server.
    pub async fn stop(&self) {
        self.server.tasks.stop().await;
    }
}
