//! The cache of one resource: the current objects as a persistent map, the last events, and who watches.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::RwLock;
use rpds::RedBlackTreeMapSync;
use serde_json::Value;
use store::{EventKind, KeyRange, KeyValue, Revision};
use tokio::sync::{broadcast, mpsc};

use super::Object;
use super::watcher::{CacheWatcher, Delivery, WatchFilter};

/// Events kept for watches that start in the past, per resource.
const RING: usize = 4096;
/// Events a watcher may be behind before it is ended (CA-3).
const WATCHER_QUEUE: usize = 8192;
const SUBSCRIBER_QUEUE: usize = 1024;

/// How a stored object is read; true: it is not as it was stored.
pub type Restore = Arc<dyn Fn(&mut Value) -> bool + Send + Sync>;
pub type SelectableFields = Arc<dyn Fn(&Value) -> Vec<(&'static str, String)> + Send + Sync>;
type Objects = RedBlackTreeMapSync<Bytes, Arc<Object>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object, shared by everybody who is told.
#[derive(Debug)]
pub struct Event {
    pub ty: EventType,
    pub revision: Revision,
    /// The object after the change; for a deletion its last state, at the revision of the deletion.
    pub object: Arc<Object>,
    pub prev: Option<Arc<Object>>,
    frames: [OnceLock<Bytes>; 3],
}

impl Event {
    pub fn new(ty: EventType, object: Arc<Object>, prev: Option<Arc<Object>>) -> Self {
        Self { ty, revision: object.revision, object, prev, frames: Default::default() }
    }

    /// What a watcher sees that is told `ty`: one that is told DELETED because the object left its selection sees the
    /// object as it was, at the revision of the change.
    pub fn seen_as(&self, ty: EventType) -> Arc<Object> {
        match (ty, self.ty, &self.prev) {
            (EventType::Deleted, EventType::Added | EventType::Modified, Some(prev)) => {
                Arc::new(prev.at_revision(self.revision))
            }
            _ => self.object.clone(),
        }
    }

    /// The event as a line of a JSON watch of the stored version, encoded once.
    pub fn frame(&self, ty: EventType) -> Bytes {
        self.frames[ty as usize].get_or_init(|| frame(ty.as_str(), &self.seen_as(ty).json())).clone()
    }
}

/// `{"type":…,"object":…}` and a newline.
pub fn frame(ty: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + 32);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(ty.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

/// A consistent state of one resource. Cloning is one pointer.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Every event of this resource up to here is in; none after.
    pub revision: Revision,
    /// The revision of the newest event that is in: at any revision from here on the objects are these.
    pub changed: Revision,
    objects: Objects,
}

impl Snapshot {
    pub fn get(&self, key: &[u8]) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    pub fn len(&self) -> usize {
        self.objects.size()
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The objects whose key begins with `prefix`, from `start` on (which has the prefix, or is empty), in key order.
    pub fn range<'a>(&'a self, prefix: &'a [u8], start: &[u8]) -> impl Iterator<Item = &'a Arc<Object>> + use<'a> {
        let start = Bytes::copy_from_slice(if start.is_empty() { prefix } else { start });
        self.objects
            .range((Bound::Included(start), Bound::Unbounded))
            .map(|(_, object)| object)
            .take_while(move |object| object.key.starts_with(prefix))
    }
}

struct Entry {
    id: u64,
    filter: WatchFilter,
    after: Revision,
    queue: mpsc::Sender<Delivery>,
}

struct State {
    objects: Objects,
    /// Revision of the newest event applied.
    revision: Revision,
    ring: VecDeque<Arc<Event>>,
    /// Every event after this revision is in the ring.
    ring_after: Revision,
    /// What was loaded holds every event up to this revision.
    loaded: Revision,
    watchers: Vec<Entry>,
    next_watcher: u64,
}

/// The cache of one resource (of all its served versions).
pub struct ResourceCache {
    pub storage_key: String,
    /// `/registry/<storage key>/`
    pub prefix: Bytes,
    fields: SelectableFields,
    restore: Option<Restore>,
    state: RwLock<State>,
    /// The revision of the whole cache.
    global: Arc<AtomicI64>,
    changes: broadcast::Sender<Arc<Event>>,
}

impl ResourceCache {
    pub(super) fn new(
        storage_key: String,
        fields: SelectableFields,
        restore: Option<Restore>,
        global: Arc<AtomicI64>,
    ) -> Self {
        let prefix = Bytes::from(format!("/registry/{storage_key}/"));
        let state = State {
            objects: Objects::new_sync(),
            revision: 0,
            ring: VecDeque::new(),
            ring_after: 0,
            loaded: 0,
            watchers: Vec::new(),
            next_watcher: 0,
        };
        let changes = broadcast::Sender::new(SUBSCRIBER_QUEUE);
        Self { storage_key, prefix, fields, restore, state: RwLock::new(state), global, changes }
    }

    /// The state now: everything up to [`super::Cache::revision`], perhaps more.
    pub fn snapshot(&self) -> Snapshot {
        // The global revision must be read before the state: it only says what is surely in.
        let global = self.global.load(Ordering::Acquire);
        let state = self.state.read();
        Snapshot { revision: state.revision.max(global), changed: state.revision, objects: state.objects.clone() }
    }

    pub fn get(&self, key: &[u8]) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).cloned()
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.changes.subscribe()
    }

    /// Wraps a stored value of this resource. `None`: the bytes are no API object.
    pub fn object(&self, kv: &KeyValue) -> Option<Object> {
        let (key, bytes, revision) = (kv.key.clone(), kv.value.clone(), kv.mod_revision);
        match &self.restore {
            None => Object::from_stored(key, bytes, revision, &*self.fields),
            Some(restore) => Object::restored(key, bytes, revision, &*self.fields, &**restore),
        }
    }

    pub fn fields_of(&self, value: &Value) -> Vec<(&'static str, String)> {
        (self.fields)(value)
    }

    /// Replaces the whole state (start, or after the feed was lost): watchers are ended, they must list again.
    pub(super) fn reset(&self, kvs: &[KeyValue], revision: Revision) {
        let mut objects = Objects::new_sync();
        for kv in kvs {
            match self.object(kv) {
                Some(object) => objects.insert_mut(kv.key.clone(), Arc::new(object)),
                None => tracing::warn!(key = %String::from_utf8_lossy(&kv.key), "stored value is no API object"),
            }
        }
        let mut state = self.state.write();
        state.objects = objects;
        state.revision = revision;
        state.ring.clear();
        state.ring_after = revision;
        state.loaded = revision;
        state.watchers.clear();
    }

    /// Ends every watch: the resource is gone, or another cache took its place.
    pub(super) fn end_watches(&self) {
        self.state.write().watchers.clear();
    }

    /// The events of one batch, decoded against the current state. Heavy work is done here, outside the lock: the feed
    /// is the only writer.
    fn decode(&self, events: &[Arc<store::Event>]) -> Vec<Arc<Event>> {
        let mut latest: Vec<(Bytes, Option<Arc<Object>>)> = Vec::new();
        let mut decoded = Vec::with_capacity(events.len());
        for event in events {
            let key = &event.kv.key;
            let known = latest.iter().rev().find(|(k, _)| k == key).map(|(_, object)| object.clone());
            let prev = known.unwrap_or_else(|| self.get(key));
            if let Some(event) = self.event(event, prev) {
                let now = (event.ty != EventType::Deleted).then(|| event.object.clone());
                latest.push((key.clone(), now));
                decoded.push(event);
            }
        }
        decoded
    }

    /// One store event as a change of an object. `None`: there is nothing to tell.
    pub(super) fn event(&self, event: &store::Event, prev: Option<Arc<Object>>) -> Option<Arc<Event>> {
        match event.kind {
            EventKind::Put => {
                let object = Arc::new(self.object(&event.kv)?);
                let ty = if prev.is_some() { EventType::Modified } else { EventType::Added };
                Some(Arc::new(Event::new(ty, object, prev)))
            }
            EventKind::Delete => {
                let prev = prev?;
                let object = Arc::new(prev.at_revision(event.kv.mod_revision));
                Some(Arc::new(Event::new(EventType::Deleted, object, Some(prev))))
            }
        }
    }

    pub(super) fn apply(&self, events: &[Arc<store::Event>]) {
        let loaded = self.state.read().loaded;
        let newer: Vec<Arc<store::Event>> =
            events.iter().filter(|event| event.kv.mod_revision > loaded).cloned().collect();
        let events = self.decode(&newer);
        let mut state = self.state.write();
        let state = &mut *state;
        for event in &events {
            match event.ty {
                EventType::Deleted => {
                    state.objects.remove_mut(&event.object.key);
                }
                _ => state.objects.insert_mut(event.object.key.clone(), event.object.clone()),
            }
            state.revision = event.revision;
            if state.ring.len() == RING {
                if let Some(oldest) = state.ring.pop_front() {
                    state.ring_after = oldest.revision;
                }
            }
            state.ring.push_back(event.clone());
            state.watchers.retain(|watcher| {
                let Some(delivery) = watcher.filter.delivery(event, watcher.after) else {
                    return !watcher.queue.is_closed();
                };
                let kept = watcher.queue.try_send(delivery).is_ok();
                if !kept && !watcher.queue.is_closed() {
                    tracing::warn!(resource = self.storage_key, "ended a slow watcher");
                }
                kept
            });
            if self.changes.receiver_count() > 0 {
                let _ = self.changes.send(event.clone());
            }
        }
    }

    /// Opens a watch that begins with the current objects.
    pub fn watch_from_now(self: &Arc<Self>, filter: WatchFilter) -> (Snapshot, CacheWatcher) {
        let global = self.global.load(Ordering::Acquire);
        let mut state = self.state.write();
        let snapshot =
            Snapshot { revision: state.revision.max(global), changed: state.revision, objects: state.objects.clone() };
        let watcher = self.attach(&mut state, filter, snapshot.revision, VecDeque::new());
        (snapshot, watcher)
    }

    /// Opens a watch of the events after `after`. `None`: the ring does not reach back that far.
    pub fn watch_after(
        self: &Arc<Self>,
        filter: &WatchFilter,
        after: Revision,
        mut backlog: VecDeque<Delivery>,
    ) -> Option<CacheWatcher> {
        let mut state = self.state.write();
        if after < state.ring_after {
            return None;
        }
        let from = state.ring.partition_point(|event| event.revision <= after);
        backlog.extend(state.ring.range(from..).filter_map(|event| filter.delivery(event, after)));
        Some(self.attach(&mut state, filter.clone(), after, backlog))
    }

    fn attach(
        self: &Arc<Self>,
        state: &mut State,
        filter: WatchFilter,
        after: Revision,
        backlog: VecDeque<Delivery>,
    ) -> CacheWatcher {
        let (queue, events) = mpsc::channel(WATCHER_QUEUE);
        let id = state.next_watcher;
        state.next_watcher += 1;
        state.watchers.push(Entry { id, filter, after, queue });
        CacheWatcher::new(self.clone(), id, backlog, events)
    }

    pub(super) fn detach(&self, id: u64) {
        self.state.write().watchers.retain(|watcher| watcher.id != id);
    }

    pub(super) fn ring_after(&self) -> Revision {
        self.state.read().ring_after
    }

    pub fn key_range(&self) -> KeyRange {
        KeyRange::prefix(self.prefix.clone())
    }
}
