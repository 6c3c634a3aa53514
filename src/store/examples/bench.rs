//! Measures the store in-process: `cargo run --release -p store --example bench [directory]`.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use component_base::{Clock, RealClock, TaskGroup};
use store::{
    KeyRange, Op, OpResponse, PutRequest, RangeRequest, SqliteConfig, SqliteStore, Store, TxnRequest, WatchRequest,
};

const VALUE: usize = 2048;

fn put(key: String, value: Vec<u8>) -> TxnRequest {
    TxnRequest::ops(vec![Op::Put(PutRequest::new(key, value))])
}

/// Puts per second, and the median and 99th percentile of the time each took.
async fn puts(
    store: &Arc<SqliteStore>,
    writers: usize,
    total: usize,
    prefix: &'static str,
) -> (f64, Duration, Duration) {
    let clock = RealClock;
    let group = TaskGroup::new();
    let started = clock.instant();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let store = Arc::clone(store);
            group.spawn(async move {
                let mut times = Vec::with_capacity(total / writers);
                for i in 0..total / writers {
                    let from = clock.instant();
                    store.txn(put(format!("{prefix}/{writer}/{}", i % 100), vec![b'v'; VALUE])).await.unwrap();
                    times.push(clock.instant() - from);
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.unwrap().unwrap());
    }
    let took = clock.instant() - started;
    group.stop().await;
    times.sort_unstable();
    (times.len() as f64 / took.as_secs_f64(), times[times.len() / 2], times[times.len() * 99 / 100])
}

fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default().trim().to_owned()
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[tokio::main]
async fn main() {
    let clock = RealClock;
    let root = std::env::args().nth(1).map_or_else(|| std::env::current_dir().unwrap(), PathBuf::from);
    let dir = tempfile::tempdir_in(root).unwrap();
    let mut config = SqliteConfig::new(dir.path().join("state.db"), RealClock::shared());
    config.relaxed_prefixes = vec!["relaxed/".into()];

    let file = std::fs::File::create(dir.path().join("fsync")).unwrap();
    let from = clock.instant();
    for i in 0..500_u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &[1; 4096], i % 10 * 4096).unwrap();
        file.sync_data().unwrap();
    }
    println!("disk: {:.0} write + fdatasync/s", 500.0 / (clock.instant() - from).as_secs_f64());

    let store = SqliteStore::open(config.clone()).await.unwrap();
    println!("rss empty: {}", status("VmRSS:"));
    for (writers, total) in [(1, 3000), (8, 16_000), (64, 64_000), (512, 102_400)] {
        let before = written();
        let (rate, p50, p99) = puts(&store, writers, total, "bench").await;
        let amplification = (written() - before) as f64 / (total * VALUE) as f64;
        println!(
            "put, {writers} writers: {rate:.0}/s p50 {p50:?} p99 {p99:?}, {amplification:.1} bytes written per byte"
        );
    }
    let (rate, p50, p99) = puts(&store, 64, 64_000, "relaxed").await;
    println!("relaxed put, 64 writers: {rate:.0}/s p50 {p50:?} p99 {p99:?}");

    for watchers in [1, 100, 1000] {
        let mut open = Vec::new();
        for _ in 0..watchers {
            let request = WatchRequest { range: KeyRange::prefix("watched/"), start_revision: 0, progress: false };
            open.push(store.watch(request).await.unwrap());
        }
        let group = TaskGroup::new();
        let readers: Vec<_> = open
            .into_iter()
            .map(|mut watcher| {
                group.spawn(async move {
                    let mut seen = 0;
                    while seen < 500 {
                        seen += watcher.batches.recv().await.unwrap().unwrap().events.len();
                    }
                })
            })
            .collect();
        let from = clock.instant();
        for i in 0..500 {
            store.txn(put(format!("watched/{i}"), vec![b'v'; VALUE])).await.unwrap();
        }
        for reader in readers {
            reader.await.unwrap();
        }
        let took = clock.instant() - from;
        println!("watch: 500 events to {watchers} watchers in {took:?}");
        group.stop().await;
    }

    let response = store.txn(TxnRequest::ops(vec![Op::Delete { range: KeyRange::prefix("bench/"), prev_kv: false }]));
    if let OpResponse::Delete { deleted, .. } = &response.await.unwrap().responses[0] {
        println!("deleted {deleted} keys in one revision");
    }
    store.compact(store.revision()).await.unwrap();
    let (rate, p50, p99) = puts(&store, 64, 64_000, "bench").await;
    println!("put while sweeping, 64 writers: {rate:.0}/s p50 {p50:?} p99 {p99:?}");
    store.close().await.unwrap();
    drop(store);
    println!("rss closed: {}", status("VmRSS:"));

    config.path = dir.path().join("many.db");
    let store = SqliteStore::open(config.clone()).await.unwrap();
    for batch in 0..1000 {
        let ops = (0..100).map(|i| {
            let key = format!("many/{:06}", batch * 100 + i);
            Op::Put(PutRequest::new(key, vec![b'v'; VALUE]))
        });
        store.txn(TxnRequest::ops(ops.collect())).await.unwrap();
    }
    println!("rss with 100k keys of 2 KiB: {}", status("VmRSS:"));
    for limit in [1, 100, 10_000, 100_000] {
        let end = format!("many/{limit:06}").into();
        let request = RangeRequest::of(KeyRange { start: "many/000000".into(), end });
        let rounds = 400_000 / (limit + 20);
        let from = clock.instant();
        for _ in 0..rounds {
            store.range(request.clone()).await.unwrap();
        }
        println!("range of {limit} keys: {:?}", (clock.instant() - from) / rounds);
    }
    store.close().await.unwrap();
    drop(store);
    let from = clock.instant();
    let store = SqliteStore::open(config).await.unwrap();
    println!("open with 100k keys: {:?}", clock.instant() - from);
    store.close().await.unwrap();
}
