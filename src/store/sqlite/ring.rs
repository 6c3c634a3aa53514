//! The most recent events, in memory.
//!
//! Invariants:
//! - RG-1: the ring holds every event of every revision after `base`, in order, and none before.
//! - RG-2: a revision leaves the ring only when it is on disk, whatever the bounds say.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::{Event, KeyRange, Revision};

pub(crate) struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    base: Revision,
    max_events: usize,
    max_bytes: usize,
}

impl Ring {
    pub(crate) fn new(base: Revision, max_events: usize, max_bytes: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, base, max_events, max_bytes }
    }

    /// The newest revision that is not in the ring.
    pub(crate) fn base(&self) -> Revision {
        self.base
    }

    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().rev()
    }

    pub(crate) fn push(&mut self, event: &Arc<Event>) {
        self.bytes += weight(event);
        self.events.push_back(Arc::clone(event));
    }

    /// Lets go of what is beyond the bounds and not after `on_disk`.
    pub(crate) fn trim(&mut self, on_disk: Revision) {
        while self.events.len() > self.max_events || self.bytes > self.max_bytes {
            match self.events.front().map(|event| event.kv.mod_revision) {
                Some(revision) if revision <= on_disk => self.pop_revision(revision),
                _ => return,
            }
        }
    }

    fn pop_revision(&mut self, revision: Revision) {
        while self.events.front().is_some_and(|event| event.kv.mod_revision == revision) {
            if let Some(event) = self.events.pop_front() {
                self.bytes -= weight(&event);
            }
        }
        self.base = revision;
    }

    /// Events of `range` from revision `from` (after `base`) on, at most about `limit`, whole revisions only; and the
    /// last revision covered, `None` when that is everything there is.
    pub(crate) fn collect(
        &self,
        range: &KeyRange,
        from: Revision,
        limit: usize,
    ) -> (Vec<Arc<Event>>, Option<Revision>) {
        debug_assert!(from > self.base, "the caller has looked at base");
        let start = self.events.partition_point(|event| event.kv.mod_revision < from);
        let mut events: Vec<Arc<Event>> = Vec::new();
        for event in self.events.range(start..) {
            if events.len() >= limit {
                let last = events.last().map_or(from, |e| e.kv.mod_revision);
                if event.kv.mod_revision != last {
                    return (events, Some(last));
                }
            }
            if range.contains(&event.kv.key) {
                events.push(Arc::clone(event));
            }
        }
        (events, None)
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }
}

/// What an event keeps from being freed. The value before is usually that of an earlier event, but that may be gone.
fn weight(event: &Event) -> usize {
    const OVERHEAD: usize = 256;
    OVERHEAD + event.kv.key.len() + event.kv.value.len() + event.prev_kv.as_ref().map_or(0, |kv| kv.value.len())
}
