//! A de-duplicating work queue with delays and per-key back-off, and the loop that drains it.
//!
//! Invariants:
//! - WQ-1: a key is processed by one worker at a time.
//! - WQ-2: a key added while it is processed is processed again afterwards.
//! - WQ-3: `add_after` never postpones an earlier due time.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fmt::Display;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, Instant};

use component_base::{Backoff, SharedClock, TaskGroup};
use futures::FutureExt as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;

/// Shared queue of keys. Cloning shares it.
pub struct WorkQueue<T> {
    inner: Arc<Inner<T>>,
}

impl<T> Clone for WorkQueue<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<T> {
    state: Mutex<State<T>>,
    changed: Notify,
    clock: SharedClock,
    backoff: Backoff,
}

struct State<T> {
    ready: VecDeque<T>,
    /// Waiting to be processed (in `ready`, or to be re-queued when its processing ends).
    dirty: HashSet<T>,
    processing: HashSet<T>,
    due: BTreeSet<(Instant, u64)>,
    delayed: HashMap<T, (Instant, u64)>,
    by_ticket: HashMap<u64, T>,
    ticket: u64,
    failures: HashMap<T, u32>,
}

impl<T: Clone + Eq + Hash> WorkQueue<T> {
    pub fn new(clock: SharedClock) -> Self {
        Self::with_backoff(clock, Backoff::WORK_QUEUE)
    }

    pub fn with_backoff(clock: SharedClock, backoff: Backoff) -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            due: BTreeSet::new(),
            delayed: HashMap::new(),
            by_ticket: HashMap::new(),
            ticket: 0,
            failures: HashMap::new(),
        };
        Self { inner: Arc::new(Inner { state: Mutex::new(state), changed: Notify::new(), clock, backoff }) }
    }

    pub fn add(&self, key: T) {
        self.inner.state.lock().add(key);
        self.inner.changed.notify_one();
    }

    /// Adds `key` once `delay` has passed (at once for zero).
    pub fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let at = self.inner.clock.instant() + delay;
        {
            let mut state = self.inner.state.lock();
            if let Some(&(due, ticket)) = state.delayed.get(&key) {
                if due <= at {
                    return;
                }
                state.due.remove(&(due, ticket));
                state.by_ticket.remove(&ticket);
            }
            state.ticket += 1;
            let ticket = state.ticket;
            state.due.insert((at, ticket));
            state.delayed.insert(key.clone(), (at, ticket));
            state.by_ticket.insert(ticket, key);
        }
        self.inner.changed.notify_one();
    }

    /// Adds `key` after its back-off, which grows until [`Self::forget`].
    pub fn add_rate_limited(&self, key: T) {
        let failures = {
            let mut state = self.inner.state.lock();
            let count = state.failures.entry(key.clone()).or_insert(0);
            *count += 1;
            *count - 1
        };
        self.add_after(key, self.inner.backoff.delay(failures));
    }

    /// Resets the back-off of `key`.
    pub fn forget(&self, key: &T) {
        self.inner.state.lock().failures.remove(key);
    }

    pub fn failures(&self, key: &T) -> u32 {
        self.inner.state.lock().failures.get(key).copied().unwrap_or(0)
    }

    /// Keys that are ready or delayed.
    pub fn len(&self) -> usize {
        let state = self.inner.state.lock();
        state.ready.len() + state.delayed.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next key; it stays this caller's until [`Self::done`].
    pub async fn get(&self) -> T {
        loop {
            let (key, next) = self.inner.state.lock().take(self.inner.clock.instant());
            if let Some(key) = key {
                // Another worker may have missed the wake-up that this one took.
                self.inner.changed.notify_one();
                return key;
            }
            match next {
                None => self.inner.changed.notified().await,
                Some(at) => {
                    let wait = at.saturating_duration_since(self.inner.clock.instant());
                    tokio::select! {
                        () = self.inner.clock.sleep(wait) => {}
                        () = self.inner.changed.notified() => {}
                    }
                }
            }
        }
    }

    /// Ends the processing of `key`.
    pub fn done(&self, key: &T) {
        let again = {
            let mut state = self.inner.state.lock();
            state.processing.remove(key);
            let again = state.dirty.contains(key);
            if again {
                state.ready.push_back(key.clone());
            }
            again
        };
        if again {
            self.inner.changed.notify_one();
        }
    }
}

impl<T: Clone + Eq + Hash> State<T> {
    fn add(&mut self, key: T) {
        if !self.dirty.insert(key.clone()) || self.processing.contains(&key) {
            return;
        }
        self.ready.push_back(key);
    }

    /// A ready key, or when the next delayed one is due.
    fn take(&mut self, now: Instant) -> (Option<T>, Option<Instant>) {
        while let Some(&(at, ticket)) = self.due.first() {
            if at > now {
                break;
            }
            self.due.pop_first();
            if let Some(key) = self.by_ticket.remove(&ticket) {
                self.delayed.remove(&key);
                self.add(key);
            }
        }
        if let Some(key) = self.ready.pop_front() {
            self.dirty.remove(&key);
            self.processing.insert(key.clone());
            return (Some(key), None);
        }
        (None, self.due.first().map(|(at, _)| *at))
    }
}

/// Drains `queue` with `workers` tasks of `group`. An `Err` (or a panic) re-queues the key with back-off and is logged
/// under `name`; `Ok(Some(delay))` looks at the key again later.
pub fn run_workers<T, F, Fut, E>(
    group: &TaskGroup,
    name: &'static str,
    queue: &WorkQueue<T>,
    workers: usize,
    reconcile: F,
) where
    T: Clone + Eq + Hash + Display + Send + Sync + 'static,
    F: Fn(T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<Option<Duration>, E>> + Send,
    E: Display + Send,
{
    let reconcile = Arc::new(reconcile);
    for _ in 0..workers {
        let (queue, reconcile) = (queue.clone(), reconcile.clone());
        group.spawn(async move {
            loop {
                let key = queue.get().await;
                let outcome = std::panic::AssertUnwindSafe(reconcile(key.clone())).catch_unwind().await;
                match outcome {
                    Ok(Ok(again)) => {
                        queue.forget(&key);
                        if let Some(delay) = again {
                            queue.add_after(key.clone(), delay);
                        }
                    }
                    Ok(Err(error)) => {
                        warn!(controller = name, key = %key, %error, "reconcile failed, retrying");
                        queue.add_rate_limited(key.clone());
                    }
                    Err(_) => {
                        warn!(controller = name, key = %key, "reconcile panicked, retrying");
                        queue.add_rate_limited(key.clone());
                    }
                }
                queue.done(&key);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::{Clock as _, FakeClock};

    fn queue() -> (Arc<FakeClock>, WorkQueue<&'static str>) {
        let clock = FakeClock::new(jiff::Timestamp::UNIX_EPOCH);
        (clock.clone(), WorkQueue::new(clock))
    }

    #[tokio::test]
    async fn the_same_key_is_queued_once() {
        let (_, queue) = queue();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!((queue.get().await, queue.get().await), ("a", "b"));
        assert!(queue.is_empty());
    }

    #[tokio::test]
    async fn a_key_added_while_processed_comes_back_after_done() {
        let (_, queue) = queue();
        queue.add("a");
        let key = queue.get().await;
        queue.add("a");
        assert!(queue.get().now_or_never().is_none());
        queue.done(&key);
        assert_eq!(queue.get().now_or_never(), Some("a"));
    }

    #[tokio::test]
    async fn delays_are_kept_and_never_postponed() {
        let (clock, queue) = queue();
        queue.add_after("a", Duration::from_secs(5));
        queue.add_after("a", Duration::from_secs(9));
        assert!(queue.get().now_or_never().is_none());
        clock.advance(Duration::from_secs(5));
        assert_eq!(queue.get().now_or_never(), Some("a"));
        queue.done(&"a");
        clock.advance(Duration::from_secs(60));
        assert!(queue.get().now_or_never().is_none());
        assert!(clock.now().as_second() > 0);
    }

    #[tokio::test]
    async fn back_off_grows_until_forgotten() {
        let (clock, queue) = queue();
        for step in [5, 10, 20] {
            queue.add_rate_limited("a");
            clock.advance(Duration::from_millis(step - 1));
            assert!(queue.get().now_or_never().is_none());
            clock.advance(Duration::from_millis(1));
            assert_eq!(queue.get().now_or_never(), Some("a"));
            queue.done(&"a");
        }
        queue.forget(&"a");
        assert_eq!(queue.failures(&"a"), 0);
    }
}
