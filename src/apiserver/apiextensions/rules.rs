//! The rules in CEL of a schema (`x-kubernetes-validations`): compiled with it, run after all other checks passed.
//!
//! Invariants:
//! - XL-1: one object's rules together cost no more than the budget of a request, and each call no more than its limit.
//! - XL-2: a rule that compares with the old object runs only where there is one, and its errors are never ratcheted.

use apimachinery::goformat::{self, quote};
use apimachinery::validation::{ErrorList, ErrorType, FieldError, Path};
use cel::{DeclType, Env, PER_CALL_LIMIT, Program, RUNTIME_CEL_COST_BUDGET};
use serde_json::{Map, Value};

use super::structural::{ListType, Node, Ty};
use super::validate::same_item;

/// Longest text that a messageExpression may make, in bytes.
const LONGEST_MESSAGE: usize = 5 * 1024;

/// The rules of one node.
#[derive(Debug)]
pub struct Rules {
    decl: DeclType,
    rules: Box<[Rule]>,
}

#[derive(Debug)]
struct Rule {
    text: Box<str>,
    message: Box<str>,
    reason: Box<str>,
    /// What follows the node's path, as messages show it.
    field: Box<str>,
    optional_old: bool,
    uses_old: bool,
    /// Err: why it does not compile.
    program: Result<Program, Box<str>>,
    message_expression: Option<(Box<str>, Program)>,
}

/// Compiles the rules of a node. `spine` is the schema that gives the node its type; `whole`: it has type and metadata.
pub fn build(schema: &Value, spine: &Value, whole: bool) -> Option<Box<Rules>> {
    let listed = schema["x-kubernetes-validations"].as_array().filter(|listed| !listed.is_empty())?;
    let decl = DeclType::from_openapi(spine, whole, "selfType")?;
    let rules = listed.iter().map(|rule| Rule::build(rule, &decl)).collect();
    Some(Box::new(Rules { decl, rules }))
}

impl Rule {
    fn build(rule: &Value, decl: &DeclType) -> Self {
        let text = |field: &str| -> Box<str> { rule[field].as_str().unwrap_or_default().trim().into() };
        let optional_old = rule["optionalOldSelf"] == true;
        let old = if optional_old { cel::Type::optional(decl.ty.clone()) } else { decl.ty.clone() };
        let env = Env::kubernetes().with_variable("self", decl.ty.clone()).with_variable("oldSelf", old);
        let program = Program::compile(&env, rule["rule"].as_str().unwrap_or_default())
            .map_err(|error| format!("compilation failed: {error}").into_boxed_str());
        let expression = rule["messageExpression"].as_str().filter(|expression| !expression.is_empty());
        let message_expression =
            expression.and_then(|source| Some((source.into(), Program::compile(&env, source).ok()?)));
        Self {
            uses_old: program.as_ref().is_ok_and(|program| program.uses_variable("oldSelf")),
            text: text("rule"),
            message: text("message"),
            reason: text("reason"),
            field: field_path(rule["fieldPath"].as_str().unwrap_or_default()).into(),
            optional_old,
            program,
            message_expression,
        }
    }

    /// How messages name the rule.
    fn shown(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }
}

/// `.spec['a.b']` as a field's path: `spec.a.b`.
fn field_path(json_path: &str) -> String {
    let mut out = String::new();
    let mut rest = json_path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("['") {
            let end = quoted.find("']").unwrap_or(quoted.len());
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&quoted[..end]);
            rest = quoted.get(end + 2..).unwrap_or("");
        } else {
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let end = rest.find(['.', '[']).unwrap_or(rest.len()).max(usize::from(rest.starts_with('[')));
            if !out.is_empty() {
                out.push('.');
            }
            out.push_str(&rest[..end]);
            rest = &rest[end..];
        }
    }
    out
}

/// What the rules say of an object; `old` is what it was before an update.
pub fn check(object: &Value, old: Option<&Value>, schema: &Node) -> ErrorList {
    let mut run = Run { errors: ErrorList::new(), budget: i64::try_from(RUNTIME_CEL_COST_BUDGET).unwrap_or(i64::MAX) };
    let ratchet = Ratchet { here: old.map(|old| (old, object)), above: None };
    let _ = run.node(object, old, schema, &Path::nil(), ratchet);
    run.errors
}

/// Whether an error may be about what was so before.
#[derive(Clone, Copy)]
struct Ratchet<'a> {
    /// Old and new, where the old value of this very place is known.
    here: Option<(&'a Value, &'a Value)>,
    /// The nearest place above of which it is known.
    above: Option<(&'a Value, &'a Value)>,
}

impl<'a> Ratchet<'a> {
    fn unchanged(&self) -> bool {
        self.here.or(self.above).is_some_and(|(old, new)| old == new)
    }

    fn below(self, old: Option<&'a Value>, new: &'a Value) -> Self {
        match self.here {
            None => self,
            Some(here) => Self { here: old.map(|old| (old, new)), above: Some(here) },
        }
    }
}

/// The budget is spent: nothing more is run.
struct Spent;

struct Run {
    errors: ErrorList,
    budget: i64,
}

impl Run {
    fn node<'a>(
        &mut self,
        value: &'a Value,
        old: Option<&'a Value>,
        node: &'a Node,
        path: &Path,
        ratchet: Ratchet<'a>,
    ) -> Result<(), Spent> {
        if value.is_null() || !node.below.rules {
            return Ok(());
        }
        if let Some(rules) = &node.rules {
            self.rules(value, old, rules, node, path, ratchet)?;
        }
        for nested in node.checks.iter().flat_map(|checks| checks.all_of.iter()) {
            self.node(value, old, nested, path, Ratchet { here: None, above: ratchet.above })?;
        }
        match value {
            Value::Array(items) => self.list(items, old.and_then(Value::as_array), node, path, ratchet),
            Value::Object(map) => self.map(map, old.and_then(Value::as_object), node, path, ratchet),
            _ => Ok(()),
        }
    }

    fn list<'a>(
        &mut self,
        items: &'a [Value],
        old: Option<&'a Vec<Value>>,
        node: &'a Node,
        path: &Path,
        ratchet: Ratchet<'a>,
    ) -> Result<(), Spent> {
        let Some(item) = node.items.as_deref().filter(|item| item.below.rules) else { return Ok(()) };
        for (at, value) in items.iter().enumerate() {
            let before = old.filter(|_| node.list_type == ListType::Map).and_then(|old| same_item(node, old, value));
            self.node(value, before, item, &path.index(at), ratchet.below(before, value))?;
        }
        Ok(())
    }

    fn map<'a>(
        &mut self,
        map: &'a Map<String, Value>,
        old: Option<&'a Map<String, Value>>,
        node: &'a Node,
        path: &Path,
        ratchet: Ratchet<'a>,
    ) -> Result<(), Spent> {
        for (key, value) in map {
            let Some(child) = node.child(key).filter(|child| child.below.rules) else { continue };
            let before = old.filter(|_| !node.atomic_map).and_then(|old| old.get(key));
            let at = if node.property(key).is_some() { path.child(key) } else { path.key(key) };
            self.node(value, before, child, &at, ratchet.below(before, value))?;
        }
        Ok(())
    }

    fn rules<'a>(
        &mut self,
        value: &'a Value,
        old: Option<&'a Value>,
        rules: &'a Rules,
        node: &'a Node,
        path: &Path,
        ratchet: Ratchet<'a>,
    ) -> Result<(), Spent> {
        let ty = node.ty.name();
        if self.budget <= 0 {
            return self.spent(
                path,
                ty,
                "validation failed due to running out of cost budget, no further validation rules will be run",
            );
        }
        let old = old.filter(|old| !old.is_null());
        for rule in &rules.rules {
            let program = match &rule.program {
                Ok(program) => program,
                Err(error) => {
                    self.errors.invalid(path.clone(), ty, &format!("rule compile error: {error}"));
                    continue;
                }
            };
            if rule.uses_old && old.is_none() && !rule.optional_old {
                continue;
            }
            let variables = Variables { current: value, old, optional: rule.optional_old, decl: &rules.decl };
            let outcome = program.eval(&variables, PER_CALL_LIMIT);
            self.pay(outcome.cost, path, ty)?;
            match outcome.result {
                Ok(cel::Value::Bool(true)) => continue,
                Ok(_) => {}
                Err(error) => {
                    let text = error.to_string();
                    let detail = if text.starts_with("no such overload") {
                        format!(
                            "'{text}': call arguments did not match a supported operator, function or macro \
                             signature for rule: {}",
                            rule.shown()
                        )
                    } else if error.is_cost_limit() {
                        let detail = format!(
                            "'{text}': no further validation rules will be run due to call cost exceeds limit for \
                             rule: {}",
                            rule.shown()
                        );
                        return self.spent(path, ty, &detail);
                    } else {
                        format!("{text} evaluating rule: {}", rule.shown())
                    };
                    self.errors.invalid(path.clone(), ty, &detail);
                    continue;
                }
            }
            let at = if rule.field.is_empty() { path.clone() } else { path.child(&rule.field) };
            let excused = !rule.uses_old && ratchet.unchanged();
            let detail = self.message(rule, &variables, &at, ty, excused)?;
            if !excused {
                self.errors.push(failed(&at, value, node.ty, detail, &rule.reason));
            }
        }
        Ok(())
    }

    fn pay(&mut self, cost: u64, path: &Path, ty: &str) -> Result<(), Spent> {
        match i64::try_from(cost).ok().filter(|cost| *cost <= self.budget) {
            Some(cost) => {
                self.budget -= cost;
                Ok(())
            }
            None => self.spent(
                path,
                ty,
                "validation failed due to running out of cost budget, no further validation rules will be run",
            ),
        }
    }

    fn spent(&mut self, path: &Path, ty: &str, detail: &str) -> Result<(), Spent> {
        self.errors.invalid(path.clone(), ty, detail);
        Err(Spent)
    }

    /// Why the rule failed: what its messageExpression says, its message, or the rule itself.
    fn message<'a>(
        &mut self,
        rule: &'a Rule,
        variables: &Variables<'a>,
        at: &Path,
        ty: &str,
        excused: bool,
    ) -> Result<String, Spent> {
        let plain = || match rule.message.is_empty() {
            true => format!("failed rule: {}", rule.text),
            false => rule.message.to_string(),
        };
        let Some((source, program)) = &rule.message_expression else { return Ok(plain()) };
        let outcome = program.eval(variables, PER_CALL_LIMIT);
        let mut refuse = |detail: String| {
            if !excused {
                self.errors.invalid(at.clone(), ty, &detail);
            }
            Err(Spent)
        };
        let Some(cost) = i64::try_from(outcome.cost).ok().filter(|cost| *cost <= self.budget) else {
            return refuse(
                "messageExpression evaluation failed due to running out of cost budget, no further \
                validation rules will be run"
                    .to_owned(),
            );
        };
        if outcome.result.as_ref().is_err_and(cel::EvalError::is_cost_limit) {
            return refuse(format!(
                "no further validation rules will be run due to call cost exceeds limit for messageExpression: {}",
                quote(source)
            ));
        }
        self.budget -= cost;
        match outcome.result {
            Ok(cel::Value::String(text)) => {
                let text = text.trim();
                let good = !text.is_empty() && text.len() <= LONGEST_MESSAGE && !text.contains('\n');
                Ok(if good { text.to_owned() } else { plain() })
            }
            _ => Ok(plain()),
        }
    }
}

/// `self` and `oldSelf` of one evaluation.
struct Variables<'a> {
    current: &'a Value,
    old: Option<&'a Value>,
    optional: bool,
    decl: &'a DeclType,
}

impl<'a> Variables<'a> {
    fn bind(&self, value: &'a Value) -> Result<cel::Value<'a>, cel::EvalError> {
        cel::Value::from_json(value, Some(self.decl))
    }
}

impl<'a> cel::Bindings<'a> for Variables<'a> {
    fn resolve(&self, name: &str) -> Option<Result<cel::Value<'a>, cel::EvalError>> {
        match name {
            "self" => Some(self.bind(self.current)),
            "oldSelf" if self.optional => Some(match self.old {
                None => Ok(cel::Value::Optional(None)),
                Some(old) => self.bind(old).map(|old| cel::Value::Optional(Some(std::rc::Rc::new(old)))),
            }),
            "oldSelf" => self.old.map(|old| self.bind(old)),
            _ => None,
        }
    }
}

/// The error of a rule that is false. Objects and lists are not shown.
fn failed(at: &Path, value: &Value, ty: Ty, detail: String, reason: &str) -> FieldError {
    let compound = matches!(ty, Ty::Object | Ty::Array);
    let shown = if compound { Value::Null } else { value.clone() };
    let mut error = match reason {
        "FieldValueForbidden" => FieldError::new(ErrorType::Forbidden, at, "", detail),
        "FieldValueRequired" => FieldError::new(ErrorType::Required, at, "", detail),
        "FieldValueDuplicate" => FieldError::new(ErrorType::Duplicate, at, shown, ""),
        _ => FieldError::new(ErrorType::Invalid, at, shown, detail),
    };
    if compound {
        error.value_text = Some(String::new());
    } else if let Value::Number(number) = value {
        error.value_text = Some(goformat::number(number));
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_of_fields() {
        assert_eq!(field_path(".spec.a"), "spec.a");
        assert_eq!(field_path("['a.b'].c"), "a.b.c");
        assert_eq!(field_path(".m['k']"), "m.k");
    }

    #[test]
    fn transitions_and_ratcheting() {
        let node =
            Node::of_resource(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "imm": {"type": "string", "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "no"}]},
            "n": {"type": "integer", "x-kubernetes-validations": [{"rule": "self < 5"}]}}}}}));
        let texts = |new: &Value, old: Option<&Value>| -> Vec<String> {
            check(new, old, &node).iter().map(ToString::to_string).collect()
        };
        let old = json!({"spec": {"imm": "a", "n": 7}});
        assert_eq!(texts(&old, None), ["spec.n: Invalid value: 7: failed rule: self < 5"]);
        assert!(texts(&old, Some(&old)).is_empty());
        assert_eq!(
            texts(&json!({"spec": {"imm": "b", "n": 8}}), Some(&old)),
            ["spec.imm: Invalid value: \"b\": no", "spec.n: Invalid value: 8: failed rule: self < 5"]
        );
    }
}
