//! The store against a model: one ordered map per revision.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{Error, EventKind, RangeRequest, Result, SortTarget, WatchRequest};

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    PutTwo(u8, u8),
    Delete(u8, u8),
    /// Compare-and-swap with the right or a wrong revision.
    Swap(u8, bool),
    /// At this share of the revisions.
    Compact(u8),
    Reopen,
    /// Without close, as after a crash of a process that had nothing relaxed to lose.
    Drop,
    Read {
        at: u8,
        from: u8,
        to: u8,
        limit: u8,
        descending: bool,
    },
    Watch {
        from: u8,
        start: u8,
        end: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let key = 0..12_u8;
    prop_oneof![
        6 => (key.clone(), any::<u8>()).prop_map(|(k, v)| Step::Put(k, v)),
        2 => (key.clone(), any::<u8>()).prop_map(|(k, v)| Step::PutTwo(k, v)),
        3 => (key.clone(), 0..5_u8).prop_map(|(k, n)| Step::Delete(k, n)),
        2 => (key.clone(), any::<bool>()).prop_map(|(k, right)| Step::Swap(k, right)),
        1 => any::<u8>().prop_map(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Drop),
        6 => (any::<u8>(), key.clone(), key.clone(), 0..4_u8, any::<bool>())
            .prop_map(|(at, from, to, limit, descending)| Step::Read { at, from, to, limit, descending }),
        3 => (any::<u8>(), key.clone(), key).prop_map(|(from, start, end)| Step::Watch { from, start, end }),
    ]
}

fn name(key: u8) -> Bytes {
    format!("k/{key:02}").into()
}

fn span(from: u8, to: u8) -> KeyRange {
    KeyRange { start: name(from), end: name(to) }
}

type State = BTreeMap<Bytes, KeyValue>;

/// `states[r]` is the state at revision `r`.
struct Model {
    states: Vec<State>,
    compacted: i64,
}

impl Model {
    fn revision(&self) -> i64 {
        self.states.len() as i64 - 1
    }

    fn now(&self) -> &State {
        self.states.last().unwrap()
    }

    fn put(&mut self, puts: &[(Bytes, Bytes)]) {
        let mut state = self.now().clone();
        let revision = self.revision() + 1;
        for (key, value) in puts {
            let (create_revision, version) =
                state.get(key).map_or((revision, 1), |kv| (kv.create_revision, kv.version + 1));
            let kv = KeyValue {
                key: key.clone(),
                value: value.clone(),
                create_revision,
                mod_revision: revision,
                version,
                lease: 0,
            };
            state.insert(key.clone(), kv);
        }
        self.states.push(state);
    }

    fn delete(&mut self, range: &KeyRange) {
        let mut state = self.now().clone();
        state.retain(|key, _| !range.contains(key));
        if state.len() < self.now().len() {
            self.states.push(state);
        }
    }

    /// Everything that happened in `range` from revision `from` on: kind, key, revision, value, value before.
    fn events(&self, range: &KeyRange, from: i64) -> Vec<(EventKind, Bytes, i64, Bytes, Option<KeyValue>)> {
        let mut events = Vec::new();
        for revision in from..=self.revision() {
            let (old, new) = (&self.states[revision as usize - 1], &self.states[revision as usize]);
            for (key, kv) in new.iter().filter(|(key, kv)| range.contains(key) && kv.mod_revision == revision) {
                events.push((EventKind::Put, key.clone(), revision, kv.value.clone(), old.get(key).cloned()));
            }
            for (key, kv) in old.iter().filter(|(key, _)| range.contains(key) && !new.contains_key(*key)) {
                events.push((EventKind::Delete, key.clone(), revision, Bytes::new(), Some(kv.clone())));
            }
        }
        events
    }
}

async fn run(steps: Vec<Step>, ring_events: usize) {
    let dir = tempfile::tempdir().unwrap();
    let config = SqliteConfig { ring_events, watch_buffer: 2, checkpoint_pages: 4, ..config(dir.path()) };
    let mut store = SqliteStore::open(config.clone()).await.unwrap();
    // Revisions 0 and 1 are empty.
    let mut model = Model { states: vec![State::new(), State::new()], compacted: 0 };
    for step in steps {
        let share = |part: u8| i64::from(part) * (model.revision() + 2) / 255;
        match step.clone() {
            Step::Put(key, value) => {
                store.txn(put(name(key), vec![value; 3])).await.unwrap();
                model.put(&[(name(key), vec![value; 3].into())]);
            }
            Step::PutTwo(key, value) => {
                let puts = [(name(key), vec![value].into()), (name(key + 1), vec![value; 5000].into())];
                let ops = puts.iter().cloned().map(|(k, v): (Bytes, Bytes)| Op::Put(PutRequest::new(k, v))).collect();
                store.txn(TxnRequest::ops(ops)).await.unwrap();
                model.put(&puts);
            }
            Step::Delete(key, more) => {
                let range = if more == 0 { KeyRange::key(name(key)) } else { span(key, key + more) };
                store.txn(delete(range.clone())).await.unwrap();
                model.delete(&range);
            }
            Step::Swap(key, right) => {
                let current = model.now().get(&name(key)).map_or(0, |kv| kv.mod_revision);
                let guess = if right { current } else { current + 1 };
                let op = Op::Put(PutRequest::new(name(key), "swapped"));
                let response = store.txn(TxnRequest::guarded(name(key), guess, op)).await.unwrap();
                assert_eq!(response.succeeded, right);
                if right {
                    model.put(&[(name(key), "swapped".into())]);
                }
            }
            Step::Compact(part) => {
                let revision = share(part);
                let answer = store.compact(revision).await;
                if revision <= model.compacted {
                    assert!(matches!(answer, Err(Error::Compacted { .. })), "{answer:?}");
                } else if revision > model.revision() {
                    assert!(matches!(answer, Err(Error::FutureRevision { .. })), "{answer:?}");
                } else {
                    answer.unwrap();
                    model.compacted = revision;
                }
            }
            Step::Reopen => {
                store.close().await.unwrap();
                store = SqliteStore::open(config.clone()).await.unwrap();
            }
            Step::Drop => {
                drop(store);
                store = SqliteStore::open(config.clone()).await.unwrap();
            }
            Step::Read { at, from, to, limit, descending } => {
                let revision = share(at).max(1);
                let request = RangeRequest {
                    revision,
                    limit: limit.into(),
                    descending,
                    sort: SortTarget::Key,
                    ..RangeRequest::of(span(from, to))
                };
                check_read(&model, &request, store.range(request.clone()).await);
            }
            Step::Watch { from, start, end } => {
                check_watch(&model, &*store, share(from).max(1), span(start, end)).await
            }
        }
        assert_eq!((store.revision(), store.compacted_revision()), (model.revision(), model.compacted), "{step:?}");
        assert_eq!(everything(&*store, 0).await, model.now().values().cloned().collect::<Vec<_>>(), "{step:?}");
    }
    for revision in model.compacted.max(1)..=model.revision() {
        let expected: Vec<_> = model.states[revision as usize].values().cloned().collect();
        assert_eq!(everything(&*store, revision).await, expected, "at {revision}");
    }
    store.close().await.unwrap();
}

fn check_read(model: &Model, request: &RangeRequest, answer: Result<crate::RangeResponse>) {
    if request.revision > model.revision() {
        assert!(matches!(answer, Err(Error::FutureRevision { .. })), "{answer:?}");
        return;
    }
    // The current revision can always be read.
    if request.revision < model.compacted && request.revision != model.revision() {
        assert!(matches!(answer, Err(Error::Compacted { .. })), "{answer:?}");
        return;
    }
    let answer = answer.unwrap();
    let state = &model.states[request.revision as usize];
    let mut expected: Vec<_> = state.values().filter(|kv| request.range.contains(&kv.key)).cloned().collect();
    assert_eq!((answer.count, answer.revision), (expected.len(), model.revision()));
    if request.descending {
        expected.reverse();
    }
    let limit = if request.limit == 0 { usize::MAX } else { request.limit };
    assert_eq!(answer.more, expected.len() > limit);
    expected.truncate(limit);
    assert_eq!(answer.kvs, expected);
}

async fn check_watch(model: &Model, store: &dyn Store, start_revision: i64, range: KeyRange) {
    let request = WatchRequest { range: range.clone(), start_revision, progress: false };
    let mut watcher = match store.watch(request).await {
        Ok(watcher) => watcher,
        Err(error) => {
            assert!(matches!(error, Error::Compacted { .. }) && start_revision < model.compacted, "{error}");
            return;
        }
    };
    assert!(start_revision >= model.compacted);
    let mut expected = model.events(&range, start_revision);
    let mut got = Vec::new();
    while got.len() < expected.len() {
        let batch = watcher.batches.recv().await.unwrap().unwrap();
        got.extend(batch.events.into_iter().map(|event| {
            let kv = event.kv.clone();
            (event.kind, kv.key, kv.mod_revision, kv.value, event.prev_kv.clone())
        }));
    }
    // Within a revision the order is that of the operations; the model knows only that of the keys.
    let order = |e: &(EventKind, Bytes, i64, Bytes, Option<KeyValue>)| (e.2, e.1.clone());
    assert!(got.is_sorted_by_key(|e| e.2));
    got.sort_by_key(order);
    expected.sort_by_key(order);
    assert_eq!(got, expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_the_model(steps in prop::collection::vec(step(), 1..60), ring in prop_oneof![Just(0), Just(3), Just(1000)]) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(run(steps, ring));
    }

    #[test]
    fn prefixes_contain_what_begins_with_them(
        prefix in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff), Just(0)], 0..4),
        key in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xff), Just(0)], 1..6),
    ) {
        let range = KeyRange::prefix(prefix.clone());
        // The one key that no range can hold is the empty one; [0] is the smallest.
        prop_assert_eq!(range.contains(&key), key.starts_with(&prefix));
        let mut longer = prefix.clone();
        longer.extend(&key);
        prop_assert!(range.contains(&longer));
    }

    #[test]
    fn bounds_agree_with_contains(
        start in prop::collection::vec(0..4_u8, 1..4),
        end in prop::collection::vec(0..4_u8, 0..4),
        keys in prop::collection::btree_set(prop::collection::vec(0..4_u8, 1..4), 0..20),
    ) {
        let range = KeyRange { start: start.into(), end: end.into() };
        let by_contains: Vec<_> = keys.iter().filter(|key| range.contains(key)).cloned().collect();
        let by_bounds: Vec<_> = super::super::state::bounds(&range)
            .map(|bounds| keys.range::<[u8], _>(bounds).cloned().collect())
            .unwrap_or_default();
        prop_assert_eq!(by_bounds, by_contains);
    }
}
