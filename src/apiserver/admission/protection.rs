//! StorageObjectInUseProtection: volumes, claims and volume attributes classes are born with the finalizer that keeps
//! them while they are in use.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin, list_mut};

/// Group, resource, finalizer.
const PROTECTED: &[(&str, &str, &str)] = &[
    ("", "persistentvolumeclaims", "kubernetes.io/pvc-protection"),
    ("", "persistentvolumes", "kubernetes.io/pv-protection"),
    ("storage.k8s.io", "volumeattributesclasses", "kubernetes.io/vac-protection"),
];

pub struct StorageObjectInUseProtection;

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.subresource.is_empty() {
            return Ok(());
        }
        let found = PROTECTED.iter().find(|(group, resource, _)| request.is(group, resource));
        if let (Some((_, _, finalizer)), true) = (found, object["metadata"].is_object()) {
            let finalizers = list_mut(&mut object["metadata"], "finalizers");
            if !finalizers.iter().any(|held| held == finalizer) {
                finalizers.push((*finalizer).into());
            }
        }
        Ok(())
    }
}
