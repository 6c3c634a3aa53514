//! StorageClass: how volumes of a kind are made.
//!
//! Invariants:
//! - SC-1: provisioner, parameters, reclaim policy and binding mode never change.

use apimachinery::validation::{ErrorList, Path, meta, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{entries, flag, items, map, obj, opt_text, set_missing, text, texts};
use crate::checks::{annotation, immutable, name};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of};

pub struct StorageClass;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.storage.v1.StorageClass";
    Kind::builtin("storage.k8s.io/v1", "StorageClass", "storageclasses", Scope::Cluster, DEFINITION, StorageClass)
        .with_short_names(&["sc"])
}

const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETER_BYTES: usize = 256 * 1024;

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        set_missing(object, "reclaimPolicy", "Delete");
        set_missing(object, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        match text(object, "provisioner") {
            "" => errors.required(Path::new("provisioner"), ""),
            provisioner => {
                let bad = names::is_qualified_name(&provisioner.to_lowercase());
                errors.invalid_all(&Path::new("provisioner"), provisioner, bad);
            }
        }
        check_parameters(&mut errors, object);
        const POLICIES: &[&str] = &["Delete", "Retain"];
        if let Some(policy) = opt_text(object, "reclaimPolicy").filter(|p| !p.is_empty() && !POLICIES.contains(p)) {
            errors.not_supported(Path::new("reclaimPolicy"), policy, POLICIES);
        }
        const MODES: &[&str] = &["Immediate", "WaitForFirstConsumer"];
        match opt_text(object, "volumeBindingMode") {
            None => errors.required(Path::new("volumeBindingMode"), ""),
            Some(mode) if !MODES.contains(&mode) => errors.not_supported(Path::new("volumeBindingMode"), mode, MODES),
            Some(_) => {}
        }
        check_topologies(&mut errors, object);
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            immutable(&mut errors, Path::new(field), obj(object, field), obj(old, field));
        }
        errors
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("storage.k8s.io/v1/storageclasses")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        const DEFAULT: &[&str] =
            &["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
        let is_default = DEFAULT.iter().any(|key| annotation(object, key) == Some("true"));
        let shown = if is_default { format!("{} (default)", name(object)) } else { name(object).to_owned() };
        vec![
            json!(shown),
            json!(text(object, "provisioner")),
            json!(text(object, "reclaimPolicy")),
            json!(text(object, "volumeBindingMode")),
            json!(flag(object, "allowVolumeExpansion")),
            age_of(object, now),
        ]
    }
}

/// Named parameters, few and small.
pub(super) fn check_parameters(errors: &mut ErrorList, object: &Value) {
    let path = Path::new("parameters");
    if map(object, "parameters").is_some_and(|p| p.len() > MAX_PARAMETERS) {
        errors.too_long(path, "", MAX_PARAMETERS);
        return;
    }
    let mut bytes = 0;
    for (key, value) in entries(object, "parameters") {
        if key.is_empty() {
            errors.invalid(path.clone(), key, "field can not be empty.");
        }
        bytes += key.len() + value.as_str().unwrap_or("").len();
    }
    if bytes > MAX_PARAMETER_BYTES {
        errors.too_long(path, "", MAX_PARAMETER_BYTES);
    }
}

fn check_topologies(errors: &mut ErrorList, object: &Value) {
    let terms = items(object, "allowedTopologies");
    for (i, term) in terms.iter().enumerate() {
        let path = Path::new("allowedTopologies").index(i).child("matchLabelExpressions");
        let expressions = items(term, "matchLabelExpressions");
        for (j, expression) in expressions.iter().enumerate() {
            let at = path.index(j);
            let (key, values) = (text(expression, "key"), texts(expression, "values"));
            if values.is_empty() {
                errors.required(at.child("values"), "");
            }
            for (k, value) in values.iter().enumerate().filter(|(k, v)| values[..*k].contains(v)) {
                errors.duplicate(at.child("values").index(k), *value);
            }
            errors.extend(meta::validate_label_name(key, &at.child("key")));
            if expressions[..j].iter().any(|e| text(e, "key") == key) {
                errors.duplicate(at.child("key"), key);
            }
        }
        if terms[..i].contains(term) {
            errors.duplicate(path, "");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx, update_errors};

    #[test]
    fn checks_topologies() {
        let errors = create_errors(
            &StorageClass,
            json!({"provisioner": "A.b/C", "allowedTopologies": [{"matchLabelExpressions": [
                {"key": "z", "values": []}, {"key": "z", "values": ["a", "a"]}]}]}),
        );
        assert_eq!(
            errors,
            [
                "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
                "allowedTopologies[0].matchLabelExpressions[1].values[1]: Duplicate value: \"a\"",
                "allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"z\"",
            ]
        );
    }

    #[test]
    fn stays_as_it_was_made() {
        assert_eq!(
            update_errors(
                &StorageClass,
                json!({"provisioner": "p"}),
                json!({"provisioner": "p", "reclaimPolicy": "Retain"})
            ),
            ["reclaimPolicy: Invalid value: \"Retain\": field is immutable"]
        );
    }

    #[test]
    fn names_the_default_class() {
        let class =
            json!({"metadata": {"name": "s", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}});
        assert_eq!(StorageClass.row(&created(&StorageClass, class), cx("").now)[0], "s (default)");
    }
}
