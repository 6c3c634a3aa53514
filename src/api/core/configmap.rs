//! ConfigMap: text and bytes for pods.
//!
//! Invariants:
//! - CM-1: once `immutable`, neither data nor the flag changes.

use apimachinery::validation::{ErrorList, Path, names};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{entries, flag, map, obj, same};
use crate::checks::{IMMUTABLE_WHEN_SET, decoded_len};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ConfigMap;

/// Bytes of all values together, of a ConfigMap as of a Secret.
pub(crate) const MAX_DATA_BYTES: usize = 1024 * 1024;

pub fn kind() -> Kind {
    Kind::builtin("v1", "ConfigMap", "configmaps", Scope::Namespaced, "io.k8s.api.core.v1.ConfigMap", ConfigMap)
        .with_short_names(&["cm"])
}

impl Strategy for ConfigMap {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut bytes = 0;
        for (key, value) in entries(object, "data") {
            let path = Path::new("data").key(key);
            errors.invalid_all(&path, key, names::is_config_map_key(key));
            if obj(object, "binaryData").get(key).is_some() {
                errors.invalid(path, key, "duplicate of key present in binaryData");
            }
            bytes += value.as_str().unwrap_or("").len();
        }
        for (key, value) in entries(object, "binaryData") {
            errors.invalid_all(&Path::new("binaryData").key(key), key, names::is_config_map_key(key));
            bytes += decoded_len(value.as_str().unwrap_or(""));
        }
        if bytes > MAX_DATA_BYTES {
            errors.too_long(Path::new(""), "", MAX_DATA_BYTES);
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if flag(old, "immutable") {
            if !flag(object, "immutable") {
                errors.forbidden(Path::new("immutable"), IMMUTABLE_WHEN_SET);
            }
            for field in ["data", "binaryData"] {
                if !same(obj(object, field), obj(old, field)) {
                    errors.forbidden(Path::new(field), IMMUTABLE_WHEN_SET);
                }
            }
        }
        errors.extend(self.validate(cx, object));
        errors
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/configmaps")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let count = |key| map(object, key).map_or(0, serde_json::Map::len);
        vec![name_of(object), json!(count("data") + count("binaryData")), age_of(object, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, update_errors};

    #[test]
    fn validates_keys_and_size() {
        let bad =
            create_errors(&ConfigMap, json!({"data": {"a b": "", "x": "y"}, "binaryData": {"x": "AA==", "": ""}}));
        assert_eq!(bad.len(), 3, "{bad:?}");
        assert!(bad[0].starts_with("data[a b]: Invalid value: \"a b\": a valid config key must consist"));
        assert_eq!(bad[1], "data[x]: Invalid value: \"x\": duplicate of key present in binaryData");
        assert!(bad[2].starts_with("binaryData[]: Invalid value: \"\""));
        let big = "x".repeat(MAX_DATA_BYTES + 1);
        assert_eq!(
            create_errors(&ConfigMap, json!({"data": {"a": big}})),
            ["[]: Too long: may not be more than 1048576 bytes"]
        );
    }

    #[test]
    fn is_immutable_when_asked() {
        let old = json!({"immutable": true, "data": {"a": "b"}});
        assert!(update_errors(&ConfigMap, old.clone(), old.clone()).is_empty());
        assert_eq!(
            update_errors(&ConfigMap, old, json!({"data": {"a": "c"}, "binaryData": {"z": "AA=="}})),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
                "binaryData: Forbidden: field is immutable when `immutable` is set",
            ]
        );
    }
}
