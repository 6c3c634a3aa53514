//! The registry's way to admission: who asks, for what, with what options.

use apimachinery::status::Status;
use serde_json::{Value, json};

use super::options::DeleteOptions;
use super::{Cx, codec};
pub use crate::admission::Operation;
use crate::admission::{AdmissionRequest, Reinvocation};

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
        Self { cx, operation, name, dry_run, options: options(cx, operation, dry_run) }
    }

    /// Of a deletion with these options.
    pub fn of_deletion(cx: &'a Cx, name: &'a str, options: &DeleteOptions) -> Self {
        let mut shown = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        let mut put = |key: &str, value: Value| {
            if !value.is_null() {
                shown[key] = value;
            }
        };
        put("gracePeriodSeconds", json!(options.grace_period));
        let mut preconditions = serde_json::Map::new();
        for (key, value) in [("uid", &options.uid), ("resourceVersion", &options.resource_version)] {
            if let Some(value) = value {
                preconditions.insert(key.to_owned(), json!(value));
            }
        }
        if !preconditions.is_empty() {
            put("preconditions", Value::Object(preconditions));
        }
        put("orphanDependents", json!(options.orphan_dependents));
        put("propagationPolicy", json!(options.propagation.and(options.policy())));
        put("dryRun", if options.dry_run { json!(["All"]) } else { Value::Null });
        Self { cx, operation: Operation::Delete, name, dry_run: options.dry_run, options: shown }
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
            in_collection: self.operation == Operation::Delete && self.cx.info.verb == "deletecollection",
            server: Some(&self.cx.server),
            reinvocation: Reinvocation::default(),
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
        self.cx.server.admission.deleting(&self.request(Some(old))).await?;
        self.validate(&Value::Null, Some(old)).await
    }
}

/// The CreateOptions or UpdateOptions of a write, as the client sent them.
fn options(cx: &Cx, operation: Operation, dry_run: bool) -> Value {
    let kind = if operation == Operation::Update { "UpdateOptions" } else { "CreateOptions" };
    let mut options = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
    if dry_run {
        options["dryRun"] = json!(["All"]);
    }
    for key in ["fieldManager", "fieldValidation"] {
        if let Some(value) = cx.info.query.get(key).filter(|value| !value.is_empty()) {
            options[key] = json!(value);
        }
    }
    options
}
