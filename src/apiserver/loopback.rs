//! The server's own writes, through its own front door: admitted, validated and tracked as anybody's.

use std::sync::Arc;

use ::http::{HeaderValue, Method, Request};
use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use crate::wire::{body, negotiate};
use crate::{Peer, PeerIdentity, Server, User, handler};

/// The manager of fields that the server writes.
const USER_AGENT: &str = "kube-apiserver";

/// Writes objects as the server itself.
#[async_trait]
pub trait Writer: Send + Sync {
    /// Replaces what is at `path` (`/api/v1/namespaces/a/resourcequotas/q/status`), if `object` has the version it has.
    async fn put(&self, path: &str, object: &Value) -> Result<(), Status>;
}

#[async_trait]
impl Writer for Arc<Server> {
    async fn put(&self, path: &str, object: &Value) -> Result<(), Status> {
        let mut request = Request::new(body::full(object.to_string()));
        *request.method_mut() = Method::PUT;
        *request.uri_mut() = path.parse().map_err(Status::internal)?;
        let headers = request.headers_mut();
        headers.insert(::http::header::CONTENT_TYPE, HeaderValue::from_static(negotiate::JSON));
        headers.insert(::http::header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
        let user = User::new("system:apiserver", &["system:masters"]);
        let peer = Peer { addr: ([127, 0, 0, 1], 0).into(), identity: PeerIdentity::InProcess(user) };
        let response = handler::handle(self.clone(), request, peer).await;
        if response.status().is_success() {
            return Ok(());
        }
        let code = response.status().as_u16();
        let answer = body::read(response.into_body(), self.config.max_request_bytes).await?;
        let otherwise = || Status::custom(code, "", format!("{path} could not be written"));
        Err(serde_json::from_slice(&answer).unwrap_or_else(|_| otherwise()))
    }
}
