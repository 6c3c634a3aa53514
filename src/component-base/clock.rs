//! The clock: the only place that reads time, so that tests can own it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Wall time, monotonic time and sleeping. Share it as a [`SharedClock`].
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Wall-clock time.
    fn now(&self) -> Timestamp;
    /// Monotonic time, for measuring durations.
    fn instant(&self) -> Instant;
    /// Returns after `d` of this clock has passed.
    async fn sleep(&self, d: Duration);
}

pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealClock;

impl RealClock {
    pub fn shared() -> SharedClock {
        Arc::new(Self)
    }
}

#[async_trait]
impl Clock for RealClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    #[allow(clippy::disallowed_methods)]
    fn instant(&self) -> Instant {
        Instant::now()
    }

    async fn sleep(&self, d: Duration) {
        tokio::time::sleep(d).await;
    }
}

/// A clock that stands still until a test advances it.
pub struct FakeClock {
    start: Instant,
    state: Mutex<Timestamp>,
    origin: Timestamp,
    moved: watch::Sender<()>,
}

impl FakeClock {
    pub fn new(now: Timestamp) -> Arc<Self> {
        Arc::new(Self {
            start: RealClock.instant(),
            state: Mutex::new(now),
            origin: now,
            moved: watch::Sender::new(()),
        })
    }

    /// Moves time forward and wakes every sleeper whose time has come.
    pub fn advance(&self, d: Duration) {
        {
            let mut now = self.state.lock();
            *now = now.checked_add(d).expect("test clocks stay within the range of jiff");
        }
        self.moved.send_replace(());
    }

    fn elapsed(&self) -> Duration {
        Duration::try_from(self.state.lock().duration_since(self.origin)).unwrap_or_default()
    }
}

#[async_trait]
impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        *self.state.lock()
    }

    fn instant(&self) -> Instant {
        self.start + self.elapsed()
    }

    async fn sleep(&self, d: Duration) {
        let mut moved = self.moved.subscribe();
        let until = self.elapsed() + d;
        while self.elapsed() < until {
            if moved.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn fake_sleep_ends_when_time_is_advanced() {
        let clock = FakeClock::new(Timestamp::UNIX_EPOCH);
        let sleeper = clock.sleep(Duration::from_secs(5));
        tokio::pin!(sleeper);
        assert!(futures::poll!(sleeper.as_mut()).is_pending());
        clock.advance(Duration::from_secs(4));
        assert!(futures::poll!(sleeper.as_mut()).is_pending());
        clock.advance(Duration::from_secs(1));
        sleeper.await;
        assert_eq!(clock.now().as_second(), 5);
    }
}
