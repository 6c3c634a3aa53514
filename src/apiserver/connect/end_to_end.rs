//! The server with a kubelet behind it that is made up but speaks real TLS, HTTP/1.1 upgrades and SPDY/3.1.

use std::sync::Arc;

use ::http::{Method, Request, Response};
use bytes::Bytes;
use component_base::{CancellationToken, Metrics, RealClock, TaskGroup};
use futures::{SinkExt as _, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tower::ServiceExt as _;

use super::spdy::testing::{Decoder, Encoder, Frame};
use super::tunnel::accepted_response;
use crate::wire::{body, respond};
use crate::{ApiServer, Body, Config, KubeletClient, User, VersionInfo, tls};

struct World {
    _dir: tempfile::TempDir,
    tasks: TaskGroup,
    server: ApiServer,
    addr: std::net::SocketAddr,
    client: Arc<rustls::ClientConfig>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let clock = RealClock::shared();
        let now = clock.now();
        let request = pki::PkiRequest { sans: vec![], ips: vec![], cluster_domain: "cluster.local".into(), now };
        let pki = pki::Pki::ensure(dir.path(), &request).expect("pki");
        let node = pki.issue_node("n1", &[], &[], now).expect("node");
        let tasks = TaskGroup::new();

        let kubelet = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let kubelet_port = kubelet.local_addr().expect("addr").port();
        let kubelet_tls =
            tls::server_config(&node.serving.cert_pem, &node.serving.key_pem, pki.client_ca.cert_pem()).expect("tls");
        let group = tasks.clone();
        let answer = move |request, peer| {
            let group = group.clone();
            async move { kubelet_answer(&group, request, peer) }
        };
        tasks.spawn(tls::serve(kubelet, kubelet_tls, CancellationToken::new(), answer));

        let config = Config {
            advertise_address: [192, 0, 2, 1].into(),
            port: 6443,
            service_cidr: "10.43.0.0/16".parse().expect("cidr"),
            node_port_range: 30000..=32767,
            version: VersionInfo {
                major: "1".into(),
                minor: "36".into(),
                git_version: "v1.36.2+kedge1".into(),
                git_commit: String::new(),
                build_date: String::new(),
                platform: "linux/amd64".into(),
            },
            service_account_issuer: "https://kubernetes.default.svc.cluster.local".into(),
            service_account_key: pki.service_account_key.clone(),
            client_ca_pem: pki.client_ca.cert_pem().to_owned(),
            kubelet_client: Some(KubeletClient {
                certificate_pem: pki.kubelet_client.cert_pem.clone(),
                key_pem: pki.kubelet_client.key_pem.clone(),
                ca_pem: pki.server_ca.cert_pem().to_owned(),
            }),
            static_tokens: Vec::new(),
            manage_system_objects: true,
            max_request_bytes: 1 << 20,
            admission: crate::admission::AdmissionConfig::default(),
            max_requests_in_flight: 600,
            authentication: Default::default(),
            authorization: Default::default(),
        };
        let database = store::SqliteConfig::new(dir.path().join("kedge.db"), clock.clone());
        let store = store::SqliteStore::open(database).await.expect("store");
        let server = ApiServer::new(config, store, clock, Metrics::new()).await.expect("server");
        server.ready().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("addr");
        let serving = tls::server_config(&pki.server.cert_pem, &pki.server.key_pem, pki.client_ca.cert_pem());
        let (this, serving) = (server.clone(), serving.expect("tls"));
        tasks.spawn(async move { this.serve(listener, serving, CancellationToken::new()).await });
        let identity = (pki.admin.cert_pem.as_str(), pki.admin.key_pem.as_str());
        let client = tls::client_config(pki.server_ca.cert_pem(), Some(identity)).expect("client");
        let world = Self { _dir: dir, tasks, server, addr, client };

        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
        world.post("/api/v1/namespaces/default/serviceaccounts", &account).await;
        world.post("/api/v1/nodes", &json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})).await;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": kubelet_port}},
        }});
        world.call(Method::PATCH, "/api/v1/nodes/n1/status", "application/merge-patch+json", &status).await;
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {
            "nodeName": "n1", "containers": [{"name": "c", "image": "i"}],
        }});
        world.post("/api/v1/namespaces/default/pods", &pod).await;
        world
    }

    async fn post(&self, path: &str, object: &Value) {
        self.call(Method::POST, path, "application/json", object).await;
    }

    async fn call(&self, method: Method, path: &str, kind: &str, object: &Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", kind);
        let request = request.body(body::full(object.to_string())).expect("request");
        let service = self.server.in_process(User::new("admin", &["system:masters"]));
        let Ok(response) = service.oneshot(request).await;
        let code = response.status();
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        assert!(code.is_success(), "{path}: {}", String::from_utf8_lossy(&bytes));
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        // Like kubectl for upgrades: HTTP/1.1 only.
        let stream = TcpStream::connect(self.addr).await.expect("connects");
        let name = rustls::pki_types::ServerName::try_from("localhost").expect("name");
        tokio_rustls::TlsConnector::from(self.client.clone()).connect(name, stream).await.expect("handshake")
    }

    async fn websocket(
        &self,
        path: &str,
        protocol: &str,
    ) -> tokio_tungstenite::WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut request = format!("wss://localhost{path}").into_client_request().expect("request");
        request.headers_mut().insert("sec-websocket-protocol", protocol.parse().expect("header"));
        let (socket, response) =
            tokio_tungstenite::client_async(request, self.connect().await).await.expect("upgrades");
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol);
        socket
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await)).await.expect("http");
        self.tasks.spawn(connection);
        let request = Request::get(path).header("host", "localhost").body(body::empty()).expect("request");
        let response = sender.send_request(request).await.expect("answers");
        let code = response.status().as_u16();
        let bytes = response.into_body().collect().await.expect("body").to_bytes();
        (code, String::from_utf8(bytes.to_vec()).expect("utf-8"))
    }
}

/// Logs as asked, an exec that echoes its input and fails with 3, a port-forward that echoes.
fn kubelet_answer(tasks: &TaskGroup, mut request: Request<Body>, peer: crate::Peer) -> Response<Body> {
    let crate::PeerIdentity::Tls(chain) = &peer.identity else { return respond::text(401, "Unauthorized") };
    let (name, _) = pki::subject_of_certificate(&chain[0]).expect("subject");
    assert_eq!(name, "kube-apiserver-kubelet-client");
    assert!(!request.headers().contains_key("authorization"));
    let path = request.uri().path_and_query().expect("path").to_string();
    if let Some(log) = path.strip_prefix("/containerLogs/default/p/c") {
        return match log {
            "?previous=true" => respond::text(400, "previous terminated container \"c\" in pod \"p\" not found"),
            _ => Response::new(body::full(format!("log {log}\n"))),
        };
    }
    let protocol = request.headers()["x-stream-protocol-version"].clone();
    let upgrade = hyper::upgrade::on(&mut request);
    let exec = path.starts_with("/exec/");
    if exec {
        assert_eq!(path, "/exec/default/p/c?command=cat&input=1&output=1&error=1");
        assert_eq!(protocol, "v4.channel.k8s.io");
    } else {
        assert_eq!((path.as_str(), protocol.as_bytes()), ("/portForward/default/p", b"portforward.k8s.io".as_slice()));
    }
    tasks.spawn(async move {
        let io = TokioIo::new(upgrade.await.expect("upgrades"));
        if exec { exec_backend(io).await } else { echo(io).await }
    });
    let mut response = accepted_response(::http::HeaderMap::new());
    response.headers_mut().insert("connection", "Upgrade".parse().expect("header"));
    response.headers_mut().insert("upgrade", "SPDY/3.1".parse().expect("header"));
    response.headers_mut().insert("x-stream-protocol-version", protocol);
    response
}

async fn echo(mut io: TokioIo<hyper::upgrade::Upgraded>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = io.read(&mut buffer).await {
        io.write_all(&buffer[..count]).await.expect("writes");
    }
}

async fn exec_backend(mut io: TokioIo<hyper::upgrade::Upgraded>) {
    let (mut decoder, mut encoder) = (Decoder::new(), Encoder::new());
    let mut streams: Vec<(u32, String)> = Vec::new();
    let mut buffer = [0; 1024];
    loop {
        let count = io.read(&mut buffer).await.expect("reads");
        assert_ne!(count, 0, "the session ended before its input did");
        decoder.feed(&buffer[..count]);
        while let Some(frame) = decoder.next_frame().expect("decodes") {
            let mut answers = Vec::new();
            let of = |streams: &[(u32, String)], kind: &str| {
                streams.iter().find(|(_, k)| k == kind).map(|(s, _)| *s).expect("the stream is open")
            };
            match frame {
                Frame::SynStream { stream, headers, .. } => {
                    streams.push((stream, headers[0].1.clone()));
                    answers.push(Frame::SynReply { stream, fin: false, headers: vec![] });
                }
                Frame::Data { stream, fin, data } if stream == of(&streams, "stdin") => {
                    let (out, err) = (of(&streams, "stdout"), of(&streams, "stderr"));
                    if !data.is_empty() {
                        answers.push(Frame::Data { stream: out, fin: false, data });
                    }
                    if fin {
                        let status = json!({"metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
                            "message": "command terminated with exit code 3",
                            "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}});
                        let done = |stream| Frame::Data { stream, fin: true, data: Bytes::new() };
                        answers.push(Frame::Data { stream: err, fin: false, data: Bytes::from_static(b"bye") });
                        let error = of(&streams, "error");
                        answers.push(Frame::Data { stream: error, fin: true, data: status.to_string().into() });
                        answers.extend([done(out), done(err)]);
                    }
                }
                Frame::GoAway { .. } => return,
                _ => {}
            }
            for answer in &answers {
                io.write_all(&encoder.encode(answer)).await.expect("writes");
            }
        }
    }
}

#[tokio::test]
async fn exec_over_websockets_reaches_the_kubelets_spdy() {
    let world = World::new().await;
    let path = "/api/v1/namespaces/default/pods/p/exec?command=cat&stdin=true&stdout=true&stderr=true";
    let mut socket = world.websocket(path, "v5.channel.k8s.io").await;
    let binary = |bytes: &'static [u8]| Message::Binary(Bytes::from_static(bytes));
    assert_eq!(socket.next().await.expect("first").expect("message"), binary(b"\x01"));
    socket.send(binary(b"\x00hello")).await.expect("sends");
    assert_eq!(socket.next().await.expect("echo").expect("message"), binary(b"\x01hello"));
    socket.send(Message::Ping(Bytes::from_static(b"p"))).await.expect("pings");
    assert_eq!(socket.next().await.expect("pong").expect("message"), Message::Pong(Bytes::from_static(b"p")));
    // Half close of stdin, as v5 does it.
    socket.send(binary(b"\xff\x00")).await.expect("closes stdin");
    assert_eq!(socket.next().await.expect("stderr").expect("message"), binary(b"\x02bye"));
    let Message::Binary(last) = socket.next().await.expect("status").expect("message") else { panic!("binary") };
    assert_eq!(last[0], 3);
    let status: Value = serde_json::from_slice(&last[1..]).expect("a Status");
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_))) | None));
}

#[tokio::test]
async fn port_forward_is_tunnelled() {
    let world = World::new().await;
    let path = "/api/v1/namespaces/default/pods/p/portforward";
    let mut socket = world.websocket(path, "SPDY/3.1+portforward.k8s.io").await;
    socket.send(Message::Binary(Bytes::from_static(b"any bytes"))).await.expect("sends");
    let Message::Binary(back) = socket.next().await.expect("echo").expect("message") else { panic!("binary") };
    assert_eq!(back, "any bytes");
}

#[tokio::test]
async fn spdy_clients_are_handed_on() {
    let world = World::new().await;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(world.connect().await)).await.expect("http");
    world.tasks.spawn(connection.with_upgrades());
    let request = Request::post("/api/v1/namespaces/default/pods/p/portforward")
        .header("host", "localhost")
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "portforward.k8s.io")
        .header("impersonate-group", "system:masters")
        .header("impersonate-user", "somebody")
        .body(body::empty())
        .expect("request");
    let response = sender.send_request(request).await.expect("answers");
    assert_eq!(response.status().as_u16(), 101);
    assert_eq!(response.headers()["x-stream-protocol-version"], "portforward.k8s.io");
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.expect("upgrades"));
    io.write_all(b"hello").await.expect("writes");
    let mut buffer = [0; 5];
    io.read_exact(&mut buffer).await.expect("reads");
    assert_eq!(&buffer, b"hello");
}

#[tokio::test]
async fn logs_and_their_errors() {
    let world = World::new().await;
    let log = "/api/v1/namespaces/default/pods/p/log";
    assert_eq!(world.get(log).await, (200, "log \n".to_owned()));
    let (_, text) = world.get(&format!("{log}?follow=true&tailLines=5&timestamps=true&container=c")).await;
    assert_eq!(text, "log ?follow=true&timestamps=true&tailLines=5\n");
    let (code, text) = world.get(&format!("{log}?previous=true")).await;
    let status: Value = serde_json::from_str(&text).expect("a Status");
    assert_eq!((code, status["reason"].as_str()), (400, Some("BadRequest")));
    assert_eq!(status["message"], "previous terminated container \"c\" in pod \"p\" not found");
    let (code, _) = world.get("/api/v1/nodes/n1/proxy/containerLogs/default/p/c").await;
    assert_eq!(code, 200);
    let (code, text) = world.get("/api/v1/namespaces/default/pods/p/exec?command=x").await;
    assert_eq!(code, 400, "{text}");
}
