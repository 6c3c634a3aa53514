//! The store on an etcd cluster of its own, through `etcd-client`: the same trait, for more than one server or for those
//! who have an etcd already.
//!
//! Invariants:
//! - EB-1: a watch goes on without gaps or repetitions when members die or a reader is slow (`watch`).
//! - EB-2: a write is sent again only when it has certainly not been done; otherwise it fails with [`Error::Unknown`].
//! - EB-3: [`Store::revision`] is at least that of every write that this process was acknowledged, and of every event it
//!   was sent. It never runs ahead to revisions of keys that nobody here watches.

mod convert;
mod failure;
#[cfg(test)]
mod tests;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use component_base::{SharedClock, TaskGroup};
use etcd_client as etcd;
use tracing::{debug, info, warn};

use self::failure::{About, Failure, classify};
use crate::sqlite::{AutoCompaction, apply};
use crate::{
    Error, Lease, LeaseId, LeaseStatus, RangeRequest, RangeResponse, Result, Revision, Store, StoreSize, TxnRequest,
    TxnResponse, WatchRequest, Watcher,
};

/// What a response may be long: the server decides.
const MAX_MESSAGE: usize = i32::MAX as usize;
/// Keys that are asked for at a time when all of a large range is wanted.
const PAGE: usize = 2000;

/// How to reach the cluster.
#[derive(Clone)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port`, one for each member.
    pub endpoints: Vec<String>,
    /// PEM: who signs the members' certificates; needed for https.
    pub ca: Option<Vec<u8>>,
    /// PEM: our certificate and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    pub clock: SharedClock,
    /// History of the cluster is discarded by us, as a kube-apiserver does it.
    pub auto_compaction: AutoCompaction,
    /// How long one request may take, reconnecting included.
    pub request_timeout: Duration,
    /// Keys and values of one transaction; etcd's own default.
    pub max_request_bytes: usize,
}

impl EtcdConfig {
    pub fn new(endpoints: Vec<String>, clock: SharedClock) -> Self {
        Self {
            endpoints,
            ca: None,
            identity: None,
            clock,
            auto_compaction: AutoCompaction::Periodic(Duration::from_secs(5 * 60)),
            request_timeout: Duration::from_secs(10),
            max_request_bytes: 3 << 19,
        }
    }
}

/// The store.
pub struct EtcdStore {
    cluster: Arc<Cluster>,
}

/// The members, and what is known of the store.
struct Cluster {
    /// One client for each member, so that it is known which one fails.
    members: Vec<etcd::Client>,
    current: AtomicUsize,
    clock: SharedClock,
    tasks: TaskGroup,
    timeout: Duration,
    max_request_bytes: usize,
    revision: AtomicI64,
    compacted: AtomicI64,
}

impl EtcdStore {
    /// Connects, and waits until the cluster answers.
    ///
    /// # Errors
    /// [`Error::Unavailable`], or [`Error::Database`] for an endpoint or a certificate that is none.
    pub async fn open(config: EtcdConfig) -> Result<Arc<Self>> {
        let mut members = Vec::new();
        for endpoint in &config.endpoints {
            members.push(connect(endpoint, &config).await?);
        }
        if members.is_empty() {
            return Err(Error::Database("etcd: no endpoint is given".into()));
        }
        let cluster = Arc::new(Cluster {
            members,
            current: AtomicUsize::new(0),
            clock: config.clock.clone(),
            tasks: TaskGroup::new(),
            timeout: config.request_timeout,
            max_request_bytes: config.max_request_bytes,
            revision: AtomicI64::new(0),
            compacted: AtomicI64::new(0),
        });
        let first = RangeRequest { count_only: true, ..RangeRequest::key(b"\0") };
        let revision = cluster.range(&first).await?.revision;
        cluster.note(revision);
        info!(endpoints = config.endpoints.join(","), revision, "store opened");
        match config.auto_compaction {
            AutoCompaction::Off => {}
            AutoCompaction::Periodic(keep) => {
                cluster.tasks.spawn(compact_by_time(Arc::clone(&cluster), keep));
            }
            AutoCompaction::Revisions(keep) => {
                cluster.tasks.spawn(compact_by_count(Arc::clone(&cluster), keep));
            }
        }
        Ok(Arc::new(Self { cluster }))
    }
}

async fn connect(endpoint: &str, config: &EtcdConfig) -> Result<etcd::Client> {
    let refuse = |detail: String| Error::Database(format!("etcd endpoint {endpoint}: {detail}"));
    // As kube-apiserver: often enough to notice a dead member, seldom enough for etcd's own limit.
    let mut options = etcd::ConnectOptions::new()
        .with_keep_alive(Duration::from_secs(30), Duration::from_secs(10))
        .with_keep_alive_while_idle(false)
        .with_connect_timeout(Duration::from_secs(3))
        .with_require_leader(true);
    if endpoint.starts_with("https://") {
        let Some(ca) = &config.ca else { return Err(refuse("https needs the certificate authority's file".into())) };
        let mut tls = etcd::TlsOptions::new().ca_certificate(etcd::Certificate::from_pem(ca));
        if let Some((certificate, key)) = &config.identity {
            tls = tls.identity(etcd::Identity::from_pem(certificate, key));
        }
        options = options.with_tls(tls);
    } else if !endpoint.starts_with("http://") {
        return Err(refuse("want http://host:port or https://host:port".into()));
    }
    etcd::Client::connect([endpoint], Some(options)).await.map_err(|error| match classify(&error, &About::default()) {
        Failure::Answer(error) => refuse(error.to_string()),
        Failure::NotDone(detail) | Failure::Unclear(detail) => refuse(detail),
    })
}

/// How a request that failed without an answer is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// It changes nothing, or nothing more when done twice.
    Harmless,
    OnlyIfNotDone,
}

impl Cluster {
    fn note(&self, revision: Revision) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
    }

    fn note_compacted(&self, revision: Revision) {
        self.compacted.fetch_max(revision, Ordering::AcqRel);
    }

    fn about(&self) -> About {
        About {
            revision: self.revision.load(Ordering::Acquire),
            compacted: self.compacted.load(Ordering::Acquire),
            limit: self.max_request_bytes,
            ..About::default()
        }
    }

    async fn read<T, F>(&self, send: impl Fn(etcd::Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, etcd::Error>>,
    {
        self.call(Again::Harmless, &self.about(), send).await
    }

    /// Sends a request to the current member, and to others while it fails and may be sent again.
    async fn call<T, F>(&self, again: Again, about: &About, send: impl Fn(etcd::Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, etcd::Error>>,
    {
        const FIRST_PAUSE: Duration = Duration::from_millis(20);
        let end = self.clock.instant() + self.timeout;
        let (mut pause, mut tries) = (FIRST_PAUSE, 0);
        loop {
            let at = self.current.load(Ordering::Acquire);
            let left = end.saturating_duration_since(self.clock.instant());
            // With other members to ask, one that hangs does not get all the time.
            let patience = if self.members.len() > 1 && again == Again::Harmless { left / 2 } else { left };
            let failure = tokio::select! {
                answer = send(self.members[at].clone()) => match answer {
                    Ok(answer) => return Ok(answer),
                    Err(error) => classify(&error, about),
                },
                () = self.clock.sleep(patience) => Failure::Unclear(format!("no answer within {patience:?}")),
                () = self.tasks.token().cancelled() => return Err(Error::Closed),
            };
            let (detail, done) = match failure {
                Failure::Answer(error) => return Err(error),
                Failure::NotDone(detail) => (detail, false),
                Failure::Unclear(detail) => (detail, true),
            };
            debug!(member = at, detail, "a request failed");
            // Only the first to notice moves everybody on.
            let next = (at + 1) % self.members.len();
            self.current.compare_exchange(at, next, Ordering::AcqRel, Ordering::Acquire).ok();
            if done && again == Again::OnlyIfNotDone {
                return Err(Error::Unknown { detail });
            }
            tries += 1;
            if end.saturating_duration_since(self.clock.instant()) <= pause {
                return Err(Error::Unavailable { detail });
            }
            if tries % self.members.len() == 0 {
                tokio::select! {
                    () = self.clock.sleep(pause) => {}
                    () = self.tasks.token().cancelled() => return Err(Error::Closed),
                }
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }

    async fn range(&self, request: &RangeRequest) -> Result<RangeResponse> {
        let get = |client: etcd::Client| {
            let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
            let (key, options) = (request.range.start.to_vec(), convert::get(request));
            async move { kv.get(key, Some(options)).await }
        };
        match self.read(get).await {
            Ok(response) => Ok(convert::range_response(response)),
            Err(error) => Err(self.dated(error).await),
        }
    }

    /// etcd does not say at which revision the store was compacted.
    async fn dated(&self, error: Error) -> Error {
        if !matches!(error, Error::Compacted { .. }) {
            return error;
        }
        if let Ok(compacted) = self.read(watch::find_compacted).await {
            self.note_compacted(compacted);
        }
        Error::Compacted { compacted: self.compacted.load(Ordering::Acquire) }
    }

    /// All of a range, a page at a time, all of one revision.
    async fn pages(&self, request: &RangeRequest) -> Result<RangeResponse> {
        let mut page = request.clone().limit(PAGE);
        let mut all = self.range(&page).await?;
        if !all.more {
            return Ok(all);
        }
        page.revision = if request.revision > 0 { request.revision } else { all.revision };
        all.kvs.reserve(all.count.saturating_sub(all.kvs.len()));
        while let Some(last) = all.kvs.last() {
            page.range.start = [&last.key[..], &[0]].concat().into();
            let next = self.range(&page).await?;
            all.kvs.extend(next.kvs);
            if !next.more {
                break;
            }
        }
        all.more = false;
        Ok(all)
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        let compact = |client: etcd::Client| async move { client.kv_client().compact(revision, None).await };
        match self.call(Again::Harmless, &self.about(), compact).await {
            Ok(_) => {
                self.note_compacted(revision);
                Ok(())
            }
            Err(error) => Err(self.dated(error).await),
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse> {
        if request.range.start.is_empty() {
            return Err(Error::EmptyKey);
        }
        let plain = request.limit == 0 && !request.count_only && !request.range.end.is_empty();
        let in_order = request
            == RangeRequest {
                keys_only: request.keys_only,
                revision: request.revision,
                ..RangeRequest::of(request.range.clone())
            };
        if plain && in_order { self.cluster.pages(&request).await } else { self.cluster.range(&request).await }
    }

    async fn txn(&self, request: TxnRequest) -> Result<TxnResponse> {
        apply::validate(&request, self.cluster.max_request_bytes)?;
        let (bytes, lease) = convert::puts(&request);
        let about = About { bytes, lease: lease.unwrap_or_default(), ..self.cluster.about() };
        let send = |client: etcd::Client| {
            let txn = convert::txn(&request);
            async move { client.kv_client().max_decoding_message_size(MAX_MESSAGE).txn(txn).await }
        };
        let response = match self.cluster.call(Again::OnlyIfNotDone, &about, send).await {
            Ok(response) => convert::txn_response(&response),
            Err(error) => return Err(self.cluster.dated(error).await),
        };
        let ops = if response.succeeded { &request.success } else { &request.failure };
        // What only read has the revision of whatever was written last, by whomever (EB-3).
        if ops.iter().any(|op| !matches!(op, crate::Op::Range(_))) {
            self.cluster.note(response.revision);
        }
        Ok(response)
    }

    async fn watch(&self, request: WatchRequest) -> Result<Watcher> {
        watch::open(&self.cluster, request).await
    }

    async fn compact(&self, revision: Revision) -> Result<()> {
        self.cluster.compact(revision).await
    }

    async fn lease_grant(&self, id: LeaseId, ttl_seconds: i64) -> Result<Lease> {
        let about = About { lease: id, ..self.cluster.about() };
        let grant = |client: etcd::Client| async move {
            let options = etcd::LeaseGrantOptions::new().with_id(id);
            client.lease_client().grant(ttl_seconds, Some(options)).await
        };
        let granted = self.cluster.call(Again::OnlyIfNotDone, &about, grant).await?;
        Ok(Lease { id: granted.id(), ttl_seconds: granted.ttl() })
    }

    async fn lease_revoke(&self, id: LeaseId) -> Result<Revision> {
        let about = About { lease: id, ..self.cluster.about() };
        let revoke = |client: etcd::Client| async move { client.lease_client().revoke(id).await };
        let revoked = self.cluster.call(Again::OnlyIfNotDone, &about, revoke).await?;
        let revision = convert::revision(revoked.header());
        self.cluster.note(revision);
        Ok(revision)
    }

    async fn lease_keep_alive(&self, id: LeaseId) -> Result<Lease> {
        let about = About { lease: id, ..self.cluster.about() };
        let renew = |client: etcd::Client| async move {
            // The first answer of the stream is not passed on, and the time granted is in the answer.
            let (mut keeper, mut answers) = client.lease_client().keep_alive(id).await?;
            keeper.keep_alive().await?;
            answers.message().await
        };
        match self.cluster.call(Again::Harmless, &about, renew).await? {
            Some(answer) if answer.ttl() > 0 => Ok(Lease { id, ttl_seconds: answer.ttl() }),
            _ => Err(Error::LeaseNotFound(id)),
        }
    }

    async fn lease_time_to_live(&self, id: LeaseId) -> Result<LeaseStatus> {
        let ask = |client: etcd::Client| async move {
            let options = etcd::LeaseTimeToLiveOptions::new().with_keys();
            client.lease_client().time_to_live(id, Some(options)).await
        };
        let answer = self.cluster.read(ask).await?;
        Ok(LeaseStatus {
            lease: Lease { id, ttl_seconds: answer.granted_ttl().max(0) },
            remaining_seconds: answer.ttl(),
            keys: answer.keys().iter().map(|key| bytes::Bytes::copy_from_slice(key)).collect(),
        })
    }

    async fn leases(&self) -> Result<Vec<LeaseId>> {
        let ask = |client: etcd::Client| async move { client.lease_client().leases().await };
        let answer = self.cluster.read(ask).await?;
        Ok(answer.leases().iter().map(etcd::LeaseStatus::id).collect())
    }

    fn revision(&self) -> Revision {
        self.cluster.revision.load(Ordering::Acquire)
    }

    fn compacted_revision(&self) -> Revision {
        self.cluster.compacted.load(Ordering::Acquire)
    }

    async fn size(&self) -> Result<StoreSize> {
        let ask = |client: etcd::Client| async move { client.maintenance_client().status().await };
        let status = self.cluster.read(ask).await?;
        let size = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
        Ok(StoreSize { bytes: size(status.db_size()), bytes_in_use: size(status.raft_used_db_size()) })
    }

    async fn close(&self) -> Result<()> {
        self.cluster.tasks.stop().await;
        Ok(())
    }
}

/// Whether there is more to do: false once the store is closed.
async fn compact_to(cluster: &Cluster, revision: Revision) -> bool {
    if revision <= cluster.compacted.load(Ordering::Acquire) {
        return true;
    }
    match cluster.compact(revision).await {
        Ok(()) => info!(revision, "compacted automatically"),
        // Another server was faster.
        Err(Error::Compacted { .. }) => {}
        Err(Error::Closed) => return false,
        Err(error) => warn!(%error, revision, "automatic compaction failed"),
    }
    true
}

async fn compact_by_time(cluster: Arc<Cluster>, keep: Duration) {
    loop {
        let then = cluster.revision.load(Ordering::Acquire);
        cluster.clock.sleep(keep).await;
        if !compact_to(&cluster, then).await {
            return;
        }
    }
}

async fn compact_by_count(cluster: Arc<Cluster>, keep: i64) {
    loop {
        cluster.clock.sleep(Duration::from_secs(60)).await;
        if !compact_to(&cluster, cluster.revision.load(Ordering::Acquire) - keep).await {
            return;
        }
    }
}
