//! The names of a definition, wanted or accepted.

use apimachinery::validation::{ErrorList, Path, names};
use serde_json::Value;

use crate::access::{text, texts};

pub(super) fn check(errors: &mut ErrorList, path: &Path, value: &Value) {
    for key in ["plural", "singular"] {
        label(errors, path.child(key), text(value, key), "", false);
    }
    for key in ["kind", "listKind"] {
        label(errors, path.child(key), text(value, key), "may have mixed case, but should otherwise match: ", false);
    }
    for (i, short) in texts(value, "shortNames").into_iter().enumerate() {
        label(errors, path.child("shortNames").index(i), short, "", true);
    }
    let (kind, list) = (text(value, "kind"), text(value, "listKind"));
    if !kind.is_empty() && kind == list {
        errors.invalid(path.child("listKind"), list, "kind and listKind may not be the same");
    }
    for (i, category) in texts(value, "categories").into_iter().enumerate() {
        label(errors, path.child("categories").index(i), category, "", true);
    }
}

/// A DNS label; with `lead` in any case.
fn label(errors: &mut ErrorList, path: Path, value: &str, lead: &str, empty_counts: bool) {
    if value.is_empty() && !empty_counts {
        return;
    }
    let found = match lead {
        "" => names::is_dns1035_label(value),
        _ => names::is_dns1035_label(&value.to_lowercase()),
    };
    if !found.is_empty() {
        errors.invalid(path, value, &format!("{lead}{}", found.join(",")));
    }
}
