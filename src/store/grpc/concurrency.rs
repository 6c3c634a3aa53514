//! The Lock and Election services: recipes on keys, which etcd's client libraries use too and can be mixed with.
//!
//! Everyone who wants a name puts a key `<name>/<lease in hex>`; who has the oldest has the name, the others wait for
//! the key before theirs to go.
//!
//! Invariants:
//! - GC-1: whoever stops waiting leaves no key behind.

use std::pin::Pin;
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::Stream;
use tonic::{Request, Response, Status};

use super::pb::etcdserverpb::ResponseHeader;
use super::pb::v3electionpb as ep;
use super::pb::v3electionpb::election_server::Election;
use super::pb::v3lockpb as lp;
use super::pb::v3lockpb::lock_server::Lock;
use super::{Face, convert, errors};
use crate::{
    Compare, CompareResult, CompareTarget, Error, EventKind, KeyRange, KeyValue, LeaseId, Op, OpResponse, PutRequest,
    RangeRequest, Revision, SortTarget, TxnRequest, WatchRequest, Watcher,
};

/// Of a session without a lease of its own, as etcd's, in seconds.
const SESSION_TTL: i64 = 60;

type Leaders = Pin<Box<dyn Stream<Item = Result<ep::LeaderResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Lock for Face {
    async fn lock(&self, request: Request<lp::LockRequest>) -> Result<Response<lp::LockResponse>, Status> {
        let lp::LockRequest { name, lease } = request.into_inner();
        let claim = Claim::make(self.share(), &name, lease, Bytes::new(), false).await?;
        claim.wait().await?;
        if !claim.holds().await? {
            return Err(Status::unknown("mutex: session is expired"));
        }
        let key = claim.keep();
        Ok(Response::new(lp::LockResponse { header: self.header(), key }))
    }

    async fn unlock(&self, request: Request<lp::UnlockRequest>) -> Result<Response<lp::UnlockResponse>, Status> {
        let key = request.into_inner().key;
        if key.is_empty() {
            return Err(status(Error::EmptyKey));
        }
        let delete = Op::Delete { range: KeyRange::key(key), prev_kv: false };
        let response = self.store.txn(TxnRequest::ops(vec![delete])).await.map_err(status)?;
        Ok(Response::new(lp::UnlockResponse { header: self.header_at(response.revision) }))
    }
}

#[tonic::async_trait]
impl Election for Face {
    async fn campaign(&self, request: Request<ep::CampaignRequest>) -> Result<Response<ep::CampaignResponse>, Status> {
        let ep::CampaignRequest { name, lease, value } = request.into_inner();
        let claim = Claim::make(self.share(), &name, lease, convert::own(&value), true).await?;
        claim.wait().await?;
        let (rev, lease) = (claim.created, claim.lease);
        let leader = Some(ep::LeaderKey { name, key: claim.keep(), rev, lease });
        Ok(Response::new(ep::CampaignResponse { header: self.header(), leader }))
    }

    async fn proclaim(&self, request: Request<ep::ProclaimRequest>) -> Result<Response<ep::ProclaimResponse>, Status> {
        let ep::ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader.ok_or_else(leader_missing)?;
        let key = convert::own(&leader.key);
        let put = PutRequest { lease: leader.lease, ..PutRequest::new(key.clone(), convert::own(&value)) };
        let header = self.as_leader(key, leader.rev, Op::Put(put)).await?;
        Ok(Response::new(ep::ProclaimResponse { header: header.ok_or_else(not_leader)?.into() }))
    }

    async fn leader(&self, request: Request<ep::LeaderRequest>) -> Result<Response<ep::LeaderResponse>, Status> {
        let (revision, first) = self.first(&below(&request.into_inner().name)).await?;
        let kv = first.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(ep::LeaderResponse { header: self.header_at(revision), kv: Some(kv.into()) }))
    }

    type ObserveStream = Leaders;

    async fn observe(&self, request: Request<ep::LeaderRequest>) -> Result<Response<Leaders>, Status> {
        let observer = Observer { face: self.share(), names: below(&request.into_inner().name), following: None };
        Ok(Response::new(Box::pin(futures::stream::try_unfold(observer, Observer::next))))
    }

    async fn resign(&self, request: Request<ep::ResignRequest>) -> Result<Response<ep::ResignResponse>, Status> {
        let leader = request.into_inner().leader.ok_or_else(leader_missing)?;
        let delete = Op::Delete { range: KeyRange::key(leader.key.clone()), prev_kv: false };
        // Who is no longer the leader has nothing to resign from.
        let header = self.as_leader(leader.key, leader.rev, delete).await?.or_else(|| self.header());
        Ok(Response::new(ep::ResignResponse { header }))
    }
}

/// These services are clients of the others in etcd: the code is lost on the way.
fn status(error: Error) -> Status {
    Status::unknown(errors::status(error).message())
}

fn leader_missing() -> Status {
    Status::unknown("\"leader\" field must be provided")
}

fn not_leader() -> Status {
    Status::unknown("election: not leader")
}

/// The keys of those who want `name`.
fn below(name: &[u8]) -> KeyRange {
    let mut prefix = BytesMut::with_capacity(name.len() + 1);
    prefix.put(name);
    prefix.put_u8(b'/');
    KeyRange::prefix(prefix.freeze())
}

impl Face {
    /// Does `op` if `key` is still the one created at `revision`.
    async fn as_leader(&self, key: Bytes, revision: Revision, op: Op) -> Result<Option<ResponseHeader>, Status> {
        if key.is_empty() {
            return Err(status(Error::EmptyKey));
        }
        let compares = vec![created_at(key, revision)];
        let request = TxnRequest { compares, success: vec![op], failure: Vec::new() };
        let response = self.store.txn(request).await.map_err(status)?;
        Ok(self.header_at(response.revision).filter(|_| response.succeeded))
    }

    /// The oldest key of `names`.
    async fn first(&self, names: &KeyRange) -> Result<(Revision, Option<KeyValue>), Status> {
        let request = RangeRequest { sort: SortTarget::Create, limit: 1, ..RangeRequest::of(names.clone()) };
        let response = self.store.range(request).await.map_err(status)?;
        Ok((response.revision, response.kvs.into_iter().next()))
    }

    async fn follow(&self, range: KeyRange, start_revision: Revision) -> Result<Watcher, Status> {
        let request = WatchRequest { range, start_revision, progress: false };
        self.store.watch(request).await.map_err(status)
    }
}

fn created_at(key: Bytes, revision: Revision) -> Compare {
    let (target, result) = (CompareTarget::Create(revision), CompareResult::Equal);
    Compare { range: KeyRange::key(key), target, result }
}

/// A key that waits for a name. Dropping it gives the name up.
struct Claim {
    face: Arc<Face>,
    names: KeyRange,
    key: Bytes,
    lease: LeaseId,
    created: Revision,
    kept: bool,
}

impl Claim {
    /// Puts the key, or finds it there; `renew`: with the new value then.
    async fn make(face: Arc<Face>, name: &[u8], lease: LeaseId, value: Bytes, renew: bool) -> Result<Self, Status> {
        let lease = match lease {
            0 => face.store.lease_grant(0, SESSION_TTL).await.map_err(status)?.id,
            lease => lease,
        };
        let names = below(name);
        let mut key = names.start.to_vec();
        let sign = if lease < 0 { "-" } else { "" };
        key.extend(format!("{sign}{:x}", lease.unsigned_abs()).as_bytes());
        let key = Bytes::from(key);
        let put = Op::Put(PutRequest { lease, ..PutRequest::new(key.clone(), value.clone()) });
        let get = Op::Range(RangeRequest::of(KeyRange::key(key.clone())));
        let request = TxnRequest { compares: vec![created_at(key.clone(), 0)], success: vec![put], failure: vec![get] };
        let response = face.store.txn(request).await.map_err(status)?;
        let found = match response.responses.into_iter().next() {
            Some(OpResponse::Range(range)) => range.kvs.into_iter().next(),
            _ => None,
        };
        let created = found.as_ref().map_or(response.revision, |kv| kv.create_revision);
        let claim = Self { face, names, key, lease, created, kept: false };
        if renew && found.is_some_and(|kv| kv.value != value) {
            let put = Op::Put(PutRequest { lease, ..PutRequest::new(claim.key.clone(), value) });
            claim.face.as_leader(claim.key.clone(), created, put).await?.ok_or_else(not_leader)?;
        }
        Ok(claim)
    }

    /// Returns when no key is older.
    async fn wait(&self) -> Result<(), Status> {
        loop {
            let request = RangeRequest {
                max_create_revision: self.created - 1,
                sort: SortTarget::Create,
                descending: true,
                limit: 1,
                ..RangeRequest::of(self.names.clone())
            };
            let response = self.face.store.range(request).await.map_err(status)?;
            let Some(before) = response.kvs.into_iter().next() else { return Ok(()) };
            let mut watcher = self.face.follow(KeyRange::key(before.key), response.revision + 1).await?;
            loop {
                let batch = watcher.batches.recv().await.unwrap_or(Err(Error::Closed)).map_err(status)?;
                if batch.events.iter().any(|event| event.kind == EventKind::Delete) {
                    break;
                }
            }
        }
    }

    async fn holds(&self) -> Result<bool, Status> {
        let kv = self.face.store.get(&self.key).await.map_err(status)?;
        Ok(kv.is_some_and(|kv| kv.create_revision == self.created))
    }

    fn keep(mut self) -> Bytes {
        self.kept = true;
        self.key.clone()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let (face, key, created) = (Arc::clone(&self.face), self.key.clone(), self.created);
        let tasks = face.tasks.clone();
        tasks.spawn(async move {
            let delete = Op::Delete { range: KeyRange::key(key.clone()), prev_kv: false };
            // If the store is closed the lease will see to it.
            face.as_leader(key, created, delete).await.ok();
        });
    }
}

/// Tells who leads, whenever that or what it proclaims changes.
struct Observer {
    face: Arc<Face>,
    names: KeyRange,
    /// The leader's key is being watched.
    following: Option<Following>,
}

struct Following {
    watcher: Watcher,
    /// Events that are still to be looked at.
    events: std::vec::IntoIter<Arc<crate::Event>>,
    revision: Revision,
}

impl Observer {
    async fn next(mut self) -> Result<Option<(ep::LeaderResponse, Self)>, Status> {
        loop {
            let (revision, kv) = match &mut self.following {
                None => self.find().await?,
                Some(following) => match following.next().await? {
                    Some(found) => found,
                    None => {
                        self.following = None;
                        continue;
                    }
                },
            };
            let response = ep::LeaderResponse { header: self.face.header_at(revision), kv: Some(kv.into()) };
            return Ok(Some((response, self)));
        }
    }

    /// Waits for a leader and begins to follow it.
    async fn find(&mut self) -> Result<(Revision, KeyValue), Status> {
        loop {
            let (revision, first) = self.face.first(&self.names).await?;
            if let Some(kv) = first {
                let watcher = self.face.follow(KeyRange::key(kv.key.clone()), revision + 1).await?;
                self.following = Some(Following { watcher, events: Vec::new().into_iter(), revision });
                return Ok((revision, kv));
            }
            let mut watcher = self.face.follow(self.names.clone(), revision + 1).await?;
            watcher.batches.recv().await.unwrap_or(Err(Error::Closed)).map_err(status)?;
        }
    }
}

impl Following {
    /// What the leader proclaims next; `None`: it leads no more.
    async fn next(&mut self) -> Result<Option<(Revision, KeyValue)>, Status> {
        loop {
            if let Some(event) = self.events.next() {
                return Ok(match event.kind {
                    EventKind::Put => Some((self.revision, event.kv.clone())),
                    EventKind::Delete => None,
                });
            }
            let batch = self.watcher.batches.recv().await.unwrap_or(Err(Error::Closed)).map_err(status)?;
            self.revision = batch.revision;
            self.events = batch.events.into_iter();
        }
    }
}
