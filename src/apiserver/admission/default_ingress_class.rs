//! DefaultIngressClass: an Ingress that names no class gets the one that is marked as the default.

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin};

const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
const OLD_WAY: &str = "kubernetes.io/ingress.class";

pub struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let named =
            !object["spec"]["ingressClassName"].is_null() || !object["metadata"]["annotations"][OLD_WAY].is_null();
        let applies = request.operation == Operation::Create
            && request.subresource.is_empty()
            && request.is("networking.k8s.io", "ingresses");
        if !applies || named || !object["spec"].is_object() {
            return Ok(());
        }
        let mut classes: Vec<(String, String)> = request
            .reader
            .peek_all("ingressclasses", None)
            .iter()
            .map(|class| class.value())
            .filter(|class| class["metadata"]["annotations"][DEFAULT].as_str() == Some("true"))
            .map(|class| {
                let text = |key: &str| class["metadata"][key].as_str().unwrap_or_default().to_owned();
                (text("creationTimestamp"), text("name"))
            })
            .collect();
        // The newest counts; of those made at the same time, the first by name.
        classes.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        if let Some((_, name)) = classes.into_iter().next() {
            object["spec"]["ingressClassName"] = name.into();
        }
        Ok(())
    }
}
