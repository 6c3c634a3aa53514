//! Transactions as a pure function from one snapshot to the next.
//!
//! Invariants:
//! - AP-1: a transaction that fails leaves the state as it was.
//! - AP-2: all compares, nested ones too, see the state before the transaction (as in etcd).
//! - AP-3: a transaction that writes takes exactly one new revision; one that writes nothing takes none (ST-2).

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use super::disk::MAX_EVENTS;
use super::state::{Item, LeaseRecord, Snapshot};
use crate::{
    Compare, CompareResult, CompareTarget, Error, Event, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResponse,
    PutRequest, RangeRequest, RangeResponse, Result, Revision, TxnRequest, TxnResponse,
};

/// Reads a revision before the current one: given the state inside the transaction, the events since the last
/// published revision, and the request.
pub(crate) type PastReader<'a> = &'a dyn Fn(&Snapshot, &[Arc<Event>], &RangeRequest) -> Result<RangeResponse>;

/// Applies `request` to `state`, appending what happened to `events`.
///
/// # Errors
/// Those that depend on the state; [`validate`] finds the others.
pub(crate) fn txn(
    state: &mut Snapshot,
    events: &mut Vec<Arc<Event>>,
    request: TxnRequest,
    past: PastReader<'_>,
) -> Result<TxnResponse> {
    let mut path = Vec::new();
    choose(state, &request, &mut path);
    // As etcd: all that is written is checked before anything that is read.
    check(state, &request, &mut path.as_slice(), check_put)?;
    check(state, &request, &mut path.as_slice(), check_range)?;

    let before = state.clone();
    let mark = events.len();
    let mut run = Run { base: state.revision, state, events, mark, past };
    let mut rest = path.as_slice();
    let mut result = run.txn(request, &mut rest);
    let changes = events.len() - mark;
    if changes > MAX_EVENTS {
        result = Err(Error::TooLarge { bytes: changes, limit: MAX_EVENTS });
    }
    match result {
        Ok(mut response) => {
            if events.len() > mark {
                state.revision += 1;
            }
            response.revision = state.revision;
            Ok(response)
        }
        Err(error) => {
            events.truncate(mark);
            *state = before;
            Err(error)
        }
    }
}

/// Deletes `keys` (and forgets `lease`) in one revision, if there are any.
pub(crate) fn revoke(state: &mut Snapshot, events: &mut Vec<Arc<Event>>, lease: LeaseId) -> Result<Revision> {
    let record = state.leases.remove(&lease).ok_or(Error::LeaseNotFound(lease))?;
    let mark = events.len();
    for key in &record.keys {
        delete_key(state, events, key);
    }
    if events.len() > mark {
        state.revision += 1;
    }
    Ok(state.revision)
}

pub(crate) fn grant(state: &mut Snapshot, lease: LeaseId, ttl: i64) -> Result<()> {
    if state.leases.contains_key(&lease) {
        return Err(Error::LeaseExists(lease));
    }
    state.leases.insert(lease, LeaseRecord { ttl, keys: imbl::OrdSet::new() });
    Ok(())
}

/// Answers `request` from a snapshot if that needs no write: the branch that holds only reads current keys.
pub(crate) fn read_only(state: &Snapshot, request: &TxnRequest) -> Option<TxnResponse> {
    let succeeded = holds(state, &request.compares);
    let branch = if succeeded { &request.success } else { &request.failure };
    let responses = branch
        .iter()
        .map(|op| match op {
            Op::Range(r) if r.revision <= 0 || r.revision == state.revision => Some(OpResponse::Range(state.range(r))),
            _ => None,
        })
        .collect::<Option<Vec<_>>>()?;
    Some(TxnResponse { revision: state.revision, succeeded, responses })
}

/// The checks that need no state: empty keys, contradictory options, size, and keys written twice.
pub(crate) fn validate(request: &TxnRequest, max_bytes: usize) -> Result<()> {
    let bytes = weigh(request)?;
    if bytes > max_bytes {
        return Err(Error::TooLarge { bytes, limit: max_bytes });
    }
    // One operation cannot collide with itself; that is most transactions.
    let single = |ops: &[Op]| ops.len() <= 1 && !matches!(ops, [Op::Txn(_)]);
    if !single(&request.success) {
        intervals(&request.success)?;
    }
    if !single(&request.failure) {
        intervals(&request.failure)?;
    }
    Ok(())
}

/// Whether every key that `request` could write lies under one of `prefixes`.
pub(crate) fn writes_only_under(request: &TxnRequest, prefixes: &[KeyRange]) -> bool {
    let key = |key: &Bytes| prefixes.iter().any(|p| p.contains(key));
    let within = |range: &KeyRange| match range.end.as_ref() {
        [] => key(&range.start),
        [0] => false,
        end => prefixes.iter().any(|p| p.contains(&range.start) && end <= p.end.as_ref()),
    };
    !prefixes.is_empty()
        && request.success.iter().chain(&request.failure).all(|op| match op {
            Op::Range(_) => true,
            Op::Put(put) => key(&put.key),
            Op::Delete { range, .. } => within(range),
            Op::Txn(txn) => writes_only_under(txn, prefixes),
        })
}

fn weigh(request: &TxnRequest) -> Result<usize> {
    let mut bytes = 0;
    for compare in &request.compares {
        bytes += range_bytes(&compare.range)?;
        if let CompareTarget::Value(value) = &compare.target {
            bytes += value.len();
        }
    }
    for op in request.success.iter().chain(&request.failure) {
        bytes += match op {
            Op::Range(range) => range_bytes(&range.range)?,
            Op::Delete { range, .. } => range_bytes(range)?,
            Op::Txn(txn) => weigh(txn)?,
            Op::Put(put) => {
                if put.key.is_empty() {
                    return Err(Error::EmptyKey);
                }
                if put.ignore_value && !put.value.is_empty() {
                    return Err(Error::ValueProvided);
                }
                if put.ignore_lease && put.lease != 0 {
                    return Err(Error::LeaseProvided);
                }
                put.key.len() + put.value.len()
            }
        };
    }
    Ok(bytes)
}

fn range_bytes(range: &KeyRange) -> Result<usize> {
    if range.start.is_empty() { Err(Error::EmptyKey) } else { Ok(range.start.len() + range.end.len()) }
}

/// etcd's check that no key is put twice, or put and deleted, by one transaction. The two branches of a nested
/// transaction exclude each other, so they may write the same keys.
fn intervals(ops: &[Op]) -> Result<(HashSet<&[u8]>, Vec<&KeyRange>)> {
    let mut deletes: Vec<&KeyRange> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Delete { range, .. } => Some(range),
            _ => None,
        })
        .collect();
    let mut puts: HashSet<&[u8]> = HashSet::new();
    for op in ops {
        let Op::Txn(txn) = op else { continue };
        let (then_puts, then_deletes) = intervals(&txn.success)?;
        let (else_puts, else_deletes) = intervals(&txn.failure)?;
        let collides = |key: &[u8]| deletes.iter().any(|range| covers(range, key));
        if then_puts.iter().chain(&else_puts).any(|key| puts.contains(key) || collides(key)) {
            return Err(Error::DuplicateKey);
        }
        puts.extend(then_puts);
        puts.extend(else_puts);
        deletes.extend(then_deletes);
        deletes.extend(else_deletes);
    }
    for op in ops {
        let Op::Put(put) = op else { continue };
        if deletes.iter().any(|range| covers(range, &put.key)) || !puts.insert(&put.key) {
            return Err(Error::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

/// As etcd sees it: a range without an end, to which it writes the end `[0]`, covers nothing here. What is put and deleted
/// by one transaction then happens in the order of its operations.
fn covers(range: &KeyRange, key: &[u8]) -> bool {
    range.end.as_ref() != [0] && range.contains(key)
}

/// Which branch each transaction takes, in the order in which they are met.
fn choose(state: &Snapshot, request: &TxnRequest, path: &mut Vec<bool>) {
    let succeeded = holds(state, &request.compares);
    path.push(succeeded);
    for op in if succeeded { &request.success } else { &request.failure } {
        if let Op::Txn(txn) = op {
            choose(state, txn, path);
        }
    }
}

fn next(path: &mut &[bool]) -> bool {
    let (first, rest) = path.split_first().expect("the path has an entry for every transaction on it");
    *path = rest;
    *first
}

fn holds(state: &Snapshot, compares: &[Compare]) -> bool {
    compares.iter().all(|compare| {
        let mut found = false;
        let all = if compare.range.end.is_empty() {
            state.get(&compare.range.start).is_none_or(|kv| {
                found = true;
                compare_one(compare, Some(kv))
            })
        } else {
            state.iter(&compare.range).all(|kv| {
                found = true;
                compare_one(compare, Some(kv))
            })
        };
        all && (found || compare_one(compare, None))
    })
}

fn compare_one(compare: &Compare, kv: Option<&Arc<KeyValue>>) -> bool {
    let number = |of: fn(&KeyValue) -> i64, wanted: i64| kv.map_or(0, |kv| of(kv)).cmp(&wanted);
    let ordering = match &compare.target {
        CompareTarget::Version(wanted) => number(|kv| kv.version, *wanted),
        CompareTarget::Create(wanted) => number(|kv| kv.create_revision, *wanted),
        CompareTarget::Mod(wanted) => number(|kv| kv.mod_revision, *wanted),
        CompareTarget::Lease(wanted) => number(|kv| kv.lease, *wanted),
        CompareTarget::Value(wanted) => match kv {
            Some(kv) => kv.value.cmp(wanted),
            // As in etcd: a missing value equals, differs from, and precedes nothing.
            None => return false,
        },
    };
    match compare.result {
        CompareResult::Equal => ordering.is_eq(),
        CompareResult::NotEqual => ordering.is_ne(),
        CompareResult::Greater => ordering.is_gt(),
        CompareResult::Less => ordering.is_lt(),
    }
}

/// Everything on the chosen path that could fail, before anything is written.
fn check(
    state: &Snapshot,
    request: &TxnRequest,
    path: &mut &[bool],
    each: fn(&Snapshot, &Op) -> Result<()>,
) -> Result<()> {
    for op in if next(path) { &request.success } else { &request.failure } {
        match op {
            Op::Txn(txn) => check(state, txn, path, each)?,
            op => each(state, op)?,
        }
    }
    Ok(())
}

fn check_put(state: &Snapshot, op: &Op) -> Result<()> {
    let Op::Put(put) = op else { return Ok(()) };
    if (put.ignore_value || put.ignore_lease) && state.get(&put.key).is_none() {
        return Err(Error::KeyNotFound);
    }
    if put.lease != 0 {
        let record = state.leases.get(&put.lease).ok_or(Error::LeaseNotFound(put.lease))?;
        // Its end must fit into one revision.
        if record.keys.len() >= MAX_EVENTS / 2 {
            return Err(Error::TooLarge { bytes: record.keys.len(), limit: MAX_EVENTS / 2 });
        }
    }
    Ok(())
}

fn check_range(state: &Snapshot, op: &Op) -> Result<()> {
    let Op::Range(range) = op else { return Ok(()) };
    // Alone, a negative revision is the current one; in a transaction etcd holds it against the compaction, which it
    // says of a new store was at -1.
    let compacted = if state.compacted == 0 { -1 } else { state.compacted };
    if range.revision < 0 && range.revision < compacted {
        return Err(Error::Compacted { compacted: state.compacted });
    }
    readable(state, range.revision)
}

/// Whether `revision` can still, and already, be read.
pub(crate) fn readable(state: &Snapshot, revision: Revision) -> Result<()> {
    if revision > state.revision {
        return Err(Error::FutureRevision { current: state.revision });
    }
    if revision > 0 && revision < state.compacted {
        return Err(Error::Compacted { compacted: state.compacted });
    }
    Ok(())
}

struct Run<'a> {
    state: &'a mut Snapshot,
    events: &'a mut Vec<Arc<Event>>,
    /// Length of `events` before this transaction.
    mark: usize,
    base: Revision,
    past: PastReader<'a>,
}

impl Run<'_> {
    fn now(&self) -> Revision {
        if self.events.len() > self.mark { self.base + 1 } else { self.base }
    }

    fn txn(&mut self, request: TxnRequest, path: &mut &[bool]) -> Result<TxnResponse> {
        let succeeded = next(path);
        let ops = if succeeded { request.success } else { request.failure };
        let mut responses = Vec::with_capacity(ops.len());
        for op in ops {
            responses.push(match op {
                Op::Range(range) => OpResponse::Range(self.range(&range)?),
                Op::Put(put) => self.put(put),
                Op::Delete { range, prev_kv } => self.delete(&range, prev_kv),
                Op::Txn(txn) => OpResponse::Txn(self.txn(txn, path)?),
            });
        }
        Ok(TxnResponse { revision: self.now(), succeeded, responses })
    }

    fn range(&self, request: &RangeRequest) -> Result<RangeResponse> {
        let mut response = if request.revision <= 0 || request.revision == self.now() {
            self.state.range(request)
        } else {
            (self.past)(self.state, self.events, request)?
        };
        response.revision = self.now();
        Ok(response)
    }

    fn put(&mut self, request: PutRequest) -> OpResponse {
        let revision = self.base + 1;
        let prev = self.state.get(&request.key).cloned();
        let kv = match &prev {
            Some(prev) => KeyValue {
                // The old key, so that all versions share one allocation.
                key: prev.key.clone(),
                value: if request.ignore_value { prev.value.clone() } else { request.value },
                create_revision: prev.create_revision,
                mod_revision: revision,
                version: prev.version + 1,
                lease: if request.ignore_lease { prev.lease } else { request.lease },
            },
            None => KeyValue {
                key: request.key,
                value: request.value,
                create_revision: revision,
                mod_revision: revision,
                version: 1,
                lease: request.lease,
            },
        };
        let old_lease = prev.as_ref().map_or(0, |prev| prev.lease);
        if old_lease != kv.lease {
            detach(self.state, old_lease, &kv.key);
            if let Some(record) = self.state.leases.get_mut(&kv.lease) {
                record.keys.insert(kv.key.clone());
            }
        }
        self.state.kvs.insert(Item(Arc::new(kv.clone())));
        let prev_kv = prev.map(|prev| KeyValue::clone(&prev));
        let answer = if request.prev_kv { prev_kv.clone() } else { None };
        self.events.push(Arc::new(Event { kind: EventKind::Put, kv, prev_kv }));
        OpResponse::Put { prev_kv: answer }
    }

    fn delete(&mut self, range: &KeyRange, prev_kv: bool) -> OpResponse {
        let keys: Vec<Bytes> = self.state.iter(range).map(|kv| kv.key.clone()).collect();
        let mark = self.events.len();
        // The revision of the tombstones is that of the state plus one (AP-3).
        for key in &keys {
            delete_key(self.state, self.events, key);
        }
        let prev_kvs = if prev_kv {
            self.events[mark..].iter().filter_map(|event| event.prev_kv.clone()).collect()
        } else {
            Vec::new()
        };
        OpResponse::Delete { deleted: keys.len(), prev_kvs }
    }
}

fn delete_key(state: &mut Snapshot, events: &mut Vec<Arc<Event>>, key: &Bytes) {
    let Some(Item(prev)) = state.kvs.remove(key.as_ref()) else { return };
    detach(state, prev.lease, key);
    let kv = KeyValue {
        key: prev.key.clone(),
        value: Bytes::new(),
        create_revision: 0,
        mod_revision: state.revision + 1,
        version: 0,
        lease: 0,
    };
    let prev_kv = Some(KeyValue::clone(&prev));
    events.push(Arc::new(Event { kind: EventKind::Delete, kv, prev_kv }));
}

fn detach(state: &mut Snapshot, lease: LeaseId, key: &Bytes) {
    if lease != 0 {
        if let Some(record) = state.leases.get_mut(&lease) {
            record.keys.remove(key);
        }
    }
}
