//! Upgraded connections: bytes both ways, raw or inside WebSocket messages.

use std::io;
use std::sync::Arc;

use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use apimachinery::status::Status;
use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::kubelet::{Target, passed_on, refused};
use super::websocket;
use super::{Connect, escape, node_of, upgrade_of};
use crate::wire::body;
use crate::{Body, BoxError, Server};

const PORT_FORWARD: &str = "portforward.k8s.io";
/// WebSocket messages that are pieces of a SPDY connection.
const TUNNELLED: &str = "SPDY/3.1+portforward.k8s.io";
const BUFFER: usize = 32 * 1024;

pub async fn port_forward(connect: &Connect<'_>, mut request: Request<Body>) -> Result<Response<Body>, Status> {
    let info = connect.info;
    let pod = connect.pod().await?.value();
    let node = node_of(&pod)?;
    let server = connect.server;
    let target = server.kubelets.of_node(server.cache.as_ref(), &node).await?;
    let ports: Vec<String> =
        info.query.all("ports").iter().filter(|p| !p.is_empty()).map(|p| format!("port={}", escape(p))).collect();
    let query = if ports.is_empty() { String::new() } else { format!("?{}", ports.join("&")) };
    let path = format!("/portForward/{}/{}{query}", escape(&info.namespace), escape(&info.name));
    let upgrade = upgrade_of(request.headers());
    match upgrade.as_deref() {
        Some("websocket") => {
            let Some(protocol) = websocket::choose(request.headers(), &[TUNNELLED]) else {
                return Err(Status::bad_request(format!(
                    "unable to upgrade: the WebSocket subprotocol has to be {TUNNELLED}"
                )));
            };
            let accepted = websocket::accept(&mut request, Some(&protocol))?;
            let backend = spdy(server, &target, Method::POST, &path, &[PORT_FORWARD]).await?;
            let tasks = server.tasks.clone();
            tasks.spawn(async move {
                let Ok(client) = accepted.socket().await else { return };
                if let Err(error) = through_websocket(client, backend).await {
                    debug!(%error, "port-forward ended");
                }
            });
            Ok(accepted_response(accepted_headers(&protocol, request.headers())))
        }
        Some(_) => raw(server, &target, request, &path).await,
        None => Err(Status::bad_request("Upgrade request required")),
    }
}

fn accepted_headers(protocol: &str, request: &HeaderMap) -> HeaderMap {
    websocket::response_headers(Some(protocol), request)
}

pub(super) fn accepted_response(headers: HeaderMap) -> Response<Body> {
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = headers;
    response
}

/// Opens a SPDY/3.1 connection to a kubelet that speaks one of these streaming protocols.
pub(super) async fn spdy(
    server: &Arc<Server>,
    target: &Target,
    method: Method,
    path: &str,
    protocols: &[&'static str],
) -> Result<TokioIo<Upgraded>, Status> {
    let mut headers = HeaderMap::new();
    headers.insert("connection", HeaderValue::from_static("Upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("SPDY/3.1"));
    for protocol in protocols {
        headers.append("x-stream-protocol-version", HeaderValue::from_static(protocol));
    }
    let answer = target.send(&server.tasks, method, path, headers, body::empty()).await;
    let answer = answer.map_err(|error| target.failed(&error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refused(answer).await);
    }
    let upgraded = hyper::upgrade::on(answer).await;
    upgraded.map(TokioIo::new).map_err(|e| Status::internal(format!("unable to upgrade the connection: {e}")))
}

/// Hands an upgrade on as it is.
pub(super) async fn raw(
    server: &Arc<Server>,
    target: &Target,
    mut request: Request<Body>,
    path: &str,
) -> Result<Response<Body>, Status> {
    let headers = passed_on(request.headers(), true);
    let client = hyper::upgrade::on(&mut request);
    let method = request.method().clone();
    let answer = target.send(&server.tasks, method, path, headers, body::empty()).await;
    let mut answer = answer.map_err(|error| target.failed(&error))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(as_is(answer));
    }
    let mut response = accepted_response(answer.headers().clone());
    response.headers_mut().remove("content-length");
    let backend = hyper::upgrade::on(&mut answer);
    let tasks = server.tasks.clone();
    tasks.spawn(async move {
        let (Ok(client), Ok(backend)) = (client.await, backend.await) else { return };
        let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
        let ended = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await;
        if let Err(error) = ended {
            debug!(%error, "upgraded connection ended");
        }
    });
    Ok(response)
}

/// An answer of the other side, with its body streamed.
pub(super) fn as_is(answer: Response<Incoming>) -> Response<Body> {
    let (mut parts, content) = answer.into_parts();
    for name in ["connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "proxy-connection"] {
        parts.headers.remove(name);
    }
    Response::from_parts(parts, content.map_err(|e| Box::new(e) as BoxError).boxed_unsync())
}

async fn through_websocket(client: websocket::Socket, backend: TokioIo<Upgraded>) -> io::Result<()> {
    let (mut sink, mut stream) = client.split();
    let (mut read, mut write) = tokio::io::split(backend);
    let up = async {
        while let Some(message) = stream.next().await {
            match message.map_err(io::Error::other)? {
                Message::Binary(data) => {
                    write.write_all(&data).await?;
                    write.flush().await?;
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
        write.shutdown().await
    };
    let down = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = read.read(&mut buffer).await?;
            if count == 0 {
                let _ = sink.close().await;
                return Ok(());
            }
            let data = Bytes::copy_from_slice(&buffer[..count]);
            sink.send(Message::Binary(data)).await.map_err(io::Error::other)?;
        }
    };
    tokio::select! { ended = up => ended, ended = down => ended }
}
