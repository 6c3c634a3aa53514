//! The service "kubelet": everything put together and kept going.
//!
//! Invariants:
//! - KB-1: pods are adopted from the runtime and judged only after the first list of pods from the API server.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, EventRecorder, Informer, Informers, ObjectKey};
use component_base::supervisor::BoxError;
use component_base::{Metrics, Ready, Service, ServiceContext, SharedClock, TaskGroup};
use k8s_openapi::api::core::v1::{Pod, Service as ApiService};
use kube::Client;
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::cgroups::PodGroups;
use crate::config::KubeletConfig;
use crate::containerd::events::{self, RuntimeEvent};
use crate::containers::text;
use crate::cri::{Cri, v1};
use crate::error::{Error, Result};
use crate::images::Images;
use crate::images::durable::Durable;
use crate::node::{Node, facts};
use crate::objects::Objects;
use crate::podworkers::{PodWorkers, Shared};
use crate::probes::Probes;
use crate::probes::prober::Prober;
use crate::runtime::{self, ContainerRecord};
use crate::status::manager::StatusManager;
use crate::volumes::{self, Volumes};

/// The safety net under the event stream.
const RELIST: Duration = Duration::from_secs(10);
const LOG_ROTATION: Duration = Duration::from_secs(10);
const IMAGE_GC: Duration = Duration::from_secs(300);

/// The node's agent.
pub struct Kubelet {
    config: Arc<KubeletConfig>,
    client: Client,
    informers: Informers,
    running_pods: Gauge,
    running_containers: Gauge,
    access: watch::Sender<Option<Access>>,
}

/// What others (the HTTPS server) may ask of a running kubelet. Cloning is cheap.
#[derive(Clone)]
pub struct Access {
    pub shared: Arc<Shared>,
    pub workers: PodWorkers,
    pods: Informer<Pod>,
}

impl Access {
    pub fn config(&self) -> &Arc<KubeletConfig> {
        &self.shared.config
    }

    pub fn cri(&self) -> &Cri {
        &self.shared.cri
    }

    /// The pods of this node, with the statuses last sent.
    pub fn pods(&self) -> Vec<Pod> {
        let with_status = |pod: &Arc<Pod>| {
            let mut pod = pod.as_ref().clone();
            if let Some(status) = self.shared.status.get(text(&pod.metadata.uid)) {
                pod.status = Some(status);
            }
            pod
        };
        self.pods.list().iter().map(with_status).collect()
    }

    pub fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        self.pods.get(&ObjectKey::new(namespace, name))
    }

    /// The newest attempt of a container; with `previous`, the one before it.
    ///
    /// # Errors
    /// Upstream's text when there is none.
    pub async fn container(
        &self,
        namespace: &str,
        name: &str,
        container: &str,
        previous: bool,
    ) -> Result<ContainerRecord> {
        let pod = self.pod(namespace, name).ok_or_else(|| Error::pod(format!("pod {name:?} not found")))?;
        let found = runtime::read(&self.shared.cri, text(&pod.metadata.uid)).await?;
        let mut attempts = found.attempts(container);
        let record = if previous {
            attempts.nth(1).cloned().ok_or_else(|| {
                Error::pod(format!("previous terminated container {container:?} in pod {name:?} not found"))
            })?
        } else {
            attempts.next().cloned().ok_or_else(|| {
                Error::pod(format!("container {container:?} in pod {name:?} is waiting to start: ContainerCreating"))
            })?
        };
        Ok(record)
    }
}

impl Kubelet {
    pub fn new(config: Arc<KubeletConfig>, client: Client, informers: Informers, metrics: &Metrics) -> Self {
        Self {
            config,
            client,
            informers,
            running_pods: metrics.register("kubelet_running_pods", "Pods with a running sandbox", Gauge::default()),
            running_containers: metrics.register("kubelet_running_containers", "Running containers", Gauge::default()),
            access: watch::Sender::new(None),
        }
    }

    /// Set while the kubelet runs.
    pub fn access(&self) -> watch::Receiver<Option<Access>> {
        self.access.subscribe()
    }

    fn build(&self, clock: &SharedClock, tasks: &TaskGroup) -> Result<Arc<Shared>> {
        let config = self.config.clone();
        let cri = Cri::new(&config.runtime_endpoint());
        let recorder = EventRecorder::new(self.client.clone(), "kubelet", &config.node_name, clock.clone(), tasks);
        let objects = Objects::new(self.client.clone(), clock.clone(), tasks.clone());
        let prober = Prober::new(cri.clone())?;
        let groups = PodGroups::new(&config.cgroup_root)?;
        let machine = facts::machine(&config)?;
        groups.setup(machine.milli_cpu, machine.memory)?;
        for dir in [&config.pods_dir(), &config.pods_log_dir, &config.container_log_links] {
            std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
        }
        Ok(Arc::new(Shared {
            client: self.client.clone(),
            images: Images::new(cri.clone(), recorder.clone(), clock.clone()),
            durable: Durable::new(cri.clone(), tasks.clone()),
            volumes: Volumes::new(self.client.clone(), objects.clone(), clock.clone()),
            status: StatusManager::new(self.client.clone(), clock.clone(), tasks),
            probes: Probes::new(prober.clone(), recorder.clone(), clock.clone(), tasks.clone()),
            services: self.informers.of::<ApiService>(),
            objects,
            prober,
            groups,
            recorder,
            cri,
            config,
            clock: clock.clone(),
            machine,
            owners: Mutex::default(),
        }))
    }

    fn follow_pods(&self, workers: &PodWorkers, tasks: &TaskGroup) -> Informer<Pod> {
        let selector = format!("spec.nodeName={}", self.config.node_name);
        let pods = self.informers.selected::<Pod>(Some(&selector));
        let (workers, token) = (workers.clone(), tasks.token().clone());
        pods.on_change(move |change| {
            // A handler cannot be taken back; after a restart of the service the old one must stay silent.
            if token.is_cancelled() {
                return;
            }
            match change {
                Change::Added(pod) => workers.update(pod.clone()),
                Change::Updated { old, new } => {
                    // The same name again: the informer saw no deletion in between.
                    if old.metadata.uid != new.metadata.uid {
                        workers.remove(old.clone());
                    }
                    if matters(old, new) {
                        workers.update(new.clone());
                    }
                }
                Change::Deleted(pod) => workers.remove(pod.clone()),
            }
        });
        pods
    }
}

/// Whether an update is more than our own status coming back.
fn matters(old: &Pod, new: &Pod) -> bool {
    let others = |pod: &Pod| {
        let conditions = pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let foreign = |c: &k8s_openapi::api::core::v1::PodCondition| {
            !crate::status::conditions::OWNED.contains(&c.type_.as_str())
        };
        conditions.into_iter().filter(foreign).collect::<Vec<_>>()
    };
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.clone());
    let meta = |pod: &Pod| {
        let mut meta = pod.metadata.clone();
        meta.resource_version = None;
        meta.managed_fields = None;
        meta
    };
    old.spec != new.spec || meta(old) != meta(new) || others(old) != others(new) || phase(old) != phase(new)
}

#[async_trait]
impl Service for Kubelet {
    fn name(&self) -> &'static str {
        "kubelet"
    }

    fn depends_on(&self) -> &'static [&'static str] {
        &["containerd"]
    }

    async fn run(&self, cx: ServiceContext) -> Result<(), BoxError> {
        let tasks = TaskGroup::child_of(&cx.shutdown);
        let started = self.start(&cx, &tasks).await;
        let outcome = match started {
            Ok((keeper, registered, events)) => {
                run_until(cx.clone(), keeper, registered, events).await;
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.access.send_replace(None);
        tasks.stop().await;
        outcome.map_err(Into::into)
    }
}

impl Kubelet {
    async fn start(
        &self,
        cx: &ServiceContext,
        tasks: &TaskGroup,
    ) -> Result<(Housekeeper, Ready, mpsc::UnboundedReceiver<RuntimeEvent>)> {
        let shared = self.build(&cx.clock, tasks)?;
        let version = shared.cri.version().await?;
        info!(runtime = version.runtime_name, version = version.runtime_version, "container runtime");
        let workers = PodWorkers::new(shared.clone(), tasks.clone());
        let wake = workers.clone();
        shared.objects.on_change(move |uid| wake.wake(uid));
        let wake = workers.clone();
        shared.probes.on_change(move |uid| wake.wake(uid));
        let node = Node::new(shared.clone(), workers.clone(), &version);
        let registered = node.registered();
        tasks.spawn(node.run());
        let (sender, receiver) = mpsc::unbounded_channel();
        tasks.spawn(events::watch(shared.cri.clone(), cx.clock.clone(), sender));
        let pods = self.follow_pods(&workers, tasks);
        let access = Access { shared: shared.clone(), workers: workers.clone(), pods: pods.clone() };
        self.access.send_replace(Some(access));
        let keeper = Housekeeper {
            shared,
            workers,
            pods,
            seen: HashMap::new(),
            running_pods: self.running_pods.clone(),
            running_containers: self.running_containers.clone(),
        };
        Ok((keeper, registered, receiver))
    }
}

/// Keeps house until the service is to stop.
async fn run_until(
    cx: ServiceContext,
    keeper: Housekeeper,
    registered: Ready,
    events: mpsc::UnboundedReceiver<RuntimeEvent>,
) {
    let life = async {
        keeper.pods.synced().await;
        keeper.clear_leftovers().await;
        registered.wait().await;
        cx.ready.set();
        keeper.run(events).await;
    };
    cx.shutdown.run_until_cancelled(life).await;
}

/// Passes events on, and looks after what has no event.
struct Housekeeper {
    shared: Arc<Shared>,
    workers: PodWorkers,
    pods: Informer<Pod>,
    /// State of every container and sandbox at the last look.
    seen: HashMap<String, i32>,
    running_pods: Gauge,
    running_containers: Gauge,
}

impl Housekeeper {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<RuntimeEvent>) {
        let clock = self.shared.clock.clone();
        let (mut relist, mut rotate, mut collect) = (clock.instant() + RELIST, LOG_ROTATION, IMAGE_GC);
        let start = clock.instant();
        loop {
            let wait = relist.saturating_duration_since(clock.instant());
            tokio::select! {
                event = events.recv() => match event {
                    Some(event) if event.id.is_empty() => self.workers.wake_all(),
                    Some(event) => self.workers.wake_by_container(&event.id),
                    None => return,
                },
                () = clock.sleep(wait) => {
                    self.relist().await;
                    let up = clock.instant() - start;
                    if up >= rotate {
                        rotate = up + LOG_ROTATION;
                        self.rotate_logs().await;
                    }
                    if up >= collect {
                        collect = up + IMAGE_GC;
                        self.collect_images().await;
                    }
                    relist = clock.instant() + RELIST;
                }
            }
        }
    }

    /// Wakes the pods whose containers changed without an event, and ends what the API server does not know.
    async fn relist(&mut self) {
        let cri = &self.shared.cri;
        let (containers, sandboxes) = match futures::future::try_join(
            cri.list_containers(v1::ContainerFilter::default()),
            cri.list_pod_sandboxes(v1::PodSandboxFilter::default()),
        )
        .await
        {
            Ok(found) => found,
            Err(error) => {
                warn!(%error, "the runtime does not answer");
                return;
            }
        };
        let running = containers.iter().filter(|c| c.state() == v1::ContainerState::ContainerRunning).count();
        let ready = sandboxes.iter().filter(|s| s.state() == v1::PodSandboxState::SandboxReady).count();
        self.running_containers.set(running as i64);
        self.running_pods.set(ready as i64);
        let known = runtime::pods_of(&sandboxes, &containers);
        let mut now: HashMap<String, i32> = containers.into_iter().map(|c| (c.id, c.state)).collect();
        now.extend(sandboxes.into_iter().map(|s| (s.id, s.state)));
        for id in now.keys().chain(self.seen.keys()) {
            if now.get(id) != self.seen.get(id) {
                self.workers.wake_by_container(id);
            }
        }
        self.seen = now;
        self.end_orphans(known);
        let pods = self.workers.pods();
        if let Err(error) = self.shared.groups.weigh_burstable(pods.iter().map(AsRef::as_ref)) {
            warn!(%error, "class weights not set");
        }
    }

    fn end_orphans(&self, known: Vec<runtime::KnownPod>) {
        for pod in known {
            let ours = self.pods.get(&ObjectKey::new(&pod.namespace, &pod.name));
            let wanted = ours.is_some_and(|p| text(&p.metadata.uid) == pod.uid);
            if !wanted && !self.workers.knows(&pod.uid) {
                info!(pod = %format!("{}/{}", pod.namespace, pod.name), uid = pod.uid, "ending an orphan");
                self.workers.orphan(&pod);
            }
        }
    }

    /// What pods of an earlier life left on disk and in control groups.
    async fn clear_leftovers(&self) {
        match runtime::list(&self.shared.cri).await {
            Ok(known) => self.end_orphans(known),
            Err(error) => warn!(%error, "the runtime does not answer"),
        }
        let alive =
            |uid: &str| self.workers.knows(uid) || self.pods.list().iter().any(|pod| text(&pod.metadata.uid) == uid);
        for entry in std::fs::read_dir(self.shared.config.pods_dir()).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if !alive(&uid) {
                if let Err(error) = volumes::remove_pod_dir(&entry.path()) {
                    warn!(uid, %error, "directory of a former pod not removed");
                }
            }
        }
        for uid in self.shared.groups.pods() {
            if !alive(&uid) {
                if let Err(error) = self.shared.groups.remove_pod(&uid) {
                    warn!(uid, %error, "control group of a former pod not removed");
                }
            }
        }
        // Links to logs that are gone.
        for entry in std::fs::read_dir(&self.shared.config.container_log_links).into_iter().flatten().flatten() {
            let target = std::fs::read_link(entry.path());
            if target.is_ok_and(|t| t.starts_with(&self.shared.config.pods_log_dir) && !t.exists()) {
                // Gone meanwhile is fine.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    async fn rotate_logs(&self) {
        let limits = self.shared.config.log_rotation;
        for (id, path) in self.open_logs() {
            let now = self.shared.clock.now();
            if let Err(error) = runtime::logs::rotate(&self.shared.cri, &id, &path, limits, now).await {
                warn!(log = %path.display(), %error, "log not rotated");
            }
        }
    }

    /// The running containers and their logs.
    fn open_logs(&self) -> Vec<(String, PathBuf)> {
        let mut out = Vec::new();
        for pod in self.workers.pods() {
            let Some(status) = self.shared.status.get(text(&pod.metadata.uid)) else { continue };
            let meta = &pod.metadata;
            let dir = self.shared.config.pod_log_dir(text(&meta.namespace), text(&meta.name), text(&meta.uid));
            for container in status.container_statuses.iter().chain(&status.init_container_statuses).flatten() {
                let running = container.state.as_ref().is_some_and(|s| s.running.is_some());
                let id = container.container_id.as_deref().and_then(|id| id.strip_prefix("containerd://"));
                let (true, Some(id)) = (running, id) else { continue };
                let restarts = u32::try_from(container.restart_count).unwrap_or(0);
                let log = crate::containers::config::log_path(&container.name, restarts);
                out.push((id.to_owned(), dir.join(log)));
            }
        }
        out
    }

    async fn collect_images(&self) {
        let config = &self.shared.config;
        let Ok(space) = sys::mount::disk_space(&config.data_dir) else { return };
        let pause = &config.pause_image.reference;
        let images = &self.shared.images;
        if let Err(error) = images.collect(config.image_gc, space.capacity, space.available, pause).await {
            warn!(%error, "images not collected");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn our_own_status_coming_back_wakes_nobody() {
        let pod = |version: &str, status: serde_json::Value, generation: i64| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "p", "resourceVersion": version, "generation": generation},
                "spec": {"containers": []}, "status": status}))
            .expect("a pod")
        };
        let first = pod("1", json!({"phase": "Running"}), 1);
        assert!(!matters(&first, &pod("2", json!({"phase": "Running", "podIP": "1.1.1.1"}), 1)));
        assert!(matters(&first, &pod("2", json!({"phase": "Running"}), 2)));
        let gate = json!({"phase": "Running", "conditions": [{"type": "example.com/gate", "status": "True"}]});
        assert!(matters(&first, &pod("2", gate, 1)));
    }
}
