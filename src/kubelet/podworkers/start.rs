//! Starting one container: image, configuration, create, start, hook; each failure with its reason.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use k8s_openapi::api::core::v1::{Container, Pod, Secret};

use super::backoff::go_duration;
use super::worker::Worker;
use crate::containers::config::{Inputs, build, log_path};
use crate::containers::{env, hosts, is_host_network, pod_text, sandbox, security, text};
use crate::cri::v1;
use crate::error::{Error, Result};
use crate::images::Image;
use crate::runtime::{PodRuntime, SandboxRecord, State};
use crate::status::generate::Waiting;
use crate::volumes::Mounted;

/// A failed start is tried again after this long, unless its own back-off says otherwise.
const RETRY: Duration = Duration::from_secs(10);

/// Why a container was not started.
struct Refusal {
    reason: &'static str,
    message: String,
    retry_in: Option<Duration>,
}

impl Refusal {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), retry_in: Some(RETRY) }
    }
}

impl Worker {
    /// Starts `container`; what stands in the way is in `self.waiting` afterwards. Gives the wait before the next try.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn start(
        &mut self,
        pod: &Arc<Pod>,
        container: &Container,
        sandbox: &SandboxRecord,
        config: &v1::PodSandboxConfig,
        runtime: &PodRuntime,
        mounted: &Mounted,
        target: Option<String>,
    ) -> Option<Duration> {
        let result = match self.crash_backoff(pod, container, runtime) {
            Err(refusal) => Err(refusal),
            Ok(()) => self.start_now(pod, container, sandbox, config, runtime, mounted, target).await,
        };
        match result {
            Ok(()) => {
                self.waiting.remove(&container.name);
                None
            }
            Err(refusal) => {
                let waiting = Waiting { reason: refusal.reason.into(), message: refusal.message };
                self.waiting.insert(container.name.clone(), waiting);
                // Without a time of its own it waits for the spec to change; the safety net looks meanwhile.
                Some(refusal.retry_in.unwrap_or(Duration::from_secs(60)))
            }
        }
    }

    fn crash_backoff(&mut self, pod: &Pod, container: &Container, runtime: &PodRuntime) -> Result<(), Refusal> {
        let Some(last) = runtime.container(&container.name).filter(|r| r.state == State::Exited) else { return Ok(()) };
        let now = self.shared.clock.now();
        let ended = last.finished_at.unwrap_or(now);
        let key = format!("{}/{}", container.name, crate::containers::hash(container));
        if let Some(left) = self.crashes.wait_since(&key, ended, now) {
            let place = pod_text(pod);
            let event = format!("Back-off restarting failed container {} in pod {place}", container.name);
            self.shared.event(pod, Some(&container.name), EventType::Warning, "BackOff", &event);
            let delay = go_duration(self.crashes.delay(&key));
            let message = format!("back-off {delay} restarting failed container={} pod={place}", container.name);
            return Err(Refusal { reason: "CrashLoopBackOff", message, retry_in: Some(left) });
        }
        self.crashes.next(&key, ended, now);
        Ok(())
    }

    #[allow(clippy::too_many_arguments)]
    async fn start_now(
        &mut self,
        pod: &Arc<Pod>,
        container: &Container,
        sandbox: &SandboxRecord,
        config: &v1::PodSandboxConfig,
        runtime: &PodRuntime,
        mounted: &Mounted,
        target: Option<String>,
    ) -> Result<(), Refusal> {
        let shared = self.shared.clone();
        let name = container.name.as_str();
        let warn = |message: &str| {
            shared.event(pod, Some(name), EventType::Warning, "Failed", &format!("Error: {message}"));
        };
        let secrets = self.pull_secrets(pod).await;
        let about = shared.reference(pod, Some(name));
        let image = match shared.images.ensure(&about, Self::uid(pod), container, &secrets, config).await {
            Ok(image) => image,
            Err(error) => {
                warn(error.reason);
                return Err(Refusal { reason: error.reason, message: error.message, retry_in: error.retry_in });
            }
        };
        let restart_count = runtime.container(name).map_or(0, |record| record.restart_count + 1);
        let image_id = image.id.clone();
        let built = self.configure(pod, container, sandbox, restart_count, mounted, image, target).await;
        let container_config = built.map_err(|error| {
            let message = error.short();
            warn(&message);
            Refusal::new("CreateContainerConfigError", message)
        })?;
        let created = shared.cri.create_container(&sandbox.id, container_config, config.clone()).await;
        let id = created.map_err(|error| {
            warn(&error.short());
            Refusal::new("CreateContainerError", error.short())
        })?;
        shared.own(&id, Self::uid(pod));
        shared.durable.used(&image_id);
        shared.event(pod, Some(name), EventType::Normal, "Created", "Container created");
        shared.cri.start_container(&id).await.map_err(|error| {
            warn(&error.short());
            Refusal::new("RunContainerError", error.short())
        })?;
        shared.event(pod, Some(name), EventType::Normal, "Started", "Container started");
        self.link_log(pod, name, &id, restart_count);
        if let Some(hook) = container.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) {
            let ip = sandbox.ips.first().cloned();
            if let Err(message) = self.run_hook(pod, container, &id, ip, hook, None).await {
                shared.event(pod, Some(name), EventType::Warning, "FailedPostStartHook", "PostStartHook failed");
                let found = shared.read(Self::uid(pod)).await.ok();
                if let Some(record) = found.as_ref().and_then(|r| r.containers.iter().find(|c| c.id == id)) {
                    let grace = super::end::grace_of(pod);
                    // The hook's failure is what is reported; a container that cannot be stopped shows by itself.
                    let _ = self.stop_container(pod, record, "FailedPostStartHook", grace).await;
                }
                return Err(Refusal::new("PostStartHookError", message));
            }
        }
        Ok(())
    }

    async fn pull_secrets(&self, pod: &Pod) -> Vec<Arc<Secret>> {
        let namespace = text(&pod.metadata.namespace);
        let mut found = Vec::new();
        let mut missing = Vec::new();
        for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
            match self.shared.objects.secret(namespace, &reference.name).await {
                Ok(Some(secret)) => found.push(secret),
                _ => missing.push(reference.name.clone()),
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.shared.event(pod, None, EventType::Warning, "FailedToRetrieveImagePullSecret", &message);
        }
        found
    }

    async fn configure(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &SandboxRecord,
        restart_count: u32,
        mounted: &Mounted,
        image: Image,
        target: Option<String>,
    ) -> Result<v1::ContainerConfig> {
        let shared = &self.shared;
        let namespace = text(&pod.metadata.namespace);
        let pod_ips = if is_host_network(pod) { shared.host_ips() } else { sandbox.ips.clone() };
        let dir = shared.config.pod_dir(Self::uid(pod));
        let hosts_file = self.write_hosts(pod, &pod_ips, &dir)?;
        shared.services.synced().await;
        let mut services = shared.services.list_in(namespace);
        if namespace != "default" {
            services.extend(shared.services.get(&client::ObjectKey::new("default", "kubernetes")));
        }
        let (config_maps, secrets) = shared.objects.environment(namespace, container).await?;
        let context = env::Context {
            config_maps,
            secrets,
            services,
            pod_ips,
            host_ips: shared.host_ips(),
            allocatable: shared.machine.allocatable.clone(),
        };
        let user = security::ImageUser { uid: image.uid, name: image.username };
        build(&Inputs {
            pod,
            container,
            restart_count,
            env: env::make(pod, container, &context)?,
            volumes: &mounted.paths,
            pod_dir: &dir,
            hosts_file,
            image_ref: image.id,
            image_user: user,
            target,
            seccomp_root: &shared.config.data_dir.join("seccomp"),
            machine_memory: shared.machine.memory,
            cgroup_v2: shared.groups.is_v2(),
        })
    }

    fn write_hosts(&self, pod: &Pod, ips: &[String], dir: &std::path::Path) -> Result<Option<PathBuf>> {
        if ips.is_empty() {
            return Ok(None);
        }
        let aliases = pod.spec.as_ref().and_then(|s| s.host_aliases.clone()).unwrap_or_default();
        let content = if is_host_network(pod) {
            hosts::of_host(&std::fs::read_to_string("/etc/hosts").unwrap_or_default(), &aliases)
        } else {
            let (name, domain) = sandbox::hostname(pod, &self.shared.config.cluster_domain);
            hosts::managed(ips, &name, domain.as_deref(), &aliases)
        };
        let path = dir.join("etc-hosts");
        if std::fs::read_to_string(&path).ok().as_deref() != Some(content.as_str()) {
            std::fs::create_dir_all(dir).map_err(Error::io("creating", dir))?;
            std::fs::write(&path, content).map_err(Error::io("writing", &path))?;
        }
        Ok(Some(path))
    }

    /// The name log collectors know the container's log by.
    pub(super) fn log_link(&self, pod: &Pod, container: &str, id: &str) -> PathBuf {
        let (name, namespace) = (text(&pod.metadata.name), text(&pod.metadata.namespace));
        let mut file = format!("{name}_{namespace}_{container}-{id}");
        file.truncate(251);
        self.shared.config.container_log_links.join(format!("{file}.log"))
    }

    fn link_log(&self, pod: &Pod, container: &str, id: &str, restart_count: u32) {
        let (name, namespace) = (text(&pod.metadata.name), text(&pod.metadata.namespace));
        let dir = self.shared.config.pod_log_dir(namespace, name, Self::uid(pod));
        let link = self.log_link(pod, container, id);
        let result = std::fs::create_dir_all(&self.shared.config.container_log_links)
            .and_then(|()| std::os::unix::fs::symlink(dir.join(log_path(container, restart_count)), &link));
        if let Err(error) = result {
            // The log itself is where it belongs; only collectors miss it.
            tracing::warn!(link = %link.display(), %error, "log link not made");
        }
    }
}
