//! A server of its own for each test, and clients that say exactly what they want to say.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Config, VersionInfo, tls};
use component_base::{CancellationToken, Metrics, RealClock, SharedClock, TaskGroup};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

pub const CONFIG_MAPS: &str = "/api/v1/namespaces/n/configmaps";
pub const LIMIT: usize = 3 * 1024 * 1024;
pub const JSON: &str = "application/json";
pub const YAML: &str = "application/yaml";
pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";
/// No test waits longer for an answer. Debug builds on busy machines are slow; a bomb takes minutes or for ever.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub type Stream = TlsStream<TcpStream>;

pub struct World {
    pub addr: SocketAddr,
    pub client: Arc<rustls::ClientConfig>,
    tasks: TaskGroup,
    server: ApiServer,
    _dir: tempfile::TempDir,
}

/// An answer: its code, its headers' bytes, and its body as JSON if it is JSON.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub head: usize,
    pub body: usize,
    pub value: Value,
}

impl Answer {
    pub fn message(&self) -> &str {
        self.value["message"].as_str().unwrap_or_default()
    }
}

impl World {
    pub async fn new() -> Self {
        Self::with_clock(RealClock::shared()).await
    }

    pub async fn with_clock(clock: SharedClock) -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let now = RealClock::shared().now();
        let request = pki::PkiRequest { sans: vec![], ips: vec![], cluster_domain: "cluster.local".into(), now };
        let pki = pki::Pki::ensure(dir.path(), &request).expect("pki");
        let config = Config {
            advertise_address: [127, 0, 0, 1].into(),
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
            kubelet_client: None,
            static_tokens: Vec::new(),
            manage_system_objects: false,
            max_request_bytes: LIMIT,
            admission: Default::default(),
            max_requests_in_flight: 600,
            authentication: Default::default(),
            authorization: Default::default(),
        };
        let database = store::SqliteConfig::new(dir.path().join("kedge.db"), clock.clone());
        let store = store::SqliteStore::open(database).await.expect("store");
        let server = ApiServer::new(config, store, clock, Metrics::new()).await.expect("server");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("addr");
        let serving = tls::server_config(&pki.server.cert_pem, &pki.server.key_pem, pki.client_ca.cert_pem());
        let (this, serving) = (server.clone(), serving.expect("tls"));
        let tasks = TaskGroup::new();
        tasks.spawn(async move { this.serve(listener, serving, CancellationToken::new()).await });
        let identity = (pki.admin.cert_pem.as_str(), pki.admin.key_pem.as_str());
        let client = tls::client_config(pki.server_ca.cert_pem(), Some(identity)).expect("client");
        let world = Self { addr, client, tasks, server, _dir: dir };
        let made = world.send("POST", "/api/v1/namespaces", JSON, json!({"metadata": {"name": "n"}}).to_string()).await;
        assert_eq!(made.code, 201, "{made:?}");
        world
    }

    pub async fn stop(self) {
        self.tasks.stop().await;
        self.server.stop().await;
    }

    /// A connection that has done its handshake.
    pub async fn connect(&self) -> Stream {
        let stream = TcpStream::connect(self.addr).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("name");
        tokio_rustls::TlsConnector::from(self.client.clone()).connect(name, stream).await.expect("handshake")
    }

    /// One request on a connection of its own.
    pub async fn send(&self, method: &str, path: &str, kind: &str, body: impl Into<bytes::Bytes>) -> Answer {
        tokio::time::timeout(PATIENCE, self.exchange(method, path, kind, body.into()))
            .await
            .unwrap_or_else(|_| panic!("{method} {path} as {kind}: no answer in time"))
    }

    async fn exchange(&self, method: &str, path: &str, kind: &str, body: bytes::Bytes) -> Answer {
        let stream = TokioIo::new(self.connect().await);
        let (mut sender, connection) =
            hyper::client::conn::http1::Builder::new().max_headers(1000).handshake(stream).await.expect("HTTP/1");
        let request = http::Request::builder().method(method).uri(path).header("host", "localhost");
        let request = match kind {
            "" => request,
            kind => request.header("content-type", kind),
        };
        let answer = async move {
            let response = sender.send_request(request.body(Full::new(body)).expect("request")).await.expect("answer");
            let code = response.status().as_u16();
            let head = response.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
            let bytes = response.into_body().collect().await.expect("body").to_bytes();
            Answer { code, head, body: bytes.len(), value: serde_json::from_slice(&bytes).unwrap_or_default() }
        };
        tokio::pin!(answer);
        // The connection may end before the answer has been read.
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }

    pub async fn create(&self, body: impl Into<bytes::Bytes>, kind: &str) -> Answer {
        self.send("POST", CONFIG_MAPS, kind, body).await
    }

    pub async fn patch(&self, name: &str, kind: &str, body: impl Into<bytes::Bytes>) -> Answer {
        let manager = if kind == APPLY { "?fieldManager=m" } else { "" };
        self.send("PATCH", &format!("{CONFIG_MAPS}/{name}{manager}"), kind, body).await
    }

    /// An ordinary client is served.
    pub async fn assert_serves(&self) {
        let answer = self.send("GET", "/api/v1/namespaces/n", "", "").await;
        assert_eq!(answer.code, 200, "{answer:?}");
    }
}

/// Writes until done or until the other end does not take it any more.
pub async fn write(stream: &mut Stream, bytes: &[u8]) -> bool {
    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
}

/// Everything that still comes, until the end of the connection or until nothing came for `quiet`.
pub async fn drain(stream: &mut Stream, quiet: Duration) -> (Vec<u8>, bool) {
    let mut all = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match tokio::time::timeout(quiet, stream.read(&mut buffer)).await {
            Ok(Ok(count)) if count > 0 => all.extend_from_slice(&buffer[..count]),
            Ok(_) => return (all, true),
            Err(_) => return (all, false),
        }
    }
}

fn memory(field: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    line.trim_start_matches(':').split_whitespace().next().and_then(|kib| kib.parse::<usize>().ok()).expect("a number")
        / 1024
}

/// The most memory this process ever had, in MiB: client and server together.
pub fn peak() -> usize {
    memory("VmHWM")
}

/// What this process has now, in MiB.
pub fn resident() -> usize {
    memory("VmRSS")
}
