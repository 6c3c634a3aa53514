//! Requests and limits as the kernel takes them, and the quality of service they imply.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};
use sys::cgroup::Limits;

use crate::cri::v1::LinuxContainerResources;
use crate::podworkers::actions::is_sidecar;
use crate::quantity::{milli_of, value_of};

pub const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
pub const QUOTA_PERIOD: u64 = 100_000;
const MIN_QUOTA: i64 = 1000;

/// Upstream's scores: the kernel kills the highest first.
const GUARANTEED_SCORE: i64 = -997;
const BEST_EFFORT_SCORE: i64 = 1000;
/// Pods of this priority and above are never killed for lack of memory before others.
const CRITICAL_PRIORITY: i32 = 2_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    pub fn text(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The class of `pod`: what the API server wrote, or computed.
pub fn qos(pod: &Pod) -> Qos {
    match pod.status.as_ref().and_then(|s| s.qos_class.as_deref()) {
        Some("Guaranteed") => Qos::Guaranteed,
        Some("Burstable") => Qos::Burstable,
        Some("BestEffort") => Qos::BestEffort,
        _ => compute_qos(pod),
    }
}

fn compute_qos(pod: &Pod) -> Qos {
    let Some(spec) = &pod.spec else { return Qos::BestEffort };
    let pod_level = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let all: Vec<Option<&ResourceRequirements>> = match pod_level {
        Some(resources) => vec![Some(resources)],
        None => {
            let init = spec.init_containers.iter().flatten();
            spec.containers.iter().chain(init).map(|c| c.resources.as_ref()).collect()
        }
    };
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        for name in ["cpu", "memory"] {
            let limit = milli_of(resources.and_then(|r| r.limits.as_ref()), name).filter(|v| *v > 0);
            let request = milli_of(resources.and_then(|r| r.requests.as_ref()), name).filter(|v| *v > 0);
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (true, true) => Qos::Guaranteed,
        (true, false) => Qos::Burstable,
        (false, _) => Qos::BestEffort,
    }
}

pub fn shares(milli_cpu: i64) -> u64 {
    if milli_cpu <= 0 {
        return MIN_SHARES;
    }
    (milli_cpu.unsigned_abs() * 1024 / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// Microseconds per [`QUOTA_PERIOD`]; 0 without a limit.
pub fn quota(milli_cpu: i64) -> i64 {
    if milli_cpu <= 0 { 0 } else { (milli_cpu * QUOTA_PERIOD as i64 / 1000).max(MIN_QUOTA) }
}

/// The OOM score adjustment of `container`, on a machine with `memory` bytes.
pub fn oom_score(pod: &Pod, container: &Container, memory: i64) -> i64 {
    if pod.spec.as_ref().and_then(|s| s.priority).is_some_and(|p| p >= CRITICAL_PRIORITY) {
        return GUARANTEED_SCORE;
    }
    match qos(pod) {
        Qos::Guaranteed => return GUARANTEED_SCORE,
        Qos::BestEffort => return BEST_EFFORT_SCORE,
        Qos::Burstable => {}
    }
    let request =
        |c: &Container| value_of(c.resources.as_ref().and_then(|r| r.requests.as_ref()), "memory").unwrap_or(0);
    let score = |bytes: i64| {
        let score = 1000 - i64::try_from(1000 * i128::from(bytes) / i128::from(memory.max(1))).unwrap_or(1000);
        // Never as safe as a guaranteed pod, never as doomed as a best-effort one.
        match score {
            s if s < 1000 + GUARANTEED_SCORE => 1000 + GUARANTEED_SCORE,
            BEST_EFFORT_SCORE => BEST_EFFORT_SCORE - 1,
            s => s,
        }
    };
    let own = score(request(container));
    if is_sidecar(container) {
        // A sidecar should not be killed before the containers it serves.
        let spec = pod.spec.as_ref();
        let least = spec.iter().flat_map(|s| &s.containers).map(|c| score(request(c))).min();
        return own.min(least.unwrap_or(own));
    }
    own
}

/// What the runtime is told.
pub fn of_container(pod: &Pod, container: &Container, machine_memory: i64, cgroup_v2: bool) -> LinuxContainerResources {
    let resources = container.resources.as_ref();
    let limits = resources.and_then(|r| r.limits.as_ref());
    let requests = resources.and_then(|r| r.requests.as_ref());
    let cpu_limit = milli_of(limits, "cpu").unwrap_or(0);
    let cpu_request = milli_of(requests, "cpu").filter(|v| *v > 0).unwrap_or(cpu_limit);
    let unified =
        if cgroup_v2 { HashMap::from([("memory.oom.group".to_owned(), "1".to_owned())]) } else { HashMap::new() };
    LinuxContainerResources {
        cpu_shares: shares(cpu_request) as i64,
        cpu_quota: quota(cpu_limit),
        cpu_period: QUOTA_PERIOD as i64,
        memory_limit_in_bytes: value_of(limits, "memory").unwrap_or(0),
        oom_score_adj: oom_score(pod, container, machine_memory),
        unified,
        ..Default::default()
    }
}

/// Effective requests (or limits) of a whole pod, in thousandths, with sidecars, init containers and overhead.
pub fn pod_total(pod: &Pod, name: &str, limits: bool) -> i64 {
    let Some(spec) = &pod.spec else { return 0 };
    let pick = |r: Option<&ResourceRequirements>| {
        let list = r.and_then(|r| if limits { r.limits.as_ref() } else { r.requests.as_ref() });
        milli_of(list, name)
    };
    let overhead = milli_of(spec.overhead.as_ref(), name).unwrap_or(0);
    if let Some(own) = pick(spec.resources.as_ref()) {
        return own + overhead;
    }
    let of = |c: &Container| {
        let own = pick(c.resources.as_ref());
        // A request defaults to the limit.
        own.or_else(|| (!limits).then(|| milli_of(c.resources.as_ref()?.limits.as_ref(), name)).flatten()).unwrap_or(0)
    };
    let mut total: i64 = spec.containers.iter().map(of).sum();
    let (mut sidecars, mut peak) = (0, 0);
    for container in spec.init_containers.iter().flatten() {
        if is_sidecar(container) {
            sidecars += of(container);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + of(container));
        }
    }
    total = (total + sidecars).max(peak);
    total + overhead
}

/// Limits of the pod's own group.
pub fn of_pod(pod: &Pod) -> Limits {
    let Some(spec) = &pod.spec else { return Limits::default() };
    let pod_level = |name: &str| milli_of(spec.resources.as_ref().and_then(|r| r.limits.as_ref()), name).is_some();
    let declared =
        |name: &str| {
            pod_level(name)
                || spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|c| is_sidecar(c))).all(
                    |c| milli_of(c.resources.as_ref().and_then(|r| r.limits.as_ref()), name).is_some_and(|v| v > 0),
                )
        };
    let class = qos(pod);
    if class == Qos::BestEffort {
        return Limits { cpu_shares: Some(MIN_SHARES), ..Limits::default() };
    }
    let mut out = Limits { cpu_shares: Some(shares(pod_total(pod, "cpu", false))), ..Limits::default() };
    if declared("cpu") {
        out.cpu_quota = Some(quota(pod_total(pod, "cpu", true)));
        out.cpu_period = Some(QUOTA_PERIOD);
    }
    if declared("memory") {
        out.memory = Some((pod_total(pod, "memory", true) + 999) / 1000);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec})).expect("a pod")
    }

    fn with(resources: serde_json::Value) -> Pod {
        pod(json!({"containers": [{"name": "a", "resources": resources}]}))
    }

    #[test]
    fn classes() {
        for (resources, class) in [
            (json!({}), Qos::BestEffort),
            (json!({"requests": {"cpu": "1"}}), Qos::Burstable),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), Qos::Guaranteed),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), Qos::Burstable),
            (json!({"limits": {"memory": "1Gi"}}), Qos::Burstable),
        ] {
            assert_eq!(qos(&with(resources.clone())), class, "{resources}");
        }
    }

    #[test]
    fn cpu_numbers() {
        for (milli, expected) in [(0, 2), (1, 2), (100, 102), (1000, 1024), (1_000_000, 262_144)] {
            assert_eq!(shares(milli), expected);
        }
        for (milli, expected) in [(0, 0), (5, 1000), (200, 20_000), (1500, 150_000)] {
            assert_eq!(quota(milli), expected);
        }
    }

    #[test]
    fn scores() {
        let memory = 4_000_000_000;
        let score = |resources| {
            let pod = with(resources);
            oom_score(&pod, &pod.spec.as_ref().expect("spec").containers[0].clone(), memory)
        };
        assert_eq!(score(json!({})), 1000);
        assert_eq!(score(json!({"limits": {"cpu": "1", "memory": "1G"}})), -997);
        assert_eq!(score(json!({"requests": {"memory": "2G"}})), 500);
        assert_eq!(score(json!({"requests": {"memory": "1"}})), 999);
        assert_eq!(score(json!({"requests": {"memory": "4G"}})), 3);
    }

    #[test]
    fn pod_groups() {
        let burstable = pod(json!({
            "containers": [{"name": "a", "resources": {"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}}},
                           {"name": "b", "resources": {"requests": {"cpu": "300m"}, "limits": {"memory": "64Mi"}}}],
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "2"}}}]}));
        let limits = of_pod(&burstable);
        assert_eq!(limits.cpu_shares, Some(2048));
        assert_eq!((limits.cpu_quota, limits.memory), (None, Some(128 << 20)));
        let guaranteed = of_pod(&with(json!({"limits": {"cpu": "500m", "memory": "1Gi"}})));
        assert_eq!((guaranteed.cpu_shares, guaranteed.cpu_quota), (Some(512), Some(50_000)));
        assert_eq!(of_pod(&with(json!({}))).cpu_shares, Some(2));
    }

    #[test]
    fn container_numbers() {
        let pod = with(json!({"limits": {"cpu": "200m", "memory": "32Mi"}}));
        let container = pod.spec.as_ref().expect("spec").containers[0].clone();
        let out = of_container(&pod, &container, 1 << 32, false);
        assert_eq!((out.cpu_shares, out.cpu_quota, out.memory_limit_in_bytes), (204, 20_000, 32 << 20));
        assert!(of_container(&pod, &container, 1, true).unified.contains_key("memory.oom.group"));
    }
}
