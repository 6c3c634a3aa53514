//! Watches under load: no gaps, no duplicates, nobody waits for the slow.

use std::sync::Arc;

use super::*;
use crate::conformance::receive;
use crate::{Error, Event, WatchRequest, Watcher};
use component_base::TaskGroup;

fn all(start_revision: i64) -> WatchRequest {
    WatchRequest { range: KeyRange::prefix("w/"), start_revision, progress: false }
}

/// Reads up to `last`, slowly if asked, and checks the order.
async fn read_to(watcher: &mut Watcher, last: i64, pause: Option<Duration>) -> Vec<Arc<Event>> {
    let mut events: Vec<Arc<Event>> = Vec::new();
    let mut upto = 0;
    while upto < last {
        let batch = watcher.batches.recv().await.unwrap().unwrap();
        assert!(batch.revision > upto, "revisions only grow");
        assert!(batch.events.iter().all(|event| event.kv.mod_revision > upto), "nothing twice");
        upto = batch.revision;
        events.extend(batch.events);
        if let Some(pause) = pause {
            RealClock.sleep(pause).await;
        }
    }
    events
}

async fn gap_free(config: SqliteConfig) {
    const WRITERS: i64 = 8;
    const WRITES: i64 = 150;
    let store = SqliteStore::open(config).await.unwrap();
    let group = TaskGroup::new();
    let last = 1 + WRITERS * WRITES;
    let mut readers = Vec::new();
    let mut open = async |start: i64, pause: Option<Duration>| {
        let mut watcher = store.watch(all(start)).await.unwrap();
        readers.push(group.spawn(async move { (start, read_to(&mut watcher, last, pause).await) }));
    };
    for i in 0..40 {
        open(2, (i % 4 == 0).then_some(Duration::from_millis(3))).await;
    }
    open(100, None).await;
    open(last, None).await;
    let mut writers = Vec::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.push(group.spawn(async move {
            for i in 0..WRITES {
                store.txn(put(format!("w/{}", (writer + i) % 20), format!("{writer}.{i}"))).await.unwrap();
            }
        }));
    }
    // Some join on the way, from somewhere in the past.
    for start in [2, 50, 400] {
        until("progress", async || store.revision() > start).await;
        open(start, None).await;
    }
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    assert_eq!(store.revision(), last);
    for reader in readers {
        let (start, events) = reader.await.unwrap().unwrap();
        let revisions: Vec<i64> = events.iter().map(|event| event.kv.mod_revision).collect();
        assert_eq!(revisions, (start..=last).collect::<Vec<_>>());
        for event in &events {
            if event.kv.version > 1 {
                let prev = event.prev_kv.as_ref().unwrap();
                assert_eq!(prev.version + 1, event.kv.version);
            }
        }
    }
    group.stop().await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_miss_nothing() {
    let dir = tempfile::tempdir().unwrap();
    gap_free(config(dir.path())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_watchers_are_resumed_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    gap_free(SqliteConfig { ring_events: 20, watch_buffer: 2, ..config(dir.path()) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_watchers_are_resumed_from_the_ring_when_all_is_relaxed() {
    let dir = tempfile::tempdir().unwrap();
    let relaxed_prefixes = vec!["w/".into()];
    gap_free(SqliteConfig { ring_events: 20, watch_buffer: 2, relaxed_prefixes, ..config(dir.path()) }).await;
}

#[tokio::test]
async fn a_watcher_that_does_not_read_blocks_nobody_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig { ring_events: 10, watch_buffer: 1, ..config(dir.path()) };
    let store = SqliteStore::open(config).await.unwrap();
    let mut idle = store.watch(all(0)).await.unwrap();
    for i in 0..100 {
        store.txn(put(format!("w/{i}"), "x")).await.unwrap();
    }
    assert!(store.shared.hub.lock().ring.len() <= 10);
    let events = read_to(&mut idle, 101, None).await;
    assert_eq!(events.len(), 100);
    // It is live again: the next write comes by itself.
    store.txn(put("w/next", "x")).await.unwrap();
    assert_eq!(&receive(&mut idle, 1).await[0].kv.key[..], b"w/next");
    store.close().await.unwrap();
    assert!(idle.batches.recv().await.is_none(), "closing ends watches");
}

#[tokio::test]
async fn a_watcher_behind_the_compaction_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig { ring_events: 0, watch_buffer: 1, ..config(dir.path()) };
    let store = SqliteStore::open(config).await.unwrap();
    let mut idle = store.watch(all(0)).await.unwrap();
    for i in 0..20 {
        store.txn(put(format!("w/{i}"), "x")).await.unwrap();
    }
    store.compact(15).await.unwrap();
    let mut last = 0;
    let end = loop {
        match idle.batches.recv().await.unwrap() {
            Ok(batch) => {
                for event in batch.events {
                    assert_eq!(event.kv.mod_revision, last.max(1) + 1, "no gap before the end");
                    last = event.kv.mod_revision;
                }
            }
            Err(error) => break error,
        }
    };
    assert!(matches!(end, Error::Compacted { compacted: 15 }), "{end}");
    assert!(idle.batches.recv().await.is_none());
    store.close().await.unwrap();
}

#[tokio::test]
async fn ranges_that_overlap_each_get_their_events() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    let ranges = [
        KeyRange::prefix(""),
        KeyRange::prefix("a/"),
        KeyRange::prefix("a/b/"),
        KeyRange::prefix("c"),
        KeyRange::key("a/b/1"),
        KeyRange { start: "a/b/1".into(), end: "b".into() },
        KeyRange { start: "b".into(), end: bytes::Bytes::from_static(&[0]) },
        KeyRange { start: "z".into(), end: "a".into() },
    ];
    let mut watchers = Vec::new();
    for range in &ranges {
        let request = WatchRequest { range: range.clone(), start_revision: 0, progress: true };
        watchers.push(store.watch(request).await.unwrap());
    }
    let keys = ["a/a", "a/b/1", "a/b/2", "a/c", "b", "c", "c/1", "d", "z/9"];
    for key in keys {
        store.txn(put(key, "x")).await.unwrap();
    }
    for (range, watcher) in ranges.iter().zip(&mut watchers) {
        // With progress every watcher learns the last revision, whether or not it had events.
        let events = read_to(watcher, store.revision(), None).await;
        let got: Vec<_> = events.iter().map(|event| event.kv.key.clone()).collect();
        let expected: Vec<_> = keys.iter().filter(|key| range.contains(key.as_bytes())).copied().collect();
        assert_eq!(got, expected, "{range:?}");
    }
    store.close().await.unwrap();
}

#[tokio::test]
async fn abandoned_watches_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    for i in 0..1000 {
        drop(store.watch(WatchRequest { range: KeyRange::prefix(format!("q/{i}/")), ..all(0) }).await.unwrap());
        drop(store.watch(WatchRequest { range: KeyRange::key(format!("q/{i}")), ..all(0) }).await.unwrap());
    }
    assert!(store.shared.hub.lock().watchers() < 40);
    drop(store.watch(all(0)).await.unwrap());
    let before = store.shared.hub.lock().watchers();
    store.txn(put("w/a", "1")).await.unwrap();
    assert_eq!(store.shared.hub.lock().watchers(), before - 1, "seen with the first event");
    store.close().await.unwrap();
}
