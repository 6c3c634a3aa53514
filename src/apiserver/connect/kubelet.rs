//! Talking to kubelets, and to other HTTP/1.1 servers on a proxy's behalf.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, Request, Response};
use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use component_base::TaskGroup;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::cache::ObjectReader;
use crate::wire::body;
use crate::{Body, KubeletClient, tls};

const CONNECT: Duration = Duration::from_secs(10);
const PORT: u16 = 10250;
/// Which of a node's addresses are tried, in this order.
const ADDRESS_TYPES: &[&str] = &["InternalIP", "ExternalIP", "InternalDNS", "ExternalDNS", "Hostname"];
/// Headers that belong to one connection, or that tell who the client is (CN-1).
const NOT_PASSED_ON: &[&str] = &[
    "authorization",
    "cookie",
    "host",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "impersonate-user",
    "impersonate-group",
    "impersonate-uid",
];

/// Knows how to reach the kubelets.
pub struct Kubelets {
    tls: Option<Arc<ClientConfig>>,
}

/// Where a request goes.
#[derive(Debug, Clone)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub tls: Option<Arc<ClientConfig>>,
}

impl Kubelets {
    /// # Errors
    /// When the certificate, key or CA cannot be used.
    pub fn new(client: Option<&KubeletClient>) -> crate::Result<Self> {
        let tls = match client {
            Some(client) => Some(tls::client_config(&client.ca_pem, Some((&client.certificate_pem, &client.key_pem)))?),
            None => None,
        };
        Ok(Self { tls })
    }

    /// The kubelet of a node.
    ///
    /// # Errors
    /// 404 without the node, 500 when it has told no address.
    pub async fn of_node(&self, reader: &dyn ObjectReader, name: &str) -> Result<Target, Status> {
        let node = reader
            .get("minions", "", name)
            .await
            .ok_or_else(|| Status::not_found(&GroupResource::new("", "nodes"), name))?
            .value();
        let addresses = node["status"]["addresses"].as_array().map_or(&[][..], Vec::as_slice);
        let of_type = |kind: &&str| {
            addresses.iter().find(|a| a["type"].as_str() == Some(*kind)).and_then(|a| a["address"].as_str())
        };
        let Some(host) = ADDRESS_TYPES.iter().find_map(of_type) else {
            let known: Vec<String> =
                addresses.iter().map(|a| format!("{{{} {}}}", text(&a["type"]), text(&a["address"]))).collect();
            return Err(Status::unknown(format!(
                "no preferred addresses found; known addresses: [{}]",
                known.join(" ")
            )));
        };
        let Some(tls) = self.tls.clone() else {
            return Err(Status::internal("this server has no certificate to show to kubelets"));
        };
        let port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64();
        let port = port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(PORT);
        Ok(Target { host: host.to_owned(), port, tls: Some(tls) })
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

impl Target {
    /// Sends one request on a connection of its own. The connection runs in `tasks` as long as body or upgrade need it.
    pub async fn send(
        &self,
        tasks: &TaskGroup,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        content: Body,
    ) -> io::Result<Response<Incoming>> {
        self.send_as(&self.host, tasks, method, path_and_query, headers, content).await
    }

    /// The same to a server that is known by another name than its address.
    pub async fn send_as(
        &self,
        name: &str,
        tasks: &TaskGroup,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        content: Body,
    ) -> io::Result<Response<Incoming>> {
        let connecting = TcpStream::connect((self.host.trim_matches(['[', ']']), self.port));
        let stream = tokio::time::timeout(CONNECT, connecting)
            .await
            .map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, format!("dial tcp {}: i/o timeout", self.authority()))
            })?
            .map_err(|e| io::Error::new(e.kind(), format!("dial tcp {}: {e}", self.authority())))?;
        stream.set_nodelay(true)?;
        let mut request =
            Request::builder().method(method).uri(path_and_query).body(content).map_err(io::Error::other)?;
        *request.headers_mut() = headers;
        let authority = if name == self.host { self.authority() } else { name.to_owned() };
        let authority = authority.parse().map_err(io::Error::other)?;
        request.headers_mut().insert("host", authority);
        match &self.tls {
            None => exchange(tasks, TokioIo::new(stream), request).await,
            Some(config) => {
                let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
                let handshake = TlsConnector::from(config.clone()).connect(name, stream);
                let stream = tokio::time::timeout(CONNECT, handshake)
                    .await
                    .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "net/http: TLS handshake timeout"))??;
                exchange(tasks, TokioIo::new(stream), request).await
            }
        }
    }

    pub fn authority(&self) -> String {
        match self.host.contains(':') && !self.host.starts_with('[') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// What went wrong, as upstream's proxy says it.
    pub fn failed(&self, error: &io::Error) -> Status {
        Status::custom(502, "", format!("error dialing backend: {error}"))
    }
}

async fn exchange<T>(tasks: &TaskGroup, io: T, request: Request<Body>) -> io::Result<Response<Incoming>>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(io::Error::other)?;
    tasks.spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    sender.send_request(request).await.map_err(io::Error::other)
}

/// The client's headers as far as they are the other side's business.
pub fn passed_on(headers: &HeaderMap, keep_upgrade: bool) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        let text = name.as_str();
        let hop = matches!(text, "connection" | "upgrade") && !keep_upgrade;
        if !hop && !NOT_PASSED_ON.contains(&text) && !text.starts_with("impersonate-extra-") {
            out.append(name.clone(), value.clone());
        }
    }
    out
}

/// The error of a kubelet's answer that is no success: its text becomes the Status' message.
pub async fn refused(response: Response<Incoming>) -> Status {
    use http_body_util::BodyExt as _;
    const LONGEST: usize = 2000;
    let code = response.status().as_u16();
    let content = response.into_body().map_err(|e| Box::new(e) as crate::BoxError).boxed_unsync();
    let bytes = body::read(content, 1 << 20).await.unwrap_or_default();
    let text: String = String::from_utf8_lossy(&bytes).trim_end_matches('\n').chars().take(LONGEST).collect();
    match code {
        400 => Status::bad_request(text),
        500 => Status::internal(text),
        404 => Status::custom(404, "NotFound", format!("the server could not find the requested resource ({text})")),
        403 => Status::custom(403, "Forbidden", format!("forbidden: {text}")),
        401 => Status::custom(
            500,
            "InternalError",
            format!("the kubelet did not accept this server's certificate: {text}"),
        ),
        code => Status::custom(code, "", text),
    }
}
