//! A served store, a real etcd beside it, and a client that can say anything.

use std::process::Stdio;

use prost::Message;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint as Target};
use tonic_prost::ProstCodec;

use super::*;

/// A store of its own on a free port of the loopback.
pub struct Ours {
    pub store: Arc<SqliteStore>,
    pub face: Arc<Face>,
    pub port: u16,
    tasks: TaskGroup,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

impl Ours {
    pub async fn start() -> Self {
        Self::with(|config| config, |face| face).await
    }

    pub async fn with(
        store: impl FnOnce(SqliteConfig) -> SqliteConfig,
        face: impl FnOnce(FaceConfig) -> FaceConfig,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = RealClock::shared();
        let config = SqliteConfig {
            auto_compaction: crate::AutoCompaction::Off,
            ..SqliteConfig::new(dir.path().join("state.db"), clock.clone())
        };
        let store = SqliteStore::open(store(config)).await.unwrap();
        let served: Arc<dyn Maintenance> = store.clone();
        let listener = Listener::bind(&Endpoint::Tcp(([127, 0, 0, 1], 0).into())).await.unwrap();
        let port = listener.address().unwrap().port();
        let config = FaceConfig { client_urls: vec![format!("http://127.0.0.1:{port}")], ..FaceConfig::new(clock) };
        let face = Face::new(served, face(config));
        let (tasks, shutdown) = (TaskGroup::new(), CancellationToken::new());
        tasks.spawn_graceful(Arc::clone(&face).serve(listener, shutdown.clone()));
        Self { store, face, port, tasks, shutdown, _dir: dir }
    }

    pub async fn client(&self) -> Client {
        Client::connect(self.port).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.stop().await;
        self.face.stop().await;
        self.store.close().await.unwrap();
    }
}

/// Debian's etcd, gone when this is dropped.
pub struct Real {
    pub port: u16,
    _child: Child,
    _dir: Option<tempfile::TempDir>,
}

impl Real {
    /// `None` where there is no etcd to compare with.
    pub async fn start() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mut this = Self::start_on(dir.path()).await?;
        this._dir = Some(dir);
        Some(this)
    }

    /// With data that is there, of a cluster that has never run.
    #[allow(clippy::disallowed_methods)] // A test's own helper process.
    pub async fn start_on(dir: &std::path::Path) -> Option<Self> {
        let free = async || TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let (port, peer) = (free().await, free().await);
        let (client, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peer}"));
        let child = Command::new("etcd")
            .args(["--data-dir", dir.to_str()?, "--log-level", "error", "--logger", "zap"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        Some(Self { port, _child: child, _dir: None })
    }
}

#[derive(Clone)]
pub struct Client(pub Channel);

impl Client {
    pub async fn connect(port: u16) -> Self {
        let target = Target::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
        let mut channel = None;
        until("the server answers", async || {
            channel = target.connect().await.ok();
            let Some(channel) = &channel else { return false };
            Self(channel.clone()).unary::<_, pb::StatusResponse>(STATUS, pb::StatusRequest {}).await.is_ok()
        })
        .await;
        Self(channel.unwrap())
    }

    pub async fn unary<Q, A>(&self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.0.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|e| Status::unknown(e.to_string()))?;
        let path = PathAndQuery::from_static(path);
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        Ok(grpc.unary(Request::new(request), path, codec).await?.into_inner())
    }

    /// A stream to which requests are sent one by one.
    pub async fn stream<Q, A>(&self, path: &'static str) -> (mpsc::Sender<Q>, Streaming<A>)
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.stream_with(path, None).await
    }

    pub async fn stream_with<Q, A>(&self, path: &'static str, first: Option<Q>) -> (mpsc::Sender<Q>, Streaming<A>)
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let (requests, queue) = mpsc::channel(64);
        if let Some(first) = first {
            requests.try_send(first).unwrap();
        }
        let mut grpc = tonic::client::Grpc::new(self.0.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.unwrap();
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let request = Request::new(ReceiverStream::new(queue));
        let answers = grpc.streaming(request, PathAndQuery::from_static(path), codec).await.unwrap();
        (requests, answers.into_inner())
    }

    pub async fn server_stream<Q, A>(&self, path: &'static str, request: Q) -> Result<Streaming<A>, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut grpc = tonic::client::Grpc::new(self.0.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.unwrap();
        let codec: ProstCodec<Q, A> = ProstCodec::default();
        let path = PathAndQuery::from_static(path);
        Ok(grpc.server_streaming(Request::new(request), path, codec).await?.into_inner())
    }

    pub async fn put(&self, key: &str, value: &str) -> i64 {
        let response: pb::PutResponse = self.unary(PUT, put(key, value)).await.unwrap();
        response.header.unwrap().revision
    }
}

pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const COMPACT: &str = "/etcdserverpb.KV/Compact";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
pub const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
pub const TTL: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
pub const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
pub const STATUS: &str = "/etcdserverpb.Maintenance/Status";
pub const HASH_KV: &str = "/etcdserverpb.Maintenance/HashKV";

pub fn put(key: &str, value: &str) -> pb::PutRequest {
    let (key, value) = (key.to_owned().into(), value.to_owned().into());
    pb::PutRequest { key, value, ..Default::default() }
}

pub fn range(key: &str, end: &str) -> pb::RangeRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    pb::RangeRequest { key, range_end, ..Default::default() }
}

pub fn delete(key: &str, end: &str) -> pb::DeleteRangeRequest {
    let (key, range_end) = (key.to_owned().into(), end.to_owned().into());
    pb::DeleteRangeRequest { key, range_end, prev_kv: true }
}

pub fn op(request: RequestOp) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}
