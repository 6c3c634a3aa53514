//! The registry's way to admission: who asks, for what, with what options.

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::Cx;
use crate::admission::AdmissionRequest;
pub use crate::admission::Operation;

/// Admission of one write.
pub struct Admission<'a> {
    cx: &'a Cx,
    operation: Operation,
    name: &'a str,
    dry_run: bool,
    options: Value,
}

impl<'a> Admission<'a> {
    pub fn new(cx: &'a Cx, operation: Operation, name: &'a str, dry_run: bool) -> Self {
        let mut options = json!({});
        if dry_run {
            options["dryRun"] = json!(["All"]);
        }
        Self { cx, operation, name, dry_run, options }
    }

    fn request<'b>(&'b self, old: Option<&'b Value>) -> AdmissionRequest<'b> {
        AdmissionRequest {
            user: &self.cx.user,
            kind: &self.cx.kind,
            operation: self.operation,
            subresource: &self.cx.info.subresource,
            namespace: &self.cx.info.namespace,
            name: self.name,
            old_object: old,
            dry_run: self.dry_run,
            options: &self.options,
            reader: &*self.cx.server.cache,
        }
    }

    pub async fn mutate(&self, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        self.cx.server.admission.mutate(&self.request(old), object).await
    }

    pub async fn validate(&self, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        self.cx.server.admission.validate(&self.request(old), object).await
    }

    /// Both halves for a deletion: there is no new object.
    pub async fn delete(&self, old: &Value) -> Result<(), Status> {
        let mut none = Value::Null;
        self.mutate(&mut none, Some(old)).await?;
        self.validate(&none, Some(old)).await
    }
}
