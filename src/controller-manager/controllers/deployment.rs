//! Deployments: a ReplicaSet per template, and an orderly way from one to the next.
//!
//! Watches Deployments, ReplicaSets and pods (for Recreate). Writes ReplicaSets, Deployment status and the revision
//! annotation, events ScalingReplicaSet.
//!
//! Invariants:
//! - DP-1: one ReplicaSet per template: the same template always leads back to the same ReplicaSet.
//! - DP-2: the bounds of the rollout (see `rollout`) hold at every step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, Client, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use component_base::SharedClock;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::controllers::replicaset::{index_by_owner, owned_pods, phase};
use crate::controllers::rollout::{self, DESIRED_REPLICAS, MAX_REPLICAS};
use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};
use crate::owners::{Claim, claim, controller_of, controller_reference, selects};

const HASH_LABEL: &str = "pod-template-hash";
const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// Not copied from the Deployment to its ReplicaSets.
const OWN_ANNOTATIONS: &[&str] = &[
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

struct Deployments {
    client: Client,
    clock: SharedClock,
    events: EventRecorder,
    queue: WorkQueue<ObjectKey>,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = Deployments {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        events: cx.recorder("deployment-controller"),
        queue: cx.queue(),
        deployments: cx.informers.of(),
        sets: cx.informers.of(),
        pods: cx.informers.of(),
    };
    index_by_owner(&this.pods);
    let queue = this.queue.clone();
    this.deployments.on_change(move |change| queue.add(ObjectKey::of(change.object().as_ref())));
    let (queue, deployments) = (this.queue.clone(), this.deployments.clone());
    this.sets.on_change(move |change| {
        let set = change.object();
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        if let Change::Updated { old, .. } = change {
            enqueue_owner(&old.metadata, &queue);
        }
        if enqueue_owner(&set.metadata, &queue) {
            return;
        }
        for deployment in deployments.list_in(namespace) {
            let selector = deployment.spec.as_ref().map(|spec| &spec.selector);
            if selector.is_some_and(|selector| selects(selector, set.metadata.labels.as_ref())) {
                queue.add(ObjectKey::of(deployment.as_ref()));
            }
        }
    });
    let (queue, sets) = (this.queue.clone(), this.sets.clone());
    this.pods.on_change(move |change| {
        // Recreate waits until the last old pod is gone.
        if let Change::Deleted(pod) = change {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            let owner = controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet");
            if let Some(set) = owner.and_then(|owner| sets.get(&ObjectKey::new(namespace, owner.name.clone()))) {
                enqueue_owner(&set.metadata, &queue);
            }
        }
    });
    Arc::new(this)
}

fn enqueue_owner(meta: &ObjectMeta, queue: &WorkQueue<ObjectKey>) -> bool {
    match controller_of(meta) {
        Some(owner) if owner.kind == "Deployment" => {
            queue.add(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()));
            true
        }
        Some(_) => true,
        None => false,
    }
}

#[async_trait]
impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.deployments.synced().await;
        self.sets.synced().await;
        self.pods.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(None) };
        let Some(spec) = deployment.spec.clone() else { return Ok(None) };
        if spec.selector.match_labels.is_none() && spec.selector.match_expressions.is_none() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.event(&object_reference(deployment.as_ref()), EventType::Warning, "SelectingAll", message);
            return Ok(None);
        }
        let sets = self.claimed(&deployment).await?;
        let mut run = Run { cx: self, deployment: Deployment::clone(&deployment), sets, key };
        if deployment.metadata.deletion_timestamp.is_some() {
            return run.write_status(None).await;
        }
        if spec.paused == Some(true) {
            run.pause_condition().await?;
            run.scale().await?;
            return run.finish().await;
        }
        run.pause_condition().await?;
        if run.is_scaling() {
            run.scale().await?;
            return run.finish().await;
        }
        if rollout::is_rolling(&deployment) {
            run.roll().await?
        } else {
            run.recreate().await?
        }
        run.finish().await
    }
}

impl Deployments {
    fn api(&self, key: &ObjectKey) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// The ReplicaSets of the deployment, after adopting and releasing.
    async fn claimed(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, Error> {
        let Some(spec) = &deployment.spec else { return Ok(Vec::new()) };
        let key = ObjectKey::of(deployment);
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let api = self.api(&key);
        let mut mine = Vec::new();
        for set in self.sets.list_in(&key.namespace) {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let owners = match claim(&set.metadata, &deployment.metadata, &spec.selector) {
                Claim::Mine => {
                    mine.push(set);
                    continue;
                }
                Claim::NotMine => continue,
                Claim::Adopt => json!([controller_reference(deployment)]),
                Claim::Release => json!([{ "$patch": "delete", "uid": uid }]),
            };
            let adopting = controller_of(&set.metadata).is_none();
            let patch = Patch::Strategic(json!({ "metadata": { "uid": set.metadata.uid, "ownerReferences": owners } }));
            let patched = gone_is_fine(api.patch(name, &PatchParams::default(), &patch).await);
            let patched = patched.map_err(Error::api(format!("claim replica set {}/{name}", key.namespace)))?;
            if let (Some(set), true) = (patched, adopting) {
                mine.push(Arc::new(set));
            }
        }
        Ok(mine)
    }
}

/// One look at one deployment.
struct Run<'a> {
    cx: &'a Deployments,
    deployment: Deployment,
    sets: Vec<Arc<ReplicaSet>>,
    key: &'a ObjectKey,
}

impl Run<'_> {
    fn template(&self) -> PodTemplateSpec {
        self.deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default()
    }

    /// The oldest set with the current template, as upstream picks it.
    fn new_set(&self) -> Option<Arc<ReplicaSet>> {
        let template = self.template();
        let mut sets: Vec<&Arc<ReplicaSet>> = self.sets.iter().collect();
        sets.sort_by_key(|set| {
            (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.clone())
        });
        sets.into_iter().find(|set| same_template(set, &template)).cloned()
    }

    fn old_sets(&self, new: Option<&ReplicaSet>) -> Vec<Arc<ReplicaSet>> {
        let uid = new.and_then(|set| set.metadata.uid.clone());
        self.sets.iter().filter(|set| new.is_none() || set.metadata.uid != uid).cloned().collect()
    }

    fn replace(&mut self, set: ReplicaSet) {
        let set = Arc::new(set);
        match self.sets.iter_mut().find(|known| known.metadata.uid == set.metadata.uid) {
            Some(known) => *known = set,
            None => self.sets.push(set),
        }
    }

    async fn roll(&mut self) -> Result<(), Error> {
        let new = self.ensure_new_set().await?;
        let old = self.old_sets(Some(&new));
        let size = if rollout::set_replicas(&new) > rollout::replicas(&self.deployment) {
            rollout::replicas(&self.deployment)
        } else {
            rollout::new_size(&self.deployment, &self.sets, &new)
        };
        if self.scale_set(&new, size).await? {
            return Ok(());
        }
        let active: Vec<Arc<ReplicaSet>> = old.iter().filter(|set| rollout::set_replicas(set) > 0).cloned().collect();
        for (name, size) in rollout::old_sizes(&self.deployment, &self.sets, &active, &new) {
            if let Some(set) = active.iter().find(|set| set.metadata.name.as_deref() == Some(name.as_str())) {
                self.scale_set(set, size).await?;
            }
        }
        self.clean_up(&new).await
    }

    async fn recreate(&mut self) -> Result<(), Error> {
        let new = self.new_set();
        let old = self.old_sets(new.as_deref());
        let mut scaled = false;
        for set in old.iter().filter(|set| rollout::set_replicas(set) > 0) {
            scaled |= self.scale_set(set, 0).await?;
        }
        if scaled || old.iter().any(|set| self.has_running_pods(set)) {
            return Ok(());
        }
        let new = self.ensure_new_set().await?;
        self.scale_set(&new, rollout::replicas(&self.deployment)).await?;
        self.clean_up(&new).await
    }

    fn has_running_pods(&self, set: &ReplicaSet) -> bool {
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        owned_pods(&self.cx.pods, uid).iter().any(|pod| !matches!(phase(pod), "Succeeded" | "Failed"))
    }

    fn is_scaling(&self) -> bool {
        self.sets.iter().filter(|set| rollout::set_replicas(set) > 0).any(|set| {
            let annotated = set.metadata.annotations.as_ref().and_then(|all| all.get(DESIRED_REPLICAS));
            annotated
                .and_then(|text| text.parse::<i32>().ok())
                .is_some_and(|n| n != rollout::replicas(&self.deployment))
        })
    }

    /// A changed number of replicas, without moving the rollout on.
    async fn scale(&mut self) -> Result<(), Error> {
        let wanted = rollout::replicas(&self.deployment);
        let active: Vec<Arc<ReplicaSet>> =
            self.sets.iter().filter(|set| rollout::set_replicas(set) > 0).cloned().collect();
        let new = self.new_set();
        let latest = match (active.as_slice(), &new) {
            ([], new) => new.clone(),
            ([only], _) => Some(only.clone()),
            _ => None,
        };
        if let Some(set) = latest {
            self.scale_set(&set, wanted).await?;
            return Ok(());
        }
        if let Some(new) = new.filter(|set| rollout::set_replicas(set) == wanted && rollout::available(set) == wanted) {
            for set in self.old_sets(Some(&new)) {
                self.scale_set(&set, 0).await?;
            }
            return Ok(());
        }
        if rollout::is_rolling(&self.deployment) {
            for (name, size) in rollout::proportional(&self.deployment, &active) {
                if let Some(set) = active.iter().find(|set| set.metadata.name.as_deref() == Some(name.as_str())) {
                    self.scale_set(set, size).await?;
                }
            }
        }
        Ok(())
    }

    /// Sets the size and the annotations that remember it; `true` when the size changed.
    async fn scale_set(&mut self, set: &ReplicaSet, size: i32) -> Result<bool, Error> {
        let before = rollout::set_replicas(set);
        let (surge, _) = rollout::fenceposts(&self.deployment);
        let wanted = rollout::replicas(&self.deployment);
        let marks = [(DESIRED_REPLICAS, wanted.to_string()), (MAX_REPLICAS, (wanted + surge).to_string())];
        let annotations = set.metadata.annotations.clone().unwrap_or_default();
        let marked = marks.iter().all(|(key, value)| annotations.get(*key) == Some(value));
        if before == size && marked {
            return Ok(false);
        }
        let mut changed = set.clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.extend(marks.map(|(key, value)| (key.to_owned(), value)));
        if let Some(spec) = &mut changed.spec {
            spec.replicas = Some(size);
        }
        let name = set.metadata.name.clone().unwrap_or_default();
        let written = self.cx.api(self.key).replace(&name, &PostParams::default(), &changed).await;
        self.replace(written.map_err(Error::api(format!("scale replica set {}/{name}", self.key.namespace)))?);
        if before != size {
            let verb = if size > before { "up" } else { "down" };
            let message = format!("Scaled {verb} replica set {name} from {before} to {size}");
            self.event(EventType::Normal, "ScalingReplicaSet", &message);
        }
        Ok(before != size)
    }

    fn event(&self, kind: EventType, reason: &str, message: &str) {
        self.cx.events.event(&object_reference(&self.deployment), kind, reason, message);
    }

    /// The ReplicaSet of the current template, with the revision after all others.
    async fn ensure_new_set(&mut self) -> Result<ReplicaSet, Error> {
        let new = self.new_set();
        let newest = self.old_sets(new.as_deref()).iter().map(|set| revision(&set.metadata)).max().unwrap_or(0);
        let next = (newest + 1).to_string();
        if let Some(set) = new {
            let mut changed = ReplicaSet::clone(&set);
            let differs = self.copy_annotations(&mut changed.metadata, newest + 1);
            if let Some(spec) = &mut changed.spec {
                spec.min_ready_seconds = self.deployment.spec.as_ref().and_then(|spec| spec.min_ready_seconds);
            }
            if differs || changed.spec != set.spec {
                let name = set.metadata.name.clone().unwrap_or_default();
                let written = self.cx.api(self.key).replace(&name, &PostParams::default(), &changed).await;
                let written =
                    written.map_err(Error::api(format!("update replica set {}/{name}", self.key.namespace)))?;
                self.replace(written.clone());
                changed = written;
            }
            let current = changed.metadata.annotations.as_ref().and_then(|all| all.get(REVISION)).cloned();
            self.set_revision(current.unwrap_or(next)).await?;
            return Ok(changed);
        }
        let mut template = self.template();
        let collisions = self.deployment.status.as_ref().and_then(|status| status.collision_count);
        let hash = template_hash(&template, collisions);
        let meta = template.metadata.get_or_insert_default();
        meta.labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let labels = meta.labels.clone();
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let mut selector = spec.selector;
        selector.match_labels.get_or_insert_default().insert(HASH_LABEL.into(), hash.clone());
        let mut set = ReplicaSet {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", self.key.name)),
                namespace: Some(self.key.namespace.clone()),
                labels,
                owner_references: Some(vec![controller_reference(&self.deployment)]),
                ..ObjectMeta::default()
            },
            spec: Some(ReplicaSetSpec {
                replicas: Some(0),
                min_ready_seconds: spec.min_ready_seconds,
                selector,
                template: Some(template),
            }),
            status: None,
        };
        let size = if rollout::is_rolling(&self.deployment) {
            rollout::new_size(&self.deployment, &self.sets, &set)
        } else {
            rollout::replicas(&self.deployment)
        };
        if let Some(spec) = &mut set.spec {
            spec.replicas = Some(size);
        }
        self.copy_annotations(&mut set.metadata, newest + 1);
        let (surge, _) = rollout::fenceposts(&self.deployment);
        let wanted = rollout::replicas(&self.deployment);
        let annotations = set.metadata.annotations.get_or_insert_default();
        annotations.insert(DESIRED_REPLICAS.into(), wanted.to_string());
        annotations.insert(MAX_REPLICAS.into(), (wanted + surge).to_string());
        let name = set.metadata.name.clone().unwrap_or_default();
        let created = match self.cx.api(self.key).create(&PostParams::default(), &set).await {
            Ok(created) => created,
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                return Err(self.collided(&name, collisions).await);
            }
            Err(error) => {
                let message = format!("Failed to create new replica set {name:?}: {error}");
                self.condition("Progressing", "False", "ReplicaSetCreateError", &message).await?;
                self.event(EventType::Warning, "ReplicaSetCreateError", &message);
                return Err(Error::api(format!("create replica set {}/{name}", self.key.namespace))(error));
            }
        };
        if size > 0 {
            self.event(
                EventType::Normal,
                "ScalingReplicaSet",
                &format!("Scaled up replica set {name} from 0 to {size}"),
            );
        }
        self.replace(created.clone());
        self.set_revision(next).await?;
        self.condition("Progressing", "True", "NewReplicaSetCreated", &format!("Created new replica set {name:?}"))
            .await?;
        Ok(created)
    }

    /// The name is taken: by ourselves a moment ago (the cache will tell), or by another template with the same hash.
    async fn collided(&mut self, name: &str, collisions: Option<i32>) -> Error {
        let live = self.cx.api(self.key).get(name).await;
        let theirs = live.as_ref().is_ok_and(|set| {
            !same_template(set, &self.template())
                || controller_of(&set.metadata).map(|owner| &owner.uid) != self.deployment.metadata.uid.as_ref()
        });
        if theirs {
            let mut status = self.deployment.status.clone().unwrap_or_default();
            status.collision_count = Some(collisions.unwrap_or(0) + 1);
            if let Err(error) = self.put_status(status).await {
                return error;
            }
        }
        Error::Invalid {
            object: format!("replica set {}/{name}", self.key.namespace),
            message: "exists already, looking again".into(),
        }
    }

    /// Copies the deployment's annotations and the revision; `true` when something differs.
    fn copy_annotations(&self, meta: &mut ObjectMeta, next: i64) -> bool {
        let before = meta.annotations.clone().unwrap_or_default();
        let mut after: BTreeMap<String, String> = before.clone();
        let own = self.deployment.metadata.annotations.iter().flatten();
        after.extend(
            own.filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())),
        );
        let old = revision(meta);
        if old < next {
            after.insert(REVISION.into(), next.to_string());
            if old > 0 {
                let history = before.get(REVISION_HISTORY).map(|text| format!("{text},")).unwrap_or_default();
                after.insert(REVISION_HISTORY.into(), format!("{history}{old}"));
            }
        }
        let differs = after != before;
        meta.annotations = Some(after);
        differs
    }

    async fn set_revision(&mut self, wanted: String) -> Result<(), Error> {
        let annotations = self.deployment.metadata.annotations.clone().unwrap_or_default();
        if annotations.get(REVISION) == Some(&wanted) {
            return Ok(());
        }
        let api = Api::<Deployment>::namespaced(self.cx.client.clone(), &self.key.namespace);
        let mut changed = self.deployment.clone();
        changed.metadata.annotations.get_or_insert_default().insert(REVISION.into(), wanted);
        let written = api.replace(&self.key.name, &PostParams::default(), &changed).await;
        self.deployment = written.map_err(Error::api(format!("write the revision of deployment {}", self.key)))?;
        Ok(())
    }

    /// Removes old, empty ReplicaSets beyond the history limit, once the rollout is complete.
    async fn clean_up(&mut self, new: &ReplicaSet) -> Result<(), Error> {
        if !is_complete(&self.deployment, &self.status(None)) {
            return Ok(());
        }
        let limit = self.deployment.spec.as_ref().and_then(|spec| spec.revision_history_limit).unwrap_or(10);
        let mut old = self.old_sets(Some(new));
        old.retain(|set| set.metadata.deletion_timestamp.is_none());
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        old.sort_by_key(|set| revision(&set.metadata));
        for set in old.into_iter().take(surplus) {
            let idle = rollout::set_replicas(&set) == 0
                && set.status.as_ref().is_none_or(|status| status.replicas == 0)
                && set.metadata.generation <= set.status.as_ref().and_then(|status| status.observed_generation);
            if idle {
                let name = set.metadata.name.clone().unwrap_or_default();
                let deleted = self.cx.api(self.key).delete(&name, &DeleteParams::background()).await;
                gone_is_fine(deleted.map(|_| ()))
                    .map_err(Error::api(format!("delete old replica set {}/{name}", self.key.namespace)))?;
                self.sets.retain(|known| known.metadata.uid != set.metadata.uid);
            }
        }
        Ok(())
    }

    async fn pause_condition(&mut self) -> Result<(), Error> {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        if spec.progress_deadline_seconds.is_none() {
            return Ok(());
        }
        let reason = self.find_condition("Progressing").and_then(|condition| condition.reason.clone());
        if reason.as_deref() == Some("ProgressDeadlineExceeded") {
            return Ok(());
        }
        match (spec.paused == Some(true), reason.as_deref() == Some("DeploymentPaused")) {
            (true, false) => self.condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused").await,
            (false, true) => {
                self.condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed").await
            }
            _ => Ok(()),
        }
    }

    fn find_condition(&self, kind: &str) -> Option<&DeploymentCondition> {
        let conditions = self.deployment.status.as_ref()?.conditions.as_ref()?;
        conditions.iter().find(|condition| condition.type_ == kind)
    }

    async fn condition(&mut self, kind: &str, value: &str, reason: &str, message: &str) -> Result<(), Error> {
        let mut status = self.deployment.status.clone().unwrap_or_default();
        set_condition(&mut status, kind, value, reason, message, self.cx.clock.now());
        self.put_status(status).await
    }

    async fn put_status(&mut self, status: DeploymentStatus) -> Result<(), Error> {
        if self.deployment.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let api = Api::<Deployment>::namespaced(self.cx.client.clone(), &self.key.namespace);
        // A patch, not a replacement: the spec that was meant may have moved on meanwhile, and that is no conflict.
        let patch = Patch::Merge(json!({
            "metadata": { "uid": self.deployment.metadata.uid },
            "status": serde_json::to_value(&status).unwrap_or_default(),
        }));
        let written = gone_is_fine(api.patch_status(&self.key.name, &PatchParams::default(), &patch).await);
        if let Some(written) = written.map_err(Error::api(format!("write the status of deployment {}", self.key)))? {
            self.deployment = written;
        }
        Ok(())
    }

    /// Status, progress and what comes next.
    async fn finish(&mut self) -> Result<Option<Duration>, Error> {
        let new = self.new_set();
        self.write_status(new).await
    }

    async fn write_status(&mut self, new: Option<Arc<ReplicaSet>>) -> Result<Option<Duration>, Error> {
        let now = self.cx.clock.now();
        let mut status = self.status(new.as_deref());
        let before = self.deployment.status.clone().unwrap_or_default();
        let (_, max_unavailable) = rollout::fenceposts(&self.deployment);
        if status.available_replicas.unwrap_or(0) >= rollout::replicas(&self.deployment) - max_unavailable {
            set_condition(
                &mut status,
                "Available",
                "True",
                "MinimumReplicasAvailable",
                "Deployment has minimum availability.",
                now,
            );
        } else {
            let message = "Deployment does not have minimum availability.";
            set_condition(&mut status, "Available", "False", "MinimumReplicasUnavailable", message, now);
        }
        self.replica_failure(&mut status, new.as_deref(), now);
        let check_at = self.progress(&mut status, &before, new.as_deref(), now);
        self.put_status(status).await?;
        Ok(check_at)
    }

    fn status(&self, new: Option<&ReplicaSet>) -> DeploymentStatus {
        let new = new.cloned().or_else(|| self.new_set().map(|set| ReplicaSet::clone(&set)));
        let total = rollout::total(&self.sets);
        let available = rollout::total_available(&self.sets);
        let ready: i32 = self.sets.iter().filter_map(|set| set.status.as_ref()?.ready_replicas).sum();
        let terminating: i32 = self.sets.iter().filter_map(|set| set.status.as_ref()?.terminating_replicas).sum();
        let updated = new.and_then(|set| set.status).map_or(0, |status| status.replicas);
        let nonzero = |n: i32| (n != 0).then_some(n);
        let before = self.deployment.status.clone().unwrap_or_default();
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: nonzero(rollout::actual(&self.sets)),
            updated_replicas: nonzero(updated),
            ready_replicas: nonzero(ready),
            available_replicas: nonzero(available),
            unavailable_replicas: nonzero((total - available).max(0)),
            terminating_replicas: Some(terminating),
            collision_count: before.collision_count,
            conditions: before.conditions,
        }
    }

    fn replica_failure(&self, status: &mut DeploymentStatus, new: Option<&ReplicaSet>, now: Timestamp) {
        let failing = |set: &ReplicaSet| {
            let conditions = set.status.as_ref()?.conditions.as_ref()?;
            conditions.iter().find(|condition| condition.type_ == "ReplicaFailure").cloned()
        };
        let failure = new.and_then(failing).or_else(|| self.sets.iter().find_map(|set| failing(set)));
        match failure {
            Some(condition) => {
                let (reason, message) = (condition.reason.unwrap_or_default(), condition.message.unwrap_or_default());
                set_condition(status, "ReplicaFailure", &condition.status, &reason, &message, now);
            }
            None => {
                if let Some(conditions) = &mut status.conditions {
                    conditions.retain(|condition| condition.type_ != "ReplicaFailure");
                }
            }
        }
    }

    /// Keeps the condition `Progressing`; when to look again if nothing happens.
    fn progress(
        &self,
        status: &mut DeploymentStatus,
        before: &DeploymentStatus,
        new: Option<&ReplicaSet>,
        now: Timestamp,
    ) -> Option<Duration> {
        let spec = self.deployment.spec.clone().unwrap_or_default();
        let deadline = i64::from(spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?);
        let current = status.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing").cloned();
        let done_before = current.as_ref().is_some_and(|c| c.reason.as_deref() == Some("NewReplicaSetAvailable"));
        let name = new.and_then(|set| set.metadata.name.clone());
        let what =
            name.map_or_else(|| format!("Deployment {:?}", self.key.name), |name| format!("ReplicaSet {name:?}"));
        let settled = status.replicas == status.updated_replicas && done_before;
        if settled && is_complete(&self.deployment, status) {
            return None;
        }
        if is_complete(&self.deployment, status) {
            let message = format!("{what} has successfully progressed.");
            set_condition(status, "Progressing", "True", "NewReplicaSetAvailable", &message, now);
            return None;
        }
        let unavailable_now = rollout::total(&self.sets) - status.available_replicas.unwrap_or(0);
        let n = |value: Option<i32>| value.unwrap_or(0);
        let unavailable_before = n(before.unavailable_replicas);
        let progressing = n(status.updated_replicas) > n(before.updated_replicas)
            || (n(before.replicas) - n(before.updated_replicas)) > (n(status.replicas) - n(status.updated_replicas))
            || n(status.ready_replicas) > n(before.ready_replicas)
            || n(status.available_replicas) > n(before.available_replicas)
            || unavailable_now < unavailable_before;
        let paused = spec.paused == Some(true);
        if progressing || current.is_none() {
            let message = format!("{what} is progressing.");
            if let Some(conditions) = &mut status.conditions {
                if progressing && current.as_ref().is_some_and(|c| c.status == "True") {
                    // Every step of progress restarts the deadline, although the condition stays true.
                    for condition in conditions.iter_mut().filter(|c| c.type_ == "Progressing") {
                        condition.last_update_time = Some(Time(seconds(now)));
                        condition.reason = Some("ReplicaSetUpdated".into());
                        condition.message = Some(message.clone());
                    }
                }
            }
            set_condition(status, "Progressing", "True", "ReplicaSetUpdated", &message, now);
        } else if let Some(condition) = &current {
            let since = condition.last_update_time.as_ref().map_or(now, |time| time.0);
            let over = now.as_second() - since.as_second() >= deadline;
            let waiting = !paused && !done_before && condition.reason.as_deref() != Some("ProgressDeadlineExceeded");
            if over && waiting {
                let message = format!("{what} has timed out progressing.");
                set_condition(status, "Progressing", "False", "ProgressDeadlineExceeded", &message, now);
                return None;
            }
        }
        let condition = status.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing")?;
        if paused || condition.reason.as_deref() == Some("ProgressDeadlineExceeded") {
            return None;
        }
        let since = condition.last_update_time.as_ref().map_or(now, |time| time.0);
        let left = deadline - (now.as_second() - since.as_second()) + 1;
        Some(Duration::from_secs(u64::try_from(left.max(1)).unwrap_or(1)))
    }
}

fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = rollout::replicas(deployment);
    let n = |value: Option<i32>| value.unwrap_or(0);
    n(status.updated_replicas) == wanted
        && n(status.replicas) == wanted
        && n(status.available_replicas) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

fn revision(meta: &ObjectMeta) -> i64 {
    let text = meta.annotations.as_ref().and_then(|all| all.get(REVISION));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Equal but for the hash label that we add ourselves.
fn same_template(set: &ReplicaSet, wanted: &PodTemplateSpec) -> bool {
    let strip = |template: &PodTemplateSpec| {
        let mut template = template.clone();
        let meta = template.metadata.get_or_insert_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH_LABEL);
        }
        meta.labels = meta.labels.take().filter(|labels| !labels.is_empty());
        template
    };
    let template = set.spec.as_ref().and_then(|spec| spec.template.as_ref());
    template.is_some_and(|template| strip(template) == strip(wanted))
}

/// Short, stable over restarts and versions, and safe in a name: FNV-1a of the template's canonical JSON, in an
/// alphabet without vowels.
fn template_hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let mut text = serde_json::to_value(template).map(|value| value.to_string()).unwrap_or_default();
    if let Some(collisions) = collisions {
        text += &collisions.to_string();
    }
    let hash = text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()])).collect()
}

fn seconds(now: Timestamp) -> Timestamp {
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Changes a condition only if its status or reason differ, as upstream does; the transition time follows the status.
fn set_condition(status: &mut DeploymentStatus, kind: &str, value: &str, reason: &str, message: &str, now: Timestamp) {
    let now = Time(seconds(now));
    let conditions = status.conditions.get_or_insert_default();
    let known = conditions.iter().position(|condition| condition.type_ == kind);
    let mut transition = now.clone();
    if let Some(at) = known {
        let condition = &conditions[at];
        if condition.status == value && condition.reason.as_deref() == Some(reason) {
            return;
        }
        if condition.status == value {
            transition = condition.last_transition_time.clone().unwrap_or(transition);
        }
        conditions.remove(at);
    }
    conditions.push(DeploymentCondition {
        type_: kind.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(now),
        last_transition_time: Some(transition),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({
            "metadata": { "labels": { "app": "x" } },
            "spec": { "containers": [{ "name": "c", "image": image }] },
        }))
        .expect("a template")
    }

    #[test]
    fn the_hash_follows_the_template_and_the_collisions() {
        let hash = template_hash(&template("a"), None);
        assert_eq!(hash, template_hash(&template("a"), None));
        assert_ne!(hash, template_hash(&template("b"), None));
        assert_ne!(hash, template_hash(&template("a"), Some(1)));
        assert!(hash.len() <= 10 && hash.bytes().all(|c| b"bcdfghjklmnpqrstvwxz2456789".contains(&c)));
    }

    #[test]
    fn a_set_is_recognized_by_its_template_without_the_hash() {
        let mut with_hash = template("a");
        with_hash.metadata.get_or_insert_default().labels.get_or_insert_default().insert(HASH_LABEL.into(), "h".into());
        let set = ReplicaSet {
            spec: Some(ReplicaSetSpec { template: Some(with_hash), ..ReplicaSetSpec::default() }),
            ..ReplicaSet::default()
        };
        assert!(same_template(&set, &template("a")));
        assert!(!same_template(&set, &template("b")));
    }

    #[test]
    fn a_condition_keeps_its_transition_while_its_status_stays() {
        let mut status = DeploymentStatus::default();
        let at = |seconds| Timestamp::from_second(seconds).expect("a time");
        set_condition(&mut status, "Progressing", "True", "A", "m", at(10));
        set_condition(&mut status, "Progressing", "True", "A", "other", at(20));
        set_condition(&mut status, "Progressing", "True", "B", "m", at(30));
        let condition = &status.conditions.expect("there")[0];
        assert_eq!(condition.last_transition_time.as_ref().map(|t| t.0), Some(at(10)));
        assert_eq!(condition.last_update_time.as_ref().map(|t| t.0), Some(at(30)));
    }
}
