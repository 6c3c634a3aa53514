//! Names and lists of this group, checked as upstream does.
//!
//! Invariants:
//! - DN-1: a list that is too long is not looked into.

use apimachinery::goformat;
use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use crate::access::text;

const MAX_POOL: usize = 253;
const MAX_ID: usize = 32;

/// Every item, and that there are not too many.
pub(super) fn slice<'a, T>(
    errors: &mut ErrorList,
    path: &Path,
    list: &'a [T],
    max: usize,
    mut check: impl FnMut(&mut ErrorList, &Path, &'a T),
) -> bool {
    if list.len() > max {
        errors.too_many(path.clone(), list.len(), max);
        return false;
    }
    for (i, item) in list.iter().enumerate() {
        check(errors, &path.index(i), item);
    }
    true
}

/// As [`slice`], and no two items have the same key.
pub(super) fn set<'a, T>(
    errors: &mut ErrorList,
    path: &Path,
    list: &'a [T],
    max: usize,
    check: impl FnMut(&mut ErrorList, &Path, &'a T),
    key: impl Fn(&'a T) -> String,
) {
    if !slice(errors, path, list, max, check) {
        return;
    }
    let mut seen = std::collections::HashSet::new();
    for (i, item) in list.iter().enumerate() {
        let key = key(item);
        if !seen.insert(key.clone()) {
            errors.duplicate(path.index(i), key);
        }
    }
}

/// The name of a driver: a DNS subdomain of at most 63 bytes.
pub(super) fn driver(errors: &mut ErrorList, path: &Path, name: &str) {
    crate::core::podspec::validate_csi_driver_name(errors, name, path);
}

/// Domains separated by slashes.
pub(super) fn pool(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path.clone(), "");
        return;
    }
    if name.len() > MAX_POOL {
        errors.too_long(path.clone(), "", MAX_POOL);
    }
    for part in name.split('/') {
        errors.invalid_all(path, part, names::is_dns1123_subdomain(part));
    }
}

pub(super) fn label(errors: &mut ErrorList, path: &Path, name: &str) {
    errors.invalid_all(path, name, names::is_dns1123_label(name));
}

/// `memory`, or `gpu.example.com/memory`.
pub(super) fn qualified(errors: &mut ErrorList, path: &Path, name: &str) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [id] => identifier(errors, path, id),
        [domain, id] => {
            match domain {
                "" => errors.invalid(path.clone(), "", "the domain must not be empty"),
                domain => driver(errors, path, domain),
            }
            match id {
                "" => errors.invalid(path.clone(), "", "the name must not be empty"),
                id => identifier(errors, path, id),
            }
        }
        _ => errors.invalid(path.clone(), name, "must not contain more than one slash"),
    }
}

/// A qualified name that has its domain.
pub(super) fn fully_qualified(errors: &mut ErrorList, path: &Path, name: &str) {
    qualified(errors, path, name);
    if !name.contains('/') {
        let detail = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid(path.clone(), name, detail);
    }
}

fn identifier(errors: &mut ErrorList, path: &Path, id: &str) {
    if id.len() > MAX_ID {
        errors.too_long(path.clone(), "", MAX_ID);
    }
    errors.invalid_all(path, id, names::is_cidentifier(id));
}

pub(super) fn uid(errors: &mut ErrorList, path: &Path, uid: &str) {
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts: Vec<&str> = uid.split('-').collect();
    let canonical = matches!(parts[..], [a, b, c, d, e]
        if hex(a, 8) && hex(b, 4) && hex(c, 4) && hex(d, 4) && hex(e, 12));
    let bare = uid.trim_start_matches("urn:uuid:").trim_start_matches('{').trim_end_matches('}');
    let other = bare.len() != uid.len() || hex(bare, 32);
    if canonical && uid == uid.to_lowercase() {
        return;
    }
    if canonical || other {
        let detail = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";
        errors.invalid(path.clone(), uid, detail);
    } else if uid.len() == 36 {
        errors.invalid(path.clone(), uid, "error validating uid: invalid UUID format");
    } else {
        let detail = format!("error validating uid: invalid UUID length: {}", uid.len());
        errors.invalid(path.clone(), uid, &detail);
    }
}

/// A free-form object of a driver, at most `max` bytes long.
pub(super) fn raw(errors: &mut ErrorList, path: &Path, value: &Value, max: usize, stored: bool) {
    match value {
        Value::Null => errors.required(path.clone(), ""),
        value if !stored && goformat::json(value).len() > max => errors.too_long(path.clone(), "", max),
        Value::Object(_) => {}
        _ => errors.invalid(path.clone(), "<value omitted>", "must be a valid JSON object"),
    }
}

pub(super) const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

pub(super) fn toleration(errors: &mut ErrorList, path: &Path, toleration: &Value) {
    let (key, value) = (text(toleration, "key"), text(toleration, "value"));
    if !key.is_empty() {
        errors.invalid_all(&path.child("key"), key, names::is_qualified_name(key));
    }
    let at = path.child("operator");
    match text(toleration, "operator") {
        "Exists" if !value.is_empty() => {
            errors.invalid(path.child("value"), value, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => errors.invalid_all(&path.child("value"), value, names::is_valid_label_value(value)),
        "" => errors.required(at, ""),
        operator => errors.not_supported(at, operator, &["Equal", "Exists"]),
    }
    let effect = text(toleration, "effect");
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.not_supported(path.child("effect"), effect, EFFECTS);
    }
}

/// The conditions that a device waits for before its pod is bound, and those that end the waiting.
pub(super) fn binding(errors: &mut ErrorList, path: &Path, device: &Value) {
    const MAX: usize = 4;
    const READY: &str = "bindingConditions";
    const FAILED: &str = "bindingFailureConditions";
    let (ready, failed) = (crate::access::texts(device, READY), crate::access::texts(device, FAILED));
    for (field, list) in [(READY, &ready), (FAILED, &failed)] {
        slice(errors, &path.child(field), list, MAX, |errors, path, name| {
            errors.invalid_all(path, name, names::is_qualified_name(name));
        });
    }
    for (i, name) in ready.iter().enumerate().filter(|(i, name)| ready[..*i].contains(name)) {
        errors.duplicate(path.child(READY).index(i), *name);
    }
    for (i, name) in failed.iter().enumerate() {
        if failed[..i].contains(name) {
            errors.duplicate(path.child(FAILED).index(i), *name);
        }
        if ready.contains(name) {
            let detail = "bindingFailureConditions must not overlap with bindingConditions";
            errors.invalid(path.child(FAILED).index(i), *name, detail);
        }
    }
    if ready.is_empty() && !failed.is_empty() {
        let detail = "bindingConditions are required to use bindingFailureConditions";
        errors.invalid(path.child(READY), Value::Null, detail);
    }
    if failed.is_empty() && !ready.is_empty() {
        let detail = "bindingFailureConditions are required to use bindingConditions";
        errors.invalid(path.child(FAILED), Value::Null, detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::messages;

    fn of(check: fn(&mut ErrorList, &Path, &str), value: &str) -> Vec<String> {
        let mut errors = ErrorList::new();
        check(&mut errors, &Path::new("x"), value);
        messages(&errors)
    }

    #[test]
    fn names() {
        assert!(of(qualified, "memory").is_empty() && of(qualified, "a.b/memory").is_empty());
        assert_eq!(of(qualified, "/a"), ["x: Invalid value: \"\": the domain must not be empty"]);
        assert_eq!(of(qualified, "a/b/c"), ["x: Invalid value: \"a/b/c\": must not contain more than one slash"]);
        assert!(of(pool, "a.b/c.d").is_empty());
        assert_eq!(of(pool, "a//b").len(), 1);
        assert!(of(uid, "11111111-2222-3333-4444-aaaaaaaaaaaa").is_empty());
        assert_eq!(of(uid, "abc"), ["x: Invalid value: \"abc\": error validating uid: invalid UUID length: 3"]);
        assert_eq!(of(uid, "11111111-2222-3333-4444-AAAAAAAAAAAA").len(), 1);
    }

    #[test]
    fn binding_conditions_come_in_pairs() {
        let mut errors = ErrorList::new();
        let device = serde_json::json!({"bindingConditions": ["a", "a"], "bindingFailureConditions": ["a"]});
        binding(&mut errors, &Path::new("d"), &device);
        assert_eq!(
            messages(&errors),
            [
                "d.bindingConditions[1]: Duplicate value: \"a\"",
                "d.bindingFailureConditions[0]: Invalid value: \"a\": bindingFailureConditions must not overlap with bindingConditions",
            ]
        );
    }
}
