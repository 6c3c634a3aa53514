//! The `etcd-client` crate, unmodified, with everything it can do against one member, over TCP and over a unix socket.

use std::time::Duration;

use etcd_client::{
    AlarmAction, AlarmType, BalancedChannelBuilder, Channel, Client as Library, Compare, CompareOp, DeleteOptions,
    EventType, GetOptions, LeaseTimeToLiveOptions, LockOptions, ProclaimOptions, PutOptions, ResignOptions, SortOrder,
    SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchStream,
};
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint as Target;
use tonic::transport::channel::Change;

use super::*;

type Endpoints = mpsc::Receiver<Change<Uri, Target>>;

/// Connects to a socket, whichever endpoints are named; the names go where nobody looks.
struct Over<'a>(String, &'a mut Option<Endpoints>);

impl BalancedChannelBuilder for Over<'_> {
    type Error = tonic::transport::Error;

    fn balanced_channel(self, buffer_size: usize) -> Result<(Channel, mpsc::Sender<Change<Uri, Target>>), Self::Error> {
        let (names, unused) = mpsc::channel(buffer_size);
        *self.1 = Some(unused);
        Ok((Channel::Tonic(Target::from_shared(format!("unix:{}", self.0))?.connect_lazy()), names))
    }
}

/// What is to be tried, over both.
async fn over_both(tries: impl AsyncFn(Library)) {
    let ours = Ours::start().await;
    let client = Library::connect([format!("127.0.0.1:{}", ours.port)], None).await.unwrap();
    tries(client).await;
    ours.stop().await;

    let ours = Ours::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("etcd.sock");
    let listener = Listener::bind(&Endpoint::Unix(path.clone())).await.unwrap();
    let (tasks, shutdown) = (TaskGroup::new(), CancellationToken::new());
    tasks.spawn_graceful(Arc::clone(&ours.face).serve(listener, shutdown.clone()));
    let mut unused = None;
    let over = Over(path.to_str().unwrap().to_owned(), &mut unused);
    let client = Library::connect_with_balanced_channel(["localhost"], None, over).await.unwrap();
    tries(client).await;
    shutdown.cancel();
    tasks.stop().await;
    ours.stop().await;
}

/// The next answer that says something of a key, or that a watch has ended.
async fn next(stream: &mut WatchStream) -> WatchResponse {
    loop {
        let response = stream.message().await.unwrap().unwrap();
        if !response.events().is_empty() || response.canceled() {
            return response;
        }
    }
}

fn pair(kv: &etcd_client::KeyValue) -> (&str, &str) {
    (kv.key_str().unwrap(), kv.value_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys() {
    over_both(async |mut client| {
        let first = client.put("k/1", "a", None).await.unwrap();
        assert!(first.prev_key().is_none());
        let revision = first.header().unwrap().revision();
        client.put("k/2", "b", None).await.unwrap();
        let again = client.put("k/1", "c", Some(PutOptions::new().with_prev_key())).await.unwrap();
        assert_eq!(pair(again.prev_key().unwrap()), ("k/1", "a"));

        let all = client.get("k/", Some(GetOptions::new().with_prefix())).await.unwrap();
        assert_eq!(all.kvs().iter().map(pair).collect::<Vec<_>>(), [("k/1", "c"), ("k/2", "b")]);
        assert_eq!((all.count(), all.more(), all.kvs()[0].version()), (2, false, 2));
        let past = client.get("k/1", Some(GetOptions::new().with_revision(revision))).await.unwrap();
        assert_eq!(pair(&past.kvs()[0]), ("k/1", "a"));
        let sorted = GetOptions::new().with_prefix().with_sort(SortTarget::Value, SortOrder::Descend).with_limit(1);
        let sorted = client.get("k/", Some(sorted)).await.unwrap();
        assert_eq!((pair(&sorted.kvs()[0]), sorted.more()), (("k/1", "c"), true));
        let bare = GetOptions::new().with_prefix().with_keys_only().with_serializable();
        assert_eq!(pair(&client.get("k/", Some(bare)).await.unwrap().kvs()[1]), ("k/2", ""));

        let gone = DeleteOptions::new().with_prefix().with_prev_key();
        let gone = client.delete("k/", Some(gone)).await.unwrap();
        assert_eq!((gone.deleted(), gone.prev_kvs().len()), (2, 2));
        client.compact(revision + 1, None).await.unwrap();
        let error = client.get("k/1", Some(GetOptions::new().with_revision(revision))).await.unwrap_err();
        let etcd_client::Error::GRpcStatus(status) = error else { panic!("{error}") };
        assert_eq!(status.code(), Code::OutOfRange);
        assert_eq!(status.message(), "etcdserver: mvcc: required revision has been compacted");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions() {
    over_both(async |mut client| {
        let create = |value: &str| {
            Txn::new()
                .when([Compare::create_revision("t", CompareOp::Equal, 0)])
                .and_then([TxnOp::put("t", value, None)])
                .or_else([TxnOp::get("t", None), TxnOp::delete("t", None)])
        };
        assert!(client.txn(create("1")).await.unwrap().succeeded());
        let lost = client.txn(create("2")).await.unwrap();
        assert!(!lost.succeeded());
        match &lost.op_responses()[..] {
            [TxnOpResponse::Get(got), TxnOpResponse::Delete(gone)] => {
                assert_eq!((pair(&got.kvs()[0]), gone.deleted()), (("t", "1"), 1));
            }
            other => panic!("{other:?}"),
        }
        let missing = Compare::version("t", CompareOp::Less, 1);
        let inner = Txn::new().when([missing]).and_then([TxnOp::put("t", "3", None)]);
        let nested = client.txn(Txn::new().and_then([TxnOp::txn(inner)])).await.unwrap();
        assert!(matches!(&nested.op_responses()[..], [TxnOpResponse::Txn(inner)] if inner.succeeded()));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches() {
    over_both(async |mut client| {
        let revision = client.put("w/1", "a", None).await.unwrap().header().unwrap().revision();
        let options = WatchOptions::new().with_prefix().with_prev_key().with_start_revision(revision);
        let mut stream = client.watch("w/", Some(options)).await.unwrap();
        let past = next(&mut stream).await;
        assert_eq!(pair(past.events()[0].kv().unwrap()), ("w/1", "a"));
        let id = past.watch_id();
        client.delete("w/1", None).await.unwrap();
        let deleted = next(&mut stream).await;
        assert_eq!(deleted.events()[0].event_type(), EventType::Delete);
        assert_eq!(pair(deleted.events()[0].prev_kv().unwrap()), ("w/1", "a"));

        // A second one on the same stream, and the revision for both.
        stream.watch("other", None).await.unwrap();
        client.put("other", "b", None).await.unwrap();
        // It may have begun after the write.
        until("the second watch", async || {
            let now = client.clone().put("other", "b", None).await.unwrap().header().unwrap().revision();
            let seen = next(&mut stream).await;
            seen.watch_id() != id && seen.header().unwrap().revision() <= now
        })
        .await;
        stream.request_progress().await.unwrap();
        loop {
            let response = stream.message().await.unwrap().unwrap();
            if response.watch_id() == -1 {
                assert!(response.events().is_empty() && response.header().unwrap().revision() > revision);
                break;
            }
        }
        stream.cancel(id).await.unwrap();
        loop {
            let response = stream.message().await.unwrap().unwrap();
            if response.canceled() {
                assert_eq!(response.watch_id(), id);
                break;
            }
        }

        client.compact(revision + 1, None).await.unwrap();
        let mut late = client.watch("w/", Some(WatchOptions::new().with_start_revision(1))).await.unwrap();
        let response = next(&mut late).await;
        assert!(response.canceled() && response.compact_revision() == revision + 1, "{response:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases() {
    over_both(async |mut client| {
        let granted = client.lease_grant(100, None).await.unwrap();
        let id = granted.id();
        assert_eq!(granted.ttl(), 100);
        client.put("l", "1", Some(PutOptions::new().with_lease(id))).await.unwrap();
        let (mut keeper, mut kept) = client.lease_keep_alive(id).await.unwrap();
        for _ in 0..3 {
            keeper.keep_alive().await.unwrap();
            let answer = kept.message().await.unwrap().unwrap();
            assert_eq!((answer.id(), answer.ttl()), (id, 100));
        }
        let left = client.lease_time_to_live(id, Some(LeaseTimeToLiveOptions::new().with_keys())).await.unwrap();
        assert_eq!((left.granted_ttl(), left.keys()), (100, &[b"l".to_vec()][..]));
        assert!(client.leases().await.unwrap().leases().iter().any(|lease| lease.id() == id));
        client.lease_revoke(id).await.unwrap();
        assert_eq!(client.get("l", None).await.unwrap().count(), 0);
        assert_eq!(client.lease_time_to_live(id, None).await.unwrap().ttl(), -1);

        // One that runs out takes its keys along.
        let id = client.lease_grant(1, None).await.unwrap().id();
        client.put("short", "1", Some(PutOptions::new().with_lease(id))).await.unwrap();
        let mut stream = client.watch("short", None).await.unwrap();
        // The watch may begin after the end.
        let ended = async {
            until("the lease has ended", async || client.clone().get("short", None).await.unwrap().count() == 0).await;
        };
        tokio::select! {
            event = next(&mut stream) => assert_eq!(event.events()[0].event_type(), EventType::Delete),
            () = ended => {}
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_and_elections() {
    over_both(async |mut client| {
        let held = client.lock("mutex", None).await.unwrap();
        assert!(held.key().starts_with(b"mutex/"));
        let waiting = {
            let mut client = client.clone();
            async move {
                let lease = client.lease_grant(60, None).await.unwrap().id();
                let next = client.lock("mutex", Some(LockOptions::new().with_lease(lease))).await.unwrap();
                client.unlock(next.key()).await.unwrap();
            }
        };
        let mut waiting = std::pin::pin!(waiting);
        let patience = tokio::time::timeout(Duration::from_millis(200), waiting.as_mut()).await;
        assert!(patience.is_err(), "both hold it");
        client.unlock(held.key()).await.unwrap();
        waiting.await;

        let lease = client.lease_grant(60, None).await.unwrap().id();
        let campaign = client.campaign("office", "me", lease).await.unwrap();
        let leader = campaign.leader().unwrap().clone();
        assert_eq!(leader.lease(), lease);
        let value = |answer: etcd_client::LeaderResponse| answer.kv().unwrap().value_str().unwrap().to_owned();
        assert_eq!(value(client.leader("office").await.unwrap()), "me");
        let mut observed = client.observe("office").await.unwrap();
        assert_eq!(value(observed.message().await.unwrap().unwrap()), "me");
        client.proclaim("still me", Some(ProclaimOptions::new().with_leader(leader.clone()))).await.unwrap();
        assert_eq!(value(observed.message().await.unwrap().unwrap()), "still me");
        client.resign(Some(ResignOptions::new().with_leader(leader))).await.unwrap();
        let error = client.leader("office").await.unwrap_err();
        assert!(error.to_string().contains("election: no leader"), "{error}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep() {
    over_both(async |mut client| {
        for at in 0..50 {
            client.put(format!("u/{at}"), vec![b'x'; 4096], None).await.unwrap();
        }
        let status = client.status().await.unwrap();
        assert_eq!(status.version(), super::super::VERSION);
        assert!(status.db_size() > 50 * 4096 && status.leader() != 0 && status.errors().is_empty());
        let members = client.member_list().await.unwrap();
        assert_eq!((members.members().len(), members.members()[0].id()), (1, status.leader()));
        assert_eq!(client.hash_kv(0).await.unwrap().hash(), client.hash_kv(0).await.unwrap().hash());
        client.hash().await.unwrap();
        client.defragment().await.unwrap();
        let mut snapshot = client.snapshot().await.unwrap();
        let (mut bytes, mut left) = (0, u64::MAX);
        while let Some(part) = snapshot.message().await.unwrap() {
            bytes += part.blob().len();
            assert!(part.remaining_bytes() <= left);
            left = part.remaining_bytes();
        }
        assert!(bytes > 50 * 4096 && left == 0, "{bytes} {left}");
        assert!(client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap().alarms().is_empty());
        client.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await.unwrap();
        let error = client.put("u", "1", None).await.unwrap_err();
        assert!(error.to_string().contains("etcdserver: mvcc: database space exceeded"), "{error}");
        assert_eq!(client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap().alarms().len(), 1);
        client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.unwrap();
        client.put("u", "1", None).await.unwrap();
        let error = client.auth_enable().await.unwrap_err();
        assert!(error.to_string().contains("root user does not exist"), "{error}");
        assert!(client.user_list().await.unwrap().users().is_empty());
    })
    .await;
}
