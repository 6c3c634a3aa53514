//! StatefulSets: pods with names that last, created and replaced in order.
//!
//! Watches StatefulSets, pods and ControllerRevisions. Writes pods, PersistentVolumeClaims, ControllerRevisions,
//! StatefulSet status, events SuccessfulCreate, SuccessfulDelete, FailedCreate, FailedDelete, RecreatingFailedPod.
//!
//! Invariants:
//! - SS-1: never two pods of one name: a pod is created only when the cache shows none of its name.
//! - SS-2: ordered: a pod is created when all before it are ready, and deleted when all after it are gone.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{EventType, Informer, ObjectKey, WorkQueue, object_reference};
use component_base::SharedClock;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::Api;
use kube::api::PostParams;

use crate::error::{Error, exists_is_fine, gone_is_fine};
use crate::expectations::Expectations;
use crate::manager::{Context, Controller};
use crate::podcontrol::{
    self, Owner, PodControl, count, is_available, next_availability, phase, pod_from_template, ready_since, text,
};
use crate::revisions::{self, REVISION_LABEL};

const HASH_LABEL: &str = "controller.kubernetes.io/hash";
const NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
const INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";

impl Owner for StatefulSet {
    fn pod_selector(&self) -> Option<LabelSelector> {
        self.spec.as_ref().map(|spec| spec.selector.clone())
    }
}

struct StatefulSets {
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    sets: Informer<StatefulSet>,
    revisions: Informer<ControllerRevision>,
    control: PodControl,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let control = PodControl {
        client: cx.client.clone(),
        events: cx.recorder("statefulset-controller"),
        pods: cx.informers.of(),
        expectations: Arc::new(Expectations::new(cx.clock.clone())),
    };
    let this = StatefulSets {
        clock: cx.clock.clone(),
        queue: cx.queue(),
        sets: cx.informers.of(),
        revisions: cx.informers.of(),
        control,
    };
    podcontrol::watch(&this.sets, &this.control.pods, &this.queue, &this.control.expectations);
    Arc::new(this)
}

fn spec(set: &StatefulSet) -> StatefulSetSpec {
    set.spec.clone().unwrap_or_default()
}

fn name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The number at the end of the pod's name, when the rest is the name of the set.
fn ordinal(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, number) = pod.metadata.name.as_deref()?.rsplit_once('-')?;
    (parent == name(set)).then(|| number.parse().ok())?
}

fn revision_of(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION_LABEL)).map(String::as_str).unwrap_or_default()
}

fn is_going(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// The two templates of an update: where the set was, and where it goes.
struct Revisions<'a> {
    current: &'a str,
    update: &'a str,
}

/// The next steps.
#[derive(Debug, Default)]
struct Plan {
    /// Ordinal, and whether it is made from the update revision.
    create: Vec<(i32, bool)>,
    delete: Vec<Arc<Pod>>,
    /// Of those to delete: pods that ended and are to be made again.
    ended: Vec<Arc<Pod>>,
}

fn plan(set: &StatefulSet, pods: &[Arc<Pod>], revisions: &Revisions<'_>, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let spec = spec(set);
    let ordered = spec.pod_management_policy.as_deref() != Some("Parallel");
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    let end = start + spec.replicas.unwrap_or(1);
    let strategy = spec.update_strategy.unwrap_or_default();
    let rolling = strategy.rolling_update.unwrap_or_default();
    let partition = rolling.partition.unwrap_or(0);
    let on_delete = strategy.type_.as_deref() == Some("OnDelete");
    let mut by_ordinal: Vec<(i32, &Arc<Pod>)> = pods.iter().filter_map(|pod| Some((ordinal(set, pod)?, pod))).collect();
    by_ordinal.sort_by_key(|(ordinal, _)| *ordinal);
    let at = |ordinal: i32| by_ordinal.iter().find(|(other, _)| *other == ordinal).map(|(_, pod)| *pod);
    for ordinal in start..end {
        match at(ordinal) {
            None => {
                // Those below the partition stay what they were.
                let old = !on_delete && ordinal < start + partition;
                plan.create.push((ordinal, !old));
            }
            Some(pod) if matches!(phase(pod), "Failed" | "Succeeded") && !is_going(pod) => {
                plan.delete.push(pod.clone());
                plan.ended.push(pod.clone());
            }
            Some(pod) if !is_going(pod) && is_available(pod, min_ready, now) => continue,
            Some(_) => {}
        }
        // Nothing further until this one is there, ready and not going.
        if ordered {
            return plan;
        }
    }
    let condemned: Vec<&Arc<Pod>> =
        by_ordinal.iter().rev().filter(|(ordinal, _)| !(start..end).contains(ordinal)).map(|(_, pod)| *pod).collect();
    for pod in &condemned {
        if !is_going(pod) {
            plan.delete.push((*pod).clone());
        }
        if ordered {
            return plan;
        }
    }
    if on_delete || !plan.delete.is_empty() || !plan.create.is_empty() || revisions.current.is_empty() {
        return plan;
    }
    // From the last to the partition, one after the other.
    for ordinal in (start + partition..end).rev() {
        let Some(pod) = at(ordinal) else { return plan };
        if revision_of(pod) != revisions.update && !is_going(pod) {
            plan.delete.push(pod.clone());
            return plan;
        }
        if is_going(pod) || !is_available(pod, min_ready, now) {
            return plan;
        }
    }
    plan
}

fn status(set: &StatefulSet, pods: &[Arc<Pod>], revisions: &Revisions<'_>, now: Timestamp) -> StatefulSetStatus {
    let spec = spec(set);
    let min_ready = spec.min_ready_seconds.unwrap_or(0);
    let known = set.status.clone().unwrap_or_default();
    let there: Vec<&Arc<Pod>> = pods.iter().filter(|pod| !phase(pod).is_empty()).collect();
    let number = |keep: &dyn Fn(&Pod) -> bool| count(there.iter().filter(|pod| keep(pod)).count());
    let nonzero = |n: i32| (n != 0).then_some(n);
    let ready = |pod: &Pod| phase(pod) == "Running" && ready_since(pod).is_some();
    let current = number(&|pod| !is_going(pod) && revision_of(pod) == revisions.current);
    let updated = number(&|pod| !is_going(pod) && revision_of(pod) == revisions.update);
    let mut status = StatefulSetStatus {
        replicas: count(there.len()),
        ready_replicas: nonzero(number(&ready)),
        available_replicas: Some(number(&|pod| ready(pod) && is_available(pod, min_ready, now))),
        current_replicas: nonzero(current),
        updated_replicas: nonzero(updated),
        current_revision: Some(revisions.current.to_owned()),
        update_revision: Some(revisions.update.to_owned()),
        observed_generation: set.metadata.generation,
        collision_count: Some(known.collision_count.unwrap_or(0)),
        conditions: known.conditions,
    };
    let wanted = spec.replicas.unwrap_or(1);
    let on_delete = spec.update_strategy.and_then(|strategy| strategy.type_).as_deref() == Some("OnDelete");
    let done = updated == status.replicas && status.ready_replicas.unwrap_or(0) == status.replicas && updated == wanted;
    if !on_delete && done {
        status.current_revision = status.update_revision.clone();
        status.current_replicas = status.updated_replicas;
    }
    status
}

/// The claim's name for each template: `<template>-<set>-<ordinal>`.
fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let spec = spec(set);
    let make = |template: PersistentVolumeClaim| {
        let mut claim = template;
        let own = claim.metadata.name.take().unwrap_or_default();
        claim.metadata.name = Some(format!("{own}-{}-{ordinal}", name(set)));
        claim.metadata.namespace = set.metadata.namespace.clone();
        let labels = claim.metadata.labels.get_or_insert_default();
        labels.extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        claim
    };
    spec.volume_claim_templates.clone().unwrap_or_default().into_iter().map(make).collect()
}

fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, ordinal: i32, revision: &str) -> Pod {
    let mut pod = pod_from_template(set, template);
    let spec = spec(set);
    let own = format!("{}-{ordinal}", name(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(own.clone());
    pod.metadata.namespace = set.metadata.namespace.clone();
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(NAME_LABEL.into(), own.clone());
    labels.insert(INDEX_LABEL.into(), ordinal.to_string());
    labels.insert(REVISION_LABEL.into(), revision.into());
    let pod_spec = pod.spec.get_or_insert_default();
    pod_spec.hostname = Some(own);
    pod_spec.subdomain = spec.service_name.clone().filter(|service| !service.is_empty());
    let templates = spec.volume_claim_templates.unwrap_or_default();
    let names: Vec<String> = templates.into_iter().filter_map(|claim| claim.metadata.name).collect();
    let volumes = pod_spec.volumes.get_or_insert_default();
    // A claim's volume takes the place of one of the same name.
    volumes.retain(|volume| !names.contains(&volume.name));
    volumes.extend(names.into_iter().map(|claim| Volume {
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: format!("{claim}-{}-{ordinal}", name(set)),
            read_only: Some(false),
        }),
        name: claim,
        ..Volume::default()
    }));
    pod
}

#[async_trait]
impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.sets.synced().await;
        self.revisions.synced().await;
        self.control.pods.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(set) = self.sets.get(key) else {
            self.control.expectations.forget(key);
            return Ok(None);
        };
        let spec = spec(&set);
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut pods = self.control.claimed(set.as_ref()).await?;
        pods.retain(|pod| ordinal(&set, pod).is_some());
        let known = revisions::owned(&self.revisions, &set.metadata);
        let client = &self.control.client;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count);
        let update = revisions::ensure(client, &known, set.as_ref(), &spec.template, collisions, HASH_LABEL).await?;
        let update_name = update.metadata.name.clone().unwrap_or_default();
        let current = set.status.as_ref().and_then(|status| status.current_revision.clone());
        let current = known.iter().find(|revision| revision.metadata.name == current).unwrap_or(&update).clone();
        let current_name = current.metadata.name.clone().unwrap_or_default();
        let names = Revisions { current: &current_name, update: &update_name };
        let now = self.clock.now();
        let mut failure = None;
        if self.control.expectations.met(key) {
            let plan = plan(&set, &pods, &names, now);
            failure = self.apply(&set, plan, (&current, &update)).await.err();
        }
        let status = status(&set, &pods, &names, now);
        let mut live: HashSet<String> = pods.iter().map(|pod| revision_of(pod).to_owned()).collect();
        live.extend([current_name.clone(), update_name.clone()]);
        revisions::clean_up(client, &known, &live, spec.revision_history_limit.unwrap_or(10)).await?;
        if set.status.as_ref() != Some(&status) {
            let changed = StatefulSet { status: Some(status), ..StatefulSet::clone(&set) };
            let api = Api::<StatefulSet>::namespaced(client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &changed).await;
            gone_is_fine(written).map_err(Error::api(format!("write the status of stateful set {key}")))?;
        }
        failure.map_or(Ok(next_availability(&pods, spec.min_ready_seconds.unwrap_or(0), now)), Err)
    }
}

impl StatefulSets {
    async fn apply(
        &self,
        set: &StatefulSet,
        plan: Plan,
        (current, update): (&ControllerRevision, &ControllerRevision),
    ) -> Result<(), Error> {
        let key = ObjectKey::of(set);
        let about = object_reference(set);
        for pod in &plan.ended {
            let message = format!(
                "StatefulSet {key} is recreating failed Pod {}",
                pod.metadata.name.as_deref().unwrap_or_default()
            );
            self.control.events.event(&about, EventType::Warning, "RecreatingFailedPod", &message);
        }
        for (ordinal, updated) in plan.create {
            let revision = if updated { update } else { current };
            let Some(template) = revisions::template_of(revision) else { continue };
            let pod = new_pod(set, &template, ordinal, revision.metadata.name.as_deref().unwrap_or_default());
            self.create(set, &key, ordinal, &pod).await?;
        }
        if !plan.delete.is_empty() {
            self.control.delete(set, &plan.delete).await.map_err(|failure| failure.error)?;
        }
        Ok(())
    }

    /// The claims first, then the pod that needs them.
    async fn create(&self, set: &StatefulSet, key: &ObjectKey, ordinal: i32, pod: &Pod) -> Result<(), Error> {
        let about = object_reference(set);
        let own = pod.metadata.name.as_deref().unwrap_or_default();
        let params = PostParams::default();
        let client = &self.control.client;
        let api = Api::<PersistentVolumeClaim>::namespaced(client.clone(), &key.namespace);
        for claim in claims(set, ordinal) {
            let claim_name = claim.metadata.name.clone().unwrap_or_default();
            let what = format!("Claim {claim_name} Pod {own} in StatefulSet {}", key.name);
            match exists_is_fine(api.create(&params, &claim).await) {
                Ok(None) => {}
                Ok(Some(_)) => {
                    let message = format!("create {what} success");
                    self.control.events.event(&about, EventType::Normal, "SuccessfulCreate", &message);
                }
                Err(error) => {
                    let message = format!("create {what} failed error: {}", text(&error));
                    self.control.events.event(&about, EventType::Warning, "FailedCreate", &message);
                    return Err(Error::api(format!("create claim {}/{claim_name}", key.namespace))(error));
                }
            }
        }
        self.control.expectations.expect_creations(key, 1);
        let api = Api::<Pod>::namespaced(client.clone(), &key.namespace);
        let what = format!("create Pod {own} in StatefulSet {}", key.name);
        match exists_is_fine(api.create(&params, pod).await) {
            Ok(Some(_)) => {
                let message = format!("{what} successful");
                self.control.events.event(&about, EventType::Normal, "SuccessfulCreate", &message);
                Ok(())
            }
            Ok(None) => {
                self.control.expectations.created(key);
                Err(Error::Invalid { object: format!("pod {}/{own}", key.namespace), message: "name is taken".into() })
            }
            Err(error) => {
                self.control.expectations.created(key);
                let message = format!("{what} failed error: {}", text(&error));
                self.control.events.event(&about, EventType::Warning, "FailedCreate", &message);
                Err(Error::api(format!("create pod {}/{own}", key.namespace))(error))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().expect("a time")
    }

    fn set(extra: Value) -> StatefulSet {
        let mut spec = json!({ "replicas": 3, "serviceName": "s", "selector": { "matchLabels": { "a": "b" } }, "template": {},
            "volumeClaimTemplates": [{ "metadata": { "name": "data" }, "spec": {} }] });
        for (key, value) in extra.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        let status = json!({ "replicas": 3, "currentReplicas": 3 });
        serde_json::from_value(json!({ "metadata": { "name": "w", "namespace": "n" }, "spec": spec, "status": status }))
            .expect("a set")
    }

    fn pod(ordinal: i32, revision: &str, state: &str) -> Arc<Pod> {
        let ready = if state == "ready" { "True" } else { "False" };
        let phase = if state == "failed" { "Failed" } else { "Running" };
        let mut pod = json!({
            "metadata": { "name": format!("w-{ordinal}"), "labels": { REVISION_LABEL: revision } },
            "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] },
        });
        if state == "going" {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    #[test]
    fn steps() {
        let all =
            |revision: &str| vec![pod(0, revision, "ready"), pod(1, revision, "ready"), pod(2, revision, "ready")];
        let parallel = json!({ "podManagementPolicy": "Parallel" });
        for (what, extra, pods, create, delete) in [
            ("first", json!({}), vec![], vec![0], vec![]),
            ("waits", json!({}), vec![pod(0, "u", "unready")], vec![], vec![]),
            ("next", json!({}), vec![pod(0, "u", "ready")], vec![1], vec![]),
            ("parallel", parallel.clone(), vec![pod(1, "u", "unready")], vec![0, 2], vec![]),
            ("failed", json!({}), vec![pod(0, "u", "failed")], vec![], vec!["w-0"]),
            ("still", json!({}), all("u"), vec![], vec![]),
            ("down", json!({ "replicas": 1 }), all("u"), vec![], vec!["w-2"]),
            (
                "down in parallel",
                json!({ "replicas": 1, "podManagementPolicy": "Parallel" }),
                all("u"),
                vec![],
                vec!["w-2", "w-1"],
            ),
            ("update", json!({}), all("c"), vec![], vec!["w-2"]),
            (
                "update goes on",
                json!({}),
                vec![pod(0, "c", "ready"), pod(1, "c", "ready"), pod(2, "u", "ready")],
                vec![],
                vec!["w-1"],
            ),
            (
                "partition",
                json!({ "updateStrategy": { "rollingUpdate": { "partition": 3 } } }),
                all("c"),
                vec![],
                vec![],
            ),
            ("on delete", json!({ "updateStrategy": { "type": "OnDelete" } }), all("c"), vec![], vec![]),
            (
                "going",
                json!({}),
                vec![pod(0, "c", "ready"), pod(1, "c", "ready"), pod(2, "c", "going")],
                vec![],
                vec![],
            ),
        ] {
            let plan = plan(&set(extra), &pods, &Revisions { current: "c", update: "u" }, now());
            let created: Vec<i32> = plan.create.iter().map(|(ordinal, _)| *ordinal).collect();
            let deleted: Vec<&str> = plan.delete.iter().filter_map(|pod| pod.metadata.name.as_deref()).collect();
            assert_eq!((created, deleted), (create, delete), "{what}");
        }
    }

    #[test]
    fn identity() {
        let set = set(json!({}));
        let pod = new_pod(&set, &PodTemplateSpec::default(), 2, "w-abc");
        assert_eq!(ordinal(&set, &pod), Some(2));
        assert_eq!(
            pod.metadata.labels.as_ref().and_then(|labels| labels.get(INDEX_LABEL)).map(String::as_str),
            Some("2")
        );
        let spec = pod.spec.expect("a spec");
        assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("w-2"), Some("s")));
        let claim = spec.volumes.and_then(|all| all.into_iter().next()?.persistent_volume_claim).expect("a claim");
        assert_eq!(claim.claim_name, "data-w-2");
        assert_eq!(claims(&set, 2)[0].metadata.name.as_deref(), Some("data-w-2"));
    }

    #[test]
    fn the_update_revision_becomes_the_current_one() {
        let pods = [pod(0, "u", "ready"), pod(1, "u", "ready"), pod(2, "u", "ready")];
        let done = status(&set(json!({})), &pods, &Revisions { current: "c", update: "u" }, now());
        assert_eq!((done.current_revision.as_deref(), done.current_replicas), (Some("u"), Some(3)));
        let half = [pod(0, "c", "ready"), pod(1, "c", "ready"), pod(2, "u", "ready")];
        let half = status(&set(json!({})), &half, &Revisions { current: "c", update: "u" }, now());
        assert_eq!(
            (half.current_revision.as_deref(), half.current_replicas, half.updated_replicas),
            (Some("c"), Some(2), Some(1))
        );
    }
}
