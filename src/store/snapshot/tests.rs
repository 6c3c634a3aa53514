//! Saving, refusing, restoring.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use component_base::{Clock as _, RealClock, TaskGroup};

use super::*;
use crate::{Error, Op, PutRequest, SqliteConfig, SqliteStore, TxnRequest, WatchRequest};

async fn open(path: &Path) -> Arc<SqliteStore> {
    let mut config = SqliteConfig::new(path, RealClock::shared());
    config.relaxed_prefixes = vec!["relaxed/".into()];
    SqliteStore::open(config).await.unwrap()
}

async fn put(store: &SqliteStore, key: &str, value: &str) -> i64 {
    let put = Op::Put(PutRequest::new(key.to_owned(), value.to_owned()));
    store.txn(TxnRequest::ops(vec![put])).await.unwrap().revision
}

async fn everything(store: &SqliteStore) -> Vec<KeyValue> {
    store.range(RangeRequest::prefix(b"")).await.unwrap().kvs
}

/// A store with some past, leases and a relaxed write, and its snapshot.
async fn saved(dir: &Path) -> (Arc<SqliteStore>, PathBuf, Vec<KeyValue>) {
    let store = open(&dir.join("db/state.db")).await;
    for i in 0..50 {
        put(&store, &format!("k/{}", i % 20), &format!("{i}")).await;
    }
    put(&store, "relaxed/a", "1").await;
    let lease = store.lease_grant(77, 500).await.unwrap();
    let both = ["l/a", "l/b"].map(|key| Op::Put(PutRequest { lease: lease.id, ..PutRequest::new(key, "1") }));
    store.txn(TxnRequest::ops(both.to_vec())).await.unwrap();
    let file = dir.join("snapshots/one");
    let info = save(&*store, &RealClock, &file).await.unwrap();
    assert_eq!((info.revision, info.keys, info.leases), (store.revision(), 23, 1));
    let before = everything(&store).await;
    (store, file, before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_saved_comes_back_beyond_all_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file, before) = saved(dir.path()).await;
    let meta = std::fs::metadata(&file).unwrap();
    assert_eq!(meta.permissions().mode() & 0o777, 0o600);
    assert_eq!(inspect(&file).unwrap().bytes, meta.len());
    let again = save(&*store, &RealClock, &file).await.unwrap_err();
    assert!(again.to_string().ends_with("the file exists already"), "{again}");
    assert_eq!(std::fs::read_dir(file.parent().unwrap()).unwrap().count(), 1, "no partial file is left");

    let later = put(&store, "k/0", "after the snapshot").await;
    let database = dir.path().join("db/state.db");
    assert!(matches!(restore(&file, &database, "now"), Err(Error::Locked { .. })), "a running store is left alone");
    store.close().await.unwrap();

    let restored = restore(&file, &database, "now").unwrap();
    let kept = restored.kept.clone().unwrap();
    let store = open(&database).await;
    assert_eq!(everything(&store).await, before);
    assert!(restored.revision > later && store.revision() == restored.revision);
    assert_eq!(store.compacted_revision(), restored.revision);
    let status = store.lease_time_to_live(77).await.unwrap();
    assert_eq!(status.keys.len(), 2);
    assert!((490..=500).contains(&status.remaining_seconds), "{status:?}");
    // Whoever knew the old revisions lists anew.
    let past = store.range(RangeRequest::prefix(b"").at(later)).await.unwrap_err();
    assert!(matches!(past, Error::Compacted { compacted } if compacted == restored.revision), "{past}");
    let request = |start_revision| WatchRequest { range: KeyRange::prefix("k/"), start_revision, progress: false };
    let watch = store.watch(request(later + 1)).await.err().unwrap();
    assert!(matches!(watch, Error::Compacted { .. }), "{watch}");
    // From the restored state on there are no gaps.
    let mut watch = store.watch(request(restored.revision + 1)).await.unwrap();
    assert_eq!(put(&store, "k/0", "new").await, restored.revision + 1);
    let events = crate::conformance::receive(&mut watch, 1).await;
    assert_eq!(&events[0].prev_kv.as_ref().unwrap().value[..], b"40");
    assert_eq!(events[0].kv.version, 4);
    store.close().await.unwrap();

    let old = open(&kept).await;
    assert_eq!(&old.get(b"k/0").await.unwrap().unwrap().value[..], b"after the snapshot");
    old.close().await.unwrap();
    // The same again: still further.
    let twice = restore(&file, &database, "later").unwrap();
    assert!(twice.revision > restored.revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file, before) = saved(dir.path()).await;
    store.close().await.unwrap();
    let database = dir.path().join("db/state.db");
    let good = std::fs::read(&file).unwrap();
    let bad = dir.path().join("bad");
    let refuse = |bytes: &[u8], want: &str| {
        std::fs::write(&bad, bytes).unwrap();
        for error in [restore(&bad, &database, "x").unwrap_err(), inspect(&bad).unwrap_err()] {
            let text = error.to_string();
            assert!(text.starts_with(&format!("snapshot {}: {want}", bad.display())), "{text}");
        }
    };
    refuse(b"", "the file is empty");
    refuse(b"hello", "not a kedge snapshot");
    refuse(&[b"SQLite format 3\0".as_slice(), &[0; 100]].concat(), "not a kedge snapshot, but an SQLite database");
    let bbolt = [&[0; 16][..], &0xED0C_DAED_u32.to_le_bytes(), &[0; 4000]].concat();
    refuse(&bbolt, "not a kedge snapshot, but one of etcd's");
    refuse(&good[..10], "truncated: its 10 bytes are less than a header");
    refuse(&good[..good.len() - 1], &format!("truncated: {} of {} bytes", good.len() - 1, good.len()));
    refuse(&[&good[..], b"x"].concat(), "damaged: ");
    let mut newer = good.clone();
    newer[8] = 9;
    refuse(&newer, "format 9 is unknown");
    // Any byte.
    for at in (20..good.len()).step_by(37).chain([good.len() - 1]) {
        let mut flipped = good.clone();
        flipped[at] ^= 0x10;
        std::fs::write(&bad, &flipped).unwrap();
        let error = inspect(&bad).unwrap_err();
        assert!(error.to_string().contains("damaged: its sha256 is "), "{at}: {error}");
        assert!(restore(&bad, &database, "x").is_err(), "{at}");
    }
    let missing = restore(&dir.path().join("none"), &database, "x").unwrap_err();
    assert!(missing.to_string().contains("cannot open it"), "{missing}");
    let names: Vec<_> = std::fs::read_dir(dir.path().join("db")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| !name.to_string_lossy().contains("restor")), "{names:?}");
    let store = open(&database).await;
    assert_eq!(everything(&store).await, before);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_missing_database_can_be_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (store, file, before) = saved(dir.path()).await;
    store.close().await.unwrap();
    let database = dir.path().join("db/state.db");
    std::fs::write(&database, vec![7; 9000]).unwrap();
    let restored = restore(&file, &database, "x").unwrap();
    assert_eq!(std::fs::read(restored.kept.unwrap()).unwrap(), vec![7; 9000]);
    let store = open(&database).await;
    assert_eq!(everything(&store).await, before);
    store.close().await.unwrap();
    let elsewhere = dir.path().join("other/state.db");
    assert_eq!(restore(&file, &elsewhere, "x").unwrap().kept, None);
    let store = open(&elsewhere).await;
    assert_eq!(everything(&store).await, before);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_snapshot_under_load_is_consistent_and_stalls_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir.path().join("state.db")).await;
    // Pairs are written together: a state in which they differ never existed.
    let pair = |i: u64| ["p/a", "p/b"].map(|key| Op::Put(PutRequest::new(key, i.to_string()))).to_vec();
    for i in 0..2000 {
        let key = format!("fill/{i}");
        store.txn(TxnRequest::ops(vec![Op::Put(PutRequest::new(key, vec![b'x'; 2048]))])).await.unwrap();
    }
    store.txn(TxnRequest::ops(pair(0))).await.unwrap();
    let group = TaskGroup::new();
    let writer = Arc::clone(&store);
    let load = group.spawn_graceful({
        let token = group.token().clone();
        async move {
            let mut writes = 0;
            while !token.is_cancelled() {
                writes += 1;
                writer.txn(TxnRequest::ops(pair(writes))).await.unwrap();
            }
            writes
        }
    });
    for round in 0..5 {
        let file = dir.path().join(format!("snapshots/{round}"));
        let from = store.revision();
        save(&*store, &RealClock, &file).await.unwrap();
        while store.revision() == from {
            RealClock.sleep(std::time::Duration::from_millis(1)).await;
        }
        let database = dir.path().join(format!("restored-{round}.db"));
        restore(&file, &database, "x").unwrap();
        let restored = open(&database).await;
        let values: Vec<_> =
            restored.range(RangeRequest::prefix(b"p/")).await.unwrap().kvs.into_iter().map(|kv| kv.value).collect();
        assert_eq!(values.len(), 2);
        assert_eq!(values[0], values[1]);
        restored.close().await.unwrap();
    }
    group.token().cancel();
    assert!(load.await.unwrap() > 5);
    store.close().await.unwrap();
}
