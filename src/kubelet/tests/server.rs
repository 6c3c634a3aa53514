//! The kubelet's server in front of a real container in a real containerd.

#![allow(clippy::print_stderr)] // Skips and timings, for who reads the test's output.
#![allow(dead_code)] // Not every test binary uses all of the support.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use component_base::{CancellationToken, Clock, Metrics, Ready, RealClock, Service as _, ServiceContext, TaskGroup};
use kubelet::server::{KubeletServer, KubeletServerConfig};
use pki::{Authority, Identity, Subject};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use support::api::Api;
use support::node::{IMAGE, Root, Running};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const POD: &str = "/api/v1/namespaces/default/pods/p";
const DEADLINE: Duration = Duration::from_secs(60);

struct Client {
    address: SocketAddr,
    ca: Authority,
    identity: Identity,
}

impl Client {
    async fn connect(&self, head: &str) -> TlsStream<TcpStream> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.cert_der().clone()).expect("a root");
        let chain = CertificateDer::pem_slice_iter(self.identity.cert_pem.as_bytes()).collect::<Result<_, _>>();
        let key = PrivateKeyDer::from_pem_slice(self.identity.key_pem.as_bytes()).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.expect("a chain"), key)
            .expect("an identity");
        let stream = TcpStream::connect(self.address).await.expect("connects");
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("handshake");
        stream.write_all(format!("{head}\r\nhost: x\r\n\r\n").as_bytes()).await.expect("writes");
        stream
    }

    /// The answer's code and body. Only HTTP/1.0 spares us the chunks.
    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let mut stream = self.connect(&format!("{method} {path} HTTP/1.0")).await;
        let mut answer = Vec::new();
        tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.expect("in time").expect("reads");
        let answer = String::from_utf8(answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        (head[9..12].parse().expect("a code"), body.to_owned())
    }

    /// Runs a WebSocket session: sends `input` on channel 0 and gives what came on each channel, until `enough`.
    async fn session(&self, path: &str, input: &str, enough: impl Fn(&[String; 4]) -> bool) -> [String; 4] {
        let head = format!(
            "GET {path} HTTP/1.1\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: v4.channel.k8s.io\r\norigin: http://x"
        );
        let mut stream = self.connect(&head).await;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await.expect("a head"));
        }
        let answer = String::from_utf8(answer).expect("text");
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        // Masked with zeros: a valid mask.
        let mut frame = vec![0x82, 0x80 | u8::try_from(input.len() + 1).expect("short"), 0, 0, 0, 0, 0];
        frame.extend_from_slice(input.as_bytes());
        stream.write_all(&frame).await.expect("writes");
        let mut channels: [Vec<u8>; 4] = Default::default();
        let text = |channels: &[Vec<u8>; 4]| channels.clone().map(|c| String::from_utf8_lossy(&c).into_owned());
        let reading = async {
            while !enough(&text(&channels)) {
                let Ok(opcode) = stream.read_u8().await else { break };
                let length = match stream.read_u8().await.expect("a length") {
                    126 => usize::from(stream.read_u16().await.expect("a length")),
                    short => usize::from(short),
                };
                let mut data = vec![0; length];
                stream.read_exact(&mut data).await.expect("a frame");
                match (opcode & 0xf, data.split_first()) {
                    (8, _) => break,
                    (1 | 2, Some((channel, data))) => channels[usize::from(*channel)].extend_from_slice(data),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(DEADLINE, reading).await.expect("in time");
        text(&channels)
    }
}

async fn serve(running: &Running, config: &kubelet::KubeletConfig, api: &Api, tasks: &TaskGroup) -> Client {
    let now = RealClock.now();
    let ca = Authority::generate("ca", now).expect("an authority");
    let own = ca.issue(&Subject::server("n1", vec![], vec![config.node_ip]), now).expect("a certificate");
    let mut config = config.clone();
    let free = TcpListener::bind("127.0.0.1:0").await.and_then(|l| l.local_addr()).expect("a free port");
    config.server = kubelet::config::ServerConfig {
        bind: free,
        certificate: Some(own.cert_pem),
        key: Some(own.key_pem),
        client_ca: Some(ca.cert_pem().to_owned()),
    };
    let of_server = KubeletServerConfig::of(&config).expect("complete");
    let (access, cri) = (running.access.clone(), running.access.cri().clone());
    let server = KubeletServer::new(of_server, access, cri, api.client(), &Metrics::new());
    let ready = Ready::new();
    let cx = ServiceContext { shutdown: CancellationToken::new(), ready: ready.clone(), clock: RealClock::shared() };
    tasks.spawn(async move { server.run(cx).await });
    tokio::time::timeout(DEADLINE, ready.wait()).await.expect("in time");
    let subject = Subject::client("kube-apiserver-kubelet-client", Some("system:masters"));
    Client { address: free, identity: ca.issue(&subject, now).expect("a certificate"), ca }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_streams_and_statistics_of_a_real_container() {
    if !sys::capability::is_root() || sys::process::find("containerd", &["/usr/bin", "/usr/local/bin"]).is_none() {
        eprintln!("skipped: needs root and containerd");
        return;
    }
    let root = Root::new("server");
    let config = root.config();
    let api = Api::new();
    let running = Running::start(config.clone(), &api).await;
    let tasks = TaskGroup::new();
    let client = serve(&running, &config, &api, &tasks).await;
    let script = "echo one; echo err >&2; while test ! -e /stop; do sleep 0.1; echo tick; done; echo last";
    api.put(
        POD,
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "default", "generation": 1},
            "spec": {"nodeName": "n1", "hostNetwork": true, "dnsPolicy": "Default", "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                    "command": ["sh", "-c", script]}]},
            "status": {"phase": "Pending"}}),
    );
    let runs =
        |o: Option<&Value>| o.is_some_and(|o| !o["status"]["containerStatuses"][0]["state"]["running"].is_null());
    api.until(POD, "running", runs).await;

    // Input, output and exit code.
    let exec =
        "/exec/default/p/c?command=sh&command=-c&command=read+x%3B+echo+got+%24x%3B+exit+3&input=1&output=1&error=1";
    let channels = client.session(exec, "hi\n", |channels| !channels[3].is_empty()).await;
    assert_eq!((channels[1].as_str(), channels[2].as_str()), ("got hi\n", ""));
    let status: Value = serde_json::from_str(&channels[3]).expect("a status");
    assert_eq!(
        (&status["reason"], &status["details"]["causes"][0]["message"]),
        (&json!("NonZeroExitCode"), &json!("3"))
    );
    assert_eq!(client.ask("POST", "/run/default/p/c?cmd=echo+a").await, (200, "a\n".into()));

    // To a port of the pod, which is one of the host's here.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let port = listener.local_addr().expect("an address").port();
    let answering = async {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        let mut asked = [0; 4];
        stream.read_exact(&mut asked).await.expect("reads");
        stream.write_all(b"pong").await.expect("writes");
        asked
    };
    let path = format!("/portForward/default/p?port={port}");
    let (asked, channels) = tokio::join!(answering, client.session(&path, "ping", |c| c[0].ends_with("pong")));
    assert_eq!((&asked, channels[0].ends_with("pong")), (b"ping", true));

    let (_, summary) = client.ask("GET", "/stats/summary").await;
    let summary: Value = serde_json::from_str(&summary).expect("JSON");
    let pod = &summary["pods"][0];
    assert_eq!((&pod["podRef"]["name"], &pod["containers"][0]["name"]), (&json!("p"), &json!("c")));
    assert!(pod["containers"][0]["memory"]["workingSetBytes"].as_u64() > Some(0), "{summary}");
    assert!(pod["cpu"]["usageCoreNanoSeconds"].as_u64() > Some(0), "{summary}");
    let (_, metrics) = client.ask("GET", "/metrics/resource").await;
    assert!(metrics.contains("container_memory_working_set_bytes{container=\"c\",namespace=\"default\",pod=\"p\"}"));

    // Attached and following while it ends.
    let logs = "/containerLogs/default/p/c";
    assert_eq!(client.ask("GET", &format!("{logs}?stream=Stderr")).await, (200, "err\n".into()));
    let follow = format!("{logs}?follow=true&stream=Stdout");
    // It is told to end only when somebody is attached.
    let attached = tokio::sync::Notify::new();
    let touch = async {
        attached.notified().await;
        let touch = "/exec/default/p/c?command=sh&command=-c&command=%3A%3E/stop&output=1";
        client.session(touch, "", |channels| !channels[3].is_empty()).await
    };
    let attach = client.session("/attach/default/p/c?output=1&error=1", "", |channels| {
        if channels[1].contains("tick") {
            attached.notify_one();
        }
        false
    });
    let ((code, followed), seen, _) = tokio::join!(client.ask("GET", &follow), attach, touch);
    assert!(code == 200 && followed.starts_with("one\n") && followed.ends_with("tick\nlast\n"), "{code} {followed}");
    assert!(seen[1].ends_with("tick\nlast\n"), "{seen:?}");
    assert_eq!(client.ask("GET", &format!("{logs}?tailLines=1")).await, (200, "last\n".into()));
    let text = "previous terminated container \"c\" in pod \"p\" not found";
    assert_eq!(client.ask("GET", &format!("{logs}?previous=true")).await, (400, text.into()));
    let exec = client.ask("POST", "/exec/default/p/c?command=id&output=1").await;
    assert_eq!(exec, (500, "container not found (\"c\")".into()));
    tasks.stop().await;
    running.stop().await;
}

fn make(name: &str, policy: &str, script: &str, volume: &std::path::Path) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "generation": 1},
        "spec": {"nodeName": "n1", "hostNetwork": true, "dnsPolicy": "Default", "restartPolicy": policy,
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "v", "hostPath": {"path": volume, "type": "DirectoryOrCreate"}}],
            "containers": [{"name": "c", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
                "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
        "status": {"phase": "Pending"}})
}

/// Rotation is the kubelet's own, at its own pace; whoever follows sees every line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followed_logs_rotate_and_previous_ones_stay() {
    if !support::pods::is_root() {
        return;
    }
    let root = Root::new("rotate");
    let mut config = root.config();
    config.log_rotation = kubelet::config::LogRotation { max_bytes: 20_000, max_files: 3 };
    let api = Api::new();
    let running = Running::start(config.clone(), &api).await;
    let tasks = TaskGroup::new();
    let client = serve(&running, &config, &api, &tasks).await;

    let volume = root.path.join("v");
    let script = "i=0; while test ! -e /v/stop; do i=$((i+1)); echo line $i; sleep 0.005; done; echo last";
    let pod = api.put(POD, make("p", "Never", script, &volume));
    let again =
        "if test -e /v/again; then echo second; while :; do sleep 0.1; done; fi; : > /v/again; echo first; exit 1";
    let other = "/api/v1/namespaces/default/pods/again";
    api.put(other, make("again", "Always", again, &volume));

    let status = |o: &Value| o["status"]["containerStatuses"][0].clone();
    api.until(POD, "running", |o| o.is_some_and(|o| !status(o)["state"]["running"].is_null())).await;
    let log = config.pod_log_dir("default", "p", pod["metadata"]["uid"].as_str().expect("a uid")).join("c");
    let files = || -> Vec<String> {
        let entries = std::fs::read_dir(&log).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let rotated = async {
        // The second rotation packs what the first one left.
        while !files().iter().any(|name| name.ends_with(".gz")) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        std::fs::write(volume.join("stop"), "").expect("writes");
    };
    let follow = client.ask("GET", "/containerLogs/default/p/c?follow=true");
    let ((code, followed), ()) = tokio::time::timeout(DEADLINE, async { tokio::join!(follow, rotated) })
        .await
        .unwrap_or_else(|_| panic!("not rotated in time: {:?}", files()));
    let lines: Vec<&str> = followed.lines().collect();
    let (end, numbered) = lines.split_last().expect("lines");
    assert_eq!((code, *end), (200, "last"));
    for (index, line) in numbered.iter().enumerate() {
        assert_eq!(*line, format!("line {}", index + 1));
    }
    eprintln!("{} lines in {:?}", numbered.len(), files());
    assert!(files().len() <= 3, "{:?}", files());

    // Before and after a restart.
    let restarted = |o: Option<&Value>| {
        o.is_some_and(|o| status(o)["restartCount"] == 1 && !status(o)["state"]["running"].is_null())
    };
    let object = api.until(other, "restarted", restarted).await.expect("there");
    let logs = "/containerLogs/default/again/c";
    assert_eq!(client.ask("GET", logs).await, (200, "second\n".into()));
    assert_eq!(client.ask("GET", &format!("{logs}?previous=true")).await, (200, "first\n".into()));

    // The runtime forgets the one that ended.
    let id = status(&object)["lastState"]["terminated"]["containerID"].as_str().expect("an id").to_owned();
    let bare = id.strip_prefix("containerd://").expect("containerd's");
    running.access.cri().remove_container(bare).await.expect("removed");
    let (code, text) = client.ask("GET", &format!("{logs}?previous=true")).await;
    // The second when the kubelet has noticed by itself meanwhile.
    let texts = [
        format!("unable to retrieve container logs for {id}"),
        "previous terminated container \"c\" in pod \"again\" not found".to_owned(),
    ];
    assert!(code == 400 && texts.contains(&text), "{code} {text}");
    tasks.stop().await;
    running.stop().await;
}
