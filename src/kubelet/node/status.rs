//! The status of the node: a pure function of what was observed.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;

use crate::cri::v1;

/// What presses on the node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

pub struct Observed<'a> {
    pub capacity: &'a BTreeMap<String, Quantity>,
    pub allocatable: &'a BTreeMap<String, Quantity>,
    pub info: &'a NodeSystemInfo,
    pub addresses: &'a [NodeAddress],
    pub port: i32,
    pub images: &'a [v1::Image],
    pub pressure: Pressure,
    /// Why it is not ready.
    pub not_ready: Option<&'a str>,
    pub old: Option<&'a NodeStatus>,
    pub now: Timestamp,
}

/// Makes the status.
pub fn build(o: &Observed<'_>) -> NodeStatus {
    let condition = |type_: &str, status: bool, reason: &str, message: &str| {
        let status = if status { "True" } else { "False" };
        let old = o.old.and_then(|s| s.conditions.as_ref()).into_iter().flatten().find(|c| c.type_ == type_);
        let since = old.filter(|c| c.status == status).and_then(|c| c.last_transition_time.clone());
        NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(Time(o.now)),
            last_transition_time: since.or(Some(Time(o.now))),
        }
    };
    let p = o.pressure;
    let pick =
        |bad: bool, yes: (&'static str, &'static str), no: (&'static str, &'static str)| if bad { yes } else { no };
    let memory = pick(
        p.memory,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let disk = pick(
        p.disk,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let pids = pick(
        p.pids,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    let ready = match o.not_ready {
        None => ("KubeletReady", "kubelet is posting ready status"),
        Some(why) => ("KubeletNotReady", why),
    };
    NodeStatus {
        addresses: Some(o.addresses.to_vec()),
        allocatable: Some(o.allocatable.clone()),
        capacity: Some(o.capacity.clone()),
        conditions: Some(vec![
            condition("MemoryPressure", p.memory, memory.0, memory.1),
            condition("DiskPressure", p.disk, disk.0, disk.1),
            condition("PIDPressure", p.pids, pids.0, pids.1),
            condition("Ready", o.not_ready.is_none(), ready.0, ready.1),
        ]),
        daemon_endpoints: Some(NodeDaemonEndpoints { kubelet_endpoint: Some(DaemonEndpoint { port: o.port }) }),
        images: Some(images(o.images)),
        node_info: Some(o.info.clone()),
        ..NodeStatus::default()
    }
}

/// The fifty largest, with five names each, as upstream.
fn images(all: &[v1::Image]) -> Vec<ContainerImage> {
    let mut all: Vec<&v1::Image> = all.iter().collect();
    all.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let names = |image: &v1::Image| image.repo_digests.iter().chain(&image.repo_tags).take(5).cloned().collect();
    let take = all.into_iter().take(50);
    take.map(|image| ContainerImage { names: Some(names(image)), size_bytes: i64::try_from(image.size).ok() }).collect()
}

/// Whether two statuses differ in more than the time of the heartbeat.
pub fn differs(a: &NodeStatus, b: &NodeStatus) -> bool {
    let bare = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    bare(a) != bare(b)
}

/// The first condition of the runtime that is not fulfilled, in upstream's words.
pub fn runtime_problem(status: &v1::StatusResponse) -> Option<String> {
    let conditions = status.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let find = |name: &str| conditions.iter().find(|c| c.r#type == name);
    let text =
        |name: &str, c: &v1::RuntimeCondition| format!("{name}={} reason:{} message:{}", c.status, c.reason, c.message);
    let mut problems = Vec::new();
    match find("RuntimeReady") {
        Some(c) if c.status => {}
        Some(c) => problems.push(format!("container runtime not ready: {}", text("RuntimeReady", c))),
        None => problems.push("container runtime status check may not have completed yet".into()),
    }
    match find("NetworkReady") {
        Some(c) if c.status => {}
        Some(c) => problems.push(format!("container runtime network not ready: {}", text("NetworkReady", c))),
        None => problems.push("container runtime network not ready: NetworkReady condition is not set".into()),
    }
    match problems.len() {
        0 => None,
        1 => problems.pop(),
        _ => Some(format!("[{}]", problems.join(", "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed<'a>(
        info: &'a NodeSystemInfo,
        list: &'a BTreeMap<String, Quantity>,
        old: Option<&'a NodeStatus>,
        second: i64,
    ) -> Observed<'a> {
        Observed {
            capacity: list,
            allocatable: list,
            info,
            addresses: &[],
            port: 10250,
            images: &[],
            pressure: Pressure::default(),
            not_ready: None,
            old,
            now: Timestamp::from_second(second).expect("in range"),
        }
    }

    #[test]
    fn heartbeats_are_no_change_and_transitions_keep_their_time() {
        let (info, list) = (NodeSystemInfo::default(), BTreeMap::new());
        let first = build(&observed(&info, &list, None, 1));
        let second = build(&observed(&info, &list, Some(&first), 100));
        assert!(!differs(&first, &second));
        let third = build(&Observed { not_ready: Some("x"), ..observed(&info, &list, Some(&second), 200) });
        assert!(differs(&second, &third));
        let conditions = third.conditions.expect("set");
        assert_eq!(conditions[3].reason.as_deref(), Some("KubeletNotReady"));
        assert_eq!(conditions[0].last_transition_time.as_ref().map(|t| t.0.as_second()), Some(1));
        assert_eq!(conditions[3].last_transition_time.as_ref().map(|t| t.0.as_second()), Some(200));
    }

    #[test]
    fn the_network_is_part_of_being_ready() {
        let condition = |name: &str, status| v1::RuntimeCondition {
            r#type: name.into(),
            status,
            reason: "NetworkPluginNotReady".into(),
            message: "cni plugin not initialized".into(),
        };
        let status = |network| v1::StatusResponse {
            status: Some(v1::RuntimeStatus {
                conditions: vec![condition("RuntimeReady", true), condition("NetworkReady", network)],
            }),
            ..Default::default()
        };
        assert_eq!(runtime_problem(&status(true)), None);
        assert_eq!(
            runtime_problem(&status(false)).as_deref(),
            Some(
                "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
                 message:cni plugin not initialized"
            )
        );
    }
}
