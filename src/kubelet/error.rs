//! The crate's one error type.

use std::path::{Path, PathBuf};

use tonic::{Code, Status};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime refused; the text is what a Go gRPC client would show, since it ends up in events.
    #[error("{}", go_rpc_error(.0))]
    Cri(Box<Status>),
    #[error("container runtime at {endpoint}: {message}")]
    Connect { endpoint: String, message: String },
    #[error("{action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// What a pod asks for cannot be had (now): the text is upstream's and is shown to the user.
    #[error("{0}")]
    Pod(String),
    #[error("containerd: {0}")]
    Containerd(String),
    #[error("image archive {archive}: {message}")]
    Archive { archive: String, message: String },
    #[error("{object}: {}", api_text(.source))]
    Api { object: String, source: Box<kube::Error> },
    #[error("kubelet configuration: {0}")]
    Config(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    pub(crate) fn api(object: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let object = object.into();
        move |source| Self::Api { object, source: Box::new(source) }
    }

    pub(crate) fn pod(text: impl Into<String>) -> Self {
        Self::Pod(text.into())
    }

    /// Whether the runtime does not know the object.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Cri(status) => status.code() == Code::NotFound,
            Self::Api { source, .. } => is_api_code(source, 404),
            _ => false,
        }
    }

    /// Whether the runtime is too old for the call.
    pub fn is_unimplemented(&self) -> bool {
        matches!(self, Self::Cri(status) if status.code() == Code::Unimplemented)
    }

    /// The message without the transport's wrapping, as upstream puts it into container statuses.
    pub fn short(&self) -> String {
        match self {
            Self::Cri(status) => status.message().to_owned(),
            other => other.to_string(),
        }
    }
}

/// What the API server said, without the client's wrapping.
fn api_text(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Whether the API server answered with this HTTP code.
pub(crate) fn is_api_code(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Cri(Box::new(status))
    }
}

fn go_rpc_error(status: &Status) -> String {
    let code = match status.code() {
        Code::Ok => "OK".to_owned(),
        Code::Cancelled => "Canceled".to_owned(),
        other => format!("{other:?}"),
    };
    format!("rpc error: code = {code} desc = {}", status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_a_go_client_would_print_it() {
        let error = Error::from(Status::not_found("no such image"));
        assert_eq!(error.to_string(), "rpc error: code = NotFound desc = no such image");
        assert_eq!(error.short(), "no such image");
        assert!(error.is_not_found());
    }
}
