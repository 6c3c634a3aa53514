//! Pod conditions: computed anew each time, keeping the time of the last change.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::podworkers::actions::is_sidecar;

/// The types the kubelet owns; others are left to whoever wrote them.
pub const OWNED: &[&str] =
    &["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled", "DisruptionTarget"];

/// Status, reason, message of one condition.
struct Finding {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

impl Finding {
    fn yes() -> Self {
        Self { status: true, reason: None, message: None }
    }

    fn no(reason: &'static str, message: Option<String>) -> Self {
        Self { status: false, reason: Some(reason), message }
    }
}

/// All conditions of `pod` for the freshly generated `status`.
pub fn all(pod: &Pod, status: &PodStatus, sandbox_ready: bool, now: Timestamp) -> Vec<PodCondition> {
    let old = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let generation = pod.metadata.generation;
    let make = |type_: &str, finding: Finding| {
        let status = if finding.status { "True" } else { "False" };
        let before = old.into_iter().flatten().find(|c| c.type_ == type_);
        let unchanged = before.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        PodCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: finding.reason.map(str::to_owned),
            message: finding.message,
            observed_generation: generation,
            last_transition_time: unchanged.or(Some(Time(now))),
            last_probe_time: None,
        }
    };
    let containers = containers_ready(pod, status);
    let ready = ready(pod, &containers);
    let mut out = vec![
        make("PodReadyToStartContainers", Finding { status: sandbox_ready, reason: None, message: None }),
        make("Initialized", initialized(pod, status)),
        make("Ready", ready),
        make("ContainersReady", containers),
        make("PodScheduled", Finding::yes()),
    ];
    // Those of others, as they were.
    out.extend(old.into_iter().flatten().filter(|c| !OWNED.contains(&c.type_.as_str())).cloned());
    if let Some(disrupted) = old.into_iter().flatten().find(|c| c.type_ == "DisruptionTarget") {
        out.push(disrupted.clone());
    }
    out
}

fn phase_is(status: &PodStatus, phase: &str) -> bool {
    status.phase.as_deref() == Some(phase)
}

fn named(what: &str, names: &[String]) -> Option<String> {
    (!names.is_empty()).then(|| format!("containers with {what} status: [{}]", names.join(" ")))
}

fn join(parts: [Option<String>; 2]) -> String {
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn find<'a>(list: &'a Option<Vec<ContainerStatus>>, name: &str) -> Option<&'a ContainerStatus> {
    list.iter().flatten().find(|status| status.name == name)
}

fn initialized(pod: &Pod, status: &PodStatus) -> Finding {
    let spec = pod.spec.as_ref();
    let (mut unknown, mut incomplete) = (Vec::new(), Vec::new());
    for container in spec.iter().flat_map(|s| s.init_containers.iter().flatten()) {
        match find(&status.init_container_statuses, &container.name) {
            None => unknown.push(container.name.clone()),
            Some(status) if is_sidecar(container) => {
                if status.started != Some(true) {
                    incomplete.push(container.name.clone());
                }
            }
            Some(status) if !status.ready => incomplete.push(container.name.clone()),
            Some(_) => {}
        }
    }
    if phase_is(status, "Succeeded") && unknown.is_empty() {
        return Finding { status: true, reason: Some("PodCompleted"), message: None };
    }
    // Containers that run prove that initialization was done, even if its traces are gone.
    let running = status
        .container_statuses
        .iter()
        .flatten()
        .any(|s| s.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some()));
    let message = join([named("unknown", &unknown), named("incomplete", &incomplete)]);
    if message.is_empty() || running { Finding::yes() } else { Finding::no("ContainersNotInitialized", Some(message)) }
}

fn containers_ready(pod: &Pod, status: &PodStatus) -> Finding {
    let spec = pod.spec.as_ref();
    if phase_is(status, "Succeeded") {
        return Finding::no("PodCompleted", None);
    }
    if phase_is(status, "Failed") {
        return Finding::no("PodFailed", None);
    }
    let (mut unknown, mut unready) = (Vec::new(), Vec::new());
    let sidecars = spec.iter().flat_map(|s| s.init_containers.iter().flatten()).filter(|c| is_sidecar(c));
    for container in sidecars {
        match find(&status.init_container_statuses, &container.name) {
            None => unknown.push(container.name.clone()),
            Some(status) if !status.ready => unready.push(container.name.clone()),
            Some(_) => {}
        }
    }
    for container in spec.iter().flat_map(|s| &s.containers) {
        match find(&status.container_statuses, &container.name) {
            None => unknown.push(container.name.clone()),
            Some(status) if !status.ready => unready.push(container.name.clone()),
            Some(_) => {}
        }
    }
    let message = join([named("unknown", &unknown), named("unready", &unready)]);
    if message.is_empty() { Finding::yes() } else { Finding::no("ContainersNotReady", Some(message)) }
}

fn ready(pod: &Pod, containers: &Finding) -> Finding {
    if !containers.status {
        return Finding { status: false, reason: containers.reason, message: containers.message.clone() };
    }
    let mut messages = Vec::new();
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    for gate in pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten()) {
        let kind = &gate.condition_type;
        match conditions.into_iter().flatten().find(|c| c.type_ == *kind) {
            None => {
                messages.push(format!("corresponding condition of pod readiness gate {kind:?} does not exist."));
            }
            Some(condition) if condition.status != "True" => messages
                .push(format!("the status of pod readiness gate {kind:?} is not \"True\", but {}", condition.status)),
            Some(_) => {}
        }
    }
    if messages.is_empty() { Finding::yes() } else { Finding::no("ReadinessGatesNotReady", Some(messages.join(", "))) }
}
