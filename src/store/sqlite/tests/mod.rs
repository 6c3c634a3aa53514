//! Tests of the SQLite store: the conformance table, a model, crashes, watches, upkeep.

mod crash;
mod durability;
mod faults;
mod full;
mod model;

mod watches;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use component_base::{Clock, FakeClock, RealClock};
use jiff::Timestamp;

use super::{AutoCompaction, SqliteConfig, SqliteStore};
use crate::{KeyRange, KeyValue, Op, PutRequest, Store, TxnRequest, conformance};

pub(super) fn config(dir: &Path) -> SqliteConfig {
    SqliteConfig {
        auto_compaction: AutoCompaction::Off,
        ..SqliteConfig::new(dir.join("db/state.db"), RealClock::shared())
    }
}

pub(super) fn put(key: impl Into<bytes::Bytes>, value: impl Into<bytes::Bytes>) -> TxnRequest {
    TxnRequest::ops(vec![Op::Put(PutRequest::new(key, value))])
}

pub(super) fn delete(range: KeyRange) -> TxnRequest {
    TxnRequest::ops(vec![Op::Delete { range, prev_kv: false }])
}

pub(super) async fn everything(store: &dyn Store, revision: i64) -> Vec<KeyValue> {
    store.range(crate::RangeRequest::prefix(b"").at(revision)).await.unwrap().kvs
}

/// Polls until `done`, with a deadline on the real clock.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let clock = RealClock;
    let deadline = clock.instant() + Duration::from_secs(20);
    while !done().await {
        assert!(clock.instant() < deadline, "{what} did not happen");
        clock.sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(config(dir.path())).await.unwrap();
    assert_eq!(store.revision(), 1, "as an empty etcd");
    conformance::run(&*store).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_without_a_ring() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig { ring_events: 0, watch_buffer: 1, ..config(dir.path()) };
    let store = SqliteStore::open(config).await.unwrap();
    conformance::run(&*store).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_when_everything_is_relaxed() {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig { relaxed_prefixes: vec!["".into()], ..config(dir.path()) };
    let store = SqliteStore::open(config).await.unwrap();
    conformance::run(&*store).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    for (name, check) in conformance::CHECKS {
        let store = SqliteStore::open(config(dir.path())).await.unwrap();
        check(&*store).await;
        let (revision, before) = (store.revision(), everything(&*store, 0).await);
        store.close().await.unwrap();
        let store = SqliteStore::open(config(dir.path())).await.unwrap();
        assert_eq!((store.revision(), everything(&*store, 0).await), (revision, before), "{name}");
        store.close().await.unwrap();
    }
}

pub(super) fn fake_clock() -> Arc<FakeClock> {
    FakeClock::new(Timestamp::UNIX_EPOCH)
}
