//! Revisions before the current one that are no longer in the ring.
//!
//! Invariants:
//! - HI-1: for every key the index holds, ascending, all versions that SQLite holds except the current one: no index on
//!   disk, so that a write touches no page but the last.
//! - HI-2: the index is brought up to date before the snapshot that supersedes a version is published.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;

use super::disk::{self, SweepRow};
use super::state::{Snapshot, bounds, select};
use super::writer::Shared;
use crate::{Error, Event, EventKind, KeyRange, KeyValue, RangeRequest, RangeResponse, Result, Revision};

/// Superseded versions by key. A tombstone is its revision, negative.
#[derive(Debug, Default)]
pub(crate) struct VersionIndex(BTreeMap<Bytes, Vec<Revision>>);

impl VersionIndex {
    pub(crate) fn record(&mut self, event: &Event) {
        if let Some(prev) = &event.prev_kv {
            self.superseded(&prev.key, prev.mod_revision);
        }
        if event.kind == EventKind::Delete {
            self.deleted(&event.kv.key, event.kv.mod_revision);
        }
    }

    pub(crate) fn superseded(&mut self, key: &Bytes, revision: Revision) {
        match self.0.get_mut(key) {
            Some(versions) => versions.push(revision),
            None => drop(self.0.insert(key.clone(), vec![revision])),
        }
    }

    pub(crate) fn deleted(&mut self, key: &[u8], revision: Revision) {
        match self.0.get_mut(key) {
            Some(versions) => versions.push(-revision),
            None => drop(self.0.insert(Bytes::copy_from_slice(key), vec![-revision])),
        }
    }

    /// Forgets what [`disk::Statements::sweep_one`] removed.
    pub(crate) fn swept(&mut self, row: &SweepRow) {
        let Some(versions) = self.0.get_mut(&row.key) else { return };
        let revision = row.id >> disk::SUB_BITS;
        let keep_from = if row.tombstone { revision + 1 } else { revision };
        let gone = versions.partition_point(|v| v.abs() < keep_from);
        versions.drain(..gone);
        if versions.is_empty() {
            self.0.remove(&row.key);
        } else if versions.capacity() > 4 * versions.len() {
            versions.shrink_to_fit();
        }
    }

    /// The keys whose newest superseded version at `revision` is a value, with the revision of that.
    fn at(&self, range: &KeyRange, revision: Revision) -> Vec<(Bytes, Revision)> {
        let Some(bounds) = bounds(range) else { return Vec::new() };
        self.0
            .range::<[u8], _>(bounds)
            .filter_map(|(key, versions)| {
                let at = versions.partition_point(|v| v.abs() <= revision);
                let version = *versions[..at].last()?;
                (version > 0).then(|| (key.clone(), version))
            })
            .collect()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(Vec::len).sum()
    }
}

/// Reads a revision older than the ring. `snapshot` is any published one at or after that revision. Blocking.
pub(crate) fn range(
    shared: &Shared,
    conn: &Connection,
    snapshot: &Snapshot,
    request: &RangeRequest,
) -> Result<RangeResponse> {
    let path = shared.readers.path();
    let revision = request.revision;
    let mut kvs: Vec<Arc<KeyValue>> =
        snapshot.iter(&request.range).filter(|kv| kv.mod_revision <= revision).cloned().collect();
    let mut old = shared.index.lock().at(&request.range, revision);
    old.retain(|(key, _)| snapshot.get(key).is_none_or(|kv| kv.mod_revision > revision));
    let still_there = || {
        let compacted = shared.snapshot.load().compacted;
        if revision < compacted { Err(Error::Compacted { compacted }) } else { Ok(()) }
    };
    for (key, version) in old {
        match disk::version(conn, path, &key, version)? {
            Some(kv) => kvs.push(Arc::new(kv)),
            None => {
                still_there()?;
                return Err(disk::corrupt(path, format!("a version of revision {version} is missing")));
            }
        }
    }
    still_there()?;
    kvs.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    Ok(select(request, snapshot.revision, kvs.iter()))
}

/// Reads events of `range` from revision `from` to at most `to`, all on disk; returns the last revision covered.
/// Blocking.
pub(crate) fn events(
    shared: &Shared,
    conn: &Connection,
    range: &KeyRange,
    (from, to): (Revision, Revision),
) -> Result<(Vec<Arc<Event>>, Revision)> {
    const MAX_ROWS: usize = 4096;
    const MAX_BYTES: usize = 1 << 20;
    let path = shared.readers.path();
    let mut stored = Vec::new();
    let mut bytes = 0;
    let last = disk::scan(
        conn,
        path,
        (from, to),
        MAX_ROWS,
        |key| range.contains(key),
        |event| {
            bytes += event.kv.key.len() + event.kv.value.len();
            stored.push(event);
            bytes < MAX_BYTES
        },
    )?;
    let still_there = || {
        let compacted = shared.snapshot.load().compacted;
        if from < compacted { Err(Error::Compacted { compacted }) } else { Ok(()) }
    };
    let mut events = Vec::with_capacity(stored.len());
    for event in stored {
        let prev_kv = match event.prev {
            0 => None,
            prev => disk::version(conn, path, &event.kv.key, prev)?,
        };
        if prev_kv.is_none() && event.prev != 0 {
            still_there()?;
            return Err(disk::corrupt(path, format!("a version of revision {} is missing", event.prev)));
        }
        events.push(Arc::new(Event { kind: event.kind, kv: event.kv, prev_kv }));
    }
    still_there()?;
    Ok((events, last))
}
