//! Which resources there are, and a metadata informer for each that can be deleted.
//!
//! Invariants:
//! - GC-3: each resource is watched once, in the version that its group prefers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Informer;
use component_base::SharedClock;
use kube::Client;
use kube::api::{DynamicObject, PartialObjectMeta};
use kube::core::ApiResource;
use kube::discovery::{ApiCapabilities, Discovery, Scope, verbs};
use parking_lot::Mutex;

pub type MetadataInformer = Informer<PartialObjectMeta<DynamicObject>>;

#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    pub api: ApiResource,
    pub namespaced: bool,
}

/// What discovery says.
#[derive(Default)]
pub struct Resources {
    /// By `apiVersion` and kind, every version.
    kinds: HashMap<(String, String), Arc<Resource>>,
    /// Deletable and watchable, one version each.
    pub watched: Vec<Arc<Resource>>,
}

impl Resources {
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.kinds.get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }
}

fn resource((api, capabilities): &(ApiResource, ApiCapabilities)) -> Arc<Resource> {
    Arc::new(Resource { api: api.clone(), namespaced: capabilities.scope == Scope::Namespaced })
}

/// Events own nothing and are too many.
fn is_ignored(api: &ApiResource) -> bool {
    api.plural == "events" && matches!(api.group.as_str(), "" | "events.k8s.io")
}

pub async fn discover(client: &Client) -> kube::Result<Resources> {
    let discovery = match Discovery::new(client.clone()).run_aggregated().await {
        Ok(discovery) => discovery,
        Err(_) => Discovery::new(client.clone()).run().await?,
    };
    let mut resources = Resources::default();
    for group in discovery.groups() {
        for version in group.versions() {
            for found in group.versioned_resources(version) {
                let key = (found.0.api_version.clone(), found.0.kind.clone());
                resources.kinds.entry(key).or_insert_with(|| resource(&found));
            }
        }
        let wanted = [verbs::DELETE, verbs::LIST, verbs::WATCH];
        for found in group.recommended_resources() {
            if wanted.iter().all(|verb| found.1.supports_operation(verb)) && !is_ignored(&found.0) {
                resources.watched.push(resource(&found));
            }
        }
    }
    Ok(resources)
}

/// Whether a resource is watched already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    First,
    /// It was served before: its handlers are in place.
    Again,
    Running,
}

fn key(resource: &Resource) -> (String, String, String) {
    (resource.api.group.clone(), resource.api.version.clone(), resource.api.plural.clone())
}

/// The informers that were started.
#[derive(Default)]
pub struct Monitors {
    /// By group, version and plural: the resource, and whether it is watched now.
    started: Mutex<HashMap<(String, String, String), (Arc<Resource>, bool)>>,
    filling: Mutex<Vec<(MetadataInformer, Instant)>>,
}

/// An informer that has not filled by then does not hold up the others.
const PATIENCE: Duration = Duration::from_secs(30);

impl Monitors {
    /// What is to be done to watch a resource.
    pub fn start(&self, resource: &Arc<Resource>) -> Start {
        match self.started.lock().insert(key(resource), (resource.clone(), true)) {
            None => Start::First,
            Some((_, false)) => Start::Again,
            Some((_, true)) => Start::Running,
        }
    }

    /// The resources that were watched and are not among `wanted` any more.
    pub fn stop_others(&self, wanted: &[Arc<Resource>]) -> Vec<Arc<Resource>> {
        let mut gone = Vec::new();
        for (known, (resource, watched)) in self.started.lock().iter_mut() {
            if *watched && !wanted.iter().any(|wanted| key(wanted) == *known) {
                *watched = false;
                gone.push(resource.clone());
            }
        }
        gone
    }

    pub fn add(&self, informer: MetadataInformer, now: Instant) {
        self.filling.lock().push((informer, now));
    }

    /// Every informer is filled, or has had its time.
    pub async fn synced(&self, clock: &SharedClock) {
        let filling = self.filling.lock().clone();
        if filling.is_empty() {
            return;
        }
        for (informer, since) in filling {
            let left = (since + PATIENCE).saturating_duration_since(clock.instant());
            tokio::select! {
                () = informer.synced() => {}
                () = clock.sleep(left) => {}
            }
        }
        let now = clock.instant();
        self.filling.lock().retain(|(informer, since)| !informer.has_synced() && *since + PATIENCE > now);
    }
}
