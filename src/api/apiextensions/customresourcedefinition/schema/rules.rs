//! `x-kubernetes-validations`: rules in CEL. What they say of themselves, whether they compile, and what they can cost.
//!
//! Invariants:
//! - RU-1: rules are compiled only where the schema below them has no errors.
//! - RU-2: the cost of a schema's rules counts how often each can be called, as far as maxItems and maxProperties say.

use apimachinery::validation::{ErrorList, Path};
use cel::{
    DeclType, Env, MAX_REQUEST_SIZE_BYTES, Program, STATIC_ESTIMATED_COST_LIMIT, STATIC_ESTIMATED_CRD_COST_LIMIT,
    Sizes, Type,
};
use serde_json::Value;

use super::super::{dump, fieldpath};
use super::structural;
use crate::access::{field, flag, has, items, opt_flag, opt_int, opt_text, text};

pub(super) const RULES: &str = "x-kubernetes-validations";
const REASONS: &[&str] = &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
/// Rules that are named when all together are too expensive.
const MOST_NAMED: usize = 4;

/// How often the value of a schema can be in one object; `None`: nobody says.
pub(super) type Cardinality = Option<u64>;

/// The cardinality of what is in a list, map or object of this schema.
pub(super) fn below(own: Cardinality, schema: &Value) -> Cardinality {
    let limit = |key: &str| opt_int(schema, key).map(|limit| u64::try_from(limit).unwrap_or(0));
    let elements = match text(schema, "type") {
        "object" if has(schema, "additionalProperties") => limit("maxProperties")?,
        "array" => limit("maxItems")?,
        _ => 1,
    };
    Some(own?.saturating_mul(elements))
}

/// What all rules of a schema cost together.
#[derive(Debug, Default)]
pub(super) struct TotalCost {
    total: u64,
    expensive: Vec<(Path, u64)>,
}

impl TotalCost {
    fn observe(&mut self, path: Path, cost: u64) {
        self.total = self.total.saturating_add(cost);
        if cost < STATIC_ESTIMATED_CRD_COST_LIMIT / 100 {
            return;
        }
        self.expensive.push((path, cost));
        self.expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
        self.expensive.truncate(MOST_NAMED);
    }

    pub fn check(&self, errors: &mut ErrorList, path: &Path) {
        if self.total <= STATIC_ESTIMATED_CRD_COST_LIMIT {
            return;
        }
        for (path, _) in &self.expensive {
            let detail = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.forbidden(path.clone(), detail);
        }
        const WHAT: &str = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.forbidden(path.clone(), &too_expensive(WHAT, self.total, STATIC_ESTIMATED_CRD_COST_LIMIT));
    }
}

fn too_expensive(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let shown = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {shown} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// What rules say of themselves: texts, reasons, field paths.
pub(super) fn check_texts(errors: &mut ErrorList, path: &Path, schema: &Value) {
    let lines = |text: &str| text.contains(['\n', '\r']);
    for (i, rule) in items(schema, RULES).iter().enumerate() {
        let at = path.child(RULES).index(i);
        let (source, message) = (text(rule, "rule"), text(rule, "message"));
        let trimmed = message.trim();
        if source.trim().is_empty() {
            errors.required(at.child("rule"), "rule is not specified");
        } else if !message.is_empty() && trimmed.is_empty() {
            errors.invalid(at.child("message"), message, "must be non-empty if specified");
        } else if lines(trimmed) {
            errors.invalid(at.child("message"), message, "must not contain line breaks");
        } else if lines(source.trim()) && trimmed.is_empty() {
            errors.required(at.child("message"), "must be specified if rule contains line breaks");
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.required(at.child("messageExpression"), "must be non-empty if specified");
        }
        if let Some(reason) = opt_text(rule, "reason").filter(|reason| !REASONS.contains(reason)) {
            errors.not_supported(at.child("reason"), reason, REASONS);
        }
        let field_path = text(rule, "fieldPath");
        if field_path.is_empty() {
            continue;
        }
        if field_path.trim().is_empty() {
            errors.invalid(at.child("fieldPath"), field_path, "must be non-empty if specified");
        }
        if field_path.contains(['\n', '\r']) {
            errors.invalid(at.child("fieldPath"), field_path, "must not contain line breaks");
        }
        if structural::convertible(schema).is_ok() && fieldpath::resolve(field_path, schema, true).is_err() {
            errors.invalid(at.child("fieldPath"), field_path, "must be a valid path");
        }
    }
}

/// Where the rules of a schema are.
pub(super) struct Place<'a> {
    pub root: bool,
    pub cardinality: Cardinality,
    /// The nearest part of the schema whose old and new values cannot be told to be the same.
    pub uncorrelatable: Option<&'a Path>,
    /// The cost of single rules is looked at.
    pub rule_cost: bool,
}

/// Compiles the rules of a schema and counts their costs.
pub(super) fn compile(errors: &mut ErrorList, path: &Path, schema: &Value, place: &Place<'_>, total: &mut TotalCost) {
    let whole = place.root || flag(schema, "x-kubernetes-embedded-resource");
    let Some(decl) = DeclType::from_openapi(schema, whole, "selfType") else {
        let detail = "internal error: failed to construct type information for x-kubernetes-validations rules: unable to convert structural schema to CEL declarations";
        return errors.internal(path.child(RULES), detail);
    };
    let env = Env::kubernetes().with_variable("self", decl.ty.clone());
    let plain = env.clone().with_variable("oldSelf", decl.ty.clone());
    let optional = env.with_variable("oldSelf", Type::optional(decl.ty.clone()));
    // how often at most a value of this size fits into a request
    let densest = u64::try_from(MAX_REQUEST_SIZE_BYTES / (decl.min_serialized_size + 1)).unwrap_or(u64::MAX);
    let calls = place.cardinality.unwrap_or(densest);
    for (i, rule) in items(schema, RULES).iter().enumerate() {
        let at = path.child(RULES).index(i);
        let env = if flag(rule, "optionalOldSelf") { &optional } else { &plain };
        let compiled = Compiled::of(rule, env, &decl);
        let cost = compiled.cost.saturating_mul(calls);
        if place.rule_cost && cost > STATIC_ESTIMATED_COST_LIMIT {
            let detail = too_expensive("estimated rule cost", cost, STATIC_ESTIMATED_COST_LIMIT);
            errors.forbidden(at.child("rule"), &detail);
        }
        total.observe(at.child("rule"), cost);
        if let Some(error) = &compiled.error {
            errors.invalid_text(at.child("rule"), &dump::rule(rule), error);
        }
        match compiled.message {
            Some(Err(error)) => errors.invalid_text(at.child("messageExpression"), &dump::rule(rule), &error),
            Some(Ok(cost)) => {
                if place.rule_cost && cost > STATIC_ESTIMATED_COST_LIMIT {
                    let detail = too_expensive("estimated messageExpression cost", cost, STATIC_ESTIMATED_COST_LIMIT);
                    errors.forbidden(at.child("messageExpression"), &detail);
                }
                total.observe(at.child("messageExpression"), cost);
            }
            None => {}
        }
        if compiled.uses_old {
            if let Some(part) = place.uncorrelatable {
                let detail =
                    format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {part}");
                errors.invalid(at.child("rule"), text(rule, "rule"), &detail);
            }
        } else if let Some(set) = opt_flag(rule, "optionalOldSelf") {
            errors.invalid(at.child("optionalOldSelf"), set, "may not be set if oldSelf is not used in rule");
        }
    }
}

/// A rule as far as it compiles.
#[derive(Default)]
struct Compiled {
    cost: u64,
    error: Option<String>,
    uses_old: bool,
    /// The cost of the messageExpression, or why it does not compile.
    message: Option<Result<u64, String>>,
}

impl Compiled {
    fn of(rule: &Value, env: &Env, decl: &DeclType) -> Self {
        let mut out = Self::default();
        let program = match Program::compile(env, text(rule, "rule")) {
            Ok(program) => program,
            Err(error @ cel::CompileError::Instantiation(_)) => {
                out.error = Some(format!("program instantiation failed: {error}"));
                return out;
            }
            Err(error) => {
                out.error = Some(format!("compilation failed: {error}"));
                return out;
            }
        };
        if !matches!(program.result_type(), Type::Bool) {
            out.error = Some("cel expression must evaluate to a bool".to_owned());
            return out;
        }
        out.uses_old = program.uses_variable("oldSelf");
        out.cost = program.estimate_cost(&Sizes::of(decl)).max;
        if let Some(source) = field(rule, "messageExpression").and_then(Value::as_str).filter(|s| !s.is_empty()) {
            out.message = Some(message_cost(source, env, decl));
        }
        out
    }
}

fn message_cost(source: &str, env: &Env, decl: &DeclType) -> Result<u64, String> {
    let program = Program::compile(env, source).map_err(|error| match error {
        cel::CompileError::Instantiation(_) => format!("messageExpression instantiation failed: {error}"),
        cel::CompileError::Issues(_) => format!("messageExpression compilation failed: {error}"),
    })?;
    if !matches!(program.result_type(), Type::String) {
        return Err("messageExpression must evaluate to a string".to_owned());
    }
    Ok(program.estimate_cost(&Sizes::of(decl)).max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cardinalities() {
        let list = json!({"type": "array", "maxItems": 5});
        assert_eq!(below(Some(3), &list), Some(15));
        assert_eq!(below(Some(3), &json!({"type": "array"})), None);
        assert_eq!(below(None, &list), None);
        assert_eq!(
            below(Some(3), &json!({"type": "object", "additionalProperties": {}, "maxProperties": -1})),
            Some(0)
        );
        assert_eq!(below(Some(3), &json!({"type": "object", "properties": {}})), Some(3));
    }

    #[test]
    fn factors() {
        let factor = |cost| too_expensive("x", cost, 1000).split(" (").next().unwrap_or("").to_owned();
        assert_eq!(factor(1001), "x exceeds budget by factor of 1.001000x");
        assert_eq!(factor(2345), "x exceeds budget by factor of 2.3x");
        assert_eq!(factor(100_001), "x exceeds budget by factor of more than 100x");
    }
}
