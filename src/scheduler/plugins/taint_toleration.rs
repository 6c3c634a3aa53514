//! TaintToleration: NoSchedule and NoExecute taints refuse; PreferNoSchedule taints cost score.

use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, Plugin, Refusal, default_normalize};

pub struct TaintToleration;

/// Whether some toleration of the pod covers the taint.
pub fn tolerates(pod: &PodInfo, key: &str, value: &str, effect: &str) -> bool {
    tolerations(pod).iter().any(|toleration| covers(toleration, key, value, effect))
}

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default()
}

fn covers(toleration: &Toleration, key: &str, value: &str, effect: &str) -> bool {
    let named = |field: &Option<String>| field.clone().filter(|text| !text.is_empty());
    if named(&toleration.effect).is_some_and(|wanted| wanted != effect)
        || named(&toleration.key).is_some_and(|wanted| wanted != key)
    {
        return false;
    }
    let theirs = toleration.value.as_deref().unwrap_or_default();
    match toleration.operator.as_deref() {
        None | Some("" | "Equal") => theirs == value && named(&toleration.key).is_some(),
        Some("Exists") => true,
        Some("Lt") => numbers(value, theirs).is_some_and(|(taint, bound)| taint < bound),
        Some("Gt") => numbers(value, theirs).is_some_and(|(taint, bound)| taint > bound),
        Some(_) => false,
    }
}

fn numbers(taint: &str, toleration: &str) -> Option<(i64, i64)> {
    Some((taint.parse().ok()?, toleration.parse().ok()?))
}

fn taints(node: &NodeInfo) -> &[Taint] {
    node.node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

fn tolerated(pod: &PodInfo, taint: &Taint) -> bool {
    tolerates(pod, &taint.key, taint.value.as_deref().unwrap_or_default(), &taint.effect)
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let hard = taints(node).iter().filter(|taint| taint.effect == "NoSchedule" || taint.effect == "NoExecute");
        for taint in hard {
            if !tolerated(pod, taint) {
                return Err(Refusal::unresolvable("node(s) had untolerated taint(s)"));
            }
        }
        Ok(())
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let soft = taints(node).iter().filter(|taint| taint.effect == "PreferNoSchedule");
        i64::try_from(soft.filter(|taint| !tolerated(pod, taint)).count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, _: &CycleState, scores: &mut [i64]) {
        default_normalize(scores, true);
    }
}
