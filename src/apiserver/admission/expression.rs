//! The expressions of hooks at work: compiled once, run against a request within upstream's budgets.
//!
//! Invariants:
//! - EX-1: an expression runs in the environment in which it was checked when it was stored.
//! - EX-2: what an expression asks the authorizer is decided outside of it, and then it runs again: no evaluation waits.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use api::admissionregistration::{Declared, environment};
use apimachinery::goformat::quote;
use cel::{
    Bindings, Check, Decision, Env, EvalError, Lookup, PER_CALL_LIMIT, Program, Question,
    RUNTIME_CEL_COST_BUDGET_MATCH_CONDITIONS, Target, Type,
};
use parking_lot::Mutex;
use serde_json::Value;

use super::{AdmissionRequest, list, text};
use crate::attributes::User;
use crate::authz::{Attributes, Authorizer};

pub(super) const OUT_OF_BUDGET: &str =
    "validation failed due to running out of cost budget, no further validation rules will be run";
/// Rounds of questions to the authorizer: an answer may lead to the next question.
const MOST_ROUNDS: usize = 64;

/// A compiled expression, or why there is none.
#[derive(Debug)]
pub(super) struct Compiled {
    pub source: String,
    program: Result<Program, String>,
}

impl Compiled {
    pub fn new(env: &Env, source: &str) -> Self {
        let program = Program::compile(env, source.trim()).map(|mut program| {
            program.forget_tree();
            program
        });
        let program = program.map_err(|error| format!("compilation error: compilation failed: {error}"));
        Self { source: source.to_owned(), program }
    }

    fn ty(&self) -> Type {
        self.program.as_ref().map_or(Type::Dyn, |program| program.result_type().clone())
    }
}

/// A condition for a hook to be asked.
#[derive(Debug)]
pub(super) struct Condition(Compiled);

/// The `matchConditions` of a webhook or policy.
pub(super) fn conditions(holder: &Value, params: bool) -> Vec<Condition> {
    let env = environment(Declared { params, authorizer: true, changes: false }, None);
    let compile = |condition: &Value| Condition(Compiled::new(&env, text(condition, "expression")));
    list(holder, "matchConditions").iter().map(compile).collect()
}

/// A policy's variables, each known to those after it.
pub(super) struct Variables {
    pub compiled: Vec<(String, Compiled)>,
    pub types: Vec<(String, Type)>,
}

impl Variables {
    pub fn compile(spec: &Value, declared: Declared) -> Self {
        let (mut compiled, mut types) = (Vec::new(), Vec::new());
        for variable in list(spec, "variables") {
            let name = text(variable, "name");
            let expression = Compiled::new(&environment(declared, Some(&types)), text(variable, "expression"));
            types.push((name.to_owned(), expression.ty()));
            compiled.push((name.to_owned(), expression));
        }
        Self { compiled, types }
    }
}

/// What expressions may name.
pub(super) struct Inputs<'a> {
    pub object: &'a Value,
    pub old: &'a Value,
    pub request: &'a Value,
    pub namespace: &'a Value,
    pub params: &'a Value,
    pub variables: &'a [(String, Compiled)],
    pub questions: &'a Questions<'a>,
}

/// One run of several expressions: variables are computed once, the budget is common.
pub(super) struct Run<'a> {
    shared: Rc<Shared<'a>>,
    left: u64,
}

struct Shared<'a> {
    inputs: &'a Inputs<'a>,
    host: Rc<Host<'a>>,
    known: RefCell<HashMap<&'a str, Result<cel::Value<'a>, EvalError>>>,
    spent: Cell<u64>,
}

/// What an expression came to: its value, or the text of its error.
pub(super) type Evaluated<'a> = Result<cel::Value<'a>, String>;

/// The common budget is spent.
#[derive(Debug)]
pub(super) struct OutOfBudget;

impl<'a> Run<'a> {
    pub fn new(inputs: &'a Inputs<'a>, budget: u64) -> Self {
        let host = Rc::new(Host(inputs.questions));
        let shared = Shared { inputs, host, known: RefCell::default(), spent: Cell::new(0) };
        Self { shared: Rc::new(shared), left: budget }
    }

    /// What is left of the budget.
    pub fn left(&self) -> u64 {
        self.left
    }

    pub fn eval(&mut self, expression: &'a Compiled) -> Result<Evaluated<'a>, OutOfBudget> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(error) => return Ok(Err(error.clone())),
        };
        let outcome = program.eval(&Scope(self.shared.clone()), PER_CALL_LIMIT);
        let cost = outcome.cost.saturating_add(self.shared.spent.take());
        self.left = self.left.checked_sub(cost).ok_or(OutOfBudget)?;
        let failed = |error| format!("expression '{}' resulted in error: {error}", expression.source);
        Ok(outcome.result.map_err(failed))
    }

    /// Whether all conditions hold.
    ///
    /// # Errors
    /// The texts of those that failed, when none says no.
    fn conditions(&mut self, conditions: &'a [Condition]) -> Result<bool, String> {
        let mut outcomes = Vec::with_capacity(conditions.len());
        for condition in conditions {
            outcomes.push(self.eval(&condition.0).map_err(|OutOfBudget| OUT_OF_BUDGET.to_owned())?);
        }
        if outcomes.iter().any(|outcome| matches!(outcome, Ok(cel::Value::Bool(false)))) {
            return Ok(false);
        }
        let mut errors: Vec<String> = Vec::new();
        for error in outcomes.into_iter().filter_map(Result::err) {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        match errors.len() {
            0 => Ok(true),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }
}

/// Whether the conditions of a hook hold.
///
/// # Errors
/// When they cannot be decided and the hook is not to be passed over then.
pub(super) async fn hold(conditions: &[Condition], inputs: &Inputs<'_>, ignore: bool) -> Result<bool, String> {
    if conditions.is_empty() {
        return Ok(true);
    }
    let budget = RUNTIME_CEL_COST_BUDGET_MATCH_CONDITIONS;
    let outcome = inputs.questions.settled(|| Run::new(inputs, budget).conditions(conditions)).await;
    match outcome {
        Err(_) if ignore => Ok(false),
        outcome => outcome,
    }
}

struct Scope<'a>(Rc<Shared<'a>>);

impl<'a> Bindings<'a> for Scope<'a> {
    fn resolve(&self, name: &str) -> Option<Result<cel::Value<'a>, EvalError>> {
        let shared = &self.0;
        let json = |value: &'a Value| Some(cel::Value::from_json(value, None));
        match name {
            "object" => json(shared.inputs.object),
            "oldObject" => json(shared.inputs.old),
            "request" => json(shared.inputs.request),
            "namespaceObject" => json(shared.inputs.namespace),
            "params" => json(shared.inputs.params),
            "variables" => Some(Ok(cel::Value::lookup(Computed(shared.clone())))),
            "authorizer" => Some(Ok(cel::Value::authorizer(shared.host.clone()))),
            "authorizer.requestResource" => {
                Some(Ok(cel::Value::resource_check(shared.host.clone(), shared.inputs.questions.own())))
            }
            _ => None,
        }
    }
}

/// `variables`
struct Computed<'a>(Rc<Shared<'a>>);

impl<'a> Lookup<'a> for Computed<'a> {
    fn get(&self, field: &str) -> Option<Result<cel::Value<'a>, EvalError>> {
        let shared = &self.0;
        let (name, expression) = shared.inputs.variables.iter().find(|(name, _)| name == field)?;
        if let Some(known) = shared.known.borrow().get(name.as_str()) {
            return Some(known.clone());
        }
        let value = match &expression.program {
            Err(error) => Err(EvalError::new(format!("composited variable {} fails to compile: {error}", quote(name)))),
            Ok(program) => {
                let outcome = program.eval(&Scope(shared.clone()), PER_CALL_LIMIT);
                shared.spent.set(shared.spent.get().saturating_add(outcome.cost));
                outcome.result.map_err(|error| {
                    EvalError::new(format!("composited variable {} fails to evaluate: {error}", quote(name)))
                })
            }
        };
        shared.known.borrow_mut().insert(name, value.clone());
        Some(value)
    }

    fn keys(&self) -> Vec<String> {
        self.0.inputs.variables.iter().map(|(name, _)| name.clone()).collect()
    }
}

/// What expressions of one request asked the authorizer.
pub(super) struct Questions<'r> {
    authorizer: &'r Authorizer,
    user: &'r User,
    own: Check,
    decided: Mutex<HashMap<String, Decision>>,
    open: Mutex<Vec<(String, Attributes)>>,
}

impl<'r> Questions<'r> {
    pub fn new(authorizer: &'r Authorizer, request: &'r AdmissionRequest<'r>) -> Self {
        let own = Check {
            group: request.kind.group.to_string(),
            resource: request.kind.plural.to_string(),
            subresource: request.subresource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: request.shown_name().to_owned(),
            field_selector: None,
            label_selector: None,
        };
        Self { authorizer, user: request.user, own, decided: Mutex::default(), open: Mutex::default() }
    }

    fn own(&self) -> Check {
        self.own.clone()
    }

    /// EX-2: runs until everything it asked was decided before.
    pub async fn settled<T>(&self, run: impl Fn() -> T) -> T {
        for _ in 0..MOST_ROUNDS {
            let outcome = run();
            let open = std::mem::take(&mut *self.open.lock());
            if open.is_empty() {
                return outcome;
            }
            drop(outcome);
            for (key, attributes) in open {
                let decision = self.authorizer.authorize(&attributes).await;
                let decision =
                    Decision { allowed: decision.allowed(), reason: decision.reason().to_owned(), error: None };
                self.decided.lock().insert(key, decision);
            }
        }
        run()
    }

    fn attributes(&self, question: &Question<'_>) -> Attributes {
        let user = match question.service_account {
            None => self.user.clone(),
            Some((namespace, name)) => {
                let groups = ["system:serviceaccounts", &format!("system:serviceaccounts:{namespace}")];
                User::new(format!("system:serviceaccount:{namespace}:{name}"), &groups)
            }
        };
        match &question.target {
            Target::Path(path) => {
                Attributes { user, verb: question.verb.to_owned(), path: (*path).to_owned(), ..Attributes::default() }
            }
            Target::Resource(check) => Attributes {
                subresource: check.subresource.clone(),
                fields: check.field_selector.as_deref().map(crate::authz::equalities).unwrap_or_default(),
                ..Attributes::resource(
                    &user,
                    question.verb,
                    &check.group,
                    &check.resource,
                    &check.namespace,
                    &check.name,
                )
            },
        }
    }
}

struct Host<'a>(&'a Questions<'a>);

impl cel::Authorizer for Host<'_> {
    fn check(&self, question: &Question<'_>) -> Decision {
        let key = format!("{question:?}");
        if let Some(decision) = self.0.decided.lock().get(&key) {
            return decision.clone();
        }
        let attributes = self.0.attributes(question);
        self.0.open.lock().push((key, attributes));
        Decision::default()
    }
}

/// `request` as expressions see it.
pub(super) fn request_value(request: &AdmissionRequest<'_>, shown_as: &api::Kind) -> Value {
    let mut out = super::matching::describe(request, shown_as);
    out.insert("dryRun".to_owned(), request.dry_run.into());
    out.insert("options".to_owned(), request.options.clone());
    Value::Object(out)
}
