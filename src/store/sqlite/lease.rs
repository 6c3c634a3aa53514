//! The time that leases have left. What they hold is part of the snapshot.
//!
//! Invariants:
//! - LS-1: a lease lives at least as long as it was granted for, restarts included: time is monotonic, time when the
//!   store is down does not count, and what is persisted is never less than what is left.
//! - LS-2: an expired lease is never renewed.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::LeaseId;

/// etcd's shortest lease, in seconds: shorter grants are rounded up.
pub(crate) const MIN_TTL: i64 = 2;
/// etcd's longest.
pub(crate) const MAX_TTL: i64 = 9_000_000_000;

#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    ttl: i64,
    /// Remaining seconds on disk.
    persisted: i64,
}

#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    by_id: HashMap<LeaseId, Deadline>,
    by_time: BTreeSet<(Instant, LeaseId)>,
}

pub(crate) enum Renewed {
    Yes,
    /// The disk holds less than the full time and must be told first.
    MustPersist,
    Unknown,
}

impl Deadlines {
    pub(crate) fn set(&mut self, id: LeaseId, ttl: i64, remaining: i64, now: Instant) {
        self.remove(id);
        // Instants end before the longest leases do.
        let at = now + Duration::from_secs(remaining.clamp(0, i64::from(u32::MAX)).unsigned_abs());
        self.by_id.insert(id, Deadline { at, ttl, persisted: remaining });
        self.by_time.insert((at, id));
    }

    pub(crate) fn remove(&mut self, id: LeaseId) {
        if let Some(deadline) = self.by_id.remove(&id) {
            self.by_time.remove(&(deadline.at, id));
        }
    }

    pub(crate) fn renew(&mut self, id: LeaseId, now: Instant) -> Renewed {
        match self.by_id.get(&id) {
            Some(deadline) if deadline.at > now => {
                if deadline.persisted < deadline.ttl {
                    return Renewed::MustPersist;
                }
                let ttl = deadline.ttl;
                self.set(id, ttl, ttl, now);
                Renewed::Yes
            }
            _ => Renewed::Unknown,
        }
    }

    /// Seconds left; -1 when expired or unknown.
    pub(crate) fn remaining(&self, id: LeaseId, now: Instant) -> i64 {
        match self.by_id.get(&id) {
            Some(deadline) if deadline.at > now => seconds(deadline.at - now),
            _ => -1,
        }
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    pub(crate) fn due(&self, now: Instant) -> Vec<LeaseId> {
        self.by_time.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }

    /// Leases longer than `over` seconds whose remaining time on disk is out of date: id, TTL, seconds left.
    pub(crate) fn to_persist(&self, over: i64, now: Instant) -> Vec<(LeaseId, i64, i64)> {
        self.by_id
            .iter()
            .filter(|(_, deadline)| deadline.ttl > over)
            .map(|(id, deadline)| {
                // Rounded up: never less than what is left (LS-1).
                let left = seconds(deadline.at.saturating_duration_since(now)) + 1;
                (*id, deadline.ttl, left.min(deadline.ttl))
            })
            .filter(|(id, _, left)| self.by_id.get(id).is_some_and(|deadline| deadline.persisted != *left))
            .collect()
    }

    pub(crate) fn persisted(&mut self, id: LeaseId, remaining: i64) {
        if let Some(deadline) = self.by_id.get_mut(&id) {
            deadline.persisted = remaining;
        }
    }
}

fn seconds(d: Duration) -> i64 {
    i64::try_from(d.as_secs()).unwrap_or(i64::MAX)
}
