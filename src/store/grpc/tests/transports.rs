//! The ways in: a unix socket that is ours alone, TLS with certificates on both sides, plain HTTP.

use std::os::unix::fs::PermissionsExt as _;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use super::etcdctl::{available, output};
use super::*;

async fn get(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin), path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nhost: etcd\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_http_on_the_same_port() {
    let ours = Ours::start().await;
    let fetch = async |path: &str| get(&mut TcpStream::connect(("127.0.0.1", ours.port)).await.unwrap(), path).await;
    assert!(fetch("/health").await.ends_with("{\"health\":\"true\",\"reason\":\"\"}"));
    assert!(fetch("/version").await.contains("\"etcdserver\":\"3.6."));
    assert!(fetch("/metrics").await.contains("\netcd_server_has_leader 1\n"));
    assert!(fetch("/readyz").await.ends_with("ok\n"));
    assert!(fetch("/nothing").await.starts_with("HTTP/1.1 404"));
    let client = ours.client().await;
    let alarm = pb::AlarmRequest { action: 1, member_id: 0, alarm: 1 };
    client.unary::<_, pb::AlarmResponse>("/etcdserverpb.Maintenance/Alarm", alarm).await.unwrap();
    let sick = fetch("/health").await;
    assert!(sick.starts_with("HTTP/1.1 503") && sick.contains("ALARM NOSPACE"), "{sick}");
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unix_socket_of_its_owner_alone() {
    let ours = Ours::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run/etcd.sock");
    let endpoint = Endpoint::Unix(path.clone());
    let listener = Listener::bind(&endpoint).await.unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    assert!(Listener::bind(&endpoint).await.is_err(), "it is in use");
    let (tasks, shutdown) = (TaskGroup::new(), CancellationToken::new());
    tasks.spawn_graceful(Arc::clone(&ours.face).serve(listener, shutdown.clone()));
    assert!(get(&mut UnixStream::connect(&path).await.unwrap(), "/health").await.contains("true"));
    if available() {
        // It names the path where an authority belongs, first in full, then by its place in the table.
        let at = format!("unix://{}", path.display());
        let with =
            async |args: &[&str]| output(&[&["--endpoints", &at, "--command-timeout", "5s"], args].concat()).await;
        let value = "x".repeat(100_000);
        assert_eq!(with(&["put", "a", &value]).await, "OK\n");
        assert_eq!(with(&["get", "a", "--print-value-only"]).await, format!("{value}\n"));
        let lease = with(&["lease", "grant", "100"]).await;
        assert!(lease.contains("granted with TTL(100s)"), "{lease}");
        let held = with(&["lock", "mutex", "echo", "held"]).await;
        assert!(held.contains("held"), "{held}");
    }
    shutdown.cancel();
    tasks.stop().await;
    assert!(!path.exists());
    // One that a killed process left is taken over.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(Listener::bind(&endpoint).await.unwrap());
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_lets_in_who_has_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let ca_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&ca_key).unwrap().pem();
    let issuer = Issuer::new(params, ca_key);
    let leaf = || {
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let cert = CertificateParams::new(names).unwrap().signed_by(&key, &issuer).unwrap();
        (cert.pem(), key.serialize_pem())
    };
    let (server, client) = (leaf(), leaf());
    let config = super::super::tls::server_config(&server.0, &server.1, Some(&ca)).unwrap();
    let ours = Ours::start().await;
    let listener = Listener::bind(&Endpoint::Tls(([127, 0, 0, 1], 0).into(), config)).await.unwrap();
    let at = format!("https://{}", listener.address().unwrap());
    let (tasks, shutdown) = (TaskGroup::new(), CancellationToken::new());
    tasks.spawn_graceful(Arc::clone(&ours.face).serve(listener, shutdown.clone()));
    if available() {
        let (ca, cert, key) = (file("ca.crt", &ca), file("client.crt", &client.0), file("client.key", &client.1));
        let put = ["--endpoints", &at, "--cacert", &ca, "--command-timeout", "2s", "put", "a", "1"];
        let with = [&["--cert", &cert, "--key", &key][..], &put].concat();
        assert_eq!(output(&with).await, "OK\n");
        let refused = output(&put).await;
        assert!(!refused.contains("OK"), "{refused}");
    }
    assert!(super::super::tls::server_config("nonsense", &server.1, None).is_err());
    shutdown.cancel();
    tasks.stop().await;
    ours.stop().await;
}
