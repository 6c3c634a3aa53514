//! The one error type of the controllers.

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing}: {source}")]
    Api { doing: String, source: Box<kube::Error> },
    #[error("{object}: {message}")]
    Invalid { object: String, message: String },
}

impl Error {
    /// For `map_err`: says what was being done.
    pub fn api(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Api { doing, source: Box::new(source) }
    }

    /// The HTTP status that the server answered with; 0: it did not answer.
    pub fn code(&self) -> u16 {
        match self {
            Self::Api { source, .. } => code(source),
            Self::Invalid { .. } => 0,
        }
    }
}

pub fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    }
}

/// Turns "it is gone already" into success.
pub fn gone_is_fine<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if code(&error) == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// Turns "it is there already" into success.
pub fn exists_is_fine<T>(result: kube::Result<T>) -> kube::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(kube::Error::Api(status)) if status.code == 409 && status.reason == "AlreadyExists" => Ok(None),
        Err(error) => Err(error),
    }
}
