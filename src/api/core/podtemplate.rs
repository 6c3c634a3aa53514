//! PodTemplate: a template for pods, by itself.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::podspec::{self, Scope as PodScope};
use crate::access::{ensure_map, obj, same};
use crate::checks::{format_labels, meta, next_generation, start_generation};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{columns_of, containers_and_images, name_of};

pub struct PodTemplate;

pub fn kind() -> Kind {
    Kind::builtin("v1", "PodTemplate", "podtemplates", Scope::Namespaced, "io.k8s.api.core.v1.PodTemplate", PodTemplate)
}

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "template");
        if let Some(template) = object.get_mut("template") {
            podspec::default_template(template);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        start_generation(object);
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        let changed = !same(obj(object, "template"), obj(old, "template"));
        next_generation(object, old, changed);
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        podspec::validate_template(obj(object, "template"), &Path::new("template"))
    }

    fn warnings(&self, _cx: &RequestContext, object: &Value, _old: Option<&Value>) -> Vec<String> {
        podspec::warnings(obj(object, "template"), PodScope::Template, &Path::new("template"))
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/podtemplates")
    }

    fn row(&self, object: &Value, _now: Timestamp) -> Vec<Value> {
        let template = obj(object, "template");
        let (containers, images) = containers_and_images(obj(template, "spec"));
        vec![name_of(object), json!(containers), json!(images), json!(format_labels(obj(meta(template), "labels")))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created};

    #[test]
    fn is_a_template() {
        let made = created(&PodTemplate, json!({"template": {"spec": {"containers": [{"name": "c", "image": "i"}]}}}));
        assert_eq!(made["template"]["spec"]["restartPolicy"], "Always");
        assert_eq!(made["metadata"]["generation"], 1);
        assert_eq!(
            create_errors(&PodTemplate, json!({"template": {"spec": {"containers": []}}})),
            ["template.spec.containers: Required value"]
        );
    }
}
