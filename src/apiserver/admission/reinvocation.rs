//! Mutating hooks that are asked again, because something that came after them changed the object.
//!
//! Invariants:
//! - RE-1: everything is asked at most twice, and in the second round only who asked for it, or who is part of the
//!   server.
//! - RE-2: in the second round nobody is asked for the first time.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;
use serde_json::Value;

/// What is known of one request's rounds.
#[derive(Debug, Default)]
pub struct Reinvocation(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    second: bool,
    wanted: bool,
    plugins: BTreeMap<&'static str, Plugin>,
}

#[derive(Debug, Default)]
struct Plugin {
    last: Option<Value>,
    /// Asked already, and willing to be asked again.
    willing: BTreeSet<String>,
    again: BTreeSet<String>,
}

impl Plugin {
    fn call(&mut self) {
        self.again.append(&mut self.willing);
    }
}

impl Reinvocation {
    /// Begins the second round, if somebody wants one.
    pub fn next_round(&self) -> bool {
        let mut state = self.0.lock();
        state.second = state.wanted && !state.second;
        state.second
    }

    /// 0 or 1.
    pub fn round(&self) -> usize {
        usize::from(self.0.lock().second)
    }

    /// A plugin with hooks begins its round.
    pub fn begin(&self, plugin: &'static str, object: &Value) {
        let mut state = self.0.lock();
        let second = state.second;
        let own = state.plugins.entry(plugin).or_default();
        if second && own.last.as_ref() != Some(object) {
            own.call();
        }
    }

    /// RE-2: whether a hook is asked in this round.
    pub fn asks(&self, plugin: &'static str, hook: &str) -> bool {
        let state = self.0.lock();
        !state.second || state.plugins.get(plugin).is_some_and(|own| own.again.contains(hook))
    }

    /// A hook changed the object.
    pub fn changed(&self, plugin: &'static str) {
        let mut state = self.0.lock();
        state.wanted = true;
        state.plugins.entry(plugin).or_default().call();
    }

    /// A hook was asked that may be asked again.
    pub fn willing(&self, plugin: &'static str, hook: &str) {
        self.0.lock().plugins.entry(plugin).or_default().willing.insert(hook.to_owned());
    }

    pub fn end(&self, plugin: &'static str, object: &Value) {
        self.0.lock().plugins.entry(plugin).or_default().last = Some(object.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_second_round_asks_whom_a_later_change_concerns() {
        let rounds = Reinvocation::default();
        rounds.begin("p", &json!(1));
        assert!(rounds.asks("p", "a") && rounds.asks("p", "b"));
        rounds.willing("p", "a");
        rounds.changed("p");
        rounds.willing("p", "b");
        rounds.end("p", &json!(2));
        assert!(rounds.next_round());
        rounds.begin("p", &json!(2));
        assert!(rounds.asks("p", "a") && !rounds.asks("p", "b"));
        // Another plugin changed the object meanwhile.
        rounds.begin("p", &json!(3));
        assert!(rounds.asks("p", "b"));
        assert!(!rounds.next_round());
    }

    #[test]
    fn no_change_no_second_round() {
        let rounds = Reinvocation::default();
        rounds.willing("p", "a");
        assert!(!rounds.next_round());
        assert_eq!(rounds.round(), 0);
    }
}
