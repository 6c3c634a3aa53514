//! Shared informers: list once, watch on, keep a cache, tell the handlers.
//!
//! Invariants:
//! - IN-1: handlers see every object exactly once as `Added`, then its changes in order; a relist is told as the
//!   difference to the cache.
//! - IN-2: the cache is updated before the handlers are called, so a handler always finds at least what it was told.
//! - IN-3: handlers never block: they enqueue keys.
//! - IN-5: a stopped informer is empty, and its handlers were told so; started again it is the same informer.
//! - IN-4: cached objects carry no managedFields.

use std::any::{Any, TypeId};
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component_base::{Backoff, CancellationToken, Ready, SharedClock, TaskGroup};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use kube::api::{DynamicObject, ListParams, PartialObjectMeta, WatchEvent, WatchParams};
use kube::core::ApiResource;
use kube::{Api, Client, Resource};
use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tracing::{debug, warn};

use crate::ObjectKey;

/// What happened to an object.
#[derive(Debug, Clone)]
pub enum Change<K> {
    Added(Arc<K>),
    Updated { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest version known.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Deleted(object) | Self::Updated { new: object, .. } => object,
        }
    }
}

type Handler<K> = Arc<dyn Fn(&Change<K>) + Send + Sync>;
type IndexFn<K> = Arc<dyn Fn(&K) -> Vec<String> + Send + Sync>;

/// A cache of one kind, shared by everyone in the process. Cloning shares it.
pub struct Informer<K>(Arc<Shared<K>>);

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Shared<K> {
    cache: RwLock<Cache<K>>,
    /// Held while a change is told, so that a new handler misses and repeats nothing.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: Ready,
}

struct Cache<K> {
    objects: HashMap<ObjectKey, Arc<K>>,
    indexes: HashMap<&'static str, Index<K>>,
}

struct Index<K> {
    function: IndexFn<K>,
    keys: HashMap<String, HashSet<ObjectKey>>,
}

impl<K: Resource> Informer<K> {
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.0.cache.read().objects.get(key).cloned()
    }

    /// Everything in the cache, in no order.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.0.cache.read().objects.values().cloned().collect()
    }

    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let cache = self.0.cache.read();
        cache.objects.iter().filter(|(key, _)| key.namespace == namespace).map(|(_, object)| object.clone()).collect()
    }

    /// Adds an index (once per name; later calls with the same name are ignored).
    pub fn add_index(&self, name: &'static str, function: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) {
        let mut cache = self.0.cache.write();
        if cache.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { function: Arc::new(function), keys: HashMap::new() };
        for (key, object) in &cache.objects {
            index.insert(key, object);
        }
        cache.indexes.insert(name, index);
    }

    /// The objects that the index `name` filed under `value`.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<K>> {
        let cache = self.0.cache.read();
        let keys = cache.indexes.get(name).and_then(|index| index.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| cache.objects.get(key).cloned()).collect()
    }

    /// Calls `handler` with every object that is there as `Added`, then with every change.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock();
        for object in self.list() {
            handler(&Change::Added(object));
        }
        handlers.push(Arc::new(handler));
    }

    /// Waits until the first list is in the cache.
    pub async fn synced(&self) {
        self.0.synced.wait().await;
    }

    pub fn has_synced(&self) -> bool {
        self.0.synced.is_set()
    }

    fn new() -> Self {
        Self(Arc::new(Shared {
            cache: RwLock::new(Cache { objects: HashMap::new(), indexes: HashMap::new() }),
            handlers: Mutex::new(Vec::new()),
            synced: Ready::new(),
        }))
    }

    fn apply(&self, mut object: K) {
        // Who owns which field is the server's business, and often half of an object's size; an update without it
        // keeps what the server has.
        object.meta_mut().managed_fields = None;
        let key = ObjectKey::of(&object);
        let new = Arc::new(object);
        let handlers = self.0.handlers.lock();
        let old = self.0.cache.write().insert(key, new.clone());
        let change = match old {
            // A relist and the watch after it may tell the same version twice.
            Some(old) if old.meta().resource_version == new.meta().resource_version => return,
            Some(old) => Change::Updated { old, new },
            None => Change::Added(new),
        };
        tell(&handlers, &change);
    }

    fn delete(&self, key: &ObjectKey, last: Option<K>) {
        let handlers = self.0.handlers.lock();
        let Some(known) = self.0.cache.write().remove(key) else { return };
        tell(&handlers, &Change::Deleted(last.map_or(known, Arc::new)));
    }

    fn replace(&self, objects: Vec<K>) {
        let present: HashSet<ObjectKey> = objects.iter().map(ObjectKey::of).collect();
        let gone: Vec<ObjectKey> =
            self.0.cache.read().objects.keys().filter(|key| !present.contains(key)).cloned().collect();
        for key in gone {
            self.delete(&key, None);
        }
        for object in objects {
            self.apply(object);
        }
        self.0.synced.set();
    }
}

fn tell<K>(handlers: &[Handler<K>], change: &Change<K>) {
    for handler in handlers {
        handler(change);
    }
}

impl<K> Cache<K> {
    fn insert(&mut self, key: ObjectKey, object: Arc<K>) -> Option<Arc<K>> {
        let old = self.objects.insert(key.clone(), object.clone());
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(&key, old);
            }
            index.insert(&key, &object);
        }
        old
    }

    fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        for index in self.indexes.values_mut() {
            index.remove(key, &old);
        }
        Some(old)
    }
}

impl<K> Index<K> {
    fn insert(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.function)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.function)(object) {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
    }
}

/// Where an informer gets its objects.
#[async_trait]
trait Source<K>: Send + Sync + 'static {
    /// Objects and the resourceVersion of the list.
    async fn list(&self) -> kube::Result<(Vec<K>, String)>;
    async fn watch(&self, resource_version: &str) -> kube::Result<BoxStream<'static, kube::Result<WatchEvent<K>>>>;
}

struct Typed<K> {
    api: Api<K>,
    field_selector: Option<String>,
}

#[async_trait]
impl<K> Source<K> for Typed<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    async fn list(&self) -> kube::Result<(Vec<K>, String)> {
        let params = ListParams { field_selector: self.field_selector.clone(), ..ListParams::default() };
        let list = self.api.list(&params).await?;
        Ok((list.items, list.metadata.resource_version.unwrap_or_default()))
    }

    async fn watch(&self, resource_version: &str) -> kube::Result<BoxStream<'static, kube::Result<WatchEvent<K>>>> {
        Ok(self.api.watch(&watch_params(&self.field_selector), resource_version).await?.boxed())
    }
}

/// Metadata alone, of any resource: what the garbage collector and quota need.
struct MetadataOnly(Api<DynamicObject>);

#[async_trait]
impl Source<PartialObjectMeta<DynamicObject>> for MetadataOnly {
    async fn list(&self) -> kube::Result<(Vec<PartialObjectMeta<DynamicObject>>, String)> {
        let list = self.0.list_metadata(&ListParams::default()).await?;
        Ok((list.items, list.metadata.resource_version.unwrap_or_default()))
    }

    async fn watch(
        &self,
        resource_version: &str,
    ) -> kube::Result<BoxStream<'static, kube::Result<WatchEvent<PartialObjectMeta<DynamicObject>>>>> {
        Ok(self.0.watch_metadata(&watch_params(&None), resource_version).await?.boxed())
    }
}

fn watch_params(field_selector: &Option<String>) -> WatchParams {
    WatchParams { field_selector: field_selector.clone(), ..WatchParams::default() }.timeout(290)
}

/// The informers of the process.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    tasks: TaskGroup,
    clock: SharedClock,
    known: Arc<Mutex<HashMap<(TypeId, String), Known>>>,
}

struct Known {
    informer: Arc<dyn Any + Send + Sync>,
    running: CancellationToken,
}

impl Informers {
    pub fn new(client: Client, tasks: TaskGroup, clock: SharedClock) -> Self {
        Self { client, tasks, clock, known: Arc::default() }
    }

    /// All objects of kind `K` in all namespaces. Starts at the first call.
    pub fn of<K>(&self) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        self.selected(None)
    }

    /// Those that `field_selector` selects (`spec.nodeName=n1`).
    pub fn selected<K>(&self, field_selector: Option<&str>) -> Informer<K>
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    {
        let field_selector = field_selector.map(str::to_owned);
        let id = (TypeId::of::<K>(), field_selector.clone().unwrap_or_default());
        self.get_or_start(id, K::kind(&()).into_owned(), || Typed {
            api: Api::all(self.client.clone()),
            field_selector,
        })
    }

    /// Metadata of any resource, all namespaces.
    pub fn metadata(&self, resource: &ApiResource) -> Informer<PartialObjectMeta<DynamicObject>> {
        let (id, name) = metadata_id(resource);
        self.get_or_start(id, name, || MetadataOnly(Api::all_with(self.client.clone(), resource)))
    }

    /// Stops what [`Self::metadata`] started, for a resource that is served no more: its objects are told as deleted.
    pub fn stop_metadata(&self, resource: &ApiResource) {
        if let Some(known) = self.known.lock().get(&metadata_id(resource).0) {
            known.running.cancel();
        }
    }

    fn get_or_start<K, S>(&self, id: (TypeId, String), name: String, source: impl FnOnce() -> S) -> Informer<K>
    where
        K: Resource + Send + Sync + 'static,
        S: Source<K>,
    {
        let mut known = self.known.lock();
        let before = known.get(&id);
        let same = before.and_then(|known| known.informer.downcast_ref::<Informer<K>>()).cloned();
        if let (Some(informer), Some(known)) = (&same, before) {
            if !known.running.is_cancelled() {
                return informer.clone();
            }
        }
        let informer = same.unwrap_or_else(Informer::new);
        let running = CancellationToken::new();
        known.insert(id, Known { informer: Arc::new(informer.clone()), running: running.clone() });
        let (followed, source, clock) = (informer.clone(), source(), self.clock.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = run(name, source, followed.clone(), clock) => {}
                () = running.cancelled() => followed.replace(Vec::new()),
            }
        });
        informer
    }
}

fn metadata_id(resource: &ApiResource) -> ((TypeId, String), String) {
    let name = format!("{}/{}", resource.api_version, resource.plural);
    ((TypeId::of::<PartialObjectMeta<DynamicObject>>(), name.clone()), name)
}

async fn run<K: Resource + Send + Sync + 'static>(
    name: String,
    source: impl Source<K>,
    informer: Informer<K>,
    clock: SharedClock,
) {
    let mut failures = 0;
    let mut version = String::new();
    loop {
        match follow(&source, &informer, &mut version, &mut failures).await {
            // The server ended the watch in the usual way: go on from where it was.
            Ok(()) => debug!(kind = name, "watch ended, resuming"),
            Err(error) => {
                if is_expired(&error) {
                    version.clear();
                }
                let delay = Backoff::RECONNECT.delay(failures);
                if failures > 0 {
                    warn!(kind = name, %error, retry_in_ms = delay.as_millis() as u64, "watch failed, retrying");
                }
                failures += 1;
                clock.sleep(delay.max(Duration::from_millis(1))).await;
            }
        }
    }
}

async fn follow<K: Resource>(
    source: &impl Source<K>,
    informer: &Informer<K>,
    version: &mut String,
    failures: &mut u32,
) -> kube::Result<()> {
    if version.is_empty() {
        let (objects, listed) = source.list().await?;
        informer.replace(objects);
        *version = listed;
    }
    let mut events = source.watch(version).await?;
    while let Some(event) = events.try_next().await? {
        *failures = 0;
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                keep_version(version, &object);
                informer.apply(object);
            }
            WatchEvent::Deleted(object) => {
                keep_version(version, &object);
                informer.delete(&ObjectKey::of(&object), Some(object));
            }
            WatchEvent::Bookmark(bookmark) => version.clone_from(&bookmark.metadata.resource_version),
            WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
        }
    }
    Ok(())
}

fn keep_version<K: Resource>(version: &mut String, object: &K) {
    if let Some(new) = &object.meta().resource_version {
        version.clone_from(new);
    }
}

fn is_expired(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 410)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn object(name: &str, version: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.namespace = Some("ns".into());
        object.metadata.resource_version = Some(version.into());
        object
    }

    fn recorded(informer: &Informer<ConfigMap>) -> Arc<Mutex<Vec<String>>> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let sink = log.clone();
        informer.on_change(move |change| {
            let verb = match change {
                Change::Added(_) => "+",
                Change::Updated { .. } => "~",
                Change::Deleted(_) => "-",
            };
            sink.lock().push(format!("{verb}{}", ObjectKey::of(change.object().as_ref())));
        });
        log
    }

    #[test]
    fn a_relist_is_told_as_the_difference() {
        let informer = Informer::new();
        informer.replace(vec![object("a", "1"), object("b", "2")]);
        let log = recorded(&informer);
        log.lock().sort();
        assert_eq!(*log.lock(), ["+ns/a", "+ns/b"]);
        log.lock().clear();
        informer.replace(vec![object("b", "2"), object("c", "3")]);
        assert_eq!(*log.lock(), ["-ns/a", "+ns/c"]);
        informer.apply(object("c", "4"));
        informer.delete(&ObjectKey::new("ns", "c"), None);
        assert_eq!(log.lock()[2..], ["~ns/c", "-ns/c"]);
    }

    #[test]
    fn indexes_follow_the_cache() {
        let informer = Informer::new();
        informer.apply(object("a", "1"));
        informer.add_index("version", |o: &ConfigMap| o.metadata.resource_version.iter().cloned().collect());
        assert_eq!(informer.by_index("version", "1").len(), 1);
        informer.apply(object("a", "2"));
        assert_eq!(informer.by_index("version", "1").len(), 0);
        assert_eq!(informer.by_index("version", "2").len(), 1);
    }
}
