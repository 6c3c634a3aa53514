//! Our requests as `etcd-client`'s, and its responses as ours.

use bytes::Bytes;
use etcd_client as etcd;

use crate::{
    Compare, CompareResult, CompareTarget, Event, EventKind, KeyRange, KeyValue, Op, OpResponse, PutRequest,
    RangeRequest, RangeResponse, Revision, SortTarget, TxnRequest, TxnResponse,
};

pub(super) fn get(request: &RangeRequest) -> etcd::GetOptions {
    let mut options = etcd::GetOptions::new()
        .with_revision(request.revision)
        .with_limit(i64::try_from(request.limit).unwrap_or(i64::MAX))
        .with_min_mod_revision(request.min_mod_revision)
        .with_max_mod_revision(request.max_mod_revision)
        .with_min_create_revision(request.min_create_revision)
        .with_max_create_revision(request.max_create_revision);
    if !request.range.end.is_empty() {
        options = options.with_range(&request.range.end[..]);
    }
    if request.keys_only {
        options = options.with_keys_only();
    }
    if request.count_only {
        options = options.with_count_only();
    }
    let target = match request.sort {
        SortTarget::Key => etcd::SortTarget::Key,
        SortTarget::Version => etcd::SortTarget::Version,
        SortTarget::Create => etcd::SortTarget::Create,
        SortTarget::Mod => etcd::SortTarget::Mod,
        SortTarget::Value => etcd::SortTarget::Value,
    };
    // In ascending order of keys they come anyway: asking for it makes etcd sort.
    match (request.sort, request.descending) {
        (SortTarget::Key, false) => options,
        (_, false) => options.with_sort(target, etcd::SortOrder::Ascend),
        (_, true) => options.with_sort(target, etcd::SortOrder::Descend),
    }
}

pub(super) fn txn(request: &TxnRequest) -> etcd::Txn {
    let ops = |ops: &[Op]| ops.iter().map(op).collect::<Vec<_>>();
    let mut txn = etcd::Txn::new();
    if !request.compares.is_empty() {
        txn = txn.when(request.compares.iter().map(compare).collect::<Vec<_>>());
    }
    if !request.success.is_empty() {
        txn = txn.and_then(ops(&request.success));
    }
    if !request.failure.is_empty() {
        txn = txn.or_else(ops(&request.failure));
    }
    txn
}

fn op(op: &Op) -> etcd::TxnOp {
    match op {
        Op::Range(range) => etcd::TxnOp::get(&range.range.start[..], Some(get(range))),
        Op::Put(request) => etcd::TxnOp::put(&request.key[..], &request.value[..], Some(put(request))),
        Op::Delete { range, prev_kv } => {
            let mut options = etcd::DeleteOptions::new();
            if !range.end.is_empty() {
                options = options.with_range(&range.end[..]);
            }
            if *prev_kv {
                options = options.with_prev_key();
            }
            etcd::TxnOp::delete(&range.start[..], Some(options))
        }
        Op::Txn(nested) => etcd::TxnOp::txn(txn(nested)),
    }
}

fn put(request: &PutRequest) -> etcd::PutOptions {
    let mut options = etcd::PutOptions::new().with_lease(request.lease);
    if request.prev_kv {
        options = options.with_prev_key();
    }
    if request.ignore_value {
        options = options.with_ignore_value();
    }
    if request.ignore_lease {
        options = options.with_ignore_lease();
    }
    options
}

fn compare(compare: &Compare) -> etcd::Compare {
    let operator = match compare.result {
        CompareResult::Equal => etcd::CompareOp::Equal,
        CompareResult::NotEqual => etcd::CompareOp::NotEqual,
        CompareResult::Greater => etcd::CompareOp::Greater,
        CompareResult::Less => etcd::CompareOp::Less,
    };
    let key = &compare.range.start[..];
    let made = match &compare.target {
        CompareTarget::Version(version) => etcd::Compare::version(key, operator, *version),
        CompareTarget::Create(revision) => etcd::Compare::create_revision(key, operator, *revision),
        CompareTarget::Mod(revision) => etcd::Compare::mod_revision(key, operator, *revision),
        CompareTarget::Value(value) => etcd::Compare::value(key, operator, &value[..]),
        CompareTarget::Lease(lease) => etcd::Compare::lease(key, operator, *lease),
    };
    if compare.range.end.is_empty() { made } else { made.with_range(&compare.range.end[..]) }
}

pub(super) fn revision(header: Option<&etcd::ResponseHeader>) -> Revision {
    header.map_or(0, etcd::ResponseHeader::revision)
}

pub(super) fn range_response(mut response: etcd::GetResponse) -> RangeResponse {
    RangeResponse {
        revision: revision(response.header()),
        more: response.more(),
        count: usize::try_from(response.count()).unwrap_or_default(),
        kvs: response.take_kvs().into_iter().map(key_value).collect(),
    }
}

pub(super) fn txn_response(response: &etcd::TxnResponse) -> TxnResponse {
    let at = revision(response.header());
    let responses = response
        .op_responses()
        .into_iter()
        .map(|response| match response {
            // What is inside a transaction has no header of its own.
            etcd::TxnOpResponse::Get(get) => OpResponse::Range(RangeResponse { revision: at, ..range_response(get) }),
            etcd::TxnOpResponse::Put(mut put) => OpResponse::Put { prev_kv: put.take_prev_key().map(key_value) },
            etcd::TxnOpResponse::Delete(mut delete) => OpResponse::Delete {
                deleted: usize::try_from(delete.deleted()).unwrap_or_default(),
                prev_kvs: delete.take_prev_kvs().into_iter().map(key_value).collect(),
            },
            etcd::TxnOpResponse::Txn(nested) => OpResponse::Txn(TxnResponse { revision: at, ..txn_response(&nested) }),
        })
        .collect();
    TxnResponse { revision: at, succeeded: response.succeeded(), responses }
}

fn key_value(kv: etcd::KeyValue) -> KeyValue {
    let (create_revision, mod_revision) = (kv.create_revision(), kv.mod_revision());
    let (version, lease) = (kv.version(), kv.lease());
    let (key, value) = kv.into_key_value();
    KeyValue { key: key.into(), value: value.into(), create_revision, mod_revision, version, lease }
}

/// One allocation for both.
fn copied(kv: &etcd::KeyValue) -> KeyValue {
    let mut value = Bytes::from([kv.key(), kv.value()].concat());
    let key = value.split_to(kv.key().len());
    KeyValue {
        key,
        value,
        create_revision: kv.create_revision(),
        mod_revision: kv.mod_revision(),
        version: kv.version(),
        lease: kv.lease(),
    }
}

/// `None`: an event without a key, which there is not.
pub(super) fn event(event: &etcd::Event) -> Option<Event> {
    let kind = match event.event_type() {
        etcd::EventType::Put => EventKind::Put,
        etcd::EventType::Delete => EventKind::Delete,
    };
    Some(Event { kind, kv: copied(event.kv()?), prev_kv: event.prev_kv().map(copied) })
}

pub(super) fn watch(range: &KeyRange, start: Revision) -> etcd::WatchOptions {
    let options = etcd::WatchOptions::new().with_start_revision(start).with_prev_key().with_progress_notify();
    if range.end.is_empty() { options } else { options.with_range(&range.end[..]) }
}

/// Bytes and leases of what a transaction puts, for errors that etcd reports without them.
pub(super) fn puts(request: &TxnRequest) -> (usize, Option<i64>) {
    let (mut bytes, mut lease) = (0, None);
    for op in request.success.iter().chain(&request.failure) {
        match op {
            Op::Put(put) => {
                bytes += put.key.len() + put.value.len();
                lease = lease.or(Some(put.lease).filter(|lease| *lease != 0));
            }
            Op::Txn(nested) => {
                let (more, other) = puts(nested);
                bytes += more;
                lease = lease.or(other);
            }
            Op::Range(_) | Op::Delete { .. } => {}
        }
    }
    (bytes, lease)
}
