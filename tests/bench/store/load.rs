//! The loads.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, PutOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchOptions,
};
use tokio::sync::Mutex;

use super::VALUE;

/// Clients share connections, as the goroutines of an API server do.
const CONNECTIONS: usize = 8;

/// How long each request took, and how long all of them together.
pub(super) struct Figures {
    times: Vec<Duration>,
    took: Duration,
}

impl Figures {
    fn new(mut times: Vec<Duration>, took: Duration) -> Self {
        times.sort_unstable();
        Self { times, took }
    }

    pub(super) fn count(&self) -> usize {
        self.times.len()
    }

    pub(super) fn rate(&self) -> f64 {
        self.times.len() as f64 / self.took.as_secs_f64()
    }

    fn percentile(&self, percent: usize) -> f64 {
        let at = (self.times.len() * percent / 100).min(self.times.len().saturating_sub(1));
        self.times.get(at).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }

    pub(super) fn text(&self) -> String {
        format!("{:.0}/s, p50 {:.2} ms, p99 {:.2} ms", self.rate(), self.percentile(50), self.percentile(99))
    }
}

async fn connections(url: &str, clients: usize) -> Vec<Client> {
    let mut all = Vec::new();
    for _ in 0..clients.min(CONNECTIONS) {
        all.push(Client::connect([url], None).await.expect("the server answers"));
    }
    all
}

/// Runs `clients` loops of `request` for `time`; the number of the client and of its round are given.
async fn run<F, Fut>(url: &str, clients: usize, time: Duration, request: F) -> Figures
where
    F: Fn(Client, usize, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let connections = connections(url, clients).await;
    let request = Arc::new(request);
    let begun = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (connection, request) = (connections[client % connections.len()].clone(), Arc::clone(&request));
            tokio::spawn(async move {
                let mut times = Vec::new();
                for round in 0.. {
                    let from = Instant::now();
                    if from - begun >= time {
                        break;
                    }
                    request(connection.clone(), client, round).await;
                    times.push(from.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no request fails"));
    }
    Figures::new(times, begun.elapsed())
}

pub(super) async fn puts(url: &str, clients: usize, time: Duration) -> Figures {
    run(url, clients, time, |mut connection, client, round| async move {
        let key = format!("put/{client:03}/{:02}", round % 20);
        connection.put(key, vec![b'v'; VALUE], None).await.expect("it is written");
    })
    .await
}

/// What `mixed` tells apart.
pub(super) const KINDS: [&str; 4] = ["create (txn)", "update (txn)", "get", "list of 500"];

/// As a kube-apiserver: for each object a create, gets, and updates guarded by what was read; now and then a page of a list.
pub(super) async fn mixed(url: &str, clients: usize, time: Duration) -> [Figures; 4] {
    fill(url, "mixed/list/", 0..1000).await;
    let kinds: Arc<[Mutex<Vec<Duration>>; 4]> = Arc::default();
    let shared = Arc::clone(&kinds);
    let all = run(url, clients, time, move |mut connection, client, round| {
        let kinds = Arc::clone(&shared);
        async move {
            let key = format!("mixed/{client:03}/{round:06}");
            let guarded = |key: &str, revision: i64| {
                Txn::new()
                    .when([Compare::mod_revision(key, CompareOp::Equal, revision)])
                    .and_then([TxnOp::put(key, vec![b'v'; VALUE], Some(PutOptions::new()))])
                    .or_else([TxnOp::get(key, None)])
            };
            let from = Instant::now();
            let created = connection.txn(guarded(&key, 0)).await.expect("it is written");
            assert!(created.succeeded());
            kinds[0].lock().await.push(from.elapsed());
            let mut revision = created.header().expect("it has a header").revision();
            for _ in 0..3 {
                let from = Instant::now();
                let found = connection.get(key.as_str(), None).await.expect("it is read");
                kinds[2].lock().await.push(from.elapsed());
                assert_eq!(found.kvs()[0].mod_revision(), revision);
                let from = Instant::now();
                let updated = connection.txn(guarded(&key, revision)).await.expect("it is written");
                kinds[1].lock().await.push(from.elapsed());
                assert!(updated.succeeded() && !matches!(updated.op_responses()[0], TxnOpResponse::Get(_)));
                revision = updated.header().expect("it has a header").revision();
            }
            if round % 8 == 0 {
                let from = Instant::now();
                let options = GetOptions::new().with_prefix().with_limit(500);
                connection.get("mixed/list/", Some(options)).await.expect("it is read");
                kinds[3].lock().await.push(from.elapsed());
            }
        }
    })
    .await;
    let times = Arc::try_unwrap(kinds).expect("all tasks have ended");
    times.map(|times| Figures::new(times.into_inner(), all.took))
}

/// Puts objects of 2 KiB, a hundred at a time.
pub(super) async fn fill(url: &str, prefix: &str, numbers: Range<usize>) {
    let mut client = Client::connect([url], None).await.expect("the server answers");
    let numbers: Vec<usize> = numbers.collect();
    for chunk in numbers.chunks(100) {
        let put = |i: &usize| TxnOp::put(format!("{prefix}{i:06}"), vec![b'v'; VALUE], None);
        let txn = Txn::new().and_then(chunk.iter().map(put).collect::<Vec<_>>());
        client.txn(txn).await.expect("it is written");
    }
}

pub(super) async fn ranges(url: &str, keys: usize, clients: usize, time: Duration) -> Figures {
    run(url, clients, time, move |connection, client, round| async move {
        let from = if keys >= 10_000 { 0 } else { (client * 1009 + round * 101) % (10_000 - keys) };
        let end = format!("range/{:06}", from + keys);
        let options = GetOptions::new().with_range(end).with_sort(SortTarget::Key, SortOrder::Ascend);
        let mut kv = connection.kv_client().max_decoding_message_size(1 << 30);
        let found = kv.get(format!("range/{from:06}"), Some(options)).await.expect("it is read");
        assert_eq!(found.kvs().len(), keys);
    })
    .await
}

/// `events` puts, one after the other; each is timed from before it is sent until each watcher has it.
pub(super) async fn watches(url: &str, watchers: usize, events: usize) -> Figures {
    let mut connections = connections(url, watchers).await;
    let prefix = format!("watched/{watchers}/");
    let begun = Instant::now();
    let mut tasks = Vec::new();
    for i in 0..watchers {
        let count = connections.len();
        let options = WatchOptions::new().with_prefix();
        let mut stream = connections[i % count].watch(prefix.as_str(), Some(options)).await.expect("it is watched");
        let created = stream.message().await.expect("it is watched").expect("it is watched");
        assert!(created.created());
        tasks.push(tokio::spawn(async move {
            let mut times = Vec::with_capacity(events);
            while times.len() < events {
                let message = stream.message().await.expect("it goes on").expect("it goes on");
                let now = begun.elapsed();
                for event in message.events() {
                    let value = event.kv().expect("it has a key").value();
                    let sent = u64::from_le_bytes(value[..8].try_into().expect("8 bytes"));
                    times.push(now.saturating_sub(Duration::from_nanos(sent)));
                }
            }
            times
        }));
    }
    let from = Instant::now();
    for i in 0..events {
        let mut value = vec![b'v'; VALUE];
        let now = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        value[..8].copy_from_slice(&now.to_le_bytes());
        connections[0].put(format!("{prefix}{i:04}"), value, None).await.expect("it is written");
    }
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("the watch goes on"));
    }
    Figures::new(times, from.elapsed())
}
