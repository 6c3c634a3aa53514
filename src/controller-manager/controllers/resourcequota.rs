//! What is used of every quota, counted.
//!
//! Watches ResourceQuotas, and whatever one of them counts: pods, services, claims, and the metadata of any other kind.
//! Writes `status` of quotas: `hard` as the spec has it, `used` as it is. Admission adds to `used`; what is given back
//! is only ever seen here.
//!
//! Invariants:
//! - RQ-4: an amount is written at the version of the quota that was read before counting, and counting begins after
//!   what admission had charged by then is stored: what a request was just allowed is not given to another one.
//! - RQ-5: nothing is watched for quotas that nobody has made.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use api::quota::{Amounts, Measure, Requirement, add, amounts, counted, requirements, to_json};
use apimachinery::quantity::Quantity;
use async_trait::async_trait;
use client::{Change, Client, Informer, Informers, ObjectKey, WorkQueue};
use component_base::SharedClock;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::api::{DynamicObject, ListParams, PostParams};
use kube::core::ApiResource;
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::garbage_collector::monitors::{self, Resources};
use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};
use crate::podcontrol::phase;

/// From a charge to its object's being stored, with room (RQ-4).
const STORED: Duration = Duration::from_millis(100);
/// So often a quota that keeps changing is given that time.
const PATIENT_TRIES: usize = 4;
/// A request may be charged and fail afterwards: this long after the last charge, what is used is counted again.
const RECOUNT: Duration = Duration::from_secs(30);

struct Quotas {
    client: Client,
    clock: SharedClock,
    queue: WorkQueue<ObjectKey>,
    informers: Informers,
    quotas: Informer<ResourceQuota>,
    resources: Mutex<Arc<Resources>>,
    watched: Mutex<HashSet<(String, String)>>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = Quotas {
        client: cx.client.clone(),
        clock: cx.clock.clone(),
        queue: cx.queue(),
        informers: cx.informers.clone(),
        quotas: cx.informers.of(),
        resources: Mutex::default(),
        watched: Mutex::default(),
    };
    let queue = this.queue.clone();
    this.quotas.on_change(move |change| match change {
        Change::Added(quota) => queue.add(ObjectKey::of(quota.as_ref())),
        Change::Updated { old, new } if old.spec != new.spec => queue.add(ObjectKey::of(new.as_ref())),
        Change::Updated { old, new } if old.status != new.status => {
            queue.add_after(ObjectKey::of(new.as_ref()), RECOUNT);
        }
        Change::Updated { .. } | Change::Deleted(_) => {}
    });
    this.follow::<Pod>(Measure::Pods, |old, new| {
        let ended = |pod: &Pod| matches!(phase(pod), "Succeeded" | "Failed");
        let sizes = |pod: &Pod| {
            pod.spec
                .as_ref()
                .map(|spec| spec.containers.iter().map(|container| container.resources.clone()).collect::<Vec<_>>())
        };
        (!ended(old) && ended(new)) || sizes(old) != sizes(new)
    });
    this.follow::<Service>(Measure::Services, |old, new| old.spec != new.spec);
    this.follow::<PersistentVolumeClaim>(Measure::Claims, |old, new| old.spec != new.spec || old.status != new.status);
    Arc::new(this)
}

impl Quotas {
    /// Looks again at the quotas that count an object which is gone, or which `frees` something by a change.
    fn follow<K>(&self, measure: Measure, frees: impl Fn(&K, &K) -> bool + Send + Sync + 'static)
    where
        K: Resource<DynamicType = ()> + Clone + serde::de::DeserializeOwned + std::fmt::Debug + Send + Sync + 'static,
    {
        let (queue, quotas) = (self.queue.clone(), self.quotas.clone());
        self.informers.of::<K>().on_change(move |change| {
            let object = change.object();
            let freed = || match change {
                Change::Added(_) => false,
                Change::Deleted(_) => true,
                Change::Updated { old, new } => frees(old, new),
            };
            let namespace = object.meta().namespace.as_deref().unwrap_or_default();
            look_again(&queue, &quotas, namespace, &measure, freed);
        });
    }

    /// As [`Self::follow`], of a kind of which only the number counts.
    fn follow_metadata(&self, resource: &ApiResource, measure: Measure) {
        if !self.watched.lock().insert((resource.group.clone(), resource.plural.clone())) {
            return;
        }
        let (queue, quotas) = (self.queue.clone(), self.quotas.clone());
        self.informers.metadata(resource).on_change(move |change| {
            let namespace = change.object().metadata.namespace.as_deref().unwrap_or_default();
            let freed = || matches!(change, Change::Deleted(_)) || matches!(measure, Measure::ResourceClaims);
            look_again(&queue, &quotas, namespace, &measure, freed);
        });
    }

    /// What the quotas' names count: each measure with the resource to count.
    async fn measures(&self, names: &Amounts) -> Result<Vec<(Measure, ApiResource)>, Error> {
        let mut found = Vec::new();
        for (measure, resource) in [
            (Measure::Pods, ApiResource::erase::<Pod>(&())),
            (Measure::Services, ApiResource::erase::<Service>(&())),
            (Measure::Claims, ApiResource::erase::<PersistentVolumeClaim>(&())),
        ] {
            if names.keys().any(|name| measure.covers(name)) {
                found.push((measure, resource));
            }
        }
        let mut others: Vec<(String, String)> = names.keys().filter_map(|name| counted(name)).collect();
        if names.keys().any(|name| Measure::ResourceClaims.covers(name)) {
            others.push(("resource.k8s.io".to_owned(), "resourceclaims".to_owned()));
        }
        others.sort();
        others.dedup();
        for (group, plural) in others {
            let measure = Measure::of(&group, &plural);
            if matches!(measure, Measure::Pods | Measure::Services | Measure::Claims) {
                continue;
            }
            // A kind that nobody serves has no objects: nothing is said about it.
            if let Some(resource) = self.resource(&group, &plural).await? {
                self.follow_metadata(&resource, measure.clone());
                found.push((measure, resource));
            }
        }
        Ok(found)
    }

    async fn resource(&self, group: &str, plural: &str) -> Result<Option<ApiResource>, Error> {
        let find = |resources: &Resources| {
            let found = resources.watched.iter().find(|r| r.api.group == group && r.api.plural == plural);
            found.map(|resource| resource.api.clone())
        };
        let known = self.resources.lock().clone();
        if let Some(found) = find(&known) {
            return Ok(Some(found));
        }
        let fresh = Arc::new(monitors::discover(&self.client).await.map_err(Error::api("discover resources"))?);
        let found = find(&fresh);
        *self.resources.lock() = fresh;
        Ok(found)
    }

    /// What is used of everything in `hard`.
    async fn count(&self, namespace: &str, hard: &Amounts, scopes: &[Requirement]) -> Result<Amounts, Error> {
        let mut used = Amounts::new();
        for (measure, resource) in self.measures(hard).await? {
            let names = || hard.keys().filter(|name| measure.covers(name));
            used.extend(names().map(|name| (name.clone(), Quantity::zero())));
            let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
            let doing = || Error::api(format!("list {} in {namespace}", resource.plural));
            let objects: Vec<Value> = if matches!(measure, Measure::Count { .. }) {
                let list = api.list_metadata(&ListParams::default()).await.map_err(doing())?;
                list.items.iter().map(|_| Value::Null).collect()
            } else {
                let list = api.list(&ListParams::default()).await.map_err(doing())?;
                list.items.into_iter().filter_map(|object| serde_json::to_value(object).ok()).collect()
            };
            let now = self.clock.now();
            for object in objects.iter().filter(|object| scopes.iter().all(|scope| measure.in_scope(scope, object))) {
                let usage = measure.usage(object, now);
                add(&mut used, &usage.into_iter().filter(|(name, _)| hard.contains_key(name)).collect());
            }
        }
        Ok(used)
    }

    /// `Ok(false)`: the quota changed meanwhile.
    async fn settle(&self, key: &ObjectKey, patient: bool) -> Result<bool, Error> {
        let api = Api::<ResourceQuota>::namespaced(self.client.clone(), &key.namespace);
        let found = gone_is_fine(api.get(&key.name).await).map_err(Error::api(format!("get resource quota {key}")))?;
        let Some(mut quota) = found.filter(|quota| quota.metadata.deletion_timestamp.is_none()) else {
            return Ok(true);
        };
        let value = json!({"spec": quota.spec, "status": quota.status});
        let hard = amounts(&value["spec"]["hard"]);
        let (known_hard, known) = (amounts(&value["status"]["hard"]), amounts(&value["status"]["used"]));
        if patient && !known.is_empty() {
            self.clock.sleep(STORED).await;
        }
        let used = self.count(&key.namespace, &hard, &requirements(&value["spec"])).await?;
        if value["status"]["hard"].is_object() && known_hard == hard && known == used {
            return Ok(true);
        }
        let status = json!({"hard": to_json(&hard), "used": to_json(&used)});
        quota.status = serde_json::from_value(status).ok();
        match gone_is_fine(api.replace_status(&key.name, &PostParams::default(), &quota).await) {
            Ok(_) => Ok(true),
            Err(error) if crate::error::code(&error) == 409 => Ok(false),
            Err(error) => Err(Error::api(format!("write what is used of resource quota {key}"))(error)),
        }
    }
}

fn look_again(
    queue: &WorkQueue<ObjectKey>,
    quotas: &Informer<ResourceQuota>,
    namespace: &str,
    measure: &Measure,
    freed: impl Fn() -> bool,
) {
    let here = quotas.list_in(namespace);
    if here.is_empty() || !freed() {
        return;
    }
    for quota in here {
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
        if hard.is_some_and(|hard| hard.keys().any(|name| measure.covers(name))) {
            queue.add(ObjectKey::of(quota.as_ref()));
        }
    }
}

#[async_trait]
impl Controller for Quotas {
    fn name(&self) -> &'static str {
        "resourcequota"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.quotas.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        if self.quotas.get(key).is_none() {
            return Ok(None);
        }
        for attempt in 0..=PATIENT_TRIES {
            if self.settle(key, attempt < PATIENT_TRIES).await? {
                return Ok(None);
            }
        }
        Ok(Some(STORED))
    }
}
