//! The scheduling queue: active by priority and age, backing off, or waiting for something to change.
//!
//! Invariants:
//! - QU-1: a pod is in one place only.
//! - QU-2: a pod that was found unschedulable while something changed is tried again: no change is missed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::ObjectKey;
use component_base::{Backoff, SharedClock};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::cache::PodInfo;

/// Upstream's: 1 s doubling to 10 s.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), 2, Duration::from_secs(10));
/// A pod is tried again after this long even if nothing seems to have changed.
const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// Higher priority first, then older first, then in order of arrival.
type Order = (Reverse<i32>, Option<jiff::Timestamp>, u64);

struct Item {
    pod: Arc<PodInfo>,
    attempts: u32,
    place: Place,
}

enum Place {
    Active(Order),
    Backoff(Instant),
    Unschedulable(Instant),
    Gated,
    InFlight,
}

#[derive(Default)]
struct State {
    items: HashMap<ObjectKey, Item>,
    active: BTreeMap<Order, ObjectKey>,
    /// Both backing-off and unschedulable pods, by when they come back.
    timed: BTreeSet<(Instant, ObjectKey)>,
    sequence: u64,
    /// Counts the changes that may make pods schedulable.
    moves: u64,
}

/// A pod to schedule.
pub struct Attempt {
    pub pod: Arc<PodInfo>,
    moves: u64,
}

pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
    clock: SharedClock,
}

impl Queue {
    pub fn new(clock: SharedClock) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), clock }
    }

    /// A new or changed pod that waits for a node. `gated` pods are kept aside.
    pub fn set(&self, pod: Arc<PodInfo>, gated: bool) {
        {
            let mut state = self.state.lock();
            let key = pod.key.clone();
            if let Some(item) = state.items.get_mut(&key) {
                if matches!(item.place, Place::InFlight) {
                    item.pod = pod;
                    return;
                }
                if matches!(item.place, Place::Unschedulable(_) | Place::Backoff(_))
                    && item.pod.pod.spec == pod.pod.spec
                {
                    // Only its status or metadata changed (we wrote the condition ourselves): that makes no node fit.
                    if item.pod.labels() == pod.labels() {
                        item.pod = pod;
                        return;
                    }
                }
            }
            let attempts = state.take(&key).map_or(0, |item| item.attempts);
            state.items.insert(key.clone(), Item { pod, attempts, place: Place::Gated });
            if !gated {
                state.activate(&key);
            }
        }
        self.changed.notify_one();
    }

    pub fn remove(&self, key: &ObjectKey) {
        self.state.lock().take(key);
    }

    /// Something changed that may make pods schedulable: all that wait become active (or end their back-off first).
    pub fn move_all(&self) {
        {
            let now = self.clock.instant();
            let mut state = self.state.lock();
            state.moves += 1;
            let waiting: Vec<ObjectKey> = state
                .items
                .iter()
                .filter(|(_, item)| matches!(item.place, Place::Unschedulable(_)))
                .map(|(key, _)| key.clone())
                .collect();
            for key in waiting {
                state.back_off(&key, now);
            }
        }
        self.changed.notify_one();
    }

    /// The next pod to try.
    pub async fn pop(&self) -> Attempt {
        loop {
            let wait = {
                let now = self.clock.instant();
                let mut state = self.state.lock();
                state.wake(now);
                if let Some(key) = state.active.first_key_value().map(|(_, key)| key.clone()) {
                    state.leave_place(&key);
                    let moves = state.moves;
                    if let Some(item) = state.items.get_mut(&key) {
                        item.place = Place::InFlight;
                        item.attempts += 1;
                        return Attempt { pod: item.pod.clone(), moves };
                    }
                }
                state.timed.first().map(|(at, _)| at.saturating_duration_since(now))
            };
            match wait {
                None => self.changed.notified().await,
                Some(wait) => tokio::select! {
                    () = self.clock.sleep(wait) => {}
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    /// No node fits.
    pub fn unschedulable(&self, attempt: &Attempt) {
        {
            let now = self.clock.instant();
            let mut state = self.state.lock();
            let key = &attempt.pod.key;
            if !state.in_flight(key) {
                return;
            }
            if state.moves != attempt.moves {
                state.back_off(key, now);
            } else {
                state.put_timed(key, now + MAX_UNSCHEDULABLE, Place::Unschedulable(now + MAX_UNSCHEDULABLE));
            }
        }
        self.changed.notify_one();
    }

    /// Something went wrong that is not the pod's fault.
    pub fn retry(&self, attempt: &Attempt) {
        {
            let now = self.clock.instant();
            let mut state = self.state.lock();
            if state.in_flight(&attempt.pod.key) {
                state.back_off(&attempt.pod.key, now);
            }
        }
        self.changed.notify_one();
    }

    /// The pod is placed.
    pub fn done(&self, key: &ObjectKey) {
        self.state.lock().take(key);
    }

    pub fn len(&self) -> usize {
        self.state.lock().items.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl State {
    fn in_flight(&self, key: &ObjectKey) -> bool {
        self.items.get(key).is_some_and(|item| matches!(item.place, Place::InFlight))
    }

    fn leave_place(&mut self, key: &ObjectKey) {
        match self.items.get(key).map(|item| &item.place) {
            Some(Place::Active(order)) => {
                self.active.remove(order);
            }
            Some(Place::Backoff(at) | Place::Unschedulable(at)) => {
                self.timed.remove(&(*at, key.clone()));
            }
            Some(Place::Gated | Place::InFlight) | None => {}
        }
    }

    fn take(&mut self, key: &ObjectKey) -> Option<Item> {
        self.leave_place(key);
        self.items.remove(key)
    }

    fn activate(&mut self, key: &ObjectKey) {
        self.leave_place(key);
        self.sequence += 1;
        let sequence = self.sequence;
        let Some(item) = self.items.get_mut(key) else { return };
        let created = item.pod.pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let order = (Reverse(item.pod.priority), created, sequence);
        item.place = Place::Active(order);
        self.active.insert(order, key.clone());
    }

    fn back_off(&mut self, key: &ObjectKey, now: Instant) {
        let Some(item) = self.items.get(key) else { return };
        let at = now + BACKOFF.delay(item.attempts.saturating_sub(1));
        self.put_timed(key, at, Place::Backoff(at));
    }

    fn put_timed(&mut self, key: &ObjectKey, at: Instant, place: Place) {
        self.leave_place(key);
        if let Some(item) = self.items.get_mut(key) {
            item.place = place;
            self.timed.insert((at, key.clone()));
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some((at, key)) = self.timed.first().cloned() {
            if at > now {
                break;
            }
            self.activate(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::FakeClock;
    use futures::FutureExt as _;
    use serde_json::json;

    fn pod(name: &str, priority: i32) -> Arc<PodInfo> {
        let value = json!({
            "metadata": { "name": name, "namespace": "ns" },
            "spec": { "containers": [], "priority": priority },
        });
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(value).expect("a pod"))))
    }

    fn queue() -> (Arc<FakeClock>, Queue) {
        let clock = FakeClock::new(jiff::Timestamp::UNIX_EPOCH);
        (clock.clone(), Queue::new(clock))
    }

    #[tokio::test]
    async fn higher_priority_first_then_first_come() {
        let (_, queue) = queue();
        for (name, priority) in [("a", 0), ("b", 0), ("c", 9)] {
            queue.set(pod(name, priority), false);
        }
        queue.set(pod("gated", 99), true);
        let mut order = Vec::new();
        while let Some(attempt) = queue.pop().now_or_never() {
            order.push(attempt.pod.key.name.clone());
        }
        assert_eq!(order, ["c", "a", "b"]);
    }

    #[tokio::test]
    async fn an_unschedulable_pod_comes_back_after_a_change_and_its_back_off() {
        let (clock, queue) = queue();
        queue.set(pod("a", 0), false);
        let attempt = queue.pop().await;
        queue.unschedulable(&attempt);
        clock.advance(Duration::from_secs(60));
        assert!(queue.pop().now_or_never().is_none());
        queue.move_all();
        assert!(queue.pop().now_or_never().is_none());
        clock.advance(Duration::from_secs(1));
        assert!(queue.pop().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_change_during_the_attempt_is_not_missed() {
        let (clock, queue) = queue();
        queue.set(pod("a", 0), false);
        let attempt = queue.pop().await;
        queue.move_all();
        queue.unschedulable(&attempt);
        clock.advance(Duration::from_secs(1));
        assert!(queue.pop().now_or_never().is_some());
    }
}
