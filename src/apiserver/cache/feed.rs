//! The cache as a whole: loading, the feed, and freshness.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use component_base::{SharedClock, TaskGroup};
use store::{KeyValue, RangeRequest, Revision, Store, WatchRequest};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tracing::{error, info, warn};

use super::resource::{Restore, SelectableFields};
use super::{CacheWatcher, Event, Object, ObjectReader, ResourceCache, WatchFilter};
use crate::Kinds;

const ROOT: &[u8] = b"/registry/";

/// Current state of every resource, following the store.
pub struct Cache {
    store: Arc<dyn Store>,
    clock: SharedClock,
    resources: ArcSwap<HashMap<String, Arc<ResourceCache>>>,
    /// Everything up to this revision is in (CA-1). The atomic is for snapshots, the channel for waiters.
    revision: Arc<AtomicI64>,
    reached: watch::Sender<Revision>,
    commands: mpsc::UnboundedSender<Command>,
}

/// What the feed does besides following (CA-4).
enum Command {
    /// Loads this resource's objects and serves it, in place of one of the same key.
    Put(Arc<ResourceCache>, oneshot::Sender<bool>),
    Remove(String, oneshot::Sender<bool>),
}

impl Cache {
    /// Loads everything and starts following.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn start(
        store: Arc<dyn Store>,
        kinds: Arc<Kinds>,
        clock: SharedClock,
        tasks: &TaskGroup,
    ) -> Result<Arc<Self>, store::Error> {
        let (commands, orders) = mpsc::unbounded_channel();
        let cache = Arc::new(Self {
            store,
            clock,
            resources: ArcSwap::default(),
            revision: Arc::new(AtomicI64::new(0)),
            reached: watch::Sender::new(0),
            commands,
        });
        cache.add_resources(&kinds);
        let watcher = cache.load().await?;
        let feed = cache.clone();
        tasks.spawn(async move { feed.follow(watcher, orders).await });
        Ok(cache)
    }

    /// Makes a cache for every resource of `kinds` that has none.
    fn add_resources(&self, kinds: &Kinds) {
        let mut resources = (**self.resources.load()).clone();
        for kind in kinds.all().iter() {
            let key = kind.storage_key.to_string();
            resources.entry(key.clone()).or_insert_with(|| {
                let strategy = kinds.storage_kind(&key).unwrap_or_else(|| kind.clone()).strategy.clone();
                let fields: SelectableFields = Arc::new(move |value| strategy.selectable_fields(value));
                Arc::new(ResourceCache::new(key, fields, None, self.revision.clone()))
            });
        }
        self.resources.store(Arc::new(resources));
    }

    async fn load(&self) -> Result<store::Watcher, store::Error> {
        let everything = self.store.range(RangeRequest::prefix(ROOT)).await?;
        let revision = everything.revision;
        let mut by_resource: BTreeMap<String, Vec<KeyValue>> = BTreeMap::new();
        for kv in everything.kvs {
            if let Some(resource) = self.resource_of(&kv.key) {
                by_resource.entry(resource.storage_key.clone()).or_default().push(kv);
            }
        }
        let request =
            WatchRequest { range: RangeRequest::prefix(ROOT).range, start_revision: revision + 1, progress: true };
        let watcher = self.store.watch(request).await?;
        for (key, resource) in self.resources.load().iter() {
            resource.reset(by_resource.get(key).map_or(&[], Vec::as_slice), revision);
        }
        self.advance(revision);
        info!(revision, objects = by_resource.values().map(Vec::len).sum::<usize>(), "watch cache loaded");
        Ok(watcher)
    }

    fn resource_of(&self, key: &[u8]) -> Option<Arc<ResourceCache>> {
        let rest = std::str::from_utf8(key.strip_prefix(ROOT)?).ok()?;
        let resources = self.resources.load();
        let mut cuts = rest.match_indices('/').map(|(at, _)| at);
        let (first, second) = (cuts.next()?, cuts.next());
        second.and_then(|at| resources.get(&rest[..at])).or_else(|| resources.get(&rest[..first])).cloned()
    }

    /// Serves another resource, or one of the same key anew: its watches end. False: the store could not be read.
    pub async fn put_resource(&self, storage_key: String, fields: SelectableFields, restore: Restore) -> bool {
        let resource = ResourceCache::new(storage_key, fields, Some(restore), self.revision.clone());
        let (done, outcome) = oneshot::channel();
        self.commands.send(Command::Put(Arc::new(resource), done)).is_ok() && outcome.await.unwrap_or(false)
    }

    pub async fn remove_resource(&self, storage_key: &str) {
        let (done, outcome) = oneshot::channel();
        if self.commands.send(Command::Remove(storage_key.to_owned(), done)).is_ok() {
            let _ = outcome.await;
        }
    }

    async fn obey(&self, command: Command) {
        let mut resources = (**self.resources.load()).clone();
        match command {
            Command::Put(resource, done) => {
                let loaded = self.store.range(RangeRequest::prefix(&resource.prefix)).await;
                let ok = match loaded {
                    Ok(found) => {
                        resource.reset(&found.kvs, found.revision);
                        let old = resources.insert(resource.storage_key.clone(), resource);
                        self.resources.store(Arc::new(resources));
                        old.iter().for_each(|old| old.end_watches());
                        true
                    }
                    Err(error) => {
                        warn!(%error, resource = resource.storage_key, "cannot load a resource");
                        false
                    }
                };
                let _ = done.send(ok);
            }
            Command::Remove(key, done) => {
                let old = resources.remove(&key);
                self.resources.store(Arc::new(resources));
                old.iter().for_each(|old| old.end_watches());
                let _ = done.send(true);
            }
        }
    }

    async fn follow(&self, mut watcher: store::Watcher, mut orders: mpsc::UnboundedReceiver<Command>) {
        loop {
            let batch = tokio::select! {
                batch = watcher.batches.recv() => batch,
                Some(command) = orders.recv() => {
                    self.obey(command).await;
                    continue;
                }
            };
            match batch {
                Some(Ok(batch)) => self.apply(&batch),
                outcome => {
                    if matches!(outcome, None | Some(Err(store::Error::Closed))) {
                        info!("store closed, the watch cache stands still");
                        return;
                    }
                    warn!("the watch cache lost the store's events, loading again");
                    loop {
                        match self.load().await {
                            Ok(fresh) => {
                                watcher = fresh;
                                break;
                            }
                            Err(store::Error::Closed) => return,
                            Err(error) => {
                                error!(%error, "cannot load the watch cache");
                                self.clock.sleep(Duration::from_secs(1)).await;
                            }
                        }
                    }
                }
            }
        }
    }

    fn apply(&self, batch: &store::WatchBatch) {
        // Runs of events of one resource are applied together; the order within a resource is kept.
        let mut groups: Vec<(Arc<ResourceCache>, Vec<Arc<store::Event>>)> = Vec::new();
        for event in &batch.events {
            let Some(resource) = self.resource_of(&event.kv.key) else { continue };
            match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &resource)) {
                Some((_, events)) => events.push(event.clone()),
                None => groups.push((resource, vec![event.clone()])),
            }
        }
        for (resource, events) in &groups {
            resource.apply(events);
        }
        self.advance(batch.revision);
    }

    fn advance(&self, revision: Revision) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
        self.reached.send_if_modified(|reached| {
            let newer = revision > *reached;
            *reached = revision.max(*reached);
            newer
        });
    }

    /// Every event up to this revision is in the cache.
    pub fn revision(&self) -> Revision {
        self.revision.load(Ordering::Acquire)
    }

    /// Waits until the cache has reached `revision`. False: not within three seconds.
    pub async fn wait_for(&self, revision: Revision) -> bool {
        if self.revision() >= revision {
            return true;
        }
        let mut reached = self.reached.subscribe();
        tokio::select! {
            outcome = reached.wait_for(|reached| *reached >= revision) => outcome.is_ok(),
            () = self.clock.sleep(Duration::from_secs(3)) => false,
        }
    }

    pub fn resource(&self, storage_key: &str) -> Option<Arc<ResourceCache>> {
        self.resources.load().get(storage_key).cloned()
    }

    /// Opens a watch of the events after `after`, from the ring or from the store's history.
    ///
    /// # Errors
    /// [`store::Error::Compacted`] when the history is gone.
    pub async fn watch_after(
        &self,
        resource: &Arc<ResourceCache>,
        filter: &WatchFilter,
        after: Revision,
    ) -> Result<CacheWatcher, store::Error> {
        if let Some(watcher) = resource.watch_after(filter, after, VecDeque::new()) {
            return Ok(watcher);
        }
        let request = WatchRequest { range: filter.range.clone(), start_revision: after + 1, progress: true };
        let mut history = self.store.watch(request).await?;
        let mut backlog = VecDeque::new();
        let mut seen = after;
        loop {
            let batch = history.batches.recv().await.unwrap_or(Err(store::Error::Closed))?;
            for event in &batch.events {
                let prev = event.prev_kv.as_ref().and_then(|kv| resource.object(kv)).map(Arc::new);
                if let Some(event) = resource.event(event, prev) {
                    backlog.extend(filter.delivery(&event, after));
                }
            }
            seen = seen.max(batch.revision);
            if seen >= resource.ring_after() {
                // Gives the backlog back only by success; a ring that moved on meanwhile is met by another round.
                if let Some(watcher) = resource.watch_after(filter, seen, std::mem::take(&mut backlog)) {
                    return Ok(watcher);
                }
            }
        }
    }
}

#[async_trait]
impl ObjectReader for Cache {
    fn peek(&self, storage_key: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let resource = self.resource(storage_key)?;
        resource.get(object_key(&resource.prefix, namespace, name).as_slice())
    }

    fn peek_all(&self, storage_key: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        let Some(resource) = self.resource(storage_key) else { return Vec::new() };
        let prefix = match namespace {
            Some(namespace) => [&resource.prefix[..], namespace.as_bytes(), b"/"].concat(),
            None => resource.prefix.to_vec(),
        };
        resource.snapshot().range(&prefix, b"").cloned().collect()
    }

    async fn fresh(&self) {
        self.wait_for(self.store.revision()).await;
    }

    fn subscribe(&self, storage_key: &str) -> Option<broadcast::Receiver<Arc<Event>>> {
        Some(self.resource(storage_key)?.subscribe())
    }
}

/// `<prefix><namespace>/<name>`, or `<prefix><name>` for cluster-scoped objects.
pub fn object_key(prefix: &[u8], namespace: &str, name: &str) -> Vec<u8> {
    let mut key = prefix.to_vec();
    if !namespace.is_empty() {
        key.extend_from_slice(namespace.as_bytes());
        key.push(b'/');
    }
    key.extend_from_slice(name.as_bytes());
    key
}
