//! The same requests to a real etcd and to ours: the same answers, down to revisions, codes and texts.
//!
//! Debian's etcd is 3.4; where 3.5 and 3.6 answer otherwise we do as they do. The exceptions are named in `excused`.

use std::fmt::Debug;

use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use super::*;

#[derive(Debug, Clone)]
enum Call {
    Range(pb::RangeRequest),
    Put(pb::PutRequest),
    Delete(pb::DeleteRangeRequest),
    Txn(pb::TxnRequest),
    Compact(pb::CompactionRequest),
    Grant(pb::LeaseGrantRequest),
    Revoke(pb::LeaseRevokeRequest),
    Ttl(pb::LeaseTimeToLiveRequest),
    Leases,
    HashKv(pb::HashKvRequest),
    MoveLeader(u64),
    MemberRemove(u64),
    MemberAdd(&'static str),
    UserGet,
    RoleGet,
    Users,
    Roles,
    Authenticate,
    AuthEnable,
    AuthDisable,
    Alarm(pb::AlarmRequest),
    Unlock(&'static str),
    Leader(&'static str),
    Proclaim,
    Unknown,
}

impl Call {
    async fn run(&self, client: &Client) -> String {
        match self.clone() {
            Self::Range(q) => show::<pb::RangeResponse>(client.unary(RANGE, q).await),
            Self::Put(q) => show::<pb::PutResponse>(client.unary(PUT, q).await),
            Self::Delete(q) => show::<pb::DeleteRangeResponse>(client.unary(DELETE, q).await),
            Self::Txn(q) => show::<pb::TxnResponse>(client.unary(TXN, q).await),
            Self::Compact(q) => show::<pb::CompactionResponse>(client.unary(COMPACT, q).await),
            Self::Grant(q) => show::<pb::LeaseGrantResponse>(client.unary(GRANT, q).await),
            Self::Revoke(q) => show::<pb::LeaseRevokeResponse>(client.unary(REVOKE, q).await),
            Self::Ttl(q) => {
                let mut answer = client.unary::<_, pb::LeaseTimeToLiveResponse>(TTL, q).await;
                if let Ok(answer) = &mut answer {
                    answer.keys.sort();
                    // Seconds may pass.
                    answer.ttl = answer.ttl.min(1);
                }
                show(answer)
            }
            Self::Leases => {
                let mut answer = client.unary::<_, pb::LeaseLeasesResponse>(LEASES, pb::LeaseLeasesRequest {}).await;
                if let Ok(answer) = &mut answer {
                    answer.leases.sort_by_key(|lease| lease.id);
                }
                show(answer)
            }
            Self::HashKv(q) => {
                let mut answer = client.unary::<_, pb::HashKvResponse>(HASH_KV, q).await;
                if let Ok(answer) = &mut answer {
                    // New in 3.6.
                    answer.hash_revision = 0;
                }
                show(answer)
            }
            Self::MoveLeader(target_id) => show::<pb::MoveLeaderResponse>(
                client.unary("/etcdserverpb.Maintenance/MoveLeader", pb::MoveLeaderRequest { target_id }).await,
            ),
            Self::MemberRemove(id) => show::<pb::MemberRemoveResponse>(
                client.unary("/etcdserverpb.Cluster/MemberRemove", pb::MemberRemoveRequest { id }).await,
            ),
            Self::MemberAdd(url) => {
                let request = pb::MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner: false };
                show::<pb::MemberAddResponse>(client.unary("/etcdserverpb.Cluster/MemberAdd", request).await)
            }
            Self::UserGet => {
                let request = pb::AuthUserGetRequest { name: "nobody".into() };
                show::<pb::AuthUserGetResponse>(client.unary("/etcdserverpb.Auth/UserGet", request).await)
            }
            Self::RoleGet => {
                let request = pb::AuthRoleGetRequest { role: "nothing".into() };
                show::<pb::AuthRoleGetResponse>(client.unary("/etcdserverpb.Auth/RoleGet", request).await)
            }
            Self::Users => show::<pb::AuthUserListResponse>(
                client.unary("/etcdserverpb.Auth/UserList", pb::AuthUserListRequest {}).await,
            ),
            Self::Roles => show::<pb::AuthRoleListResponse>(
                client.unary("/etcdserverpb.Auth/RoleList", pb::AuthRoleListRequest {}).await,
            ),
            Self::Authenticate => {
                let request = pb::AuthenticateRequest { name: "a".into(), password: "b".into() };
                show::<pb::AuthenticateResponse>(client.unary("/etcdserverpb.Auth/Authenticate", request).await)
            }
            Self::AuthEnable => show::<pb::AuthEnableResponse>(
                client.unary("/etcdserverpb.Auth/AuthEnable", pb::AuthEnableRequest {}).await,
            ),
            Self::AuthDisable => show::<pb::AuthDisableResponse>(
                client.unary("/etcdserverpb.Auth/AuthDisable", pb::AuthDisableRequest {}).await,
            ),
            Self::Alarm(q) => {
                let mut answer = client.unary::<_, pb::AlarmResponse>("/etcdserverpb.Maintenance/Alarm", q).await;
                if let Ok(answer) = &mut answer {
                    // New in 3.5.
                    answer.header = None;
                    answer.alarms.iter_mut().for_each(|alarm| alarm.member_id = 0);
                }
                show(answer)
            }
            Self::Unlock(key) => {
                let request = super::super::pb::v3lockpb::UnlockRequest { key: key.into() };
                show::<super::super::pb::v3lockpb::UnlockResponse>(client.unary("/v3lockpb.Lock/Unlock", request).await)
            }
            Self::Leader(name) => {
                let request = super::super::pb::v3electionpb::LeaderRequest { name: name.into() };
                show::<super::super::pb::v3electionpb::LeaderResponse>(
                    client.unary("/v3electionpb.Election/Leader", request).await,
                )
            }
            Self::Proclaim => {
                let request = super::super::pb::v3electionpb::ProclaimRequest::default();
                show::<super::super::pb::v3electionpb::ProclaimResponse>(
                    client.unary("/v3electionpb.Election/Proclaim", request).await,
                )
            }
            Self::Unknown => {
                show::<pb::StatusResponse>(client.unary("/nothing.Here/AtAll", pb::StatusRequest {}).await)
            }
        }
    }
}

/// Without what is different in every cluster.
fn show<A: Debug + Message>(answer: Result<A, Status>) -> String {
    match answer {
        Ok(answer) => {
            let text = format!("{answer:?}");
            let mut out = String::new();
            let mut rest = text.as_str();
            while let Some(at) = rest.find("cluster_id: ") {
                out.push_str(&rest[..at]);
                rest = &rest[at..];
                let skip = rest.find("revision: ").unwrap();
                rest = &rest[skip..];
                let end = rest.find(", raft_term: ").unwrap();
                out.push_str(&rest[..end]);
                let close = rest[end..].find('}').unwrap();
                rest = &rest[end + close..];
            }
            out.push_str(rest);
            out
        }
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

/// Where 3.5 and later answer otherwise than 3.4.
fn excused(call: &Call, theirs: &str, ours: &str) -> bool {
    match call {
        // A cluster of one with a peer URL can grow; ours cannot.
        Call::MemberAdd(_) => ours.contains("not enough started members"),
        // The text is that of 3.4's library.
        Call::Unknown => theirs.starts_with("Unimplemented") && ours.starts_with("Unimplemented"),
        _ => false,
    }
}

async fn compare(real: &Client, ours: &Client, calls: impl Iterator<Item = Call>) {
    let mut problems = Vec::new();
    let mut before = None;
    for (i, call) in calls.enumerate() {
        let (theirs, mine) = tokio::join!(call.run(real), call.run(ours));
        if theirs != mine && !excused(&call, &theirs, &mine) {
            problems.push(format!("{i} {call:?}\n  etcd:  {theirs}\n  kedge: {mine}"));
        }
        if problems.len() > 12 || theirs.starts_with("Unavailable") {
            println!("after {before:?}");
            break;
        }
        before = Some(call);
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn compare_op(key: &str, target: CompareTarget, result: CompareResult, union: Option<TargetUnion>) -> pb::Compare {
    pb::Compare {
        result: result as i32,
        target: target as i32,
        key: key.to_owned().into(),
        range_end: Bytes::new(),
        target_union: union,
    }
}

/// Random requests over few keys, so that they meet.
struct Random(StdRng, i64);

impl Random {
    fn key(&mut self) -> Bytes {
        const KEYS: [&str; 9] = ["a", "b", "b/", "b/c", "c", "d", "e", "ea", "f"];
        Bytes::from_static(KEYS[self.0.random_range(0..KEYS.len())].as_bytes())
    }

    fn end(&mut self) -> Bytes {
        match self.0.random_range(0..10) {
            0..4 => Bytes::new(),
            4 => Bytes::from_static(&[0]),
            _ => self.key(),
        }
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.0.random_range(0..n) == 0
    }

    fn revision(&mut self) -> i64 {
        self.1 += 1;
        self.0.random_range(-1..=self.1 / 2 + 3)
    }

    fn range(&mut self) -> pb::RangeRequest {
        // Another target ends etcd 3.4; orders that leave equals open have no one answer; without an order etcd cuts
        // before it sorts.
        let sort_target = [0, 3, 0][self.0.random_range(0..3)];
        let sort_order = self.0.random_range(i32::from(sort_target != 0)..3);
        pb::RangeRequest {
            key: if self.one_in(40) { Bytes::new() } else { self.key() },
            range_end: self.end(),
            limit: if self.one_in(2) { self.0.random_range(-1..4) } else { 0 },
            revision: if self.one_in(3) { self.revision() } else { 0 },
            // One key for all orders but that of keys would leave the order of equals open.
            sort_order,
            sort_target,
            serializable: self.one_in(2),
            keys_only: self.one_in(4),
            count_only: self.one_in(5),
            min_mod_revision: if self.one_in(6) { self.revision() } else { 0 },
            max_mod_revision: if self.one_in(6) { self.revision() } else { 0 },
            min_create_revision: if self.one_in(6) { self.revision() } else { 0 },
            max_create_revision: if self.one_in(6) { self.revision() } else { 0 },
        }
    }

    fn put(&mut self) -> pb::PutRequest {
        let ignore_value = self.one_in(8);
        let ignore_lease = self.one_in(8);
        let value = format!("v{}", self.0.random_range(0..5));
        pb::PutRequest {
            key: if self.one_in(40) { Bytes::new() } else { self.key() },
            value: if ignore_value && !self.one_in(5) { Bytes::new() } else { value.into() },
            lease: if !self.one_in(4) || ignore_lease && !self.one_in(5) { 0 } else { self.0.random_range(1..5) },
            prev_kv: self.one_in(2),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let key = if self.one_in(40) { Bytes::new() } else { self.key() };
        pb::DeleteRangeRequest { key, range_end: self.end(), prev_kv: self.one_in(2) }
    }

    fn txn(&mut self, depth: u32) -> pb::TxnRequest {
        let compares = self.0.random_range(0..3);
        let compare = (0..compares).map(|_| self.compare()).collect();
        let branch = |random: &mut Self| {
            let ops = random.0.random_range(0..4);
            (0..ops).map(|_| random.op(depth)).collect()
        };
        pb::TxnRequest { compare, success: branch(self), failure: branch(self) }
    }

    fn op(&mut self, depth: u32) -> pb::RequestOp {
        let request = match self.0.random_range(0..12) {
            0..3 => RequestOp::RequestRange(self.range()),
            3..7 => RequestOp::RequestPut(self.put()),
            // Without an end and beside puts, which it does not see as duplicates then, it may end etcd 3.4.
            7..9 => RequestOp::RequestDeleteRange(pb::DeleteRangeRequest { range_end: Bytes::new(), ..self.delete() }),
            _ if depth < 2 => RequestOp::RequestTxn(self.txn(depth + 1)),
            _ => RequestOp::RequestPut(self.put()),
        };
        pb::RequestOp { request: (!self.one_in(60)).then_some(request) }
    }

    fn compare(&mut self) -> pb::Compare {
        let number = if self.one_in(2) { self.revision() } else { self.0.random_range(0..3) };
        let union = match self.0.random_range(0..7) {
            0 => Some(TargetUnion::Version(number)),
            1 => Some(TargetUnion::CreateRevision(number)),
            2 => Some(TargetUnion::ModRevision(number)),
            3 => Some(TargetUnion::Lease(number)),
            4 => Some(TargetUnion::Value(format!("v{}", number.rem_euclid(5)).into())),
            5 => Some(TargetUnion::Version(0)),
            _ => None,
        };
        let fitting = match union {
            Some(TargetUnion::Version(_)) | None => 0,
            Some(TargetUnion::CreateRevision(_)) => 1,
            Some(TargetUnion::ModRevision(_)) => 2,
            Some(TargetUnion::Value(_)) => 3,
            Some(TargetUnion::Lease(_)) => 4,
        };
        pb::Compare {
            result: if self.one_in(40) { 7 } else { self.0.random_range(0..4) },
            target: if self.one_in(10) { self.0.random_range(0..6) } else { fitting },
            key: if self.one_in(60) { Bytes::new() } else { self.key() },
            range_end: if self.one_in(3) { self.end() } else { Bytes::new() },
            target_union: union,
        }
    }

    fn call(&mut self) -> Call {
        match self.0.random_range(0..100) {
            0..24 => Call::Range(self.range()),
            24..46 => Call::Put(self.put()),
            46..56 => Call::Delete(self.delete()),
            56..80 => Call::Txn(self.txn(0)),
            80..83 => Call::Compact(pb::CompactionRequest {
                revision: (self.revision() / 2).max(1),
                physical: self.one_in(2),
            }),
            83..88 => Call::Grant(pb::LeaseGrantRequest { ttl: 600, id: self.0.random_range(1..5) }),
            88..90 => Call::Revoke(pb::LeaseRevokeRequest { id: self.0.random_range(1..6) }),
            90..96 => Call::Ttl(pb::LeaseTimeToLiveRequest { id: self.0.random_range(1..6), keys: true }),
            // Hashes are compared in the chosen requests: after some compactions they differ still (seed 20).
            _ => Call::Leases,
        }
    }
}

async fn both() -> Option<(Real, Ours, Client, Client)> {
    let real = Real::start().await?;
    let ours = Ours::start().await;
    let (theirs, mine) = (Client::connect(real.port).await, ours.client().await);
    Some((real, ours, theirs, mine))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_requests_have_the_same_answers() {
    let Some((_real, ours, theirs, mine)) = both().await else { return };
    // The same requests every time: a difference found by chance belongs to whoever looks for one (KEDGE_SEED=n).
    let seed: u64 = option_env!("KEDGE_SEED").and_then(|seed| seed.parse().ok()).unwrap_or(20);
    println!("KEDGE_SEED={seed}");
    let mut random = Random(StdRng::seed_from_u64(seed), 0);
    compare(&theirs, &mine, std::iter::repeat_with(|| random.call()).take(1500)).await;
    ours.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chosen_requests_have_the_same_answers() {
    let Some((_real, ours, theirs, mine)) = both().await else { return };
    let many = |n: usize, op: &dyn Fn(usize) -> pb::RequestOp| (0..n).map(op).collect::<Vec<_>>();
    let range_op = |_: usize| op(RequestOp::RequestRange(range("a", "")));
    let put_op = |key: &str| op(RequestOp::RequestPut(put(key, "1")));
    let from = |key: &str| op(RequestOp::RequestDeleteRange(delete(key, "\0")));
    let txn = |success: Vec<pb::RequestOp>| pb::TxnRequest { success, ..Default::default() };
    let nested = |success| op(RequestOp::RequestTxn(txn(success)));
    let big = |bytes: usize| pb::PutRequest { key: "big".into(), value: vec![0; bytes].into(), ..Default::default() };
    let target = |target, union| pb::TxnRequest {
        compare: vec![compare_op("a", target, CompareResult::Equal, union)],
        ..Default::default()
    };
    let alarm = |action, alarm| Call::Alarm(pb::AlarmRequest { action, member_id: 0, alarm });
    let calls = vec![
        Call::HashKv(pb::HashKvRequest { revision: 0 }),
        Call::Put(put("a", "1")),
        Call::Put(put("b", "2")),
        Call::Put(put("a", "3")),
        Call::Delete(delete("b", "")),
        Call::Delete(delete("b", "")),
        Call::HashKv(pb::HashKvRequest { revision: 0 }),
        Call::HashKv(pb::HashKvRequest { revision: 3 }),
        Call::HashKv(pb::HashKvRequest { revision: 99 }),
        Call::Range(range("", "")),
        Call::Range(range("\0", "\0")),
        Call::Range(range("b", "a")),
        Call::Range(pb::RangeRequest { revision: 99, ..range("a", "") }),
        Call::Txn(txn(many(128, &range_op))),
        Call::Txn(txn(many(129, &range_op))),
        Call::Txn(txn(vec![nested(many(127, &range_op))])),
        Call::Txn(txn(vec![nested(many(128, &range_op))])),
        Call::Txn(txn(vec![pb::RequestOp { request: None }])),
        Call::Txn(txn(vec![put_op("x"), put_op("x")])),
        Call::Txn(txn(vec![put_op("x"), nested(vec![put_op("x")])])),
        Call::Txn(txn(vec![from("x"), put_op("y")])),
        Call::Txn(txn(vec![put_op("y"), from("x")])),
        Call::Range(range("x", "\0")),
        Call::Txn(txn(vec![put_op("y"), nested(vec![op(RequestOp::RequestRange(range("y", "")))])])),
        Call::Txn(txn(vec![op(RequestOp::RequestRange(pb::RangeRequest { revision: 99, ..range("y", "") }))])),
        Call::Txn(txn(vec![
            put_op("z"),
            op(RequestOp::RequestRange(pb::RangeRequest { revision: 9, ..range("z", "") })),
        ])),
        Call::Txn(target(CompareTarget::Value, Some(TargetUnion::Version(3)))),
        Call::Txn(target(CompareTarget::Version, Some(TargetUnion::Value("3".into())))),
        Call::Txn(target(CompareTarget::Lease, None)),
        Call::Put(big((3 << 19) - 64)),
        Call::Put(big(3 << 19)),
        Call::Txn(txn(vec![op(RequestOp::RequestPut(big(3 << 19)))])),
        Call::Put(big((2 << 20) + 100)),
        Call::Put(pb::PutRequest { lease: 77, ..put("a", "1") }),
        Call::Put(pb::PutRequest { ignore_value: true, ..put("none", "") }),
        Call::Put(pb::PutRequest { ignore_value: true, ..put("a", "x") }),
        Call::Put(pb::PutRequest { ignore_lease: true, lease: 7, ..put("a", "x") }),
        Call::Grant(pb::LeaseGrantRequest { ttl: 100, id: 7 }),
        Call::Grant(pb::LeaseGrantRequest { ttl: 100, id: 7 }),
        Call::Grant(pb::LeaseGrantRequest { ttl: 0, id: 8 }),
        Call::Grant(pb::LeaseGrantRequest { ttl: -5, id: 9 }),
        Call::Grant(pb::LeaseGrantRequest { ttl: 9_000_000_001, id: 10 }),
        Call::Grant(pb::LeaseGrantRequest { ttl: 100, id: -11 }),
        Call::Revoke(pb::LeaseRevokeRequest { id: 99 }),
        Call::Revoke(pb::LeaseRevokeRequest { id: 0 }),
        Call::Ttl(pb::LeaseTimeToLiveRequest { id: 99, keys: true }),
        Call::Ttl(pb::LeaseTimeToLiveRequest { id: 7, keys: true }),
        Call::Compact(pb::CompactionRequest { revision: 4, physical: true }),
        Call::Compact(pb::CompactionRequest { revision: 4, physical: false }),
        Call::Compact(pb::CompactionRequest { revision: 99, physical: false }),
        Call::Compact(pb::CompactionRequest { revision: -1, physical: false }),
        Call::Range(pb::RangeRequest { revision: 3, ..range("a", "") }),
        Call::Range(pb::RangeRequest { revision: 4, ..range("a", "") }),
        Call::HashKv(pb::HashKvRequest { revision: 0 }),
        Call::HashKv(pb::HashKvRequest { revision: 4 }),
        Call::HashKv(pb::HashKvRequest { revision: 5 }),
        Call::MoveLeader(12345),
        Call::MemberRemove(12345),
        Call::MemberAdd("nonsense"),
        Call::MemberAdd(""),
        Call::UserGet,
        Call::RoleGet,
        Call::Users,
        Call::Roles,
        Call::Authenticate,
        Call::AuthEnable,
        Call::AuthDisable,
        Call::Unlock("nothing"),
        Call::Unlock(""),
        Call::Leader("nobody"),
        Call::Proclaim,
        Call::Unknown,
        alarm(0, 0),
        alarm(1, 1),
        alarm(0, 0),
        alarm(0, 2),
        Call::Put(put("full", "1")),
        Call::Txn(txn(vec![put_op("full")])),
        Call::Txn(txn(vec![op(RequestOp::RequestDeleteRange(delete("y", "")))])),
        Call::Grant(pb::LeaseGrantRequest { ttl: 100, id: 12 }),
        Call::Range(range("a", "")),
        alarm(2, 1),
        alarm(2, 1),
        Call::Put(put("full", "1")),
        alarm(1, 2),
        Call::Range(range("a", "")),
        Call::Put(put("full", "1")),
        alarm(2, 2),
        Call::Range(range("a", "")),
    ];
    compare(&theirs, &mine, calls.into_iter()).await;
    ours.stop().await;
}

async fn receive(
    answers: &mut Streaming<pb::WatchResponse>,
    create: &pb::WatchCreateRequest,
    lines: &[String],
) -> pb::WatchResponse {
    let answer = tokio::time::timeout(std::time::Duration::from_secs(20), answers.message()).await;
    answer.unwrap_or_else(|_| panic!("no answer to {create:?} after {lines:#?}")).unwrap().unwrap()
}

/// What a stream says of each watch until all have seen the last key or have ended.
async fn watched(client: &Client, creates: &[pb::WatchCreateRequest]) -> Vec<Vec<String>> {
    let request = |create: &pb::WatchCreateRequest| pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create.clone())),
    };
    // etcd says nothing, not even that it has heard, before the first request.
    let (requests, mut answers) = client.stream_with::<_, pb::WatchResponse>(WATCH, Some(request(&creates[0]))).await;
    let mut seen = Vec::new();
    for (i, create) in creates.iter().enumerate() {
        if i > 0 {
            requests.send(request(create)).await.unwrap();
        }
        // One after the other: watches of one stream are told in any order.
        let mut lines = Vec::new();
        let mut created = false;
        loop {
            let answer = receive(&mut answers, create, &lines).await;
            if answer.created {
                created = true;
                lines.push(format!(
                    "created {} canceled {} {:?}",
                    answer.watch_id, answer.canceled, answer.cancel_reason
                ));
            } else if answer.canceled {
                lines.push(format!("canceled {} compacted {}", answer.watch_id, answer.compact_revision));
            }
            lines.extend(answer.events.iter().map(|event| format!("{} {event:?}", answer.watch_id)));
            let last = answer.events.iter().any(|event| event.kv.as_ref().is_some_and(|kv| kv.key == "w/zz"));
            if answer.canceled || created && last {
                break;
            }
        }
        let cancel = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        let cancel = RequestUnion::CancelRequest(pb::WatchCancelRequest { watch_id: cancel });
        if !lines[0].contains("canceled true") {
            if !lines.last().unwrap().starts_with("canceled") {
                requests.send(pb::WatchRequest { request_union: Some(cancel) }).await.unwrap();
                let answer = receive(&mut answers, create, &lines).await;
                lines.push(format!("{} {}", answer.watch_id, answer.canceled));
            }
        }
        seen.push(lines);
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_have_the_same_answers() {
    let Some((_real, ours, theirs, mine)) = both().await else { return };
    for client in [&theirs, &mine] {
        for (key, value) in [("w/a", "1"), ("w/b", "1"), ("w/a", "2"), ("x", "1"), ("w/c", "1")] {
            client.put(key, value).await;
        }
        let ops = ["w/d", "w/e"].map(|key| op(RequestOp::RequestPut(put(key, "1"))));
        let delete_op = op(RequestOp::RequestDeleteRange(delete("w/a", "")));
        let success = ops.into_iter().chain([delete_op]).collect();
        client.unary::<_, pb::TxnResponse>(TXN, pb::TxnRequest { success, ..Default::default() }).await.unwrap();
        client.put("w/zz", "end").await;
        let compact = pb::CompactionRequest { revision: 4, physical: true };
        client.unary::<_, pb::CompactionResponse>(COMPACT, compact).await.unwrap();
    }
    let create = |start_revision| pb::WatchCreateRequest {
        key: "w/".into(),
        range_end: "w0".into(),
        start_revision,
        ..Default::default()
    };
    let creates = [
        create(4),
        create(5),
        create(2),
        create(1),
        create(8),
        // At the compacted revision itself etcd has no previous values any more; ours has.
        pb::WatchCreateRequest { prev_kv: true, ..create(5) },
        pb::WatchCreateRequest { filters: vec![1], ..create(4) },
        pb::WatchCreateRequest { range_end: "a".into(), ..create(4) },
        pb::WatchCreateRequest { range_end: "w/".into(), ..create(4) },
        pb::WatchCreateRequest { range_end: "\0".into(), key: "w/c".into(), ..create(4) },
        pb::WatchCreateRequest { range_end: "\0".into(), key: Bytes::new(), ..create(4) },
        pb::WatchCreateRequest { watch_id: 77, fragment: true, ..create(4) },
        pb::WatchCreateRequest { watch_id: 77, fragment: true, ..create(4) },
        create(4),
    ];
    let (real, own) = (watched(&theirs, &creates).await, watched(&mine, &creates).await);
    for (create, (real, own)) in creates.iter().zip(real.iter().zip(&own)) {
        assert_eq!(real, own, "{create:?}");
    }
    ours.stop().await;
}
