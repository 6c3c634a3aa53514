//! Statuses that belong to HTTP rather than to a resource.

use apimachinery::status::{Details, Status};

/// What the router itself answers: upstream's router gives these an empty `details`.
pub fn route(code: u16, reason: &str, message: &str) -> Status {
    Status::custom(code, reason, message).with_details(Details::default())
}

/// A PATCH with a media type that no patch has.
pub fn route_unsupported() -> Status {
    route(415, "UnsupportedMediaType", "415: Unsupported Media Type")
}

/// A failure of the store, as upstream shows etcd's.
pub fn store(error: &store::Error) -> Status {
    match error {
        store::Error::TooLarge { .. } => Status::unknown("etcdserver: request is too large"),
        store::Error::NoSpace => Status::unknown("etcdserver: mvcc: database space exceeded"),
        store::Error::Compacted { .. } => Status::expired("The resourceVersion for the provided list is too old."),
        other => Status::internal(other),
    }
}
