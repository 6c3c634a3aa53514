//! etcd's codes and texts.

use tonic::{Code, Status};

use crate::Error;

pub(super) fn status(error: Error) -> Status {
    let (code, text) = match error {
        Error::Compacted { .. } => (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted"),
        Error::FutureRevision { .. } => (Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision"),
        Error::DuplicateKey => (Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
        Error::LeaseNotFound(_) => (Code::NotFound, "etcdserver: requested lease not found"),
        Error::LeaseExists(_) => (Code::FailedPrecondition, "etcdserver: lease already exists"),
        Error::LeaseTtlTooLarge => (Code::OutOfRange, "etcdserver: too large lease TTL"),
        Error::KeyNotFound => (Code::InvalidArgument, "etcdserver: key not found"),
        Error::ValueProvided => (Code::InvalidArgument, "etcdserver: value is provided"),
        Error::LeaseProvided => (Code::InvalidArgument, "etcdserver: lease is provided"),
        Error::EmptyKey => (Code::InvalidArgument, "etcdserver: key is not provided"),
        Error::TooLarge { .. } => return too_large(),
        Error::NoSpace => return no_space(),
        Error::Corrupt { .. } => return corrupt(),
        Error::Closed => (Code::Unavailable, "etcdserver: server stopped"),
        other @ Error::Unavailable { .. } => return Status::unavailable(format!("etcdserver: {other}")),
        other => return Status::new(Code::Unknown, format!("etcdserver: {other}")),
    };
    Status::new(code, text)
}

pub(super) fn too_large() -> Status {
    Status::invalid_argument("etcdserver: request is too large")
}

pub(super) fn too_many_ops() -> Status {
    Status::invalid_argument("etcdserver: too many operations in txn request")
}

pub(super) fn invalid_sort() -> Status {
    Status::invalid_argument("etcdserver: invalid sort option")
}

pub(super) fn no_space() -> Status {
    Status::resource_exhausted("etcdserver: mvcc: database space exceeded")
}

pub(super) fn corrupt() -> Status {
    Status::data_loss("etcdserver: corrupt cluster")
}

/// A message that was too large to be read, in the words of etcd's gRPC library; others as they are.
pub(super) fn oversized(status: &Status) -> Option<Status> {
    let numbers = status.message().strip_prefix("Error, decoded message length too large: found ")?;
    let (found, limit) = numbers.split_once(" bytes, the limit is: ")?;
    let limit = limit.strip_suffix(" bytes")?;
    Some(Status::resource_exhausted(format!("grpc: received message larger than max ({found} vs. {limit})")))
}
