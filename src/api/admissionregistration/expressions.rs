//! The expressions of webhooks and policies.
//!
//! Invariants:
//! - EX-1: an expression that is stored compiles and answers with a type that its field allows.

use apimachinery::validation::{ErrorList, Path};
use cel::{CompileError, Program, Type};
use serde_json::Value;

use super::environment::{Declared, environment};
use crate::access::{has, items, text};
use crate::checks::qualified_name;

const MOST_MATCH_CONDITIONS: usize = 64;

/// Checks expressions against one environment that grows: a variable may be named by those after it.
pub(super) struct Checker {
    params: bool,
    variables: Option<Vec<(String, Type)>>,
}

/// What an expression may answer with.
pub(super) enum Answer {
    Bool,
    Text,
    TextOrNothing,
    Anything,
    /// `Object{…}`
    Partial,
    /// A list of `JSONPatch{…}`.
    Patches,
}

impl Answer {
    /// The allowed types; none: any.
    fn types(&self) -> Vec<Type> {
        match self {
            Self::Bool => vec![Type::Bool],
            Self::Text => vec![Type::String],
            Self::TextOrNothing => vec![Type::String, Type::Null],
            Self::Anything => Vec::new(),
            Self::Partial => vec![Type::object("Object", Vec::<(String, Type)>::new())],
            Self::Patches => vec![Type::list(cel::json_patch())],
        }
    }

    fn check(&self, got: &Type) -> Result<(), String> {
        let allowed = self.types();
        if allowed.is_empty() || allowed.iter().any(|ty| ty.is_exactly(got)) {
            return Ok(());
        }
        Err(match allowed.as_slice() {
            [one] => format!("must evaluate to {one} but got {got}"),
            many => {
                let names: Vec<String> = many.iter().map(ToString::to_string).collect();
                format!("must evaluate to one of [{}] but got {got}", names.join(" "))
            }
        })
    }
}

impl Checker {
    /// For expressions outside policies, and match conditions: there are no variables.
    pub fn plain(params: bool) -> Self {
        Self { params, variables: None }
    }

    /// For a policy's spec; `composes` when expressions may name `variables` even if there are none.
    pub fn policy(spec: &Value, composes: bool) -> Self {
        let variables = (composes || !items(spec, "variables").is_empty()).then(Vec::new);
        Self { params: has(spec, "paramKind"), variables }
    }

    fn declared(&self) -> Declared {
        Declared { params: self.params, authorizer: true, changes: false }
    }

    /// The type that `source` has, with its errors at `path` (which show `shown`).
    fn compile(
        &self,
        errors: &mut ErrorList,
        path: Path,
        (source, shown): (&str, &str),
        declared: Declared,
        answer: &Answer,
    ) -> Type {
        let env = environment(declared, self.variables.as_deref());
        match Program::compile(&env, source) {
            Ok(program) => {
                if let Err(detail) = answer.check(program.result_type()) {
                    errors.invalid(path, shown, &detail);
                }
                program.result_type().clone()
            }
            Err(CompileError::Issues(issues)) => {
                errors.invalid(path, shown, &format!("compilation failed: {issues}"));
                Type::Dyn
            }
            Err(CompileError::Instantiation(text)) => {
                errors.internal(path, &format!("program instantiation failed: {text}"));
                Type::Dyn
            }
        }
    }

    /// An expression that answers yes or no, in the columns of its text as it is.
    pub fn condition(&self, errors: &mut ErrorList, path: Path, source: &str) {
        self.compile(errors, path, (source, source), self.declared(), &Answer::Bool);
    }

    /// An expression that makes a message; it may not ask the authorizer.
    pub fn message(&self, errors: &mut ErrorList, path: Path, source: &str) {
        let declared = Declared { authorizer: false, ..self.declared() };
        self.compile(errors, path, (source, source), declared, &Answer::Text);
    }

    /// An expression that makes an audit annotation's value.
    pub fn annotation(&self, errors: &mut ErrorList, path: Path, source: &str) {
        self.compile(errors, path, (source.trim(), source), self.declared(), &Answer::TextOrNothing);
    }

    /// An expression that makes a change.
    pub fn change(&self, errors: &mut ErrorList, path: Path, source: &str, answer: &Answer) {
        let declared = Declared { changes: true, ..self.declared() };
        self.compile(errors, path, (source.trim(), source.trim()), declared, answer);
    }

    /// `variables` of a policy, each from then on known.
    pub fn variables(&mut self, errors: &mut ErrorList, path: &Path, spec: &Value) {
        for (i, variable) in items(spec, "variables").iter().enumerate() {
            let at = path.child("variables").index(i);
            let name = text(variable, "name");
            if name.trim().is_empty() {
                errors.required(at.child("name"), "name is not specified");
            } else if !is_identifier(name) {
                errors.invalid(at.child("name"), name, "must be a valid CEL identifier");
            }
            let source = text(variable, "expression");
            if source.trim().is_empty() {
                errors.required(at.child("expression"), "expression is not specified");
                continue;
            }
            let declared = self.declared();
            let ty = self.compile(errors, at.child("expression"), (source, source), declared, &Answer::Anything);
            if let Some(known) = &mut self.variables {
                known.push((name.to_owned(), ty));
            }
        }
    }
}

/// `matchConditions`: names are unique, expressions answer yes or no.
pub(super) fn check_match_conditions(errors: &mut ErrorList, path: &Path, holder: &Value) {
    let conditions = items(holder, "matchConditions");
    let path = path.child("matchConditions");
    if conditions.len() > MOST_MATCH_CONDITIONS {
        errors.too_many(path.clone(), conditions.len(), MOST_MATCH_CONDITIONS);
    }
    let checker = Checker::plain(has(holder, "paramKind"));
    for (i, condition) in conditions.iter().enumerate() {
        let at = path.index(i);
        match text(condition, "expression").trim() {
            "" => errors.required(at.child("expression"), ""),
            source => checker.condition(errors, at.child("expression"), source),
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

fn is_identifier(name: &str) -> bool {
    name.bytes().enumerate().all(|(i, b)| b == b'_' || b.is_ascii_alphabetic() || (i > 0 && b.is_ascii_digit()))
        && !cel::is_reserved(name)
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
            {"name": "a", "expression": "object.x ="}, {"name": "a", "expression": "1"}, {"name": "", "expression": ""}]});
        check_match_conditions(&mut errors, &Path::new("w"), &holder);
        assert_eq!(
            texts(&errors),
            [
                "w.matchConditions[0].expression: Invalid value: \"object.x =\": compilation failed: ERROR: <input>:1:10: Syntax error: token recognition error at: '='\n | object.x =\n | .........^",
                "w.matchConditions[1].expression: Invalid value: \"1\": must evaluate to bool but got int",
                "w.matchConditions[1].name: Duplicate value: \"a\"",
                "w.matchConditions[2].expression: Required value",
                "w.matchConditions[2].name: Required value",
            ]
        );
    }

    #[test]
    fn variables_know_those_before_them() {
        let mut errors = ErrorList::new();
        let spec = json!({"variables": [
            {"name": "n", "expression": "1"}, {"name": "m", "expression": "variables.n + 1"}, {"name": "x", "expression": "variables.y"}]});
        let mut checker = Checker::policy(&spec, false);
        checker.variables(&mut errors, &Path::new("s"), &spec);
        checker.condition(&mut errors, Path::new("c"), "variables.m > 1 && request.name != '' && authorizer != null");
        checker.message(&mut errors, Path::new("m"), "string(variables.m)");
        assert_eq!(
            texts(&errors),
            [
                "s.variables[2].expression: Invalid value: \"variables.y\": compilation failed: ERROR: <input>:1:10: undefined field 'y'\n | variables.y\n | .........^"
            ]
        );
    }

    #[test]
    fn changes() {
        let mut errors = ErrorList::new();
        let checker = Checker::policy(&json!({}), true);
        checker.change(&mut errors, Path::new("a"), " Object{spec: Object.spec{replicas: 1}} ", &Answer::Partial);
        let patch = "[JSONPatch{op: 'add', path: '/metadata/labels', value: {'a':'b'}}]";
        checker.change(&mut errors, Path::new("p"), patch, &Answer::Patches);
        assert!(errors.is_empty(), "{:?}", texts(&errors));
        checker.change(&mut errors, Path::new("a"), "1", &Answer::Partial);
        checker.change(&mut errors, Path::new("p"), "1", &Answer::Patches);
        assert_eq!(
            texts(&errors),
            [
                "a: Invalid value: \"1\": must evaluate to Object but got int",
                "p: Invalid value: \"1\": must evaluate to list(JSONPatch) but got int",
            ]
        );
    }

    #[test]
    fn identifiers() {
        assert!(is_identifier("_a1") && !is_identifier("1a") && !is_identifier("a b") && !is_identifier("namespace"));
    }
}
