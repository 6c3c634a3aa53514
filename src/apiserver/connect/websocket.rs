//! The server's half of a WebSocket handshake (RFC 6455).

use ::http::header::{SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION};
use ::http::{HeaderMap, HeaderValue, Request};
use apimachinery::status::Status;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::Body;

pub type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A handshake that is agreed on; the socket is there once the 101 has been sent.
pub struct Accepting {
    upgrade: OnUpgrade,
}

impl Accepting {
    pub async fn socket(self) -> hyper::Result<Socket> {
        let upgraded = self.upgrade.await?;
        Ok(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await)
    }
}

/// The first protocol the client names that is supported, in its own words.
pub fn choose(headers: &HeaderMap, supported: &[&str]) -> Option<String> {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    offered.flat_map(|v| v.split(',')).map(str::trim).find(|p| supported.contains(p)).map(str::to_owned)
}

/// # Errors
/// 400 for what is no WebSocket handshake.
pub fn accept(request: &mut Request<Body>, _protocol: Option<&str>) -> Result<Accepting, Status> {
    let headers = request.headers();
    if headers.get(SEC_WEBSOCKET_VERSION).is_none_or(|v| v != "13") || headers.get(SEC_WEBSOCKET_KEY).is_none() {
        return Err(Status::bad_request("not a WebSocket handshake of version 13"));
    }
    Ok(Accepting { upgrade: hyper::upgrade::on(request) })
}

/// Headers of the 101.
pub fn response_headers(protocol: Option<&str>, request: &HeaderMap) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    if let Some(key) = request.get(SEC_WEBSOCKET_KEY) {
        let accept = derive_accept_key(key.as_bytes());
        headers.insert("sec-websocket-accept", HeaderValue::from_str(&accept).expect("base64 is a header value"));
    }
    if let Some(protocol) = protocol.and_then(|p| HeaderValue::from_str(p).ok()) {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    headers
}
