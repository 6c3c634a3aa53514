//! TLS and the accept loop: HTTP/1.1 and HTTP/2 on one port, client certificates optional.
//!
//! Invariants:
//! - TL-1: TLS 1.2 or newer; a client certificate that the client CA did not sign ends the handshake.
//! - TL-2: a connection that does not finish its handshake or its request headers in time is closed; there are never
//!   more than [`MAX_CONNECTIONS`].
//! - TL-4: a connection whose other end is gone or never reads is closed, also when nothing is sent (half-open watches).
//! - TL-3: on shutdown no connection is accepted any more, requests under way may end within [`DRAIN`], then every
//!   connection is closed.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use component_base::{CancellationToken, TaskGroup};
use http::header::EXPECT;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::trust;
use crate::{Body, BoxError, Error, Peer, PeerIdentity, Result};

pub const MAX_CONNECTIONS: usize = 4096;
const HANDSHAKE: Duration = Duration::from_secs(10);
/// From the end of one request to the whole head of the next: also how long an idle connection is kept.
const HEADERS: Duration = Duration::from_secs(90);
/// After an error of `accept` itself (no file descriptors), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Of a request body that nobody reads, this much is read and thrown away.
const DRAINED: usize = 256 * 1024;
/// A silent peer is asked whether it is still there (Go's numbers): watches have nothing to say for hours.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// A peer that has not taken what was sent for so long is gone, or never reads: its connection is closed.
const UNACKNOWLEDGED: Duration = Duration::from_secs(180);
const DRAIN: Duration = Duration::from_secs(3);

/// What the server presents, and whom it lets in with a certificate. PEM in, ready for [`serve`].
pub fn server_config(cert_pem: &str, key_pem: &str, client_ca_pem: &str) -> Result<Arc<ServerConfig>> {
    let failed = |what: &'static str| move |e: &dyn std::fmt::Display| Error::Config { what, detail: e.to_string() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = client_verifier(client_ca_pem)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| failed("TLS")(&e))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(cert_pem)?, key(key_pem)?)
        .map_err(|e| failed("serving certificate")(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Tells certificates that an authority of `ca_pem` has signed for clients.
pub fn client_verifier(ca_pem: &str) -> Result<Arc<dyn ClientCertVerifier>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots(ca_pem)?), provider)
        .allow_unauthenticated()
        .build()
        .map_err(|e| Error::Config { what: "client CA", detail: e.to_string() })
}

/// How this server talks TLS to others: `ca_pem` is whom it trusts, `identity` (certificate, key) what it presents.
pub fn client_config(ca_pem: &str, identity: Option<(&str, &str)>) -> Result<Arc<ClientConfig>> {
    let failed = |what: &'static str| move |e: &dyn std::fmt::Display| Error::Config { what, detail: e.to_string() };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| failed("TLS")(&e))?;
    let roots = roots(ca_pem)?;
    let builder = match trust::verifier(chain(ca_pem)?, &provider) {
        Some(verifier) => builder.dangerous().with_custom_certificate_verifier(verifier),
        None => builder.with_root_certificates(roots),
    };
    let config = match identity {
        Some((cert, private)) => {
            builder.with_client_auth_cert(chain(cert)?, key(private)?).map_err(|e| failed("client certificate")(&e))?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn roots(pem: &str) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for cert in chain(pem)? {
        store.add(cert).map_err(|e| Error::Config { what: "CA certificate", detail: e.to_string() })?;
    }
    Ok(store)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| Error::Config { what: "certificate", detail: e.to_string() })
}

fn key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| Error::Config { what: "private key", detail: e.to_string() })
}

/// Runs hyper's own tasks in the server's group.
#[derive(Clone)]
pub struct GroupExecutor(pub TaskGroup);

impl<F> hyper::rt::Executor<F> for GroupExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.0.spawn(future));
    }
}

/// Accepts and serves until `shutdown`. `handle` answers one request.
pub async fn serve<H, F>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    shutdown: CancellationToken,
    handle: H,
) -> Result<()>
where
    H: Fn(Request<Body>, Peer) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let tasks = TaskGroup::new();
    let acceptor = TlsAcceptor::from(tls);
    let mut builder = auto::Builder::new(GroupExecutor(tasks.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .max_header_list_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let builder = Arc::new(builder);
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    loop {
        let place = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            place = places.clone().acquire_owned() => place,
        };
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, addr) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (acceptor, builder, handle) = (acceptor.clone(), builder.clone(), handle.clone());
        let readers = tasks.clone();
        let watcher = graceful.watcher();
        tasks.spawn(async move {
            let _place = place;
            let Some((stream, identity)) = handshake(&acceptor, stream, addr).await else { return };
            let peer = Peer { addr, identity };
            let service = service_fn(move |request: Request<Incoming>| {
                let drains = !request.headers().contains_key(EXPECT);
                let request =
                    request.map(|body| Drained { body: Some(body), drains, tasks: readers.clone() }.boxed_unsync());
                let answer = handle(request, peer.clone());
                async move { Ok::<_, std::convert::Infallible>(answer.await) }
            });
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                debug!(%addr, error = %error, "connection ended");
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        debug!("connections were still open after the grace time");
    }
    tasks.stop().await;
    Ok(())
}

/// A request body that is read to its end even when the answer did not need it, so that the connection can carry the
/// next request. Go's server does the same.
struct Drained {
    body: Option<Incoming>,
    drains: bool,
    tasks: TaskGroup,
}

impl hyper::body::Body for Drained {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.body.as_mut() {
            Some(body) => Pin::new(body).poll_frame(cx).map_err(|e| Box::new(e) as BoxError),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Incoming::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Incoming::size_hint).unwrap_or_default()
    }
}

impl Drop for Drained {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| self.drains && !body.is_end_stream()) else { return };
        self.tasks.spawn(async move {
            let drain = async move {
                let mut left = DRAINED;
                while let Some(Ok(frame)) = body.frame().await {
                    let Some(rest) = left.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
                    left = rest;
                }
            };
            let _ = tokio::time::timeout(HANDSHAKE, drain).await;
        });
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
    addr: std::net::SocketAddr,
) -> Option<(tokio_rustls::server::TlsStream<TcpStream>, PeerIdentity)> {
    let _ = stream.set_nodelay(true);
    let socket = socket2::SockRef::from(&stream);
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let _ = socket.set_tcp_keepalive(&keepalive);
    let _ = socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            debug!(%addr, %error, "TLS handshake failed");
            return None;
        }
        Err(_) => {
            debug!(%addr, "TLS handshake timed out");
            return None;
        }
    };
    let identity = match stream.get_ref().1.peer_certificates() {
        Some(chain) if !chain.is_empty() => PeerIdentity::Tls(chain.iter().map(|cert| cert.to_vec()).collect()),
        _ => PeerIdentity::None,
    };
    Some((stream, identity))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::body;
    use http_body_util::Empty;
    use rustls::pki_types::ServerName;

    fn now() -> jiff::Timestamp {
        use component_base::Clock as _;
        component_base::RealClock.now()
    }

    /// What one request on a new connection is told about itself; `None` when the connection is refused.
    async fn ask(addr: std::net::SocketAddr, config: Arc<ClientConfig>) -> Option<String> {
        let stream = TcpStream::connect(addr).await.ok()?;
        let name = ServerName::try_from("localhost").expect("name");
        let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.ok()?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
        let request =
            Request::get("/").header("host", "localhost").body(Empty::<bytes::Bytes>::new()).expect("request");
        let answer = async move {
            let response = sender.send_request(request).await.ok()?;
            let bytes = response.into_body().collect().await.ok()?.to_bytes();
            Some(String::from_utf8(bytes.to_vec()).expect("utf-8"))
        };
        tokio::select! { answer = answer => answer, _ = connection => None }
    }

    #[tokio::test]
    async fn a_body_that_nobody_reads_does_not_end_the_connection() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let ca = pki::Authority::generate("ca", now()).expect("ca");
        let subject = pki::Subject::server("localhost", vec!["localhost".into()], vec![]);
        let serving = ca.issue(&subject, now()).expect("serving");
        let tls = server_config(&serving.cert_pem, &serving.key_pem, ca.cert_pem()).expect("config");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("addr");
        let group = TaskGroup::new();
        let handle = |_: Request<Body>, _| async { Response::new(body::full("no")) };
        group.spawn(serve(listener, tls, CancellationToken::new(), handle));
        let stream = TcpStream::connect(addr).await.expect("connects");
        let name = ServerName::try_from("localhost").expect("name");
        let config = client_config(ca.cert_pem(), None).expect("config");
        let mut stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await.expect("handshake");
        let mut buffer = [0; 4096];
        for _ in 0..3 {
            let head = b"POST /nope HTTP/1.1\r\nhost: localhost\r\ncontent-length: 70000\r\n\r\n";
            stream.write_all(head).await.expect("writes");
            // The answer comes before the body has been sent.
            let count = stream.read(&mut buffer).await.expect("reads");
            assert!(buffer[..count].starts_with(b"HTTP/1.1 200 OK"));
            stream.write_all(&[b'x'; 70000]).await.expect("writes");
        }
        group.stop().await;
    }

    #[tokio::test]
    async fn client_certificates_over_a_real_socket() {
        let server_ca = pki::Authority::generate("server", now()).expect("ca");
        let client_ca = pki::Authority::generate("client", now()).expect("ca");
        let stranger_ca = pki::Authority::generate("stranger", now()).expect("ca");
        let subject = pki::Subject::server("localhost", vec!["localhost".into()], vec![]);
        let serving = server_ca.issue(&subject, now()).expect("serving");
        let tls = server_config(&serving.cert_pem, &serving.key_pem, client_ca.cert_pem()).expect("config");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let addr = listener.local_addr().expect("addr");
        let shutdown = CancellationToken::new();
        let handle = |_: Request<Body>, peer: Peer| async move {
            let text = match &peer.identity {
                PeerIdentity::Tls(chain) => pki::subject_of_certificate(&chain[0]).expect("subject").0,
                _ => "nobody".to_owned(),
            };
            Response::new(body::full(text))
        };
        let group = TaskGroup::new();
        let server = group.spawn_graceful(serve(listener, tls, shutdown.clone(), handle));

        let client = |ca: &pki::Authority| {
            let identity = ca.issue(&pki::Subject::client("alice", None), now()).expect("issues");
            client_config(server_ca.cert_pem(), Some((&identity.cert_pem, &identity.key_pem))).expect("config")
        };
        assert_eq!(ask(addr, client(&client_ca)).await.as_deref(), Some("alice"));
        assert_eq!(
            ask(addr, client_config(server_ca.cert_pem(), None).expect("config")).await.as_deref(),
            Some("nobody")
        );
        assert_eq!(ask(addr, client(&stranger_ca)).await, None);
        assert_eq!(ask(addr, client_config(client_ca.cert_pem(), None).expect("config")).await, None);

        shutdown.cancel();
        server.await.expect("joins").expect("serves");
        assert!(TcpStream::connect(addr).await.is_err());
    }
}
