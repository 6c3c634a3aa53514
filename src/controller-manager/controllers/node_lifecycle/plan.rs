//! What a node's conditions and taints should be. Pure.
//!
//! Invariants:
//! - NL-2: only taints of this controller's keys are added or removed.
//! - NL-3: while every node of the cluster is unwell nothing is evicted: the fault is more likely ours than theirs.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";
/// Condition, the status that is bad, and the taint.
const BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
/// What the kubelet reports and nobody knows when it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// How many nodes of a zone (or of the cluster) are unwell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disruption {
    Normal,
    /// More than two, and 55 % or more.
    Partial,
    /// All.
    Full,
}

pub fn disruption(ready: usize, not_ready: usize) -> Disruption {
    if ready == 0 && not_ready > 0 {
        Disruption::Full
    } else if not_ready > 2 && not_ready * 100 >= (ready + not_ready) * 55 {
        Disruption::Partial
    } else {
        Disruption::Normal
    }
}

/// What may be done about an unwell node's pods now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Eviction {
    /// As its condition says.
    Allowed,
    /// Not now, but what has begun goes on.
    Later,
    /// Not at all: what has begun ends.
    Stopped,
}

pub struct Observed<'a> {
    pub node: &'a Node,
    /// The kubelet has not been heard of for longer than it may be silent.
    pub silent: bool,
    pub eviction: Eviction,
    pub now: Timestamp,
}

#[derive(Debug, PartialEq)]
pub enum Action {
    SetStatus(NodeStatus),
    /// It was ready and is not.
    ReportNotReady,
    SetTaints(Vec<Taint>),
    MarkPodsNotReady,
}

pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

pub fn readiness(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |condition| condition.status.as_str())
}

pub fn plan(observed: &Observed<'_>) -> Vec<Action> {
    let mut node = observed.node.clone();
    let mut actions = Vec::new();
    if observed.silent && silence(&mut node, observed.now) {
        actions.push(Action::SetStatus(node.status.clone().unwrap_or_default()));
        if readiness(observed.node) == "True" {
            actions.push(Action::ReportNotReady);
        }
    }
    let old = observed.node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let new = taints(&node, &old, observed.eviction, observed.now);
    if new != old {
        actions.push(Action::SetTaints(new));
    }
    if observed.silent {
        actions.push(Action::MarkPodsNotReady);
    }
    actions
}

/// Whether anything was not unknown yet.
fn silence(node: &mut Node, now: Timestamp) -> bool {
    let created = node.metadata.creation_timestamp.clone();
    let conditions = node.status.get_or_insert_default().conditions.get_or_insert_default();
    let mut changed = false;
    for kind in REPORTED {
        match conditions.iter_mut().find(|condition| condition.type_ == kind) {
            Some(known) if known.status == "Unknown" => continue,
            Some(known) => {
                known.status = "Unknown".into();
                known.reason = Some("NodeStatusUnknown".into());
                known.message = Some("Kubelet stopped posting node status.".into());
                known.last_transition_time = Some(Time(now));
            }
            None => conditions.push(NodeCondition {
                type_: kind.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: created.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
        changed = true;
    }
    changed
}

fn taints(node: &Node, old: &[Taint], eviction: Eviction, now: Timestamp) -> Vec<Taint> {
    let is = |kind: &str, bad: &str| condition(node, kind).is_some_and(|condition| condition.status == bad);
    let mut wanted: Vec<(&str, &str)> =
        BY_CONDITION.iter().filter(|(kind, bad, _)| is(kind, bad)).map(|(_, _, key)| (*key, NO_SCHEDULE)).collect();
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let executing = [NOT_READY, UNREACHABLE].map(|key| (key, NO_EXECUTE));
    let has = |key: &str, effect: &str| old.iter().any(|taint| taint.key == key && taint.effect == effect);
    let fitting = match readiness_said(node) {
        Some("False") => Some((NOT_READY, NO_EXECUTE)),
        Some("Unknown") => Some((UNREACHABLE, NO_EXECUTE)),
        _ => None,
    };
    match eviction {
        Eviction::Allowed => wanted.extend(fitting),
        // It is being evicted already: only the reason may change.
        Eviction::Later if executing.iter().any(|(key, effect)| has(key, effect)) => wanted.extend(fitting),
        Eviction::Later | Eviction::Stopped => {}
    }
    let ours = |taint: &Taint| {
        let by_condition = BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key) || taint.key == UNSCHEDULABLE;
        (by_condition && taint.effect == NO_SCHEDULE)
            || executing.iter().any(|(key, effect)| *key == taint.key && *effect == taint.effect)
    };
    let is_wanted = |taint: &Taint| wanted.iter().any(|(key, effect)| *key == taint.key && *effect == taint.effect);
    let mut new: Vec<Taint> = old.iter().filter(|taint| !ours(taint) || is_wanted(taint)).cloned().collect();
    for (key, effect) in wanted {
        if !has(key, effect) {
            let time_added = Some(Time(now));
            new.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added });
        }
    }
    new
}

/// A node that never said anything is not evicted from.
fn readiness_said(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|condition| condition.status.as_str())
}

/// Whether the node waits for [`Eviction::Allowed`].
pub fn waits_for_eviction(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    let tainted = taints
        .into_iter()
        .flatten()
        .any(|taint| taint.effect == NO_EXECUTE && (taint.key == NOT_READY || taint.key == UNREACHABLE));
    !tainted && matches!(readiness_said(node), Some("False" | "Unknown"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn node(ready: Option<&str>, taints: Value) -> Node {
        let conditions: Vec<Value> = ready.iter().map(|status| json!({ "type": "Ready", "status": status })).collect();
        serde_json::from_value(json!({
            "metadata": { "name": "n" }, "spec": { "taints": taints }, "status": { "conditions": conditions } }))
        .expect("a node")
    }

    fn run(node: &Node, silent: bool, eviction: Eviction) -> Vec<Action> {
        plan(&Observed { node, silent, eviction, now: NOW })
    }

    fn taints_after(node: &Node, eviction: Eviction) -> Option<Vec<String>> {
        run(node, false, eviction).into_iter().find_map(|action| match action {
            Action::SetTaints(taints) => {
                Some(taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect())
            }
            _ => None,
        })
    }

    #[test]
    fn taints_follow_conditions() {
        let not_ready =
            || json!([{ "key": NOT_READY, "effect": NO_SCHEDULE }, { "key": "mine", "effect": NO_EXECUTE }]);
        let taints = |list: &[&str]| Some(list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let schedule = format!("{NOT_READY}:{NO_SCHEDULE}");
        let execute = format!("{NOT_READY}:{NO_EXECUTE}");
        assert_eq!(taints_after(&node(Some("True"), not_ready()), Eviction::Allowed), taints(&["mine:NoExecute"]));
        assert_eq!(taints_after(&node(Some("False"), not_ready()), Eviction::Stopped), None);
        assert_eq!(taints_after(&node(Some("False"), not_ready()), Eviction::Later), None);
        assert_eq!(
            taints_after(&node(Some("False"), not_ready()), Eviction::Allowed),
            taints(&[&schedule, "mine:NoExecute", &execute])
        );
        let evicting = json!([{ "key": NOT_READY, "effect": NO_SCHEDULE }, { "key": NOT_READY, "effect": NO_EXECUTE }]);
        let unreachable = [format!("{UNREACHABLE}:{NO_SCHEDULE}"), format!("{UNREACHABLE}:{NO_EXECUTE}")];
        assert_eq!(taints_after(&node(Some("Unknown"), evicting.clone()), Eviction::Later), Some(unreachable.to_vec()));
        assert_eq!(taints_after(&node(Some("False"), evicting), Eviction::Stopped), taints(&[&schedule]));
        // Before the kubelet's first word the taint of admission stays or goes by condition only.
        assert_eq!(taints_after(&node(None, json!([])), Eviction::Allowed), None);
    }

    #[test]
    fn silence_is_told_once() {
        let actions = run(&node(Some("True"), json!([])), true, Eviction::Stopped);
        let [Action::SetStatus(status), Action::ReportNotReady, Action::SetTaints(taints), Action::MarkPodsNotReady] =
            actions.as_slice()
        else {
            panic!("{actions:?}")
        };
        let conditions = status.conditions.clone().unwrap_or_default();
        let text: Vec<_> =
            conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_deref())).collect();
        assert_eq!(text[0], ("Ready", "Unknown", Some("NodeStatusUnknown")));
        assert_eq!(text[1], ("MemoryPressure", "Unknown", Some("NodeStatusNeverUpdated")));
        assert_eq!((text.len(), taints.len(), taints[0].key.as_str()), (4, 1, UNREACHABLE));
        let mut told = node(None, json!([]));
        told.status = Some(status.clone());
        told.spec.get_or_insert_default().taints = Some(taints.clone());
        assert_eq!(run(&told, true, Eviction::Stopped), [Action::MarkPodsNotReady]);
    }

    #[test]
    fn disruptions() {
        assert_eq!(disruption(0, 1), Disruption::Full);
        assert_eq!(disruption(1, 1), Disruption::Normal);
        assert_eq!(disruption(2, 3), Disruption::Partial);
        assert_eq!(disruption(3, 3), Disruption::Normal);
        assert_eq!(disruption(0, 0), Disruption::Normal);
    }
}
