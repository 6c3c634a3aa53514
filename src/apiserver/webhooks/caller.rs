//! The client: connections kept open, one call after the other on each.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use ::http::{HeaderValue, Method, Request};
use apimachinery::goformat::quote;
use bytes::Bytes;
use component_base::{SharedClock, TaskGroup};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Address, Endpoint, MOST_BYTES, read};
use crate::cache::ObjectReader;
use crate::wire::negotiate;

/// Connections kept for one place.
const MOST_IDLE: usize = 8;

type Connection = SendRequest<Full<Bytes>>;
/// Where to, and whom to trust there.
type Key = (Address, Arc<[u8]>);

/// Calls webhooks.
pub struct Caller {
    idle: Mutex<HashMap<Key, Vec<Connection>>>,
    tasks: TaskGroup,
    clock: SharedClock,
}

/// Why an exchange failed.
enum Failed {
    /// The connection was kept open and is gone: a new one may do.
    Stale,
    Said(String),
}

impl Caller {
    pub fn new(tasks: TaskGroup, clock: SharedClock) -> Self {
        Self { idle: Mutex::default(), tasks, clock }
    }

    /// Posts a document and reads the answer. Err: upstream's text.
    pub async fn post(
        &self,
        reader: &dyn ObjectReader,
        endpoint: &Endpoint,
        document: &Value,
        timeout: Duration,
    ) -> Result<Value, String> {
        let config = endpoint.tls.as_ref().map_err(|error| format!("unable to load root certificates: {error}"))?;
        let query = format!("timeout={}s", timeout.as_secs());
        let failed = |error: String| format!("Post {}: {error}", quote(&endpoint.shown(&query)));
        let address = endpoint.address(reader).map_err(failed)?;
        let uri = format!("{}?{query}", endpoint.path());
        let content = Bytes::from(document.to_string());
        let key = (address, endpoint.trust.clone());
        tokio::select! {
            outcome = self.exchange(&key, config, &uri, content, &failed) => outcome,
            () = self.clock.sleep(timeout) => Err(failed("context deadline exceeded".to_owned())),
        }
    }

    async fn exchange(
        &self,
        key: &Key,
        config: &Arc<ClientConfig>,
        uri: &str,
        content: Bytes,
        failed: &(dyn Fn(String) -> String + Sync),
    ) -> Result<Value, String> {
        while let Some(connection) = self.kept(key) {
            match self.call(connection, key, uri, content.clone()).await {
                Ok((code, kind, bytes)) => return read(code, &kind, &bytes),
                Err(Failed::Stale) => {}
                Err(Failed::Said(error)) => return Err(failed(error)),
            }
        }
        let connection = self.connect(&key.0, config).await.map_err(failed)?;
        match self.call(connection, key, uri, content).await {
            Ok((code, kind, bytes)) => read(code, &kind, &bytes),
            Err(Failed::Stale) => Err(failed("EOF".to_owned())),
            Err(Failed::Said(error)) => Err(failed(error)),
        }
    }

    fn kept(&self, key: &Key) -> Option<Connection> {
        let mut idle = self.idle.lock();
        let connections = idle.get_mut(key)?;
        while let Some(connection) = connections.pop() {
            if connection.is_ready() {
                return Some(connection);
            }
        }
        idle.remove(key);
        None
    }

    async fn connect(&self, address: &Address, config: &Arc<ClientConfig>) -> Result<Connection, String> {
        let Address { host, port, name } = address;
        let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| dial(address, &error))?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let name = ServerName::try_from(name.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
        let stream = stream.map_err(|error| untrusted(address, &error))?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        self.tasks.spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn call(
        &self,
        mut connection: Connection,
        key: &Key,
        uri: &str,
        content: Bytes,
    ) -> Result<(::http::StatusCode, String, Bytes), Failed> {
        let said = |error: &dyn std::fmt::Display| Failed::Said(error.to_string());
        let mut request = Request::new(Full::new(content));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.parse().map_err(|error| said(&error))?;
        let headers = request.headers_mut();
        let Address { port, name, .. } = &key.0;
        let name = if name.contains(':') { format!("[{name}]") } else { name.clone() };
        let host = HeaderValue::from_str(&format!("{name}:{port}")).map_err(|error| said(&error))?;
        headers.insert(HOST, host);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(negotiate::JSON));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, */*"));
        headers.insert(USER_AGENT, HeaderValue::from_static("kube-apiserver-admission"));
        let answer = connection.send_request(request).await.map_err(|error| {
            // Nothing of the request was looked at: the other side had closed.
            let lost = error.is_canceled() || error.is_closed() || error.is_incomplete_message();
            if lost { Failed::Stale } else { said(&error) }
        })?;
        let code = answer.status();
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
        let body = Limited::new(answer.into_body(), MOST_BYTES).collect().await;
        let bytes = body.map_err(|error| said(&error))?.to_bytes();
        // WC-3
        let mut idle = self.idle.lock();
        let connections = idle.entry(key.clone()).or_default();
        if connections.len() < MOST_IDLE {
            connections.push(connection);
        }
        Ok((code, kind, bytes))
    }
}

fn shown(address: &Address) -> String {
    match address.host.contains(':') {
        true => format!("[{}]:{}", address.host, address.port),
        false => format!("{}:{}", address.host, address.port),
    }
}

/// A failed connect, as Go says it.
fn dial(address: &Address, error: &io::Error) -> String {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ if error.to_string().contains("lookup") => {
            return format!("dial tcp: lookup {}: no such host", address.host);
        }
        _ => error.to_string(),
    };
    format!("dial tcp {}: {why}", shown(address))
}

/// A failed handshake, as Go says it.
fn untrusted(address: &Address, error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match inner {
        Some(rustls::Error::InvalidCertificate(error)) => match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "certificate signed by unknown authority".to_owned()
            }
            CertificateError::NotValidForNameContext { presented, .. } => {
                let names: Vec<&str> = presented
                    .iter()
                    .filter_map(|name| name.strip_prefix("DnsName(\"").and_then(|name| name.strip_suffix("\")")))
                    .collect();
                match names.as_slice() {
                    [] => format!("certificate is not valid for any names, but wanted to match {}", address.name),
                    names => format!("certificate is valid for {}, not {}", names.join(", "), address.name),
                }
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "certificate has expired or is not yet valid".to_owned()
            }
            other => other.to_string(),
        },
        _ => return error.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}
