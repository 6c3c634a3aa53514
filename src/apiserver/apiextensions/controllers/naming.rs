//! Which names a definition gets, and when it is established.
//!
//! Invariants:
//! - NC-1: a name that another definition of the group has is not accepted; a name once accepted stays.
//! - NC-2: a definition once established stays so.

use std::collections::BTreeSet;

use api::apiextensions::conditions::{self, Condition, ESTABLISHED, NAMES_ACCEPTED};
use apimachinery::goformat::quote;
use serde_json::{Map, Value};

/// Updates the accepted names and the conditions about them. True: something changed. `others` are the accepted names of
/// the other definitions of the group.
pub fn decide(crd: &mut Value, others: &[Value], now: &str) -> bool {
    let wanted = crd["spec"]["names"].clone();
    let accepted = crd["status"]["acceptedNames"].clone();
    if same_names(&wanted, &accepted) {
        return false;
    }
    let mut used = Used::default();
    others.iter().chain([&accepted]).for_each(|names| used.add(names));
    let (names, condition) = decide_names(&wanted, &accepted, &used);
    let known = conditions::find(crd, NAMES_ACCEPTED).is_some_and(|known| condition.equals(known));
    if known && same_names(&names, &accepted) {
        return false;
    }
    crd["status"]["acceptedNames"] = names;
    let accepted = condition.status == "True";
    conditions::set(crd, &condition, now);
    if !conditions::is_true(crd, ESTABLISHED) {
        if accepted {
            const MESSAGE: &str = "the initial names have been accepted";
            conditions::set(crd, &Condition::new(ESTABLISHED, "False", "Installing", MESSAGE), now);
        } else if conditions::find(crd, ESTABLISHED).is_none() {
            const MESSAGE: &str = "not all names are accepted";
            conditions::set(crd, &Condition::new(ESTABLISHED, "False", "NotAccepted", MESSAGE), now);
        }
    }
    true
}

/// Establishes a definition whose names are accepted. True: it was not established before.
pub fn establish(crd: &mut Value, now: &str) -> bool {
    if conditions::is_true(crd, ESTABLISHED) || !conditions::is_true(crd, NAMES_ACCEPTED) {
        return false;
    }
    const MESSAGE: &str = "the initial names have been accepted";
    conditions::set(crd, &Condition::new(ESTABLISHED, "True", "InitialNamesAccepted", MESSAGE), now);
    true
}

#[derive(Default)]
struct Used {
    resources: BTreeSet<String>,
    kinds: BTreeSet<String>,
}

impl Used {
    fn add(&mut self, names: &Value) {
        let text = |key: &str| names[key].as_str().unwrap_or_default().to_owned();
        self.resources.extend([text("plural"), text("singular")]);
        self.resources.extend(list(names, "shortNames").iter().map(|name| (*name).to_owned()));
        self.kinds.extend([text("kind"), text("listKind")]);
    }
}

fn list<'a>(names: &'a Value, key: &str) -> Vec<&'a str> {
    names[key].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn text<'a>(names: &'a Value, key: &str) -> &'a str {
    names[key].as_str().unwrap_or_default()
}

/// The names that are accepted, and the condition that says so.
fn decide_names(wanted: &Value, accepted: &Value, used: &Used) -> (Value, Condition) {
    let mut names = accepted.as_object().cloned().unwrap_or_default();
    let mut conflict: Option<(&str, String)> = None;
    let single = |key: &'static str, taken: &BTreeSet<String>, names: &mut Map<String, Value>| {
        let (new, old) = (text(wanted, key), text(accepted, key));
        if new != old && taken.contains(new) {
            return Some(format!("{} is already in use", quote(new)));
        }
        put(names, key, Value::from(new), new.is_empty() && key != "plural" && key != "kind");
        None
    };
    for (key, reason) in [("plural", "PluralConflict"), ("singular", "SingularConflict")] {
        if let Some(message) = single(key, &used.resources, &mut names) {
            conflict = Some((reason, message));
        }
    }
    let (short, had) = (list(wanted, "shortNames"), list(accepted, "shortNames"));
    if short != had {
        let own =
            |name: &str| had.contains(&name) || name == text(accepted, "plural") || name == text(accepted, "singular");
        let mut taken: Vec<String> = Vec::new();
        for name in short.iter().filter(|name| !own(name) && !name.is_empty() && used.resources.contains(**name)) {
            let message = format!("{} is already in use", quote(name));
            if !taken.contains(&message) {
                taken.push(message);
            }
        }
        match taken.len() {
            0 => put(&mut names, "shortNames", wanted["shortNames"].clone(), short.is_empty()),
            1 => conflict = Some(("ShortNamesConflict", taken.swap_remove(0))),
            _ => conflict = Some(("ShortNamesConflict", format!("[{}]", taken.join(", ")))),
        }
    }
    for (key, reason) in [("kind", "KindConflict"), ("listKind", "ListKindConflict")] {
        if let Some(message) = single(key, &used.kinds, &mut names) {
            conflict = Some((reason, message));
        }
    }
    put(&mut names, "categories", wanted["categories"].clone(), list(wanted, "categories").is_empty());
    let condition = match conflict {
        Some((reason, message)) => Condition::new(NAMES_ACCEPTED, "False", reason, message),
        None => Condition::new(NAMES_ACCEPTED, "True", "NoConflicts", "no conflicts found"),
    };
    (Value::Object(names), condition)
}

fn put(names: &mut Map<String, Value>, key: &str, value: Value, absent: bool) {
    if absent {
        names.remove(key);
    } else {
        names.insert(key.to_owned(), value);
    }
}

fn same_names(a: &Value, b: &Value) -> bool {
    let texts = ["plural", "singular", "kind", "listKind"].iter().all(|key| text(a, key) == text(b, key));
    texts && ["shortNames", "categories"].iter().all(|key| list(a, key) == list(b, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn crd(plural: &str, kind: &str, short: &[&str]) -> Value {
        let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind,
            "listKind": format!("{kind}List"), "shortNames": short});
        json!({"spec": {"names": names}, "status": {"conditions": null, "acceptedNames": {"plural": "", "kind": ""}}})
    }

    fn reason<'a>(crd: &'a Value, ty: &str) -> (&'a str, &'a str) {
        let found = conditions::find(crd, ty).expect("a condition");
        (text(found, "status"), text(found, "reason"))
    }

    #[test]
    fn the_first_gets_the_names() {
        let mut first = crd("foos", "Foo", &["f"]);
        assert!(decide(&mut first, &[], "t") && !decide(&mut first, &[], "t"));
        assert_eq!(reason(&first, NAMES_ACCEPTED), ("True", "NoConflicts"));
        assert_eq!(reason(&first, ESTABLISHED), ("False", "Installing"));
        assert!(establish(&mut first, "t") && !establish(&mut first, "t"));
        assert_eq!(first["status"]["acceptedNames"], first["spec"]["names"]);
        let others = [first["status"]["acceptedNames"].clone()];
        let mut second = crd("bars", "Foo", &[]);
        assert!(decide(&mut second, &others, "t") && !establish(&mut second, "t"));
        assert_eq!(reason(&second, NAMES_ACCEPTED), ("False", "ListKindConflict"));
        assert_eq!(reason(&second, ESTABLISHED), ("False", "NotAccepted"));
        assert_eq!(second["status"]["acceptedNames"], json!({"plural": "bars", "kind": ""}));
        assert!(!decide(&mut second, &others, "t"));
        assert!(decide(&mut second, &[], "t"));
        assert_eq!(reason(&second, NAMES_ACCEPTED), ("True", "NoConflicts"));
        let mut third = crd("zs", "Z", &["f", "foos"]);
        assert!(decide(&mut third, &others, "t"));
        let message = text(conditions::find(&third, NAMES_ACCEPTED).expect("a condition"), "message").to_owned();
        assert_eq!(message, "[\"f\" is already in use, \"foos\" is already in use]");
    }
}
