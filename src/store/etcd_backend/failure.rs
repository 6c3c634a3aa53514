//! What an error of the cluster means: has the request been done, has it not, or can nobody say.
//!
//! Invariants:
//! - EB-2: a write is sent again only when it has certainly not been done.

use etcd_client as etcd;

use crate::{Error, LeaseId, Revision};

pub(super) enum Failure {
    /// An answer: asking again would not change it.
    Answer(Error),
    /// Not done: this member could not take it.
    NotDone(String),
    /// Done or not.
    Unclear(String),
}

/// What the request was about, for errors that do not say.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct About {
    pub(super) lease: LeaseId,
    pub(super) bytes: usize,
    pub(super) limit: usize,
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
}

pub(super) fn classify(error: &etcd::Error, about: &About) -> Failure {
    match error {
        etcd::Error::GRpcStatus(status) => {
            let message = status.message();
            if let Some(answer) = answer(message, about) {
                return Failure::Answer(answer);
            }
            let detail = || message.to_owned();
            if NOT_TAKEN.contains(&message) || never_connected(status) {
                Failure::NotDone(if message.is_empty() { status.to_string() } else { detail() })
            } else if message.starts_with("etcdserver: ") && !UNCLEAR.iter().any(|known| message.starts_with(known)) {
                Failure::Answer(Error::Database(format!("etcd: {message}")))
            } else {
                Failure::Unclear(detail())
            }
        }
        etcd::Error::LeaseKeepAliveError(_) => Failure::Answer(Error::LeaseNotFound(about.lease)),
        etcd::Error::TransportError(_) | etcd::Error::EndpointError(_) | etcd::Error::IoError(_) => {
            Failure::NotDone(sources(error))
        }
        etcd::Error::InvalidArgs(_) | etcd::Error::InvalidUri(_) => {
            Failure::Answer(Error::Database(format!("etcd: {error}")))
        }
        other => Failure::Unclear(other.to_string()),
    }
}

/// Refused before it was proposed.
const NOT_TAKEN: &[&str] = &[
    "etcdserver: no leader",
    "etcdserver: too many requests",
    "etcdserver: not capable",
    "etcdserver: rpc not supported for learner",
];

/// Anything may have happened before these.
const UNCLEAR: &[&str] = &[
    "etcdserver: request timed out",
    "etcdserver: leader changed",
    "etcdserver: server stopped",
    "etcdserver: unhealthy cluster",
    "etcdserver: not leader",
];

fn answer(message: &str, about: &About) -> Option<Error> {
    let text = message.strip_prefix("etcdserver: ").unwrap_or(message);
    Some(match text {
        "mvcc: required revision has been compacted" => Error::Compacted { compacted: about.compacted },
        "mvcc: required revision is a future revision" => Error::FutureRevision { current: about.revision },
        "mvcc: database space exceeded" => Error::NoSpace,
        "duplicate key given in txn request" => Error::DuplicateKey,
        "key is not provided" => Error::EmptyKey,
        "value is provided" => Error::ValueProvided,
        "lease is provided" => Error::LeaseProvided,
        "key not found" => Error::KeyNotFound,
        "requested lease not found" => Error::LeaseNotFound(about.lease),
        "lease already exists" => Error::LeaseExists(about.lease),
        "too large lease TTL" => Error::LeaseTtlTooLarge,
        "request is too large" => Error::TooLarge { bytes: about.bytes, limit: about.limit },
        _ if text.starts_with("grpc: received message larger than max") => {
            Error::TooLarge { bytes: about.bytes, limit: about.limit }
        }
        "corrupt cluster" => Error::Corrupt { path: "etcd".into(), detail: "its members disagree".into() },
        _ => return None,
    })
}

/// Whether the request never left for want of a connection.
fn never_connected(status: &tonic::Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_refused_is_sent_again() {
        let of = |status: tonic::Status| {
            let about = About { lease: 7, compacted: 5, ..About::default() };
            match classify(&etcd::Error::GRpcStatus(status), &about) {
                Failure::Answer(error) => format!("answer: {error}"),
                Failure::NotDone(detail) => format!("not done: {detail}"),
                Failure::Unclear(detail) => format!("unclear: {detail}"),
            }
        };
        let cases = [
            (tonic::Status::unavailable("etcdserver: no leader"), "not done: etcdserver: no leader"),
            (tonic::Status::unavailable("etcdserver: request timed out"), "unclear: etcdserver: request timed out"),
            (
                tonic::Status::unavailable("etcdserver: request timed out, possibly due to previous leader failure"),
                "unclear: etcdserver: request timed out, possibly due to previous leader failure",
            ),
            (tonic::Status::unknown("transport error"), "unclear: transport error"),
            (
                tonic::Status::not_found("etcdserver: requested lease not found"),
                "answer: requested lease 0000000000000007 not found",
            ),
            (tonic::Status::out_of_range("etcdserver: mvcc: required revision has been compacted"), "answer: required"),
            (tonic::Status::invalid_argument("etcdserver: too many operations in txn request"), "answer: database: "),
        ];
        for (status, want) in cases {
            let got = of(status);
            assert!(got.starts_with(want), "{got}");
        }
        let mut refused = tonic::Status::unavailable("tcp connect error");
        refused.set_source(std::sync::Arc::new(tonic::ConnectError("refused".into())));
        assert_eq!(of(refused), "not done: tcp connect error");
    }
}
