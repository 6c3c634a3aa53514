//! NamespaceLifecycle: nothing is created in a namespace that does not exist or is going away; some namespaces stay.

use apimachinery::gvk::GroupResource;
use apimachinery::status::{Cause, Details, Status};
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin};

const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, _object: &mut Value) -> Result<(), Status> {
        let of_namespace = request.is("", "namespaces");
        if request.operation == Operation::Delete {
            if of_namespace && request.subresource.is_empty() && IMMORTAL.contains(&request.name) {
                return Err(request.forbidden("this namespace may not be deleted"));
            }
            return Ok(());
        }
        if of_namespace || request.namespace.is_empty() {
            return Ok(());
        }
        // Asking about permissions works in any namespace.
        if request.is("authorization.k8s.io", "localsubjectaccessreviews") {
            return Ok(());
        }
        let namespace = match request.reader.peek("namespaces", "", request.namespace) {
            Some(found) => found,
            None => request
                .reader
                .get("namespaces", "", request.namespace)
                .await
                .ok_or_else(|| Status::not_found(&GroupResource::new("", "namespaces"), request.namespace))?,
        };
        if request.operation != Operation::Create || namespace.meta.deletion_timestamp.is_none() {
            return Ok(());
        }
        let name = request.namespace;
        let mut status = request
            .forbidden(format!("unable to create new content in namespace {name} because it is being terminated"));
        let cause = Cause {
            reason: "NamespaceTerminating".into(),
            message: format!("namespace {name} is being terminated"),
            field: "metadata.namespace".into(),
        };
        status.details = Some(Details { causes: vec![cause], ..status.details.unwrap_or_default() });
        Err(status)
    }
}
