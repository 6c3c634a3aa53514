//! Tables of runtime states and the statuses they make.

use super::*;
use crate::runtime::SandboxRecord;
use serde_json::json;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 3}, "spec": spec}))
    .expect("a pod")
}

fn record(name: &str, state: State, exit_code: i32) -> ContainerRecord {
    ContainerRecord {
        id: format!("id-{name}"),
        name: name.into(),
        sandbox_id: "s0".into(),
        state,
        restart_count: 0,
        hash: String::new(),
        created_at: None,
        started_at: Some(Timestamp::UNIX_EPOCH),
        finished_at: None,
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: "docker.io/library/busybox:1".into(),
        image_id: "sha256:x".into(),
        log_path: "/x".into(),
        resources: None,
        user: None,
        termination_grace: None,
    }
}

fn runtime(containers: Vec<ContainerRecord>) -> PodRuntime {
    let sandbox = SandboxRecord {
        id: "s0".into(),
        ready: true,
        attempt: 0,
        created_at: 1,
        host_network: false,
        ips: vec!["10.42.0.5".into()],
    };
    PodRuntime { sandboxes: vec![sandbox], containers }
}

fn make(pod: &Pod, runtime: &PodRuntime, waiting: &[(&str, &str, &str)], finished: bool) -> PodStatus {
    let waiting = waiting
        .iter()
        .map(|(name, reason, message)| {
            ((*name).to_owned(), Waiting { reason: (*reason).to_owned(), message: (*message).to_owned() })
        })
        .collect();
    generate(&Observed {
        pod,
        runtime,
        waiting: &waiting,
        probed: &HashMap::new(),
        host_ips: &["192.0.2.1".into()],
        verdict: None,
        finished,
        now: Timestamp::UNIX_EPOCH,
    })
}

fn condition<'a>(status: &'a PodStatus, name: &str) -> &'a k8s_openapi::api::core::v1::PodCondition {
    status.conditions.iter().flatten().find(|c| c.type_ == name).expect(name)
}

fn one() -> serde_json::Value {
    json!({"containers": [{"name": "a", "image": "busybox:1"}]})
}

#[test]
fn a_pod_that_is_being_made() {
    let status = make(&pod(one()), &PodRuntime::default(), &[], false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let container = &status.container_statuses.as_ref().expect("set")[0];
    let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref()).expect("waiting");
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    let ready = condition(&status, "Ready");
    assert_eq!((ready.status.as_str(), ready.reason.as_deref()), ("False", Some("ContainersNotReady")));
    assert_eq!(ready.message.as_deref(), Some("containers with unready status: [a]"));
    assert_eq!(condition(&status, "PodReadyToStartContainers").status, "False");
    assert_eq!((status.observed_generation, ready.observed_generation), (Some(3), Some(3)));
}

#[test]
fn a_running_pod() {
    let status = make(&pod(one()), &runtime(vec![record("a", State::Running, 0)]), &[], false);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert_eq!(status.pod_ip.as_deref(), Some("10.42.0.5"));
    for name in ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        assert_eq!(condition(&status, name).status, "True", "{name}");
    }
    let container = &status.container_statuses.as_ref().expect("set")[0];
    assert!(container.ready && container.started == Some(true));
    assert_eq!(container.container_id.as_deref(), Some("containerd://id-a"));
}

#[test]
fn a_crash_loop() {
    let crashed = ContainerRecord { restart_count: 2, ..record("a", State::Exited, 1) };
    let message = "back-off 10s restarting failed container=a pod=p_ns(u)";
    let status = make(&pod(one()), &runtime(vec![crashed]), &[("a", "CrashLoopBackOff", message)], false);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    let container = &status.container_statuses.as_ref().expect("set")[0];
    let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref()).expect("waiting");
    assert_eq!((waiting.reason.as_deref(), waiting.message.as_deref()), (Some("CrashLoopBackOff"), Some(message)));
    let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref()).expect("terminated");
    assert_eq!((last.exit_code, last.reason.as_deref(), container.restart_count), (1, Some("Error"), 2));
}

#[test]
fn phases_of_pods_that_end() {
    for (policy, code, phase) in [
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 0, "Succeeded"),
        ("OnFailure", 1, "Running"),
        ("Always", 0, "Running"),
    ] {
        let mut spec = one();
        spec["restartPolicy"] = json!(policy);
        let status = make(&pod(spec), &runtime(vec![record("a", State::Exited, code)]), &[], false);
        assert_eq!(status.phase.as_deref(), Some(phase), "{policy} {code}");
    }
    let killed = make(&pod(one()), &runtime(vec![record("a", State::Exited, 137)]), &[], true);
    assert_eq!(killed.phase.as_deref(), Some("Failed"));
}

#[test]
fn a_terminal_phase_stays() {
    let mut p = pod(one());
    p.status = Some(PodStatus { phase: Some("Failed".into()), reason: Some("Evicted".into()), ..Default::default() });
    let status = make(&p, &runtime(vec![record("a", State::Running, 0)]), &[], false);
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("Evicted")));
}

#[test]
fn init_containers_hold_the_pod() {
    let spec = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    let status = make(&pod(spec.clone()), &runtime(vec![record("i", State::Running, 0)]), &[], false);
    assert_eq!(status.phase.as_deref(), Some("Pending"));
    let waiting = status.container_statuses.as_ref().expect("set")[0].state.clone().and_then(|s| s.waiting);
    assert_eq!(waiting.and_then(|w| w.reason).as_deref(), Some("PodInitializing"));
    let initialized = condition(&status, "Initialized");
    assert_eq!(initialized.message.as_deref(), Some("containers with incomplete status: [i]"));
    let both = vec![record("a", State::Running, 0), record("i", State::Exited, 0)];
    let status = make(&pod(spec), &runtime(both), &[], false);
    assert_eq!(status.phase.as_deref(), Some("Running"));
    assert!(status.init_container_statuses.expect("set")[0].ready);
}

#[test]
fn transition_times_are_kept() {
    let mut p = pod(one());
    let early = Timestamp::from_second(-100).expect("in range");
    let mut status = make(&p, &PodRuntime::default(), &[], false);
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_transition_time = Some(Time(early));
    }
    p.status = Some(status);
    let status = make(&p, &runtime(vec![record("a", State::Running, 0)]), &[], false);
    assert_eq!(condition(&status, "PodScheduled").last_transition_time, Some(Time(early)));
    assert_eq!(condition(&status, "Ready").last_transition_time, Some(Time(Timestamp::UNIX_EPOCH)));
}

#[test]
fn a_container_lost_with_the_runtime_counts_as_a_restart() {
    let mut p = pod(one());
    p.status = Some(make(&p, &runtime(vec![record("a", State::Running, 0)]), &[], false));
    let status = make(&p, &PodRuntime::default(), &[], false);
    let container = &status.container_statuses.as_ref().expect("set")[0];
    let last = container.last_state.as_ref().and_then(|s| s.terminated.as_ref()).expect("terminated");
    assert_eq!((last.reason.as_deref(), container.restart_count), (Some("ContainerStatusUnknown"), 1));
}
