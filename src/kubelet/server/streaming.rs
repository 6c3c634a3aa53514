//! exec, attach and port-forward: the runtime says where it serves the streams, and the client is connected to that.
//!
//! Invariants:
//! - KS-1: the protocol (SPDY/3.1 or WebSocket) is between client and runtime: the request is replayed, bytes are
//!   passed on, and nothing of it is understood here.
//! - KS-2: when one side stops sending, the other is told so and may still answer.

use std::io;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, COOKIE, HOST, RETRY_AFTER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::net::TcpStream;
use tonic::Code;
use tracing::debug;

use super::State;
use super::http::{Body, BoxError, Query, Refusal, full, json, quoted};
use crate::containers::text;
use crate::cri::v1;
use crate::error::Error;

const CONNECT: Duration = Duration::from_secs(10);
/// Each way.
const BUFFER: usize = 32 * 1024;

/// What a request is about: `{namespace}/{pod}[/{uid}]/{container}`.
#[derive(Debug, Clone, Default)]
pub struct Target<'a> {
    pub namespace: &'a str,
    pub pod: &'a str,
    pub uid: Option<&'a str>,
    pub container: &'a str,
}

/// The streams that a client wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Streams {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
}

impl Streams {
    fn parse(query: &Query) -> Result<Self, Refusal> {
        let on = |keys: [&str; 2]| keys.iter().any(|key| query.all(key).any(|value| value == "1" || value == "true"));
        let tty = on(["tty", "tty"]);
        let (stdin, stdout, stderr) = (on(["input", "stdin"]), on(["output", "stdout"]), on(["error", "stderr"]));
        // A terminal has one output.
        let stderr = stderr && !tty;
        if !stdin && !stdout && !stderr {
            return Err(Refusal::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
        }
        Ok(Self { stdin, stdout, stderr, tty })
    }
}

pub async fn exec(
    state: &State,
    target: Target<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let streams = Streams::parse(query)?;
    let container_id = running(state, &target).await?;
    let Streams { stdin, stdout, stderr, tty } = streams;
    let cmd = query.all("command").map(str::to_owned).collect();
    let asked = state.runtime.exec(v1::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr }).await;
    connect(state, &asked.map_err(|error| refused(&error))?, request).await
}

pub async fn attach(
    state: &State,
    target: Target<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let mut streams = Streams::parse(query)?;
    let container_id = running(state, &target).await?;
    // As upstream: the container's own choice counts.
    if let Some(pod) = state.pods.pod(target.namespace, target.pod) {
        streams.tty = crate::containers::find(&pod, target.container).is_some_and(|c| c.tty == Some(true));
    }
    let Streams { stdin, stdout, stderr, tty } = streams;
    let stderr = stderr && !tty;
    let asked = state.runtime.attach(v1::AttachRequest { container_id, stdin, tty, stdout, stderr }).await;
    connect(state, &asked.map_err(|error| refused(&error))?, request).await
}

pub async fn port_forward(
    state: &State,
    target: Target<'_>,
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    // SPDY clients name the port in each stream's headers, WebSocket clients in the query.
    let port = if is_websocket(request.headers()) { ports(query)? } else { Vec::new() };
    let pod = find_pod(state, &target)?;
    let uid = text(&pod.metadata.uid);
    let sandbox = state.runtime.ready_sandbox(uid).await.map_err(|error| refused(&error))?;
    let Some(pod_sandbox_id) = sandbox else {
        return Err(Refusal::internal(format!("failed to find sandboxID for pod {uid}")));
    };
    let asked = state.runtime.port_forward(v1::PortForwardRequest { pod_sandbox_id, port }).await;
    connect(state, &asked.map_err(|error| refused(&error))?, request).await
}

/// `/run`: a command without streams.
pub async fn run(state: &State, target: Target<'_>, query: &Query) -> Result<Response<Body>, Refusal> {
    // For legacy reasons the parameter is not that of exec.
    let command: Vec<String> = match query.get("cmd") {
        Some(line) => line.split(' ').map(str::to_owned).collect(),
        None => query.all("command").map(str::to_owned).collect(),
    };
    let container = running(state, &target).await?;
    let output = state.runtime.exec_sync(&container, &command).await;
    let output = output.map_err(|error| Refusal::internal(error.to_string()))?;
    let all = [output.stdout, output.stderr].concat();
    if output.exit_code != 0 {
        return Err(Refusal::internal(format!(
            "command '{}' exited with {}: {}",
            command.join(" "),
            output.exit_code,
            String::from_utf8_lossy(&all)
        )));
    }
    let mut response = json(&());
    *response.body_mut() = full(all);
    Ok(response)
}

fn find_pod(state: &State, target: &Target<'_>) -> Result<std::sync::Arc<Pod>, Refusal> {
    let pod = state.pods.pod(target.namespace, target.pod).ok_or_else(|| Refusal::not_found("pod does not exist"))?;
    match target.uid {
        Some(uid) if uid != text(&pod.metadata.uid) => Err(Refusal::not_found("pod does not exist")),
        _ => Ok(pod),
    }
}

async fn running(state: &State, target: &Target<'_>) -> Result<String, Refusal> {
    let pod = find_pod(state, target)?;
    let found = state.runtime.running_container(text(&pod.metadata.uid), target.container).await;
    found
        .map_err(|error| refused(&error))?
        .ok_or_else(|| Refusal::internal(format!("container not found ({})", quoted(target.container))))
}

fn refused(error: &Error) -> Refusal {
    let code = match error {
        Error::Cri(status) if status.code() == Code::NotFound => StatusCode::NOT_FOUND,
        Error::Cri(status) if status.code() == Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Refusal::new(code, error.to_string())
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers.get("upgrade").and_then(|v| v.to_str().ok()).is_some_and(|v| v.eq_ignore_ascii_case("websocket"))
}

fn ports(query: &Query) -> Result<Vec<i32>, Refusal> {
    let mut out = Vec::new();
    for text in query.all("port").flat_map(|value| value.split(',')) {
        let port: u16 = text
            .parse()
            .map_err(|error| Refusal::bad_request(format!("unable to parse {} as a port: {error}", quoted(text))))?;
        if port == 0 {
            return Err(Refusal::bad_request(format!("port {} must be > 0", quoted(text))));
        }
        out.push(i32::from(port));
    }
    if out.is_empty() {
        return Err(Refusal::bad_request("query parameter \"port\" is required"));
    }
    Ok(out)
}

/// Replays the client's request at `url` and joins the two connections.
async fn connect(state: &State, url: &str, mut request: Request<Incoming>) -> Result<Response<Body>, Refusal> {
    if !request.headers().contains_key("upgrade") {
        return Err(Refusal::bad_request("Upgrade request required"));
    }
    let bad_url = |what: &str| Refusal::internal(format!("streaming URL {} of the runtime {what}", quoted(url)));
    let uri: Uri = url.parse().map_err(|_| bad_url("cannot be parsed"))?;
    let host = uri.host().ok_or_else(|| bad_url("has no host"))?.trim_matches(['[', ']']).to_owned();
    if uri.scheme_str() != Some("http") {
        return Err(bad_url("is not http"));
    }
    let authority = uri.authority().ok_or_else(|| bad_url("has no host"))?.as_str().to_owned();
    let path = uri.path_and_query().map_or("/", |p| p.as_str()).to_owned();
    let client = hyper::upgrade::on(&mut request);
    let headers = replayed(request.headers(), &authority);
    let failed = |error: io::Error| Refusal::new(StatusCode::BAD_GATEWAY, format!("error dialing backend: {error}"));
    let answer = send(state, (&host, uri.port_u16().unwrap_or(80)), request.method().clone(), &path, headers).await;
    let mut answer = answer.map_err(failed)?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        // The runtime's refusal is the client's.
        return Ok(answer.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync()));
    }
    let mut response = Response::new(full(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *response.headers_mut() = answer.headers().clone();
    response.headers_mut().remove(CONTENT_LENGTH);
    response.headers_mut().remove(RETRY_AFTER);
    let runtime = hyper::upgrade::on(&mut answer);
    state.tasks.spawn(async move {
        let (Ok(client), Ok(runtime)) = (client.await, runtime.await) else { return };
        let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
        match tokio::io::copy_bidirectional_with_sizes(&mut client, &mut runtime, BUFFER, BUFFER).await {
            Ok((up, down)) => debug!(up, down, "stream ended"),
            Err(error) => debug!(%error, "stream broke"),
        }
    });
    Ok(response)
}

async fn send(
    state: &State,
    address: (&str, u16),
    method: Method,
    path: &str,
    headers: HeaderMap,
) -> io::Result<Response<Incoming>> {
    let stream = tokio::time::timeout(CONNECT, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "i/o timeout"))??;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    state.tasks.spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    let mut request = Request::builder().method(method).uri(path).body(full("")).map_err(io::Error::other)?;
    *request.headers_mut() = headers;
    sender.send_request(request).await.map_err(io::Error::other)
}

/// The client's headers, without what was meant for us alone.
fn replayed(headers: &HeaderMap, authority: &str) -> HeaderMap {
    let mut out = headers.clone();
    for name in [AUTHORIZATION, COOKIE, CONTENT_LENGTH, TRANSFER_ENCODING] {
        out.remove(name);
    }
    match HeaderValue::from_str(authority) {
        Ok(value) => out.insert(HOST, value),
        Err(_) => out.remove(HOST),
    };
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_in_both_spellings() {
        let parse = |text: &str| Streams::parse(&Query::parse(Some(text)));
        let streams = |stdin, stdout, stderr, tty| Ok(Streams { stdin, stdout, stderr, tty });
        assert_eq!(parse("input=1&output=1&error=1"), streams(true, true, true, false));
        assert_eq!(parse("stdin=true&stdout=true&stderr=true&tty=true"), streams(true, true, false, true));
        assert_eq!(parse("output=1&tty=0"), streams(false, true, false, false));
        let refusal = parse("tty=1&error=1").expect_err("nothing left");
        assert_eq!(refusal.text, "you must specify at least 1 of stdin, stdout, stderr");
    }

    #[test]
    fn ports_of_websocket_clients() {
        assert_eq!(ports(&Query::parse(Some("port=80,443&port=1"))), Ok(vec![80, 443, 1]));
        for (query, text) in [
            ("", "query parameter \"port\" is required"),
            ("port=0", "port \"0\" must be > 0"),
            ("port=x", "unable to parse \"x\" as a port: invalid digit found in string"),
        ] {
            assert_eq!(ports(&Query::parse(Some(query))).expect_err("refused").text, text);
        }
    }
}
