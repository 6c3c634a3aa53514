//! The request as one hook sees it: objects of the version that the hook's rules name.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::Value;

use super::expression::{Compiled, Inputs, Questions};
use super::matching::{Match, Subject};

pub(super) static NULL: Value = Value::Null;

pub(super) struct Shown<'v> {
    pub found: Match,
    pub object: Cow<'v, Value>,
    pub old: Cow<'v, Value>,
    /// `request` of expressions.
    request: Arc<Value>,
}

impl<'v> Shown<'v> {
    /// # Errors
    /// When the object cannot be converted.
    pub async fn new(subject: &Subject<'v>, found: Match, object: &'v Value) -> Result<Self, String> {
        let old = subject.request.old_object.unwrap_or(&NULL);
        let shown = subject.shown(&found, object).await?;
        let old = subject.shown(&found, old).await?;
        let request = subject.told(&found);
        Ok(Self { object: shown, old, request, found })
    }

    /// What conditions know: neither variables nor the namespace.
    pub fn bare<'a>(&'a self, params: &'a Value, questions: &'a Questions<'a>) -> Inputs<'a> {
        self.inputs(&[], &NULL, params, questions)
    }

    pub fn inputs<'a>(
        &'a self,
        variables: &'a [(String, Compiled)],
        namespace: &'a Value,
        params: &'a Value,
        questions: &'a Questions<'a>,
    ) -> Inputs<'a> {
        Inputs { object: &self.object, old: &self.old, request: &self.request, namespace, params, variables, questions }
    }
}
