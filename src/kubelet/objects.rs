//! The ConfigMaps and Secrets that pods of this node refer to: each watched by its name while a pod needs it, which is
//! all that the node authorizer allows.
//!
//! Invariants:
//! - OB-1: nothing is watched that no pod of this node refers to.
//! - OB-2: a change wakes every pod that refers to the object, once the new version can be read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use component_base::{Backoff, SharedClock, TaskGroup};
use futures::TryStreamExt as _;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tracing::debug;

use crate::containers::{all, env, text};
use crate::error::{Error, Result};

/// How long a first read may take before it is an error (it goes on in the background).
const FIRST_READ: Duration = Duration::from_secs(10);

type Wake = Arc<dyn Fn(&str) + Send + Sync>;

/// Names that a pod refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

/// Everything `pod` refers to, in volumes, environments and pull secrets.
pub fn references(pod: &Pod) -> References {
    let mut out = References::default();
    let Some(spec) = &pod.spec else { return out };
    for volume in spec.volumes.iter().flatten() {
        out.config_maps.extend(volume.config_map.as_ref().map(|c| c.name.clone()));
        out.secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            out.config_maps.extend(source.config_map.as_ref().map(|c| c.name.clone()));
            out.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    for container in all(pod) {
        let (maps, secrets) = env::references(&container);
        out.config_maps.extend(maps);
        out.secrets.extend(secrets);
    }
    out.secrets.extend(spec.image_pull_secrets.iter().flatten().map(|r| r.name.clone()));
    out
}

/// The store. Cloning shares it.
#[derive(Clone)]
pub struct Objects {
    config_maps: Watches<ConfigMap>,
    secrets: Watches<Secret>,
    known: Arc<Mutex<HashMap<String, (String, References)>>>,
}

impl Objects {
    pub fn new(client: Client, clock: SharedClock, tasks: TaskGroup) -> Self {
        Self {
            config_maps: Watches::new("configmap", client.clone(), clock.clone(), tasks.clone()),
            secrets: Watches::new("secret", client, clock, tasks),
            known: Arc::default(),
        }
    }

    /// Calls `wake` with the uid of every pod whose object changed.
    pub fn on_change(&self, wake: impl Fn(&str) + Send + Sync + 'static) {
        let wake: Wake = Arc::new(wake);
        *self.config_maps.wake.lock() = Some(wake.clone());
        *self.secrets.wake.lock() = Some(wake);
    }

    /// Starts watching what `pod` refers to (and stops what it no longer does).
    pub fn register(&self, pod: &Pod) {
        let (uid, namespace) = (text(&pod.metadata.uid), text(&pod.metadata.namespace));
        let new = references(pod);
        let old = self.known.lock().insert(uid.to_owned(), (namespace.to_owned(), new.clone())).map(|(_, r)| r);
        if old.as_ref() == Some(&new) {
            return;
        }
        let old = old.unwrap_or_default();
        self.config_maps.change(uid, namespace, &old.config_maps, &new.config_maps);
        self.secrets.change(uid, namespace, &old.secrets, &new.secrets);
    }

    /// The pod needs nothing any more.
    pub fn forget(&self, uid: &str) {
        let Some((namespace, old)) = self.known.lock().remove(uid) else { return };
        self.config_maps.change(uid, &namespace, &old.config_maps, &BTreeSet::new());
        self.secrets.change(uid, &namespace, &old.secrets, &BTreeSet::new());
    }

    /// `None`: there is no such ConfigMap. It must be one that a registered pod refers to.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>> {
        self.config_maps.get(namespace, name).await
    }

    /// `None`: there is no such Secret. It must be one that a registered pod refers to.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>> {
        self.secrets.get(namespace, name).await
    }

    /// The environment's objects by name.
    ///
    /// # Errors
    /// When one cannot be read.
    pub async fn environment(
        &self,
        namespace: &str,
        container: &k8s_openapi::api::core::v1::Container,
    ) -> Result<(BTreeMap<String, Option<Arc<ConfigMap>>>, BTreeMap<String, Option<Arc<Secret>>>)> {
        let (names, secret_names) = env::references(container);
        let (mut maps, mut secrets) = (BTreeMap::new(), BTreeMap::new());
        for name in names {
            maps.insert(name.clone(), self.config_map(namespace, &name).await?);
        }
        for name in secret_names {
            secrets.insert(name.clone(), self.secret(namespace, &name).await?);
        }
        Ok((maps, secrets))
    }
}

/// What is known of one object.
enum Known<K> {
    NotYet,
    /// The last attempt failed.
    Failed(String),
    Is(Option<Arc<K>>),
}

struct Watched<K> {
    value: Arc<watch::Sender<Known<K>>>,
    users: HashSet<String>,
    stop: TaskGroup,
}

struct Watches<K> {
    kind: &'static str,
    client: Client,
    clock: SharedClock,
    tasks: TaskGroup,
    entries: Arc<Mutex<HashMap<(String, String), Watched<K>>>>,
    wake: Arc<Mutex<Option<Wake>>>,
}

impl<K> Clone for Watches<K> {
    fn clone(&self) -> Self {
        Self {
            kind: self.kind,
            client: self.client.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
            entries: self.entries.clone(),
            wake: self.wake.clone(),
        }
    }
}

impl<K> Watches<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    fn new(kind: &'static str, client: Client, clock: SharedClock, tasks: TaskGroup) -> Self {
        Self { kind, client, clock, tasks, entries: Arc::default(), wake: Arc::default() }
    }

    fn change(&self, uid: &str, namespace: &str, old: &BTreeSet<String>, new: &BTreeSet<String>) {
        let mut entries = self.entries.lock();
        for name in new.difference(old) {
            let key = (namespace.to_owned(), name.clone());
            let entry = entries.entry(key.clone()).or_insert_with(|| {
                let value = Arc::new(watch::Sender::new(Known::NotYet));
                let stop = TaskGroup::child_of(self.tasks.token());
                stop.spawn(self.clone().follow(key, value.clone()));
                Watched { value, users: HashSet::new(), stop }
            });
            entry.users.insert(uid.to_owned());
        }
        for name in old.difference(new) {
            let key = (namespace.to_owned(), name.clone());
            let Some(entry) = entries.get_mut(&key) else { continue };
            entry.users.remove(uid);
            if entry.users.is_empty() {
                entry.stop.token().cancel();
                entries.remove(&key);
            }
        }
    }

    async fn get(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>> {
        let key = (namespace.to_owned(), name.to_owned());
        let value = self.entries.lock().get(&key).map(|entry| entry.value.clone());
        let missing = |why: &str| Error::pod(format!("failed to read {} {namespace}/{name}: {why}", self.kind));
        let Some(value) = value else { return Err(missing("not registered")) };
        let mut seen = value.subscribe();
        let known = tokio::select! {
            known = seen.wait_for(|known| !matches!(known, Known::NotYet)) => known,
            () = self.clock.sleep(FIRST_READ) => {
                return Err(missing("failed to sync cache: timed out waiting for the condition"));
            }
        };
        match known.as_deref() {
            Ok(Known::Is(object)) => Ok(object.clone()),
            Ok(Known::Failed(why)) => Err(missing(why)),
            Ok(Known::NotYet) | Err(_) => Err(missing("not read yet")),
        }
    }

    async fn follow(self, key: (String, String), value: Arc<watch::Sender<Known<K>>>) {
        let api = Api::<K>::namespaced(self.client.clone(), &key.0);
        let fields = format!("metadata.name={}", key.1);
        let backoff = Backoff::RECONNECT;
        let mut failures = 0;
        loop {
            match self.follow_once(&api, &fields, &key, &value).await {
                Ok(()) => failures = 0,
                Err(error) => {
                    debug!(kind = self.kind, object = %format!("{}/{}", key.0, key.1), %error, "watch broke");
                    // What was known stays known; only a first read that fails is told.
                    value.send_if_modified(|known| {
                        let first = !matches!(known, Known::Is(_));
                        if first {
                            *known = Known::Failed(error.to_string());
                        }
                        first
                    });
                    self.clock.sleep(backoff.delay(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    async fn follow_once(
        &self,
        api: &Api<K>,
        fields: &str,
        key: &(String, String),
        value: &watch::Sender<Known<K>>,
    ) -> kube::Result<()> {
        let list = api.list(&ListParams::default().fields(fields)).await?;
        let version = list.metadata.resource_version.unwrap_or_default();
        self.tell(key, value, list.items.into_iter().next());
        let params = WatchParams::default().fields(fields).timeout(290);
        let mut stream = std::pin::pin!(api.watch(&params, &version).await?);
        while let Some(event) = stream.try_next().await? {
            match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => self.tell(key, value, Some(object)),
                WatchEvent::Deleted(_) => self.tell(key, value, None),
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(_) => return Ok(()),
            }
        }
        Ok(())
    }

    fn tell(&self, key: &(String, String), value: &watch::Sender<Known<K>>, object: Option<K>) {
        let version = |object: &Option<Arc<K>>| object.as_ref().and_then(|o| o.meta().resource_version.clone());
        let new = object.map(Arc::new);
        let first = std::cell::Cell::new(false);
        let changed = value.send_if_modified(|known| {
            first.set(matches!(known, Known::NotYet));
            let same =
                matches!(&known, Known::Is(old) if version(old) == version(&new) && old.is_some() == new.is_some());
            if !same {
                *known = Known::Is(new.clone());
            }
            !same
        });
        // The first reader is waiting for it anyway.
        if !changed || first.get() {
            return;
        }
        let users: Vec<String> =
            self.entries.lock().get(key).map(|e| e.users.iter().cloned().collect()).unwrap_or_default();
        let wake = self.wake.lock().clone();
        if let Some(wake) = wake {
            for uid in users {
                wake(&uid);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn finds_every_reference() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "volumes": [
                    {"name": "a", "configMap": {"name": "vm"}}, {"name": "b", "secret": {"secretName": "vs"}},
                    {"name": "c", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}}],
                "containers": [{"name": "c", "envFrom": [{"secretRef": {"name": "es"}}],
                    "env": [{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "em", "key": "k"}}}]}]}}))
        .expect("a pod");
        let found = references(&pod);
        assert_eq!(found.config_maps.iter().collect::<Vec<_>>(), ["em", "kube-root-ca.crt", "vm"]);
        assert_eq!(found.secrets.iter().collect::<Vec<_>>(), ["es", "pull", "vs"]);
    }
}
