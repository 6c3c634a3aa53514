//! CSIDriver: how the cluster works with a storage driver.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::access::{ensure_map, flag, has, items, obj, opt_int, opt_text, set, set_missing, text, texts};
use crate::checks::{immutable, name, spec};
use crate::core::podspec::validate_csi_driver_name;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct CsiDriver;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.storage.v1.CSIDriver";
    Kind::builtin("storage.k8s.io/v1", "CSIDriver", "csidrivers", Scope::Cluster, DEFINITION, CsiDriver)
}

impl Strategy for CsiDriver {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        let Some(spec) = object.get_mut("spec") else { return };
        set_missing(spec, "attachRequired", true);
        for off in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            set_missing(spec, off, false);
        }
        set_missing(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if items(spec, "volumeLifecycleModes").is_empty() {
            set(spec, "volumeLifecycleModes", json!(["Persistent"]));
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (spec(object), Path::new("spec"));
        validate_csi_driver_name(&mut errors, name(object), &Path::new("name"));
        const POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
        if let Some(policy) = opt_text(spec, "fsGroupPolicy").filter(|p| !POLICIES.contains(p)) {
            errors.not_supported(path.child("fsGroupPolicy"), policy, POLICIES);
        }
        check_tokens(&mut errors, &path.child("tokenRequests"), items(spec, "tokenRequests"));
        const MODES: &[&str] = &["Persistent", "Ephemeral"];
        for mode in texts(spec, "volumeLifecycleModes").into_iter().filter(|m| !MODES.contains(m)) {
            errors.not_supported(path.child("volumeLifecycleModes"), mode, MODES);
        }
        errors
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate(cx, object);
        // the first path is misspelled upstream too
        for (field, shown) in [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
        {
            immutable(&mut errors, Path::new("spec").child(shown), obj(spec(object), field), obj(spec(old), field));
        }
        errors
    }

    fn warnings(&self, _cx: &RequestContext, object: &Value, _old: Option<&Value>) -> Vec<String> {
        let spec = spec(object);
        if items(spec, "tokenRequests").is_empty() || has(spec, "serviceAccountTokenInSecrets") {
            return Vec::new();
        }
        vec!["spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes".to_owned()]
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn returns_deleted_object(&self) -> bool {
        true
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("storage.k8s.io/v1/csidrivers")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let spec = spec(object);
        let or = |joined: String, none: &str| if joined.is_empty() { none.to_owned() } else { joined };
        let audiences: Vec<_> = items(spec, "tokenRequests").iter().map(|t| text(t, "audience")).collect();
        vec![
            name_of(object),
            json!(flag(spec, "attachRequired")),
            json!(flag(spec, "podInfoOnMount")),
            json!(flag(spec, "storageCapacity")),
            json!(or(audiences.join(","), "<unset>")),
            json!(flag(spec, "requiresRepublish")),
            json!(or(texts(spec, "volumeLifecycleModes").join(","), "<none>")),
            age_of(object, now),
        ]
    }
}

fn check_tokens(errors: &mut ErrorList, path: &Path, tokens: &[Value]) {
    const MIN_SECONDS: i64 = 600;
    for (i, token) in tokens.iter().enumerate() {
        let (at, audience) = (path.index(i), text(token, "audience"));
        if tokens[..i].iter().any(|t| text(t, "audience") == audience) {
            errors.duplicate(at.child("audience"), audience);
            continue;
        }
        let Some(seconds) = opt_int(token, "expirationSeconds") else { continue };
        if seconds < MIN_SECONDS {
            let detail = "may not specify a duration less than 10 minutes";
            errors.invalid(at.child("expirationSeconds"), seconds, detail);
        }
        if seconds > 1 << 32 {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.invalid(at.child("expirationSeconds"), seconds, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx, update_errors};

    #[test]
    fn defaults_and_tokens() {
        let made = created(&CsiDriver, json!({"metadata": {"name": "d"}}));
        assert_eq!(
            (&made["spec"]["attachRequired"], &made["spec"]["volumeLifecycleModes"]),
            (&json!(true), &json!(["Persistent"]))
        );
        let bad = json!({"metadata": {"name": "d"}, "spec": {"tokenRequests": [
            {"audience": "a", "expirationSeconds": 4294967297_i64}, {"audience": "a"}]}});
        assert_eq!(CsiDriver.warnings(&cx(""), &bad, None).len(), 1);
        assert_eq!(
            create_errors(&CsiDriver, bad),
            [
                "spec.tokenRequests[0].expirationSeconds: Invalid value: 4294967297: may not specify a duration larger than 2^32 seconds",
                "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
            ]
        );
        let with = |attach: bool| json!({"metadata": {"name": "d"}, "spec": {"attachRequired": attach}});
        assert_eq!(
            update_errors(&CsiDriver, with(true), with(false)),
            ["spec.attachedRequired: Invalid value: false: field is immutable"]
        );
    }
}
