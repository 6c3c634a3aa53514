//! MutatingAdmissionPolicy.

use std::sync::Arc;

use apimachinery::status::{Cause, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::super::expression::{Inputs, Questions, hold};
use super::super::live::Live;
use super::super::matching::{Match, Subject, is_exempt};
use super::super::shown::Shown;
use super::super::{AdmissionRequest, Plugin};
use super::compile::Policy;
use super::{Binding, Hooks, binds, hooks, params, patch, shown_name, unknown_params};
use crate::authz::Authorizer;
use crate::kinds::Kinds;

const NAME: &str = "MutatingAdmissionPolicy";

pub struct MutatingPolicies {
    authorizer: Arc<Authorizer>,
    kinds: Arc<Kinds>,
    hooks: Live<Hooks>,
}

impl MutatingPolicies {
    pub fn new(authorizer: Arc<Authorizer>, kinds: Arc<Kinds>) -> Self {
        let hooks = Live::new(&["mutatingadmissionpolicies", "mutatingadmissionpolicybindings"]);
        Self { authorizer, kinds, hooks }
    }
}

/// A policy to be asked, with one object of parameters.
struct Invocation<'h> {
    policy: &'h Policy,
    binding: &'h Binding,
    params: Value,
    found: Match,
    /// Policy, binding, and which of the binding's parameters.
    id: String,
}

/// What went wrong with a policy; `reason`: other than Forbidden.
struct Trouble<'h> {
    policy: &'h Policy,
    binding: Option<&'h Binding>,
    message: String,
    reason: &'static str,
}

#[async_trait]
impl Plugin for MutatingPolicies {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let Some(hooks) = hooks(&self.hooks, request.reader) else { return Ok(()) };
        if object.is_null() || is_exempt(request, true) {
            return Ok(());
        }
        let subject = Subject::new(request, &self.kinds).await;
        let mut troubles = Vec::new();
        let invocations = self.invocations(&hooks, &subject, object, &mut troubles).await;
        if !invocations.is_empty() {
            request.reinvocation.begin(NAME, object);
            let namespace = subject.namespace_object()?;
            let questions = Questions::new(&self.authorizer, request);
            for invocation in &invocations {
                if !request.reinvocation.asks(NAME, &invocation.id) {
                    continue;
                }
                match ask(&subject, invocation, &namespace, &questions, object).await {
                    Ok(Some(true)) => request.reinvocation.changed(NAME),
                    Ok(Some(false)) => {}
                    Ok(None) => continue,
                    Err(message) => {
                        let Invocation { policy, binding, .. } = invocation;
                        troubles.push(Trouble { policy, binding: Some(binding), message, reason: "Invalid" });
                        continue;
                    }
                }
                if invocation.policy.again {
                    request.reinvocation.willing(NAME, &invocation.id);
                }
            }
            request.reinvocation.end(NAME, object);
        }
        refuse(request, object, &troubles)
    }
}

impl MutatingPolicies {
    async fn invocations<'h>(
        &self,
        hooks: &'h Hooks,
        subject: &Subject<'_>,
        object: &Value,
        troubles: &mut Vec<Trouble<'h>>,
    ) -> Vec<Invocation<'h>> {
        let request = subject.request;
        let mut invocations = Vec::new();
        for hook in hooks {
            let policy = &*hook.policy;
            let mut trouble = |binding: Option<&'h Binding>, message: String| {
                troubles.push(Trouble { policy, binding, message, reason: "" });
            };
            let found = match policy.criteria.matches(subject, object) {
                Ok(Some(found)) => found,
                Ok(None) => continue,
                Err(status) => {
                    trouble(None, status.message);
                    continue;
                }
            };
            if let Some(error) = unknown_params(policy, &self.kinds) {
                trouble(None, error);
                continue;
            }
            for binding in &hook.bindings {
                let given = match binds(binding, subject, object) {
                    Ok(false) => continue,
                    Ok(true) => {
                        let reader = request.reader;
                        params::collect(&self.kinds, reader, policy, &binding.param_ref, request.namespace).await
                    }
                    Err(status) => Err(status.message),
                };
                match given {
                    Err(error) => trouble(Some(binding), error),
                    Ok(given) => invocations.extend(given.into_iter().enumerate().map(|(at, params)| Invocation {
                        id: format!("{}/{}/{at}", policy.name, binding.name),
                        policy,
                        binding,
                        params,
                        found: found.clone(),
                    })),
                }
            }
        }
        invocations
    }
}

/// Asks one policy: whether it changed the object; `None` when its conditions do not hold.
async fn ask(
    subject: &Subject<'_>,
    invocation: &Invocation<'_>,
    namespace: &Value,
    questions: &Questions<'_>,
    object: &mut Value,
) -> Result<Option<bool>, String> {
    let Invocation { policy, params, found, .. } = invocation;
    let before = object.clone();
    let shown = Shown::new(subject, found.clone(), &before).await?;
    if !hold(&policy.conditions, &shown.bare(params, questions), policy.ignore).await? {
        return Ok(None);
    }
    let kind = subject.kind_of(&shown.found);
    // What the server's own plugins added may still lack defaults.
    let first = patch::typed(kind, shown.object.clone().into_owned())?;
    let mut current = first.clone();
    for mutation in &policy.mutations {
        let inputs = Inputs { object: &current, ..shown.inputs(&policy.variables, namespace, params, questions) };
        let next = questions.settled(|| patch::apply(kind, mutation, &inputs)).await?;
        current = next;
    }
    if current == first {
        return Ok(Some(false));
    }
    *object = subject.own(found, current).await?;
    Ok(Some(true))
}

fn refuse(request: &AdmissionRequest<'_>, object: &Value, troubles: &[Trouble<'_>]) -> Result<(), Status> {
    let mut refusal: Option<Status> = None;
    for trouble in troubles.iter().filter(|trouble| !trouble.policy.ignore) {
        let message = match trouble.binding {
            Some(binding) => format!(
                "policy '{}' with binding '{}' denied request: {}",
                trouble.policy.name, binding.name, trouble.message
            ),
            None => format!("policy '{}' denied request: {}", trouble.policy.name, trouble.message),
        };
        let status = refusal.get_or_insert_with(|| {
            let mut status = Status::forbidden(&request.resource(), shown_name(request, object), "");
            status.message = message.clone();
            if !trouble.reason.is_empty() {
                status.reason = trouble.reason.to_owned();
            }
            status
        });
        status.details.get_or_insert_default().causes.push(Cause::message(message));
    }
    refusal.map_or(Ok(()), Err)
}
