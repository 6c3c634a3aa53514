//! The annotation of client-side apply, which kubectl's server-side apply keeps in step.

use super::set::FieldSet;
use super::{Request, typed};
use crate::goformat;
use serde_json::Value;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// The most bytes all annotations of an object may have.
const MAX_ANNOTATIONS: usize = 256 * 1024;

fn annotation(object: &Value) -> Option<&str> {
    object.get("metadata")?.get("annotations")?.get(ANNOTATION)?.as_str().filter(|text| !text.is_empty())
}

/// The fields that client-side apply last set and that still have its values: server-side apply may take them.
pub(super) fn owned_fields(request: &Request<'_>, live: &Value) -> Option<FieldSet> {
    let applied: Value = serde_json::from_str(annotation(live)?).ok()?;
    if applied.get("apiVersion").and_then(Value::as_str) != Some(request.api_version) {
        return None;
    }
    super::validate::validate(request.schema, &applied).ok()?;
    let mut owned = typed::field_set(request.schema, &applied).ok()?;
    let diff = typed::compare(request.schema, &applied, live).ok()?;
    owned.subtract(&diff.modified);
    owned.subtract(&diff.added);
    owned.subtract(&diff.removed);
    Some(owned)
}

/// Writes the applied configuration into the annotation, if the object has it.
pub(super) fn refresh(object: &mut Value, applied: &Value) {
    if annotation(object).is_none() {
        return;
    }
    let mut config = applied.clone();
    if let Some(meta) = config.get_mut("metadata").and_then(Value::as_object_mut) {
        if let Some(annotations) = meta.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(ANNOTATION);
            if annotations.is_empty() {
                meta.remove("annotations");
            }
        }
    }
    let text = goformat::json(&config) + "\n";
    let annotations = crate::value::object_entry(object, &["metadata", "annotations"]);
    annotations.insert(ANNOTATION.into(), text.into());
    let size: usize = annotations.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum();
    if size > MAX_ANNOTATIONS {
        annotations.remove(ANNOTATION);
    }
}
