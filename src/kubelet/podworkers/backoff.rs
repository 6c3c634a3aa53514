//! Per-key back-off with upstream's rules: doubling from an initial delay to a cap, forgotten after twice the cap.

use std::collections::HashMap;
use std::time::Duration;

use component_base::Backoff;
use jiff::Timestamp;

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: Duration,
    updated: Timestamp,
}

/// Delays by key.
#[derive(Debug, Clone)]
pub struct BackoffMap {
    policy: Backoff,
    entries: HashMap<String, Entry>,
}

fn since(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

impl BackoffMap {
    pub fn new(policy: Backoff) -> Self {
        Self { policy, entries: HashMap::new() }
    }

    /// What is left of the delay when the event (a container's end) happened at `event`; `None`: go ahead.
    pub fn wait_since(&self, key: &str, event: Timestamp, now: Timestamp) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        if since(event, entry.updated) > self.policy.max * 2 {
            return None;
        }
        entry.delay.checked_sub(since(now, event)).filter(|left| !left.is_zero())
    }

    /// Like [`Self::wait_since`], counted from the last failure.
    pub fn wait_since_update(&self, key: &str, now: Timestamp) -> Option<Duration> {
        let entry = self.entries.get(key)?;
        if since(now, entry.updated) > self.policy.max * 2 {
            return None;
        }
        entry.delay.checked_sub(since(now, entry.updated)).filter(|left| !left.is_zero())
    }

    /// The delay of `key`, zero when it has none.
    pub fn delay(&self, key: &str) -> Duration {
        self.entries.get(key).map_or(Duration::ZERO, |entry| entry.delay)
    }

    /// Books one more event.
    pub fn next(&mut self, key: &str, event: Timestamp, now: Timestamp) {
        let policy = self.policy;
        let fresh = Entry { delay: policy.initial, updated: now };
        match self.entries.get_mut(key) {
            Some(entry) if since(event, entry.updated) <= policy.max * 2 => {
                *entry = Entry { delay: (entry.delay * policy.factor).min(policy.max), updated: now };
            }
            _ => {
                self.entries.insert(key.to_owned(), fresh);
            }
        }
    }

    pub fn forget(&mut self, keep: impl Fn(&str) -> bool) {
        self.entries.retain(|key, _| keep(key));
    }
}

/// A duration as Go prints it (`10s`, `1m20s`, `5m0s`).
pub fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0) => {
            let millis = duration.as_secs_f64() * 1000.0;
            if millis == 0.0 { "0s".into() } else { format!("{millis}ms") }
        }
        (0, 0, s) if duration.subsec_nanos() == 0 => format!("{s}s"),
        (0, 0, _) => format!("{}s", (duration.as_secs_f64() * 1000.0).round() / 1000.0),
        (0, m, s) => format!("{m}m{s}s"),
        (h, m, s) => format!("{h}h{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("in range")
    }

    #[test]
    fn the_first_crash_is_free_then_it_doubles() {
        let mut map = BackoffMap::new(Backoff::CRASH_LOOP);
        assert_eq!(map.wait_since("c", at(0), at(0)), None);
        map.next("c", at(0), at(0));
        assert_eq!(map.wait_since("c", at(1), at(3)), Some(Duration::from_secs(8)));
        assert_eq!(map.wait_since("c", at(1), at(11)), None);
        map.next("c", at(1), at(11));
        assert_eq!(map.delay("c"), Duration::from_secs(20));
        for n in 0..10 {
            map.next("c", at(11 + n), at(11 + n));
        }
        assert_eq!(map.delay("c"), Duration::from_secs(300));
        // After ten quiet minutes it starts anew.
        assert_eq!(map.wait_since("c", at(2000), at(2000)), None);
        map.next("c", at(2000), at(2000));
        assert_eq!(map.delay("c"), Duration::from_secs(10));
    }

    #[test]
    fn go_durations() {
        for (millis, text) in
            [(10_000, "10s"), (80_000, "1m20s"), (300_000, "5m0s"), (1_234, "1.234s"), (52, "52ms"), (0, "0s")]
        {
            assert_eq!(go_duration(Duration::from_millis(millis)), text);
        }
    }
}
