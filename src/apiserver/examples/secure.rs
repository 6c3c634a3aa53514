//! The API server with TLS, its own PKI and its system objects: what the oracle's cases are replayed against as they
//! were recorded.
//!
//! `cargo run -p apiserver --example secure -- 16443 /tmp/dir`, then `replay.py --server https://127.0.0.1:16443
//! --ca /tmp/dir/tls/server-ca.crt --cert /tmp/dir/tls/client-admin.crt --key /tmp/dir/tls/client-admin.key …`

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use apiserver::{ApiServer, BoxError, Config, KubeletClient, VersionInfo, tls};
use component_base::{CancellationToken, Clock as _, Metrics, RealClock};
use pki::{Pki, PkiRequest};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args_os().skip(1);
    let port: u16 = args.next().and_then(|a| a.to_str()?.parse().ok()).unwrap_or(16443);
    let dir = PathBuf::from(args.next().ok_or("a directory is needed")?);
    let request = PkiRequest {
        sans: Vec::new(),
        ips: vec!["10.96.0.1".parse()?],
        cluster_domain: "cluster.local".into(),
        now: RealClock.now(),
    };
    let pki = Pki::ensure(&dir.join("tls"), &request)?;
    pki.admin_kubeconfig(&format!("https://127.0.0.1:{port}")).write(&dir.join("kedge.yaml"), 0o600)?;
    let config = Config {
        advertise_address: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 2)),
        port,
        service_cidr: "10.96.0.0/16".parse()?,
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
        service_account_key: pki.service_account_key.clone(),
        client_ca_pem: pki.client_ca.cert_pem().to_owned(),
        kubelet_client: Some(KubeletClient {
            certificate_pem: pki.kubelet_client.cert_pem.clone(),
            key_pem: pki.kubelet_client.key_pem.clone(),
            ca_pem: pki.server_ca.cert_pem().to_owned(),
        }),
        static_tokens: Vec::new(),
        manage_system_objects: true,
        max_request_bytes: 3 * 1024 * 1024,
    };
    let clock = RealClock::shared();
    let store = store::SqliteStore::open(store::SqliteConfig::new(dir.join("kedge.db"), clock.clone())).await?;
    let server = ApiServer::new(config, store, clock, Metrics::new()).await?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let tls = tls::server_config(&pki.server.cert_pem, &pki.server.key_pem, pki.client_ca.cert_pem())?;
    Ok(server.serve(listener, tls, CancellationToken::new()).await?)
}
