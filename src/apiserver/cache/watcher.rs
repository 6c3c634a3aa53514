//! One watch of the cache.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use store::{KeyRange, Revision};
use tokio::sync::mpsc;

use super::{Event, EventType, Object, ResourceCache};

/// What a watcher is told: the event, as this type.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub ty: EventType,
    pub event: Arc<Event>,
}

impl Delivery {
    pub fn object(&self) -> Arc<Object> {
        self.event.seen_as(self.ty)
    }

    pub fn frame(&self) -> Bytes {
        self.event.frame(self.ty)
    }
}

type Matcher = Arc<dyn Fn(&Object) -> bool + Send + Sync>;

/// Which objects a watcher sees.
#[derive(Clone)]
pub struct WatchFilter {
    pub range: KeyRange,
    /// `None`: every object of the range.
    pub matches: Option<Matcher>,
}

impl WatchFilter {
    pub fn selects(&self, object: &Object) -> bool {
        self.matches.as_ref().is_none_or(|matches| matches(object))
    }

    /// What this watcher is told of `event`: a change into the selection is ADDED, one out of it DELETED.
    pub fn delivery(&self, event: &Arc<Event>, after: Revision) -> Option<Delivery> {
        if event.revision <= after || !self.range.contains(&event.object.key) {
            return None;
        }
        let before = event.prev.as_ref().is_some_and(|prev| self.selects(prev));
        let now = event.ty != EventType::Deleted && self.selects(&event.object);
        let ty = match (before, now) {
            (false, false) => return None,
            (false, true) => EventType::Added,
            (true, true) => EventType::Modified,
            (true, false) => EventType::Deleted,
        };
        Some(Delivery { ty, event: event.clone() })
    }
}

/// The receiving end of a watch. Dropping it ends the watch.
pub struct CacheWatcher {
    resource: Arc<ResourceCache>,
    id: u64,
    backlog: VecDeque<Delivery>,
    events: mpsc::Receiver<Delivery>,
}

impl CacheWatcher {
    pub(super) fn new(
        resource: Arc<ResourceCache>,
        id: u64,
        backlog: VecDeque<Delivery>,
        events: mpsc::Receiver<Delivery>,
    ) -> Self {
        Self { resource, id, backlog, events }
    }

    /// The next event; `None` when the watch was ended (the watcher was too slow, or the cache was reloaded).
    /// Cancel-safe.
    pub async fn next(&mut self) -> Option<Delivery> {
        match self.backlog.pop_front() {
            Some(delivery) => Some(delivery),
            None => self.events.recv().await,
        }
    }

    /// The next event if there is one already.
    pub fn try_next(&mut self) -> Option<Delivery> {
        self.backlog.pop_front().or_else(|| self.events.try_recv().ok())
    }

    /// A revision such that every event up to it has been returned by [`Self::next`] once [`Self::try_next`] says
    /// `None` after this call: what a bookmark may name.
    pub fn progress(&self) -> Revision {
        self.resource.snapshot().revision
    }
}

impl Drop for CacheWatcher {
    fn drop(&mut self) {
        self.resource.detach(self.id);
    }
}
