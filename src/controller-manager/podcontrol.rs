//! What the controllers that run pods share: which pods are theirs, and how pods come and go.
//!
//! Invariants:
//! - PO-1: never deletes a pod that its owner does not control.
//! - PO-2: what was asked for and not yet seen is kept in `Expectations`, under the owner's key.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Client, EventRecorder, EventType, Informer, ObjectKey, WorkQueue, object_reference};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::debug;

use crate::error::{Error, gone_is_fine};
use crate::expectations::Expectations;
use crate::owners::{Claim, claim, controller_of, controller_reference, selects};

const BY_OWNER: &str = "controller-uid";

/// A namespaced kind whose objects run pods.
pub trait Owner:
    Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// Which pods it may have; none: not said.
    fn pod_selector(&self) -> Option<LabelSelector>;
}

/// A creation or deletion that failed.
pub struct Failure {
    pub reason: &'static str,
    pub error: Error,
}

/// Files pods under the uid of their controller, and those without one under "".
pub fn index_by_owner(pods: &Informer<Pod>) {
    pods.add_index(BY_OWNER, |pod| {
        vec![controller_of(&pod.metadata).map(|owner| owner.uid.clone()).unwrap_or_default()]
    });
}

pub fn owned_pods(pods: &Informer<Pod>, uid: &str) -> Vec<Arc<Pod>> {
    pods.by_index(BY_OWNER, uid)
}

/// The key of the owner, when it is of this kind.
pub fn owner_key<K: Owner>(meta: &ObjectMeta) -> Option<ObjectKey> {
    let owner = controller_of(meta)
        .filter(|owner| owner.kind == K::kind(&()).as_ref() && owner.api_version == K::api_version(&()).as_ref())?;
    Some(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

/// Wakes owners when they or their pods change, and meets their expectations.
pub fn watch<K: Owner>(
    owners: &Informer<K>,
    pods: &Informer<Pod>,
    queue: &WorkQueue<ObjectKey>,
    expectations: &Arc<Expectations>,
) {
    index_by_owner(pods);
    let woken = queue.clone();
    owners.on_change(move |change| woken.add(ObjectKey::of(change.object().as_ref())));
    let (queue, owners, expectations) = (queue.clone(), owners.clone(), expectations.clone());
    pods.on_change(move |change| pod_changed(change, &queue, &owners, &expectations));
}

fn pod_changed<K: Owner>(
    change: &Change<Pod>,
    queue: &WorkQueue<ObjectKey>,
    owners: &Informer<K>,
    expectations: &Expectations,
) {
    let pod = change.object();
    let owner = owner_key::<K>(&pod.metadata);
    let pod_key = ObjectKey::of(pod.as_ref()).to_string();
    if let Some(owner) = &owner {
        match change {
            Change::Added(_) => expectations.created(owner),
            Change::Deleted(_) => expectations.deleted(owner, &pod_key),
            Change::Updated { .. } => {}
        }
        if pod.metadata.deletion_timestamp.is_some() {
            expectations.deleted(owner, &pod_key);
        }
        queue.add(owner.clone());
    }
    if let Change::Updated { old, .. } = change {
        if let Some(before) = owner_key::<K>(&old.metadata).filter(|before| Some(before) != owner.as_ref()) {
            queue.add(before);
        }
    }
    if owner.is_none() && controller_of(&pod.metadata).is_none() && !matches!(change, Change::Deleted(_)) {
        // An orphan: whoever selects it may adopt it.
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        for candidate in owners.list_in(namespace) {
            let selector = candidate.pod_selector();
            if selector.is_some_and(|selector| selects(&selector, pod.metadata.labels.as_ref())) {
                queue.add(ObjectKey::of(candidate.as_ref()));
            }
        }
    }
}

/// The hands of one controller.
pub struct PodControl {
    pub client: Client,
    pub events: EventRecorder,
    pub pods: Informer<Pod>,
    pub expectations: Arc<Expectations>,
}

impl PodControl {
    /// The pods of `owner`, after adopting and releasing.
    pub async fn claimed<K: Owner>(&self, owner: &K) -> Result<Vec<Arc<Pod>>, Error> {
        let meta = owner.meta();
        let (Some(selector), Some(uid)) = (owner.pod_selector(), &meta.uid) else { return Ok(Vec::new()) };
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let mut candidates = owned_pods(&self.pods, uid);
        candidates.extend(
            owned_pods(&self.pods, "").into_iter().filter(|pod| pod.metadata.namespace.as_deref() == Some(namespace)),
        );
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let mut mine = Vec::new();
        for pod in candidates {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match claim(&pod.metadata, meta, &selector) {
                Claim::Mine => mine.push(pod),
                Claim::NotMine => {}
                Claim::Adopt if !is_active(&pod) => {}
                Claim::Adopt => {
                    // The cache may be behind: adopt only if we are still there ourselves.
                    if !self.still_exists(owner).await? {
                        return Ok(Vec::new());
                    }
                    let patch = json!({ "metadata": { "uid": pod.metadata.uid, "ownerReferences": [controller_reference(owner)] } });
                    let patched =
                        gone_is_fine(api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await);
                    if patched.map_err(Error::api(format!("adopt pod {namespace}/{name}")))?.is_some() {
                        mine.push(pod);
                    }
                }
                Claim::Release => {
                    let patch = json!({ "metadata": { "uid": pod.metadata.uid, "ownerReferences": [{ "$patch": "delete", "uid": uid }] } });
                    let patched =
                        gone_is_fine(api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await);
                    patched.map_err(Error::api(format!("release pod {namespace}/{name}")))?;
                }
            }
        }
        Ok(mine)
    }

    async fn still_exists<K: Owner>(&self, owner: &K) -> Result<bool, Error> {
        let key = ObjectKey::of(owner);
        let api = Api::<K>::namespaced(self.client.clone(), &key.namespace);
        let live = api.get_opt(&key.name).await.map_err(Error::api(format!("get {} {key}", K::kind(&()))))?;
        Ok(live.is_some_and(|live| live.meta().uid == owner.meta().uid && live.meta().deletion_timestamp.is_none()))
    }

    /// Creates the pods, in batches that double, so that a refusal is met by one request and not by hundreds.
    ///
    /// # Errors
    /// The last refusal, unless the namespace is going away (then it refuses rightly).
    pub async fn create<K: Owner>(&self, owner: &K, pods: &[Pod]) -> Result<(), Failure> {
        let key = &ObjectKey::of(owner);
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let about = object_reference(owner);
        self.expectations.expect_creations(key, pods.len());
        let (mut left, mut batch) = (pods, 1);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let params = PostParams::default();
            let posts: Vec<_> = now.iter().map(|pod| api.create(&params, pod)).collect();
            let mut results = futures::stream::iter(posts).buffer_unordered(16);
            let mut failed = None;
            while let Some(result) = results.next().await {
                match result {
                    Ok(pod) => {
                        let name = pod.metadata.name.unwrap_or_default();
                        let message = format!("Created pod: {name}");
                        self.events.event(&about, EventType::Normal, "SuccessfulCreate", &message);
                    }
                    Err(error) => {
                        self.expectations.created(key);
                        failed = Some(error);
                    }
                }
            }
            left = later;
            if let Some(error) = failed {
                debug!(owner = %key, untried = left.len(), "pods not created");
                // Those that were not even tried.
                for _ in left {
                    self.expectations.created(key);
                }
                let terminating = matches!(&error, kube::Error::Api(status) if status.message.contains("because it is being terminated"));
                if terminating {
                    return Ok(());
                }
                let message = format!("Error creating: {}", text(&error));
                self.events.event(&about, EventType::Warning, "FailedCreate", &message);
                return Err(Failure {
                    reason: "FailedCreate",
                    error: Error::api(format!("create a pod of {key}"))(error),
                });
            }
            batch *= 2;
        }
        Ok(())
    }

    /// Deletes the pods, each by its uid.
    ///
    /// # Errors
    /// The last refusal.
    pub async fn delete<K: Owner>(&self, owner: &K, victims: &[Arc<Pod>]) -> Result<(), Failure> {
        let key = &ObjectKey::of(owner);
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        let about = object_reference(owner);
        self.expectations.expect_deletions(key, victims.iter().map(|pod| ObjectKey::of(pod.as_ref()).to_string()));
        let deletions: Vec<_> = victims
            .iter()
            .map(|pod| {
                let name = pod.metadata.name.clone().unwrap_or_default();
                let preconditions = Preconditions { uid: pod.metadata.uid.clone(), ..Preconditions::default() };
                let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
                let api = api.clone();
                async move {
                    let result = api.delete(&name, &params).await.map(|_| ());
                    (name, result)
                }
            })
            .collect();
        let mut results = futures::stream::iter(deletions).buffer_unordered(16);
        let mut failed = None;
        while let Some((name, result)) = results.next().await {
            match gone_is_fine(result) {
                Ok(Some(())) => {
                    let message = format!("Deleted pod: {name}");
                    self.events.event(&about, EventType::Normal, "SuccessfulDelete", &message);
                }
                Ok(None) => self.expectations.deleted(key, &format!("{}/{name}", key.namespace)),
                Err(error) => {
                    self.expectations.deleted(key, &format!("{}/{name}", key.namespace));
                    let message = format!("Error deleting: {}", text(&error));
                    self.events.event(&about, EventType::Warning, "FailedDelete", &message);
                    failed = Some(Error::api(format!("delete pod {}/{name}", key.namespace))(error));
                }
            }
        }
        failed.map_or(Ok(()), |error| Err(Failure { reason: "FailedDelete", error }))
    }
}

/// A pod from a template, controlled by `owner`, with a generated name.
pub fn pod_from_template<K: Owner>(owner: &K, template: &PodTemplateSpec) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(generate_name(owner.meta().name.as_deref().unwrap_or_default())),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

pub fn text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// `<owner>-`, kept short enough that a suffix still fits a host name.
pub fn generate_name(owner: &str) -> String {
    format!("{}-", owner.get(..57).unwrap_or(owner))
}

pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Neither finished nor going away.
pub fn is_active(pod: &Pod) -> bool {
    !matches!(phase(pod), "Succeeded" | "Failed") && pod.metadata.deletion_timestamp.is_none()
}

/// Since when the pod is ready.
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// Ready for at least `min_ready` seconds.
pub fn is_available(pod: &Pod, min_ready: i32, now: Timestamp) -> bool {
    ready_since(pod).is_some_and(|since| min_ready == 0 || now.as_second() - since.as_second() >= i64::from(min_ready))
}

/// When the next ready pod becomes available.
pub fn next_availability(pods: &[Arc<Pod>], min_ready: i32, now: Timestamp) -> Option<Duration> {
    let waiting = pods.iter().filter(|pod| !is_available(pod, min_ready, now)).filter_map(|pod| ready_since(pod));
    let seconds = waiting.map(|since| i64::from(min_ready) - (now.as_second() - since.as_second())).min()?;
    Some(Duration::from_secs(u64::try_from(seconds.max(1)).unwrap_or(1)))
}

/// How many, as the status fields count.
pub fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_leave_room_for_the_suffix() {
        assert_eq!(generate_name(&"x".repeat(70)).len(), 58);
        assert_eq!(generate_name("web"), "web-");
    }
}
