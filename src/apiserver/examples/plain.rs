//! The API server alone, over plain HTTP, every caller a cluster administrator: what the oracle's cases are replayed
//! against while the server is worked on.
//!
//! `cargo run -p apiserver --example plain -- 18080`

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use apiserver::{ApiServer, Body, BoxError, Config, Peer, PeerIdentity, User, VersionInfo};
use component_base::{Metrics, RealClock, TaskGroup};
use http::Request;
use http_body_util::BodyExt as _;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;

fn config(port: u16) -> Config {
    Config {
        advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port,
        service_cidr: "10.96.0.0/16".parse().expect("a network"),
        node_port_range: 30000..=32767,
        version: VersionInfo {
            major: "1".into(),
            minor: "36".into(),
            git_version: "v1.36.2+kedge1".into(),
            git_commit: "unknown".into(),
            build_date: "2026-01-01T00:00:00Z".into(),
            platform: "linux/amd64".into(),
        },
        service_account_issuer: "https://kubernetes.default.svc.cluster.local".into(),
        service_account_key: pki::SigningKey::generate().expect("a key"),
        client_ca_pem: String::new(),
        kubelet_client: None,
        static_tokens: Vec::new(),
        manage_system_objects: true,
        max_request_bytes: 3 * 1024 * 1024,
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let port = std::env::args_os().nth(1).and_then(|a| a.to_str()?.parse().ok()).unwrap_or(18080);
    let dir = tempfile::tempdir()?;
    let clock = RealClock::shared();
    let store = store::SqliteStore::open(store::SqliteConfig::new(dir.path().join("kedge.db"), clock.clone())).await?;
    let server = ApiServer::new(config(port), store, clock, Metrics::new()).await?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let tasks = TaskGroup::new();
    let builder = Arc::new(auto::Builder::new(TokioExecutor::new()));
    loop {
        let (stream, addr) = listener.accept().await?;
        let (server, builder) = (server.clone(), builder.clone());
        tasks.spawn(async move {
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let admin = User::new("admin", &["system:masters"]);
                let peer = Peer { addr, identity: PeerIdentity::InProcess(admin) };
                let request: Request<Body> =
                    request.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync());
                let server = server.clone();
                async move { Ok::<_, std::convert::Infallible>(server.handle(request, peer).await) }
            });
            let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
        });
    }
}
