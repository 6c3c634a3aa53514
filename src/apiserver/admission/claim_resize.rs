//! PersistentVolumeClaimResize: a bound claim grows only when its storage class says that its volumes can.

use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin, text};

const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let applies = request.operation == Operation::Update
            && request.subresource.is_empty()
            && request.is("", "persistentvolumeclaims");
        let Some(old) = request.old_object.filter(|_| applies) else { return Ok(()) };
        let (Some(new_size), Some(old_size)) = (storage(object), storage(old)) else { return Ok(()) };
        if new_size <= old_size {
            return Ok(());
        }
        if text(&old["status"], "phase") != "Bound" {
            return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = match object["metadata"]["annotations"][OLD_CLASS].as_str() {
            Some(class) => class,
            None => text(&object["spec"], "storageClassName"),
        };
        let found = match class {
            "" => None,
            class => match request.reader.peek("storageclasses", "", class) {
                Some(found) => Some(found),
                None => request.reader.get("storageclasses", "", class).await,
            },
        };
        if found.is_some_and(|class| class.value()["allowVolumeExpansion"] == Value::Bool(true)) {
            return Ok(());
        }
        Err(request.forbidden(
            "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize",
        ))
    }
}

fn storage(claim: &Value) -> Option<Quantity> {
    Quantity::from_json(&claim["spec"]["resources"]["requests"]["storage"]).ok()
}
