//! Asks a container how it is: by HTTP, TCP, a command, or gRPC. Lifecycle hooks ask the same way.
//!
//! Invariants:
//! - PR-1: every question ends within its timeout.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use component_base::SharedClock;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Container, GRPCAction, HTTPGetAction, Pod, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::containers::text;
use crate::cri::Cri;
use crate::error::Error;

/// Upstream shows at most this much of an answer.
const BODY_LIMIT: usize = 10 << 10;
const REDIRECTS: usize = 10;
const USER_AGENT: &str = "kube-probe/1.36";

/// Whom to ask.
#[derive(Debug, Clone)]
pub struct Target {
    pub pod: Arc<Pod>,
    pub container: Container,
    pub container_id: String,
    /// Of the pod.
    pub ip: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// Success, with something to tell.
    Warning(String),
    Failure(String),
    /// The question could not be asked.
    Error(String),
}

/// An HTTP answer.
pub struct Answer {
    pub status: u16,
    pub body: String,
    location: Option<String>,
}

#[derive(Clone)]
pub struct Prober {
    cri: Cri,
    tls: tokio_rustls::TlsConnector,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Prober {
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(cri: Cri) -> Result<Self, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::Config(error.to_string()))?
            .dangerous()
            // Probes ask whether a server answers, not who it is (as upstream does).
            .with_custom_certificate_verifier(Arc::new(AnyServer))
            .with_no_client_auth();
        Ok(Self { cri, tls: tokio_rustls::TlsConnector::from(Arc::new(config)) })
    }

    pub async fn probe(&self, target: &Target, probe: &Probe, timeout: Duration, clock: &SharedClock) -> Outcome {
        if let Some(exec) = &probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            return self.exec(target, &command, timeout).await;
        }
        if let Some(get) = &probe.http_get {
            return self.http_probe(target, get, timeout, clock).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            let host = tcp.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.ip);
            let Some(port) = port(&tcp.port, &target.container) else {
                return Outcome::Error(format!("couldn't find port: {}", port_text(&tcp.port)));
            };
            let address = join(host, port);
            return tokio::select! {
                result = TcpStream::connect(&address) => match result {
                    Ok(_) => Outcome::Success,
                    Err(error) => Outcome::Failure(dial(&address, &error)),
                },
                () = clock.sleep(timeout) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
            };
        }
        if let Some(grpc) = &probe.grpc {
            return self.grpc(target, grpc, timeout, clock).await;
        }
        Outcome::Error("missing probe handler for container".into())
    }

    async fn exec(&self, target: &Target, command: &[String], timeout: Duration) -> Outcome {
        match self.cri.exec_sync(&target.container_id, command, timeout).await {
            Ok(output) if output.exit_code == 0 => Outcome::Success,
            Ok(output) => {
                let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.push_str(&String::from_utf8_lossy(&output.stderr));
                text.truncate(
                    (0..=text.len().min(BODY_LIMIT)).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0),
                );
                Outcome::Failure(text)
            }
            Err(Error::Cri(status)) if status.code() == tonic::Code::DeadlineExceeded => Outcome::Failure(format!(
                "command timed out: {:?} timed out after {}s",
                command.join(" "),
                timeout.as_secs()
            )),
            Err(error) => Outcome::Error(error.to_string()),
        }
    }

    async fn http_probe(
        &self,
        target: &Target,
        get: &HTTPGetAction,
        timeout: Duration,
        clock: &SharedClock,
    ) -> Outcome {
        match self.http(target, get, timeout, clock).await {
            Err(HttpError::Setup(message)) => Outcome::Error(message),
            Err(HttpError::Transport(message)) => Outcome::Failure(message),
            Ok(answer) if (200..400).contains(&answer.status) => {
                if (300..400).contains(&answer.status) {
                    Outcome::Warning(format!("Probe terminated redirects, Response body: {}", answer.body))
                } else {
                    Outcome::Success
                }
            }
            Ok(answer) => Outcome::Failure(format!("HTTP probe failed with statuscode: {}", answer.status)),
        }
    }

    /// One GET as a probe or hook describes it, following redirects on the same host.
    ///
    /// # Errors
    /// When no answer came.
    pub async fn http(
        &self,
        target: &Target,
        get: &HTTPGetAction,
        timeout: Duration,
        clock: &SharedClock,
    ) -> Result<Answer, HttpError> {
        let scheme = get.scheme.as_deref().unwrap_or("HTTP").to_lowercase();
        let host = get.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(&target.ip);
        let port = port(&get.port, &target.container)
            .ok_or_else(|| HttpError::Setup(format!("couldn't find port: {}", port_text(&get.port))))?;
        let path = get.path.as_deref().filter(|p| !p.is_empty()).unwrap_or("/");
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let mut url = format!("{scheme}://{}{path}", join(host, port));
        let all = async {
            for _ in 0..REDIRECTS {
                let answer = self.get(&url, get).await?;
                let next = answer.location.as_deref().filter(|_| matches!(answer.status, 301 | 302 | 303 | 307 | 308));
                match next.map(|location| resolve(&url, location)) {
                    Some(Some(next)) => url = next,
                    _ => return Ok(answer),
                }
            }
            Err(HttpError::Transport(format!("Get {url:?}: stopped after 10 redirects")))
        };
        tokio::select! {
            result = all => result,
            () = clock.sleep(timeout) => Err(HttpError::Transport(format!(
                "Get \"{scheme}://{}{path}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)",
                join(host, port)
            ))),
        }
    }

    async fn get(&self, url: &str, action: &HTTPGetAction) -> Result<Answer, HttpError> {
        let uri: http::Uri = url.parse().map_err(|error| HttpError::Setup(format!("parse {url:?}: {error}")))?;
        let https = uri.scheme_str() == Some("https");
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let address = join(&host, uri.port_u16().unwrap_or(if https { 443 } else { 80 }));
        let failed = |what: String| HttpError::Transport(format!("Get {url:?}: {what}"));
        let tcp = TcpStream::connect(&address).await.map_err(|error| failed(dial(&address, &error)))?;
        let stream: Box<dyn Stream> = if https {
            let name = ServerName::try_from(host.clone()).map_err(|error| failed(error.to_string()))?;
            Box::new(self.tls.connect(name, tcp).await.map_err(|error| failed(error.to_string()))?)
        } else {
            Box::new(tcp)
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let mut request = http::Request::get(uri.path_and_query().map_or("/", |p| p.as_str()));
        let has =
            |name: &str| action.http_headers.iter().flatten().any(|header| header.name.eq_ignore_ascii_case(name));
        if !has("host") {
            request = request.header(http::header::HOST, uri.authority().map_or("", |a| a.as_str()));
        }
        if !has("user-agent") {
            request = request.header(http::header::USER_AGENT, USER_AGENT);
        }
        if !has("accept") {
            request = request.header(http::header::ACCEPT, "*/*");
        }
        request = request.header(http::header::CONNECTION, "close");
        for header in action.http_headers.iter().flatten() {
            request = request.header(&header.name, &header.value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| HttpError::Setup(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
            let status = response.status().as_u16();
            let location =
                response.headers().get(http::header::LOCATION).and_then(|v| v.to_str().ok()).map(str::to_owned);
            let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
            // What is cut or broken off is of no interest once the status is known.
            let body = body.map(|b| b.to_bytes()).unwrap_or_default();
            Ok(Answer { status, location, body: String::from_utf8_lossy(&body).into_owned() })
        };
        tokio::pin!(connection);
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer,
            result = &mut connection => match result {
                // The connection may be done before the answer is read out.
                Ok(()) => exchange.await,
                Err(error) => Err(failed(error.to_string())),
            },
        }
    }

    async fn grpc(&self, target: &Target, action: &GRPCAction, timeout: Duration, clock: &SharedClock) -> Outcome {
        let address = join(&target.ip, u16::try_from(action.port).unwrap_or(0));
        let check = async {
            let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))
                .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
                .map_err(|error| Outcome::Error(error.to_string()))?;
            let channel = endpoint.connect().await.map_err(|_| {
                Outcome::Failure(format!(
                    "timeout: failed to connect service {address:?} within {}s: context deadline exceeded",
                    timeout.as_secs()
                ))
            })?;
            let mut client = tonic::client::Grpc::new(channel);
            client.ready().await.map_err(|error| Outcome::Failure(error.to_string()))?;
            let codec = tonic_prost::ProstCodec::<HealthRequest, HealthResponse>::default();
            let path = http::uri::PathAndQuery::from_static("/grpc.health.v1.Health/Check");
            let request = HealthRequest { service: text(&action.service).to_owned() };
            match client.unary(tonic::Request::new(request), path, codec).await {
                Ok(answer) => match answer.into_inner().status {
                    1 => Ok(Outcome::Success),
                    other => {
                        let name = ["UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"];
                        let name = usize::try_from(other).ok().and_then(|n| name.get(n)).unwrap_or(&"UNKNOWN");
                        Ok(Outcome::Failure(format!("service unhealthy (responded with {name:?})")))
                    }
                },
                Err(status) if status.code() == tonic::Code::Unimplemented => Ok(Outcome::Failure(format!(
                    "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): {}",
                    status.message()
                ))),
                Err(status) => Ok(Outcome::Failure(format!("error: health rpc probe failed: {}", Error::from(status)))),
            }
        };
        tokio::select! {
            result = check => result.unwrap_or_else(|outcome| outcome),
            () = clock.sleep(timeout) => Outcome::Failure(format!(
                "timeout: health rpc did not complete within {}s", timeout.as_secs()
            )),
        }
    }
}

/// Why there is no HTTP answer.
#[derive(Debug)]
pub enum HttpError {
    /// The request could not be made.
    Setup(String),
    Transport(String),
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// A number, or the name of a port of the container.
pub fn port(port: &IntOrString, container: &Container) -> Option<u16> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map_or_else(|| name.parse().unwrap_or(0), |p| p.container_port)
        }
    };
    u16::try_from(number).ok().filter(|number| *number > 0)
}

fn port_text(port: &IntOrString) -> String {
    match port {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(name) => name.clone(),
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A connection error as Go words it.
fn dial(address: &str, error: &std::io::Error) -> String {
    let what = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        std::io::ErrorKind::TimedOut => "i/o timeout".to_owned(),
        _ => error.to_string(),
    };
    format!("dial tcp {address}: {what}")
}

/// Where a redirect leads, when it stays on the host.
fn resolve(from: &str, location: &str) -> Option<String> {
    let base: http::Uri = from.parse().ok()?;
    if location.starts_with('/') && !location.starts_with("//") {
        return Some(format!("{}://{}{location}", base.scheme_str()?, base.authority()?));
    }
    let next: http::Uri = location.parse().ok()?;
    (next.host()? == base.host()?).then(|| location.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::RealClock;
    use serde_json::json;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    fn target(port: u16) -> Target {
        Target {
            pod: Arc::default(),
            container: serde_json::from_value(json!({"name": "c", "ports": [{"name": "web", "containerPort": port}]}))
                .expect("a container"),
            container_id: "id".into(),
            ip: "127.0.0.1".into(),
        }
    }

    async fn server(answers: Vec<&'static str>) -> (u16, TaskGroupGuard) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("address").port();
        let group = component_base::TaskGroup::new();
        group.spawn(async move {
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                let mut request = vec![0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (port, TaskGroupGuard(group))
    }

    struct TaskGroupGuard(component_base::TaskGroup);
    impl Drop for TaskGroupGuard {
        fn drop(&mut self) {
            self.0.token().cancel();
        }
    }

    async fn ask(port: u16, probe: serde_json::Value) -> Outcome {
        let prober = Prober::new(Cri::new("/nowhere.sock")).expect("made");
        let probe: Probe = serde_json::from_value(probe).expect("a probe");
        prober.probe(&target(port), &probe, Duration::from_secs(5), &RealClock::shared()).await
    }

    #[tokio::test]
    async fn http_answers() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        let bad = "HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";
        let moved = "HTTP/1.1 302 Found\r\nlocation: /there\r\ncontent-length: 0\r\n\r\n";
        let (port, _guard) = server(vec![ok, bad, moved, ok]).await;
        let probe = json!({"httpGet": {"port": "web", "path": "/x"}});
        assert_eq!(ask(port, probe.clone()).await, Outcome::Success);
        assert_eq!(ask(port, probe.clone()).await, Outcome::Failure("HTTP probe failed with statuscode: 503".into()));
        assert_eq!(ask(port, probe).await, Outcome::Success);
    }

    #[tokio::test]
    async fn refused_connections_read_as_in_go() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let port = listener.local_addr().expect("address").port();
        drop(listener);
        let refused = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(ask(port, json!({"tcpSocket": {"port": port}})).await, Outcome::Failure(refused.clone()));
        assert_eq!(
            ask(port, json!({"httpGet": {"port": port, "path": "/h"}})).await,
            Outcome::Failure(format!("Get \"http://127.0.0.1:{port}/h\": {refused}"))
        );
    }

    #[tokio::test]
    async fn an_open_port_is_enough_for_tcp() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let port = listener.local_addr().expect("address").port();
        assert_eq!(ask(port, json!({"tcpSocket": {"port": "web"}})).await, Outcome::Success);
        assert_eq!(
            ask(port, json!({"tcpSocket": {"port": "none"}})).await,
            Outcome::Error("couldn't find port: none".into())
        );
    }
}
