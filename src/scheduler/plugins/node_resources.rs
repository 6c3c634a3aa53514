//! NodeResourcesFit (requests against allocatable; least allocated scores best) and NodeResourcesBalancedAllocation.

use crate::cache::{NodeInfo, PodInfo};
use crate::framework::{CycleState, MAX_SCORE, Plugin, Refusal};

pub struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> Result<(), Refusal> {
        let mut reasons = Vec::new();
        // Asking for more than the node has at all cannot be helped by removing pods.
        let mut unresolvable = false;
        if i64::try_from(node.pods.len()).unwrap_or(i64::MAX) + 1 > node.max_pods {
            reasons.push("Too many pods".to_owned());
        }
        let (want, have, used) = (&pod.requests, &node.allocatable, &node.requested);
        let mut check = |name: &str, want: i64, have: i64, used: i64| {
            if want > 0 && want > have - used {
                reasons.push(format!("Insufficient {name}"));
                unresolvable |= want > have;
            }
        };
        check("cpu", want.milli_cpu, have.milli_cpu, used.milli_cpu);
        check("memory", want.memory, have.memory, used.memory);
        check("ephemeral-storage", want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
        for (name, amount) in &want.scalar {
            let of = |map: &std::collections::BTreeMap<String, i64>| map.get(name).copied().unwrap_or(0);
            check(name, *amount, of(&have.scalar), of(&used.scalar));
        }
        if reasons.is_empty() { Ok(()) } else { Err(Refusal { reasons, unresolvable }) }
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let free = |have: i64, used: i64, want: i64| {
            if have <= 0 || used + want > have { 0 } else { (have - used - want) * MAX_SCORE / have }
        };
        let (have, used, want) = (&node.allocatable, &node.score_requested, &pod.score_requests);
        let mut parts = Vec::new();
        if have.milli_cpu > 0 {
            parts.push(free(have.milli_cpu, used.milli_cpu, want.milli_cpu));
        }
        if have.memory > 0 {
            parts.push(free(have.memory, used.memory, want.memory));
        }
        let count = i64::try_from(parts.len()).unwrap_or(1).max(1);
        parts.iter().sum::<i64>() / count
    }
}

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, _: &CycleState, pod: &PodInfo, node: &NodeInfo) -> i64 {
        let share = |have: i64, used: i64, want: i64| {
            if have <= 0 { 0.0 } else { ((used + want) as f64 / have as f64).min(1.0) }
        };
        let (have, used, want) = (&node.allocatable, &node.requested, &pod.requests);
        let cpu = share(have.milli_cpu, used.milli_cpu, want.milli_cpu);
        let memory = share(have.memory, used.memory, want.memory);
        // The standard deviation of two values is half their distance.
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
    }
}
