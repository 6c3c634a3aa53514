//! The accept loop: HTTP/1.1 and HTTP/2, over unix sockets, TCP and TLS.
//!
//! Invariants:
//! - GS-1: there are never more than [`MAX_CONNECTIONS`]; a TLS handshake that takes too long ends.
//! - GS-2: on shutdown nothing is accepted any more, requests under way may end within [`DRAIN`], then all is closed.

use std::future::Future;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use component_base::{CancellationToken, TaskGroup};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tracing::{debug, info, warn};

use super::Face;
use super::authority::WithoutAuthority;
use crate::{Error, Result};

pub const MAX_CONNECTIONS: usize = 8192;
/// Of HTTP/2, in bytes.
pub(super) const MAX_FRAME: u32 = 64 << 10;
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEADERS: Duration = Duration::from_secs(90);
const DRAIN: Duration = Duration::from_secs(1);
/// After an error of `accept` itself (no file descriptors), before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where the face listens.
#[derive(Clone)]
pub enum Endpoint {
    /// A socket of mode 0600; its directory is made with mode 0700 if it is not there.
    Unix(PathBuf),
    Tcp(std::net::SocketAddr),
    Tls(std::net::SocketAddr, Arc<ServerConfig>),
}

/// A bound [`Endpoint`].
pub enum Listener {
    Unix(UnixListener, SocketFile),
    Tcp(TcpListener),
    Tls(TcpListener, TlsAcceptor),
}

impl Listener {
    /// # Errors
    /// [`Error::Listen`] names the address.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self> {
        let failed = |at: String| move |e: io::Error| Error::Listen { at, detail: e.to_string() };
        match endpoint {
            Endpoint::Unix(path) => {
                let listener = bind_unix(path).map_err(failed(path.display().to_string()))?;
                Ok(Self::Unix(listener, SocketFile(path.clone())))
            }
            Endpoint::Tcp(at) => Ok(Self::Tcp(TcpListener::bind(at).await.map_err(failed(at.to_string()))?)),
            Endpoint::Tls(at, config) => {
                let listener = TcpListener::bind(at).await.map_err(failed(at.to_string()))?;
                Ok(Self::Tls(listener, TlsAcceptor::from(Arc::clone(config))))
            }
        }
    }

    /// The TCP address, with the port that was chosen if 0 was asked for.
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::Unix(..) => None,
            Self::Tcp(listener) | Self::Tls(listener, _) => listener.local_addr().ok(),
        }
    }
}

/// Removes the socket when it is dropped.
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed already.
        std::fs::remove_file(&self.0).ok();
    }
}

fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty() && !folder.exists()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    // A socket that nobody answers on was left by a killed process.
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

impl Face {
    /// Serves until `shutdown`; may be called for several listeners.
    pub async fn serve(self: Arc<Self>, listener: Listener, shutdown: CancellationToken) {
        let tasks = TaskGroup::child_of(self.tasks.token());
        let server = Server {
            builder: builder(&tasks),
            face: Arc::clone(&self),
            tasks: tasks.clone(),
            graceful: GracefulShutdown::new(),
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        };
        let accepting = async {
            match &listener {
                Listener::Unix(listener, _) => {
                    server.accept(|| async { listener.accept().await.map(|(stream, _)| stream) }, plain_unix).await
                }
                Listener::Tcp(listener) => {
                    server.accept(|| async { listener.accept().await.map(|(stream, _)| stream) }, plain_tcp).await
                }
                Listener::Tls(listener, acceptor) => {
                    let accept = || async { listener.accept().await.map(|(stream, _)| stream) };
                    let clock = self.config.clock.clone();
                    let handshake = |stream: TcpStream| {
                        let (acceptor, clock) = (acceptor.clone(), clock.clone());
                        async move {
                            stream.set_nodelay(true)?;
                            tokio::select! {
                                done = acceptor.accept(stream) => done,
                                () = clock.sleep(HANDSHAKE) => Err(io::ErrorKind::TimedOut.into()),
                            }
                        }
                    };
                    server.accept(accept, handshake).await
                }
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = self.tasks.token().cancelled() => {}
            () = accepting => {}
        }
        drop(listener);
        let Server { graceful, .. } = server;
        // Streams never end by themselves.
        tokio::select! {
            () = graceful.shutdown() => {}
            () = self.config.clock.sleep(DRAIN) => {}
            () = self.tasks.token().cancelled() => {}
        }
        tasks.stop().await;
        info!("the etcd face has stopped");
    }
}

async fn plain_tcp(stream: TcpStream) -> io::Result<WithoutAuthority<TcpStream>> {
    stream.set_nodelay(true)?;
    Ok(WithoutAuthority::new(stream))
}

async fn plain_unix(stream: UnixStream) -> io::Result<WithoutAuthority<UnixStream>> {
    Ok(WithoutAuthority::new(stream))
}

struct Server {
    face: Arc<Face>,
    builder: Arc<auto::Builder<GroupExecutor>>,
    tasks: TaskGroup,
    graceful: GracefulShutdown,
    places: Arc<Semaphore>,
}

impl Server {
    /// `ready` turns what was accepted into what HTTP is spoken on.
    async fn accept<S, T, A, AF, R, RF>(&self, accept: A, ready: R)
    where
        A: Fn() -> AF,
        AF: Future<Output = io::Result<S>>,
        R: Fn(S) -> RF,
        RF: Future<Output = io::Result<T>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let stream = match accept().await {
                Ok(stream) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    self.face.config.clock.sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let ready = ready(stream);
            let (face, builder, watcher) = (Arc::clone(&self.face), Arc::clone(&self.builder), self.graceful.watcher());
            self.tasks.spawn(async move {
                let _place = place;
                let stream = match ready.await {
                    Ok(stream) => stream,
                    Err(error) => {
                        debug!(%error, "a handshake failed");
                        return;
                    }
                };
                let service = service_fn(move |request| Arc::clone(&face).route(request));
                let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
                if let Err(error) = watcher.watch(connection).await {
                    debug!(%error, "a connection ended");
                }
            });
        }
    }
}

fn builder(tasks: &TaskGroup) -> Arc<auto::Builder<GroupExecutor>> {
    let mut builder = auto::Builder::new(GroupExecutor(tasks.clone()));
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(64 * 1024);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1 << 20)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .max_frame_size(MAX_FRAME)
        .max_send_buf_size(1 << 20)
        .max_header_list_size(64 * 1024)
        // Clients cancel as they like; that is no attack.
        .max_local_error_reset_streams(None)
        .max_pending_accept_reset_streams(1 << 10);
    Arc::new(builder)
}

/// hyper's own tasks belong to the group too.
#[derive(Clone)]
struct GroupExecutor(TaskGroup);

impl<F> hyper::rt::Executor<F> for GroupExecutor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
