//! `kedge etcd`: the store alone, as an etcd of one member that any etcd client, also an upstream kube-apiserver, can use.
//!
//! Everything is durable on acknowledge here: there is no relaxed class.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use component_base::{CancellationToken, RealClock, TaskGroup};
use store::grpc::{Endpoint, Face, FaceConfig, Listener, tls};
use store::{AutoCompaction, Maintenance, SqliteConfig, SqliteStore, Store as _};
use tracing::info;

use crate::config::LogOptions;

#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    pub log: LogOptions,
    /// Folder of the database
    #[arg(long, short = 'd', env = "KEDGE_ETCD_DATA_DIR", default_value = "/var/lib/kedge-etcd")]
    pub data_dir: PathBuf,
    /// Where to listen: http://HOST:PORT (loopback only), https://HOST:PORT, or unix:/PATH; may be repeated
    #[arg(
        long,
        alias = "listen-client-urls",
        env = "KEDGE_ETCD_LISTEN_ADDRESS",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:2379",
        value_parser = url
    )]
    pub listen_address: Vec<Url>,
    /// What clients are told to use [default: the listen addresses]
    #[arg(long, env = "KEDGE_ETCD_ADVERTISE_CLIENT_URLS", value_delimiter = ',')]
    pub advertise_client_urls: Vec<String>,
    /// Certificate for https://
    #[arg(long, env = "KEDGE_ETCD_CERT_FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, env = "KEDGE_ETCD_KEY_FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// Every client must show a certificate of this CA
    #[arg(long, env = "KEDGE_ETCD_TRUSTED_CA_FILE", requires = "cert_file")]
    pub trusted_ca_file: Option<PathBuf>,
    /// Name of the member
    #[arg(long, env = "KEDGE_ETCD_NAME", default_value = "default")]
    pub name: String,
    /// Largest size of the database in bytes; 0 is no limit
    #[arg(long, env = "KEDGE_ETCD_QUOTA_BACKEND_BYTES", default_value_t = 0)]
    pub quota_backend_bytes: u64,
    /// What --auto-compaction-retention counts
    #[arg(long, env = "KEDGE_ETCD_AUTO_COMPACTION_MODE", value_enum, default_value = "periodic")]
    pub auto_compaction_mode: CompactionMode,
    /// History to keep: hours, or a duration (10m), or revisions; 0 is all of it
    #[arg(long, env = "KEDGE_ETCD_AUTO_COMPACTION_RETENTION", default_value = "0")]
    pub auto_compaction_retention: String,
    /// Operations in one transaction
    #[arg(long, env = "KEDGE_ETCD_MAX_TXN_OPS", default_value_t = 128)]
    pub max_txn_ops: usize,
    /// Bytes of one write
    #[arg(long, env = "KEDGE_ETCD_MAX_REQUEST_BYTES", default_value_t = 3 << 19)]
    pub max_request_bytes: usize,
    /// How often quiet watches that ask for it are told the revision (10m, 5s)
    #[arg(
        long,
        alias = "experimental-watch-progress-notify-interval",
        env = "KEDGE_ETCD_WATCH_PROGRESS_NOTIFY_INTERVAL",
        default_value = "10m",
        value_parser = duration
    )]
    pub watch_progress_notify_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CompactionMode {
    Periodic,
    Revision,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Url {
    Http(SocketAddr),
    Https(SocketAddr),
    Unix(PathBuf),
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(at) => write!(f, "http://{at}"),
            Self::Https(at) => write!(f, "https://{at}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

pub fn run(options: &Options) -> Result<()> {
    let compaction = compaction(options.auto_compaction_mode, &options.auto_compaction_retention)?;
    let endpoints = endpoints(options)?;
    crate::logging::init(&options.log);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(serve(options, compaction, endpoints));
    runtime.shutdown_timeout(Duration::from_millis(100));
    result
}

async fn serve(options: &Options, auto_compaction: AutoCompaction, endpoints: Vec<Endpoint>) -> Result<()> {
    let clock = RealClock::shared();
    let mut terminate = super::server::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = super::server::signal(tokio::signal::unix::SignalKind::interrupt())?;
    let folder = options.data_dir.join("db");
    let config = SqliteConfig {
        auto_compaction,
        max_request_bytes: options.max_request_bytes,
        quota_bytes: Some(options.quota_backend_bytes).filter(|bytes| *bytes > 0),
        ..SqliteConfig::new(folder.join("state.db"), clock.clone())
    };
    let store = SqliteStore::open(config).await?;
    let urls = if options.advertise_client_urls.is_empty() {
        options.listen_address.iter().map(Url::to_string).collect()
    } else {
        options.advertise_client_urls.clone()
    };
    let config = FaceConfig {
        name: options.name.clone(),
        client_urls: urls,
        max_txn_ops: options.max_txn_ops,
        max_request_bytes: options.max_request_bytes,
        progress_interval: options.watch_progress_notify_interval,
        ..FaceConfig::new(clock)
    };
    let served: Arc<dyn Maintenance> = store.clone();
    let face = Face::new(served, config);
    let shutdown = CancellationToken::new();
    let tasks = TaskGroup::new();
    for (endpoint, url) in endpoints.iter().zip(&options.listen_address) {
        let listener = Listener::bind(endpoint).await?;
        info!(address = %url, "serving etcd v3");
        tasks.spawn_graceful(Arc::clone(&face).serve(listener, shutdown.clone()));
    }
    let name = tokio::select! { _ = terminate.recv() => "SIGTERM", _ = interrupt.recv() => "SIGINT" };
    info!(signal = name, "stopping");
    shutdown.cancel();
    tasks.stop().await;
    face.stop().await;
    store.close().await?;
    Ok(())
}

fn endpoints(options: &Options) -> Result<Vec<Endpoint>> {
    let read =
        |flag: &str, path: &Path| std::fs::read_to_string(path).with_context(|| format!("--{flag} {}", path.display()));
    let config = match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => {
            let ca = options.trusted_ca_file.as_deref().map(|path| read("trusted-ca-file", path)).transpose()?;
            Some(tls::server_config(&read("cert-file", cert)?, &read("key-file", key)?, ca.as_deref())?)
        }
        _ => None,
    };
    let endpoint = |url: &Url| match url {
        Url::Unix(path) => Ok(Endpoint::Unix(path.clone())),
        Url::Http(at) if !at.ip().is_loopback() => {
            bail!("--listen-address {url}: plain http is for loopback addresses only: use https, or 127.0.0.1")
        }
        Url::Http(at) => Ok(Endpoint::Tcp(*at)),
        Url::Https(at) => match &config {
            Some(config) => Ok(Endpoint::Tls(*at, Arc::clone(config))),
            None => bail!("--listen-address {url}: https needs --cert-file and --key-file"),
        },
    };
    options.listen_address.iter().map(endpoint).collect()
}

fn compaction(mode: CompactionMode, retention: &str) -> Result<AutoCompaction> {
    let number = retention.parse::<u32>();
    Ok(match (mode, number) {
        (_, Ok(0)) => AutoCompaction::Off,
        (CompactionMode::Revision, Ok(revisions)) => AutoCompaction::Revisions(revisions.into()),
        (CompactionMode::Revision, Err(_)) => {
            bail!("--auto-compaction-retention {retention}: want a number of revisions")
        }
        (CompactionMode::Periodic, Ok(hours)) => AutoCompaction::Periodic(Duration::from_secs(u64::from(hours) * 3600)),
        (CompactionMode::Periodic, Err(_)) => match duration(retention) {
            Ok(Duration::ZERO) => AutoCompaction::Off,
            Ok(duration) => AutoCompaction::Periodic(duration),
            Err(want) => bail!("--auto-compaction-retention {retention}: {want}"),
        },
    })
}

/// `http://127.0.0.1:2379`, `https://0.0.0.0:2379`, `unix:///run/etcd.sock`, `unix:/run/etcd.sock`.
pub fn url(text: &str) -> Result<Url, String> {
    const WANT: &str = "want http://HOST:PORT, https://HOST:PORT or unix:/PATH";
    if let Some(path) = text.strip_prefix("unix:") {
        let path = path.strip_prefix("//").unwrap_or(path);
        return if path.is_empty() { Err(WANT.into()) } else { Ok(Url::Unix(path.into())) };
    }
    let (scheme, host) = text.split_once("://").unwrap_or(("http", text));
    let at = socket_address(host.trim_end_matches('/')).ok_or(WANT)?;
    match scheme {
        "http" => Ok(Url::Http(at)),
        "https" => Ok(Url::Https(at)),
        _ => Err(WANT.into()),
    }
}

pub fn socket_address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.rsplit_once(':')?;
    let ip = match host {
        "localhost" => IpAddr::from([127, 0, 0, 1]),
        "" => IpAddr::from([0, 0, 0, 0]),
        host => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some(SocketAddr::new(ip, port.parse().ok()?))
}

/// `1h30m`, `10m`, `5s`, `100ms`.
fn duration(text: &str) -> Result<Duration, String> {
    const WANT: &str = "want a duration, as 1h30m, 10m, 5s or 100ms";
    let mut rest = text;
    let mut total = Duration::ZERO;
    if text.is_empty() {
        return Err(WANT.into());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or(WANT)?;
        let number: u64 = rest[..digits].parse().map_err(|_| WANT)?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let millis = match &rest[..unit] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(WANT.into()),
        };
        total += Duration::from_millis(number.checked_mul(millis).ok_or(WANT)?);
        rest = &rest[unit..];
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let local = SocketAddr::from(([127, 0, 0, 1], 2379));
        assert_eq!(url("http://127.0.0.1:2379"), Ok(Url::Http(local)));
        assert_eq!(url("https://localhost:2379/"), Ok(Url::Https(local)));
        assert_eq!(url("localhost:2379"), Ok(Url::Http(local)));
        assert_eq!(url("unix:///run/e.sock"), Ok(Url::Unix("/run/e.sock".into())));
        assert_eq!(url("unix:/run/e.sock"), Ok(Url::Unix("/run/e.sock".into())));
        assert!(url("ftp://127.0.0.1:1").is_err());
        assert!(url("http://127.0.0.1").is_err());
    }

    #[test]
    fn retentions() {
        let hour = AutoCompaction::Periodic(Duration::from_secs(3600));
        assert_eq!(compaction(CompactionMode::Periodic, "1").unwrap(), hour);
        assert_eq!(compaction(CompactionMode::Periodic, "60m").unwrap(), hour);
        assert_eq!(compaction(CompactionMode::Periodic, "0").unwrap(), AutoCompaction::Off);
        assert_eq!(compaction(CompactionMode::Revision, "1000").unwrap(), AutoCompaction::Revisions(1000));
        assert!(compaction(CompactionMode::Revision, "1h").is_err());
        assert!(compaction(CompactionMode::Periodic, "soon").is_err());
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
    }
}
