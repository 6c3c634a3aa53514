//! PodStatus from the spec and what the runtime holds: a pure function.
//!
//! Invariants:
//! - ST-1: a terminal phase never goes back.
//! - ST-2: restart counts and terminated states come from the runtime alone, so that they survive our death.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    ContainerUser, HostIP, LinuxContainerUser, Pod, PodIP, PodStatus, ResourceRequirements, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::conditions;
use crate::containers::resources::qos;
use crate::containers::{is_host_network, of_ephemeral, text};
use crate::podworkers::actions::{has_initialized, is_sidecar, pod_restart_policy, should_restart};
use crate::runtime::{ContainerRecord, PodRuntime, State};

/// Why a container does not run, from the last attempt to start it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    pub reason: String,
    pub message: String,
}

/// What the probes make of a running container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    pub started: bool,
    pub ready: bool,
}

/// A verdict on the whole pod that overrides its containers (`Evicted`, `DeadlineExceeded`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub reason: String,
    pub message: String,
}

/// Everything a status is made from.
pub struct Observed<'a> {
    pub pod: &'a Pod,
    pub runtime: &'a PodRuntime,
    pub waiting: &'a BTreeMap<String, Waiting>,
    /// By container id; running containers without an entry have no probes.
    pub probed: &'a HashMap<String, Probed>,
    pub host_ips: &'a [String],
    pub verdict: Option<&'a Verdict>,
    /// Nothing will be started any more.
    pub finished: bool,
    pub now: Timestamp,
}

/// Makes the status.
pub fn generate(o: &Observed<'_>) -> PodStatus {
    let old = o.pod.status.clone().unwrap_or_default();
    let spec = o.pod.spec.clone().unwrap_or_default();
    let init = spec.init_containers.clone().unwrap_or_default();
    let has_init = !init.is_empty();
    let initialized = has_initialized(o.pod, o.runtime);
    let init_statuses: Vec<ContainerStatus> =
        init.iter().map(|c| container(o, c, old.init_container_statuses.as_ref(), "PodInitializing", true)).collect();
    let default = if has_init && !initialized { "PodInitializing" } else { "ContainerCreating" };
    let statuses: Vec<ContainerStatus> =
        spec.containers.iter().map(|c| container(o, c, old.container_statuses.as_ref(), default, false)).collect();
    let ephemeral: Vec<ContainerStatus> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|c| container(o, &of_ephemeral(c), old.ephemeral_container_statuses.as_ref(), "ContainerCreating", false))
        .collect();

    let mut phase = phase(o, &init, &init_statuses, &statuses, initialized);
    let (mut reason, mut message) = (None, None);
    if let Some(verdict) = o.verdict {
        phase = "Failed";
        (reason, message) = (Some(verdict.reason.clone()), Some(verdict.message.clone()));
    }
    if let Some(done @ ("Succeeded" | "Failed")) = old.phase.as_deref() {
        phase = if done == "Failed" { "Failed" } else { "Succeeded" };
        (reason, message) = (reason.or(old.reason), message.or(old.message));
    }

    let host_ips: Vec<HostIP> = o.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect();
    let mut pod_ips: Vec<String> = if is_host_network(o.pod) {
        if o.runtime.sandbox().is_some() { o.host_ips.to_vec() } else { Vec::new() }
    } else {
        o.runtime.sandbox().map(|s| s.ips.clone()).unwrap_or_default()
    };
    if pod_ips.is_empty() {
        // A stopped sandbox forgets its address; the pod keeps showing it.
        pod_ips = old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    let sandbox_ready =
        o.runtime.ready_sandbox().is_some_and(|s| s.host_network || is_host_network(o.pod) || !s.ips.is_empty());
    let mut status = PodStatus {
        phase: Some(phase.to_owned()),
        reason,
        message,
        host_ip: o.host_ips.first().cloned(),
        host_ips: Some(host_ips),
        pod_ip: pod_ips.first().cloned(),
        pod_ips: (!pod_ips.is_empty()).then(|| pod_ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: old.start_time.or(Some(Time(o.now))),
        qos_class: Some(qos(o.pod).text().to_owned()),
        init_container_statuses: has_init.then_some(init_statuses),
        container_statuses: Some(statuses),
        ephemeral_container_statuses: (!ephemeral.is_empty()).then_some(ephemeral),
        observed_generation: o.pod.metadata.generation,
        nominated_node_name: old.nominated_node_name,
        resize: old.resize,
        resource_claim_statuses: old.resource_claim_statuses,
        ..PodStatus::default()
    };
    status.conditions = Some(conditions::all(o.pod, &status, sandbox_ready, o.now));
    status
}

fn waiting(reason: &str, message: Option<String>) -> ContainerState {
    let state = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(state), ..ContainerState::default() }
}

fn terminated(record: &ContainerRecord) -> ContainerState {
    let reason = match (record.reason.as_str(), record.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let state = ContainerStateTerminated {
        exit_code: record.exit_code,
        reason: Some(reason.to_owned()),
        message: Some(record.message.clone()).filter(|m| !m.is_empty()),
        started_at: Some(Time(record.started_at.unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: record.finished_at.map(Time),
        container_id: Some(format!("containerd://{}", record.id)),
        signal: None,
    };
    ContainerState { terminated: Some(state), ..ContainerState::default() }
}

fn state_of(record: &ContainerRecord, default: &str) -> ContainerState {
    match record.state {
        State::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: record.started_at.or(record.created_at).map(Time) }),
            ..ContainerState::default()
        },
        State::Exited => terminated(record),
        State::Created | State::Unknown => waiting(default, None),
    }
}

fn container(
    o: &Observed<'_>,
    spec: &Container,
    old: Option<&Vec<ContainerStatus>>,
    default: &str,
    is_init: bool,
) -> ContainerStatus {
    let old = old.and_then(|list| list.iter().find(|status| status.name == spec.name));
    let mut status = ContainerStatus {
        name: spec.name.clone(),
        image: text(&spec.image).to_owned(),
        state: Some(waiting(default, None)),
        last_state: Some(ContainerState::default()),
        started: Some(false),
        ..ContainerStatus::default()
    };
    let mut attempts = o.runtime.attempts(&spec.name);
    let newest = attempts.next();
    match newest {
        Some(record) => {
            status.image.clone_from(&record.image);
            status.image_id.clone_from(&record.image_id);
            status.container_id = Some(format!("containerd://{}", record.id));
            status.restart_count = i32::try_from(record.restart_count).unwrap_or(i32::MAX);
            status.state = Some(state_of(record, default));
            if let Some(previous) = attempts.find(|r| r.state == State::Exited) {
                status.last_state = Some(terminated(previous));
            } else if record.restart_count > 0 {
                // The attempt before is no longer in the runtime, but the API server remembers.
                status.last_state = old.and_then(|o| o.last_state.clone()).or(status.last_state);
            }
            status.user = record.user.as_ref().map(|user| ContainerUser {
                linux: Some(LinuxContainerUser {
                    uid: user.uid,
                    gid: user.gid,
                    supplemental_groups: Some(user.supplemental_groups.clone()),
                }),
            });
        }
        None => lost(o, old, &mut status, is_init && !is_sidecar(spec)),
    }
    let restarts = !o.finished && o.verdict.is_none() && should_restart_any(o, spec, is_init);
    if let Some(why) = o.waiting.get(&spec.name).filter(|_| restarts) {
        let stopped = newest.is_none_or(|r| r.state != State::Running);
        if stopped {
            if let Some(record) = newest.filter(|r| r.state == State::Exited) {
                status.last_state = Some(terminated(record));
            }
            status.state = Some(waiting(&why.reason, Some(why.message.clone()).filter(|m| !m.is_empty())));
        }
    }
    if let Some(record) = newest.filter(|r| r.state == State::Running) {
        let probed = o.probed.get(&record.id).copied().unwrap_or(Probed { started: true, ready: true });
        status.started = Some(probed.started);
        status.ready = probed.started && probed.ready && (!is_init || is_sidecar(spec));
        let resources = spec.resources.clone().unwrap_or_default();
        status.allocated_resources = resources.requests.clone().filter(|r| !r.is_empty());
        status.resources = Some(ResourceRequirements { claims: None, ..resources });
    }
    if is_init && !is_sidecar(spec) {
        let done = status.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 0);
        status.ready = done;
        if let Some(record) = newest {
            status.started = Some(record.state == State::Running);
        }
    }
    status.volume_mounts = volume_mounts(spec);
    status
}

fn should_restart_any(o: &Observed<'_>, spec: &Container, is_init: bool) -> bool {
    if is_init {
        // Init containers that failed for good end the pod, which `finished` says.
        let record = o.runtime.container(&spec.name);
        return record.is_none_or(|r| r.state != State::Exited || r.exit_code != 0 || is_sidecar(spec));
    }
    should_restart(spec, o.pod, o.runtime)
}

/// A container that the API server knows and the runtime does not: after a reboot, or a wiped runtime.
fn lost(o: &Observed<'_>, old: Option<&ContainerStatus>, status: &mut ContainerStatus, is_plain_init: bool) {
    let Some(old) = old else { return };
    status.restart_count = old.restart_count;
    status.last_state = old.last_state.clone().or_else(|| status.last_state.clone());
    let old_state = old.state.clone().unwrap_or_default();
    if old_state.terminated.is_some() {
        if o.finished || is_plain_init {
            // History that cannot change any more.
            *status = old.clone();
        } else {
            status.last_state = Some(old_state);
        }
        return;
    }
    if old_state.running.is_none() {
        return;
    }
    let gone = ContainerStateTerminated {
        exit_code: 137,
        reason: Some("ContainerStatusUnknown".into()),
        message: Some(
            "The container could not be located when the pod was deleted.  The container used to be Running".into(),
        ),
        container_id: old.container_id.clone(),
        ..ContainerStateTerminated::default()
    };
    let gone = ContainerState { terminated: Some(gone), ..ContainerState::default() };
    if o.finished {
        status.state = Some(gone);
        status.image.clone_from(&old.image);
        status.image_id.clone_from(&old.image_id);
    } else {
        status.last_state = Some(gone);
        status.restart_count += 1;
    }
}

fn volume_mounts(spec: &Container) -> Option<Vec<VolumeMountStatus>> {
    let mounts: Vec<VolumeMountStatus> = spec
        .volume_mounts
        .iter()
        .flatten()
        .map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|r| *r),
            recursive_read_only: mount
                .read_only
                .filter(|r| *r)
                .map(|_| mount.recursive_read_only.clone().unwrap_or_else(|| "Disabled".into())),
            ..VolumeMountStatus::default()
        })
        .collect();
    (!mounts.is_empty()).then_some(mounts)
}

fn phase(
    o: &Observed<'_>,
    init: &[Container],
    init_statuses: &[ContainerStatus],
    statuses: &[ContainerStatus],
    initialized: bool,
) -> &'static str {
    let state = |status: &ContainerStatus| status.state.clone().unwrap_or_default();
    let last_exit =
        |status: &ContainerStatus| status.last_state.as_ref().and_then(|s| s.terminated.as_ref()).map(|t| t.exit_code);
    let (mut pending_init, mut failed_init) = (0, 0);
    for (spec, status) in init.iter().zip(init_statuses) {
        let now = state(status);
        if is_sidecar(spec) {
            let started = now.running.is_some() && status.started == Some(true);
            pending_init += u32::from(!started && now.terminated.is_none());
        } else if let Some(done) = &now.terminated {
            failed_init += u32::from(done.exit_code != 0);
        } else if now.waiting.is_some() && last_exit(status).is_some_and(|code| code != 0) {
            failed_init += 1;
        } else {
            pending_init += 1;
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0, 0, 0, 0);
    for status in statuses {
        let now = state(status);
        if now.running.is_some() {
            running += 1;
        } else if let Some(done) = now.terminated {
            stopped += 1;
            succeeded += u32::from(done.exit_code == 0);
        } else if let Some(code) = last_exit(status) {
            stopped += 1;
            succeeded += u32::from(code == 0 && o.finished);
        } else {
            waiting += 1;
        }
    }
    let policy = pod_restart_policy(o.pod);
    let total = statuses.len() as u32;
    if o.finished && running == 0 {
        return if total > 0 && stopped == total && succeeded == total { "Succeeded" } else { "Failed" };
    }
    if failed_init > 0 && policy == "Never" {
        return "Failed";
    }
    if (pending_init > 0 || failed_init > 0) && !initialized || waiting > 0 {
        return "Pending";
    }
    if running > 0 {
        return "Running";
    }
    if stopped > 0 {
        let done = |spec: &Container| !should_restart(spec, o.pod, o.runtime);
        let all_done = o.pod.spec.iter().flat_map(|s| &s.containers).all(done);
        return match (all_done && o.pod.metadata.deletion_timestamp.is_none(), succeeded == stopped) {
            (true, true) => "Succeeded",
            (true, false) => "Failed",
            (false, _) => "Running",
        };
    }
    "Pending"
}

#[cfg(test)]
#[path = "generate_tests.rs"]
mod tests;
