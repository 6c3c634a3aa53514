//! Ending a pod: its containers within their grace, its sandbox, its volumes, and at last its API object.
//!
//! Invariants:
//! - EN-1: the API object goes only when nothing of the pod runs and its volumes are gone.
//! - EN-2: a grace period that is shortened meanwhile counts at once.

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use futures::future::{join_all, try_join_all};
use k8s_openapi::api::core::v1::Pod;
use tracing::{info, warn};

use super::Input;
use super::actions::is_sidecar;
use super::worker::{Step, Worker};
use crate::containers::{find, text};
use crate::error::Result;
use crate::runtime::{ContainerRecord, PodRuntime};

const DEFAULT_GRACE: i64 = 30;
/// Containers get at least this long, as upstream's `minimumGracePeriodInSeconds`.
const MIN_GRACE: i64 = 2;

/// The grace of the pod's containers, in seconds.
pub(super) fn grace_of(pod: &Pod) -> i64 {
    let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(own).unwrap_or(DEFAULT_GRACE)
}

impl Worker {
    pub(super) async fn end(&mut self, input: &Input) -> Step {
        let shared = self.shared.clone();
        let pod = &input.pod;
        let uid = Self::uid(pod).to_owned();
        shared.probes.stop_liveness_and_startup(&uid);
        let runtime = match shared.read(&uid).await {
            Ok(runtime) => runtime,
            Err(error) => {
                warn!(pod = %text(&pod.metadata.name), %error, "the runtime does not answer");
                return self.retry();
            }
        };
        let something_runs = runtime.running().next().is_some() || runtime.sandboxes.iter().any(|s| s.ready);
        if !self.stopped || something_runs {
            if !input.deleted {
                self.report(pod, &runtime, false);
            }
            let grace = self.ending_grace(pod, &runtime);
            let slot = self.slot.clone();
            let shorter = async {
                loop {
                    slot.changed.notified().await;
                    let now = slot.input.lock().pod.clone();
                    if grace_of(&now).max(1) < grace {
                        return;
                    }
                }
            };
            let result = tokio::select! {
                result = self.stop_all(pod, &runtime, Some(grace)) => result,
                () = shorter => return Step::Again,
            };
            if let Err(error) = result {
                warn!(pod = %text(&pod.metadata.name), %error, "pod not stopped, will try again");
                return self.retry();
            }
            self.stopped = true;
        }
        shared.probes.forget(&uid);
        let after = match shared.read(&uid).await {
            Ok(after) => after,
            Err(_) => return self.retry(),
        };
        if !self.input().deleted {
            self.report(pod, &after, true);
        }
        if !self.released {
            if let Err(error) = self.release(pod) {
                warn!(pod = %text(&pod.metadata.name), %error, "pod not cleaned up, will try again");
                return self.retry();
            }
            self.released = true;
            self.failures = 0;
        }
        let input = self.input();
        if input.deleted {
            if let Err(error) = self.erase(pod, &after).await {
                warn!(pod = %text(&pod.metadata.name), %error, "pod not removed from the runtime, will try again");
                return self.retry();
            }
            info!(pod = %text(&pod.metadata.name), namespace = %text(&pod.metadata.namespace), "pod removed");
            return Step::Done;
        }
        if input.pod.metadata.deletion_timestamp.is_some() {
            shared.status.finish(&input.pod);
        }
        Step::Wait(None)
    }

    fn ending_grace(&self, pod: &Pod, runtime: &PodRuntime) -> i64 {
        let recorded = runtime.containers.iter().find_map(|c| c.termination_grace);
        let evicted = self.verdict.as_ref().is_some_and(|v| v.reason == "Evicted");
        let grace = match (evicted, pod.spec.is_some(), recorded) {
            (true, _, _) => 0,
            // An orphan's spec is lost; its containers carry what matters.
            (false, false, Some(recorded)) => recorded,
            _ => grace_of(pod),
        };
        grace.max(1)
    }

    /// Stops all containers (sidecars after the others, last started first), then the sandboxes.
    pub(super) async fn stop_all(&self, pod: &Arc<Pod>, runtime: &PodRuntime, grace: Option<i64>) -> Result<()> {
        let shared = &self.shared;
        let grace = grace.unwrap_or_else(|| grace_of(pod));
        let begun = shared.clock.instant();
        let sidecars: Vec<&str> = pod
            .spec
            .iter()
            .flat_map(|s| s.init_containers.iter().flatten())
            .filter(|c| is_sidecar(c))
            .map(|c| c.name.as_str())
            .collect();
        let (late, early): (Vec<&ContainerRecord>, Vec<&ContainerRecord>) =
            runtime.running().partition(|record| sidecars.contains(&record.name.as_str()));
        let stops = early.into_iter().map(|record| self.stop_container(pod, record, "", grace));
        for result in join_all(stops).await {
            result?;
        }
        for name in sidecars.iter().rev() {
            for record in late.iter().filter(|record| record.name == *name) {
                let passed = i64::try_from((shared.clock.instant() - begun).as_secs()).unwrap_or(i64::MAX);
                self.stop_container(pod, record, "", grace.saturating_sub(passed).max(1)).await?;
            }
        }
        let sandboxes = runtime.sandboxes.iter().filter(|s| s.ready);
        try_join_all(sandboxes.map(|s| shared.cri.stop_pod_sandbox(&s.id))).await?;
        Ok(())
    }

    /// Stops one container: event, hook, then the runtime with what is left of `grace` (seconds).
    pub(super) async fn stop_container(
        &self,
        pod: &Arc<Pod>,
        record: &ContainerRecord,
        message: &str,
        grace: i64,
    ) -> Result<()> {
        let shared = &self.shared;
        let default = format!("Stopping container {}", record.name);
        let message = if message.is_empty() { default.as_str() } else { message };
        shared.event(pod, Some(&record.name), EventType::Normal, "Killing", message);
        let mut left = grace;
        let spec = find(pod, &record.name);
        let hook = spec.as_ref().and_then(|c| c.lifecycle.as_ref()).and_then(|l| l.pre_stop.as_ref());
        if let (Some(container), Some(hook), true) = (&spec, hook, grace > 0) {
            let begun = shared.clock.instant();
            let limit = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            let ip = self.last_status.as_ref().and_then(|s| s.pod_ip.clone());
            let ran = tokio::select! {
                ran = self.run_hook(pod, container, &record.id, ip, hook, Some(limit)) => ran,
                () = shared.clock.sleep(limit) => Err("the grace period is over".to_owned()),
            };
            if let Err(error) = ran {
                warn!(pod = %text(&pod.metadata.name), container = record.name, error, "preStop hook failed");
                shared.event(pod, Some(&record.name), EventType::Warning, "FailedPreStopHook", "PreStopHook failed");
            }
            let took = i64::try_from((shared.clock.instant() - begun).as_secs()).unwrap_or(i64::MAX);
            left = grace.saturating_sub(took);
        }
        // A forced end is not stretched.
        let left = if grace <= 1 { left.max(0) } else { left.max(MIN_GRACE) };
        shared.cri.stop_container(&record.id, left).await
    }

    /// Gives back what a pod without processes holds.
    fn release(&self, pod: &Pod) -> Result<()> {
        let shared = &self.shared;
        let uid = Self::uid(pod);
        shared.volumes.tear_down(uid, &shared.config.pod_dir(uid))?;
        shared.groups.remove_pod(uid)?;
        shared.objects.forget(uid);
        Ok(())
    }

    /// Removes the last traces of a pod that the API no longer has.
    async fn erase(&self, pod: &Pod, runtime: &PodRuntime) -> Result<()> {
        let shared = &self.shared;
        let uid = Self::uid(pod);
        for container in &runtime.containers {
            shared.cri.remove_container(&container.id).await?;
            let _ = std::fs::remove_file(self.log_link(pod, &container.name, &container.id));
        }
        for sandbox in &runtime.sandboxes {
            shared.cri.remove_pod_sandbox(&sandbox.id).await?;
        }
        let logs = shared.config.pod_log_dir(text(&pod.metadata.namespace), text(&pod.metadata.name), uid);
        // Logs that cannot be removed must not keep the pod.
        if let Err(error) = std::fs::remove_dir_all(&logs) {
            if error.kind() != std::io::ErrorKind::NotFound {
                warn!(dir = %logs.display(), %error, "logs not removed");
            }
        }
        crate::volumes::remove_pod_dir(&shared.config.pod_dir(uid))?;
        shared.disown(uid);
        shared.images.forget(uid);
        shared.status.forget(uid);
        Ok(())
    }
}
