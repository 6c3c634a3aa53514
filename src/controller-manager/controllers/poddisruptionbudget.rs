//! PodDisruptionBudgets: how many pods may be evicted now. The API server's eviction reads it.
//!
//! Watches PodDisruptionBudgets, pods, and what owns pods. Writes PodDisruptionBudget status.
//!
//! Invariants:
//! - PB-1: an eviction that the server has granted counts as a disruption until its pod is gone, or 2 minutes.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, Informer, ObjectKey, WorkQueue};
use component_base::SharedClock;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::Api;
use kube::api::PostParams;

use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};
use crate::owners::{controller_of, selects};
use crate::podcontrol::{count, phase, ready_since};

/// An eviction that was granted and not carried out is forgotten after this.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);

struct Budgets {
    client: Client,
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    deployments: Informer<Deployment>,
    replica_sets: Informer<ReplicaSet>,
    stateful_sets: Informer<StatefulSet>,
    controllers: Informer<ReplicationController>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = Budgets {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        queue: cx.queue(),
        budgets: cx.informers.of(),
        pods: cx.informers.of(),
        deployments: cx.informers.of(),
        replica_sets: cx.informers.of(),
        stateful_sets: cx.informers.of(),
        controllers: cx.informers.of(),
    };
    let queue = this.queue.clone();
    this.budgets.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let (queue, budgets) = (this.queue.clone(), this.budgets.clone());
    this.pods.on_change(move |change| {
        let before = match change {
            client::Change::Updated { old, .. } => Some(old),
            _ => None,
        };
        let pods: Vec<&Arc<Pod>> = before.into_iter().chain([change.object()]).collect();
        let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
        for budget in budgets.list_in(namespace) {
            if pods.iter().any(|pod| guards(&budget, pod)) {
                queue.add(ObjectKey::of(budget.as_ref()));
            }
        }
    });
    // A changed number of replicas changes what is expected.
    wake(&this.deployments, &this.budgets, &this.queue);
    wake(&this.replica_sets, &this.budgets, &this.queue);
    wake(&this.stateful_sets, &this.budgets, &this.queue);
    wake(&this.controllers, &this.budgets, &this.queue);
    Arc::new(this)
}

fn wake<K: kube::Resource<DynamicType = ()> + Send + Sync + 'static>(
    owners: &Informer<K>,
    budgets: &Informer<PodDisruptionBudget>,
    queue: &WorkQueue<ObjectKey>,
) {
    let (queue, budgets) = (queue.clone(), budgets.clone());
    owners.on_change(move |change| {
        let generation = |object: &Arc<K>| object.meta().generation;
        if let client::Change::Updated { old, new } = change {
            if generation(old) == generation(new) {
                return;
            }
        }
        let namespace = change.object().meta().namespace.clone().unwrap_or_default();
        for budget in budgets.list_in(&namespace) {
            queue.add(ObjectKey::of(budget.as_ref()));
        }
    });
}

fn guards(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| selects(selector, pod.metadata.labels.as_ref()))
}

fn percent(value: &IntOrString, of: i32) -> i32 {
    match value {
        IntOrString::Int(number) => *number,
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            i32::try_from((percent * i64::from(of) + 99) / 100).unwrap_or(i32::MAX)
        }
    }
}

/// What is expected and what must stay healthy. `scale`: the sum of what the pods' owners want, or why it is not known.
fn wanted(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    scale: impl FnOnce() -> Result<i32, String>,
) -> Result<(i32, i32), String> {
    let spec = budget.spec.clone().unwrap_or_default();
    if let Some(most) = &spec.max_unavailable {
        let expected = scale()?;
        return Ok((expected, (expected - percent(most, expected)).max(0)));
    }
    match &spec.min_available {
        Some(IntOrString::Int(number)) => Ok((count(pods.len()), *number)),
        Some(share) => {
            let expected = scale()?;
            Ok((expected, percent(share, expected)))
        }
        None => Ok((count(pods.len()), 0)),
    }
}

/// The status, and when to look again for evictions that did not happen.
fn status(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Pod>],
    wanted: Result<(i32, i32), String>,
    now: Timestamp,
) -> (PodDisruptionBudgetStatus, Option<Duration>) {
    let known = budget.status.clone().unwrap_or_default();
    let mut status = PodDisruptionBudgetStatus { observed_generation: budget.metadata.generation, ..known.clone() };
    let set = |status: &mut PodDisruptionBudgetStatus, on: bool, reason: &str, message: &str| {
        let state = if on { "True" } else { "False" };
        let conditions = status.conditions.get_or_insert_default();
        let had = conditions.iter().find(|c| c.type_ == "DisruptionAllowed" && c.status == state);
        let since = had.map_or(Time(now), |had| had.last_transition_time.clone());
        conditions.retain(|condition| condition.type_ != "DisruptionAllowed");
        conditions.push(Condition {
            type_: "DisruptionAllowed".into(),
            status: state.into(),
            reason: reason.into(),
            message: message.into(),
            observed_generation: budget.metadata.generation,
            last_transition_time: since,
        });
    };
    let (expected, desired) = match wanted {
        Ok(wanted) => wanted,
        Err(message) => {
            // Not known: nothing may go.
            status.disruptions_allowed = Some(0);
            status.observed_generation = known.observed_generation.or(budget.metadata.generation);
            set(&mut status, false, "SyncFailed", &message);
            return (status, None);
        }
    };
    let mut again: Option<Duration> = None;
    let mut disrupted = BTreeMap::new();
    for (name, at) in known.disrupted_pods.into_iter().flatten() {
        let pod = pods.iter().find(|pod| pod.metadata.name.as_ref() == Some(&name));
        let passed = Duration::try_from(now.duration_since(at.0)).unwrap_or_default();
        if pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_none()) && passed < DELETION_TIMEOUT {
            let left = DELETION_TIMEOUT.saturating_sub(passed);
            again = Some(again.map_or(left, |again| again.min(left)));
            disrupted.insert(name, at);
        }
    }
    let healthy = |pod: &&Arc<Pod>| {
        let name = pod.metadata.name.clone().unwrap_or_default();
        pod.metadata.deletion_timestamp.is_none() && !disrupted.contains_key(&name) && ready_since(pod).is_some()
    };
    let current = count(pods.iter().filter(healthy).count());
    status.current_healthy = Some(current);
    status.desired_healthy = Some(desired);
    status.expected_pods = Some(expected);
    let allowed = if expected <= 0 { 0 } else { (current - desired).max(0) };
    status.disruptions_allowed = Some(allowed);
    status.disrupted_pods = (!disrupted.is_empty()).then_some(disrupted);
    let allowed = allowed > 0;
    set(&mut status, allowed, if allowed { "SufficientPods" } else { "InsufficientPods" }, "");
    (status, again)
}

impl Budgets {
    /// What the owners of the pods want together.
    fn scale(&self, namespace: &str, pods: &[Arc<Pod>]) -> Result<i32, String> {
        let mut seen = HashSet::new();
        let mut sum = 0;
        for pod in pods {
            let Some(owner) = controller_of(&pod.metadata) else { continue };
            let key = ObjectKey::new(namespace, owner.name.clone());
            let (uid, replicas) = match owner.kind.as_str() {
                "ReplicaSet" => {
                    let set = self.replica_sets.get(&key).filter(|set| set.metadata.uid.as_ref() == Some(&owner.uid));
                    let Some(set) = set else { continue };
                    let above = controller_of(&set.metadata).filter(|above| above.kind == "Deployment");
                    let above =
                        above.and_then(|above| self.deployments.get(&ObjectKey::new(namespace, above.name.clone())));
                    match above {
                        Some(above) => (above.metadata.uid.clone(), above.spec.as_ref().and_then(|spec| spec.replicas)),
                        None => (set.metadata.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas)),
                    }
                }
                "StatefulSet" => {
                    let Some(set) = self.stateful_sets.get(&key) else { continue };
                    (set.metadata.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas))
                }
                "ReplicationController" => {
                    let Some(set) = self.controllers.get(&key) else { continue };
                    (set.metadata.uid.clone(), set.spec.as_ref().and_then(|spec| spec.replicas))
                }
                kind => return Err(format!("{}/{kind} does not implement the scale subresource", owner.api_version)),
            };
            if seen.insert(uid) {
                sum += replicas.unwrap_or(1);
            }
        }
        Ok(sum)
    }
}

#[async_trait]
impl Controller for Budgets {
    fn name(&self) -> &'static str {
        "disruption"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.budgets.synced().await;
        self.pods.synced().await;
        self.deployments.synced().await;
        self.replica_sets.synced().await;
        self.stateful_sets.synced().await;
        self.controllers.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(budget) = self.budgets.get(key) else { return Ok(None) };
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| guards(&budget, pod) && !matches!(phase(pod), "Succeeded" | "Failed"));
        let wanted = wanted(&budget, &pods, || self.scale(&key.namespace, &pods));
        let (status, again) = status(&budget, &pods, wanted, self.clock.now());
        if budget.status.as_ref() != Some(&status) {
            let changed = PodDisruptionBudget { status: Some(status), ..PodDisruptionBudget::clone(&budget) };
            let api = Api::<PodDisruptionBudget>::namespaced(self.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
            gone_is_fine(written).map_err(Error::api(format!("write the status of budget {key}")))?;
        }
        Ok(again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().expect("a time")
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let pod = json!({ "metadata": { "name": name }, "status": { "conditions": [{ "type": "Ready", "status": status }] } });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn budget(spec: Value, status: Value) -> PodDisruptionBudget {
        let value = json!({ "metadata": { "name": "b", "generation": 1 }, "spec": spec, "status": status });
        serde_json::from_value(value).expect("a budget")
    }

    #[test]
    fn what_may_go() {
        let none = json!({ "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0 });
        let pods = [pod("a", true), pod("b", true), pod("c", false)];
        // expected, desired, healthy, allowed
        for (spec, want) in [
            (json!({ "minAvailable": 1 }), (3, 1, 2, 1)),
            (json!({ "minAvailable": "50%" }), (4, 2, 2, 0)),
            (json!({ "maxUnavailable": 3 }), (4, 1, 2, 1)),
            (json!({ "maxUnavailable": "25%" }), (4, 3, 2, 0)),
        ] {
            let budget = budget(spec.clone(), none.clone());
            let (got, _) = status(&budget, &pods, wanted(&budget, &pods, || Ok(4)), now());
            let got = [got.expected_pods, got.desired_healthy, got.current_healthy, got.disruptions_allowed];
            assert_eq!(got, [want.0, want.1, want.2, want.3].map(Some), "{spec}");
        }
    }

    #[test]
    fn granted_evictions_count_for_a_while() {
        let known = json!({ "currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0, "expectedPods": 0,
            "disruptedPods": { "a": "2026-01-01T00:59:00Z", "b": "2026-01-01T00:50:00Z", "gone": "2026-01-01T00:59:59Z" } });
        let budget = budget(json!({ "minAvailable": 1 }), known);
        let pods = [pod("a", true), pod("b", true)];
        let (got, again) = status(&budget, &pods, Ok((2, 1)), now());
        assert_eq!((got.current_healthy, got.disruptions_allowed), (Some(1), Some(0)));
        assert_eq!(got.disrupted_pods.map(|all| all.into_keys().collect::<Vec<_>>()), Some(vec!["a".to_owned()]));
        assert_eq!(again, Some(Duration::from_secs(60)));
        let (failed, _) = status(&budget, &pods, Err("why".into()), now());
        assert_eq!(
            (failed.disruptions_allowed, failed.conditions.map(|all| all[0].reason.clone())),
            (Some(0), Some("SyncFailed".into()))
        );
    }
}
