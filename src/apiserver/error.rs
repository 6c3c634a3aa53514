//! The crate's error: why the server cannot start or go on. What goes wrong with one request is a Status.

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("store: {0}")]
    Store(#[from] store::Error),
    #[error("{what}: {detail}")]
    Config { what: &'static str, detail: String },
    #[error("cannot serve on {addr}: {source}")]
    Serve { addr: String, source: std::io::Error },
}
