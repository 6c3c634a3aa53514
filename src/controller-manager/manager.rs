//! The driver: one list of controllers, one queue each; retries and back-off live here.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, EventRecorder, Informers, ObjectKey, WorkQueue, run_workers};
use component_base::supervisor::BoxError;
use component_base::{Service, ServiceContext, SharedClock, TaskGroup};
use ipnet::Ipv4Net;
use tracing::info;

use crate::controllers;
use crate::error::Error;

#[derive(Debug, Clone)]
pub struct ControllerManagerConfig {
    pub cluster_cidr: Ipv4Net,
    /// Prefix length of a node's part of it.
    pub node_cidr_prefix: u8,
    /// What pods trust: published as `kube-root-ca.crt` in every namespace.
    pub root_ca_pem: String,
    /// Without a lease renewal for this long a node is not known to be well (upstream: 50 s).
    pub node_grace: Duration,
    /// Signs certificate requests; none: nobody here does.
    pub signing: Option<Signing>,
}

/// The authorities of the built-in signers.
#[derive(Clone)]
pub struct Signing {
    /// Signs what clients of the API server show.
    pub clients: pki::Authority,
    /// Signs what kubelets serve with.
    pub servers: pki::Authority,
    /// The longest life of a certificate (upstream: `--cluster-signing-duration`, a year).
    pub duration: Duration,
}

impl std::fmt::Debug for Signing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signing({:?})", self.duration)
    }
}

/// What every controller is given.
#[derive(Clone)]
pub struct Context {
    pub client: Client,
    pub informers: Informers,
    pub clock: SharedClock,
    pub tasks: TaskGroup,
    pub config: Arc<ControllerManagerConfig>,
}

impl Context {
    pub fn recorder(&self, component: &str) -> EventRecorder {
        EventRecorder::new(self.client.clone(), component, "", self.clock.clone(), &self.tasks)
    }

    pub fn queue(&self) -> WorkQueue<ObjectKey> {
        WorkQueue::new(self.clock.clone())
    }
}

/// One controller. Constructed with its handlers already registered on `queue`.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    fn name(&self) -> &'static str;

    /// Keys that are looked at side by side.
    fn workers(&self) -> usize {
        4
    }

    fn queue(&self) -> &WorkQueue<ObjectKey>;

    /// Returns when the caches that `reconcile` reads are filled.
    async fn synced(&self);

    /// Brings `key` to its desired state; `Some(delay)`: look again then.
    ///
    /// # Errors
    /// Anything that a later try may overcome.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error>;
}

/// The service `controller-manager`.
pub struct ControllerManager {
    config: Arc<ControllerManagerConfig>,
    client: Client,
    informers: Informers,
}

impl ControllerManager {
    pub fn new(config: ControllerManagerConfig, client: Client, informers: Informers) -> Self {
        Self { config: Arc::new(config), client, informers }
    }
}

#[async_trait]
impl Service for ControllerManager {
    fn name(&self) -> &'static str {
        "controller-manager"
    }

    fn depends_on(&self) -> &'static [&'static str] {
        &["apiserver"]
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let tasks = TaskGroup::child_of(&cx.shutdown);
        let context = Context {
            client: self.client.clone(),
            informers: self.informers.clone(),
            clock: cx.clock.clone(),
            tasks: tasks.clone(),
            config: self.config.clone(),
        };
        let all = controllers::all(&context);
        for controller in &all {
            controller.synced().await;
        }
        info!(controllers = ?all.iter().map(|controller| controller.name()).collect::<Vec<_>>(), "controllers started");
        for controller in all {
            let queue = controller.queue().clone();
            let (name, workers) = (controller.name(), controller.workers());
            run_workers(&tasks, name, &queue, workers, move |key: ObjectKey| {
                let controller = controller.clone();
                async move {
                    match controller.reconcile(&key).await {
                        // Somebody else was faster: look again with what they wrote.
                        Err(error) if error.code() == 409 => Ok(Some(Duration::from_millis(20))),
                        other => other,
                    }
                }
            });
        }
        cx.ready.set();
        cx.shutdown.cancelled().await;
        tasks.stop().await;
        Ok(())
    }
}
