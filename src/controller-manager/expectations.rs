//! What a controller has asked for and not yet seen in its cache: until it has, it must not count again.
//!
//! Invariants:
//! - EX-1: an expectation that is never met expires, so that a lost write only delays.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use client::ObjectKey;
use component_base::SharedClock;
use parking_lot::Mutex;

const EXPIRES: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Expected {
    creations: usize,
    /// Keys (`namespace/name`) of the dependents that were asked to go.
    deletions: HashSet<String>,
    since: Option<Instant>,
}

/// Per owner: creations and deletions under way.
pub struct Expectations {
    clock: SharedClock,
    owners: Mutex<HashMap<ObjectKey, Expected>>,
}

impl Expectations {
    pub fn new(clock: SharedClock) -> Self {
        Self { clock, owners: Mutex::default() }
    }

    /// Nothing is under way for `owner` (or it has taken too long to believe in it).
    pub fn met(&self, owner: &ObjectKey) -> bool {
        let now = self.clock.instant();
        let mut owners = self.owners.lock();
        let Some(expected) = owners.get(owner) else { return true };
        let expired = expected.since.is_some_and(|since| now.duration_since(since) > EXPIRES);
        let met = expired || (expected.creations == 0 && expected.deletions.is_empty());
        if met {
            owners.remove(owner);
        }
        met
    }

    pub fn expect_creations(&self, owner: &ObjectKey, count: usize) {
        let since = Some(self.clock.instant());
        let mut owners = self.owners.lock();
        let expected = owners.entry(owner.clone()).or_default();
        expected.creations += count;
        expected.since = since;
    }

    pub fn expect_deletions(&self, owner: &ObjectKey, keys: impl IntoIterator<Item = String>) {
        let since = Some(self.clock.instant());
        let mut owners = self.owners.lock();
        let expected = owners.entry(owner.clone()).or_default();
        expected.deletions.extend(keys);
        expected.since = since;
    }

    /// A dependent appeared (or could not be created).
    pub fn created(&self, owner: &ObjectKey) {
        if let Some(expected) = self.owners.lock().get_mut(owner) {
            expected.creations = expected.creations.saturating_sub(1);
        }
    }

    /// A dependent is going or gone (or could not be deleted).
    pub fn deleted(&self, owner: &ObjectKey, key: &str) {
        if let Some(expected) = self.owners.lock().get_mut(owner) {
            expected.deletions.remove(key);
        }
    }

    pub fn forget(&self, owner: &ObjectKey) {
        self.owners.lock().remove(owner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::FakeClock;

    #[test]
    fn met_when_seen_or_expired() {
        let clock = FakeClock::new(jiff::Timestamp::UNIX_EPOCH);
        let expectations = Expectations::new(clock.clone());
        let owner = ObjectKey::new("ns", "rs");
        expectations.expect_creations(&owner, 2);
        expectations.expect_deletions(&owner, ["ns/a".to_owned()]);
        expectations.created(&owner);
        assert!(!expectations.met(&owner));
        expectations.created(&owner);
        expectations.deleted(&owner, "ns/a");
        assert!(expectations.met(&owner));
        expectations.expect_creations(&owner, 1);
        clock.advance(Duration::from_secs(301));
        assert!(expectations.met(&owner));
    }
}
