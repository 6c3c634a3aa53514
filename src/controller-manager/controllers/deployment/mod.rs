//! Deployments: a ReplicaSet per template, and an orderly way from one to the next.
//!
//! Watches Deployments, ReplicaSets and pods (for Recreate). Writes ReplicaSets, Deployment status and the revision
//! annotation, events ScalingReplicaSet.
//!
//! Invariants:
//! - DP-1: one ReplicaSet per template: the same template always leads back to the same ReplicaSet.
//! - DP-2: the bounds of the rollout (see `rollout`) hold at every step.

mod run;
mod status;
mod template;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, Client, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use component_base::SharedClock;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use self::run::Run;
pub use self::template::template_hash;
use crate::controllers::rollout;
use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};
use crate::owners::{Claim, claim, controller_of, controller_reference, selects};
use crate::podcontrol::index_by_owner;

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
