//! The registry's way to admission: who asks, for what, with what options.

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::{Cx, codec};
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
            notes: &self.cx.notes,
            writer: &self.cx.server,
        }
    }

    /// Mutating admission; what it adds is completed with defaults.
    pub async fn mutate(&self, object: &mut Value, old: Option<&Value>) -> Result<(), Status> {
        let before = object.clone();
        self.cx.server.admission.mutate(&self.request(old), object).await?;
        // Bodies of another kind than the resource's are taken as admission left them.
        if *object != before && object["kind"] == self.cx.kind.kind.as_ref() {
            codec::complete(&self.cx.kind, object);
        }
        Ok(())
    }

    pub async fn validate(&self, object: &Value, old: Option<&Value>) -> Result<(), Status> {
        self.cx.server.admission.validate(&self.request(old), object).await
    }

    /// The mutating half for a deletion: it is asked before the object is looked up.
    pub async fn mutate_delete(&self) -> Result<(), Status> {
        self.cx.server.admission.mutate(&self.request(None), &mut Value::Null).await
    }

    /// The validating half for a deletion: there is no new object.
    pub async fn validate_delete(&self, old: &Value) -> Result<(), Status> {
        self.validate(&Value::Null, Some(old)).await
    }
}
