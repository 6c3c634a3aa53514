//! Watches, plans and applies.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Informer, Informers, ObjectKey};
use component_base::supervisor::BoxError;
use component_base::{Backoff, Metrics, Service as Component, ServiceContext};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use sys::nft::NftError;
use tokio::sync::Notify;
use tracing::{debug, error, info};

use crate::plan::{Plan, PortKey, PortRules, SERVICE_NAME_LABEL, plan_service};
use crate::script;

/// A service with this annotation is answered by every node itself (the cluster's DNS), so it has no rules.
pub const NODE_LOCAL_ANNOTATION: &str = "kedge.dev/served-by-every-node";

const BY_SERVICE: &str = "service";

#[derive(Debug, Clone)]
pub struct KubeProxyConfig {
    pub node_name: String,
}

/// The service `kube-proxy`: ready after the first full sync.
pub struct KubeProxy {
    config: KubeProxyConfig,
    informers: Informers,
    syncs: Counter,
    failures: Counter,
}

impl KubeProxy {
    pub fn new(config: KubeProxyConfig, informers: Informers, metrics: &Metrics) -> Self {
        let counter = |name: &str, help: &str| metrics.register(name, help, Counter::default());
        Self {
            config,
            informers,
            syncs: counter("kubeproxy_sync_proxy_rules", "Transactions applied"),
            failures: counter("kubeproxy_sync_proxy_rules_failures", "Transactions refused"),
        }
    }
}

/// Removes every rule (`kedge killall`).
///
/// # Errors
/// When nft is missing or refuses.
pub async fn tear_down() -> Result<(), NftError> {
    sys::nft::apply(&script::teardown()).await
}

/// Services that changed since the last sync.
#[derive(Default)]
struct Dirty {
    services: Mutex<HashSet<ObjectKey>>,
    changed: Notify,
}

impl Dirty {
    fn mark(&self, key: ObjectKey) {
        self.services.lock().insert(key);
        self.changed.notify_one();
    }

    fn take(&self) -> HashSet<ObjectKey> {
        std::mem::take(&mut *self.services.lock())
    }
}

fn owner(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), name))
}

#[async_trait]
impl Component for KubeProxy {
    fn name(&self) -> &'static str {
        "kube-proxy"
    }

    fn depends_on(&self) -> &'static [&'static str] {
        &["apiserver"]
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let (services, slices) = (self.informers.of::<Service>(), self.informers.of::<EndpointSlice>());
        slices.add_index(BY_SERVICE, |slice| owner(slice).iter().map(ToString::to_string).collect());
        let dirty = Arc::new(Dirty::default());
        let marks = dirty.clone();
        services.on_change(move |change| marks.mark(ObjectKey::of(change.object().as_ref())));
        let marks = dirty.clone();
        slices.on_change(move |change| {
            if let client::Change::Updated { old, .. } = change {
                owner(old).into_iter().for_each(|key| marks.mark(key));
            }
            owner(change.object()).into_iter().for_each(|key| marks.mark(key));
        });
        services.synced().await;
        slices.synced().await;
        let mut proxier = Proxier { node: self.config.node_name.clone(), services, slices, programmed: HashMap::new() };
        let backoff = Backoff::new(Duration::from_millis(200), 2, Duration::from_secs(30));
        let (mut failures, mut whole) = (0, true);
        loop {
            let keys = dirty.take();
            let result = if whole { proxier.sync_all().await } else { proxier.sync(&keys).await };
            match result {
                Ok(()) => {
                    (failures, whole) = (0, false);
                    self.syncs.inc();
                    cx.ready.set();
                }
                Err(NftError::NotInstalled) if !cx.ready.is_set() => return Err(NftError::NotInstalled.into()),
                Err(error) => {
                    // What is programmed is no longer sure: start over with everything.
                    whole = true;
                    self.failures.inc();
                    let delay = backoff.delay(failures);
                    failures += 1;
                    error!(%error, retry_in_ms = delay.as_millis() as u64, "service rules not applied");
                    if cx.shutdown.run_until_cancelled(cx.clock.sleep(delay)).await.is_none() {
                        return Ok(());
                    }
                    continue;
                }
            }
            if cx.shutdown.run_until_cancelled(dirty.changed.notified()).await.is_none() {
                return Ok(());
            }
        }
    }
}

struct Proxier {
    node: String,
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    programmed: HashMap<ObjectKey, BTreeMap<PortKey, PortRules>>,
}

impl Proxier {
    fn plan(&self, key: &ObjectKey) -> BTreeMap<PortKey, PortRules> {
        let Some(service) = self.services.get(key) else { return BTreeMap::new() };
        let slices = self.slices.by_index(BY_SERVICE, &key.to_string());
        let slices: Vec<&EndpointSlice> = slices.iter().map(AsRef::as_ref).collect();
        plan_service(&service, &slices, &self.node)
    }

    async fn sync_all(&mut self) -> Result<(), NftError> {
        let keys = self.services.list().iter().map(|service| ObjectKey::of(service.as_ref())).collect::<Vec<_>>();
        let wanted: HashMap<_, _> = keys.into_iter().map(|key| (key.clone(), self.plan(&key))).collect();
        let plan = Plan { ports: wanted.values().flatten().map(|(key, rules)| (key.clone(), rules.clone())).collect() };
        sys::nft::apply(&script::full(&plan)).await?;
        info!(services = wanted.len(), ports = plan.ports.len(), "service rules programmed");
        self.programmed = wanted;
        Ok(())
    }

    /// One transaction for the services that changed.
    async fn sync(&mut self, keys: &HashSet<ObjectKey>) -> Result<(), NftError> {
        let wanted: HashMap<_, _> = keys.iter().map(|key| (key.clone(), self.plan(key))).collect();
        let (mut old, mut new) = (Plan::default(), Plan::default());
        for (key, ports) in &wanted {
            if let Some(before) = self.programmed.get(key) {
                old.ports.extend(before.iter().map(|(key, rules)| (key.clone(), rules.clone())));
            }
            new.ports.extend(ports.iter().map(|(key, rules)| (key.clone(), rules.clone())));
        }
        let script = script::difference(&old, &new);
        if !script.is_empty() {
            sys::nft::apply(&script).await?;
            debug!(services = wanted.len(), "service rules updated");
        }
        for (key, ports) in wanted {
            if ports.is_empty() {
                self.programmed.remove(&key);
            } else {
                self.programmed.insert(key, ports);
            }
        }
        Ok(())
    }
}
