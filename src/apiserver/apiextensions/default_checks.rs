//! The defaults in the schemas of a definition: each must be a valid value where it stands.
//!
//! Invariants:
//! - XV-3: a default is checked as an object's value is: pruned, embedded metadata, OpenAPI, rules; in this order, the
//!   first that fails ends it.

use api::apiextensions::customresourcedefinition::UNKNOWN_FIELDS;
use apimachinery::validation::{ErrorList, Path};
use serde_json::{Value, json};

use super::structural::Node;
use super::{lists, objects, rules, validate};

/// Checks the defaults of a structural schema, which is at `path`.
pub fn check(schema: &Value, path: &Path, pruned: bool) -> ErrorList {
    let mut checker = Checker { errors: ErrorList::new(), pruned };
    checker.schema(schema, path, &Inside::Resource);
    checker.errors
}

/// Where a schema is.
enum Inside<'a> {
    /// At the root of the resource.
    Resource,
    Value,
    /// In the type or the metadata of an object, which has this schema; the steps lead from there.
    Meta {
        root: &'a Value,
        steps: Vec<Step<'a>>,
    },
}

#[derive(Clone, Copy)]
enum Step<'a> {
    Key(&'a str),
    First,
}

struct Checker {
    errors: ErrorList,
    pruned: bool,
}

impl Checker {
    fn schema<'a>(&mut self, schema: &'a Value, path: &Path, inside: &Inside<'a>) {
        let embedded = matches!(inside, Inside::Resource) || schema["x-kubernetes-embedded-resource"] == true;
        if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
            let at = path.child("default");
            match inside {
                Inside::Meta { root, steps } if !embedded => self.in_meta(schema, default, &at, root, steps),
                _ => self.value(schema, default, &at, embedded),
            }
        }
        // defaults are forbidden below additionalProperties
        if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
            let inside = below(inside, embedded, Step::First, false, schema);
            self.schema(items, &path.child("items"), &inside);
        }
        for (name, part) in schema["properties"].as_object().into_iter().flatten() {
            let meta = embedded && ["metadata", "apiVersion", "kind"].contains(&name.as_str());
            let inside = below(inside, embedded, Step::Key(name), meta, schema);
            self.schema(part, &path.child("properties").key(name), &inside);
        }
    }

    fn value(&mut self, schema: &Value, default: &Value, at: &Path, embedded: bool) {
        let node = Node::of_value(schema);
        if self.pruned {
            let mut pruned = default.clone();
            objects::prune_part(&mut pruned, &node, embedded);
            if pruned != *default {
                self.errors.invalid(at.clone(), default.clone(), UNKNOWN_FIELDS);
            }
        }
        let found = lists::embedded(default, &node);
        if !found.is_empty() {
            return self.add(found, at);
        }
        self.openapi(default, at, &node);
    }

    fn openapi(&mut self, default: &Value, at: &Path, node: &Node) {
        let found = validate::validate(default, node, None);
        if !found.is_empty() {
            return self.add(found, at);
        }
        if node.below.rules {
            self.add(rules::check(default, Some(default), node), at);
        }
    }

    /// In metadata the whole object around the default must be good.
    fn in_meta(&mut self, schema: &Value, default: &Value, at: &Path, root: &Value, steps: &[Step<'_>]) {
        let mut object = default.clone();
        for step in steps.iter().rev() {
            object = match step {
                Step::Key(name) => json!({*name: object}),
                Step::First => json!([object]),
            };
        }
        object["apiVersion"] = json!("validation/v1");
        object["kind"] = json!("Validation");
        let mut node = Node::of_value(root);
        node.embedded = true;
        node.below.embedded = true;
        let problem = match objects::coerce(&mut object, &node) {
            Err(error) => Some(error),
            Ok(_) => Some(lists::embedded(&object, &node)).filter(|found| !found.is_empty()).map(|e| e.aggregate()),
        };
        match problem {
            Some(problem) => {
                let detail = format!("must result in valid metadata: {problem}");
                self.errors.invalid(at.clone(), default.clone(), &detail);
            }
            None => self.openapi(default, at, &Node::of_value(schema)),
        }
    }

    /// Errors about a value, which is at `at`.
    fn add(&mut self, found: ErrorList, at: &Path) {
        let none = Path::nil().to_string();
        for mut error in found {
            error.field = match error.field.as_str() {
                own if own == none || own.is_empty() => at.to_string(),
                own if own.starts_with('[') => format!("{at}{own}"),
                own => format!("{at}.{own}"),
            };
            self.errors.push(error);
        }
    }
}

/// The place of a part of a schema.
fn below<'a>(inside: &Inside<'a>, embedded: bool, step: Step<'a>, meta: bool, schema: &'a Value) -> Inside<'a> {
    match inside {
        _ if meta => Inside::Meta { root: schema, steps: vec![step] },
        Inside::Meta { root, steps } if !embedded => {
            Inside::Meta { root, steps: steps.iter().copied().chain([step]).collect() }
        }
        _ => Inside::Value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(property: Value) -> Vec<String> {
        let schema = json!({"type": "object", "properties": {"a": property}});
        check(&schema, &Path::new("$"), true).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn values() {
        assert_eq!(texts(json!({"type": "string", "default": "x"})), [""; 0]);
        assert_eq!(
            texts(json!({"type": "string", "default": "x", "enum": ["a"]})),
            ["$.properties[a].default: Unsupported value: \"x\": supported values: \"a\""]
        );
        let object = json!({"type": "object", "properties": {"b": {"type": "integer", "minimum": 3}},
            "default": {"b": 1, "c": 2}});
        assert_eq!(
            texts(object),
            [
                "$.properties[a].default: Invalid value: {\"b\":1,\"c\":2}: must not have unknown fields",
                "$.properties[a].default.b: Invalid value: 1: b in body should be greater than or equal to 3",
            ]
        );
    }

    #[test]
    fn embedded_objects() {
        let with = |name: Value| {
            texts(json!({"type": "object", "x-kubernetes-embedded-resource": true, "properties": {
                "metadata": {"type": "object", "properties": {"name": name}}}}))
        };
        assert_eq!(with(json!({"type": "string", "default": "good"})), [""; 0]);
        let found = with(json!({"type": "string", "default": "a/b"}));
        assert!(found[0].contains("must result in valid metadata: metadata.name: Invalid value: \"a/b\""), "{found:?}");
    }
}
