//! Writes of a definition's status, as anybody's: through the server's own front door.

use std::fmt;

use ::http::{Method, Request};
use api::apiextensions::customresourcedefinition::API_PATH;
use http_body_util::BodyExt as _;
use serde_json::Value;

use crate::authz::MASTERS;
use crate::wire::body;
use crate::{ApiServer, Peer, PeerIdentity, User};

#[derive(Clone)]
pub struct Writer {
    api: ApiServer,
}

/// Why a write was refused.
#[derive(Debug)]
pub struct Refused {
    pub code: u16,
    message: String,
}

impl Refused {
    /// The object was changed or deleted meanwhile.
    pub fn is_conflict(&self) -> bool {
        matches!(self.code, 404 | 409)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.message)
    }
}

impl Writer {
    pub fn new(api: &ApiServer) -> Self {
        Self { api: api.clone() }
    }

    /// The caller that deletes and updates here.
    pub fn user() -> User {
        User::new("system:apiserver", &[MASTERS])
    }

    /// Updates the status (and the finalizers). The definition as it is stored then.
    pub async fn put_status(&self, name: &str, crd: &Value) -> Result<Value, Refused> {
        let refused = |code: u16, message: String| Refused { code, message };
        let request = Request::builder()
            .method(Method::PUT)
            .uri(format!("{API_PATH}/{name}/status"))
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header("user-agent", "kube-apiserver")
            .body(body::full(crd.to_string()))
            .map_err(|error| refused(400, error.to_string()))?;
        let addr = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let peer = Peer { addr, identity: PeerIdentity::InProcess(Self::user()) };
        let response = self.api.handle(request, peer).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.map_err(|error| refused(500, error.to_string()))?.to_bytes();
        let mut value: Value = serde_json::from_slice(&bytes).map_err(|error| refused(500, error.to_string()))?;
        if code.is_success() {
            return Ok(value);
        }
        let message = value["message"].take().as_str().unwrap_or_default().to_owned();
        Err(refused(code.as_u16(), message))
    }
}
