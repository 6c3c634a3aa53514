//! Tables of states and the actions they call for.

use super::*;
use crate::runtime::SandboxRecord;
use serde_json::json;

fn pod(spec: serde_json::Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": spec}))
        .expect("a pod")
}

fn sandbox(ready: bool, attempt: u32) -> SandboxRecord {
    SandboxRecord {
        id: format!("s{attempt}"),
        ready,
        attempt,
        created_at: 1,
        host_network: false,
        ips: vec!["10.0.0.1".into()],
    }
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
        started_at: None,
        finished_at: None,
        exit_code,
        reason: String::new(),
        message: String::new(),
        image: String::new(),
        image_id: String::new(),
        log_path: "/x".into(),
        resources: None,
        user: None,
        termination_grace: None,
    }
}

fn runtime(sandboxes: Vec<SandboxRecord>, containers: Vec<ContainerRecord>) -> PodRuntime {
    PodRuntime { sandboxes, containers }
}

fn two() -> serde_json::Value {
    json!({"containers": [{"name": "a"}, {"name": "b"}]})
}

fn decide(pod: &Pod, runtime: &PodRuntime) -> Actions {
    compute(pod, runtime, &ProbeView::default())
}

#[test]
fn a_new_pod_needs_everything() {
    let actions = decide(&pod(two()), &PodRuntime::default());
    assert_eq!(actions, Actions { kill_pod: true, create_sandbox: true, to_start: vec![0, 1], ..Actions::default() });
    let init = pod(json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}));
    let actions = decide(&init, &PodRuntime::default());
    assert_eq!((actions.init_to_start, actions.to_start), (vec![0], vec![]));
}

#[test]
fn a_running_pod_needs_nothing() {
    let state = runtime(vec![sandbox(true, 0)], vec![record("a", State::Running, 0), record("b", State::Running, 0)]);
    assert!(decide(&pod(two()), &state).is_empty());
}

#[test]
fn restart_policies() {
    for (policy, code, expected) in [
        ("Always", 0, vec![0]),
        ("Always", 1, vec![0]),
        ("OnFailure", 1, vec![0]),
        ("OnFailure", 0, vec![]),
        ("Never", 1, vec![]),
    ] {
        let mut spec = two();
        spec["restartPolicy"] = json!(policy);
        let state =
            runtime(vec![sandbox(true, 0)], vec![record("a", State::Exited, code), record("b", State::Running, 0)]);
        let actions = decide(&pod(spec), &state);
        assert_eq!((actions.to_start, actions.kill_pod), (expected, false), "{policy} {code}");
    }
}

#[test]
fn container_restart_rules_override_the_pod() {
    let spec = json!({"restartPolicy": "Never", "containers": [{
        "name": "a", "restartPolicy": "Never",
        "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]}]});
    for (code, expected) in [(42, vec![0]), (1, vec![])] {
        let state = runtime(vec![sandbox(true, 0)], vec![record("a", State::Exited, code)]);
        assert_eq!(decide(&pod(spec.clone()), &state).to_start, expected, "{code}");
    }
}

#[test]
fn when_nothing_is_left_the_pod_goes() {
    let mut spec = two();
    spec["restartPolicy"] = json!("Never");
    let state = runtime(vec![sandbox(true, 0)], vec![record("a", State::Exited, 0), record("b", State::Exited, 1)]);
    let actions = decide(&pod(spec.clone()), &state);
    assert!(actions.kill_pod && !actions.create_sandbox);
    // And once the sandbox is stopped, no new one is made.
    let state = runtime(vec![sandbox(false, 0)], state.containers);
    let actions = decide(&pod(spec), &state);
    assert!(actions.kill_pod && !actions.create_sandbox);
}

#[test]
fn a_dead_sandbox_is_made_again() {
    let state = runtime(vec![sandbox(false, 2)], vec![record("a", State::Exited, 137), record("b", State::Exited, 0)]);
    let actions = decide(&pod(two()), &state);
    assert_eq!((actions.create_sandbox, actions.attempt, actions.to_start), (true, 3, vec![0, 1]));
    let mut spec = two();
    spec["restartPolicy"] = json!("OnFailure");
    assert_eq!(decide(&pod(spec), &state).to_start, [0]);
}

#[test]
fn failed_probes_kill() {
    let state = runtime(vec![sandbox(true, 0)], vec![record("a", State::Running, 0), record("b", State::Running, 0)]);
    let mut probes = ProbeView::default();
    probes.liveness.insert("id-a".into(), ProbeResult::Failure);
    let actions = compute(&pod(two()), &state, &probes);
    assert_eq!(actions.to_start, [0]);
    assert_eq!(actions.to_kill[0].message, "Container a failed liveness probe, will be restarted");
    let mut spec = two();
    spec["restartPolicy"] = json!("Never");
    let actions = compute(&pod(spec), &state, &probes);
    assert!(actions.to_start.is_empty());
    assert_eq!(actions.to_kill[0].message, "Container a failed liveness probe");
}

#[test]
fn init_containers_run_in_order() {
    let spec = json!({"initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let p = pod(spec.clone());
    let with = |containers| decide(&p, &runtime(vec![sandbox(true, 0)], containers));
    assert_eq!(with(vec![]).init_to_start, [0]);
    assert!(with(vec![record("i", State::Running, 0)]).is_empty());
    assert_eq!(with(vec![record("i", State::Exited, 0)]).init_to_start, [1]);
    assert_eq!(with(vec![record("i", State::Exited, 1)]).init_to_start, [0]);
    let both = vec![record("j", State::Exited, 0), record("i", State::Exited, 0)];
    assert_eq!(with(both).to_start, [0]);
    // They may be gone from the runtime once the pod is initialized.
    assert!(with(vec![record("a", State::Running, 0)]).is_empty());
    let mut spec = spec;
    spec["restartPolicy"] = json!("Never");
    let actions = decide(&pod(spec), &runtime(vec![sandbox(true, 0)], vec![record("i", State::Exited, 1)]));
    assert!(actions.kill_pod && actions.init_to_start.is_empty());
}

#[test]
fn sidecars_start_once_and_stay() {
    let p = pod(json!({
        "initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
        "containers": [{"name": "a"}]}));
    let with = |containers| decide(&p, &runtime(vec![sandbox(true, 0)], containers));
    assert_eq!(with(vec![record("s", State::Running, 0)]).init_to_start, [1]);
    let done = vec![record("i", State::Exited, 0), record("s", State::Running, 0)];
    assert_eq!(with(done).to_start, [0]);
    let sick = vec![record("i", State::Running, 0), record("s", State::Exited, 0)];
    assert_eq!(with(sick).init_to_start, [0]);
    let later = vec![record("a", State::Running, 0), record("s", State::Exited, 1)];
    assert_eq!(with(later).init_to_start, [0]);
}

#[test]
fn a_sidecar_with_a_startup_probe_blocks_until_it_started() {
    let p = pod(json!({
        "initContainers": [{"name": "s", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 1}}}],
        "containers": [{"name": "a"}]}));
    let state = runtime(vec![sandbox(true, 0)], vec![record("s", State::Running, 0)]);
    assert!(decide(&p, &state).is_empty());
    let mut probes = ProbeView::default();
    probes.startup.insert("id-s".into(), ProbeResult::Success);
    assert_eq!(compute(&p, &state, &probes).to_start, [0]);
    probes.startup.insert("id-s".into(), ProbeResult::Failure);
    let actions = compute(&p, &state, &probes);
    assert_eq!((actions.init_to_start, actions.to_kill.len()), (vec![0], 1));
}

#[test]
fn a_changed_image_restarts_the_container() {
    let p = pod(json!({"containers": [{"name": "a", "image": "new"}]}));
    let mut old = record("a", State::Running, 0);
    old.hash = "other".into();
    let actions = decide(&p, &runtime(vec![sandbox(true, 0)], vec![old]));
    assert_eq!(actions.to_kill[0].message, "Container a definition changed, will be restarted");
    assert_eq!(actions.to_start, [0]);
}

#[test]
fn ephemeral_containers_start_once() {
    let p = pod(json!({"containers": [{"name": "a"}], "ephemeralContainers": [{"name": "e"}]}));
    let state = runtime(vec![sandbox(true, 0)], vec![record("a", State::Running, 0)]);
    assert_eq!(decide(&p, &state).ephemeral_to_start, [0]);
    let state = runtime(vec![sandbox(true, 0)], vec![record("a", State::Running, 0), record("e", State::Exited, 0)]);
    assert!(decide(&p, &state).is_empty());
}
