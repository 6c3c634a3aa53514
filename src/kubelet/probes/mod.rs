//! Liveness, readiness and startup probes of running containers.
//!
//! Invariants:
//! - PB-1: a result belongs to one container id: a restarted container starts anew.
//! - PB-2: liveness and readiness are asked only once the startup probe has succeeded.
//! - PB-3: a result that changes wakes the pod's worker at once; nobody polls for it.

pub mod prober;
pub mod state;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{EventRecorder, EventType};
use component_base::{SharedClock, TaskGroup};
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::containers::{self, text};
use crate::podworkers::actions::{ProbeView, is_sidecar};
use crate::runtime::{ContainerRecord, PodRuntime, State};
use crate::status::generate::Probed;
use prober::{Outcome, Prober, Target};
use state::Thresholds;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    Success,
    Failure,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Readiness,
    Liveness,
    Startup,
}

impl Kind {
    pub fn text(self) -> &'static str {
        match self {
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
            Self::Startup => "Startup",
        }
    }

    /// The result before the first probe.
    fn initial(self) -> ProbeResult {
        match self {
            Self::Readiness => ProbeResult::Failure,
            Self::Liveness => ProbeResult::Success,
            Self::Startup => ProbeResult::Unknown,
        }
    }
}

type Wake = Arc<dyn Fn(&str) + Send + Sync>;

struct Worker {
    container_id: String,
    result: ProbeResult,
    stop: TaskGroup,
    now: Arc<Notify>,
}

type Key = (String, String, Kind);

/// All probes of this node. Cloning shares them.
#[derive(Clone)]
pub struct Probes {
    prober: Prober,
    recorder: EventRecorder,
    clock: SharedClock,
    tasks: TaskGroup,
    workers: Arc<Mutex<HashMap<Key, Worker>>>,
    wake: Arc<Mutex<Option<Wake>>>,
}

impl Probes {
    pub fn new(prober: Prober, recorder: EventRecorder, clock: SharedClock, tasks: TaskGroup) -> Self {
        Self { prober, recorder, clock, tasks, workers: Arc::default(), wake: Arc::default() }
    }

    /// Calls `wake` with the uid of a pod whose probes say something new.
    pub fn on_change(&self, wake: impl Fn(&str) + Send + Sync + 'static) {
        *self.wake.lock() = Some(Arc::new(wake));
    }

    /// Probes what runs, and stops probing what does not.
    pub fn sync(&self, pod: &Arc<Pod>, runtime: &PodRuntime, ip: Option<&str>) {
        let uid = text(&pod.metadata.uid).to_owned();
        for container in containers::all(pod) {
            let record = runtime.container(&container.name).filter(|r| r.state == State::Running);
            for kind in [Kind::Readiness, Kind::Liveness, Kind::Startup] {
                let Some(probe) = probe_of(pod, &container, kind) else { continue };
                let key = (uid.clone(), container.name.clone(), kind);
                let mut workers = self.workers.lock();
                match (record, workers.get(&key)) {
                    (Some(record), Some(worker)) if worker.container_id == record.id => {}
                    (Some(record), _) => {
                        let worker = self.start(pod, &container, kind, probe.clone(), record, ip);
                        if let Some(old) = workers.insert(key, worker) {
                            old.stop.token().cancel();
                        }
                    }
                    (None, Some(_)) => {
                        if let Some(old) = workers.remove(&key) {
                            old.stop.token().cancel();
                        }
                    }
                    (None, None) => {}
                }
            }
        }
    }

    /// The pod is ending: nothing may be restarted for a failed probe any more.
    pub fn stop_liveness_and_startup(&self, uid: &str) {
        self.stop(|key| key.0 == uid && key.2 != Kind::Readiness);
    }

    pub fn forget(&self, uid: &str) {
        self.stop(|key| key.0 == uid);
    }

    fn stop(&self, which: impl Fn(&Key) -> bool) {
        self.workers.lock().retain(|key, worker| {
            let stop = which(key);
            if stop {
                worker.stop.token().cancel();
            }
            !stop
        });
    }

    /// The failures that a sync acts upon.
    pub fn view(&self, uid: &str) -> ProbeView {
        let mut view = ProbeView::default();
        for ((owner, _, kind), worker) in self.workers.lock().iter() {
            let map = match kind {
                Kind::Liveness => &mut view.liveness,
                Kind::Startup => &mut view.startup,
                Kind::Readiness => continue,
            };
            if owner == uid {
                map.insert(worker.container_id.clone(), worker.result);
            }
        }
        view
    }

    /// What the status shows, for the running containers that have probes.
    pub fn probed(&self, pod: &Pod, runtime: &PodRuntime) -> HashMap<String, Probed> {
        let uid = text(&pod.metadata.uid);
        let workers = self.workers.lock();
        let result = |name: &str, kind: Kind, id: &str| {
            let worker = workers.get(&(uid.to_owned(), name.to_owned(), kind));
            worker.filter(|w| w.container_id == id).map(|w| w.result)
        };
        let mut out = HashMap::new();
        for container in containers::all(pod) {
            let Some(record) = runtime.container(&container.name).filter(|r| r.state == State::Running) else {
                continue;
            };
            let passed = |kind: Kind| match probe_of(pod, &container, kind) {
                None => true,
                Some(_) => result(&container.name, kind, &record.id) == Some(ProbeResult::Success),
            };
            out.insert(record.id.clone(), Probed { started: passed(Kind::Startup), ready: passed(Kind::Readiness) });
        }
        out
    }

    fn start(
        &self,
        pod: &Arc<Pod>,
        container: &Container,
        kind: Kind,
        probe: Probe,
        record: &ContainerRecord,
        ip: Option<&str>,
    ) -> Worker {
        let stop = TaskGroup::child_of(self.tasks.token());
        let now = Arc::new(Notify::new());
        let target = Target {
            pod: pod.clone(),
            container: container.clone(),
            container_id: record.id.clone(),
            ip: ip.unwrap_or_default().to_owned(),
        };
        // Already running when we came: an adopted container keeps its readiness until a probe says otherwise.
        let result = self.adopted(pod, container, kind, record).unwrap_or_else(|| kind.initial());
        let run = self.clone().run(target, kind, probe, record.started_at, result, now.clone());
        stop.spawn(run);
        Worker { container_id: record.id.clone(), result, stop, now }
    }

    fn adopted(&self, pod: &Pod, container: &Container, kind: Kind, record: &ContainerRecord) -> Option<ProbeResult> {
        let status = pod.status.as_ref()?;
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let shown = lists.into_iter().flatten().flatten().find(|s| s.name == container.name)?;
        let same = shown.container_id.as_deref() == Some(&format!("containerd://{}", record.id));
        let good = match kind {
            Kind::Readiness => shown.ready,
            Kind::Startup => shown.started == Some(true),
            Kind::Liveness => false,
        };
        (same && good).then_some(ProbeResult::Success)
    }

    async fn run(
        self,
        target: Target,
        kind: Kind,
        probe: Probe,
        started_at: Option<jiff::Timestamp>,
        first: ProbeResult,
        now: Arc<Notify>,
    ) {
        let seconds =
            |value: Option<i32>, default: u64| Duration::from_secs(value.map_or(default, |v| v.max(0) as u64));
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let delay = seconds(probe.initial_delay_seconds, 0);
        let mut state = Thresholds::new(
            first,
            probe.success_threshold.unwrap_or(1).max(1) as u32,
            probe.failure_threshold.unwrap_or(3).max(1) as u32,
        );
        let uid = text(&target.pod.metadata.uid).to_owned();
        let running_for =
            started_at.and_then(|at| Duration::try_from(self.clock.now().duration_since(at)).ok()).unwrap_or_default();
        self.clock.sleep(delay.saturating_sub(running_for)).await;
        loop {
            if kind == Kind::Startup && state.result() == ProbeResult::Success {
                return;
            }
            if kind != Kind::Startup && !self.has_started(&uid, &target) {
                now.notified().await;
                continue;
            }
            let outcome = self.probe(&target, kind, &probe).await;
            if let Some(success) = outcome {
                if state.book(success) {
                    self.publish(&uid, &target, kind, state.result());
                    if state.result() == ProbeResult::Failure && kind != Kind::Readiness {
                        // The container is about to be killed; its successor gets a worker of its own.
                        return;
                    }
                }
            }
            tokio::select! {
                () = self.clock.sleep(period) => {}
                () = now.notified() => {}
            }
        }
    }

    fn has_started(&self, uid: &str, target: &Target) -> bool {
        if target.container.startup_probe.is_none() {
            return true;
        }
        let key = (uid.to_owned(), target.container.name.clone(), Kind::Startup);
        let workers = self.workers.lock();
        workers.get(&key).is_some_and(|w| w.container_id == target.container_id && w.result == ProbeResult::Success)
    }

    /// Asks once (three times when asking itself fails, as upstream does). `None`: no verdict.
    async fn probe(&self, target: &Target, kind: Kind, probe: &Probe) -> Option<bool> {
        let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
        let mut outcome = Outcome::Error(String::new());
        for _ in 0..3 {
            outcome = self.prober.probe(target, probe, timeout, &self.clock).await;
            if !matches!(outcome, Outcome::Error(_)) {
                break;
            }
        }
        let mut about = client::object_reference(target.pod.as_ref());
        about.field_path = containers::field_path(&target.pod, &target.container.name);
        let warn = |reason: &str, message: String| self.recorder.event(&about, EventType::Warning, reason, &message);
        match outcome {
            Outcome::Success => Some(true),
            Outcome::Warning(output) => {
                warn("ProbeWarning", format!("{} probe warning: {output}", kind.text()));
                Some(true)
            }
            Outcome::Failure(output) => {
                warn("Unhealthy", format!("{} probe failed: {output}", kind.text()));
                Some(false)
            }
            // Upstream throws such a result away.
            Outcome::Error(error) => {
                warn("Unhealthy", format!("{} probe errored and resulted in unknown state: {error}", kind.text()));
                None
            }
        }
    }

    fn publish(&self, uid: &str, target: &Target, kind: Kind, result: ProbeResult) {
        {
            let mut workers = self.workers.lock();
            let key = (uid.to_owned(), target.container.name.clone(), kind);
            match workers.get_mut(&key) {
                Some(worker) if worker.container_id == target.container_id => worker.result = result,
                _ => return,
            }
            if kind == Kind::Startup {
                for kind in [Kind::Readiness, Kind::Liveness] {
                    if let Some(held) = workers.get(&(uid.to_owned(), target.container.name.clone(), kind)) {
                        held.now.notify_one();
                    }
                }
            }
        }
        let wake = self.wake.lock().clone();
        if let Some(wake) = wake {
            wake(uid);
        }
    }
}

/// The probe of a container, when its kind may have one.
pub fn probe_of<'a>(pod: &Pod, container: &'a Container, kind: Kind) -> Option<&'a Probe> {
    let init = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()).any(|c| c.name == container.name);
    if init && !is_sidecar(container) {
        return None;
    }
    match kind {
        Kind::Readiness => container.readiness_probe.as_ref(),
        Kind::Liveness => container.liveness_probe.as_ref(),
        Kind::Startup => container.startup_probe.as_ref(),
    }
}
