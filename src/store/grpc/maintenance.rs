//! The Maintenance service.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures::Stream;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tonic::{Request, Response, Status};

use super::pb::etcdserverpb as pb;
use super::pb::etcdserverpb::alarm_request::AlarmAction;
use super::pb::etcdserverpb::downgrade_request::DowngradeAction;
use super::pb::etcdserverpb::maintenance_server::Maintenance;
use super::{CLUSTER_VERSION, Face, RAFT_TERM, VERSION, errors};
use crate::Alarm;

type Snapshots = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

/// Bytes of a snapshot in one message.
const CHUNK: usize = 64 << 10;

#[tonic::async_trait]
impl Maintenance for Face {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let request = request.into_inner();
        let mine = self.identity.member_id;
        let alarms = |found: Vec<Alarm>| {
            let member = |alarm| pb::AlarmMember { member_id: mine, alarm: wire(alarm) as i32 };
            found.into_iter().map(member).collect::<Vec<_>>()
        };
        let named = match pb::AlarmType::try_from(request.alarm) {
            Ok(pb::AlarmType::Nospace) => Some(Alarm::NoSpace),
            Ok(pb::AlarmType::Corrupt) => Some(Alarm::Corrupt),
            _ => None,
        };
        let known = self.store.alarms();
        let changed = match AlarmAction::try_from(request.action) {
            Ok(AlarmAction::Get) => known.into_iter().filter(|alarm| named.is_none_or(|n| n == *alarm)).collect(),
            Ok(AlarmAction::Activate) => match named {
                Some(alarm) => {
                    self.store.set_alarm(alarm, true).await.map_err(errors::status)?;
                    vec![alarm]
                }
                None => Vec::new(),
            },
            Ok(AlarmAction::Deactivate) => match named {
                Some(alarm) if known.contains(&alarm) && [0, mine].contains(&request.member_id) => {
                    self.store.set_alarm(alarm, false).await.map_err(errors::status)?;
                    vec![alarm]
                }
                _ => Vec::new(),
            },
            Err(_) => Vec::new(),
        };
        Ok(Response::new(pb::AlarmResponse { header: self.header(), alarms: alarms(changed) }))
    }

    async fn status(&self, _request: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let size = self.store.size().await.map_err(errors::status)?;
        let revision = self.store.revision();
        let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        let errors = self.store.alarms().into_iter();
        let errors =
            errors.map(|alarm| format!("memberID:{} alarm:{} ", self.identity.member_id, wire(alarm).as_str_name()));
        Ok(Response::new(pb::StatusResponse {
            header: self.header_at(revision),
            version: VERSION.to_owned(),
            db_size: bytes(size.bytes),
            leader: self.identity.member_id,
            raft_index: revision.unsigned_abs(),
            raft_term: RAFT_TERM,
            raft_applied_index: revision.unsigned_abs(),
            errors: errors.collect(),
            db_size_in_use: bytes(size.bytes_in_use),
            is_learner: false,
            storage_version: CLUSTER_VERSION.to_owned(),
            db_size_quota: bytes(self.store.quota().unwrap_or(0)),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        _request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        self.store.defragment().await.map_err(errors::status)?;
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, _request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let hash = self.store.hash().await.map_err(errors::status)?;
        Ok(Response::new(pb::HashResponse { header: self.header(), hash }))
    }

    async fn hash_kv(&self, request: Request<pb::HashKvRequest>) -> Result<Response<pb::HashKvResponse>, Status> {
        let hash = self.store.hash_kv(request.into_inner().revision).await.map_err(errors::status)?;
        Ok(Response::new(pb::HashKvResponse {
            header: self.header_at(hash.current),
            hash: hash.hash,
            // etcd's store has been compacted at -1 until it is compacted.
            compact_revision: if hash.compacted == 0 { -1 } else { hash.compacted },
            hash_revision: hash.revision,
        }))
    }

    type SnapshotStream = Snapshots;

    async fn snapshot(&self, _request: Request<pb::SnapshotRequest>) -> Result<Response<Snapshots>, Status> {
        let backup = self.store.backup().await.map_err(errors::status)?;
        let stream = Sending {
            header: self.header_at(backup.revision),
            file: tokio::fs::File::from_std(backup.file),
            left: backup.bytes,
            hash: Some(Sha256::new()),
        };
        Ok(Response::new(Box::pin(futures::stream::try_unfold(stream, Sending::next))))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        if request.into_inner().target_id != self.identity.member_id {
            return Err(Status::failed_precondition("etcdserver: bad leader transferee"));
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        let request = request.into_inner();
        let well_formed = |version: &str| {
            let parts: Vec<&str> = version.split('.').collect();
            (2..=3).contains(&parts.len()) && parts.iter().all(|part| part.parse::<u32>().is_ok())
        };
        match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Cancel) => Err(Status::failed_precondition("etcdserver: no inflight downgrade job")),
            Ok(_) if !well_formed(&request.version) => {
                Err(Status::invalid_argument("etcdserver: wrong downgrade target version format"))
            }
            // There is no older format to go back to.
            Ok(_) => Err(Status::invalid_argument("etcdserver: invalid downgrade target version")),
            Err(_) => Err(Status::invalid_argument("etcdserver: unknown method")),
        }
    }
}

fn wire(alarm: Alarm) -> pb::AlarmType {
    match alarm {
        Alarm::NoSpace => pb::AlarmType::Nospace,
        Alarm::Corrupt => pb::AlarmType::Corrupt,
    }
}

/// A snapshot on its way: the file, and then its SHA-256.
struct Sending {
    header: Option<pb::ResponseHeader>,
    file: tokio::fs::File,
    left: u64,
    /// Gone when it has been sent.
    hash: Option<Sha256>,
}

impl Sending {
    async fn next(mut self) -> Result<Option<(pb::SnapshotResponse, Self)>, Status> {
        let Some(hash) = &mut self.hash else { return Ok(None) };
        let blob = if self.left > 0 {
            let mut chunk = BytesMut::zeroed(CHUNK.min(usize::try_from(self.left).unwrap_or(CHUNK)));
            let read = self.file.read_exact(&mut chunk).await;
            read.map_err(|error| Status::unknown(format!("etcdserver: reading the snapshot: {error}")))?;
            hash.update(&chunk);
            self.left -= chunk.len() as u64;
            chunk.freeze()
        } else {
            let sum = self.hash.take().map(|hash| hash.finalize().to_vec()).unwrap_or_default();
            Bytes::from(sum)
        };
        let response = pb::SnapshotResponse {
            header: self.header,
            remaining_bytes: self.left,
            blob,
            version: CLUSTER_VERSION.to_owned(),
        };
        Ok(Some((response, self)))
    }
}
