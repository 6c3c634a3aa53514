//! A checker of linearizability (Wing and Gong's search with Lowe's memory, as Porcupine), and the model of an etcd.
//!
//! Invariants:
//! - LC-1: a history is accepted only if there is an order of its operations, each between its call and its return, in
//!   which the model gives every answer that was given. One without an answer may have happened at any time between its
//!   call and the end that is known of it, or not at all.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;

/// What is right, one operation after the other.
pub trait Model: Clone + Eq + Hash {
    type Call;
    type Answer: PartialEq;

    fn apply(&self, call: &Self::Call) -> (Self, Self::Answer);
}

pub struct Operation<C, A> {
    pub call: C,
    pub answer: Option<A>,
    pub called: u64,
    /// Without an answer: when it can no longer happen, 0 if that is unknown.
    pub returned: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    operation: usize,
    returns: bool,
    previous: usize,
    next: usize,
}

/// `Err`: the most operations that could be ordered, and the first that then could not.
pub fn check<M: Model>(start: M, history: &[Operation<M::Call, M::Answer>]) -> Result<(), (usize, usize)> {
    // Entries in order of time, as a list from which operations are taken. Entry 0 is its head.
    let mut times: Vec<(u64, bool, usize)> = Vec::new();
    for (i, operation) in history.iter().enumerate() {
        times.push((operation.called, false, i));
        let returned = if operation.returned == 0 { u64::MAX } else { operation.returned };
        times.push((returned, true, i));
    }
    times.sort_unstable();
    let mut list = vec![Entry { operation: usize::MAX, returns: false, previous: 0, next: 1 }];
    let (mut call_of, mut return_of) = (vec![0; history.len()], vec![0; history.len()]);
    for (at, (_, returns, operation)) in times.iter().enumerate() {
        list.push(Entry { operation: *operation, returns: *returns, previous: at, next: at + 2 });
        let of = if *returns { &mut return_of } else { &mut call_of };
        of[*operation] = at + 1;
    }
    let end = list.len();
    let unlink = |list: &mut Vec<Entry>, at: usize| {
        let Entry { previous, next, .. } = list[at];
        list[previous].next = next;
        if next < end {
            list[next].previous = previous;
        }
    };
    let relink = |list: &mut Vec<Entry>, at: usize| {
        let Entry { previous, next, .. } = list[at];
        list[previous].next = at;
        if next < end {
            list[next].previous = at;
        }
    };

    let mut state = start;
    let mut done = vec![0_u64; history.len().div_ceil(64)];
    let mut known: HashSet<(Vec<u64>, M)> = HashSet::new();
    let mut chosen: Vec<(usize, M)> = Vec::new();
    let mut furthest = (0, 0);
    let mut at = list[0].next;
    while at < end {
        let Entry { operation, returns, next, .. } = list[at];
        if !returns {
            let (after, answer) = state.apply(&history[operation].call);
            let fits = match &history[operation].answer {
                Some(given) => *given == answer,
                // What has no effect need not have happened.
                None => after != state,
            };
            if fits {
                done[operation / 64] |= 1 << (operation % 64);
                if known.insert((done.clone(), after.clone())) {
                    chosen.push((at, std::mem::replace(&mut state, after)));
                    unlink(&mut list, at);
                    unlink(&mut list, return_of[operation]);
                    at = list[0].next;
                    continue;
                }
                done[operation / 64] &= !(1 << (operation % 64));
            }
            at = next;
            continue;
        }
        if history[operation].answer.is_none() {
            // It has not happened.
            done[operation / 64] |= 1 << (operation % 64);
            chosen.push((at, state.clone()));
            unlink(&mut list, call_of[operation]);
            unlink(&mut list, at);
            at = list[0].next;
            continue;
        }
        if chosen.len() >= furthest.0 {
            furthest = (chosen.len(), operation);
        }
        loop {
            let Some((undo, before)) = chosen.pop() else { return Err(furthest) };
            let operation = list[undo].operation;
            done[operation / 64] &= !(1 << (operation % 64));
            state = before;
            if list[undo].returns {
                // There was no choice.
                relink(&mut list, undo);
                relink(&mut list, call_of[operation]);
                continue;
            }
            relink(&mut list, return_of[operation]);
            relink(&mut list, undo);
            at = list[undo].next;
            break;
        }
    }
    Ok(())
}

/// An etcd of few keys: every answer is with the revision.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Etcd {
    pub revision: i64,
    pub keys: BTreeMap<u8, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Value {
    pub value: u64,
    pub created: i64,
    pub modified: i64,
    pub version: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    Get(u8),
    /// Every key.
    List,
    Put(u8, u64),
    Delete(u8),
    /// If the key has this value (or none), it gets the new one; otherwise it is read.
    Swap(u8, Option<u64>, u64),
    /// If the first key exists, both get the value; otherwise both are deleted.
    Both(u8, u8, u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub revision: i64,
    pub succeeded: bool,
    pub deleted: i64,
    pub found: Vec<(u8, Value)>,
}

impl Etcd {
    /// As a new one.
    pub fn new() -> Self {
        Self { revision: 1, keys: BTreeMap::new() }
    }

    fn put(&mut self, key: u8, value: u64) {
        let revision = self.revision + 1;
        let old = self.keys.get(&key);
        let (created, version) = old.map_or((revision, 1), |old| (old.created, old.version + 1));
        self.keys.insert(key, Value { value, created, modified: revision, version });
    }
}

impl Model for Etcd {
    type Call = Call;
    type Answer = Answer;

    fn apply(&self, call: &Call) -> (Self, Answer) {
        let mut after = self.clone();
        let mut answer = Answer { revision: 0, succeeded: true, deleted: 0, found: Vec::new() };
        let read = |key: u8| self.keys.get(&key).map(|value| (key, *value));
        match *call {
            Call::Get(key) => answer.found.extend(read(key)),
            Call::List => answer.found.extend(self.keys.iter().map(|(key, value)| (*key, *value))),
            Call::Put(key, value) => after.put(key, value),
            Call::Delete(key) => answer.deleted = i64::from(after.keys.remove(&key).is_some()),
            Call::Swap(key, old, new) => {
                answer.succeeded = self.keys.get(&key).map(|now| now.value) == old;
                if answer.succeeded {
                    after.put(key, new);
                } else {
                    answer.found.extend(read(key));
                }
            }
            Call::Both(first, second, value) => {
                answer.succeeded = self.keys.contains_key(&first);
                for key in [first, second] {
                    if answer.succeeded {
                        after.put(key, value);
                    } else {
                        answer.deleted += i64::from(after.keys.remove(&key).is_some());
                    }
                }
            }
        }
        if after.keys != self.keys {
            after.revision += 1;
        }
        answer.revision = after.revision;
        (after, answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register of one number.
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    struct Register(u64);

    enum Do {
        Write(u64),
        Read,
    }

    impl Model for Register {
        type Call = Do;
        type Answer = u64;

        fn apply(&self, call: &Do) -> (Self, u64) {
            match call {
                Do::Write(value) => (Self(*value), 0),
                Do::Read => (self.clone(), self.0),
            }
        }
    }

    fn write(value: u64, called: u64, returned: u64) -> Operation<Do, u64> {
        Operation { call: Do::Write(value), answer: (returned > 0).then_some(0), called, returned }
    }

    fn read(value: u64, called: u64, returned: u64) -> Operation<Do, u64> {
        Operation { call: Do::Read, answer: Some(value), called, returned }
    }

    fn good(history: &[Operation<Do, u64>]) -> bool {
        check(Register(0), history).is_ok()
    }

    #[test]
    fn good_histories_are_accepted() {
        assert!(good(&[]));
        assert!(good(&[read(0, 1, 2), write(1, 3, 4), read(1, 5, 6)]));
        // Reads beside a write see the old value or the new one, in this order.
        assert!(good(&[write(1, 1, 10), read(0, 2, 3), read(1, 4, 5), read(1, 6, 7)]));
        // Porcupine's own example.
        assert!(good(&[write(100, 0, 100), read(100, 25, 75), read(0, 30, 60)]));
        // Two writes at once: either order.
        for last in [1, 2] {
            assert!(good(&[write(1, 1, 10), write(2, 2, 9), read(last, 11, 12)]));
        }
        // Without an answer: it happened late, or never.
        assert!(good(&[write(1, 1, 0), read(0, 2, 3), read(1, 4, 5)]));
        assert!(good(&[write(1, 1, 0), read(0, 2, 3), read(0, 4, 5)]));
        let ended = || Operation { call: Do::Write(1), answer: None, called: 1, returned: 3 };
        assert!(good(&[ended(), read(0, 4, 5)]) && good(&[ended(), read(1, 4, 5)]));
    }

    #[test]
    fn bad_histories_are_refused() {
        assert!(!good(&[read(1, 1, 2)]));
        // A lost write, a stale read.
        assert!(!good(&[write(1, 1, 2), read(0, 3, 4)]));
        // Back in time.
        assert!(!good(&[write(1, 1, 10), read(1, 2, 3), read(0, 4, 5)]));
        assert!(!good(&[write(200, 0, 100), read(200, 10, 30), read(0, 40, 90)]));
        // Two readers that disagree about the order of two writes.
        let both = [write(1, 1, 4), write(2, 2, 5), read(1, 6, 7), read(2, 8, 9)];
        assert!(!good(&both));
        // Read before anybody wrote it.
        assert!(!good(&[read(1, 1, 2), write(1, 3, 0)]));
        // Too late.
        let ended = Operation { call: Do::Write(1), answer: None, called: 1, returned: 3 };
        assert!(!good(&[ended, read(0, 4, 5), read(1, 6, 7)]));
        // It happened, so it cannot be undone.
        assert!(!good(&[write(1, 1, 0), read(1, 2, 3), read(0, 4, 5)]));
        assert_eq!(check(Register(0), &both), Err((3, 3)));
    }

    #[test]
    fn the_model_of_etcd_counts_revisions() {
        let mut state = Etcd::new();
        let mut then = |call| {
            let (after, answer) = state.apply(&call);
            state = after;
            answer
        };
        assert_eq!(then(Call::Delete(1)).revision, 1, "nothing was done");
        assert_eq!(then(Call::Put(1, 7)).revision, 2);
        assert!(!then(Call::Swap(1, None, 8)).succeeded);
        let answer = then(Call::Swap(1, Some(7), 8));
        assert_eq!((answer.revision, answer.succeeded), (3, true));
        assert_eq!(then(Call::Both(1, 2, 9)).revision, 4, "two keys, one revision");
        let value = Value { value: 9, created: 2, modified: 4, version: 3 };
        assert_eq!(then(Call::Get(1)).found, [(1, value)]);
        let answer = then(Call::Both(3, 1, 9));
        assert_eq!((answer.revision, answer.succeeded, answer.deleted), (5, false, 1));
        // A put of the same value is a write too.
        assert_eq!(then(Call::Put(2, 9)).revision, 6);
    }
}
