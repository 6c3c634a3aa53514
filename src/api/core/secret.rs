//! Secret: bytes for pods, typed.
//!
//! Invariants:
//! - SE-1: `stringData` is merged into `data` and never stored.
//! - SE-2: the type never changes; once `immutable`, neither data nor the flag does.
//! - SE-3: no error message shows a secret's content.

use apimachinery::decode::{Encoding, parse};
use apimachinery::validation::{ErrorList, Path, names};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::configmap::MAX_DATA_BYTES;
use crate::access::{copy_field, ensure_map, entries, flag, map, obj, remove, same, set_blank, text};
use crate::checks::{IMMUTABLE_WHEN_SET, annotation, decoded_len, immutable};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct Secret;

pub fn kind() -> Kind {
    Kind::builtin("v1", "Secret", "secrets", Scope::Namespaced, "io.k8s.api.core.v1.Secret", Secret)
}

const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

impl Strategy for Secret {
    fn default(&self, object: &mut Value) {
        if let Some(Value::Object(plain)) = remove(object, "stringData") {
            if let Some(data) = ensure_map(object, "data") {
                for (key, value) in plain {
                    data.insert(key, json!(STANDARD.encode(value.as_str().unwrap_or(""))));
                }
                if data.is_empty() {
                    remove(object, "data");
                }
            }
        }
        set_blank(object, "type", "Opaque");
    }

    fn prepare_for_update(&self, _cx: &RequestContext, object: &mut Value, old: &Value) {
        if text(object, "type").is_empty() {
            copy_field(object, old, "type");
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let data = Path::new("data");
        let mut bytes = 0;
        for (key, value) in entries(object, "data") {
            errors.invalid_all(&data.key(key), key, names::is_config_map_key(key));
            bytes += decoded_len(value.as_str().unwrap_or(""));
        }
        if bytes > MAX_DATA_BYTES {
            errors.too_long(data.clone(), "", MAX_DATA_BYTES);
        }
        let present = |key: &str| obj(object, "data").get(key).is_some();
        let need = |errors: &mut ErrorList, key: &str| errors.required(data.key(key), "");
        let filled = |key: &str| !text(obj(object, "data"), key).is_empty();
        let account = annotation(object, ACCOUNT_NAME).unwrap_or("");
        match text(object, "type") {
            "kubernetes.io/service-account-token" if account.is_empty() => {
                errors.required(Path::new("metadata").child("annotations").key(ACCOUNT_NAME), "");
            }
            "kubernetes.io/dockercfg" => docker_config(&mut errors, object, ".dockercfg"),
            "kubernetes.io/dockerconfigjson" => docker_config(&mut errors, object, ".dockerconfigjson"),
            "kubernetes.io/basic-auth" if !present("username") && !present("password") => {
                need(&mut errors, "username");
                need(&mut errors, "password");
            }
            "kubernetes.io/ssh-auth" if !filled("ssh-privatekey") => need(&mut errors, "ssh-privatekey"),
            "kubernetes.io/tls" => {
                for key in ["tls.crt", "tls.key"].into_iter().filter(|key| !present(key)) {
                    need(&mut errors, key);
                }
            }
            _ => {}
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, Path::new("type"), obj(object, "type"), obj(old, "type"));
        if flag(old, "immutable") {
            if !flag(object, "immutable") {
                errors.forbidden(Path::new("immutable"), IMMUTABLE_WHEN_SET);
            }
            if !same(obj(object, "data"), obj(old, "data")) {
                errors.forbidden(Path::new("data"), IMMUTABLE_WHEN_SET);
            }
        }
        errors.extend(self.validate(cx, object));
        errors
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("type", text(object, "type").to_owned())]
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("v1/secrets")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let keys = map(object, "data").map_or(0, serde_json::Map::len);
        vec![name_of(object), json!(text(object, "type")), json!(keys), age_of(object, now)]
    }
}

/// The key must hold a JSON object.
fn docker_config(errors: &mut ErrorList, object: &Value, key: &str) {
    let path = Path::new("data").key(key);
    let Some(encoded) = obj(object, "data").get(key) else {
        errors.required(path, "");
        return;
    };
    let bytes = STANDARD.decode(encoded.as_str().unwrap_or("")).unwrap_or_default();
    if let Err(detail) = json_object(&bytes) {
        errors.invalid(path, "<secret contents redacted>", &detail);
    }
}

/// Go's complaint about bytes that are no JSON object; never quotes more than one character of them.
fn json_object(bytes: &[u8]) -> Result<(), String> {
    let document = parse(bytes, Encoding::Json)?;
    match document.node.into_value() {
        Value::Object(_) | Value::Null => Ok(()),
        other => {
            let what = match other {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "bool",
                _ => "number",
            };
            Err(format!("json: cannot unmarshal {what} into Go value of type map[string]interface {{}}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, update_errors};

    #[test]
    fn merges_string_data() {
        let made = created(&Secret, json!({"data": {"a": "AA=="}, "stringData": {"a": "b", "c": ""}}));
        assert_eq!(made, json!({"data": {"a": "Yg==", "c": ""}, "type": "Opaque"}));
        assert_eq!(created(&Secret, json!({"stringData": {}})), json!({"type": "Opaque"}));
    }

    #[test]
    fn each_type_needs_its_keys() {
        for (ty, data, want) in [
            ("kubernetes.io/tls", json!({"tls.crt": ""}), vec!["data[tls.key]: Required value"]),
            ("kubernetes.io/ssh-auth", json!({}), vec!["data[ssh-privatekey]: Required value"]),
            (
                "kubernetes.io/basic-auth",
                json!({}),
                vec!["data[username]: Required value", "data[password]: Required value"],
            ),
            ("kubernetes.io/basic-auth", json!({"password": ""}), vec![]),
            ("kubernetes.io/dockercfg", json!({}), vec!["data[.dockercfg]: Required value"]),
            (
                "kubernetes.io/dockerconfigjson",
                json!({".dockerconfigjson": STANDARD.encode("")}),
                vec![
                    "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": unexpected end of JSON input",
                ],
            ),
            (
                "kubernetes.io/dockercfg",
                json!({".dockercfg": STANDARD.encode("not json")}),
                vec![
                    "data[.dockercfg]: Invalid value: \"<secret contents redacted>\": invalid character 'o' in literal null (expecting 'u')",
                ],
            ),
            (
                "kubernetes.io/service-account-token",
                json!({}),
                vec!["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
            ("example.com/any", json!({"x": "AA=="}), vec![]),
        ] {
            assert_eq!(create_errors(&Secret, json!({"type": ty, "data": data})), want, "{ty}");
        }
    }

    #[test]
    fn type_and_immutable_data_stay() {
        let old = json!({"immutable": true, "data": {"a": "AA=="}});
        assert_eq!(
            update_errors(&Secret, old, json!({"immutable": true, "type": "x/y", "data": {}})),
            [
                "type: Invalid value: \"x/y\": field is immutable",
                "data: Forbidden: field is immutable when `immutable` is set"
            ]
        );
    }
}
