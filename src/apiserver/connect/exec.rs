//! exec and attach. SPDY clients are handed on to the kubelet; for WebSocket clients their channels are translated to
//! the streams of remotecommand v4 over SPDY/3.1 (KEP-4006).
//!
//! Invariants:
//! - EX-1: the client learns the exit status, on the error channel, after all output and before the socket is closed.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, Request, Response};
use apimachinery::status::Status;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as B64;
use bytes::{Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tracing::debug;

use super::spdy::{Session, SessionEvent, StreamId};
use super::{Connect, container, escape, node_of, tunnel, upgrade_of, websocket};
use crate::Body;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
/// v5: the next byte names a channel that will get no more data.
const CLOSE: u8 = 255;
/// How long a client may take to answer our closing frame.
const FAREWELL: Duration = Duration::from_secs(2);
const REMOTE_COMMAND: &str = "v4.channel.k8s.io";
const PROTOCOLS: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v3.channel.k8s.io",
    "v2.channel.k8s.io",
    "channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "base64.channel.k8s.io",
];

pub async fn serve(connect: &Connect<'_>, mut request: Request<Body>) -> Result<Response<Body>, Status> {
    let info = connect.info;
    let pod = connect.pod().await?.value();
    let container = container(&pod, info.query.get("container"))?;
    let node = node_of(&pod)?;
    let server = connect.server;
    let target = server.kubelets.of_node(server.cache.as_ref(), &node).await?;
    let wants = Wants {
        stdin: connect.flag("stdin"),
        stdout: connect.flag("stdout"),
        stderr: connect.flag("stderr"),
        tty: connect.flag("tty"),
    };
    let path = format!(
        "/{}/{}/{}/{}{}",
        info.subresource,
        escape(&info.namespace),
        escape(&info.name),
        escape(&container),
        wants.query(&info.query.all("command"))
    );
    let upgrade = upgrade_of(request.headers());
    match upgrade.as_deref() {
        Some("websocket") => {
            let protocol = websocket::choose(request.headers(), PROTOCOLS);
            let asked = request.headers().contains_key("sec-websocket-protocol");
            if protocol.is_none() && asked {
                return Err(Status::bad_request(
                    "unable to upgrade: no WebSocket subprotocol of the request is supported",
                ));
            }
            let dialect = Dialect::of(protocol.as_deref().unwrap_or("channel.k8s.io"));
            let accepting = websocket::accept(&mut request, protocol.as_deref())?;
            let backend = tunnel::spdy(server, &target, Method::POST, &path, &[REMOTE_COMMAND]).await?;
            server.tasks.spawn(async move {
                let Ok(client) = accepting.socket().await else { return };
                if let Err(error) = translate(client, backend, wants, dialect).await {
                    debug!(%error, "exec session ended");
                }
            });
            Ok(tunnel::accepted_response(websocket::response_headers(protocol.as_deref(), request.headers())))
        }
        Some(_) => tunnel::raw(server, &target, request, &path).await,
        None => Err(Status::bad_request("Upgrade request required")),
    }
}

/// The streams of a session.
#[derive(Debug, Clone, Copy)]
struct Wants {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Wants {
    /// As the kubelet reads it.
    fn query(self, command: &[&str]) -> String {
        let mut out: Vec<String> = command.iter().map(|word| format!("command={}", escape(word))).collect();
        let flags = [("input", self.stdin), ("output", self.stdout), ("error", self.stderr), ("tty", self.tty)];
        out.extend(flags.iter().filter(|(_, on)| *on).map(|(name, _)| format!("{name}=1")));
        if out.is_empty() { String::new() } else { format!("?{}", out.join("&")) }
    }
}

/// What the client's subprotocol can say.
#[derive(Debug, Clone, Copy)]
struct Dialect {
    /// Text messages: a digit and base64.
    base64: bool,
    /// The error channel carries a Status, not a text.
    status: bool,
    /// Channels can be closed one by one.
    close: bool,
}

impl Dialect {
    fn of(protocol: &str) -> Self {
        Self {
            base64: protocol.contains("base64"),
            status: protocol.starts_with("v4.") || protocol.starts_with("v5."),
            close: protocol.starts_with("v5."),
        }
    }

    fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            return Message::text(format!("{channel}{}", B64.encode(data)));
        }
        let mut out = BytesMut::with_capacity(data.len() + 1);
        out.extend_from_slice(&[channel]);
        out.extend_from_slice(data);
        Message::Binary(out.freeze())
    }

    fn decode(self, message: &Message) -> Option<(u8, Bytes)> {
        match message {
            Message::Binary(data) if !self.base64 => {
                let (channel, _) = data.split_first()?;
                Some((*channel, data.slice(1..)))
            }
            Message::Text(text) if self.base64 => {
                let (channel, data) = text.as_str().split_at_checked(1)?;
                Some((channel.parse().ok()?, B64.decode(data).ok()?.into()))
            }
            _ => None,
        }
    }

    /// What the error channel says for the Status that the kubelet sent (nothing sent: success).
    fn outcome(self, status: &[u8]) -> Option<Vec<u8>> {
        const SUCCESS: &[u8] = br#"{"metadata":{},"status":"Success"}"#;
        let status = if status.is_empty() { SUCCESS } else { status };
        if self.status {
            return Some(status.to_vec());
        }
        let value: Value = serde_json::from_slice(status).unwrap_or_default();
        match value["status"].as_str() {
            Some("Success") => None,
            _ => Some(value["message"].as_str().unwrap_or("command failed").as_bytes().to_vec()),
        }
    }
}

async fn translate(
    client: websocket::Socket,
    backend: TokioIo<Upgraded>,
    wants: Wants,
    dialect: Dialect,
) -> io::Result<()> {
    let session = Arc::new(Session::new(backend));
    // The order of remotecommand clients: the error stream first.
    let mut channels: HashMap<StreamId, u8> = HashMap::new();
    let mut streams: HashMap<u8, StreamId> = HashMap::new();
    let wanted = [
        (ERROR, "error", true),
        (STDIN, "stdin", wants.stdin),
        (STDOUT, "stdout", wants.stdout),
        (STDERR, "stderr", wants.stderr && !wants.tty),
        (RESIZE, "resize", wants.tty),
    ];
    for (channel, kind, on) in wanted {
        if on {
            let stream = session.open(&[("streamType", kind)]).await?;
            channels.insert(stream, channel);
            streams.insert(channel, stream);
        }
    }
    let (mut sink, mut stream) = client.split();
    let (outbox, mut outgoing) = mpsc::channel::<Message>(16);
    // An empty message tells clients that wait for it that the session is up.
    let first = [STDOUT, STDERR, ERROR].into_iter().find(|c| streams.contains_key(c)).unwrap_or(ERROR);
    let _ = outbox.send(dialect.encode(first, &[])).await;

    let writer = async {
        while let Some(message) = outgoing.recv().await {
            sink.send(message).await.map_err(io::Error::other)?;
        }
        // Clients take anything but a normal closure for a broken session.
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        sink.send(Message::Close(Some(normal))).await.map_err(io::Error::other)
    };
    let input = async {
        while let Some(message) = stream.next().await {
            let message = message.map_err(io::Error::other)?;
            if matches!(message, Message::Close(_)) {
                break;
            }
            let Some((channel, data)) = dialect.decode(&message) else { continue };
            if channel == CLOSE && dialect.close {
                if let Some(stream) = data.first().and_then(|channel| streams.get(channel)) {
                    session.finish(*stream).await?;
                }
            } else if let (STDIN | RESIZE, Some(stream)) = (channel, streams.get(&channel)) {
                if !data.is_empty() {
                    session.send(*stream, data).await?;
                }
            }
        }
        Ok::<(), io::Error>(())
    };
    let output = output(&session, &channels, dialect, outbox);
    let transfer = async { tokio::try_join!(writer, output).map(|_| ()) };
    tokio::pin!(input);
    let ended = tokio::select! {
        ended = transfer => {
            // The client's own closing frame: leaving before it would reset the connection under our last words.
            let _ = tokio::time::timeout(FAREWELL, &mut input).await;
            ended
        }
        // The client is gone: so is the session.
        ended = &mut input => ended,
    };
    session.close().await;
    ended
}

/// EX-1.
async fn output(
    session: &Session<TokioIo<Upgraded>>,
    channels: &HashMap<StreamId, u8>,
    dialect: Dialect,
    outbox: mpsc::Sender<Message>,
) -> io::Result<()> {
    let mut open: Vec<StreamId> =
        channels.iter().filter(|(_, c)| matches!(**c, STDOUT | STDERR | ERROR)).map(|(s, _)| *s).collect();
    let mut status = BytesMut::new();
    while !open.is_empty() {
        match session.receive().await? {
            SessionEvent::Data { stream, data, fin } => {
                match channels.get(&stream) {
                    Some(&ERROR) => status.extend_from_slice(&data),
                    Some(&channel) if !data.is_empty() => {
                        let sent = outbox.send(dialect.encode(channel, &data)).await;
                        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
                    }
                    _ => {}
                }
                if fin {
                    open.retain(|s| *s != stream);
                }
            }
            SessionEvent::Reset(stream) => open.retain(|s| *s != stream),
            SessionEvent::Reply(_) => {}
            SessionEvent::Closed => break,
        }
    }
    if let Some(outcome) = dialect.outcome(&status) {
        let _ = outbox.send(dialect.encode(ERROR, &outcome)).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dialects() {
        let v5 = Dialect::of("v5.channel.k8s.io");
        assert_eq!(v5.encode(1, b"x"), Message::Binary(Bytes::from_static(b"\x01x")));
        let close = Message::Binary(Bytes::from_static(b"\xff\x00"));
        assert_eq!(v5.decode(&close), Some((CLOSE, Bytes::from_static(b"\x00"))));
        let old = Dialect::of("base64.channel.k8s.io");
        assert_eq!(old.encode(1, b"x"), Message::text("1eA=="));
        assert_eq!(old.decode(&Message::text("0eA==")), Some((0, Bytes::from_static(b"x"))));
        assert_eq!(old.outcome(b""), None);
        let failed = br#"{"status":"Failure","message":"command terminated with exit code 3"}"#;
        assert_eq!(old.outcome(failed).as_deref(), Some(&b"command terminated with exit code 3"[..]));
        assert_eq!(v5.outcome(failed).as_deref(), Some(&failed[..]));
        assert_eq!(v5.outcome(b"").as_deref(), Some(&br#"{"metadata":{},"status":"Success"}"#[..]));
        for garbage in [Message::Binary(Bytes::new()), Message::text("1"), Message::Ping(Bytes::new())] {
            assert_eq!(v5.decode(&garbage), None);
        }
    }

    #[test]
    fn the_kubelets_query() {
        let wants = Wants { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(
            wants.query(&["sh", "-c", "a b&"]),
            "?command=sh&command=-c&command=a%20b%26&input=1&output=1&tty=1"
        );
    }
}
