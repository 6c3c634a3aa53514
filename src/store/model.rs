//! Requests, responses and events. Terms and meanings are etcd's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

pub type Revision = i64;
pub type LeaseId = i64;

/// A key with its value and versions. Cloning shares the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Bytes,
    pub value: Bytes,
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// 1 at creation, one more with every put.
    pub version: i64,
    /// 0: none.
    pub lease: LeaseId,
}

/// A half-open interval of keys. `end` empty: the one key `start`. `end` = `[0]`: everything from `start` on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub start: Bytes,
    pub end: Bytes,
}

impl KeyRange {
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { start: key.into(), end: Bytes::new() }
    }

    /// Every key that begins with `prefix`; an empty prefix is every key.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while let Some(last) = end.pop() {
            if last < 0xff {
                end.push(last + 1);
                return Self { start, end: end.into() };
            }
        }
        let start = if start.is_empty() { Bytes::from_static(&[0]) } else { start };
        Self { start, end: Bytes::from_static(&[0]) }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self.end.as_ref() {
            [] => key == self.start,
            [0] => key >= self.start.as_ref(),
            end => key >= self.start.as_ref() && key < end,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SortTarget {
    #[default]
    Key,
    Version,
    Create,
    Mod,
    Value,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeRequest {
    pub range: KeyRange,
    /// 0: the current revision.
    pub revision: Revision,
    /// 0: no limit.
    pub limit: usize,
    pub keys_only: bool,
    pub count_only: bool,
    pub sort: SortTarget,
    pub descending: bool,
    pub min_mod_revision: Revision,
    pub max_mod_revision: Revision,
    pub min_create_revision: Revision,
    pub max_create_revision: Revision,
}

impl RangeRequest {
    pub fn of(range: KeyRange) -> Self {
        Self {
            range,
            revision: 0,
            limit: 0,
            keys_only: false,
            count_only: false,
            sort: SortTarget::Key,
            descending: false,
            min_mod_revision: 0,
            max_mod_revision: 0,
            min_create_revision: 0,
            max_create_revision: 0,
        }
    }

    pub fn key(key: &[u8]) -> Self {
        Self::of(KeyRange::key(Bytes::copy_from_slice(key)))
    }

    pub fn prefix(prefix: &[u8]) -> Self {
        Self::of(KeyRange::prefix(Bytes::copy_from_slice(prefix)))
    }

    #[must_use]
    pub fn at(mut self, revision: Revision) -> Self {
        self.revision = revision;
        self
    }

    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RangeResponse {
    /// The store's revision when the read was made (not the `revision` asked for).
    pub revision: Revision,
    pub kvs: Vec<KeyValue>,
    /// More keys lie behind the limit.
    pub more: bool,
    /// Keys in the range, regardless of the limit.
    pub count: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CompareTarget {
    Version(i64),
    Create(Revision),
    Mod(Revision),
    Value(Bytes),
    Lease(LeaseId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompareResult {
    Equal,
    NotEqual,
    Greater,
    Less,
}

/// Holds when it holds for every key in the range; a missing key compares as all zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    pub range: KeyRange,
    pub target: CompareTarget,
    pub result: CompareResult,
}

impl Compare {
    /// The key was last written at `revision` (0: it does not exist).
    pub fn mod_revision(key: impl Into<Bytes>, revision: Revision) -> Self {
        Self { range: KeyRange::key(key), target: CompareTarget::Mod(revision), result: CompareResult::Equal }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutRequest {
    pub key: Bytes,
    pub value: Bytes,
    /// 0: none.
    pub lease: LeaseId,
    pub prev_kv: bool,
    /// Keep the current value / lease (the key must exist).
    pub ignore_value: bool,
    pub ignore_lease: bool,
}

impl PutRequest {
    pub fn new(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
            lease: 0,
            prev_kv: false,
            ignore_value: false,
            ignore_lease: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Range(RangeRequest),
    Put(PutRequest),
    Delete { range: KeyRange, prev_kv: bool },
    Txn(TxnRequest),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpResponse {
    Range(RangeResponse),
    Put { prev_kv: Option<KeyValue> },
    Delete { deleted: usize, prev_kvs: Vec<KeyValue> },
    Txn(TxnResponse),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TxnRequest {
    pub compares: Vec<Compare>,
    pub success: Vec<Op>,
    pub failure: Vec<Op>,
}

impl TxnRequest {
    /// Unconditional operations.
    pub fn ops(success: Vec<Op>) -> Self {
        Self { compares: Vec::new(), success, failure: Vec::new() }
    }

    /// `op` if `key` is still at `revision` (0: absent); otherwise reads the key.
    pub fn guarded(key: impl Into<Bytes>, revision: Revision, op: Op) -> Self {
        let key = key.into();
        Self {
            compares: vec![Compare::mod_revision(key.clone(), revision)],
            success: vec![op],
            failure: vec![Op::Range(RangeRequest::of(KeyRange::key(key)))],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TxnResponse {
    /// The revision of this transaction if it wrote, else the current one.
    pub revision: Revision,
    pub succeeded: bool,
    pub responses: Vec<OpResponse>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One change. A delete's `kv` has the key, an empty value and, as `mod_revision`, the revision of the deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub kind: EventKind,
    pub kv: KeyValue,
    /// The value before, if it existed (always filled in by the store; faces drop it when not asked for).
    pub prev_kv: Option<KeyValue>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchRequest {
    pub range: KeyRange,
    /// The first revision to deliver; 0: from the next write on.
    pub start_revision: Revision,
    /// Also deliver [`WatchBatch`]es without events when the store has moved on, so that the watcher learns the revision.
    pub progress: bool,
}

/// Events of one or more whole revisions, in order. All watchers share the same events.
#[derive(Debug, Clone)]
pub struct WatchBatch {
    /// Everything up to and including this revision has been delivered.
    pub revision: Revision,
    pub events: Vec<Arc<Event>>,
}

/// The receiving end of a watch. It ends after an `Err`, or when the store closes. Dropping it cancels the watch.
pub struct Watcher {
    /// The revision of the store when the watch was opened.
    pub revision: Revision,
    pub batches: mpsc::Receiver<Result<WatchBatch, crate::Error>>,
    pub(crate) asked: Arc<AtomicBool>,
}

impl Watcher {
    pub fn new(revision: Revision, batches: mpsc::Receiver<Result<WatchBatch, crate::Error>>) -> Self {
        Self { revision, batches, asked: Arc::default() }
    }

    /// A handle for [`ProgressRequest::ask`], which outlives taking the watcher apart.
    pub fn progress_request(&self) -> ProgressRequest {
        ProgressRequest(Arc::clone(&self.asked))
    }
}

/// Marks one watch for [`crate::Maintenance::send_progress`].
#[derive(Debug, Clone)]
pub struct ProgressRequest(Arc<AtomicBool>);

impl ProgressRequest {
    /// Asks for one batch, events or none, whose revision is at least the store's current one.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub id: LeaseId,
    pub ttl_seconds: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    pub lease: Lease,
    /// -1: expired or unknown.
    pub remaining_seconds: i64,
    pub keys: Vec<Bytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoreSize {
    pub bytes: u64,
    pub bytes_in_use: u64,
}
