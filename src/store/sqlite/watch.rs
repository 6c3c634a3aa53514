//! Delivery of events to watchers.
//!
//! Invariants:
//! - WA-1: a watcher in a group has been sent every event of its range up to the hub's revision; one that is behind is
//!   in no group but owned by its own catch-up task, which knows the next revision to send. Moving between the two
//!   happens under the hub's lock (ST-3).
//! - WA-2: under the hub's lock the published snapshot, the ring and the hub are at the same revision.
//! - WA-3: nothing under the lock waits: a full watcher falls behind.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::debug;

use super::history;
use super::ring::Ring;
use super::writer::Shared;
use crate::{Error, Event, KeyRange, Result, Revision, WatchBatch, WatchRequest, Watcher};

type Sender = mpsc::Sender<Result<WatchBatch>>;

struct Watch {
    tx: Sender,
    /// Events before this are not for it: it was asked for from a future revision on.
    from: Revision,
    progress: bool,
    /// The newest revision it has been told.
    told: Revision,
    /// It wants to be told as soon as it has been sent everything.
    asked: Arc<AtomicBool>,
}

/// All watchers of one range; they get the same events.
struct Group {
    range: KeyRange,
    watches: Vec<Watch>,
    /// Events of the commit being dispatched.
    fresh: Vec<Arc<Event>>,
}

/// A watcher that could not keep up.
pub(crate) struct Behind {
    range: KeyRange,
    tx: Sender,
    next: Revision,
    progress: bool,
    asked: Arc<AtomicBool>,
}

pub(crate) struct Hub {
    pub(crate) ring: Ring,
    pub(crate) revision: Revision,
    closed: bool,
    /// Watches of a single key.
    points: HashMap<Bytes, Group>,
    /// The others, by start of their range.
    ranges: Vec<Group>,
    /// For each of `ranges` the farthest end among it and those before it; `None` is infinity.
    reach: Vec<Option<Bytes>>,
    /// Watches after the last look for abandoned ones.
    live: usize,
    count: usize,
}

impl Hub {
    pub(crate) fn new(ring: Ring) -> Self {
        Self {
            revision: ring.base(),
            ring,
            closed: false,
            points: HashMap::new(),
            ranges: Vec::new(),
            reach: Vec::new(),
            live: 0,
            count: 0,
        }
    }

    /// Takes note of newly committed events (in the ring already) and hands them out. Returns who fell behind.
    pub(crate) fn dispatch(&mut self, events: &[Arc<Event>], revision: Revision) -> Vec<Behind> {
        let previous = std::mem::replace(&mut self.revision, revision);
        if self.count == 0 {
            return Vec::new();
        }
        let mut points: Vec<Bytes> = Vec::new();
        let mut ranges: Vec<usize> = Vec::new();
        for event in events {
            let key = &event.kv.key;
            if let Some(group) = self.points.get_mut(key) {
                if group.fresh.is_empty() {
                    points.push(key.clone());
                }
                group.fresh.push(Arc::clone(event));
            }
            let mut i = self.ranges.partition_point(|group| group.range.start <= *key);
            while i > 0 && self.reach[i - 1].as_ref().is_none_or(|end| end > key) {
                i -= 1;
                let group = &mut self.ranges[i];
                if group.range.contains(key) {
                    if group.fresh.is_empty() {
                        ranges.push(i);
                    }
                    group.fresh.push(Arc::clone(event));
                }
            }
        }
        let mut behind = Vec::new();
        let mut gone = 0;
        let mut emptied = false;
        for key in points {
            if let Some(group) = self.points.get_mut(&key) {
                gone += group.deliver(previous, revision, &mut behind);
                if group.watches.is_empty() {
                    self.points.remove(&key);
                }
            }
        }
        for i in ranges {
            gone += self.ranges[i].deliver(previous, revision, &mut behind);
            emptied |= self.ranges[i].watches.is_empty();
        }
        self.count -= gone;
        if emptied {
            self.ranges.retain(|group| !group.watches.is_empty());
            self.measure();
        }
        behind
    }

    /// Tells watchers that asked for it, and have had nothing since, how far they are.
    pub(crate) fn send_progress(&mut self) {
        let revision = self.revision;
        for group in self.points.values_mut().chain(&mut self.ranges) {
            for watch in &mut group.watches {
                if watch.progress && watch.told < revision && watch.from <= revision {
                    // A full watcher has something to read, which tells it more.
                    if watch.tx.try_send(Ok(WatchBatch { revision, events: Vec::new() })).is_ok() {
                        watch.told = revision;
                    }
                }
            }
        }
    }

    /// Answers the watchers that asked how far they are. Returns those whose answer does not fit.
    pub(crate) fn send_asked(&mut self) -> Vec<Behind> {
        let revision = self.revision;
        let mut behind = Vec::new();
        for group in self.points.values_mut().chain(&mut self.ranges) {
            let range = &group.range;
            group.watches.retain_mut(|watch| {
                if !watch.asked.swap(false, Ordering::AcqRel) {
                    return true;
                }
                match watch.tx.try_send(Ok(WatchBatch { revision, events: Vec::new() })) {
                    Ok(()) => {
                        watch.told = revision;
                        true
                    }
                    Err(mpsc::error::TrySendError::Closed(_)) => false,
                    Err(mpsc::error::TrySendError::Full(_)) => {
                        watch.asked.store(true, Ordering::Release);
                        behind.push(Behind {
                            range: range.clone(),
                            tx: watch.tx.clone(),
                            next: watch.from.max(revision + 1),
                            progress: watch.progress,
                            asked: Arc::clone(&watch.asked),
                        });
                        false
                    }
                }
            });
        }
        self.forget_empty();
        behind
    }

    /// Ends every watch.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.points.clear();
        self.ranges.clear();
        self.reach.clear();
        self.count = 0;
    }

    #[cfg(test)]
    pub(crate) fn watchers(&self) -> usize {
        self.count
    }

    fn insert(&mut self, range: KeyRange, watch: Watch) {
        if self.closed {
            return;
        }
        if self.count >= 2 * self.live + 16 {
            self.drop_abandoned();
        }
        self.count += 1;
        if range.end.is_empty() {
            let key = range.start.clone();
            self.points.entry(key).or_insert_with(|| Group::new(range)).watches.push(watch);
            return;
        }
        let order = |group: &Group| (&group.range.start, &group.range.end).cmp(&(&range.start, &range.end));
        match self.ranges.binary_search_by(order) {
            Ok(i) => self.ranges[i].watches.push(watch),
            Err(i) => {
                let mut group = Group::new(range);
                group.watches.push(watch);
                self.ranges.insert(i, group);
                self.measure();
            }
        }
    }

    /// A dropped receiver is seen when there is something to send; those of quiet ranges are looked for here.
    fn drop_abandoned(&mut self) {
        for group in self.points.values_mut().chain(&mut self.ranges) {
            group.watches.retain(|watch| !watch.tx.is_closed());
        }
        self.forget_empty();
        self.live = self.count;
    }

    fn forget_empty(&mut self) {
        let ranges = self.ranges.len();
        self.points.retain(|_, group| !group.watches.is_empty());
        self.ranges.retain(|group| !group.watches.is_empty());
        self.count = self.points.values().chain(&self.ranges).map(|group| group.watches.len()).sum();
        if self.ranges.len() != ranges {
            self.measure();
        }
    }

    fn measure(&mut self) {
        self.reach.clear();
        let mut farthest = Some(Bytes::new());
        for group in &self.ranges {
            let end = &group.range.end;
            if end.as_ref() == [0] {
                farthest = None;
            } else if farthest.as_ref().is_some_and(|far| far < end) {
                farthest = Some(end.clone());
            }
            self.reach.push(farthest.clone());
        }
    }
}

impl Group {
    fn new(range: KeyRange) -> Self {
        Self { range, watches: Vec::new(), fresh: Vec::new() }
    }

    /// Sends the fresh events; returns how many watches left the group.
    fn deliver(&mut self, previous: Revision, revision: Revision, behind: &mut Vec<Behind>) -> usize {
        let events = std::mem::take(&mut self.fresh);
        let before = self.watches.len();
        self.watches.retain_mut(|watch| {
            let events = if watch.from > previous + 1 {
                let later: Vec<_> =
                    events.iter().filter(|event| event.kv.mod_revision >= watch.from).cloned().collect();
                if later.is_empty() {
                    return true;
                }
                later
            } else {
                events.clone()
            };
            match watch.tx.try_send(Ok(WatchBatch { revision, events })) {
                Ok(()) => {
                    watch.told = revision;
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    behind.push(Behind {
                        range: self.range.clone(),
                        tx: watch.tx.clone(),
                        next: watch.from.max(previous + 1),
                        progress: watch.progress,
                        asked: Arc::clone(&watch.asked),
                    });
                    false
                }
            }
        });
        before - self.watches.len()
    }
}

/// Opens a watch. One that starts in the past is sent what it missed by a task.
pub(crate) fn open(shared: &Arc<Shared>, request: WatchRequest) -> Result<Watcher> {
    let mut range = request.range;
    if range.start.is_empty() {
        // As in etcd: the smallest key there can be.
        range.start = Bytes::from_static(&[0]);
    }
    let (tx, batches) = mpsc::channel(shared.config.watch_buffer.max(1));
    let asked = Arc::<AtomicBool>::default();
    let mut hub = shared.hub.lock();
    if hub.closed {
        return Err(Error::Closed);
    }
    let revision = hub.revision;
    let from = if request.start_revision <= 0 { revision + 1 } else { request.start_revision };
    let compacted = shared.snapshot.load().compacted;
    if from < compacted {
        return Err(Error::Compacted { compacted });
    }
    if from > revision {
        hub.insert(range, Watch { tx, from, progress: request.progress, told: revision, asked: Arc::clone(&asked) });
    } else {
        drop(hub);
        let asked = Arc::clone(&asked);
        resume(shared, Behind { range, tx, next: from, progress: request.progress, asked });
    }
    Ok(Watcher { revision, batches, asked })
}

/// Brings a watcher up to date and back to the hub.
pub(crate) fn resume(shared: &Arc<Shared>, behind: Behind) {
    let task = catch_up(Arc::clone(shared), behind);
    shared.tasks.spawn(task);
}

async fn catch_up(shared: Arc<Shared>, behind: Behind) {
    const EVENTS_PER_BATCH: usize = 1024;
    let Behind { range, mut tx, mut next, progress, asked } = behind;
    loop {
        let Ok(room) = tx.reserve_owned().await else { return };
        let on_disk_to = {
            let mut hub = shared.hub.lock();
            let base = hub.ring.base();
            if next > base {
                let (events, last) = hub.ring.collect(&range, next, EVENTS_PER_BATCH);
                let revision = last.unwrap_or(hub.revision);
                let answer = last.is_none() && asked.swap(false, Ordering::AcqRel);
                let silent = events.is_empty() && !answer;
                let told = if silent { next - 1 } else { revision };
                tx = if silent { room.release() } else { room.send(Ok(WatchBatch { revision, events })) };
                if last.is_none() {
                    // One that was asked for from a future revision on keeps that.
                    let from = next.max(revision + 1);
                    hub.insert(range, Watch { tx, from, progress, told, asked });
                    if progress {
                        shared.moved.notify_one();
                    }
                    return;
                }
                next = revision + 1;
                continue;
            }
            base
        };
        let read = {
            let (shared, range) = (Arc::clone(&shared), range.clone());
            let read = move || shared.readers.with(|conn| history::events(&shared, conn, &range, (next, on_disk_to)));
            tokio::task::spawn_blocking(read).await.unwrap_or(Err(Error::Closed))
        };
        match read {
            Ok((events, revision)) => {
                tx = if events.is_empty() { room.release() } else { room.send(Ok(WatchBatch { revision, events })) };
                next = revision + 1;
            }
            Err(error) => {
                debug!(%error, revision = next, "a watch ends");
                room.send(Err(error));
                return;
            }
        }
    }
}
