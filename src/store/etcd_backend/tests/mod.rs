//! The backend against Debian's etcd: one member, three, with TLS, and with a leader that is killed.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cluster;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use component_base::{Clock as _, RealClock, TaskGroup};
use parking_lot::Mutex;

use self::cluster::{Etcd, Security};
use super::*;
use crate::{KeyRange, Op, PutRequest, conformance};

fn config(etcd: &Etcd) -> EtcdConfig {
    EtcdConfig {
        auto_compaction: AutoCompaction::Off,
        ca: etcd.security.as_ref().map(|s| s.ca.clone()),
        identity: etcd.security.as_ref().map(|s| (s.client.clone(), s.client_key.clone())),
        ..EtcdConfig::new(etcd.endpoints(), RealClock::shared())
    }
}

fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> TxnRequest {
    TxnRequest::ops(vec![Op::Put(PutRequest::new(key, value))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_with_one_member() {
    let etcd = Etcd::start(1, None);
    let store = EtcdStore::open(config(&etcd)).await.unwrap();
    assert_eq!(store.revision(), 1);
    conformance::run(&*store).await;
    assert!(store.size().await.unwrap().bytes > 0);
    store.close().await.unwrap();
    assert!(matches!(store.get(b"a").await, Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_with_three_members() {
    let etcd = Etcd::start(3, None);
    let store = EtcdStore::open(config(&etcd)).await.unwrap();
    conformance::run(&*store).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_over_mutual_tls() {
    let etcd = Etcd::start(1, Some(Security::make()));
    let store = EtcdStore::open(config(&etcd)).await.unwrap();
    conformance::run(&*store).await;
    store.close().await.unwrap();
    // Without our certificate nothing is answered, and without the authority nothing is asked.
    let nobody = EtcdConfig { identity: None, request_timeout: Duration::from_millis(500), ..config(&etcd) };
    assert!(matches!(EtcdStore::open(nobody).await, Err(Error::Unavailable { .. })));
    let refused = EtcdStore::open(EtcdConfig { ca: None, ..config(&etcd) }).await.err().unwrap();
    assert!(refused.to_string().contains("https needs the certificate authority's file"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_ranges_come_whole_and_of_one_revision() {
    let etcd = Etcd::start(1, None);
    let store = EtcdStore::open(config(&etcd)).await.unwrap();
    let total = 2 * PAGE + 17;
    for chunk in (0..total).collect::<Vec<_>>().chunks(100) {
        let ops = chunk.iter().map(|i| Op::Put(PutRequest::new(format!("big/{i:06}"), vec![b'v'; 500])));
        store.txn(TxnRequest::ops(ops.collect())).await.unwrap();
    }
    let all = store.range(RangeRequest::prefix(b"big/")).await.unwrap();
    assert_eq!((all.kvs.len(), all.count, all.more), (total, total, false));
    assert!(all.kvs.is_sorted_by_key(|kv| kv.key.clone()));
    let dir = tempfile::tempdir().unwrap();
    // A snapshot of a cluster becomes a database.
    let file = dir.path().join("snapshot");
    let info = crate::snapshot::save(&*store, &RealClock, &file).await.unwrap();
    assert_eq!(info.keys, total as u64);
    let restored = crate::snapshot::restore(&file, &dir.path().join("db/state.db"), "x").unwrap();
    assert_eq!(restored.keys, total as u64);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_watcher_misses_nothing() {
    let etcd = Etcd::start(1, None);
    let store = EtcdStore::open(config(&etcd)).await.unwrap();
    let request = WatchRequest { range: KeyRange::prefix("s/"), start_revision: 0, progress: false };
    let mut watcher = store.watch(request).await.unwrap();
    let mut want = Vec::new();
    for i in 0..400 {
        want.push(store.txn(put(format!("s/{}", i % 7), vec![b'v'; 3000])).await.unwrap().revision);
    }
    let mut got = Vec::new();
    while got.len() < want.len() {
        let batch = watcher.batches.recv().await.unwrap().unwrap();
        got.extend(batch.events.iter().map(|event| event.kv.mod_revision));
    }
    assert_eq!(got, want);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_leader_dies() {
    const WRITERS: usize = 6;
    const AFTER: usize = 600;
    let mut etcd = Etcd::start(3, None);
    let store = EtcdStore::open(config(&etcd)).await.unwrap();
    let request = WatchRequest { range: KeyRange::prefix("load/"), start_revision: 0, progress: false };
    let mut watcher = store.watch(request).await.unwrap();
    let acknowledged: Arc<Mutex<BTreeMap<Bytes, Revision>>> = Arc::default();
    let unknown: Arc<Mutex<Vec<Bytes>>> = Arc::default();
    let group = TaskGroup::new();
    for writer in 0..WRITERS {
        let (store, acknowledged, unknown) = (Arc::clone(&store), Arc::clone(&acknowledged), Arc::clone(&unknown));
        let stopped = group.token().clone();
        // Each ends its last write, so that nothing is under way when we look.
        group.spawn_graceful(async move {
            for i in (0..).take_while(|_| !stopped.is_cancelled()) {
                let key = Bytes::from(format!("load/{writer}/{i}"));
                // As the API server creates: only if it is not there, so that doing it twice would show.
                let create = Op::Put(PutRequest::new(key.clone(), "v"));
                match store.txn(TxnRequest::guarded(key.clone(), 0, create)).await {
                    Ok(response) => {
                        assert!(response.succeeded, "{key:?} was there before it was written");
                        acknowledged.lock().insert(key, response.revision);
                    }
                    Err(Error::Unknown { .. } | Error::Unavailable { .. }) => unknown.lock().push(key),
                    Err(error) => panic!("{error}"),
                }
            }
        });
    }
    let clock = RealClock;
    let wait_for = async |count: usize| {
        let deadline = clock.instant() + Duration::from_secs(60);
        while acknowledged.lock().len() < count {
            assert!(clock.instant() < deadline, "writes do not go on: {}", acknowledged.lock().len());
            clock.sleep(Duration::from_millis(5)).await;
        }
    };
    wait_for(300).await;
    let victim = etcd.leader().await;
    etcd.kill(victim);
    let at_death = acknowledged.lock().len();
    wait_for(at_death + AFTER).await;
    // The dead come back, and the next leader dies.
    etcd.restart(victim);
    let again = acknowledged.lock().len();
    wait_for(again + 100).await;
    let victim = etcd.leader().await;
    etcd.kill(victim);
    let again = acknowledged.lock().len();
    wait_for(again + 300).await;
    group.stop().await;

    let present = store.range(RangeRequest::prefix(b"load/")).await.unwrap();
    let revisions: BTreeMap<Bytes, Revision> = present.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
    for (key, revision) in acknowledged.lock().iter() {
        assert_eq!(revisions.get(key), Some(revision), "{key:?} was acknowledged");
    }
    assert!(present.kvs.iter().all(|kv| kv.version == 1));
    assert!(revisions.len() <= acknowledged.lock().len() + unknown.lock().len());
    let mut seen = BTreeMap::new();
    let mut last = 0;
    while seen.len() < revisions.len() {
        let batch = watcher.batches.recv().await.unwrap().unwrap();
        for event in batch.events {
            assert!(event.kv.mod_revision > last, "revision {} came after {last}", event.kv.mod_revision);
            last = event.kv.mod_revision;
            assert_eq!(seen.insert(event.kv.key.clone(), last), None, "an event came twice");
        }
    }
    assert!(seen == revisions, "the watch missed something");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_cluster_the_error_says_what_is_known() {
    let mut etcd = Etcd::start(1, None);
    let patient = EtcdStore::open(config(&etcd)).await.unwrap();
    patient.close().await.unwrap();
    let config = EtcdConfig { request_timeout: Duration::from_secs(2), ..config(&etcd) };
    let store = EtcdStore::open(config.clone()).await.unwrap();
    store.txn(put("a", "1")).await.unwrap();
    etcd.kill(0);
    let read = store.get(b"a").await;
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    // The connection is known to be gone: nothing can have been done.
    let write = store.txn(put("a", "2")).await;
    assert!(matches!(write, Err(Error::Unavailable { .. })), "{write:?}");
    let opened = EtcdStore::open(config).await;
    assert!(matches!(opened, Err(Error::Unavailable { .. })));
    etcd.restart(0);
    let deadline = RealClock.instant() + Duration::from_secs(20);
    let kv = loop {
        match store.get(b"a").await {
            Ok(kv) => break kv.unwrap(),
            Err(error) => assert!(RealClock.instant() < deadline, "{error}"),
        }
    };
    assert_eq!(&kv.value[..], b"1");
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn history_is_discarded_after_a_while() {
    let etcd = Etcd::start(1, None);
    let config = EtcdConfig { auto_compaction: AutoCompaction::Periodic(Duration::from_millis(200)), ..config(&etcd) };
    let store = EtcdStore::open(config).await.unwrap();
    let first = store.txn(put("a", "1")).await.unwrap().revision;
    let deadline = RealClock.instant() + Duration::from_secs(20);
    while store.compacted_revision() <= first {
        store.txn(put("a", "2")).await.unwrap();
        RealClock.sleep(Duration::from_millis(10)).await;
        assert!(RealClock.instant() < deadline, "never compacted");
    }
    let past = store.range(RangeRequest::key(b"a").at(first)).await;
    assert!(matches!(past, Err(Error::Compacted { compacted }) if compacted > first), "{past:?}");
    // Somebody who knows nothing of the past is told where it begins.
    let other =
        EtcdStore::open(EtcdConfig { auto_compaction: AutoCompaction::Off, ..self::config(&etcd) }).await.unwrap();
    let past = other.range(RangeRequest::key(b"a").at(first)).await;
    assert!(matches!(past, Err(Error::Compacted { compacted }) if compacted > first), "{past:?}");
    other.close().await.unwrap();
    store.close().await.unwrap();
}
