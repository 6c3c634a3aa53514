//! VolumeAttachment: a volume is, or is to be, attached to a node.
//!
//! Invariants:
//! - VA-1: the spec never changes; an update of the status changes nothing else, metadata included.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{copy_field, flag, has, obj, opt_text, same, set, text};
use crate::checks::{IMMUTABLE, dns_subdomain, meta, spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct VolumeAttachment;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.storage.v1.VolumeAttachment";
    let (version, plural) = ("storage.k8s.io/v1", "volumeattachments");
    Kind::builtin(version, "VolumeAttachment", plural, Scope::Cluster, DEFINITION, VolumeAttachment).with_subresource(
        "status",
        version,
        "VolumeAttachment",
        &["get", "patch", "update"],
    )
}

impl Strategy for VolumeAttachment {
    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({"attached": false}));
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        if cx.subresource != "status" {
            copy_field(object, old, "status");
            return;
        }
        copy_field(object, old, "spec");
        if let Some(metadata) = object.get_mut("metadata") {
            for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
                copy_field(metadata, meta(old), field);
            }
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (spec(object), Path::new("spec"));
        if text(spec, "attacher").is_empty() {
            errors.required(path.child("attacher"), "");
        }
        let (source, at) = (obj(spec, "source"), path.child("source"));
        match (has(source, "inlineVolumeSpec"), opt_text(source, "persistentVolumeName")) {
            (false, None) => {
                errors.required(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
            }
            (true, Some(_)) => {
                errors.forbidden(at, "must specify exactly one of inlineVolumeSpec and persistentVolumeName");
            }
            (false, Some("")) => {
                errors.required(at.child("persistentVolumeName"), "must specify non empty persistentVolumeName")
            }
            _ => {}
        }
        dns_subdomain(&mut errors, path.child("nodeName"), text(spec, "nodeName"));
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        if !same(spec(object), spec(old)) {
            errors.invalid(Path::new("spec"), spec(object).clone(), IMMUTABLE);
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("storage.k8s.io/v1/volumeattachments")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = spec(object);
        vec![
            name_of(object),
            json!(text(spec, "attacher")),
            json!(text(obj(spec, "source"), "persistentVolumeName")),
            json!(text(spec, "nodeName")),
            json!(flag(status(object), "attached")),
            age_of(object, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx, texts};

    fn attachment(node: &str) -> Value {
        json!({"metadata": {"name": "x"}, "spec": {"attacher": "a", "nodeName": node, "source": {"persistentVolumeName": "p"}}})
    }

    #[test]
    fn needs_a_source() {
        assert!(create_errors(&VolumeAttachment, attachment("n")).is_empty());
        assert_eq!(
            create_errors(&VolumeAttachment, json!({"spec": {"attacher": "a", "nodeName": "n"}})),
            ["spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName"]
        );
    }

    #[test]
    fn only_the_status_changes() {
        let old = created(&VolumeAttachment, attachment("n"));
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        new["status"] = json!({"attached": true});
        VolumeAttachment.prepare_for_update(&cx("status"), &mut new, &old);
        assert_eq!((new["metadata"].get("labels"), &new["status"]["attached"]), (None, &json!(true)));
        let moved = created(&VolumeAttachment, attachment("m"));
        assert!(texts(&VolumeAttachment.validate_update(&cx(""), &moved, &old))[0].ends_with("field is immutable"));
    }
}
