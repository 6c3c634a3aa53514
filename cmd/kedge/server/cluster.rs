//! Wires the services of a server together. Nothing here decides anything but who is given what.

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use apiserver::{ApiServer, Config, KubeletClient, User, VersionInfo, tls};
use async_trait::async_trait;
use client::{Client, Informers};
use component_base::supervisor::BoxError;
use component_base::{
    CancellationToken, Metrics, RealClock, Service, ServiceContext, SharedClock, Supervisor, TaskGroup,
};
use controller_manager::{ControllerManager, ControllerManagerConfig, Signing};
use ipnet::IpNet;
use pki::{Pki, PkiRequest};
use scheduler::{Scheduler, SchedulerConfig};
use tracing::{debug, info};

use super::admin::Control;
use super::datastore::Datastore;
use super::etcd::EtcdFace;
use super::node;
use super::preflight::Held;
use super::schedule::{self, Scheduled};
use super::{access, datastore, notify, tokens};
use crate::config::ServerOptions;
use crate::config::options::nth;
use crate::version;

/// When a start is over, images of the node imported and all.
const SETTLED: Duration = Duration::from_secs(20);
const TRIM_INTERVAL: Duration = Duration::from_secs(60);

/// What the parts of the server share.
pub struct Shared {
    pub api: ApiServer,
    pub pki: Pki,
    pub informers: Informers,
    pub clock: SharedClock,
    pub metrics: Metrics,
}

impl Shared {
    /// A client of `user`, who is known to the server's log and managed fields as `component`.
    pub fn client(&self, component: &str, user: User) -> Result<Client> {
        let agent = format!("{component}/{}", version::GIT_VERSION);
        Ok(client::in_process(self.api.in_process(user), &agent)?)
    }
}

pub fn user(name: &str, groups: &[&str]) -> User {
    let mut groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    groups.push("system:authenticated".into());
    User { name: name.to_owned(), groups, ..User::default() }
}

/// Runs the cluster until `shutdown`.
///
/// # Errors
/// When something cannot be started.
pub async fn run(
    options: &ServerOptions,
    held: &Held,
    control: &Control,
    shutdown: CancellationToken,
    grace: Duration,
) -> Result<()> {
    let clock = RealClock::shared();
    let metrics = Metrics::new();
    let stages = Stages::new(&clock);
    let pki = stages.time("certificates", async { prepare_pki(options, held, &clock) }).await?;
    let datastore = stages.time("store", datastore::open(options, &clock)).await?;
    let store = datastore.store();
    let config = api_config(options, held, &pki)?;
    control.serve(Some(store.clone()));
    let api =
        stages.time("watch caches", ApiServer::new(config, store.clone(), clock.clone(), metrics.clone())).await?;

    let tasks = TaskGroup::new();
    let loopback = user("system:apiserver", &["system:masters"]);
    let loopback = client::in_process(api.in_process(loopback), &format!("kedge/{}", version::GIT_VERSION))?;
    let informers = Informers::new(loopback, tasks.clone(), clock.clone());
    let shared = Shared { api, pki, informers, clock: clock.clone(), metrics };

    let mut supervisor = Supervisor::new(clock);
    if let Datastore::Own(store) = &datastore {
        supervisor.add(EtcdFace::new(options, held, store.clone(), &shared.clock)?);
    }
    // Whose certificates may come in at all; what they are is for authentication to say.
    let clients = [shared.pki.client_ca.cert_pem(), &access::request_header_ca(&options.access, &shared.pki)?].concat();
    let tls = tls::server_config(&shared.pki.server.cert_pem, &shared.pki.server.key_pem, &clients)?;
    supervisor.add(ApiService { api: shared.api.clone(), listener: held.listener.try_clone()?, tls });
    if !options.disable_controller_manager {
        let ready = supervisor.add(controllers(options, &shared)?);
        shared.api.add_component("controller-manager", Arc::new(move || ready.is_set()));
    }
    if !options.disable_scheduler {
        let client = shared.client("kube-scheduler", user("system:kube-scheduler", &[]))?;
        let scheduler = Scheduler::new(SchedulerConfig::default(), client, shared.informers.clone(), &shared.metrics);
        let ready = supervisor.add(scheduler);
        shared.api.add_component("scheduler", Arc::new(move || ready.is_set()));
    }
    if !options.disable_agent {
        node::add(&mut supervisor, options, held, &shared)?;
    }
    // A cluster of its own is saved by those who run it.
    if !options.snapshots.etcd_disable_snapshots && !options.datastore.external() {
        tasks.spawn(schedule::run(scheduled(options, control), store.clone(), shared.clock.clone()));
    }
    tasks.spawn(give_memory_back(shared.clock.clone()));
    let result = supervisor.run(shutdown, grace).await;
    control.serve(None);
    tasks.stop().await;
    shared.api.stop().await;
    store.close().await?;
    info!("stopped");
    Ok(result?)
}

/// Starting, and bursts of work, touch code and memory that idling does not. Giving it back costs about a millisecond.
async fn give_memory_back(clock: SharedClock) {
    clock.sleep(SETTLED).await;
    loop {
        if let Err(error) = sys::memory::trim() {
            debug!(%error, "memory not given back");
        }
        clock.sleep(TRIM_INTERVAL).await;
    }
}

/// Logs how long each stage of the start took.
struct Stages<'a> {
    clock: &'a SharedClock,
}

impl<'a> Stages<'a> {
    fn new(clock: &'a SharedClock) -> Self {
        Self { clock }
    }

    async fn time<T, E>(&self, stage: &'static str, work: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        let begun = self.clock.instant();
        let result = work.await;
        info!(stage, took_ms = (self.clock.instant() - begun).as_millis() as u64, "start-up");
        result
    }
}

fn prepare_pki(options: &ServerOptions, held: &Held, clock: &SharedClock) -> Result<Pki> {
    let server = options.agent.data_dir.join("server");
    let mut sans = vec![held.node_name.clone()];
    let mut ips = vec![held.node_ip, nth(options.service_cidr, 1)];
    for san in &options.tls_san {
        match san.parse::<IpAddr>() {
            Ok(ip) => ips.push(ip),
            Err(_) => sans.push(san.clone()),
        }
    }
    if !options.bind_address.is_unspecified() {
        ips.push(options.bind_address);
    }
    let request = PkiRequest { sans, ips, cluster_domain: options.cluster_domain.clone(), now: clock.now() };
    let pki = Pki::ensure(&server.join("tls"), &request)?;
    let given = match (&options.token, &options.token_file) {
        (Some(token), _) => Some(token.clone()),
        (None, Some(path)) => {
            let text = std::fs::read_to_string(path).with_context(|| format!("--token-file {}", path.display()))?;
            Some(text.trim().to_owned())
        }
        (None, None) => None,
    };
    pki.ensure_token(&server.join("token"), given.as_deref())?;
    let host = if options.bind_address.is_unspecified() { IpAddr::from([127, 0, 0, 1]) } else { options.bind_address };
    let url = format!("https://{}", std::net::SocketAddr::new(host, options.https_listen_port));
    let path = &options.write_kubeconfig;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("--write-kubeconfig {}", path.display()))?;
    }
    pki.admin_kubeconfig(&url).write(path, options.write_kubeconfig_mode)?;
    Ok(pki)
}

fn scheduled(options: &ServerOptions, control: &Control) -> Scheduled {
    let snapshots = &options.snapshots;
    Scheduled {
        schedule: snapshots.etcd_snapshot_schedule_cron.schedule.clone(),
        folder: control.snapshot_dir.clone(),
        name: snapshots.etcd_snapshot_name.clone(),
        node_name: control.node_name.clone(),
        retention: snapshots.etcd_snapshot_retention,
    }
}

fn api_config(options: &ServerOptions, held: &Held, pki: &Pki) -> Result<Config> {
    let static_tokens = match &options.access.token_auth_file {
        Some(path) => tokens::read(path)?,
        None => Vec::new(),
    };
    let (low, high) = options.service_node_port_range;
    Ok(Config {
        advertise_address: held.node_ip,
        port: options.https_listen_port,
        service_cidr: options.service_cidr,
        node_port_range: low..=high,
        version: VersionInfo {
            major: version::MAJOR.into(),
            minor: version::MINOR.into(),
            git_version: version::GIT_VERSION.into(),
            git_commit: version::GIT_COMMIT.into(),
            build_date: version::BUILD_DATE.into(),
            platform: version::platform(),
        },
        service_account_issuer: format!("https://kubernetes.default.svc.{}", options.cluster_domain),
        service_account_key: pki.service_account_key.clone(),
        client_ca_pem: pki.client_ca.cert_pem().to_owned(),
        kubelet_client: Some(KubeletClient {
            certificate_pem: pki.kubelet_client.cert_pem.clone(),
            key_pem: pki.kubelet_client.key_pem.clone(),
            ca_pem: pki.server_ca.cert_pem().to_owned(),
        }),
        static_tokens,
        manage_system_objects: true,
        max_request_bytes: 3 << 20,
        max_requests_in_flight: options.max_requests_inflight + options.max_mutating_requests_inflight,
        admission: access::admission(&options.access)?,
        authentication: access::authentication(&options.access, pki)?,
        authorization: access::authorization(&options.access)?,
    })
}

/// The longest life of certificates that the built-in signers sign.
const CERTIFICATE_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

fn controllers(options: &ServerOptions, shared: &Shared) -> Result<ControllerManager> {
    let IpNet::V4(cluster_cidr) = options.cluster_cidr else {
        anyhow::bail!("--cluster-cidr {}: want an IPv4 network", options.cluster_cidr);
    };
    let config = ControllerManagerConfig {
        cluster_cidr,
        node_cidr_prefix: 24,
        root_ca_pem: shared.pki.server_ca.cert_pem().to_owned(),
        node_grace: Duration::from_secs(50),
        signing: Some(Signing {
            clients: shared.pki.client_ca.clone(),
            servers: shared.pki.server_ca.clone(),
            duration: CERTIFICATE_LIFE,
        }),
    };
    // The collector and the namespace controller must be able to remove anything.
    let client =
        shared.client("kube-controller-manager", user("system:kube-controller-manager", &["system:masters"]))?;
    Ok(ControllerManager::new(config, client, shared.informers.clone()))
}

/// The service `apiserver`: ready once it serves and the objects that every cluster has are there.
struct ApiService {
    api: ApiServer,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
}

#[async_trait]
impl Service for ApiService {
    fn name(&self) -> &'static str {
        "apiserver"
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let listener = tokio::net::TcpListener::from_std(self.listener.try_clone()?)?;
        let serving = self.api.serve(listener, self.tls.clone(), cx.shutdown.clone());
        let starting = async {
            self.api.ready().await;
            cx.ready.set();
            notify::ready();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            served = serving => Ok(served?),
            () = starting => Ok(()),
        }
    }
}
