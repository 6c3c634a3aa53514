//! DefaultStorageClass: a claim that says nothing of its class gets the one that is marked as the default.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin};

const DEFAULT: &[&str] =
    &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let applies = request.operation == Operation::Create
            && request.subresource.is_empty()
            && request.is("", "persistentvolumeclaims");
        // An empty class is said, too: it means none.
        let said =
            !object["spec"]["storageClassName"].is_null() || !object["metadata"]["annotations"][OLD_CLASS].is_null();
        if !applies || said || !object["spec"].is_object() {
            return Ok(());
        }
        let mut classes: Vec<(String, String)> = request
            .reader
            .peek_all("storageclasses", None)
            .iter()
            .map(|class| class.value())
            .filter(|class| DEFAULT.iter().any(|mark| class["metadata"]["annotations"][*mark].as_str() == Some("true")))
            .map(|class| {
                let text = |key: &str| class["metadata"][key].as_str().unwrap_or_default().to_owned();
                (text("creationTimestamp"), text("name"))
            })
            .collect();
        // The newest counts; of those made at the same time, the first by name.
        classes.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        if let Some((_, name)) = classes.into_iter().next() {
            object["spec"]["storageClassName"] = name.into();
        }
        Ok(())
    }
}
