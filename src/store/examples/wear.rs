//! Measures what upkeep costs: how long writers wait beside the compaction of many revisions, and how much an idle
//! cluster writes with and without the relaxed class: `cargo run --release -p store --example wear [directory [revisions]]`.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods)]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use component_base::{Clock, FakeClock, RealClock, TaskGroup};
use store::{AutoCompaction, Maintenance as _, Op, PutRequest, SqliteConfig, SqliteStore, Store, TxnRequest};

fn put(key: String, bytes: usize) -> TxnRequest {
    TxnRequest::ops(vec![Op::Put(PutRequest::new(key, vec![b'v'; bytes]))])
}

fn written() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("write_bytes: ")).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Writers that put until they are stopped; returns every time a put took.
async fn putting(store: &Arc<SqliteStore>, beside: impl Future<Output = ()>) -> Vec<Duration> {
    let (group, stop) = (TaskGroup::new(), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, stop) = (Arc::clone(store), Arc::clone(&stop));
            group.spawn(async move {
                let (clock, mut times) = (RealClock, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let from = clock.instant();
                    store.txn(put(format!("beside/{writer}/{}", times.len() % 100), 500)).await.unwrap();
                    times.push(clock.instant() - from);
                }
                times
            })
        })
        .collect();
    beside.await;
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for writer in writers {
        times.extend(writer.await.unwrap().unwrap());
    }
    times.sort_unstable();
    times
}

fn show(what: &str, times: &[Duration]) {
    let at = |part: usize| times[times.len() * part / 1000];
    println!(
        "{what}: {} puts, p50 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        times.len(),
        at(500),
        at(990),
        at(999),
        times[times.len() - 1]
    );
}

async fn compaction(root: &Path, revisions: usize) {
    let clock = RealClock;
    let dir = tempfile::tempdir_in(root).unwrap();
    let mut config = SqliteConfig::new(dir.path().join("state.db"), RealClock::shared());
    config.auto_compaction = AutoCompaction::Off;
    let store = SqliteStore::open(config).await.unwrap();
    let group = TaskGroup::new();
    let writers: Vec<_> = (0..256)
        .map(|writer| {
            let store = Arc::clone(&store);
            group.spawn(async move {
                for i in 0..revisions / 256 {
                    store.txn(put(format!("old/{writer}/{}", i % 8), 500)).await.unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap().unwrap();
    }
    let bytes = store.size().await.unwrap().bytes;
    println!("{} revisions, {} MiB", store.revision(), bytes >> 20);
    let times = putting(&store, async { clock.sleep(Duration::from_secs(5)).await }).await;
    show("before", &times);
    let from = clock.instant();
    let beside = async {
        store.compact(store.revision()).await.unwrap();
        store.wait_swept().await.unwrap();
        println!("swept in {:?}", clock.instant() - from);
    };
    show("while compacting and sweeping", &putting(&store, beside).await);
    let from = clock.instant();
    let beside = async {
        store.defragment().await.unwrap();
        println!("vacuumed in {:?}", clock.instant() - from);
    };
    show("while vacuuming", &putting(&store, beside).await);
    println!("now {} MiB", store.size().await.unwrap().bytes >> 20);
    store.close().await.unwrap();
}

/// An hour of a quiet cluster of one node: its lease every ten seconds, and an event every thirty.
async fn idle(root: &Path, relaxed: bool) {
    const HOUR: u64 = 3600;
    let dir = tempfile::tempdir_in(root).unwrap();
    let clock = FakeClock::new(jiff::Timestamp::UNIX_EPOCH);
    let mut config = SqliteConfig::new(dir.path().join("state.db"), clock.clone());
    if relaxed {
        config.relaxed_prefixes = vec!["/registry/leases/".into(), "/registry/events/".into()];
    }
    let store = SqliteStore::open(config).await.unwrap();
    store.txn(put("/registry/leases/first".into(), 10)).await.unwrap();
    let before = written();
    for second in 0..HOUR {
        if second % 10 == 0 {
            store.txn(put("/registry/leases/kube-node-lease/node-1".into(), 450)).await.unwrap();
        }
        if second % 30 == 0 {
            store.txn(put(format!("/registry/events/default/pod.{second}"), 900)).await.unwrap();
        }
        clock.advance(Duration::from_secs(1));
        // The timers run on other threads.
        RealClock.sleep(Duration::from_millis(2)).await;
    }
    let bytes = written() - before;
    store.close().await.unwrap();
    let name = if relaxed { "leases and events relaxed" } else { "all durable at once" };
    println!("idle, {name}: {} bytes/s, {} KiB in an hour", bytes / HOUR, bytes >> 10);
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let root = arguments.next().map_or_else(|| std::env::current_dir().unwrap(), PathBuf::from);
    let revisions = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1_000_000);
    idle(&root, false).await;
    idle(&root, true).await;
    compaction(&root, revisions).await;
}
