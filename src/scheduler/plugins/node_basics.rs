//! SchedulingGates, NodeUnschedulable, NodeName, NodePorts: the plugins of one question each.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Plugin, Refusal};
use crate::plugins::taint_toleration::tolerates;

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn pre_enqueue(&self, pod: &PodInfo) -> Result<(), String> {
        let gates = pod.pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_deref()).unwrap_or_default();
        if gates.is_empty() {
            return Ok(());
        }
        let names: Vec<&str> = gates.iter().map(|gate| gate.name.as_str()).collect();
        Err(format!("waiting for scheduling gates: [{}]", names.join(" ")))
    }
}

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let cordoned = node.node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
        if !cordoned || tolerates(pod, "node.kubernetes.io/unschedulable", "", "NoSchedule") {
            return Ok(());
        }
        Err(Refusal::unresolvable("node(s) were unschedulable"))
    }
}

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let wanted = pod.pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        if wanted.is_empty() || wanted == node.name {
            return Ok(());
        }
        Err(Refusal::unresolvable("node(s) didn't match the requested node name"))
    }
}

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let taken = |wanted| node.pods.iter().flat_map(|p| &p.host_ports).any(|used| used.conflicts(wanted));
        if pod.host_ports.iter().any(taken) {
            return Err(Refusal::resolvable("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    }
}
