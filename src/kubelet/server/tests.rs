//! The server over real sockets with TLS, in front of a fake kubelet, a fake runtime and a fake API server.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use component_base::{CancellationToken, RealClock, supervisor::Ready};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use parking_lot::Mutex;
use pki::{Authority, Subject};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::auth::{Access, User};
use super::*;
use crate::cri::{ExecOutput, v1};
use crate::runtime::names;

const DEADLINE: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
struct Fake(Arc<Inner>);

#[derive(Default)]
struct Inner {
    pods: Mutex<Vec<Arc<Pod>>>,
    containers: Mutex<HashMap<String, v1::ContainerStatus>>,
    url: Mutex<String>,
    asked: Mutex<Vec<String>>,
    events: Mutex<Option<mpsc::UnboundedSender<RuntimeEvent>>>,
    token_reviews: AtomicUsize,
    access_reviews: AtomicUsize,
}

impl PodSource for Fake {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.0.pods.lock().clone()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let is = |pod: &&Arc<Pod>| {
            pod.metadata.namespace.as_deref() == Some(namespace) && pod.metadata.name.as_deref() == Some(name)
        };
        self.0.pods.lock().iter().find(is).cloned()
    }
}

impl Fake {
    fn url_for(&self, question: String) -> Result<String> {
        self.0.asked.lock().push(question);
        Ok(self.0.url.lock().clone())
    }
}

#[async_trait]
impl Runtime for Fake {
    async fn container(&self, id: &str) -> Result<v1::ContainerStatus> {
        let found = self.0.containers.lock().get(id).cloned();
        found.ok_or_else(|| tonic::Status::not_found(format!("no container {id}")).into())
    }
    async fn running_container(&self, _uid: &str, name: &str) -> Result<Option<String>> {
        Ok((name == "app").then(|| "c1".to_owned()))
    }
    async fn ready_sandbox(&self, uid: &str) -> Result<Option<String>> {
        Ok(Some(format!("sandbox-of-{uid}")))
    }
    async fn exec(&self, r: v1::ExecRequest) -> Result<String> {
        self.url_for(format!("exec {} {:?} {} {} {} {}", r.container_id, r.cmd, r.stdin, r.stdout, r.stderr, r.tty))
    }
    async fn attach(&self, r: v1::AttachRequest) -> Result<String> {
        self.url_for(format!("attach {} {} {} {} {}", r.container_id, r.stdin, r.stdout, r.stderr, r.tty))
    }
    async fn port_forward(&self, r: v1::PortForwardRequest) -> Result<String> {
        self.url_for(format!("port-forward {} {:?}", r.pod_sandbox_id, r.port))
    }
    async fn exec_sync(&self, _container: &str, command: &[String]) -> Result<ExecOutput> {
        let exit_code = i32::from(command[0] == "false");
        Ok(ExecOutput { exit_code, stdout: command.join("|").into_bytes(), stderr: b"!".to_vec() })
    }
    async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>> {
        let number = |value| Some(v1::UInt64Value { value });
        let labels = [(names::POD_UID, "u1"), (names::CONTAINER_NAME, "app")];
        Ok(vec![v1::ContainerStats {
            attributes: Some(v1::ContainerAttributes {
                id: "c1".into(),
                labels: labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                ..Default::default()
            }),
            cpu: Some(v1::CpuUsage {
                timestamp: 1,
                usage_core_nano_seconds: number(2_500_000_000),
                ..Default::default()
            }),
            memory: Some(v1::MemoryUsage { timestamp: 1, working_set_bytes: number(4096), ..Default::default() }),
            ..Default::default()
        }])
    }
    async fn sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>> {
        Err(tonic::Status::unimplemented("old").into())
    }
    async fn image_fs(&self) -> Result<v1::ImageFsInfoResponse> {
        Ok(v1::ImageFsInfoResponse::default())
    }
    async fn watch(&self, _clock: SharedClock, out: mpsc::UnboundedSender<RuntimeEvent>) {
        *self.0.events.lock() = Some(out);
        std::future::pending().await
    }
}

#[async_trait]
impl Reviewer for Fake {
    async fn token(&self, token: &str) -> Result<Option<User>> {
        self.0.token_reviews.fetch_add(1, Ordering::SeqCst);
        if token == "broken" {
            return Err(Error::Config("no API server".into()));
        }
        let name = token.strip_prefix("token-of-");
        Ok(name.map(|name| User { name: name.to_owned(), ..User::default() }))
    }
    async fn access(&self, node: &str, access: &Access) -> Result<bool> {
        self.0.access_reviews.fetch_add(1, Ordering::SeqCst);
        assert_eq!(node, "node-1");
        Ok(access.user.name == "prometheus" && access.verb == "get" && access.subresource == "metrics")
    }
}

struct Running {
    fake: Fake,
    address: SocketAddr,
    ca: Authority,
    tasks: TaskGroup,
    dir: tempfile::TempDir,
}

fn now() -> Timestamp {
    component_base::Clock::now(&RealClock)
}

async fn start() -> Running {
    let ca = Authority::generate("test-ca", now()).expect("an authority");
    let own = ca.issue(&Subject::server("node-1", vec![], vec!["127.0.0.1".parse().expect("ip")]), now());
    let own = own.expect("a certificate");
    let dir = tempfile::tempdir().expect("tempdir");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let address = listener.local_addr().expect("address");
    let config = KubeletServerConfig {
        listen: address,
        certificate_pem: own.cert_pem,
        key_pem: own.key_pem,
        client_ca_pem: ca.cert_pem().to_owned(),
        node_name: "node-1".into(),
        pods_log_dir: dir.path().join("pods"),
        log_dir: dir.path().to_owned(),
        data_dir: dir.path().to_owned(),
        cgroup_root: "/kedge-none".into(),
        configz: json!({"maxPods": 110}),
    };
    let fake = Fake::default();
    *fake.0.pods.lock() = vec![Arc::new(pod(json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}})))];
    let server = KubeletServer::new(config, fake.clone(), fake.clone(), fake.clone(), &Metrics::new());
    let tasks = TaskGroup::new();
    let cx = ServiceContext { shutdown: CancellationToken::new(), ready: Ready::new(), clock: RealClock::shared() };
    let ready = cx.ready.clone();
    tasks.spawn(async move { server.serve(&cx, listener).await });
    ready.wait().await;
    Running { fake, address, ca, tasks, dir }
}

fn pod(state: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "web", "uid": "u1"},
        "spec": {"containers": [{"name": "app", "image": "i", "tty": true}]},
        "status": {"containerStatuses": [{"name": "app", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "containerID": "containerd://c1", "state": state}]}}))
    .expect("a pod")
}

impl Running {
    async fn connect(&self, identity: Option<&pki::Identity>) -> TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.cert_der().clone()).expect("a root");
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match identity {
            Some(identity) => {
                let chain = CertificateDer::pem_slice_iter(identity.cert_pem.as_bytes()).collect::<Result<_, _>>();
                let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).expect("a key");
                builder.with_client_auth_cert(chain.expect("a chain"), key).expect("an identity")
            }
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("handshake")
    }

    fn identity(&self, name: &str, group: Option<&str>) -> pki::Identity {
        self.ca.issue(&Subject::client(name, group), now()).expect("a certificate")
    }

    async fn send(&self, identity: Option<&pki::Identity>, head: &str) -> (u16, String) {
        let mut stream = self.connect(identity).await;
        let request = format!("{head}\r\nhost: x\r\nconnection: close\r\n\r\n");
        let exchange = async {
            stream.write_all(request.as_bytes()).await.expect("writes");
            let mut answer = Vec::new();
            match stream.read_to_end(&mut answer).await {
                // hyper drops a connection whose wish for an upgrade was not granted without TLS' goodbye.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {}
                other => drop(other.expect("reads")),
            }
            String::from_utf8(answer).expect("text")
        };
        let answer = tokio::time::timeout(DEADLINE, exchange).await.expect("in time");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        let code = head.split(' ').nth(1).and_then(|c| c.parse().ok()).expect("a code");
        let chunked = head.contains("transfer-encoding: chunked");
        (code, if chunked { unchunk(body) } else { body.to_owned() })
    }

    /// As the API server.
    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let identity = self.identity("kube-apiserver-kubelet-client", Some("system:masters"));
        self.send(Some(&identity), &format!("{method} {path} HTTP/1.1")).await
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path).await
    }
}

fn unchunk(mut body: &str) -> String {
    let mut out = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a size");
        out.push_str(&rest[..size]);
        body = &rest[(size + 2).min(rest.len())..];
    }
    out
}

#[tokio::test]
async fn who_gets_in() {
    let server = start().await;
    let get = "GET /metrics HTTP/1.1";
    let unauthorized = (401, "Unauthorized".to_owned());
    assert_eq!(server.send(None, get).await, unauthorized);
    let with = |token: &str| format!("{get}\r\nauthorization: Bearer {token}");
    for token in ["nobody", "broken"] {
        assert_eq!(server.send(None, &with(token)).await, unauthorized);
    }
    for _ in 0..3 {
        let (code, text) = server.send(None, &with("token-of-prometheus")).await;
        assert_eq!(code, 200);
        assert!(text.contains("kubelet_http_requests_total{method=\"GET\",path=\"metrics\""), "{text}");
    }
    // The two that failed, and one for all three of the last: it was remembered.
    assert_eq!(server.fake.0.token_reviews.load(Ordering::SeqCst), 3);
    assert_eq!(server.fake.0.access_reviews.load(Ordering::SeqCst), 1);
    let post = "POST /exec/ns/web/app?command=id&output=1 HTTP/1.1\r\nauthorization: Bearer token-of-prometheus";
    let text = "Forbidden (user=prometheus, verb=create, resource=nodes, subresource(s)=[proxy])\n";
    assert_eq!(server.send(None, post).await, (403, text.to_owned()));
    let known = server.identity("someone", None);
    assert_eq!(server.send(Some(&known), get).await.0, 403);
    let master = server.identity("anyone", Some("system:masters"));
    assert_eq!(server.send(Some(&master), get).await.0, 200);
    let api_server = server.identity("kube-apiserver-kubelet-client", None);
    assert_eq!(server.send(Some(&api_server), get).await.0, 200);
    // The same name from an authority that we do not know.
    let other = Authority::generate("other", now()).expect("an authority");
    let stranger = other.issue(&Subject::client("x", Some("system:masters")), now()).expect("a certificate");
    let mut stream = server.connect(Some(&stranger)).await;
    // With TLS 1.3 the refusal comes after our side of the handshake.
    let _ = stream.write_all(format!("{get}\r\nhost: x\r\n\r\n").as_bytes()).await;
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
    server.tasks.stop().await;
}

#[tokio::test]
async fn paths_and_methods() {
    let server = start().await;
    std::fs::write(server.dir.path().join("a.txt"), "text").expect("writes");
    let table = [
        ("GET", "/healthz", 200, "ok"),
        ("GET", "/configz", 200, "{\"kubeletconfig\":{\"maxPods\":110}}"),
        ("GET", "/logs/a.txt", 200, "text"),
        ("GET", "/logs/none", 404, "404 page not found\n"),
        ("GET", "/nothing", 404, "404: Page Not Found"),
        ("GET", "/exec/ns/web", 404, "404: Page Not Found"),
        ("POST", "/pods", 405, "405: Method Not Allowed"),
        ("GET", "/run/ns/web/app?cmd=id", 405, "405: Method Not Allowed"),
        ("POST", "/run/ns/web/app?cmd=echo%20a+b", 200, "echo|a|b!"),
        ("POST", "/run/ns/web/u1/app?cmd=false", 500, "command 'false' exited with 1: false!"),
        ("POST", "/run/ns/web/u2/app?cmd=id", 404, "pod does not exist"),
        ("POST", "/exec/ns/none/app?output=1", 404, "pod does not exist"),
        ("POST", "/exec/ns/web/app", 400, "you must specify at least 1 of stdin, stdout, stderr"),
        ("POST", "/exec/ns/web/gone?output=1", 500, "container not found (\"gone\")"),
        ("POST", "/exec/ns/web/app?output=1", 400, "Upgrade request required"),
        ("GET", "/containerLogs/ns/none/app", 404, "pod \"none\" does not exist"),
        ("GET", "/containerLogs/ns/web/none", 404, "container \"none\" not found in pod \"web\""),
        ("GET", "/containerLogs/ns/web/app?tailLines=x", 400, "{\"message\": \"Unable to decode query.\"}"),
        ("GET", "/containerLogs/ns/web/app?limitBytes=0", 422, "{\"message\": \"Invalid request.\"}"),
        (
            "GET",
            "/containerLogs/ns/web/app?previous=true",
            400,
            "previous terminated container \"app\" in pod \"web\" not found",
        ),
    ];
    for (method, path, code, text) in table {
        assert_eq!(server.ask(method, path).await, (code, text.to_owned()), "{method} {path}");
    }
    let (_, pods) = server.get("/pods").await;
    let pods: Value = serde_json::from_str(&pods).expect("JSON");
    assert_eq!((&pods["kind"], &pods["items"][0]["metadata"]["name"]), (&json!("PodList"), &json!("web")));
    assert_eq!(pods["items"][0]["kind"], Value::Null);
    server.tasks.stop().await;
}

#[tokio::test]
async fn statistics() {
    let server = start().await;
    let (_, text) = server.get("/stats/summary").await;
    let summary: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(summary["node"]["nodeName"], "node-1");
    for part in ["cpu", "memory", "fs", "network", "rlimit"] {
        assert!(summary["node"][part]["time"].is_string(), "{part}: {text}");
    }
    assert!(summary["node"]["memory"]["workingSetBytes"].as_u64() > Some(0));
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"], json!({"name": "web", "namespace": "ns", "uid": "u1"}));
    assert_eq!(pod["containers"][0]["cpu"]["usageCoreNanoSeconds"], 2_500_000_000_u64);
    assert_eq!(pod["containers"][0]["startTime"], "2026-01-01T00:00:00Z");
    assert_eq!(pod["memory"]["workingSetBytes"], 4096);
    let (_, short) = server.get("/stats/summary?only_cpu_and_memory=true").await;
    assert!(!short.contains("rlimit") && short.contains("usageCoreNanoSeconds"));
    let (_, text) = server.get("/metrics/resource").await;
    assert!(text.contains("container_cpu_usage_seconds_total{container=\"app\",namespace=\"ns\",pod=\"web\"} 2.5 "));
    assert!(text.contains("pod_memory_working_set_bytes{namespace=\"ns\",pod=\"web\"} 4096 "), "{text}");
    let (code, text) = server.get("/metrics/cadvisor").await;
    assert!(code == 200 && text.contains("machine_memory_bytes "), "{text}");
    server.tasks.stop().await;
}

#[tokio::test]
async fn logs_end_with_the_container() {
    let server = start().await;
    let path = server.dir.path().join("0.log");
    std::fs::write(&path, "2026-01-01T00:00:00Z stdout F one\n").expect("writes");
    let running = v1::ContainerStatus {
        state: v1::ContainerState::ContainerRunning.into(),
        log_path: path.display().to_string(),
        ..Default::default()
    };
    server.fake.0.containers.lock().insert("c1".into(), running.clone());
    let logs = "/containerLogs/ns/web/app";
    assert_eq!(server.get(&format!("{logs}?timestamps=true")).await.1, "2026-01-01T00:00:00.000000000Z one\n");
    let identity = server.identity("kube-apiserver-kubelet-client", Some("system:masters"));
    let mut stream = server.connect(Some(&identity)).await;
    let request = format!("GET {logs}?follow=true HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let following = async {
        assert!(head(&mut stream).await.starts_with("http/1.1 200 "));
        let mut got = String::new();
        while !got.contains("one\n") {
            got.push(char::from(stream.read_u8().await.expect("reads")));
        }
        let line = "2026-01-01T00:00:00Z stdout F two\n";
        let old = std::fs::read_to_string(&path).expect("reads");
        std::fs::write(&path, old + line).expect("writes");
        let exited = v1::ContainerStatus { state: v1::ContainerState::ContainerExited.into(), ..running };
        server.fake.0.containers.lock().insert("c1".into(), exited);
        let told = server.fake.0.events.lock().clone().expect("watched");
        told.send(RuntimeEvent { id: "c1".into(), exited: true }).expect("heard");
        stream.read_to_string(&mut got).await.expect("ends");
        got
    };
    let got = tokio::time::timeout(DEADLINE, following).await.expect("in time");
    assert_eq!(unchunk(&got), "one\ntwo\n");
    *server.fake.0.pods.lock() = vec![Arc::new(pod(json!({"waiting": {"reason": "ContainerCreating"}})))];
    let text = "container \"app\" in pod \"web\" is waiting to start: ContainerCreating";
    assert_eq!(server.get(logs).await, (400, text.to_owned()));
    server.tasks.stop().await;
}

/// Reads up to the end of an HTTP head.
async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut out = Vec::new();
    while !out.ends_with(b"\r\n\r\n") {
        out.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(out).expect("text").to_lowercase()
}

#[tokio::test]
async fn streams_pass_through_with_half_close() {
    let server = start().await;
    let runtime = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    *server.fake.0.url.lock() = format!("http://{}/exec/TOKEN", runtime.local_addr().expect("address"));
    let identity = server.identity("kube-apiserver-kubelet-client", Some("system:masters"));
    for (path, question) in [
        (
            "/exec/ns/web/app?command=sh&command=-c&command=a%20b&input=1&output=1&error=1",
            "exec c1 [\"sh\", \"-c\", \"a b\"] true true true false",
        ),
        ("/attach/ns/web/u1/app?stdin=true&stdout=true&stderr=true", "attach c1 true true false true"),
        ("/portForward/ns/web", "port-forward sandbox-of-u1 []"),
    ] {
        for client_ends_first in [true, false] {
            let streaming = async {
                let (mut stream, _) = runtime.accept().await.expect("accepts");
                let head = head(&mut stream).await;
                assert!(head.starts_with("post /exec/token http/1.1\r\n"), "{head}");
                assert!(head.contains("upgrade: spdy/3.1\r\n") && !head.contains("authorization"), "{head}");
                assert_eq!(head.matches("x-stream-protocol-version").count(), 2, "{head}");
                // Data behind the head, in the same segment.
                stream
                    .write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\nhello")
                    .await
                    .expect("answers");
                let mut got = vec![0; 100_000];
                stream.read_exact(&mut got).await.expect("reads");
                if !client_ends_first {
                    stream.shutdown().await.expect("half closed");
                }
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.expect("reads to the end");
                if client_ends_first {
                    stream.write_all(b"bye").await.expect("still writes");
                }
                (got, rest)
            };
            let client = async {
                let mut stream = server.connect(Some(&identity)).await;
                let request = format!(
                    "POST {path} HTTP/1.1\r\nhost: node\r\nauthorization: Bearer x\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nX-Stream-Protocol-Version: v3.channel.k8s.io\r\n\r\n"
                );
                stream.write_all(request.as_bytes()).await.expect("writes");
                let head = head(&mut stream).await;
                assert!(head.starts_with("http/1.1 101 ") && head.contains("v4.channel.k8s.io"), "{head}");
                let mut hello = [0; 5];
                stream.read_exact(&mut hello).await.expect("reads");
                assert_eq!(&hello, b"hello");
                stream.write_all(&[7; 100_000]).await.expect("writes");
                let mut rest = Vec::new();
                if client_ends_first {
                    stream.shutdown().await.expect("half closed");
                    stream.read_to_end(&mut rest).await.expect("reads to the end");
                } else {
                    stream.read_to_end(&mut rest).await.expect("reads to the end");
                    stream.write_all(b"more").await.expect("still writes");
                    stream.shutdown().await.expect("closes");
                }
                rest
            };
            let both = async { tokio::join!(streaming, client) };
            let ((got, rest), answer) = tokio::time::timeout(DEADLINE, both).await.expect("in time");
            assert_eq!(got, vec![7; 100_000]);
            let expected: (&[u8], &[u8]) = if client_ends_first { (b"", b"bye") } else { (b"more", b"") };
            assert_eq!((rest.as_slice(), answer.as_slice()), expected, "{path}");
            assert_eq!(server.fake.0.asked.lock().pop().as_deref(), Some(question));
        }
    }
    server.tasks.stop().await;
}

#[tokio::test]
async fn a_refusal_of_the_runtime_is_passed_on() {
    let server = start().await;
    let runtime = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    *server.fake.0.url.lock() = format!("http://{}/exec/TOKEN", runtime.local_addr().expect("address"));
    let refusing = async {
        let (mut stream, _) = runtime.accept().await.expect("accepts");
        head(&mut stream).await;
        let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\ngone";
        stream.write_all(answer).await.expect("answers");
    };
    let identity = server.identity("kube-apiserver-kubelet-client", Some("system:masters"));
    let request = "POST /exec/ns/web/app?output=1 HTTP/1.1\r\nupgrade: SPDY/3.1";
    let ((), answer) = tokio::join!(refusing, server.send(Some(&identity), request));
    assert_eq!(answer, (404, "gone".to_owned()));
    server.tasks.stop().await;
}
