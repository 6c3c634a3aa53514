//! A `kube::Client` over an in-process service. (Over HTTPS: `kube::Client::try_from(kube::Config)`.)

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body::Body;
use tower::{BoxError, Service, ServiceExt as _};

/// The request body that `kube` sends.
pub type InProcessRequest = Request<kube::client::Body>;

#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("user agent {0:?} is not a header value")]
    UserAgent(String),
}

/// Wraps an in-process API server (a tower service) as a client. `user_agent` is what the server derives the field
/// manager from, so it is the component's name (`kube-scheduler/v1.36`).
///
/// # Errors
/// When `user_agent` cannot be a header.
pub fn in_process<S, B>(service: S, user_agent: &str) -> Result<kube::Client, ConnectError>
where
    S: Service<InProcessRequest, Response = Response<B>> + Send + Sync + Clone + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let agent = HeaderValue::from_str(user_agent).map_err(|_| ConnectError::UserAgent(user_agent.to_owned()))?;
    let service = service.map_request(move |mut request: InProcessRequest| {
        request.headers_mut().insert(header::USER_AGENT, agent.clone());
        request
    });
    Ok(kube::Client::new(service, "default"))
}
