//! One look at a pod that is to run: what it needs, done.

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use futures::future::join_all;
use k8s_openapi::api::core::v1::Pod;
use tracing::{debug, warn};

use super::actions::{Actions, KillReason, compute};
use super::worker::{Step, Worker};
use crate::containers::{dns, is_host_network, of_ephemeral, sandbox, text};
use crate::cri::v1;
use crate::error::{Error, Result};
use crate::runtime::{PodRuntime, State};
use crate::status::generate::Verdict;
use crate::volumes::Mounted;

impl Worker {
    pub(super) async fn sync(&mut self, pod: &Arc<Pod>) -> Step {
        let shared = self.shared.clone();
        let uid = Self::uid(pod).to_owned();
        let runtime = match shared.read(&uid).await {
            Ok(runtime) => runtime,
            Err(error) => {
                warn!(pod = %text(&pod.metadata.name), %error, "the runtime does not answer");
                return self.retry();
            }
        };
        self.forget_waiting_of_running(&runtime);
        let ip = self.pod_ip(pod, &runtime);
        shared.probes.sync(pod, &runtime, ip.as_deref());
        let status = self.report(pod, &runtime, false);
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            self.terminal = true;
            return Step::Again;
        }
        if self.past_deadline(pod) {
            return Step::Again;
        }
        shared.objects.register(pod);
        let dir = shared.config.pod_dir(&uid);
        let mounted = match shared.volumes.set_up(pod, &dir, &shared.machine.allocatable).await {
            Ok(mounted) => mounted,
            Err(failures) => {
                for failure in failures {
                    shared.event(pod, None, EventType::Warning, "FailedMount", &failure.message);
                }
                return self.retry();
            }
        };
        let actions = compute(pod, &runtime, &shared.probes.view(&uid));
        if actions.is_empty() {
            self.failures = 0;
            self.prune(pod, &runtime).await;
            return Step::Wait(self.next_look(pod, &mounted, None));
        }
        debug!(pod = %text(&pod.metadata.name), ?actions, "acting");
        let outcome = self.act(pod, runtime, &actions, &mounted).await;
        let after = match shared.read(&uid).await {
            Ok(after) => after,
            Err(error) => {
                warn!(pod = %text(&pod.metadata.name), %error, "the runtime does not answer");
                return self.retry();
            }
        };
        let ip = self.pod_ip(pod, &after);
        shared.probes.sync(pod, &after, ip.as_deref());
        self.report(pod, &after, false);
        match outcome {
            Err(error) => {
                debug!(pod = %text(&pod.metadata.name), %error, "sync failed");
                self.retry()
            }
            Ok(Some(wait)) => {
                self.failures = 0;
                Step::Wait(self.next_look(pod, &mounted, Some(wait)))
            }
            // Something was done: look whether it is enough.
            Ok(None) => {
                self.failures = 0;
                Step::Again
            }
        }
    }

    /// Does what `actions` says. The wait until a container that is held back may be tried again, if there is one.
    async fn act(
        &mut self,
        pod: &Arc<Pod>,
        mut runtime: PodRuntime,
        actions: &Actions,
        mounted: &Mounted,
    ) -> Result<Option<Duration>> {
        let shared = self.shared.clone();
        let uid = Self::uid(pod).to_owned();
        if actions.kill_pod {
            if actions.create_sandbox && !runtime.sandboxes.is_empty() {
                let message = "Pod sandbox changed, it will be killed and re-created.";
                shared.event(pod, None, EventType::Normal, "SandboxChanged", message);
            }
            self.stop_all(pod, &runtime, None).await?;
            if !actions.create_sandbox {
                return Ok(None);
            }
        } else {
            let kills = actions.to_kill.iter().filter_map(|kill| {
                let record = runtime.containers.iter().find(|c| c.id == kill.id)?;
                let grace = self.grace_of_kill(pod, &kill.name, kill.reason);
                Some(self.stop_container(pod, record, &kill.message, grace))
            });
            for result in join_all(kills).await {
                result?;
            }
        }
        let mut sandbox_config = None;
        if actions.create_sandbox {
            let now = shared.clock.now();
            if actions.attempt > 0 {
                if let Some(left) = self.sandboxes.wait_since_update("sandbox", now) {
                    return Ok(Some(left));
                }
                self.sandboxes.next("sandbox", now, now);
            }
            let config = self.sandbox_config(pod, actions.attempt)?;
            let id = self.create_sandbox(pod, &config).await?;
            let status = shared.cri.pod_sandbox_status(&id).await?;
            if !is_host_network(pod) && crate::runtime::ips_of(&status).is_empty() {
                return Err(Error::pod(format!("the network gave sandbox {id} no address")));
            }
            sandbox_config = Some(config);
            runtime.sandboxes.insert(0, crate::runtime::sandbox_of_status(&id, actions.attempt, &status));
        }
        let config = match sandbox_config {
            Some(config) => config,
            None => self.sandbox_config(pod, runtime.sandbox().map_or(0, |s| s.attempt))?,
        };
        let Some(sandbox) = runtime.sandbox().cloned() else {
            return Err(Error::pod(format!("pod {uid} has no sandbox")));
        };
        let spec = pod.spec.clone().unwrap_or_default();
        let mut wait: Option<Duration> = None;
        let mut held = |result: Option<Duration>| wait = [wait, result].into_iter().flatten().min();
        for index in &actions.ephemeral_to_start {
            let Some(ephemeral) = spec.ephemeral_containers.as_ref().and_then(|list| list.get(*index)) else {
                continue;
            };
            let container = of_ephemeral(ephemeral);
            let target = ephemeral.target_container_name.as_deref().filter(|name| !name.is_empty());
            let target = target.and_then(|name| runtime.container(name)).map(|record| record.id.clone());
            held(self.start(pod, &container, &sandbox, &config, &runtime, mounted, target).await);
        }
        for index in &actions.init_to_start {
            let Some(container) = spec.init_containers.as_ref().and_then(|list| list.get(*index)) else { continue };
            let result = self.start(pod, container, &sandbox, &config, &runtime, mounted, None).await;
            let failed = self.waiting.contains_key(&container.name);
            held(result);
            if failed {
                break;
            }
        }
        for index in &actions.to_start {
            let Some(container) = spec.containers.get(*index) else { continue };
            held(self.start(pod, container, &sandbox, &config, &runtime, mounted, None).await);
        }
        Ok(wait)
    }

    fn sandbox_config(&self, pod: &Pod, attempt: u32) -> Result<v1::PodSandboxConfig> {
        let shared = &self.shared;
        let group = shared.groups.create_pod(pod)?;
        let config = &shared.config;
        let host = std::fs::read_to_string(&config.resolv_conf).unwrap_or_default();
        let (resolver, notes) =
            dns::of_pod(pod, &dns::Resolver::parse(&host), &config.cluster_dns, &config.cluster_domain);
        for note in notes {
            shared.event(pod, None, EventType::Warning, "DNSConfigForming", &note);
        }
        Ok(sandbox::config(pod, attempt, config, Some(resolver), group))
    }

    async fn create_sandbox(&self, pod: &Pod, config: &v1::PodSandboxConfig) -> Result<String> {
        let shared = &self.shared;
        let logs = std::path::Path::new(&config.log_directory);
        let made = async {
            std::fs::create_dir_all(logs).map_err(Error::io("creating", logs))?;
            let handler = shared.runtime_handler(pod).await?;
            shared.cri.run_pod_sandbox(config.clone(), &handler).await
        };
        match made.await {
            Ok(id) => {
                shared.own(&id, Self::uid(pod));
                shared.durable.used("(sandbox)");
                Ok(id)
            }
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {error}");
                shared.event(pod, None, EventType::Warning, "FailedCreatePodSandBox", &message);
                Err(error)
            }
        }
    }

    fn pod_ip(&self, pod: &Pod, runtime: &PodRuntime) -> Option<String> {
        if is_host_network(pod) {
            return Some(self.shared.config.node_ip.to_string());
        }
        runtime.sandbox().and_then(|s| s.ips.first().cloned())
    }

    /// A container that runs waits for nothing.
    fn forget_waiting_of_running(&mut self, runtime: &PodRuntime) {
        self.waiting.retain(|name, _| runtime.container(name).is_none_or(|record| record.state != State::Running));
    }

    fn past_deadline(&mut self, pod: &Pod) -> bool {
        let Some(left) = self.deadline_in(pod) else { return false };
        if !left.is_zero() {
            return false;
        }
        let message = "Pod was active on the node longer than the specified deadline";
        self.shared.event(pod, None, EventType::Normal, "DeadlineExceeded", message);
        self.verdict = Some(Verdict { reason: "DeadlineExceeded".into(), message: message.into() });
        true
    }

    fn deadline_in(&self, pod: &Pod) -> Option<Duration> {
        let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
        let started = self.started_at?;
        let active = Duration::try_from(self.shared.clock.now().duration_since(started)).unwrap_or_default();
        Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).saturating_sub(active))
    }

    /// When to look again although nothing happened.
    fn next_look(&self, pod: &Pod, mounted: &Mounted, held: Option<Duration>) -> Option<Duration> {
        let now = self.shared.clock.now();
        let refresh = mounted.refresh_at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
        [held, refresh, self.deadline_in(pod)].into_iter().flatten().min()
    }

    /// Removes attempts nobody asks about any more: of each container the last dead one is kept for its logs.
    async fn prune(&self, pod: &Pod, runtime: &PodRuntime) {
        let mut names: Vec<&str> = runtime.containers.iter().map(|c| c.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            for old in runtime.attempts(name).skip(2).filter(|c| c.state == State::Exited) {
                if let Err(error) = self.shared.cri.remove_container(&old.id).await {
                    debug!(pod = %text(&pod.metadata.name), container = name, %error, "old container not removed");
                    continue;
                }
                let rotated = crate::runtime::logs::rotated_files(&old.log_path);
                for file in rotated.iter().chain([&old.log_path]) {
                    // A log that is gone already is fine.
                    let _ = std::fs::remove_file(file);
                }
                let _ = std::fs::remove_file(self.log_link(pod, name, &old.id));
            }
        }
    }

    pub(super) fn grace_of_kill(&self, pod: &Pod, container: &str, reason: KillReason) -> i64 {
        let spec = crate::containers::find(pod, container);
        let probe = spec.as_ref().and_then(|c| match reason {
            KillReason::LivenessProbe => c.liveness_probe.as_ref(),
            KillReason::StartupProbe => c.startup_probe.as_ref(),
            KillReason::Other => None,
        });
        probe.and_then(|p| p.termination_grace_period_seconds).unwrap_or_else(|| super::end::grace_of(pod))
    }
}
