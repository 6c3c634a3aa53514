//! The checks of a list of metav1.Condition.

use apimachinery::validation::meta::validate_label_name;
use apimachinery::validation::names::regex_error;
use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use crate::access::{has, int, items, text};

const STATUSES: &[&str] = &["False", "True", "Unknown"];
const LONGEST_REASON: usize = 1024;
const LONGEST_MESSAGE: usize = 32 * 1024;

/// Checks `conditions` of a status.
pub(crate) fn check_conditions(errors: &mut ErrorList, path: &Path, status: &Value) {
    let conditions = items(status, "conditions");
    for (i, condition) in conditions.iter().enumerate() {
        let (at, ty) = (path.index(i), text(condition, "type"));
        if conditions[..i].iter().any(|c| text(c, "type") == ty) {
            errors.duplicate(at.child("type"), ty);
        }
        errors.extend(validate_label_name(ty, &at.child("type")));
        let status = text(condition, "status");
        if !STATUSES.contains(&status) {
            errors.not_supported(at.child("status"), status, STATUSES);
        }
        let generation = int(condition, "observedGeneration");
        if generation < 0 {
            errors.invalid(at.child("observedGeneration"), generation, "must be greater than or equal to zero");
        }
        if !has(condition, "lastTransitionTime") {
            errors.required(at.child("lastTransitionTime"), "must be set");
        }
        let reason = text(condition, "reason");
        if reason.is_empty() {
            errors.required(at.child("reason"), "must be set");
        } else {
            if !is_reason(reason) {
                let detail = regex_error(
                    "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
                    "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
                    &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
                );
                errors.invalid(at.child("reason"), reason, &detail);
            }
            if reason.len() > LONGEST_REASON {
                errors.too_long(at.child("reason"), reason, LONGEST_REASON);
            }
        }
        if text(condition, "message").len() > LONGEST_MESSAGE {
            errors.too_long(at.child("message"), text(condition, "message"), LONGEST_MESSAGE);
        }
    }
}

fn is_reason(reason: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let bytes = reason.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphabetic)
        && bytes.iter().all(|b| word(*b) || matches!(b, b',' | b':'))
        && bytes.last().is_some_and(|b| word(*b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::texts;
    use serde_json::json;

    #[test]
    fn what_a_condition_needs() {
        let mut errors = ErrorList::new();
        let good = json!({"type": "A", "status": "True", "reason": "R", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        check_conditions(&mut errors, &Path::new("c"), &json!({"conditions": [good]}));
        assert!(errors.is_empty());
        check_conditions(&mut errors, &Path::new("c"), &json!({"conditions": [good, {"type": "A", "status": "x"}]}));
        assert_eq!(
            texts(&errors),
            [
                "c[1].type: Duplicate value: \"A\"",
                "c[1].status: Unsupported value: \"x\": supported values: \"False\", \"True\", \"Unknown\"",
                "c[1].lastTransitionTime: Required value: must be set",
                "c[1].reason: Required value: must be set",
            ]
        );
        assert!(is_reason("ReasonA:b_") && !is_reason("1a") && !is_reason("a,"));
    }
}
