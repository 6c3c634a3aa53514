//! The expressions of webhooks and policies.
//!
//! Invariants:
//! - EX-1: what is not there is `Required value`; what is there is never looked at trimmed where a column would shift.

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use crate::access::{items, text};
use crate::checks::qualified_name;

const MOST_MATCH_CONDITIONS: usize = 64;

/// `matchConditions`: names are unique, expressions answer yes or no.
pub(super) fn check_match_conditions(errors: &mut ErrorList, path: &Path, holder: &Value) {
    let conditions = items(holder, "matchConditions");
    let path = path.child("matchConditions");
    if conditions.len() > MOST_MATCH_CONDITIONS {
        errors.too_many(path.clone(), conditions.len(), MOST_MATCH_CONDITIONS);
    }
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        if text(condition, "expression").trim().is_empty() {
            errors.required(at.child("expression"), "");
        }
        let name = text(condition, "name");
        if name.is_empty() {
            errors.required(at.child("name"), "");
            continue;
        }
        qualified_name(errors, at.child("name"), name);
        if conditions[..i].iter().any(|c| text(c, "name") == name) {
            errors.duplicate(at.child("name"), name);
        }
    }
}

/// `variables` of a policy: what later expressions may name.
pub(super) fn check_variables(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for (i, variable) in items(spec, "variables").iter().enumerate() {
        let at = path.child("variables").index(i);
        let name = text(variable, "name");
        if name.trim().is_empty() {
            errors.required(at.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(at.child("name"), name, "must be a valid CEL identifier");
        }
        if text(variable, "expression").trim().is_empty() {
            errors.required(at.child("expression"), "expression is not specified");
        }
    }
}

const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

fn is_identifier(name: &str) -> bool {
    name.bytes().enumerate().all(|(i, b)| b == b'_' || b.is_ascii_alphabetic() || (i > 0 && b.is_ascii_digit()))
        && !RESERVED.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::texts;
    use serde_json::json;

    #[test]
    fn match_conditions_have_names_of_their_own() {
        let mut errors = ErrorList::new();
        let holder = json!({"matchConditions": [
            {"name": "a", "expression": "true"}, {"name": "a", "expression": "true"}, {"name": "", "expression": ""}]});
        check_match_conditions(&mut errors, &Path::new("w"), &holder);
        assert_eq!(
            texts(&errors),
            [
                "w.matchConditions[1].name: Duplicate value: \"a\"",
                "w.matchConditions[2].expression: Required value",
                "w.matchConditions[2].name: Required value",
            ]
        );
    }

    #[test]
    fn identifiers() {
        assert!(is_identifier("_a1") && !is_identifier("1a") && !is_identifier("a b") && !is_identifier("namespace"));
    }
}
