//! Seats: who runs, who waits, and who is turned away.
//!
//! Invariants:
//! - DP-1: a level always gets the seats it does not lend; those that are lent go to levels below their nominal seats
//!   first.
//! - DP-2: nobody overtakes in a queue; between the queues of a level the one that got least goes first.
//! - DP-3: a request that goes away, waiting or running, leaves no seat taken.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use component_base::SharedClock;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::level::{Limits, Queuing};
use super::shard;

/// What a request is thought to take, in seconds, until it is known.
const GUESS: f64 = 0.003;
/// Waiting longer than this is being turned away.
const PATIENCE: Duration = Duration::from_secs(15);
const LONGEST_RETRY: u32 = 8;
/// Rejections a second from which clients are asked to stay away for longer.
const BUSY: u32 = 10;

/// What the debugging endpoint shows of a request.
#[derive(Debug, Clone, Default)]
pub struct Details {
    pub schema: String,
    pub flow: String,
    pub user: String,
    pub verb: String,
    pub path: String,
    pub namespace: String,
    pub name: String,
    pub api_version: String,
    pub resource: String,
    pub subresource: String,
}

/// Why a request does not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The level runs all it may, and does not queue.
    ConcurrencyLimit,
    QueueFull,
    TimeOut,
}

impl Refused {
    /// Upstream's name in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::QueueFull => "queue-full",
            Self::TimeOut => "time-out",
        }
    }
}

pub struct Waiting {
    pub id: u64,
    pub seats: i64,
    pub details: Details,
    pub arrived: Timestamp,
    start: oneshot::Sender<()>,
}

#[derive(Default)]
pub struct Queue {
    pub waiting: VecDeque<Waiting>,
    pub executing: u64,
    pub seats: i64,
    /// When its next request would begin, in the time of a level that serves all its queues at once.
    pub next: f64,
}

/// A level's counts and queues.
pub struct LevelState {
    pub id: u64,
    pub name: String,
    pub limits: Limits,
    /// Its configuration is gone; what runs and waits goes on.
    pub removed: bool,
    pub seats: i64,
    pub executing: u64,
    pub waiting: usize,
    /// Made when a request has to wait, gone when none does.
    pub queues: Vec<Queue>,
    pub dispatched: u64,
    pub rejected: u64,
    pub timed_out: u64,
    pub cancelled: u64,
    time: f64,
    retry_after: u32,
    dropped: u32,
    dropped_since: Option<Instant>,
}

#[derive(Default)]
struct State {
    levels: Vec<LevelState>,
    /// Seats that levels lend, and how many of them are taken.
    shared: i64,
    shared_taken: i64,
    next_request: u64,
}

/// All limited levels of the server.
pub struct Dispatcher {
    state: Mutex<State>,
    clock: SharedClock,
}

/// The seats of a running request; dropping it frees them.
#[must_use = "dropping it frees the seats"]
pub struct Seats {
    dispatcher: Arc<Dispatcher>,
    level: u64,
    seats: i64,
    /// Of a request that has waited.
    queue: Option<(usize, Instant)>,
}

impl Drop for Seats {
    fn drop(&mut self) {
        let spent = self.queue.map(|(queue, start)| {
            (queue, self.dispatcher.clock.instant().saturating_duration_since(start).as_secs_f64())
        });
        self.dispatcher.state.lock().release(self.level, self.seats, spent);
    }
}

impl Dispatcher {
    pub fn new(clock: SharedClock) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), clock })
    }

    /// Makes the levels be these. What runs or waits in one that is gone, does so to its end.
    pub fn configure(&self, levels: impl IntoIterator<Item = (u64, String, Limits)>) {
        self.state.lock().configure(levels);
    }

    /// Seats for a request, if nobody has to wait for them.
    pub fn try_enter(self: &Arc<Self>, level: u64, seats: i64) -> Option<Seats> {
        let mut state = self.state.lock();
        let seats = match state.levels.iter().position(|known| known.id == level) {
            Some(at) => {
                let seats = state.levels[at].clamp(seats);
                if state.levels[at].waiting > 0 || !state.fits(at, seats) {
                    return None;
                }
                state.take(at, seats);
                seats
            }
            // Reconfigured between the match and here.
            None => 0,
        };
        Some(Seats { dispatcher: self.clone(), level, seats, queue: None })
    }

    /// Seats for a request of a flow, as soon as there are any.
    ///
    /// # Errors
    /// Why there are none, and in how many seconds to try again.
    pub async fn enter(
        self: &Arc<Self>,
        level: u64,
        seats: i64,
        flow: impl FnOnce() -> Details,
    ) -> Result<Seats, (Refused, u32)> {
        if let Some(seats) = self.try_enter(level, seats) {
            return Ok(seats);
        }
        let waiting = {
            let mut state = self.state.lock();
            let Some(at) = state.levels.iter().position(|known| known.id == level) else {
                return Ok(Seats { dispatcher: self.clone(), level, seats: 0, queue: None });
            };
            let seats = state.levels[at].clamp(seats);
            let Some(queuing) = state.levels[at].limits.queuing else {
                return Err(self.refuse(&mut state.levels[at], Refused::ConcurrencyLimit));
            };
            let details = flow();
            let hand = shard::deal(shard::hash(&details.schema, &details.flow), queuing.queues, queuing.hand);
            let (start, started) = oneshot::channel();
            state.next_request += 1;
            let id = state.next_request;
            let waiting = Waiting { id, seats, details, arrived: self.clock.now(), start };
            let Some(queue) = state.levels[at].enqueue(queuing, &hand, waiting) else {
                return Err(self.refuse(&mut state.levels[at], Refused::QueueFull));
            };
            (Place { dispatcher: self.clone(), level, queue, id, seats, left: false }, started)
        };
        let (mut place, started) = waiting;
        tokio::select! {
            biased;
            granted = started => {
                // The sender goes away only by sending.
                if granted.is_ok() {
                    place.left = true;
                    let queue = Some((place.queue, self.clock.instant()));
                    return Ok(Seats { dispatcher: self.clone(), level, seats: place.seats, queue });
                }
            }
            () = self.clock.sleep(PATIENCE) => {}
        }
        place.left = true;
        let mut state = self.state.lock();
        if !state.leave(level, place.queue, place.id) {
            // Granted in the last moment.
            let queue = Some((place.queue, self.clock.instant()));
            return Ok(Seats { dispatcher: self.clone(), level, seats: place.seats, queue });
        }
        let Some(level) = state.levels.iter_mut().find(|known| known.id == level) else {
            return Err((Refused::TimeOut, 1));
        };
        level.timed_out += 1;
        Err(self.refuse(level, Refused::TimeOut))
    }

    /// Looks at the levels: the debugging endpoints.
    pub fn with_levels<T>(&self, look: impl FnOnce(&[LevelState]) -> T) -> T {
        look(&self.state.lock().levels)
    }

    fn refuse(&self, level: &mut LevelState, why: Refused) -> (Refused, u32) {
        if why != Refused::TimeOut {
            level.rejected += 1;
        }
        (why, level.drop_one(self.clock.instant()))
    }
}

/// A place in a queue; dropping it (the client went away) leaves it.
struct Place {
    dispatcher: Arc<Dispatcher>,
    level: u64,
    queue: usize,
    id: u64,
    seats: i64,
    left: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.left {
            return;
        }
        let mut state = self.dispatcher.state.lock();
        if state.leave(self.level, self.queue, self.id) {
            if let Some(level) = state.levels.iter_mut().find(|known| known.id == self.level) {
                level.cancelled += 1;
            }
        } else {
            state.release(self.level, self.seats, Some((self.queue, 0.0)));
        }
    }
}

impl State {
    fn configure(&mut self, levels: impl IntoIterator<Item = (u64, String, Limits)>) {
        for level in &mut self.levels {
            level.removed = true;
        }
        for (id, name, limits) in levels {
            match self.levels.iter_mut().find(|known| known.id == id) {
                Some(known) => {
                    known.limits = limits;
                    known.removed = false;
                }
                None => self.levels.push(LevelState::new(id, name, limits)),
            }
        }
        self.levels.retain(|level| !level.removed || level.executing > 0 || level.waiting > 0);
        self.shared = self.levels.iter().filter(|l| !l.removed).map(|l| l.limits.nominal - l.limits.own).sum();
        self.shared_taken = self.levels.iter().map(LevelState::borrowed).sum();
        self.dispatch();
    }

    fn fits(&self, at: usize, seats: i64) -> bool {
        let level = &self.levels[at];
        let after = level.seats + seats;
        if after > level.limits.most {
            return false;
        }
        let more = (after - level.limits.own).max(0) - level.borrowed();
        // A level that has no seats of its own, in a server that has none to lend, still does one thing at a time.
        more == 0 || self.shared_taken + more <= self.shared || level.seats == 0
    }

    fn take(&mut self, at: usize, seats: i64) {
        let level = &mut self.levels[at];
        let before = level.borrowed();
        level.seats += seats;
        level.executing += 1;
        level.dispatched += 1;
        self.shared_taken += level.borrowed() - before;
    }

    /// `spent`: the queue it came from and the seconds it ran.
    fn release(&mut self, id: u64, seats: i64, spent: Option<(usize, f64)>) {
        if seats == 0 {
            return;
        }
        let Some(at) = self.levels.iter().position(|known| known.id == id) else { return };
        let level = &mut self.levels[at];
        let before = level.borrowed();
        level.seats -= seats;
        level.executing -= 1;
        if let Some((queue, seconds)) = spent {
            if let Some(queue) = level.queues.get_mut(queue) {
                queue.executing = queue.executing.saturating_sub(1);
                queue.seats = (queue.seats - seats).max(0);
                queue.next += seats as f64 * (seconds - GUESS);
            }
        }
        self.shared_taken += level.borrowed() - before;
        if !level.queues.is_empty() && level.waiting == 0 && level.queues.iter().all(|queue| queue.executing == 0) {
            level.queues = Vec::new();
            level.time = 0.0;
        }
        if level.removed && level.executing == 0 && level.waiting == 0 {
            self.levels.swap_remove(at);
        }
        self.dispatch();
    }

    /// Starts everything that now can be: levels below their nominal seats first.
    fn dispatch(&mut self) {
        if self.levels.iter().all(|level| level.waiting == 0) {
            return;
        }
        for below in [true, false] {
            for at in 0..self.levels.len() {
                while self.levels[at].waiting > 0
                    && (!below || self.levels[at].seats < self.levels[at].limits.nominal)
                    && self.start_next(at)
                {}
            }
        }
    }

    /// Starts the next request of a level, if it fits.
    fn start_next(&mut self, at: usize) -> bool {
        let Some(queue) = self.levels[at].next_queue() else { return false };
        let Some(seats) = self.levels[at].queues[queue].waiting.front().map(|first| first.seats) else { return false };
        if !self.fits(at, seats) {
            return false;
        }
        self.take(at, seats);
        let level = &mut self.levels[at];
        level.waiting -= 1;
        let queue = &mut level.queues[queue];
        let Some(first) = queue.waiting.pop_front() else { return false };
        level.time = queue.next;
        #[allow(clippy::cast_precision_loss)]
        {
            queue.next += seats as f64 * GUESS;
        }
        queue.executing += 1;
        queue.seats += seats;
        // One that went away gives its seats back when its place is dropped.
        let _ = first.start.send(());
        true
    }

    /// Takes a request out of its queue; false when it was started already.
    fn leave(&mut self, id: u64, queue: usize, request: u64) -> bool {
        let Some(level) = self.levels.iter_mut().find(|known| known.id == id) else { return false };
        let Some(queue) = level.queues.get_mut(queue) else { return false };
        let Some(at) = queue.waiting.iter().position(|waiting| waiting.id == request) else { return false };
        queue.waiting.remove(at);
        level.waiting -= 1;
        true
    }
}

impl LevelState {
    fn new(id: u64, name: String, limits: Limits) -> Self {
        Self {
            id,
            name,
            limits,
            removed: false,
            seats: 0,
            executing: 0,
            waiting: 0,
            queues: Vec::new(),
            dispatched: 0,
            rejected: 0,
            timed_out: 0,
            cancelled: 0,
            time: 0.0,
            retry_after: 1,
            dropped: 0,
            dropped_since: None,
        }
    }

    fn borrowed(&self) -> i64 {
        (self.seats - self.limits.own).max(0)
    }

    /// No request is wider than its level.
    fn clamp(&self, seats: i64) -> i64 {
        seats.min(self.limits.nominal.min(self.limits.most)).max(1)
    }

    /// Puts a request into the shortest queue of its hand. `None`: even that one is full.
    fn enqueue(&mut self, queuing: Queuing, hand: &[usize], waiting: Waiting) -> Option<usize> {
        if self.waiting == 0 && self.queues.len() != queuing.queues {
            self.queues = std::iter::repeat_with(Queue::default).take(queuing.queues).collect();
        }
        let load =
            |queue: &Queue| (queue.waiting.iter().map(|w| w.seats).sum::<i64>() + queue.seats, queue.waiting.len());
        let hand = hand.iter().copied().filter(|queue| *queue < self.queues.len());
        let at = hand.min_by_key(|queue| load(&self.queues[*queue]))?;
        let time = self.time;
        let queue = &mut self.queues[at];
        if queue.waiting.len() >= queuing.length {
            return None;
        }
        if queue.waiting.is_empty() && queue.next < time {
            queue.next = time;
        }
        queue.waiting.push_back(waiting);
        self.waiting += 1;
        Some(at)
    }

    fn next_queue(&self) -> Option<usize> {
        let filled = self.queues.iter().enumerate().filter(|(_, queue)| !queue.waiting.is_empty());
        filled.min_by(|(_, a), (_, b)| a.next.total_cmp(&b.next)).map(|(at, _)| at)
    }

    /// Counts a rejection; the seconds after which to try again grow while there are many.
    fn drop_one(&mut self, now: Instant) -> u32 {
        let since = *self.dropped_since.get_or_insert(now);
        self.dropped += 1;
        let window = Duration::from_secs(u64::from(self.retry_after));
        if now.saturating_duration_since(since) >= window {
            let busy = self.dropped >= BUSY.saturating_mul(self.retry_after);
            self.retry_after =
                if busy { (self.retry_after * 2).min(LONGEST_RETRY) } else { (self.retry_after / 2).max(1) };
            self.dropped = 0;
            self.dropped_since = Some(now);
        }
        self.retry_after
    }
}

#[cfg(test)]
mod tests;
