//! Storage that is in use is not deleted: claims while pods use them, volumes while they are bound, attributes classes
//! while something names them. The finalizers are put on by admission; here they come off.
//!
//! Watches PersistentVolumeClaims, PersistentVolumes, VolumeAttributesClasses and pods. Writes their finalizers.
//!
//! Invariants:
//! - PT-1: a finalizer comes off only from an object that is being deleted and that nothing uses.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::api::{Patch, PatchParams};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};
use crate::podcontrol::phase;

/// One kind's protection.
struct Protection<K> {
    name: &'static str,
    finalizer: &'static str,
    client: Client,
    queue: WorkQueue<ObjectKey>,
    objects: Informer<K>,
    /// Whether something still uses the object.
    used: Box<dyn Fn(&K) -> bool + Send + Sync>,
    pods: Informer<Pod>,
}

impl<K: Resource + 'static> Protection<K> {
    fn watched(self) -> Self {
        let queue = self.queue.clone();
        self.objects.on_change(move |change| {
            if change.object().meta().deletion_timestamp.is_some() {
                queue.add(ObjectKey::of(change.object().as_ref()));
            }
        });
        self
    }
}

pub fn claims(cx: &Context) -> Arc<dyn Controller> {
    let pods: Informer<Pod> = cx.informers.of();
    let users = pods.clone();
    let this = Protection::<PersistentVolumeClaim> {
        name: "persistentvolumeclaim-protection",
        finalizer: "kubernetes.io/pvc-protection",
        client: cx.client.clone(),
        queue: cx.queue(),
        objects: cx.informers.of(),
        used: Box::new(move |claim| {
            let key = ObjectKey::of(claim);
            users.list_in(&key.namespace).iter().any(|pod| uses(pod, &key.name))
        }),
        pods: pods.clone(),
    };
    let this = this.watched();
    let queue = this.queue.clone();
    pods.on_change(move |change| {
        let pod = change.object();
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        for claim in claims_of(pod) {
            queue.add(ObjectKey::new(namespace.clone(), claim));
        }
    });
    Arc::new(this)
}

pub fn volumes(cx: &Context) -> Arc<dyn Controller> {
    let bound =
        |volume: &PersistentVolume| volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let this = Protection::<PersistentVolume> {
        name: "persistentvolume-protection",
        finalizer: "kubernetes.io/pv-protection",
        client: cx.client.clone(),
        queue: cx.queue(),
        objects: cx.informers.of(),
        used: Box::new(bound),
        pods: cx.informers.of(),
    };
    Arc::new(this.watched())
}

pub fn attributes_classes(cx: &Context) -> Arc<dyn Controller> {
    let (claims, volumes) = (cx.informers.of::<PersistentVolumeClaim>(), cx.informers.of::<PersistentVolume>());
    let (by_claims, by_volumes) = (claims.clone(), volumes.clone());
    let this = Protection::<VolumeAttributesClass> {
        name: "volumeattributesclass-protection",
        finalizer: "kubernetes.io/vac-protection",
        client: cx.client.clone(),
        queue: cx.queue(),
        objects: cx.informers.of(),
        used: Box::new(move |class| {
            let name = class.metadata.name.as_deref();
            by_claims.list().iter().any(|claim| class_of_claim(claim).any(|used| Some(used) == name))
                || by_volumes.list().iter().any(|volume| class_of_volume(volume) == name)
        }),
        pods: cx.informers.of(),
    };
    let this = this.watched();
    let queue = this.queue.clone();
    claims.on_change(move |change| {
        class_of_claim(change.object()).for_each(|class| queue.add(ObjectKey::cluster(class)));
    });
    let queue = this.queue.clone();
    volumes.on_change(move |change| {
        class_of_volume(change.object()).into_iter().for_each(|class| queue.add(ObjectKey::cluster(class)));
    });
    Arc::new(this)
}

fn class_of_claim(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let current = claim.status.as_ref().and_then(|status| status.current_volume_attributes_class_name.as_deref());
    wanted.into_iter().chain(current)
}

fn class_of_volume(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.as_deref())
}

/// Claims that the pod names, and those of its ephemeral volumes.
fn claims_of(pod: &Pod) -> Vec<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claim = |volume: &k8s_openapi::api::core::v1::Volume| match (&volume.persistent_volume_claim, &volume.ephemeral)
    {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{name}-{}", volume.name)),
        (None, None) => None,
    };
    volumes.filter_map(claim).collect()
}

/// A pod that has a node and is not finished holds its claims.
fn uses(pod: &Pod, claim: &str) -> bool {
    let placed = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).is_some_and(|node| !node.is_empty());
    placed && !matches!(phase(pod), "Succeeded" | "Failed") && claims_of(pod).iter().any(|used| used == claim)
}

#[async_trait]
impl<K> Controller for Protection<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    fn name(&self) -> &'static str {
        self.name
    }

    fn workers(&self) -> usize {
        1
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.objects.synced().await;
        self.pods.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(object) = self.objects.get(key) else { return Ok(None) };
        let meta = object.meta();
        let mut finalizers = meta.finalizers.clone().unwrap_or_default();
        let held = finalizers.iter().any(|finalizer| finalizer == self.finalizer);
        if meta.deletion_timestamp.is_none() || !held || (self.used)(&object) {
            return Ok(None);
        }
        finalizers.retain(|finalizer| finalizer != self.finalizer);
        // With the version that was looked at: somebody may have begun to use it meanwhile.
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": meta.resource_version, "finalizers": finalizers }
        }));
        let gvr = kube::core::ApiResource::erase::<K>(&());
        let api: Api<kube::core::DynamicObject> = if key.namespace.is_empty() {
            Api::all_with(self.client.clone(), &gvr)
        } else {
            Api::namespaced_with(self.client.clone(), &key.namespace, &gvr)
        };
        let released = gone_is_fine(api.patch(&key.name, &PatchParams::default(), &patch).await);
        released.map_err(Error::api(format!("release {} {key}", K::kind(&()))))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_placed_unfinished_pods_hold_a_claim() {
        let pod = |node: &str, phase: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": { "name": "p", "namespace": "ns" },
                "spec": { "nodeName": node, "containers": [], "volumes": [
                    { "name": "a", "persistentVolumeClaim": { "claimName": "data" } },
                    { "name": "b", "ephemeral": {} },
                ] },
                "status": { "phase": phase },
            }))
            .expect("a pod")
        };
        assert_eq!(claims_of(&pod("n", "Running")), ["data", "p-b"]);
        assert!(uses(&pod("n", "Running"), "data"));
        assert!(!uses(&pod("", "Pending"), "data"));
        assert!(!uses(&pod("n", "Succeeded"), "data"));
        assert!(!uses(&pod("n", "Running"), "other"));
    }
}
