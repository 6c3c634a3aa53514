//! One look at one Deployment: which ReplicaSets there should be, and of which size.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{EventType, ObjectKey, object_reference};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{DeleteParams, PostParams};

use super::Deployments;
use super::status::is_complete;
use super::template::{
    HASH_LABEL, OWN_ANNOTATIONS, REVISION, REVISION_HISTORY, revision, same_template, template_hash,
};
use crate::controllers::rollout::{self, DESIRED_REPLICAS, MAX_REPLICAS};
use crate::error::{Error, gone_is_fine};
use crate::owners::{controller_of, controller_reference};
use crate::podcontrol::{owned_pods, phase};

/// One look at one deployment.
pub struct Run<'a> {
    pub cx: &'a Deployments,
    pub deployment: Deployment,
    pub sets: Vec<Arc<ReplicaSet>>,
    pub key: &'a ObjectKey,
}

impl Run<'_> {
    pub fn template(&self) -> PodTemplateSpec {
        self.deployment.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default()
    }

    /// The oldest set with the current template, as upstream picks it.
    pub fn new_set(&self) -> Option<Arc<ReplicaSet>> {
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

    pub async fn roll(&mut self) -> Result<(), Error> {
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

    pub async fn recreate(&mut self) -> Result<(), Error> {
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

    /// `spec.replicas` changed since the ReplicaSets were sized.
    pub fn is_scaling(&self) -> bool {
        self.sets.iter().filter(|set| rollout::set_replicas(set) > 0).any(|set| {
            let annotated = set.metadata.annotations.as_ref().and_then(|all| all.get(DESIRED_REPLICAS));
            annotated
                .and_then(|text| text.parse::<i32>().ok())
                .is_some_and(|n| n != rollout::replicas(&self.deployment))
        })
    }

    /// A changed number of replicas, without moving the rollout on.
    pub async fn scale(&mut self) -> Result<(), Error> {
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
}
