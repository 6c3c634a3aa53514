//! What the runtime knows of a pod, read anew whenever it is needed: the runtime is the only memory the kubelet has.
//!
//! Invariants:
//! - RT-1: everything needed to re-adopt a container after our death is in its labels and annotations, under
//!   upstream's names.

pub mod logs;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use futures::future::{join_all, try_join};
use jiff::Timestamp;

use crate::cri::{Cri, v1};
use crate::error::Result;

pub mod names {
    //! The keys of labels and annotations.
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const POD_DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
    pub const POD_TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
    pub const PORTS: &str = "io.kubernetes.container.ports";
}

/// At most this much of a termination message is kept.
const MESSAGE_LIMIT: usize = 4096;
const MESSAGE_LOG_LIMIT: usize = 2048;
const MESSAGE_LOG_LINES: usize = 80;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Created,
    Running,
    Exited,
    Unknown,
}

impl State {
    /// As upstream prints it in messages.
    pub fn text(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Unknown => "unknown",
        }
    }
}

/// One container, one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerRecord {
    pub id: String,
    pub name: String,
    pub sandbox_id: String,
    pub state: State,
    pub restart_count: u32,
    pub hash: String,
    pub created_at: Option<Timestamp>,
    pub started_at: Option<Timestamp>,
    pub finished_at: Option<Timestamp>,
    pub exit_code: i32,
    pub reason: String,
    pub message: String,
    /// As it was asked for.
    pub image: String,
    /// What it is.
    pub image_id: String,
    pub log_path: PathBuf,
    pub resources: Option<v1::LinuxContainerResources>,
    pub user: Option<v1::LinuxContainerUser>,
    pub termination_grace: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxRecord {
    pub id: String,
    pub ready: bool,
    pub attempt: u32,
    pub created_at: i64,
    pub host_network: bool,
    /// Known for the newest sandbox only; empty for host-network pods.
    pub ips: Vec<String>,
}

/// A pod in the runtime; newest first in both lists.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodRuntime {
    pub sandboxes: Vec<SandboxRecord>,
    pub containers: Vec<ContainerRecord>,
}

impl PodRuntime {
    /// The newest attempt of `name`.
    pub fn container(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|c| c.name == name)
    }

    /// All attempts of `name`, newest first.
    pub fn attempts<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerRecord> + 'a {
        self.containers.iter().filter(move |c| c.name == name)
    }

    pub fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|c| matches!(c.state, State::Running | State::Unknown))
    }

    pub fn sandbox(&self) -> Option<&SandboxRecord> {
        self.sandboxes.first()
    }

    pub fn ready_sandbox(&self) -> Option<&SandboxRecord> {
        self.sandboxes.first().filter(|s| s.ready)
    }

    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// A pod that the runtime holds, by its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownPod {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// Reads everything about pod `uid`.
///
/// # Errors
/// When the runtime does not answer.
pub async fn read(cri: &Cri, uid: &str) -> Result<PodRuntime> {
    let labels = HashMap::from([(names::POD_UID.to_owned(), uid.to_owned())]);
    let sandboxes =
        cri.list_pod_sandboxes(v1::PodSandboxFilter { label_selector: labels.clone(), ..Default::default() });
    let containers = cri.list_containers(v1::ContainerFilter { label_selector: labels, ..Default::default() });
    let (mut sandboxes, mut containers) = try_join(sandboxes, containers).await?;
    sandboxes.sort_by_key(|s| std::cmp::Reverse(s.created_at));
    containers.sort_by_key(|c| std::cmp::Reverse(c.created_at));
    let statuses = join_all(containers.iter().map(|c| cri.container_status(&c.id)));
    let newest = async {
        match sandboxes.first() {
            Some(sandbox) => cri.pod_sandbox_status(&sandbox.id).await.map(Some),
            None => Ok(None),
        }
    };
    let (statuses, newest) = tokio::join!(statuses, newest);
    let newest = match newest {
        Err(error) if error.is_not_found() => None,
        other => other?,
    };
    let mut pod = PodRuntime::default();
    for sandbox in sandboxes {
        let status = newest.as_ref().filter(|s| s.id == sandbox.id);
        pod.sandboxes.push(SandboxRecord {
            ready: sandbox.state() == v1::PodSandboxState::SandboxReady,
            attempt: sandbox.metadata.as_ref().map_or(0, |m| m.attempt),
            created_at: sandbox.created_at,
            host_network: status.is_some_and(host_network),
            ips: status.map(ips_of).unwrap_or_default(),
            id: sandbox.id,
        });
    }
    for (container, status) in containers.into_iter().zip(statuses) {
        match status {
            Ok(status) => pod.containers.push(record(container, status)),
            // Removed between the two questions.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(pod)
}

/// Every pod with anything in the runtime.
///
/// # Errors
/// When the runtime does not answer.
pub async fn list(cri: &Cri) -> Result<Vec<KnownPod>> {
    let sandboxes = cri.list_pod_sandboxes(v1::PodSandboxFilter::default());
    let containers = cri.list_containers(v1::ContainerFilter::default());
    let (sandboxes, containers) = try_join(sandboxes, containers).await?;
    Ok(pods_of(&sandboxes, &containers))
}

/// The pods that these belong to.
pub fn pods_of(sandboxes: &[v1::PodSandbox], containers: &[v1::Container]) -> Vec<KnownPod> {
    let labels = sandboxes.iter().map(|s| &s.labels).chain(containers.iter().map(|c| &c.labels));
    let mut pods: Vec<KnownPod> = Vec::new();
    for labels in labels {
        let text = |key: &str| labels.get(key).cloned().unwrap_or_default();
        let pod =
            KnownPod { uid: text(names::POD_UID), namespace: text(names::POD_NAMESPACE), name: text(names::POD_NAME) };
        if !pod.uid.is_empty() && !pods.contains(&pod) {
            pods.push(pod);
        }
    }
    pods
}

/// A sandbox that was just made.
pub fn sandbox_of_status(id: &str, attempt: u32, status: &v1::PodSandboxStatus) -> SandboxRecord {
    SandboxRecord {
        id: id.to_owned(),
        ready: status.state() == v1::PodSandboxState::SandboxReady,
        attempt,
        created_at: status.created_at,
        host_network: host_network(status),
        ips: ips_of(status),
    }
}

fn host_network(status: &v1::PodSandboxStatus) -> bool {
    let options = status.linux.as_ref().and_then(|l| l.namespaces.as_ref()).and_then(|n| n.options.as_ref());
    options.is_some_and(|o| o.network() == v1::NamespaceMode::Node)
}

/// The addresses of a sandbox, the primary one first.
pub fn ips_of(status: &v1::PodSandboxStatus) -> Vec<String> {
    let Some(network) = &status.network else { return Vec::new() };
    let more = network.additional_ips.iter().map(|ip| ip.ip.clone());
    std::iter::once(network.ip.clone()).chain(more).filter(|ip| !ip.is_empty()).collect()
}

fn time(nanoseconds: i64) -> Option<Timestamp> {
    (nanoseconds > 0).then(|| Timestamp::from_nanosecond(nanoseconds.into()).ok()).flatten()
}

fn record(container: v1::Container, status: v1::ContainerStatus) -> ContainerRecord {
    let label = |key: &str| container.labels.get(key).cloned().unwrap_or_default();
    let note = |key: &str| status.annotations.get(key).cloned().unwrap_or_default();
    let state = match status.state() {
        v1::ContainerState::ContainerCreated => State::Created,
        v1::ContainerState::ContainerRunning => State::Running,
        v1::ContainerState::ContainerExited => State::Exited,
        v1::ContainerState::ContainerUnknown => State::Unknown,
    };
    let message = if state == State::Exited { termination_message(&status, &note) } else { status.message.clone() };
    ContainerRecord {
        name: label(names::CONTAINER_NAME),
        sandbox_id: container.pod_sandbox_id.clone(),
        state,
        restart_count: note(names::RESTART_COUNT).parse().unwrap_or(0),
        hash: note(names::HASH),
        created_at: time(status.created_at),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason.clone(),
        message,
        image: status
            .image
            .as_ref()
            .map(|i| if i.user_specified_image.is_empty() { i.image.clone() } else { i.user_specified_image.clone() })
            .unwrap_or_default(),
        image_id: status.image_ref.clone(),
        log_path: PathBuf::from(&status.log_path),
        resources: status.resources.as_ref().and_then(|r| r.linux.clone()),
        user: status.user.as_ref().and_then(|u| u.linux.clone()),
        termination_grace: note(names::POD_TERMINATION_GRACE).parse().ok(),
        id: container.id,
    }
}

fn termination_message(status: &v1::ContainerStatus, note: &dyn Fn(&str) -> String) -> String {
    let path = note(names::MESSAGE_PATH);
    let mount = status.mounts.iter().find(|m| !path.is_empty() && m.container_path == path);
    let mut own = mount.map(|m| read_end(Path::new(&m.host_path), MESSAGE_LIMIT)).unwrap_or_default();
    let fall_back = note(names::MESSAGE_POLICY) == "FallbackToLogsOnError" && status.exit_code != 0;
    if own.is_empty() && fall_back {
        own = logs::tail(Path::new(&status.log_path), MESSAGE_LOG_LINES, MESSAGE_LOG_LIMIT);
    }
    match (status.message.is_empty(), own.is_empty()) {
        (_, true) => status.message.clone(),
        (true, false) => own,
        (false, false) => format!("{}: {own}", status.message),
    }
}

/// The last `limit` bytes of a file, as text.
fn read_end(path: &Path, limit: usize) -> String {
    use std::io::{Read as _, Seek as _, SeekFrom};
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    let length = file.metadata().map_or(0, |m| m.len());
    if length > limit as u64 && file.seek(SeekFrom::End(-(limit as i64))).is_err() {
        return String::new();
    }
    let mut data = Vec::new();
    let _ = file.take(limit as u64).read_to_end(&mut data);
    String::from_utf8_lossy(&data).into_owned()
}
