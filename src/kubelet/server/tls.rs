//! TLS and the accept loop.
//!
//! Invariants:
//! - KT-1: TLS 1.2 or newer; a client certificate that the client CA did not sign ends the handshake.
//! - KT-2: connections are bounded in number, and in the time they may take to say what they want.
//! - KT-3: at shutdown nothing is accepted any more, requests under way may end within [`DRAIN`], then all are closed.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use component_base::{ServiceContext, TaskGroup};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, warn};

use super::http::Body;
use crate::error::{Error, Result};

const MAX_CONNECTIONS: usize = 1024;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(30);
/// After an error of `accept` itself (no file descriptors), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const DRAIN: Duration = Duration::from_secs(2);

/// Who is at the other end.
#[derive(Debug, Clone)]
pub struct Peer {
    pub address: SocketAddr,
    /// The verified certificate (DER), when there is one.
    pub certificate: Option<Arc<[u8]>>,
}

/// # Errors
/// When a certificate or the key cannot be used.
pub fn server_config(certificate_pem: &str, key_pem: &str, client_ca_pem: &str) -> Result<Arc<ServerConfig>> {
    let failed = |what: &'static str, error: &dyn std::fmt::Display| {
        Error::Config(format!("{what} of the kubelet's server: {error}"))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(client_ca_pem.as_bytes()) {
        let certificate = certificate.map_err(|e| failed("client CA", &e))?;
        roots.add(certificate).map_err(|e| failed("client CA", &e))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| failed("client CA", &e))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate_pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| failed("certificate", &e))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| failed("key", &e))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed("TLS", &e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(|e| failed("certificate", &e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Runs hyper's own tasks in the server's group.
#[derive(Clone)]
struct GroupExecutor(TaskGroup);

impl<F> hyper::rt::Executor<F> for GroupExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.0.spawn(future));
    }
}

/// Serves until `cx.shutdown`.
pub async fn accept<H, F>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    cx: &ServiceContext,
    tasks: &TaskGroup,
    handle: H,
) where
    H: Fn(Request<Incoming>, Peer) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    // Its own group, not a child of the shutdown: what is under way may end.
    let connections = TaskGroup::new();
    let acceptor = TlsAcceptor::from(tls);
    let mut builder = auto::Builder::new(GroupExecutor(connections.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(250)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let builder = Arc::new(builder);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    while let Some(place) = cx.shutdown.run_until_cancelled(places.clone().acquire_owned()).await {
        let Some(accepted) = cx.shutdown.run_until_cancelled(listener.accept()).await else { break };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accept failed");
                cx.clock.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, builder, handle) = (acceptor.clone(), builder.clone(), handle.clone());
        let watcher = graceful.watcher();
        connections.spawn(async move {
            let _place = place;
            let Some(stream) = handshake(&acceptor, stream, address).await else { return };
            let chain = stream.get_ref().1.peer_certificates();
            let certificate = chain.and_then(|chain| chain.first()).map(|leaf| Arc::from(leaf.as_ref()));
            let peer = Peer { address, certificate };
            let service = service_fn(move |request| {
                let answer = handle(request, peer.clone());
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                debug!(%address, %error, "connection ended");
            }
        });
    }
    drop(listener);
    // Tunnels and followed logs do not end by themselves.
    tasks.stop().await;
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        debug!("connections were still open after the grace time");
    }
    connections.stop().await;
}

async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream, address: SocketAddr) -> Option<TlsStream<TcpStream>> {
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            debug!(%address, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            debug!(%address, "TLS handshake timed out");
            None
        }
    }
}
