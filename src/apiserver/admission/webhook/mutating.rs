//! MutatingAdmissionWebhook: one after the other, each sees what those before it made.

use std::sync::Arc;

use apimachinery::goformat::quote;
use apimachinery::patch::{JsonPatch, Validation};
use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::{Value, json};

use super::super::expression::Questions;
use super::super::live::Live;
use super::super::matching::{Subject, is_exempt};
use super::super::policy::typed;
use super::super::shown::NULL;
use super::super::{AdmissionRequest, Plugin};
use super::{Failed, Hook, Hooks, ask, hooks, relevant};
use crate::authz::Authorizer;
use crate::kinds::Kinds;
use crate::webhooks::Caller;

const NAME: &str = "MutatingAdmissionWebhook";

pub struct MutatingWebhooks {
    authorizer: Arc<Authorizer>,
    kinds: Arc<Kinds>,
    caller: Arc<Caller>,
    hooks: Live<Hooks>,
}

impl MutatingWebhooks {
    pub fn new(authorizer: Arc<Authorizer>, kinds: Arc<Kinds>, caller: Arc<Caller>) -> Self {
        Self { authorizer, kinds, caller, hooks: Live::new(&["mutatingwebhookconfigurations"]) }
    }

    async fn dispatch(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let Some(hooks) = hooks(&self.hooks, request.reader) else { return Ok(()) };
        if is_exempt(request, false) {
            return Ok(());
        }
        let subject = Subject::new(request, &self.kinds).await;
        let questions = Questions::new(&self.authorizer, request);
        let mut began = false;
        for (index, hook) in hooks.all.iter().enumerate() {
            let changed = {
                let Some(shown) = relevant(hook, &subject, &questions, object).await? else { continue };
                if !began {
                    request.reinvocation.begin(NAME, object);
                    began = true;
                }
                if !request.reinvocation.asks(NAME, &hook.id) {
                    continue;
                }
                let round = request.reinvocation.round();
                let outcome = match ask(hook, &self.caller, &subject, &shown, &shown.object, true).await {
                    Ok(None) => Ok(None),
                    Ok(Some(patch)) => patched(hook, subject.kind_of(&shown.found), &shown.object, &patch),
                    Err(failed) => Err(failed),
                };
                let mutated = matches!(&outcome, Ok(Some(_)));
                let said = json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": mutated});
                let note = |what: &str| format!("{what}webhook.admission.k8s.io/round_{round}_index_{index}");
                request.notes.annotate(note("mutation."), said.to_string());
                match outcome {
                    Ok(Some(changed)) => Some(subject.own(&shown.found, changed).await.map_err(Status::internal)?),
                    Ok(None) => None,
                    Err(failed) => {
                        failed.settle(hook, request, &note("failed-open.mutating."))?;
                        None
                    }
                }
            };
            if let Some(changed) = changed {
                *object = changed;
                request.reinvocation.changed(NAME);
            }
            if hook.again {
                request.reinvocation.willing(NAME, &hook.id);
            }
        }
        if began {
            request.reinvocation.end(NAME, object);
        }
        Ok(())
    }
}

#[async_trait]
impl Plugin for MutatingWebhooks {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        // A deletion is shown when it is known what is deleted.
        if request.operation == super::super::Operation::Delete {
            return Ok(());
        }
        self.dispatch(request, object).await
    }

    async fn deleting(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        self.dispatch(request, &mut NULL.clone()).await
    }
}

/// The object that a webhook made of `object`; `None` when it is the same.
fn patched(hook: &Hook, kind: &api::Kind, object: &Value, patch: &[u8]) -> Result<Option<Value>, Failed> {
    let failed = |error: &dyn std::fmt::Display| Failed::Refused(Status::internal(error));
    let patch = JsonPatch::parse(patch, Validation::Ignore).map_err(|error| failed(&error))?;
    if patch.is_empty() {
        return Ok(None);
    }
    if object.is_null() {
        let name = quote(&hook.name);
        let text = "attempted to modify the object, which is not supported for this operation";
        return Err(failed(&format!("admission webhook {name} {text}")));
    }
    let mut changed = object.clone();
    patch.apply(&mut changed).map_err(|error| failed(&error))?;
    let changed = typed(kind, changed).map_err(|error| failed(&error))?;
    // What the server's own plugins added may still lack defaults.
    let before = typed(kind, object.clone()).map_err(|error| failed(&error))?;
    Ok((changed != before).then_some(changed))
}
