//! What a pod needs now: a pure function of its spec and what the runtime holds.
//!
//! Invariants:
//! - AC-1: a container whose pod is being deleted is never started.
//! - AC-2: the n-th init container runs only after all before it have succeeded (or, for sidecars, have started).
//! - AC-3: the decision depends on nothing but its arguments.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod};

use crate::containers::hash;
use crate::probes::ProbeResult;
use crate::runtime::{ContainerRecord, PodRuntime, State};

/// Why a container is killed, beyond the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillReason {
    LivenessProbe,
    StartupProbe,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    pub id: String,
    pub name: String,
    pub message: String,
    pub reason: KillReason,
}

/// Indexes are those of the spec's lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actions {
    /// Everything must go: the sandbox is unusable, or nothing is left to run.
    pub kill_pod: bool,
    pub create_sandbox: bool,
    /// The number of the sandbox to create.
    pub attempt: u32,
    pub ephemeral_to_start: Vec<usize>,
    pub init_to_start: Vec<usize>,
    pub to_start: Vec<usize>,
    pub to_kill: Vec<Kill>,
}

impl Actions {
    pub fn is_empty(&self) -> bool {
        *self == Self { attempt: self.attempt, ..Self::default() }
    }
}

/// What the probes have said, by container id.
#[derive(Debug, Clone, Default)]
pub struct ProbeView {
    pub liveness: HashMap<String, ProbeResult>,
    pub startup: HashMap<String, ProbeResult>,
}

impl ProbeView {
    fn failed(map: &HashMap<String, ProbeResult>, id: &str) -> bool {
        map.get(id) == Some(&ProbeResult::Failure)
    }
}

pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

pub fn pod_restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("Always")
}

fn restarts_on_failure(pod: &Pod) -> bool {
    pod_restart_policy(pod) != "Never"
}

/// Whether a regular container that is not running should run (again).
pub fn should_restart(container: &Container, pod: &Pod, runtime: &PodRuntime) -> bool {
    if pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let Some(record) = runtime.container(&container.name) else { return true };
    match record.state {
        State::Running => return false,
        State::Unknown | State::Created => return true,
        State::Exited => {}
    }
    restart_wanted(container, pod, record.exit_code)
}

/// The restart policy of the container (or of its pod) applied to an exit code.
pub fn restart_wanted(container: &Container, pod: &Pod, exit_code: i32) -> bool {
    if let Some(policy) = container.restart_policy.as_deref() {
        for rule in container.restart_policy_rules.iter().flatten() {
            let Some(codes) = &rule.exit_codes else { continue };
            let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
            let matches = if codes.operator == "NotIn" { !listed } else { listed };
            if matches && rule.action == "Restart" {
                return true;
            }
        }
        return by_policy(policy, exit_code);
    }
    by_policy(pod_restart_policy(pod), exit_code)
}

fn by_policy(policy: &str, exit_code: i32) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        _ => true,
    }
}

/// Whether the sandbox must be (re)made, and its number.
fn sandbox_changed(pod: &Pod, runtime: &PodRuntime) -> (bool, u32) {
    let Some(newest) = runtime.sandbox() else { return (true, 0) };
    // A sandbox that failed half way keeps its number, and may look older than it is.
    let next = runtime.sandboxes.iter().map(|s| s.attempt).max().unwrap_or(0) + 1;
    let ready = runtime.sandboxes.iter().filter(|s| s.ready).count();
    if ready > 1 || !newest.ready {
        return (true, next);
    }
    let host = pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false);
    if newest.host_network != host || (!host && newest.ips.is_empty()) {
        return (true, next);
    }
    (false, newest.attempt)
}

/// Whether any regular container was ever made: then all init containers were done at some time.
pub fn has_initialized(pod: &Pod, runtime: &PodRuntime) -> bool {
    let sandbox = runtime.sandbox().map(|s| s.id.as_str());
    pod.spec.iter().flat_map(|s| &s.containers).any(|c| {
        runtime.container(&c.name).is_some_and(|record| match record.state {
            State::Created | State::Running => true,
            // One that ended in an earlier sandbox says nothing about this one.
            State::Exited => Some(record.sandbox_id.as_str()) == sandbox,
            State::Unknown => false,
        })
    })
}

/// Decides.
pub fn compute(pod: &Pod, runtime: &PodRuntime, probes: &ProbeView) -> Actions {
    let Some(spec) = &pod.spec else { return Actions::default() };
    let (create, attempt) = sandbox_changed(pod, runtime);
    let mut actions = Actions { kill_pod: create, create_sandbox: create, attempt, ..Actions::default() };
    let succeeded =
        |c: &Container| runtime.container(&c.name).is_some_and(|r| r.state == State::Exited && r.exit_code == 0);
    if create {
        if !restarts_on_failure(pod) && attempt != 0 && !runtime.containers.is_empty() {
            // The pod had its one life.
            actions.create_sandbox = false;
            return actions;
        }
        let to_start: Vec<usize> = (0..spec.containers.len())
            .filter(|&i| !(pod_restart_policy(pod) == "OnFailure" && succeeded(&spec.containers[i])))
            .collect();
        if to_start.is_empty() {
            actions.create_sandbox = false;
            return actions;
        }
        if spec.init_containers.as_ref().is_some_and(|init| !init.is_empty()) {
            actions.init_to_start = vec![0];
        } else {
            actions.to_start = to_start;
        }
        return actions;
    }

    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        if runtime.container(&container.name).is_none() {
            actions.ephemeral_to_start.push(index);
        }
    }

    let initialized = init_actions(pod, runtime, probes, &mut actions);
    if actions.kill_pod || !initialized {
        return actions;
    }

    let mut kept = 0;
    for (index, container) in spec.containers.iter().enumerate() {
        let Some(record) = runtime.container(&container.name).filter(|r| r.state == State::Running) else {
            if should_restart(container, pod, runtime) {
                actions.to_start.push(index);
                if let Some(record) = runtime.container(&container.name).filter(|r| r.state == State::Unknown) {
                    actions.to_kill.push(kill_unknown(record, "Container"));
                }
            }
            continue;
        };
        let (mut message, reason, mut restart) = if definition_changed(container, record) {
            (format!("Container {} definition changed", container.name), KillReason::Other, true)
        } else if ProbeView::failed(&probes.liveness, &record.id) {
            let message = format!("Container {} failed liveness probe", container.name);
            (message, KillReason::LivenessProbe, restarts(container, pod))
        } else if ProbeView::failed(&probes.startup, &record.id) {
            let message = format!("Container {} failed startup probe", container.name);
            (message, KillReason::StartupProbe, restarts(container, pod))
        } else {
            kept += 1;
            continue;
        };
        restart &= pod.metadata.deletion_timestamp.is_none();
        if restart {
            message.push_str(", will be restarted");
            actions.to_start.push(index);
        }
        actions.to_kill.push(Kill { id: record.id.clone(), name: container.name.clone(), message, reason });
    }
    if kept == 0 && actions.to_start.is_empty() {
        actions.kill_pod = true;
        // Sidecars go with the pod.
        actions.init_to_start.clear();
    }
    actions
}

fn restarts(container: &Container, pod: &Pod) -> bool {
    container.restart_policy.as_deref().unwrap_or_else(|| pod_restart_policy(pod)) != "Never"
}

fn definition_changed(container: &Container, record: &ContainerRecord) -> bool {
    !record.hash.is_empty() && record.hash != hash(container)
}

fn kill_unknown(record: &ContainerRecord, what: &str) -> Kill {
    Kill {
        id: record.id.clone(),
        name: record.name.clone(),
        message: format!("{what} is in {:?} state, try killing it before restart", record.state.text()),
        reason: KillReason::Other,
    }
}

/// Fills in what the init containers need; true once the regular ones may run.
fn init_actions(pod: &Pod, runtime: &PodRuntime, probes: &ProbeView, actions: &mut Actions) -> bool {
    let empty = Vec::new();
    let init = pod.spec.as_ref().and_then(|s| s.init_containers.as_ref()).unwrap_or(&empty);
    if init.is_empty() {
        return true;
    }
    let was_initialized = has_initialized(pod, runtime);
    let deleted = pod.metadata.deletion_timestamp.is_some();
    let mut initialized = was_initialized;
    let mut starts = Vec::new();
    // The furthest one that has run says how far initialization got; those before it, that they had their turn.
    let mut found = false;
    for (index, container) in init.iter().enumerate().rev() {
        let sidecar = is_sidecar(container);
        let Some(record) = runtime.container(&container.name) else {
            if was_initialized && sidecar {
                starts.push(index);
            }
            continue;
        };
        let furthest = !found;
        found = true;
        if !sidecar && (was_initialized || !furthest) {
            continue;
        }
        let mut proceed = false;
        match record.state {
            State::Created => starts.push(index),
            State::Unknown => {
                actions.to_kill.push(kill_unknown(record, "Init container"));
                if restarts_on_failure(pod) || sidecar {
                    starts.push(index);
                } else {
                    actions.kill_pod = true;
                    actions.init_to_start.clear();
                    return false;
                }
            }
            State::Running if sidecar => {
                let started = container.startup_probe.is_none()
                    || probes.startup.get(&record.id) == Some(&ProbeResult::Success)
                    || was_initialized && !probes.startup.contains_key(&record.id);
                let kill = if definition_changed(container, record) {
                    Some((format!("Init container {} definition changed", container.name), KillReason::Other))
                } else if ProbeView::failed(&probes.startup, &record.id) {
                    let message = format!("Init container {} failed startup probe", container.name);
                    Some((message, KillReason::StartupProbe))
                } else if ProbeView::failed(&probes.liveness, &record.id) {
                    let message = format!("Init container {} failed liveness probe", container.name);
                    Some((message, KillReason::LivenessProbe))
                } else {
                    None
                };
                if let Some((message, reason)) = kill {
                    let name = container.name.clone();
                    actions.to_kill.push(Kill { id: record.id.clone(), name, message, reason });
                    starts.push(index);
                } else {
                    proceed = started;
                }
            }
            State::Running => {}
            State::Exited if sidecar => starts.push(index),
            State::Exited if record.exit_code != 0 => {
                if !restart_wanted_init(container, pod, record.exit_code) {
                    actions.kill_pod = true;
                    actions.init_to_start.clear();
                    return false;
                }
                starts.push(index);
            }
            State::Exited => proceed = true,
        }
        if furthest && proceed && !was_initialized {
            if index + 1 == init.len() {
                initialized = true;
            } else {
                starts.push(index + 1);
            }
        }
    }
    if !found && !was_initialized {
        starts.push(0);
    }
    if !deleted {
        starts.sort_unstable();
        actions.init_to_start = starts;
    }
    initialized
}

fn restart_wanted_init(container: &Container, pod: &Pod, exit_code: i32) -> bool {
    if container.restart_policy.is_some() {
        return restart_wanted(container, pod, exit_code);
    }
    restarts_on_failure(pod)
}

#[cfg(test)]
#[path = "actions_tests.rs"]
mod tests;
