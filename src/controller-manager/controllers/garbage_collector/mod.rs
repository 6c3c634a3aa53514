//! Deletes what lost its owners, and lets owners go in the way that their deletion asked for (background, foreground,
//! orphan).
//!
//! Watches the metadata of every resource that can be deleted. Deletes objects, and patches `ownerReferences` and the
//! finalizers `orphan` and `foregroundDeletion`.
//!
//! Invariants:
//! - GC-4: nothing is deleted on the word of a cache: the object and each of its owners are asked for, by uid.
//! - GC-5: every write names the uid and the version that the decision was made on.
//! - GC-6: an owner does not go on before every informer is filled: it might have dependents that are not known yet.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, EventRecorder, EventType, Informers, ObjectKey, WorkQueue};
use component_base::{Backoff, SharedClock};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::{Api, Client};
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};

mod graph;
pub(super) mod monitors;
mod plan;

use graph::{Effects, FOREGROUND, Graph, Item, ORPHAN};
use monitors::{Monitors, Resource, Resources, Start};
use plan::{Action, Observed, Owner, plan};

/// How long after a change of a definition discovery is read, and read once more: the server needs a moment to serve
/// what was defined.
const SETTLED: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// What changes discovery: group and plural.
const DEFINITIONS: [(&str, &str); 2] =
    [("apiextensions.k8s.io", "customresourcedefinitions"), ("apiregistration.k8s.io", "apiservices")];
/// An owner of a kind that nobody serves may be served later.
const UNKNOWN_KIND: Duration = Duration::from_secs(30);
const ABSENT: usize = 500;

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = Arc::new(GarbageCollector {
        client: cx.client.clone(),
        queue: cx.queue(),
        clock: cx.clock.clone(),
        informers: cx.informers.clone(),
        recorder: cx.recorder("garbage-collector-controller"),
        graph: Arc::default(),
        resources: RwLock::default(),
        monitors: Monitors::default(),
        absent: Mutex::default(),
    });
    let refreshing = this.clone();
    cx.tasks.spawn(async move { refreshing.follow_discovery().await });
    this
}

struct GarbageCollector {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    clock: SharedClock,
    informers: Informers,
    recorder: EventRecorder,
    graph: Arc<Mutex<Graph>>,
    resources: RwLock<Arc<Resources>>,
    monitors: Monitors,
    /// Uids that the server does not have any more; the newest last.
    absent: Mutex<VecDeque<(String, String)>>,
}

impl GarbageCollector {
    async fn follow_discovery(&self) {
        let mut failures = 0;
        let changed = Arc::new(Notify::new());
        let mut followed = [false; DEFINITIONS.len()];
        let mut settle = VecDeque::new();
        loop {
            match monitors::discover(&self.client).await {
                Ok(found) => {
                    failures = 0;
                    let found = Arc::new(found);
                    for resource in &found.watched {
                        self.monitor(resource);
                    }
                    for resource in self.monitors.stop_others(&found.watched) {
                        debug!(resource = resource.api.plural, group = resource.api.group, "served no more");
                        self.informers.stop_metadata(&resource.api);
                    }
                    for (at, (group, plural)) in DEFINITIONS.iter().enumerate() {
                        let defines = |r: &&Arc<Resource>| r.api.group == *group && r.api.plural == *plural;
                        if let (false, Some(resource)) = (followed[at], found.watched.iter().find(defines)) {
                            followed[at] = true;
                            let changed = changed.clone();
                            self.informers.metadata(&resource.api).on_change(move |_| changed.notify_one());
                        }
                    }
                    *self.resources.write() = found;
                    if settle.is_empty() {
                        changed.notified().await;
                        settle.extend(SETTLED);
                    }
                    if let Some(pause) = settle.pop_front() {
                        self.clock.sleep(pause).await;
                    }
                }
                Err(error) => {
                    let delay = Backoff::RECONNECT.delay(failures);
                    warn!(%error, "discovery failed, retrying");
                    failures += 1;
                    self.clock.sleep(delay).await;
                }
            }
        }
    }

    fn monitor(&self, resource: &Arc<Resource>) {
        match self.monitors.start(resource) {
            Start::Running => return,
            Start::Again => {
                self.informers.metadata(&resource.api);
                return;
            }
            Start::First => {}
        }
        debug!(resource = resource.api.plural, group = resource.api.group, "watching owner references");
        let informer = self.informers.metadata(&resource.api);
        self.monitors.add(informer.clone(), self.clock.instant());
        let (graph, queue, recorder) = (self.graph.clone(), self.queue.clone(), self.recorder.clone());
        let resource = resource.clone();
        informer.on_change(move |change| {
            let mut graph = graph.lock();
            let mut put = |meta: &ObjectMeta| {
                let Some(item) = Item::new(&resource, meta) else { return Effects::default() };
                let effects = graph.put(item.clone());
                for reference in &effects.invalid {
                    report_invalid(&recorder, &item, reference);
                }
                effects
            };
            let mut look = Vec::new();
            match change {
                Change::Added(object) => look.extend(put(&object.metadata).look),
                Change::Updated { old, new } => {
                    look.extend(put(&new.metadata).look);
                    if old.metadata.uid != new.metadata.uid {
                        look.extend(graph.remove(old.metadata.uid.as_deref().unwrap_or_default()).look);
                    }
                }
                Change::Deleted(object) => {
                    look.extend(graph.remove(object.metadata.uid.as_deref().unwrap_or_default()).look);
                }
            }
            for uid in look {
                queue.add(ObjectKey::cluster(uid));
            }
        });
    }

    /// Everything that can be known is known, or has had its time.
    async fn all_seen(&self) {
        while self.resources.read().watched.is_empty() {
            self.clock.sleep(Duration::from_millis(20)).await;
        }
        self.monitors.synced(&self.clock).await;
    }

    fn api(&self, resource: &Resource, namespace: &str) -> Api<DynamicObject> {
        if resource.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &resource.api)
        } else {
            Api::all_with(self.client.clone(), &resource.api)
        }
    }

    /// The object as the server has it now, when it is still this one.
    async fn latest(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<ObjectMeta>, Error> {
        let doing = || format!("get {} {namespace}/{name}", resource.api.plural);
        let found =
            gone_is_fine(self.api(resource, namespace).get_metadata(name).await).map_err(Error::api(doing()))?;
        Ok(found.map(|object| object.metadata).filter(|meta| meta.uid.as_deref() == Some(uid)))
    }

    async fn look(&self, item: &Item) -> Result<Option<Duration>, Error> {
        let Some(latest) = self.latest(&item.resource, &item.namespace, &item.name, &item.uid).await? else {
            return Ok(self.forget(item));
        };
        if latest.deletion_timestamp.is_some() {
            return Ok(None);
        }
        let mut owners = Vec::new();
        for reference in latest.owner_references.iter().flatten() {
            match self.owner(item, reference).await? {
                Some(owner) => owners.push(owner),
                None => {
                    debug!(object = item.name, kind = reference.kind, "owner of a kind that is not served");
                    return Ok(Some(UNKNOWN_KIND));
                }
            }
        }
        let dependents = self.graph.lock().dependents(&item.uid);
        let actions = plan(&Observed {
            latest: &latest,
            owners: &owners,
            has_dependents: !dependents.is_empty(),
            dependent_waits: dependents.iter().any(|dependent| dependent.is_waiting()),
        });
        let mut version = latest.resource_version.clone();
        for action in actions {
            match action {
                Action::SetOwners(owners) => {
                    let change = json!({ "ownerReferences": owners });
                    version = self.patch(item, &version, change).await?.or(version);
                }
                Action::Delete(policy) => self.delete(item, &version, policy).await?,
            }
        }
        Ok(None)
    }

    /// None: nobody serves its kind.
    async fn owner(&self, item: &Item, reference: &OwnerReference) -> Result<Option<Owner>, Error> {
        let resource = self.resources.read().of_kind(&reference.api_version, &reference.kind);
        let Some(resource) = resource else { return Ok(None) };
        if resource.namespaced && item.namespace.is_empty() {
            // Such a reference can never be resolved, so it proves nothing.
            return Ok(Some(Owner::Solid));
        }
        let namespace = if resource.namespaced { item.namespace.as_str() } else { "" };
        let key = (reference.uid.clone(), item.namespace.clone());
        if self.absent.lock().contains(&key) {
            return Ok(Some(Owner::Absent));
        }
        let Some(owner) = self.latest(&resource, namespace, &reference.name, &reference.uid).await? else {
            let mut absent = self.absent.lock();
            absent.push_back(key);
            if absent.len() > ABSENT {
                absent.pop_front();
            }
            return Ok(Some(Owner::Absent));
        };
        let waits = owner.deletion_timestamp.is_some()
            && owner.finalizers.iter().flatten().any(|finalizer| finalizer == FOREGROUND);
        Ok(Some(if waits { Owner::Waiting } else { Owner::Solid }))
    }

    /// The object is gone although nobody told us.
    fn forget(&self, item: &Item) -> Option<Duration> {
        let effects = self.graph.lock().remove(&item.uid);
        for uid in effects.look {
            self.queue.add(ObjectKey::cluster(uid));
        }
        None
    }

    async fn wait_for_dependents(&self, item: &Item) -> Result<Option<Duration>, Error> {
        self.all_seen().await;
        let dependents = self.graph.lock().dependents(&item.uid);
        let blocking: Vec<_> = dependents.iter().filter(|dependent| dependent.blocks(&item.uid)).collect();
        if blocking.is_empty() {
            return self.remove_finalizer(item, FOREGROUND).await;
        }
        // Each of them names this owner again when it goes.
        for dependent in blocking {
            if !dependent.deleting {
                self.queue.add(ObjectKey::cluster(dependent.uid.clone()));
            }
        }
        Ok(None)
    }

    async fn orphan(&self, item: &Item) -> Result<Option<Duration>, Error> {
        self.all_seen().await;
        let dependents = self.graph.lock().dependents(&item.uid);
        for dependent in dependents {
            let latest =
                self.latest(&dependent.resource, &dependent.namespace, &dependent.name, &dependent.uid).await?;
            let Some(latest) = latest else { continue };
            let mut owners = latest.owner_references.clone().unwrap_or_default();
            let count = owners.len();
            owners.retain(|reference| reference.uid != item.uid);
            if owners.len() != count {
                self.patch(&dependent, &latest.resource_version, json!({ "ownerReferences": owners })).await?;
            }
        }
        self.remove_finalizer(item, ORPHAN).await
    }

    async fn remove_finalizer(&self, item: &Item, finalizer: &str) -> Result<Option<Duration>, Error> {
        let Some(latest) = self.latest(&item.resource, &item.namespace, &item.name, &item.uid).await? else {
            return Ok(self.forget(item));
        };
        let mut finalizers = latest.finalizers.clone().unwrap_or_default();
        let count = finalizers.len();
        finalizers.retain(|other| other != finalizer);
        if finalizers.len() != count {
            self.patch(item, &latest.resource_version, json!({ "finalizers": finalizers })).await?;
        }
        Ok(None)
    }

    /// Merges `change` into the metadata; the new version, or nothing when the object is gone.
    async fn patch(
        &self,
        item: &Item,
        version: &Option<String>,
        mut change: serde_json::Value,
    ) -> Result<Option<String>, Error> {
        change["uid"] = json!(item.uid);
        change["resourceVersion"] = json!(version);
        let patch = Patch::Merge(json!({ "metadata": change }));
        let api = self.api(&item.resource, &item.namespace);
        let result = api.patch_metadata(&item.name, &PatchParams::default(), &patch).await;
        let doing = format!("patch {} {}/{}", item.resource.api.plural, item.namespace, item.name);
        let patched = gone_is_fine(result).map_err(Error::api(doing))?;
        Ok(patched.and_then(|object| object.metadata.resource_version))
    }

    async fn delete(&self, item: &Item, version: &Option<String>, policy: PropagationPolicy) -> Result<(), Error> {
        info!(
            resource = item.resource.api.plural,
            namespace = item.namespace,
            name = item.name,
            ?policy,
            "deleting object without owners"
        );
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions { uid: Some(item.uid.clone()), resource_version: version.clone() }),
            ..DeleteParams::default()
        };
        let result = self.api(&item.resource, &item.namespace).delete(&item.name, &params).await;
        let doing = format!("delete {} {}/{}", item.resource.api.plural, item.namespace, item.name);
        gone_is_fine(result).map_err(Error::api(doing)).map(|_| ())
    }

    /// Whether all owners are where they should be, in no special state: then there is nothing to ask the server.
    fn is_settled(&self, item: &Item) -> bool {
        let graph = self.graph.lock();
        let seen: Vec<_> = item.owners.iter().map(|reference| graph.sees(item, reference)).collect();
        seen.iter().all(|owner| owner.as_ref().is_some_and(|owner| !owner.is_waiting()))
    }
}

fn report_invalid(recorder: &EventRecorder, item: &Item, reference: &OwnerReference) {
    let about = ObjectReference {
        api_version: Some(item.resource.api.api_version.clone()),
        kind: Some(item.resource.api.kind.clone()),
        namespace: Some(item.namespace.clone()).filter(|namespace| !namespace.is_empty()),
        name: Some(item.name.clone()),
        uid: Some(item.uid.clone()),
        ..ObjectReference::default()
    };
    let message = format!(
        "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] does not exist in namespace {:?}",
        reference.api_version, reference.kind, item.namespace, reference.name, reference.uid, item.namespace
    );
    recorder.event(&about, EventType::Warning, "OwnerRefInvalidNamespace", &message);
}

#[async_trait]
impl Controller for GarbageCollector {
    fn name(&self) -> &'static str {
        "garbage-collector"
    }

    fn workers(&self) -> usize {
        20
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    /// Does not hold up the other controllers: see GC-4 and GC-6.
    async fn synced(&self) {}

    /// `key.name` is a uid.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let item = self.graph.lock().get(&key.name);
        let Some(item) = item else { return Ok(None) };
        if item.is_orphaning() {
            return self.orphan(&item).await;
        }
        if item.is_waiting() {
            return self.wait_for_dependents(&item).await;
        }
        if item.deleting || item.owners.is_empty() || self.is_settled(&item) {
            return Ok(None);
        }
        self.all_seen().await;
        if self.is_settled(&item) {
            return Ok(None);
        }
        self.look(&item).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource() -> Arc<Resource> {
        let api = kube::core::ApiResource {
            group: String::new(),
            version: "v1".into(),
            api_version: "v1".into(),
            kind: "Thing".into(),
            plural: "things".into(),
        };
        Arc::new(Resource { api, namespaced: true })
    }

    pub fn item(name: &str, namespace: &str) -> Item {
        owned(name, namespace, &[])
    }

    pub fn owned(name: &str, namespace: &str, owners: &[&str]) -> Item {
        let owners: Vec<_> = owners
            .iter()
            .map(|owner| json!({ "apiVersion": "v1", "kind": "Thing", "name": owner, "uid": owner, "blockOwnerDeletion": true }))
            .collect();
        let meta = json!({ "name": name, "namespace": namespace, "uid": name, "ownerReferences": owners });
        Item::new(&resource(), &serde_json::from_value(meta).expect("metadata")).expect("an item")
    }
}
