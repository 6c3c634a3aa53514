//! Requests and responses of the protocol to those of the store, with the checks that etcd makes at its door.
//!
//! Invariants: GF-2: keys and values that are kept are copied out of the message.

use bytes::Bytes;
use tonic::Status;

use super::errors;
use super::pb::etcdserverpb as pb;
use super::pb::etcdserverpb::compare::{CompareResult as PbResult, CompareTarget as PbTarget, TargetUnion};
use super::pb::etcdserverpb::range_request::{SortOrder, SortTarget as PbSortTarget};
use super::pb::etcdserverpb::request_op::Request as RequestOp;
use super::pb::etcdserverpb::response_op::Response as ResponseOp;
use crate::{
    Compare, CompareResult, CompareTarget, Error, KeyRange, Op, OpResponse, PutRequest, RangeRequest, RangeResponse,
    Revision, SortTarget, TxnRequest, TxnResponse,
};

/// Bytes that do not keep the message alive that they came in.
pub(super) fn own(bytes: &Bytes) -> Bytes {
    if bytes.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(bytes) }
}

fn key_given(key: &Bytes) -> Result<(), Status> {
    if key.is_empty() { Err(errors::status(Error::EmptyKey)) } else { Ok(()) }
}

pub(super) fn range(request: pb::RangeRequest) -> Result<RangeRequest, Status> {
    key_given(&request.key)?;
    let order = SortOrder::try_from(request.sort_order).map_err(|_| errors::invalid_sort())?;
    let target = PbSortTarget::try_from(request.sort_target).map_err(|_| errors::invalid_sort())?;
    Ok(RangeRequest {
        range: KeyRange { start: request.key, end: request.range_end },
        revision: request.revision,
        limit: usize::try_from(request.limit).unwrap_or(0),
        keys_only: request.keys_only,
        count_only: request.count_only,
        sort: match target {
            PbSortTarget::Key => SortTarget::Key,
            PbSortTarget::Version => SortTarget::Version,
            PbSortTarget::Create => SortTarget::Create,
            PbSortTarget::Mod => SortTarget::Mod,
            PbSortTarget::Value => SortTarget::Value,
        },
        descending: order == SortOrder::Descend,
        min_mod_revision: request.min_mod_revision,
        max_mod_revision: request.max_mod_revision,
        min_create_revision: request.min_create_revision,
        max_create_revision: request.max_create_revision,
    })
}

pub(super) fn range_response(response: RangeResponse, header: Option<pb::ResponseHeader>) -> pb::RangeResponse {
    pb::RangeResponse {
        header,
        kvs: response.kvs.into_iter().map(Into::into).collect(),
        more: response.more,
        count: i64::try_from(response.count).unwrap_or(i64::MAX),
    }
}

pub(super) fn put(request: &pb::PutRequest) -> Result<PutRequest, Status> {
    key_given(&request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(errors::status(Error::ValueProvided));
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(errors::status(Error::LeaseProvided));
    }
    Ok(PutRequest {
        key: own(&request.key),
        value: own(&request.value),
        lease: request.lease,
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    })
}

pub(super) fn delete(request: pb::DeleteRangeRequest) -> Result<Op, Status> {
    key_given(&request.key)?;
    Ok(Op::Delete { range: KeyRange { start: request.key, end: request.range_end }, prev_kv: request.prev_kv })
}

/// At most `max_ops` operations in a branch; those of a nested transaction count for the one around it.
pub(super) fn txn(request: pb::TxnRequest, max_ops: usize) -> Result<TxnRequest, Status> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = max_ops.checked_sub(ops).ok_or_else(errors::too_many_ops)?;
    let compares = request.compare.into_iter().map(compare).collect::<Result<_, _>>()?;
    let branch = |ops: Vec<pb::RequestOp>| ops.into_iter().map(|o| op(o, left)).collect::<Result<Vec<_>, _>>();
    Ok(TxnRequest { compares, success: branch(request.success)?, failure: branch(request.failure)? })
}

fn op(op: pb::RequestOp, left: usize) -> Result<Op, Status> {
    match op.request {
        Some(RequestOp::RequestRange(request)) => range(request).map(Op::Range),
        Some(RequestOp::RequestPut(request)) => put(&request).map(Op::Put),
        Some(RequestOp::RequestDeleteRange(request)) => delete(request),
        Some(RequestOp::RequestTxn(request)) => txn(request, left).map(Op::Txn),
        None => Err(errors::status(Error::KeyNotFound)),
    }
}

/// What the target says counts; a value of another kind is as none.
fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    key_given(&compare.key)?;
    let union = compare.target_union;
    let always =
        |holds: bool| (CompareTarget::Version(-1), if holds { CompareResult::Greater } else { CompareResult::Less });
    let target = match (PbTarget::try_from(compare.target).ok(), union) {
        (Some(PbTarget::Version), Some(TargetUnion::Version(n))) => Some(CompareTarget::Version(n)),
        (Some(PbTarget::Version), _) => Some(CompareTarget::Version(0)),
        (Some(PbTarget::Create), Some(TargetUnion::CreateRevision(n))) => Some(CompareTarget::Create(n)),
        (Some(PbTarget::Create), _) => Some(CompareTarget::Create(0)),
        (Some(PbTarget::Mod), Some(TargetUnion::ModRevision(n))) => Some(CompareTarget::Mod(n)),
        (Some(PbTarget::Mod), _) => Some(CompareTarget::Mod(0)),
        (Some(PbTarget::Value), Some(TargetUnion::Value(value))) => Some(CompareTarget::Value(value)),
        (Some(PbTarget::Value), _) => Some(CompareTarget::Value(Bytes::new())),
        (Some(PbTarget::Lease), Some(TargetUnion::Lease(n))) => Some(CompareTarget::Lease(n)),
        (Some(PbTarget::Lease), _) => Some(CompareTarget::Lease(0)),
        (None, _) => None,
    };
    let result = match PbResult::try_from(compare.result) {
        Ok(PbResult::Equal) => Some(CompareResult::Equal),
        Ok(PbResult::Greater) => Some(CompareResult::Greater),
        Ok(PbResult::Less) => Some(CompareResult::Less),
        Ok(PbResult::NotEqual) => Some(CompareResult::NotEqual),
        Err(_) => None,
    };
    let (target, result) = match (target, result) {
        (Some(target), Some(result)) => (target, result),
        // etcd: a target it does not know is equal to everything, and a result it does not know always holds.
        (None, Some(result)) => always(result == CompareResult::Equal),
        // Nothing holds for the value of a key that is not there.
        (Some(CompareTarget::Value(_)), None) => (CompareTarget::Version(0), CompareResult::Greater),
        (_, None) => always(true),
    };
    Ok(Compare { range: KeyRange { start: compare.key, end: compare.range_end }, target, result })
}

/// Whether every operation only reads, as etcd sees it: one that nests another does not.
pub(super) fn is_read_only(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).all(|op| matches!(op, Op::Range(_)))
}

/// Whether `request` could need space: the most expensive branch counts.
pub(super) fn needs_space(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(txn) => needs_space(txn),
        Op::Range(_) | Op::Delete { .. } => false,
    })
}

pub(super) fn txn_response(response: TxnResponse, header: Option<pb::ResponseHeader>) -> pb::TxnResponse {
    let mut now = response.revision - i64::from(writes(&response));
    let last = response.revision;
    let mut converted = nested(response, &mut now, last);
    converted.header = header;
    converted
}

fn writes(response: &TxnResponse) -> bool {
    response.responses.iter().any(|response| match response {
        OpResponse::Put { .. } => true,
        OpResponse::Delete { deleted, .. } => *deleted > 0,
        OpResponse::Txn(txn) => writes(txn),
        OpResponse::Range(_) => false,
    })
}

/// `now` is the revision as the operations go by: that before the transaction until the first write, then `last`.
fn nested(response: TxnResponse, now: &mut Revision, last: Revision) -> pb::TxnResponse {
    let at = |revision| Some(pb::ResponseHeader { revision, ..Default::default() });
    let responses = response.responses.into_iter().map(|response| {
        let response = match response {
            OpResponse::Range(range) => {
                let header = at(range.revision);
                ResponseOp::ResponseRange(range_response(range, header))
            }
            OpResponse::Put { prev_kv } => {
                *now = last;
                ResponseOp::ResponsePut(pb::PutResponse { header: at(*now), prev_kv: prev_kv.map(Into::into) })
            }
            OpResponse::Delete { deleted, prev_kvs } => {
                if deleted > 0 {
                    *now = last;
                }
                ResponseOp::ResponseDeleteRange(delete_response(at(*now), deleted, prev_kvs))
            }
            OpResponse::Txn(txn) => ResponseOp::ResponseTxn(nested(txn, now, last)),
        };
        pb::ResponseOp { response: Some(response) }
    });
    let responses = responses.collect();
    pb::TxnResponse { header: Some(pb::ResponseHeader::default()), succeeded: response.succeeded, responses }
}

pub(super) fn delete_response(
    header: Option<pb::ResponseHeader>,
    deleted: usize,
    prev_kvs: Vec<crate::KeyValue>,
) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse {
        header,
        deleted: i64::try_from(deleted).unwrap_or(i64::MAX),
        prev_kvs: prev_kvs.into_iter().map(Into::into).collect(),
    }
}
