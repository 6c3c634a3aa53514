//! What every backend of [`Store`] must do, as one table of checks against `&dyn Store`.
//!
//! Each check uses keys under a prefix of its own and relative revisions, so that all may run against one store, also a
//! real etcd. A check panics when the store does not conform. Checks that compact do so only at revisions they made.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Compare, CompareResult, CompareTarget, Error, Event, EventKind, KeyRange, KeyValue, Op, OpResponse, PutRequest,
    RangeRequest, RangeResponse, Revision, SortTarget, Store, TxnRequest, TxnResponse, WatchRequest, Watcher,
};

type Check = for<'a> fn(&'a dyn Store) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => { &[$((stringify!($name), |store| Box::pin($name(store)))),*] };
}

/// Every check, by name. Later ones may compact what earlier ones wrote: run them in this order or apart.
pub const CHECKS: &[(&str, Check)] = checks![
    versions_count_up,
    range_options,
    range_filters_and_order,
    range_of_the_past,
    put_options,
    delete_ranges,
    compares,
    compares_over_ranges,
    transactions_are_one_revision,
    nested_transactions,
    duplicate_keys,
    failed_transactions_change_nothing,
    bad_requests,
    watch_from_now,
    watch_from_the_past,
    watch_from_the_future,
    watch_sees_whole_revisions,
    leases_hold_keys,
    compaction,
];

/// Runs every check.
pub async fn run(store: &dyn Store) {
    for (_, check) in CHECKS {
        check(store).await;
    }
}

fn put(key: &str, value: &str) -> Op {
    Op::Put(PutRequest::new(key.to_owned(), value.to_owned()))
}

fn delete(range: KeyRange) -> Op {
    Op::Delete { range, prev_kv: true }
}

fn key(key: &str) -> KeyRange {
    KeyRange::key(key.to_owned())
}

fn span(start: &str, end: &str) -> KeyRange {
    KeyRange { start: start.to_owned().into(), end: end.to_owned().into() }
}

async fn write(store: &dyn Store, ops: Vec<Op>) -> TxnResponse {
    store.txn(TxnRequest::ops(ops)).await.unwrap()
}

async fn put_one(store: &dyn Store, key: &str, value: &str) -> Revision {
    write(store, vec![put(key, value)]).await.revision
}

async fn read(store: &dyn Store, request: RangeRequest) -> RangeResponse {
    store.range(request).await.unwrap()
}

fn keys(kvs: &[KeyValue]) -> Vec<&str> {
    kvs.iter().map(|kv| std::str::from_utf8(&kv.key).unwrap()).collect()
}

fn values(kvs: &[KeyValue]) -> Vec<&str> {
    kvs.iter().map(|kv| std::str::from_utf8(&kv.value).unwrap()).collect()
}

/// Receives until `count` events are there; no more may come with them.
pub async fn receive(watcher: &mut Watcher, count: usize) -> Vec<Arc<Event>> {
    let mut events: Vec<Arc<Event>> = Vec::new();
    while events.len() < count {
        let batch = watcher.batches.recv().await.expect("the watch goes on").expect("the watch goes on");
        assert!(batch.events.iter().all(|event| event.kv.mod_revision <= batch.revision));
        events.extend(batch.events);
    }
    assert_eq!(events.len(), count, "{events:?}");
    events
}

async fn versions_count_up(store: &dyn Store) {
    let first = put_one(store, "ver/a", "1").await;
    let second = put_one(store, "ver/a", "2").await;
    assert_eq!(second, first + 1);
    assert_eq!(store.revision(), second);
    let kv = store.get(b"ver/a").await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (first, second, 2));
    assert_eq!(write(store, vec![delete(key("ver/a"))]).await.revision, second + 1);
    assert_eq!(store.get(b"ver/a").await.unwrap(), None);
    let again = put_one(store, "ver/a", "3").await;
    let kv = store.get(b"ver/a").await.unwrap().unwrap();
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (again, again, 1));
}

async fn range_options(store: &dyn Store) {
    for name in ["a", "b", "b/x", "c"] {
        put_one(store, &format!("opt/{name}"), name).await;
    }
    let all = read(store, RangeRequest::prefix(b"opt/")).await;
    assert_eq!(keys(&all.kvs), ["opt/a", "opt/b", "opt/b/x", "opt/c"]);
    assert_eq!((all.count, all.more, all.revision), (4, false, store.revision()));
    let two = read(store, RangeRequest::prefix(b"opt/").limit(2)).await;
    assert_eq!((keys(&two.kvs), two.count, two.more), (vec!["opt/a", "opt/b"], 4, true));
    let four = read(store, RangeRequest::prefix(b"opt/").limit(4)).await;
    assert_eq!((four.kvs.len(), four.more), (4, false));
    let bare = read(store, RangeRequest { keys_only: true, ..RangeRequest::prefix(b"opt/b") }).await;
    assert_eq!((keys(&bare.kvs), values(&bare.kvs)), (vec!["opt/b", "opt/b/x"], vec!["", ""]));
    assert!(bare.kvs[0].mod_revision > 0);
    let count = read(store, RangeRequest { count_only: true, ..RangeRequest::prefix(b"opt/") }).await;
    assert_eq!((count.kvs.len(), count.count, count.more), (0, 4, false));
    let half_open = read(store, RangeRequest::of(span("opt/a", "opt/b"))).await;
    assert_eq!(keys(&half_open.kvs), ["opt/a"]);
    let upside_down = read(store, RangeRequest::of(span("opt/b", "opt/a"))).await;
    assert_eq!((upside_down.count, upside_down.kvs.len()), (0, 0));
    let from = KeyRange { start: "opt/b/x".into(), end: Bytes::from_static(&[0]) };
    let from = read(store, RangeRequest::of(from)).await;
    assert_eq!(keys(&from.kvs)[..2], ["opt/b/x", "opt/c"]);
    assert_eq!(read(store, RangeRequest::key(b"opt/none")).await.count, 0);
    let everything = read(store, RangeRequest { count_only: true, ..RangeRequest::prefix(b"") }).await;
    assert!(everything.count >= 4);
}

async fn range_filters_and_order(store: &dyn Store) {
    let first = put_one(store, "ord/a", "3").await;
    put_one(store, "ord/b", "2").await;
    put_one(store, "ord/c", "1").await;
    let last = put_one(store, "ord/a", "4").await;
    let of = |sort, descending| RangeRequest { sort, descending, ..RangeRequest::prefix(b"ord/") };
    for (sort, up) in
        [(SortTarget::Key, "abc"), (SortTarget::Value, "cba"), (SortTarget::Create, "abc"), (SortTarget::Mod, "bca")]
    {
        let ascending = read(store, of(sort, false)).await;
        let got: String = ascending.kvs.iter().map(|kv| char::from(kv.key[4])).collect();
        assert_eq!(got, up, "{sort:?}");
        let descending = read(store, of(sort, true)).await;
        let got: String = descending.kvs.iter().rev().map(|kv| char::from(kv.key[4])).collect();
        assert_eq!(got, up, "{sort:?}");
    }
    let most = read(store, of(SortTarget::Version, true).limit(1)).await;
    assert_eq!((keys(&most.kvs), most.more, most.count), (vec!["ord/a"], true, 3));
    let base = RangeRequest::prefix(b"ord/");
    let changed = read(store, RangeRequest { min_mod_revision: last, ..base.clone() }).await;
    assert_eq!((keys(&changed.kvs), changed.count), (vec!["ord/a"], 3));
    let unchanged = read(store, RangeRequest { max_mod_revision: last - 1, ..base.clone() }).await;
    assert_eq!(keys(&unchanged.kvs), ["ord/b", "ord/c"]);
    let oldest = read(store, RangeRequest { max_create_revision: first, ..base.clone() }).await;
    assert_eq!(keys(&oldest.kvs), ["ord/a"]);
    let newer = read(store, RangeRequest { min_create_revision: first + 1, limit: 1, ..base }).await;
    assert_eq!((keys(&newer.kvs), newer.more), (vec!["ord/b"], true));
}

async fn range_of_the_past(store: &dyn Store) {
    let first = put_one(store, "past/a", "1").await;
    let second = write(store, vec![put("past/a", "2"), put("past/b", "2")]).await.revision;
    let third = write(store, vec![delete(KeyRange::prefix("past/"))]).await.revision;
    put_one(store, "past/b", "4").await;
    let at = |revision| RangeRequest::prefix(b"past/").at(revision);
    assert_eq!(read(store, at(first - 1)).await.count, 0);
    assert_eq!(values(&read(store, at(first)).await.kvs), ["1"]);
    let middle = read(store, at(second)).await;
    assert_eq!((values(&middle.kvs), middle.revision), (vec!["2", "2"], store.revision()));
    assert_eq!((middle.kvs[0].create_revision, middle.kvs[0].version), (first, 2));
    assert_eq!(read(store, at(third)).await.count, 0);
    assert_eq!(values(&read(store, at(third + 1)).await.kvs), ["4"]);
    let limited = read(store, at(second).limit(1)).await;
    assert_eq!((keys(&limited.kvs), limited.more, limited.count), (vec!["past/a"], true, 2));
    let future = store.range(at(store.revision() + 1)).await;
    assert!(matches!(future, Err(Error::FutureRevision { .. })), "{future:?}");
}

async fn put_options(store: &dyn Store) {
    let lease = store.lease_grant(0, 600).await.unwrap().id;
    let with = |f: &dyn Fn(&mut PutRequest)| {
        let mut request = PutRequest::new("po/a", "");
        f(&mut request);
        Op::Put(request)
    };
    let ignore_value = with(&|r| r.ignore_value = true);
    let missing = store.txn(TxnRequest::ops(vec![ignore_value.clone()])).await;
    assert!(matches!(missing, Err(Error::KeyNotFound)), "{missing:?}");
    put_one(store, "po/a", "1").await;
    let response = write(store, vec![with(&|r| (r.ignore_value, r.lease, r.prev_kv) = (true, lease, true))]).await;
    let [OpResponse::Put { prev_kv: Some(prev) }] = &response.responses[..] else { panic!("{response:?}") };
    assert_eq!((prev.lease, &prev.value[..]), (0, &b"1"[..]));
    write(store, vec![with(&|r| (r.ignore_lease, r.value) = (true, "2".into()))]).await;
    let kv = store.get(b"po/a").await.unwrap().unwrap();
    assert_eq!((&kv.value[..], kv.lease, kv.version), (&b"2"[..], lease, 3));
    let both = store.txn(TxnRequest::ops(vec![with(&|r| (r.ignore_value, r.value) = (true, "x".into()))])).await;
    assert!(matches!(both, Err(Error::ValueProvided)), "{both:?}");
    let both = store.txn(TxnRequest::ops(vec![with(&|r| (r.ignore_lease, r.lease) = (true, lease))])).await;
    assert!(matches!(both, Err(Error::LeaseProvided)), "{both:?}");
    let unknown = store.txn(TxnRequest::ops(vec![with(&|r| r.lease = lease ^ 1)])).await;
    assert!(matches!(unknown, Err(Error::LeaseNotFound(id)) if id == lease ^ 1), "{unknown:?}");
    store.lease_revoke(lease).await.unwrap();
}

async fn delete_ranges(store: &dyn Store) {
    write(store, vec![put("del/a", "1"), put("del/b", "2"), put("dem", "3")]).await;
    let before = store.revision();
    let nothing = write(store, vec![delete(key("del/none"))]).await;
    assert_eq!((nothing.revision, store.revision()), (before, before));
    let response = write(store, vec![delete(KeyRange::prefix("del/"))]).await;
    assert_eq!(response.revision, before + 1);
    let [OpResponse::Delete { deleted: 2, prev_kvs }] = &response.responses[..] else { panic!("{response:?}") };
    assert_eq!(values(prev_kvs), ["1", "2"]);
    assert!(store.get(b"dem").await.unwrap().is_some());
}

async fn compares(store: &dyn Store) {
    put_one(store, "cmp/a", "b").await;
    put_one(store, "cmp/a", "m").await;
    let kv = store.get(b"cmp/a").await.unwrap().unwrap();
    let numbers: [(fn(i64) -> CompareTarget, i64); 4] = [
        (CompareTarget::Version, kv.version),
        (CompareTarget::Create, kv.create_revision),
        (CompareTarget::Mod, kv.mod_revision),
        (CompareTarget::Lease, kv.lease),
    ];
    let mut cases = Vec::new();
    for (target, actual) in numbers {
        for wanted in [actual - 1, actual, actual + 1] {
            cases.push(("cmp/a", target(wanted), Some(actual.cmp(&wanted))));
            cases.push(("cmp/none", target(wanted), Some(0.cmp(&wanted))));
        }
    }
    for wanted in ["a", "m", "z"] {
        cases.push(("cmp/a", CompareTarget::Value(wanted.into()), Some("m".cmp(wanted))));
        cases.push(("cmp/none", CompareTarget::Value(wanted.into()), None));
    }
    for (name, target, ordering) in cases {
        for (result, holds) in [
            (CompareResult::Equal, ordering.is_some_and(|o| o.is_eq())),
            (CompareResult::NotEqual, ordering.is_some_and(|o| o.is_ne())),
            (CompareResult::Greater, ordering.is_some_and(|o| o.is_gt())),
            (CompareResult::Less, ordering.is_some_and(|o| o.is_lt())),
        ] {
            let compare = Compare { range: key(name), target: target.clone(), result };
            let label = format!("{compare:?}");
            let request = TxnRequest { compares: vec![compare], success: vec![], failure: vec![] };
            assert_eq!(store.txn(request).await.unwrap().succeeded, holds, "{label}");
        }
    }
    // Compare-and-swap as the API server does it.
    let stale = TxnRequest::guarded("cmp/a", kv.mod_revision - 1, put("cmp/a", "n"));
    let response = store.txn(stale).await.unwrap();
    assert!(!response.succeeded);
    let [OpResponse::Range(range)] = &response.responses[..] else { panic!("{response:?}") };
    assert_eq!(range.kvs, std::slice::from_ref(&kv));
    let fresh = TxnRequest::guarded("cmp/a", kv.mod_revision, put("cmp/a", "n"));
    assert!(store.txn(fresh).await.unwrap().succeeded);
    assert!(store.txn(TxnRequest::guarded("cmp/new", 0, put("cmp/new", "1"))).await.unwrap().succeeded);
    assert!(!store.txn(TxnRequest::guarded("cmp/new", 0, put("cmp/new", "1"))).await.unwrap().succeeded);
}

async fn compares_over_ranges(store: &dyn Store) {
    write(store, vec![put("cr/a", "1"), put("cr/b", "1")]).await;
    put_one(store, "cr/b", "1").await;
    let holds = async |range: KeyRange, target, result| {
        let compares = vec![Compare { range, target, result }];
        store.txn(TxnRequest { compares, success: vec![], failure: vec![] }).await.unwrap().succeeded
    };
    let range = || KeyRange::prefix("cr/");
    assert!(holds(range(), CompareTarget::Version(0), CompareResult::Greater).await);
    assert!(!holds(range(), CompareTarget::Version(1), CompareResult::Equal).await);
    assert!(holds(range(), CompareTarget::Value("1".into()), CompareResult::Equal).await);
    // Nothing there compares as zeros.
    assert!(holds(KeyRange::prefix("cr/none"), CompareTarget::Version(0), CompareResult::Equal).await);
    assert!(!holds(KeyRange::prefix("cr/none"), CompareTarget::Value("".into()), CompareResult::Equal).await);
}

async fn transactions_are_one_revision(store: &dyn Store) {
    put_one(store, "tx/old", "0").await;
    let before = store.revision();
    let request = TxnRequest {
        compares: vec![Compare::mod_revision("tx/a", 0)],
        success: vec![
            put("tx/a", "1"),
            Op::Range(RangeRequest::prefix(b"tx/")),
            delete(key("tx/old")),
            Op::Range(RangeRequest::prefix(b"tx/")),
            Op::Range(RangeRequest::prefix(b"tx/").at(before)),
        ],
        failure: vec![],
    };
    let response = store.txn(request).await.unwrap();
    assert_eq!((response.revision, response.succeeded), (before + 1, true));
    let seen: Vec<_> = response
        .responses
        .iter()
        .filter_map(|response| match response {
            OpResponse::Range(range) => Some(keys(&range.kvs)),
            _ => None,
        })
        .collect();
    assert_eq!(seen, [vec!["tx/a", "tx/old"], vec!["tx/a"], vec!["tx/old"]]);
    assert_eq!(store.revision(), before + 1);
    // One that only reads takes no revision.
    let reads = write(store, vec![Op::Range(RangeRequest::key(b"tx/a"))]).await;
    assert_eq!((reads.revision, store.revision()), (before + 1, before + 1));
}

async fn nested_transactions(store: &dyn Store) {
    put_one(store, "nest/a", "1").await;
    let before = store.revision();
    let inner = TxnRequest {
        // Sees the state before the whole transaction.
        compares: vec![Compare::mod_revision("nest/b", 0)],
        success: vec![put("nest/c", "then")],
        failure: vec![put("nest/c", "else")],
    };
    let response = write(store, vec![put("nest/b", "1"), Op::Txn(inner)]).await;
    assert_eq!(response.revision, before + 1);
    let OpResponse::Txn(nested) = &response.responses[1] else { panic!("{response:?}") };
    assert!(nested.succeeded);
    let kv = store.get(b"nest/c").await.unwrap().unwrap();
    assert_eq!((&kv.value[..], kv.mod_revision), (&b"then"[..], before + 1));
}

async fn duplicate_keys(store: &dyn Store) {
    let nested = |then: Vec<Op>, or: Vec<Op>| {
        Op::Txn(TxnRequest { compares: vec![Compare::mod_revision("dup/x", 0)], success: then, failure: or })
    };
    let before = store.revision();
    let bad = vec![
        vec![put("dup/a", "1"), put("dup/a", "2")],
        vec![put("dup/a", "1"), delete(key("dup/a"))],
        vec![delete(KeyRange::prefix("dup/")), put("dup/a", "1")],
        vec![put("dup/a", "1"), nested(vec![put("dup/a", "1")], vec![])],
        vec![nested(vec![], vec![put("dup/a", "1")]), put("dup/a", "1")],
        vec![nested(vec![put("dup/a", "1")], vec![]), nested(vec![put("dup/a", "1")], vec![])],
        vec![delete(key("dup/a")), nested(vec![put("dup/a", "1")], vec![])],
        vec![nested(vec![delete(key("dup/a"))], vec![]), put("dup/a", "1")],
        vec![nested(vec![put("dup/a", "1"), put("dup/a", "1")], vec![])],
    ];
    for ops in bad {
        let label = format!("{ops:?}");
        let answer = store.txn(TxnRequest::ops(ops)).await;
        assert!(matches!(answer, Err(Error::DuplicateKey)), "{label}: {answer:?}");
    }
    assert_eq!(store.revision(), before);
    // Branches that exclude each other may write the same, and deletes may overlap.
    write(store, vec![nested(vec![put("dup/a", "1")], vec![put("dup/a", "2")])]).await;
    write(store, vec![delete(KeyRange::prefix("dup/")), delete(key("dup/a"))]).await;
}

async fn failed_transactions_change_nothing(store: &dyn Store) {
    put_one(store, "fail/a", "1").await;
    let before = store.revision();
    let unknown_lease = Op::Put(PutRequest { lease: 0x7abc, ..PutRequest::new("fail/b", "1") });
    let answer = store.txn(TxnRequest::ops(vec![put("fail/a", "2"), unknown_lease])).await;
    assert!(matches!(answer, Err(Error::LeaseNotFound(0x7abc))), "{answer:?}");
    let future = Op::Range(RangeRequest::key(b"fail/a").at(before + 5));
    let answer = store.txn(TxnRequest::ops(vec![put("fail/a", "2"), future])).await;
    assert!(matches!(answer, Err(Error::FutureRevision { .. })), "{answer:?}");
    assert_eq!(store.revision(), before);
    assert_eq!(&store.get(b"fail/a").await.unwrap().unwrap().value[..], b"1");
}

async fn bad_requests(store: &dyn Store) {
    let empty = KeyRange::key("");
    assert!(matches!(store.range(RangeRequest::of(empty.clone())).await, Err(Error::EmptyKey)));
    for op in [put("", "1"), delete(empty.clone()), Op::Range(RangeRequest::of(empty.clone()))] {
        assert!(matches!(store.txn(TxnRequest::ops(vec![op])).await, Err(Error::EmptyKey)));
    }
    let compares = vec![Compare::mod_revision("", 0)];
    let answer = store.txn(TxnRequest { compares, success: vec![], failure: vec![] }).await;
    assert!(matches!(answer, Err(Error::EmptyKey)), "{answer:?}");
    let large = PutRequest::new("bad/large", vec![0; 4 << 20]);
    let answer = store.txn(TxnRequest::ops(vec![Op::Put(large)])).await;
    assert!(matches!(answer, Err(Error::TooLarge { .. })), "{answer:?}");
}

async fn watch_from_now(store: &dyn Store) {
    put_one(store, "wn/a", "0").await;
    let open = async |range| store.watch(WatchRequest { range, start_revision: 0, progress: false }).await.unwrap();
    let mut prefix = open(KeyRange::prefix("wn/")).await;
    let mut one = open(key("wn/a")).await;
    assert_eq!(prefix.revision, store.revision());
    let first = put_one(store, "wn/a", "1").await;
    put_one(store, "elsewhere", "1").await;
    put_one(store, "wn/b", "2").await;
    let last = write(store, vec![delete(key("wn/a"))]).await.revision;
    let events = receive(&mut prefix, 3).await;
    assert_eq!(events[0].kind, EventKind::Put);
    assert_eq!((events[0].kv.mod_revision, events[0].kv.version), (first, 2));
    assert_eq!(events[0].prev_kv.as_ref().map(|kv| &kv.value[..]), Some(&b"0"[..]));
    assert_eq!((&events[1].kv.key[..], &events[1].prev_kv), (&b"wn/b"[..], &None));
    assert_eq!((events[2].kind, &events[2].kv.key[..]), (EventKind::Delete, &b"wn/a"[..]));
    assert_eq!((events[2].kv.mod_revision, events[2].kv.version, events[2].kv.create_revision), (last, 0, 0));
    assert!(events[2].kv.value.is_empty());
    assert_eq!(events[2].prev_kv.as_ref().map(|kv| &kv.value[..]), Some(&b"1"[..]));
    let same = receive(&mut one, 2).await;
    assert_eq!((&same[0], &same[1]), (&events[0], &events[2]));
}

async fn watch_from_the_past(store: &dyn Store) {
    let first = put_one(store, "wp/a", "1").await;
    put_one(store, "wp/a", "2").await;
    write(store, vec![delete(key("wp/a"))]).await;
    let start = |start_revision| WatchRequest { range: KeyRange::prefix("wp/"), start_revision, progress: false };
    let mut all = store.watch(start(first)).await.unwrap();
    let mut rest = store.watch(start(first + 1)).await.unwrap();
    let events = receive(&mut all, 3).await;
    assert_eq!(events[1].prev_kv.as_ref(), Some(&events[0].kv));
    assert_eq!(events[2].prev_kv.as_ref(), Some(&events[1].kv));
    assert_eq!(receive(&mut rest, 2).await, events[1..]);
    put_one(store, "wp/b", "4").await;
    assert_eq!(receive(&mut all, 1).await, receive(&mut rest, 1).await);
}

async fn watch_from_the_future(store: &dyn Store) {
    let now = put_one(store, "wf/a", "1").await;
    let request = WatchRequest { range: KeyRange::prefix("wf/"), start_revision: now + 3, progress: false };
    let mut watcher = store.watch(request).await.unwrap();
    for value in ["2", "3", "4", "5"] {
        put_one(store, "wf/a", value).await;
    }
    let events = receive(&mut watcher, 2).await;
    assert_eq!((events[0].kv.mod_revision, events[1].kv.mod_revision), (now + 3, now + 4));
}

async fn watch_sees_whole_revisions(store: &dyn Store) {
    let before = store.revision();
    let request = WatchRequest { range: KeyRange::prefix("ww/"), start_revision: before + 1, progress: false };
    let mut live = store.watch(request.clone()).await.unwrap();
    for round in 0..3 {
        write(store, (0..5).map(|i| put(&format!("ww/{i}"), &format!("{round}"))).collect()).await;
    }
    let mut late = store.watch(request).await.unwrap();
    for watcher in [&mut live, &mut late] {
        let mut seen = 0;
        while seen < 15 {
            let batch = watcher.batches.recv().await.unwrap().unwrap();
            seen += batch.events.len();
            assert_eq!(seen % 5, 0, "a revision is split");
        }
    }
}

async fn leases_hold_keys(store: &dyn Store) {
    let lease = store.lease_grant(0, 600).await.unwrap();
    assert_eq!(lease.ttl_seconds, 600);
    let taken = store.lease_grant(lease.id, 5).await;
    assert!(matches!(taken, Err(Error::LeaseExists(id)) if id == lease.id), "{taken:?}");
    let too_long = store.lease_grant(0, i64::MAX).await;
    assert!(matches!(too_long, Err(Error::LeaseTtlTooLarge)), "{too_long:?}");
    let leased = |name: &'static str| Op::Put(PutRequest { lease: lease.id, ..PutRequest::new(name, "1") });
    write(store, vec![leased("le/a"), leased("le/b"), leased("le/c")]).await;
    // A put without the lease detaches.
    put_one(store, "le/c", "2").await;
    write(store, vec![delete(key("le/b"))]).await;
    let status = store.lease_time_to_live(lease.id).await.unwrap();
    assert_eq!(status.keys, ["le/a"]);
    assert!(status.remaining_seconds > 590 && status.remaining_seconds <= 600, "{status:?}");
    assert!(store.leases().await.unwrap().contains(&lease.id));
    assert_eq!(store.lease_keep_alive(lease.id).await.unwrap(), lease);
    write(store, vec![leased("le/b")]).await;
    let before = store.revision();
    let revision = store.lease_revoke(lease.id).await.unwrap();
    assert_eq!(revision, before + 1);
    assert_eq!(keys(&read(store, RangeRequest::prefix(b"le/")).await.kvs), ["le/c"]);
    assert_eq!(store.lease_time_to_live(lease.id).await.unwrap().remaining_seconds, -1);
    let gone = store.lease_revoke(lease.id).await;
    assert!(matches!(gone, Err(Error::LeaseNotFound(_))), "{gone:?}");
    let gone = store.lease_keep_alive(lease.id).await;
    assert!(matches!(gone, Err(Error::LeaseNotFound(_))), "{gone:?}");
}

async fn compaction(store: &dyn Store) {
    let first = put_one(store, "co/a", "1").await;
    let second = put_one(store, "co/a", "2").await;
    put_one(store, "co/b", "2").await;
    write(store, vec![delete(key("co/b"))]).await;
    let third = put_one(store, "co/a", "3").await;
    let last = put_one(store, "co/a", "4").await;
    store.compact(third).await.unwrap();
    assert_eq!(store.compacted_revision(), third);
    assert_eq!(store.revision(), last);
    for revision in [first, second, third - 1] {
        let answer = store.range(RangeRequest::key(b"co/a").at(revision)).await;
        assert!(matches!(answer, Err(Error::Compacted { compacted }) if compacted == third), "{answer:?}");
    }
    let at = read(store, RangeRequest::prefix(b"co/").at(third)).await;
    assert_eq!(values(&at.kvs), ["3"]);
    assert_eq!(values(&read(store, RangeRequest::prefix(b"co/")).await.kvs), ["4"]);
    let watch = |start_revision| WatchRequest { range: KeyRange::prefix("co/"), start_revision, progress: false };
    match store.watch(watch(second)).await {
        Err(Error::Compacted { compacted }) => assert_eq!(compacted, third),
        Err(error) => panic!("{error}"),
        Ok(mut watcher) => {
            let end = watcher.batches.recv().await.unwrap();
            assert!(matches!(end, Err(Error::Compacted { .. })), "{end:?}");
        }
    }
    let mut watcher = store.watch(watch(third)).await.unwrap();
    let events = receive(&mut watcher, 2).await;
    assert_eq!((events[0].kv.mod_revision, events[1].kv.mod_revision), (third, last));
    assert_eq!(events[1].prev_kv.as_ref().map(|kv| &kv.value[..]), Some(&b"3"[..]));
    let again = store.compact(third).await;
    assert!(matches!(again, Err(Error::Compacted { .. })), "{again:?}");
    let future = store.compact(last + 100).await;
    assert!(matches!(future, Err(Error::FutureRevision { .. })), "{future:?}");
}
