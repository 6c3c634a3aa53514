//! The crate's one error.

use std::path::PathBuf;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {verb} {}", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// PK-1: what is there is never replaced silently.
    #[error("{}: {what}", path.display())]
    Unusable { path: PathBuf, what: String },
    #[error("certificate for {name:?} cannot be made: {source}")]
    Issue {
        name: String,
        #[source]
        source: rcgen::Error,
    },
    #[error("certificate does not parse: {0}")]
    Certificate(String),
    #[error("token is malformed: {0}")]
    Token(&'static str),
    #[error("time {0} is out of the range of certificates")]
    Time(jiff::Timestamp),
    #[error("the service-account key is no PKCS #8 PEM of an ECDSA P-256 key")]
    SigningKey,
    #[error("no key could be made")]
    KeyGeneration,
}
