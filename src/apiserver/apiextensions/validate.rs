//! Values against OpenAPI: which value is wrong, in the words and order of upstream's validator.
//!
//! Invariants:
//! - XV-1: a valid object is checked without any allocation for paths: they are written out only for what is wrong.
//! - XV-2: with an old object, what is wrong in a part that did not change is not reported (ratcheting), unless a
//!   combinator (allOf, anyOf, oneOf, not) of a changed part says it.

use apimachinery::goformat::{self, quote};
use apimachinery::validation::{ErrorList, ErrorType, FieldError, Path};
use serde_json::{Map, Number, Value};

use super::formats;
use super::structural::{Checks, ListType, Node, Ty};

/// What is wrong with `object`; `old` is what it was before an update.
pub fn validate(object: &Value, schema: &Node, old: Option<&Value>) -> ErrorList {
    let found = check(object, schema, &At::Root, None, true);
    // Most objects are valid: only the others are compared with what they were.
    let found = match old {
        Some(old) if !found.errors.is_empty() => check(object, schema, &At::Root, Some(old), true),
        _ => found,
    };
    ErrorList(found.errors)
}

/// Where a value is.
enum At<'a> {
    Root,
    Key(&'a At<'a>, &'a str),
    Index(&'a At<'a>, usize),
}

impl At<'_> {
    fn write(&self, out: &mut String) {
        match self {
            Self::Root => {}
            Self::Key(parent, key) => {
                parent.write(out);
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(key);
            }
            Self::Index(parent, index) => {
                parent.write(out);
                out.push_str(&format!("[{index}]"));
            }
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }
}

#[derive(Default)]
struct Found {
    errors: Vec<FieldError>,
    /// How many checks were made: of several failed alternatives, the one with most is shown.
    matches: usize,
}

impl Found {
    fn add(&mut self, error: FieldError) {
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    fn merge(&mut self, other: Found) {
        self.matches += other.matches;
        other.errors.into_iter().for_each(|error| self.add(error));
    }

    /// An error that names its field.
    fn field(&mut self, ty: ErrorType, at: &At<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        let path = match at.text() {
            path if path.is_empty() => Path::nil(),
            path => Path::new(&path),
        };
        self.add(FieldError::new(ty, &path, value, detail));
    }

    /// An error that is a text alone.
    fn text(&mut self, detail: String) {
        self.add(FieldError::new(ErrorType::Invalid, &Path::nil(), "", detail));
    }

    fn wrong_type(&mut self, at: &At<'_>, expected: &str, found: &str) {
        let detail = format!("{} in body must be of type {expected}: {}", at.text(), quote(found));
        self.field(ErrorType::TypeInvalid, at, found, detail);
    }

    fn invalid(&mut self, at: &At<'_>, value: impl Into<Value>, rule: &str) {
        let detail = format!("{} in body {rule}", at.text());
        self.field(ErrorType::Invalid, at, value, detail);
    }
}

/// `ratchet`: this is a node of the object's spine, not an alternative for one.
fn check(value: &Value, node: &Node, at: &At<'_>, old: Option<&Value>, ratchet: bool) -> Found {
    let mut found = Found { errors: Vec::new(), matches: 1 };
    check_type(&mut found, value, node, at);
    let checks = node.checks.as_deref();
    if value.is_null() {
        check_enum(&mut found, value, checks, at);
        return found;
    }
    if let Some(checks) = checks {
        check_combinators(&mut found, value, checks, at, old);
        match value {
            Value::String(text) => check_string(&mut found, text, checks, at),
            Value::Number(number) => check_number(&mut found, number, node.ty, checks, at),
            _ => {}
        }
    } else if let Value::Number(number) = value {
        check_range(&mut found, number, node.ty, "", at);
    }
    found.matches += 3;
    if let Value::Array(items) = value {
        check_list(&mut found, items, node, at, old.and_then(Value::as_array));
    }
    check_enum(&mut found, value, checks, at);
    if let Value::Object(map) = value {
        check_object(&mut found, map, node, at, old.and_then(Value::as_object));
    }
    if ratchet && !found.errors.is_empty() && old == Some(value) {
        found.errors.clear();
    }
    found
}

/// JSON type and the format of numbers, as upstream's reflection sees a decoded value.
fn shape(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::Number(number) if number.is_f64() => ("number", "float64"),
        Value::Number(_) => ("integer", "int64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

fn whole(number: &Number) -> bool {
    number.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0)
}

fn check_type(found: &mut Found, value: &Value, node: &Node, at: &At<'_>) {
    let format = node.checks.as_ref().and_then(|checks| checks.format.as_deref()).unwrap_or("");
    if node.ty == Ty::Any && format.is_empty() {
        return;
    }
    found.matches += 1;
    let (ty, number_format) = shape(value);
    if value.is_null() {
        if node.ty != Ty::Any && !node.nullable {
            found.wrong_type(at, node.ty.name(), "null");
        }
        return;
    }
    let numeric = matches!(node.ty, Ty::Integer | Ty::Number | Ty::IntOrString);
    let contains = match node.ty {
        Ty::IntOrString => ty == "integer" || ty == "string",
        ty_of_node => ty_of_node.name() == ty,
    };
    let float_as_int = ty == "number"
        && matches!(node.ty, Ty::Integer | Ty::IntOrString)
        && matches!(value, Value::Number(number) if whole(number));
    let int_as_float = ty == "integer" && node.ty == Ty::Number;
    let textual = matches!(value, Value::String(_) | Value::Array(_));
    let known = contains || number_format == format || float_as_int || int_as_float;
    if !(textual || format.is_empty() || known) {
        return found.wrong_type(at, format, number_format);
    }
    if !numeric && !format.is_empty() && textual {
        return;
    }
    if !(contains || float_as_int || int_as_float) {
        found.wrong_type(at, node.ty.name(), ty);
    }
}

fn check_enum(found: &mut Found, value: &Value, checks: Option<&Checks>, at: &At<'_>) {
    let Some(checks) = checks.filter(|checks| !checks.one_of_values.is_empty()) else { return };
    if checks.one_of_values.iter().any(|allowed| same(allowed, value)) {
        return;
    }
    let allowed: Vec<String> = checks
        .one_of_values
        .iter()
        .map(|allowed| quote(&allowed.as_str().map_or_else(|| goformat::json(allowed), str::to_owned)))
        .collect();
    found.field(ErrorType::NotSupported, at, value.clone(), format!("supported values: {}", allowed.join(", ")));
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

fn check_string(found: &mut Found, text: &str, checks: &Checks, at: &At<'_>) {
    let length = || text.chars().count() as u64;
    if let Some(max) = checks.max_length.filter(|max| text.len() as u64 > *max && length() > *max) {
        found.field(ErrorType::TooLong, at, text, format!("may not be more than {max} bytes"));
    } else if let Some(min) = checks.min_length.filter(|min| length() < *min) {
        found.invalid(at, text, &format!("should be at least {min} chars long"));
    } else if let Some(pattern) = checks.pattern.as_ref().filter(|pattern| !pattern.matches(text)) {
        found.invalid(at, text, &format!("should match '{}'", pattern.text));
    }
    if let Some(format) = checks.format.as_deref().filter(|format| formats::known(format)) {
        if !formats::matches(format, text) {
            found.wrong_type(at, format, text);
        }
    }
}

/// The number fits the type and format that the schema gives it.
fn check_range(found: &mut Found, number: &Number, ty: Ty, format: &str, at: &At<'_>) {
    if let Some(problem) = out_of_range(number, ty, format, "Checked", at) {
        found.text(problem);
    }
}

fn out_of_range(number: &Number, ty: Ty, format: &str, what: &str, at: &At<'_>) -> Option<String> {
    let fits = match (ty, format) {
        (Ty::Integer | Ty::IntOrString, "int32") => as_int(number).is_some_and(|n| i32::try_from(n).is_ok()),
        (Ty::Integer | Ty::IntOrString, _) => as_int(number).is_some(),
        (_, "float") => number.as_f64().is_some_and(|f| f.abs() <= f64::from(f32::MAX)),
        _ => true,
    };
    if fits {
        return None;
    }
    let ty = if ty == Ty::IntOrString { "integer" } else { ty.name() };
    let of = if format.is_empty() { "(default format)".to_owned() } else { format!("with format {format}") };
    Some(format!("{what} value must be of type {ty} {of} in {}", at.text()))
}

fn as_int(number: &Number) -> Option<i64> {
    number.as_i64().or_else(|| {
        let f = number.as_f64().filter(|_| number.is_f64())?;
        (f.fract() == 0.0 && (-9.223_372_036_854_776e18..9.223_372_036_854_775e18).contains(&f)).then_some(f as i64)
    })
}

fn check_number(found: &mut Found, number: &Number, ty: Ty, checks: &Checks, at: &At<'_>) {
    found.matches += 1;
    let format = checks.format.as_deref().unwrap_or("");
    check_range(found, number, ty, format, at);
    let integer = if number.is_f64() { None } else { number.as_i64() };
    let float = number.as_f64().unwrap_or_default();
    // A bound that does not fit the type is compared as a plain number.
    let bound = |limit: f64, what: &str, found: &mut Found| {
        let limit = Number::from_f64(limit).unwrap_or_else(|| 0.into());
        match out_of_range(&limit, ty, format, what, at) {
            Some(problem) => {
                found.text(problem);
                None
            }
            None => integer,
        }
    };
    if let Some(factor) = checks.multiple_of {
        match bound(factor, "MultipleOf", found) {
            Some(integer) => {
                let factor = factor as i64;
                if factor <= 0 {
                    not_positive(found, at, factor.into());
                } else if integer % factor != 0 {
                    found.invalid(at, integer, &format!("should be a multiple of {factor}"));
                }
            }
            None if factor <= 0.0 => not_positive(found, at, json_float(factor)),
            None => {
                let times = if factor < 1.0 { 1.0 / factor * float } else { float / factor };
                if times.fract().abs() > 1e-9 {
                    let rule = format!("should be a multiple of {}", goformat::float(factor));
                    found.invalid(at, Value::Number(number.clone()), &rule);
                }
            }
        }
    }
    if let Some(max) = checks.maximum {
        let (over, shown) = match bound(max, "Maximum boundary", found) {
            Some(n) => {
                let max = max as i64;
                (n > max || checks.exclusive_maximum && n == max, max.to_string())
            }
            None => (float > max || checks.exclusive_maximum && float == max, goformat::float(max)),
        };
        if over {
            let rule = if checks.exclusive_maximum { "less than" } else { "less than or equal to" };
            found.invalid(at, Value::Number(number.clone()), &format!("should be {rule} {shown}"));
        }
    }
    if let Some(min) = checks.minimum {
        let (under, shown) = match bound(min, "Minimum boundary", found) {
            Some(n) => {
                let min = min as i64;
                (n < min || checks.exclusive_minimum && n == min, min.to_string())
            }
            None => (float < min || checks.exclusive_minimum && float == min, goformat::float(min)),
        };
        if under {
            let rule = if checks.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            found.invalid(at, Value::Number(number.clone()), &format!("should be {rule} {shown}"));
        }
    }
}

fn not_positive(found: &mut Found, at: &At<'_>, factor: Value) {
    let detail = format!("factor MultipleOf declared for {} must be positive: {}", at.text(), goformat::json(&factor));
    found.field(ErrorType::Invalid, at, factor, detail);
}

fn json_float(f: f64) -> Value {
    Number::from_f64(f).map_or(Value::Null, Value::Number)
}

fn check_list(found: &mut Found, items: &[Value], node: &Node, at: &At<'_>, old: Option<&Vec<Value>>) {
    if let Some(item) = node.items.as_deref() {
        for (index, value) in items.iter().enumerate() {
            let before = old.and_then(|old| same_item(node, old, value));
            found.merge(check(value, item, &At::Index(at, index), before, true));
        }
    }
    let Some(checks) = node.checks.as_deref() else { return };
    let size = items.len() as u64;
    if let Some(min) = checks.min_items.filter(|min| size < *min) {
        found.invalid(at, size, &format!("should have at least {min} items"));
    }
    if let Some(max) = checks.max_items.filter(|max| size > *max) {
        let unit = if max == 1 { "item" } else { "items" };
        found.field(ErrorType::TooMany, at, size, format!("must have at most {max} {unit}"));
    }
    if checks.unique_items && (1..items.len()).any(|i| items[..i].contains(&items[i])) {
        found.field(ErrorType::Invalid, at, "", format!("{} in body shouldn't contain duplicates", at.text()));
    }
}

/// The item of a list of type map that has the same keys.
pub fn same_item<'a>(node: &Node, old: &'a [Value], item: &Value) -> Option<&'a Value> {
    if node.list_type != ListType::Map || !item.is_object() {
        return None;
    }
    old.iter().find(|old| node.list_keys.iter().all(|key| old.get(key.as_ref()) == item.get(key.as_ref())))
}

fn check_object(
    found: &mut Found,
    map: &Map<String, Value>,
    node: &Node,
    at: &At<'_>,
    old: Option<&Map<String, Value>>,
) {
    let checks = node.checks.as_deref();
    let size = map.len() as u64;
    if let Some(checks) = checks {
        if let Some(min) = checks.min_properties.filter(|min| size < *min) {
            return found.invalid(at, size, &format!("should have at least {min} properties"));
        }
        if let Some(max) = checks.max_properties.filter(|max| size > *max) {
            let unit = if max == 1 { "item" } else { "items" };
            return found.field(ErrorType::TooMany, at, size, format!("must have at most {max} {unit}"));
        }
    }
    found.matches += 1;
    for (key, value) in map {
        let Some(child) = node.child(key) else { continue };
        let before = old.filter(|_| !node.atomic_map).and_then(|old| old.get(key));
        found.merge(check(value, child, &At::Key(at, key), before, true));
    }
    for name in checks.iter().flat_map(|checks| checks.required.iter()) {
        if !map.contains_key(name.as_ref()) {
            found.field(ErrorType::Required, &At::Key(at, name), "", "");
        }
    }
    if node.embedded {
        for name in ["kind", "apiVersion"] {
            let named = checks.is_some_and(|checks| checks.required.iter().any(|known| known.as_ref() == name));
            if !named && !map.contains_key(name) {
                found.field(ErrorType::Required, &At::Key(at, name), "", "");
            }
        }
    }
}

fn check_combinators(found: &mut Found, value: &Value, checks: &Checks, at: &At<'_>, old: Option<&Value>) {
    let try_all =
        |nodes: &[Node]| -> Vec<Found> { nodes.iter().map(|node| check(value, node, at, old, false)).collect() };
    // Of the failed ones, the first of those with the most checks.
    let best = |tried: Vec<Found>| {
        tried.into_iter().reduce(|best, other| if other.matches > best.matches { other } else { best })
    };
    if !checks.any_of.is_empty() {
        let mut tried = try_all(&checks.any_of);
        match tried.iter().position(|found| found.errors.is_empty()) {
            Some(first) => found.merge(tried.swap_remove(first)),
            None => {
                found.text(format!("{} must validate at least one schema (anyOf)", quote(&at.text())));
                best(tried).into_iter().for_each(|best| found.merge(best));
            }
        }
    }
    if !checks.one_of.is_empty() {
        let mut tried = try_all(&checks.one_of);
        let valid = tried.iter().filter(|found| found.errors.is_empty()).count();
        let at_least =
            |detail: &str| format!("{} must validate one and only one schema (oneOf). {detail}", quote(&at.text()));
        match (valid, tried.iter().position(|found| found.errors.is_empty())) {
            (1, Some(first)) => found.merge(tried.swap_remove(first)),
            (0, _) => {
                found.text(at_least("Found none valid"));
                best(tried).into_iter().for_each(|best| found.merge(best));
            }
            _ => found.text(at_least(&format!("Found {valid} valid alternatives"))),
        }
    }
    if !checks.all_of.is_empty() {
        let tried = try_all(&checks.all_of);
        let valid = tried.iter().filter(|found| found.errors.is_empty()).count();
        let all = tried.len();
        tried.into_iter().for_each(|tried| found.merge(tried));
        if valid != all {
            let none = if valid == 0 { ". None validated" } else { "" };
            found.text(format!("{} must validate all the schemas (allOf){none}", quote(&at.text())));
        }
    }
    if let Some(not) = &checks.not {
        if check(value, not, at, old, false).errors.is_empty() {
            found.text(format!("{} must not validate the schema (not)", quote(&at.text())));
        }
    }
    found.matches += 1;
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(spec: Value, value: Value) -> Vec<String> {
        let node = Node::of_resource(&json!({"type": "object", "properties": {"spec": spec}}));
        validate(&json!({"spec": value}), &node, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn words() {
        let cases = [
            (
                json!({"type": "string"}),
                json!(1),
                "spec: Invalid value: \"integer\": spec in body must be of type string: \"integer\"",
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                "spec: Unsupported value: \"c\": supported values: \"a\", \"b\"",
            ),
            (json!({"type": "string", "maxLength": 3}), json!("abcd"), "spec: Too long: may not be more than 3 bytes"),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                "spec: Invalid value: \"b\": spec in body should match '^a+$'",
            ),
            (
                json!({"type": "string", "minLength": 3}),
                json!("b"),
                "spec: Invalid value: \"b\": spec in body should be at least 3 chars long",
            ),
            (json!({"type": "array", "maxItems": 2}), json!([1, 2, 3]), "spec: Too many: 3: must have at most 2 items"),
            (
                json!({"type": "array", "minItems": 1}),
                json!([]),
                "spec: Invalid value: 0: spec in body should have at least 1 items",
            ),
            (json!({"type": "object", "required": ["a"]}), json!({}), "spec.a: Required value"),
            (
                json!({"type": "integer", "maximum": 4}),
                json!(5),
                "spec: Invalid value: 5: spec in body should be less than or equal to 4",
            ),
            (
                json!({"type": "number", "multipleOf": 0.5}),
                json!(0.7),
                "spec: Invalid value: 0.7: spec in body should be a multiple of 0.5",
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(2147483648u32),
                "<nil>: Invalid value: \"\": Checked value must be of type integer with format int32 in spec",
            ),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!(true),
                "spec: Invalid value: \"boolean\": spec in body must be of type integer,string: \"boolean\"",
            ),
            (
                json!({"type": "string"}),
                json!(null),
                "spec: Invalid value: \"null\": spec in body must be of type string: \"null\"",
            ),
            (
                json!({"type": "string", "format": "ipv4"}),
                json!("x"),
                "spec: Invalid value: \"x\": spec in body must be of type ipv4: \"x\"",
            ),
        ];
        for (schema, value, expected) in cases {
            assert_eq!(errors(schema, value), [expected]);
        }
        for (schema, value) in [
            (json!({"type": "string", "nullable": true}), json!(null)),
            (json!({"type": "number"}), json!(3)),
            (json!({"type": "integer"}), json!(3.0)),
            (json!({"x-kubernetes-int-or-string": true}), json!("50%")),
        ] {
            assert!(errors(schema, value).is_empty());
        }
    }

    #[test]
    fn combinators() {
        let one = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        assert_eq!(
            errors(one.clone(), json!({})),
            [
                "<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found none valid",
                "spec.a: Required value"
            ]
        );
        assert_eq!(
            errors(one, json!({"a": "", "b": ""})),
            ["<nil>: Invalid value: \"\": \"spec\" must validate one and only one schema (oneOf). Found 2 valid \
                 alternatives"]
        );
        let not = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "not": {"required": ["a"]}});
        assert_eq!(
            errors(not, json!({"a": 1})),
            ["<nil>: Invalid value: \"\": \"spec\" must not validate the schema (not)"]
        );
    }

    #[test]
    fn what_did_not_change_is_not_reported() {
        let node =
            Node::of_resource(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 3}, "b": {"type": "string"},
            "l": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}, "v": {
                    "type": "string", "maxLength": 1}}}}}}}}));
        let old = json!({"spec": {"a": "long", "b": "x", "l": [{"k": "a", "v": "xx"}]}});
        let new = json!({"spec": {"a": "long", "b": "y", "l": [{"k": "b", "v": "x"}, {"k": "a", "v": "xx"}]}});
        assert!(validate(&new, &node, Some(&old)).is_empty());
        assert_eq!(validate(&new, &node, None).len(), 2);
        let worse = json!({"spec": {"a": "longer", "b": "y"}});
        assert_eq!(validate(&worse, &node, Some(&old)).len(), 1);
    }
}
