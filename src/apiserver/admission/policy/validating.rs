//! ValidatingAdmissionPolicy.

use std::sync::Arc;

use apimachinery::status::{Cause, Status};
use async_trait::async_trait;
use cel::RUNTIME_CEL_COST_BUDGET;
use serde_json::{Value, json};

use super::super::expression::{Inputs, OUT_OF_BUDGET, OutOfBudget, Questions, Run, hold};
use super::super::live::Live;
use super::super::matching::{Subject, is_exempt};
use super::super::shown::Shown;
use super::super::{AdmissionRequest, Plugin};
use super::compile::Policy;
use super::{Binding, Hooks, binds, hooks, params, shown_name, unknown_params};
use crate::authz::Authorizer;
use crate::kinds::Kinds;

/// Longest message that an expression may make, in bytes.
const MOST_MESSAGE: usize = 5 * 1024;
/// Longest value of an audit annotation, in bytes.
const MOST_ANNOTATION: usize = 10 * 1024;

pub struct ValidatingPolicies {
    authorizer: Arc<Authorizer>,
    kinds: Arc<Kinds>,
    hooks: Live<Hooks>,
}

/// What one validation came to, where it did not pass.
struct Failure {
    index: usize,
    message: String,
    /// "" for what could not be evaluated.
    reason: String,
}

#[derive(Default)]
struct Outcome {
    failures: Vec<Failure>,
    annotations: Vec<(String, String)>,
    /// Audit annotations that could not be evaluated.
    broken: Vec<String>,
}

/// A refusal and who is behind it.
struct Denial {
    policy: String,
    binding: Option<String>,
    message: String,
    reason: String,
}

impl ValidatingPolicies {
    pub fn new(authorizer: Arc<Authorizer>, kinds: Arc<Kinds>) -> Self {
        let hooks = Live::new(&["validatingadmissionpolicies", "validatingadmissionpolicybindings"]);
        Self { authorizer, kinds, hooks }
    }
}

#[async_trait]
impl Plugin for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let Some(hooks) = hooks(&self.hooks, request.reader) else { return Ok(()) };
        if is_exempt(request, true) {
            return Ok(());
        }
        let subject = Subject::new(request, &self.kinds).await;
        let questions = Questions::new(&self.authorizer, request);
        let mut denials = Vec::new();
        for hook in hooks.iter() {
            let policy = &*hook.policy;
            let found = match policy.criteria.matches(&subject, object) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(status) => {
                    denials.extend(unusable(policy, None, status.message));
                    continue;
                }
            };
            if let Some(error) = unknown_params(policy, &self.kinds) {
                denials.extend(unusable(policy, None, error));
                continue;
            }
            let mut noted: Vec<(String, Vec<String>)> = Vec::new();
            let mut shown: Option<Shown<'_>> = None;
            for binding in &hook.bindings {
                let given = match binds(binding, &subject, object) {
                    Ok(false) => continue,
                    Ok(true) => {
                        let reader = request.reader;
                        params::collect(&self.kinds, reader, policy, &binding.param_ref, request.namespace).await
                    }
                    Err(status) => Err(status.message),
                };
                let given = match given {
                    Ok(given) => given,
                    Err(error) => {
                        denials.extend(unusable(policy, Some(binding), error));
                        continue;
                    }
                };
                if shown.is_none() {
                    match Shown::new(&subject, found.clone(), object).await {
                        Ok(made) => shown = Some(made),
                        Err(error) => {
                            let error = format!("failed to convert object version: {error}");
                            denials.extend(unusable(policy, Some(binding), error));
                            continue;
                        }
                    }
                }
                let Some(shown) = &shown else { continue };
                let namespace = subject.namespace_object()?;
                for params in &given {
                    let outcome = evaluate(policy, shown, &namespace, params, &questions).await;
                    settle(request, policy, binding, outcome, &mut denials, &mut noted);
                }
            }
            for (key, values) in noted {
                request.notes.annotate(format!("{}/{key}", policy.name), values.join(", "));
            }
        }
        match denials.into_iter().next() {
            Some(denial) => Err(refuse(request, object, denial)),
            None => Ok(()),
        }
    }
}

/// A policy, or one of its bindings, that cannot be used.
fn unusable(policy: &Policy, binding: Option<&Binding>, error: String) -> Option<Denial> {
    let what = if binding.is_some() { "binding" } else { "policy" };
    let denial = || Denial {
        policy: policy.name.clone(),
        binding: binding.map(|binding| binding.name.clone()),
        message: format!("failed to configure {what}: {error}"),
        reason: String::new(),
    };
    (!policy.ignore).then(denial)
}

/// What a binding does with what came out.
fn settle(
    request: &AdmissionRequest<'_>,
    policy: &Policy,
    binding: &Binding,
    outcome: Outcome,
    denials: &mut Vec<Denial>,
    noted: &mut Vec<(String, Vec<String>)>,
) {
    let mut deny = |message: String, reason: String| {
        denials.push(Denial { policy: policy.name.clone(), binding: Some(binding.name.clone()), message, reason });
    };
    for failure in outcome.failures {
        for action in &binding.actions {
            match action.as_str() {
                "Deny" => deny(failure.message.clone(), failure.reason.clone()),
                "Audit" => {
                    let value = json!([{
                        "message": failure.message,
                        "policy": policy.name,
                        "binding": binding.name,
                        "expressionIndex": failure.index,
                        "validationActions": binding.actions,
                    }]);
                    request.notes.annotate("validation.policy.admission.k8s.io/validation_failure", value.to_string());
                }
                _ => request.warn(format!(
                    "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                    policy.name, binding.name, failure.message
                )),
            }
        }
    }
    for error in outcome.broken {
        deny(error, String::new());
    }
    for (key, value) in outcome.annotations {
        match noted.iter_mut().find(|(known, _)| *known == key) {
            None => noted.push((key, vec![value])),
            Some((_, values)) if !values.contains(&value) => values.push(value),
            Some(_) => {}
        }
    }
}

fn refuse(request: &AdmissionRequest<'_>, object: &Value, denial: Denial) -> Status {
    let Denial { policy, binding, message, reason } = denial;
    let message = match binding {
        Some(binding) => {
            format!("ValidatingAdmissionPolicy '{policy}' with binding '{binding}' denied request: {message}")
        }
        None => format!("ValidatingAdmissionPolicy '{policy}' denied request: {message}"),
    };
    let mut status = Status::forbidden(&request.resource(), shown_name(request, object), &message);
    let reason = if reason.is_empty() { "Invalid".to_owned() } else { reason };
    status.code = match reason.as_str() {
        "Forbidden" => 403,
        "Unauthorized" => 401,
        "RequestEntityTooLarge" => 413,
        _ => 422,
    };
    status.reason = reason;
    status.with_causes(vec![Cause::message(message)])
}

/// Everything a policy says about a request, with one object of parameters.
async fn evaluate(
    policy: &Policy,
    shown: &Shown<'_>,
    namespace: &Value,
    params: &Value,
    questions: &Questions<'_>,
) -> Outcome {
    let inputs = shown.inputs(&policy.variables, namespace, params, questions);
    let failed = |error: String| match policy.ignore {
        true => Outcome::default(),
        false => Outcome {
            failures: vec![Failure { index: 0, message: error, reason: String::new() }],
            ..Outcome::default()
        },
    };
    match hold(&policy.conditions, &shown.bare(params, questions), policy.ignore).await {
        Ok(true) => {}
        Ok(false) => return Outcome::default(),
        Err(error) => return failed(error),
    }
    let outcome =
        questions.settled(|| validations(policy, &inputs).map(|failures| (failures, annotations(policy, &inputs))));
    match outcome.await {
        Err(OutOfBudget) => failed(OUT_OF_BUDGET.to_owned()),
        Ok((_, Err(OutOfBudget))) => failed(OUT_OF_BUDGET.to_owned()),
        Ok((failures, Ok((annotations, broken)))) => Outcome { failures, annotations, broken },
    }
}

fn validations(policy: &Policy, inputs: &Inputs<'_>) -> Result<Vec<Failure>, OutOfBudget> {
    let mut run = Run::new(inputs, RUNTIME_CEL_COST_BUDGET);
    let mut outcomes = Vec::with_capacity(policy.validations.len());
    for validation in &policy.validations {
        outcomes.push(run.eval(&validation.expression)?.map(|value| value.as_bool() == Some(true)));
    }
    let mut messages = Run::new(inputs, run.left());
    let mut spent = false;
    let mut failures = Vec::new();
    for (index, (validation, outcome)) in policy.validations.iter().zip(outcomes).enumerate() {
        // Every message is made, as upstream does: they share what is left of the budget.
        let message = match &validation.message_expression {
            Some(expression) if !spent => messages.eval(expression).unwrap_or_else(|OutOfBudget| {
                spent = true;
                Err(OUT_OF_BUDGET.to_owned())
            }),
            _ => Err(String::new()),
        };
        let (message, reason) = match outcome {
            Ok(true) => continue,
            Err(_) if policy.ignore => continue,
            Err(error) => (error, String::new()),
            Ok(false) if spent => (format!("failed messageExpression: {OUT_OF_BUDGET}"), String::new()),
            Ok(false) => {
                let made = message.ok().as_ref().and_then(|value| value.as_str()).map(str::trim).map(str::to_owned);
                let made = made.filter(|text| !text.is_empty() && text.len() <= MOST_MESSAGE && !text.contains('\n'));
                let fallback = || match validation.message.as_str() {
                    "" => format!("failed expression: {}", validation.expression.source.trim()),
                    message => message.to_owned(),
                };
                (made.unwrap_or_else(fallback), validation.reason.clone())
            }
        };
        failures.push(Failure { index, message, reason });
    }
    Ok(failures)
}

type Annotations = (Vec<(String, String)>, Vec<String>);

fn annotations(policy: &Policy, inputs: &Inputs<'_>) -> Result<Annotations, OutOfBudget> {
    let mut run = Run::new(inputs, RUNTIME_CEL_COST_BUDGET);
    let (mut values, mut broken) = (Vec::new(), Vec::new());
    for annotation in &policy.annotations {
        match run.eval(&annotation.value)? {
            Err(_) if policy.ignore => {}
            Err(error) => broken.push(error),
            Ok(value) => {
                let text = value.as_str().map(str::trim).unwrap_or_default();
                if !text.is_empty() {
                    let end = text.floor_char_boundary(MOST_ANNOTATION);
                    values.push((annotation.key.clone(), text[..end].to_owned()));
                }
            }
        }
    }
    Ok((values, broken))
}
