//! Exponential back-off as upstream uses it: initial, factor, cap, per key.

use std::time::Duration;

/// The policy. `delay(n)` is the wait before retry `n` (counted from 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub initial: Duration,
    pub factor: u32,
    pub max: Duration,
}

impl Backoff {
    pub const fn new(initial: Duration, factor: u32, max: Duration) -> Self {
        Self { initial, factor, max }
    }

    /// The work queue's per-item limiter: 5 ms doubling to 1000 s.
    pub const WORK_QUEUE: Self = Self::new(Duration::from_millis(5), 2, Duration::from_secs(1000));
    /// The kubelet's crash-loop back-off: 10 s doubling to 5 min.
    pub const CRASH_LOOP: Self = Self::new(Duration::from_secs(10), 2, Duration::from_secs(300));
    /// Reconnecting to a server that is away: 50 ms doubling to 5 s.
    pub const RECONNECT: Self = Self::new(Duration::from_millis(50), 2, Duration::from_secs(5));

    pub fn delay(&self, failures: u32) -> Duration {
        let factor = self.factor.saturating_pow(failures.min(31));
        self.initial.saturating_mul(factor).min(self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap() {
        let seconds: Vec<u64> = (0..7).map(|n| Backoff::CRASH_LOOP.delay(n).as_secs()).collect();
        assert_eq!(seconds, [10, 20, 40, 80, 160, 300, 300]);
        assert_eq!(Backoff::WORK_QUEUE.delay(4000), Duration::from_secs(1000));
    }
}
