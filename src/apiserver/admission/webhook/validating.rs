//! ValidatingAdmissionWebhook: all that are concerned, at once.

use std::sync::Arc;

use apimachinery::status::Status;
use async_trait::async_trait;
use futures::future::join_all;
use serde_json::Value;

use super::super::expression::Questions;
use super::super::live::Live;
use super::super::matching::{Subject, is_exempt};
use super::super::{AdmissionRequest, Plugin};
use super::{Hooks, ask, hooks, relevant};
use crate::authz::Authorizer;
use crate::kinds::Kinds;
use crate::webhooks::Caller;

pub struct ValidatingWebhooks {
    authorizer: Arc<Authorizer>,
    kinds: Arc<Kinds>,
    caller: Arc<Caller>,
    hooks: Live<Hooks>,
}

impl ValidatingWebhooks {
    pub fn new(authorizer: Arc<Authorizer>, kinds: Arc<Kinds>, caller: Arc<Caller>) -> Self {
        Self { authorizer, kinds, caller, hooks: Live::new(&["validatingwebhookconfigurations"]) }
    }
}

#[async_trait]
impl Plugin for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let Some(hooks) = hooks(&self.hooks, request.reader) else { return Ok(()) };
        if is_exempt(request, false) {
            return Ok(());
        }
        let subject = Subject::new(request, &self.kinds).await;
        let questions = Questions::new(&self.authorizer, request);
        let mut concerned = Vec::new();
        for (index, hook) in hooks.all.iter().enumerate() {
            if let Some(shown) = relevant(hook, &subject, &questions, object).await? {
                concerned.push((index, hook, shown));
            }
        }
        let calls = concerned.iter().map(|(index, hook, shown)| {
            let subject = &subject;
            async move {
                let outcome = ask(hook, &self.caller, subject, shown, &shown.object, false).await;
                let note = format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                outcome.map(drop).or_else(|failed| failed.settle(hook, request, &note))
            }
        });
        join_all(calls).await.into_iter().collect()
    }
}
