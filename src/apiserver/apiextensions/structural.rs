//! The schema of one version of a custom resource, compiled once from its OpenAPI form and shared by all its objects.
//!
//! Invariants:
//! - XS-1: descriptions and other texts that no object is checked against are not kept: a large definition costs a
//!   fraction of its bytes.
//! - XS-2: [`Node::below`] names every feature of the node and all nodes below it, so that walks skip what has none.

use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;

use super::rules::{self, Rules};

/// What may be at one place of an object.
#[derive(Debug, Default)]
pub struct Node {
    pub ty: Ty,
    pub nullable: bool,
    pub preserve_unknown: bool,
    pub embedded: bool,
    pub list_type: ListType,
    pub list_keys: Box<[Box<str>]>,
    /// x-kubernetes-map-type: atomic
    pub atomic_map: bool,
    pub default: Option<Box<Value>>,
    /// Sorted by name.
    pub properties: Box<[(Box<str>, Node)]>,
    pub additional: Option<Box<Node>>,
    pub items: Option<Box<Node>>,
    pub checks: Option<Box<Checks>>,
    pub rules: Option<Box<Rules>>,
    pub below: Below,
}

/// The `type` of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ty {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

impl Ty {
    /// As messages name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::Object => "object",
            Self::Array => "array",
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::IntOrString => "integer,string",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ListType {
    #[default]
    Atomic,
    Set,
    Map,
}

/// Features of a node and of all nodes below.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Below {
    pub defaults: bool,
    pub embedded: bool,
    /// Lists whose items must differ.
    pub unique: bool,
    pub rules: bool,
}

impl Below {
    fn add(&mut self, other: Self) {
        self.defaults |= other.defaults;
        self.embedded |= other.embedded;
        self.unique |= other.unique;
        self.rules |= other.rules;
    }
}

/// What OpenAPI demands of a value.
#[derive(Debug, Default)]
pub struct Checks {
    pub format: Option<Box<str>>,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub max_length: Option<u64>,
    pub min_length: Option<u64>,
    pub pattern: Option<Pattern>,
    pub max_items: Option<u64>,
    pub min_items: Option<u64>,
    pub unique_items: bool,
    pub multiple_of: Option<f64>,
    pub one_of_values: Box<[Value]>,
    pub max_properties: Option<u64>,
    pub min_properties: Option<u64>,
    pub required: Box<[Box<str>]>,
    pub all_of: Box<[Node]>,
    pub any_of: Box<[Node]>,
    pub one_of: Box<[Node]>,
    pub not: Option<Box<Node>>,
}

/// A regular expression, compiled when it is first asked.
#[derive(Debug)]
pub struct Pattern {
    pub text: Box<str>,
    compiled: OnceLock<Option<Regex>>,
}

/// Largest compiled expression, in bytes.
const PATTERN_LIMIT: usize = 4 << 20;

impl Pattern {
    pub fn new(text: &str) -> Self {
        Self { text: text.into(), compiled: OnceLock::new() }
    }

    /// An expression that Go understands and we do not matches everything.
    pub fn matches(&self, text: &str) -> bool {
        let compiled = self.compiled.get_or_init(|| {
            let built = regex::RegexBuilder::new(&self.text).size_limit(PATTERN_LIMIT).build();
            built.inspect_err(|error| tracing::warn!(pattern = %self.text, %error, "pattern not understood")).ok()
        });
        compiled.as_ref().is_none_or(|regex| regex.is_match(text))
    }
}

/// Formats that mean something; others are ignored, as upstream strips them.
const FORMATS: &[&str] = &[
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "date-time",
    "k8s-short-name",
    "k8s-long-name",
    "int32",
    "int64",
    "float",
    "double",
];

/// How deep the schemas that are compiled may nest.
const MAX_DEPTH: usize = 256;

impl Node {
    /// Compiles `openAPIV3Schema`.
    pub fn of_resource(schema: &Value) -> Self {
        let mut root = Self::build(schema, schema, true, 0);
        root.embedded = false;
        root
    }

    /// Compiles a schema of a value in an object.
    pub fn of_value(schema: &Value) -> Self {
        Self::build(schema, schema, false, 0)
    }

    /// `spine` is the schema that gives the value its type: `schema` itself, but for alternatives (allOf and its like).
    fn build(schema: &Value, spine: &Value, root: bool, depth: usize) -> Self {
        if depth > MAX_DEPTH {
            return Self { preserve_unknown: true, ..Self::default() };
        }
        let flag = |name: &str| schema[name].as_bool().unwrap_or(false);
        let mut node = Self {
            ty: match schema["type"].as_str() {
                _ if flag("x-kubernetes-int-or-string") => Ty::IntOrString,
                Some("object") => Ty::Object,
                Some("array") => Ty::Array,
                Some("string") => Ty::String,
                Some("integer") => Ty::Integer,
                Some("number") => Ty::Number,
                Some("boolean") => Ty::Boolean,
                _ => Ty::Any,
            },
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded: flag("x-kubernetes-embedded-resource"),
            list_type: match schema["x-kubernetes-list-type"].as_str() {
                Some("set") => ListType::Set,
                Some("map") => ListType::Map,
                _ => ListType::Atomic,
            },
            list_keys: texts(&schema["x-kubernetes-list-map-keys"]),
            atomic_map: schema["x-kubernetes-map-type"] == "atomic",
            default: schema.get("default").filter(|value| !value.is_null()).map(|value| Box::new(value.clone())),
            properties: properties(schema, spine, depth),
            additional: schema
                .get("additionalProperties")
                .filter(|value| value.is_object())
                .map(|value| Box::new(Self::build(value, &spine["additionalProperties"], false, depth + 1))),
            items: schema
                .get("items")
                .filter(|value| value.is_object())
                .map(|value| Box::new(Self::build(value, &spine["items"], false, depth + 1))),
            checks: Checks::build(schema, spine, depth),
            rules: None,
            below: Below::default(),
        };
        if schema["additionalProperties"] == true {
            node.additional = Some(Box::new(Self { preserve_unknown: true, nullable: true, ..Self::default() }));
        }
        node.rules = rules::build(schema, spine, root || node.embedded);
        node.below = Below {
            defaults: node.default.is_some(),
            embedded: node.embedded,
            unique: node.list_type != ListType::Atomic,
            rules: node.rules.is_some(),
        };
        let children = node.properties.iter().map(|(_, child)| child);
        let children = children.chain(node.additional.as_deref()).chain(node.items.as_deref());
        let mut below = node.below;
        for child in children.chain(node.checks.iter().flat_map(|checks| checks.all_of.iter())) {
            below.add(child.below);
        }
        node.below = below;
        node
    }

    pub fn property(&self, name: &str) -> Option<&Node> {
        let at = self.properties.binary_search_by(|(known, _)| known.as_ref().cmp(name)).ok()?;
        Some(&self.properties[at].1)
    }

    /// The node of a key: a named property or what additional ones are.
    pub fn child(&self, name: &str) -> Option<&Node> {
        self.property(name).or(self.additional.as_deref())
    }

    /// The node at a path of named properties.
    pub fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> Option<&Node> {
        path.into_iter().try_fold(self, |node, name| node.child(name))
    }
}

fn properties(schema: &Value, spine: &Value, depth: usize) -> Box<[(Box<str>, Node)]> {
    let Some(map) = schema["properties"].as_object() else { return Box::default() };
    let spine = &spine["properties"];
    let mut properties: Vec<(Box<str>, Node)> = map
        .iter()
        .map(|(name, value)| (name.as_str().into(), Node::build(value, &spine[name.as_str()], false, depth + 1)))
        .collect();
    properties.sort_by(|a, b| a.0.cmp(&b.0));
    properties.into()
}

fn texts(value: &Value) -> Box<[Box<str>]> {
    value.as_array().into_iter().flatten().filter_map(|item| Some(item.as_str()?.into())).collect()
}

impl Checks {
    fn build(schema: &Value, spine: &Value, depth: usize) -> Option<Box<Self>> {
        const NAMES: &[&str] = &[
            "format",
            "maximum",
            "minimum",
            "maxLength",
            "minLength",
            "pattern",
            "maxItems",
            "minItems",
            "uniqueItems",
            "multipleOf",
            "enum",
            "maxProperties",
            "minProperties",
            "required",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
        ];
        let map = schema.as_object()?;
        if !map.keys().any(|key| NAMES.contains(&key.as_str())) {
            return None;
        }
        let count = |name: &str| schema[name].as_i64().map(|n| u64::try_from(n).unwrap_or(0));
        let flag = |name: &str| schema[name].as_bool().unwrap_or(false);
        let nodes = |name: &str| -> Box<[Node]> {
            let list = schema[name].as_array().into_iter().flatten();
            list.map(|value| Node::build(value, spine, false, depth + 1)).collect()
        };
        Some(Box::new(Self {
            format: schema["format"].as_str().filter(|format| FORMATS.contains(format)).map(Into::into),
            maximum: schema["maximum"].as_f64(),
            exclusive_maximum: flag("exclusiveMaximum"),
            minimum: schema["minimum"].as_f64(),
            exclusive_minimum: flag("exclusiveMinimum"),
            max_length: count("maxLength"),
            min_length: count("minLength"),
            pattern: schema["pattern"].as_str().filter(|text| !text.is_empty()).map(Pattern::new),
            max_items: count("maxItems"),
            min_items: count("minItems"),
            unique_items: flag("uniqueItems"),
            multiple_of: schema["multipleOf"].as_f64(),
            one_of_values: schema["enum"].as_array().cloned().unwrap_or_default().into(),
            max_properties: count("maxProperties"),
            min_properties: count("minProperties"),
            required: texts(&schema["required"]),
            all_of: nodes("allOf"),
            any_of: nodes("anyOf"),
            one_of: nodes("oneOf"),
            not: schema.get("not").filter(|n| n.is_object()).map(|n| Box::new(Node::build(n, spine, false, depth + 1))),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn compiles_what_objects_are_checked_against() {
        let root = Node::of_resource(&json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string", "description": "gone", "default": "x", "format": "unknown"},
            "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
            "p": {"x-kubernetes-int-or-string": true}
        }}}}));
        let spec = root.property("spec").expect("spec");
        assert!(root.below.defaults && root.below.unique && !root.below.embedded);
        assert_eq!(spec.property("p").expect("p").ty, Ty::IntOrString);
        assert!(spec.property("a").expect("a").checks.as_ref().is_none_or(|checks| checks.format.is_none()));
        assert_eq!(&*spec.property("l").expect("l").list_keys[0], "k");
        assert!(root.at(["spec", "l"]).is_some() && root.at(["spec", "z"]).is_none());
    }

    #[test]
    fn deep_schemas_end() {
        let mut schema = json!({"type": "string"});
        for _ in 0..2000 {
            schema = json!({"type": "array", "items": schema});
        }
        Node::of_resource(&schema);
        // Values of this depth are dropped step by step: their own drop recurses too.
        while let Some(items) = schema.get_mut("items").map(Value::take) {
            schema = items;
        }
    }
}
