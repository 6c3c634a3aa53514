//! The current state as a persistent ordered set: a consistent snapshot is one pointer.
//!
//! The set is imbl's B+ tree of pointers. Against the red-black tree of rpds with 100,000 keys it measured a fifth of
//! the memory, 1.6 instead of 2.0 µs for an update beside a snapshot, half the time to get and a third to iterate.
//!
//! Invariants:
//! - SS-1: a [`Snapshot`] never changes once it is shared; the writer works on its own copy (which costs one pointer).
//! - SS-2: `leases[l].keys` is exactly the set of keys whose `lease` is `l`.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use imbl::{OrdMap, OrdSet};

use crate::{Event, KeyRange, KeyValue, LeaseId, RangeRequest, RangeResponse, Revision, SortTarget};

/// A record of the ordered set. Compared by key only, so that the key is kept once, inside the record.
#[derive(Debug, Clone)]
pub(crate) struct Item(pub(crate) Arc<KeyValue>);

impl Borrow<[u8]> for Item {
    fn borrow(&self) -> &[u8] {
        &self.0.key
    }
}

impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Item {}

impl PartialOrd for Item {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Item {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}

/// What is granted, apart from the time that is left, which changes without a revision.
#[derive(Debug, Clone)]
pub(crate) struct LeaseRecord {
    pub(crate) ttl: i64,
    pub(crate) keys: OrdSet<Bytes>,
}

/// Everything a reader of the current revision needs.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    /// 0: never compacted.
    pub(crate) compacted: Revision,
    pub(crate) kvs: OrdSet<Item>,
    pub(crate) leases: OrdMap<LeaseId, LeaseRecord>,
}

impl Snapshot {
    pub(crate) fn get(&self, key: &[u8]) -> Option<&Arc<KeyValue>> {
        self.kvs.get(key).map(|item| &item.0)
    }

    pub(crate) fn iter<'a>(&'a self, range: &'a KeyRange) -> impl Iterator<Item = &'a Arc<KeyValue>> {
        bounds(range).into_iter().flat_map(|b| self.kvs.range::<_, [u8]>(b)).map(|item| &item.0)
    }

    /// Reads the current revision; `request.revision` is not looked at.
    pub(crate) fn range(&self, request: &RangeRequest) -> RangeResponse {
        if request.range.end.is_empty() {
            return select(request, self.revision, self.get(&request.range.start).into_iter());
        }
        select(request, self.revision, self.iter(&request.range))
    }

    /// The records of `range` at `revision`, by undoing `events`: every event after `revision`, newest first.
    pub(crate) fn rewind<'a>(
        &self,
        range: &KeyRange,
        revision: Revision,
        events: impl Iterator<Item = &'a Arc<Event>>,
    ) -> Vec<Arc<KeyValue>> {
        let mut undone: BTreeMap<&[u8], Option<&KeyValue>> = BTreeMap::new();
        for event in events {
            if event.kv.mod_revision > revision && range.contains(&event.kv.key) {
                undone.insert(&event.kv.key, event.prev_kv.as_ref());
            }
        }
        let mut kvs: Vec<_> =
            self.iter(range).filter(|kv| !undone.contains_key(kv.key.as_ref())).map(Arc::clone).collect();
        if !undone.is_empty() {
            kvs.extend(undone.into_values().flatten().map(|kv| Arc::new(kv.clone())));
            kvs.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        }
        kvs
    }
}

/// The interval as bounds of the ordered set; `None` when it is empty or upside down.
pub(crate) fn bounds(range: &KeyRange) -> Option<(Bound<&[u8]>, Bound<&[u8]>)> {
    let start = range.start.as_ref();
    match range.end.as_ref() {
        [] => Some((Bound::Included(start), Bound::Included(start))),
        [0] => Some((Bound::Included(start), Bound::Unbounded)),
        end if start < end => Some((Bound::Included(start), Bound::Excluded(end))),
        _ => None,
    }
}

/// Applies filters, order, limit and projections to the records of a range, which come in key order.
///
/// As in etcd, `count` is the number of keys in the range whatever the filters and the limit say.
pub(crate) fn select<'a>(
    request: &RangeRequest,
    revision: Revision,
    records: impl Iterator<Item = &'a Arc<KeyValue>>,
) -> RangeResponse {
    let mut response = RangeResponse { revision, kvs: Vec::new(), more: false, count: 0 };
    if request.count_only {
        response.count = records.count();
        return response;
    }
    let limit = if request.limit == 0 { usize::MAX } else { request.limit };
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    if !filtered && request.sort == SortTarget::Key && !request.descending {
        for kv in records {
            if response.count < limit {
                response.kvs.push(project(request, kv));
            }
            response.count += 1;
        }
        response.more = response.count > limit;
        return response;
    }
    let mut chosen = Vec::new();
    for kv in records {
        response.count += 1;
        if passes(request, kv) {
            chosen.push(kv);
        }
    }
    let order = |a: &Arc<KeyValue>, b: &Arc<KeyValue>| match request.sort {
        SortTarget::Key => a.key.cmp(&b.key),
        SortTarget::Version => a.version.cmp(&b.version),
        SortTarget::Create => a.create_revision.cmp(&b.create_revision),
        SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
        SortTarget::Value => a.value.cmp(&b.value),
    };
    if request.descending {
        chosen.sort_by(|a, b| order(b, a));
    } else {
        chosen.sort_by(|a, b| order(a, b));
    }
    response.more = chosen.len() > limit;
    response.kvs = chosen.into_iter().take(limit).map(|kv| project(request, kv)).collect();
    response
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    let at_least = |min: Revision, revision| min == 0 || revision >= min;
    let at_most = |max: Revision, revision| max == 0 || revision <= max;
    at_least(request.min_mod_revision, kv.mod_revision)
        && at_most(request.max_mod_revision, kv.mod_revision)
        && at_least(request.min_create_revision, kv.create_revision)
        && at_most(request.max_create_revision, kv.create_revision)
}

fn project(request: &RangeRequest, kv: &KeyValue) -> KeyValue {
    if request.keys_only { KeyValue { value: Bytes::new(), ..kv.clone() } } else { kv.clone() }
}
