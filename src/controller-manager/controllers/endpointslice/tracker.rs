//! Slice writes that the cache has not shown yet: until it has, planning would repeat them.
//!
//! Invariants:
//! - ES-4: a write that never shows (the slice was deleted at once) delays planning, but not for ever.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use client::{Informer, ObjectKey};
use component_base::SharedClock;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use parking_lot::Mutex;

const EXPIRES: Duration = Duration::from_secs(10);

enum Expected {
    /// This version or a later one.
    Version(u64),
    /// Not this object any more.
    Gone(Option<String>),
}

pub struct Tracker {
    clock: SharedClock,
    slices: Informer<EndpointSlice>,
    owners: Mutex<HashMap<ObjectKey, HashMap<ObjectKey, (Expected, Instant)>>>,
}

fn version(slice: &EndpointSlice) -> u64 {
    slice.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

impl Tracker {
    pub fn new(clock: SharedClock, slices: Informer<EndpointSlice>) -> Self {
        Self { clock, slices, owners: Mutex::default() }
    }

    /// The cache shows everything that was written for `owner`.
    pub fn caught_up(&self, owner: &ObjectKey) -> bool {
        let now = self.clock.instant();
        let mut owners = self.owners.lock();
        let Some(writes) = owners.get_mut(owner) else { return true };
        writes.retain(|key, (expected, since)| {
            let cached = self.slices.get(key);
            let met = match expected {
                Expected::Version(wanted) => cached.is_some_and(|slice| version(&slice) >= *wanted),
                Expected::Gone(uid) => cached.is_none_or(|slice| slice.metadata.uid != *uid),
            };
            !met && now.duration_since(*since) < EXPIRES
        });
        let met = writes.is_empty();
        if met {
            owners.remove(owner);
        }
        met
    }

    pub fn wrote(&self, owner: &ObjectKey, slice: &EndpointSlice) {
        self.expect(owner, slice, Expected::Version(version(slice)));
    }

    pub fn deleted(&self, owner: &ObjectKey, slice: &EndpointSlice) {
        self.expect(owner, slice, Expected::Gone(slice.metadata.uid.clone()));
    }

    pub fn forget(&self, owner: &ObjectKey) {
        self.owners.lock().remove(owner);
    }

    fn expect(&self, owner: &ObjectKey, slice: &EndpointSlice, expected: Expected) {
        let since = self.clock.instant();
        let mut owners = self.owners.lock();
        owners.entry(owner.clone()).or_default().insert(ObjectKey::of(slice), (expected, since));
    }
}
