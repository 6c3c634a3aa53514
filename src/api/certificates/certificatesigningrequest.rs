//! CertificateSigningRequest: somebody asks a signer for a certificate.
//!
//! Invariants:
//! - CS-1: who asked is what the server knows of the creator, never what the object says.
//! - CS-2: the spec never changes; an approval is never taken back; a certificate is never replaced.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::pem::{check_certificate, check_request};
use super::signer::check_signer_name;
use crate::access::{copy_field, has, items, items_mut, obj, opt_int, remove, set, text, texts};
use crate::checks::{spec, status};
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct CertificateSigningRequest;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.certificates.v1.CertificateSigningRequest";
    const GROUP: &str = "certificates.k8s.io/v1";
    const KIND: &str = "CertificateSigningRequest";
    const VERBS: &[&str] = &["get", "patch", "update"];
    Kind::builtin(GROUP, KIND, "certificatesigningrequests", Scope::Cluster, DEFINITION, CertificateSigningRequest)
        .with_short_names(&["csr"])
        .with_subresource("approval", GROUP, KIND, VERBS)
        .with_subresource("status", GROUP, KIND, VERBS)
}

const LEGACY_SIGNER: &str = "kubernetes.io/legacy-unknown";
/// Conditions that are true or not there.
const FINAL: &[&str] = &["Approved", "Denied", "Failed"];
const VERDICTS: &[&str] = &["Approved", "Denied"];
const SHORTEST: i64 = 600;
const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

impl Strategy for CertificateSigningRequest {
    fn wants_identity(&self) -> bool {
        true
    }

    fn prepare_for_create(&self, cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({}));
        let Some(spec) = object.get_mut("spec") else { return };
        for key in ["username", "uid", "groups", "extra"] {
            remove(spec, key);
        }
        if !cx.user.is_empty() {
            set(spec, "username", cx.user.as_str());
        }
        let Some(identity) = &cx.identity else { return };
        if !identity.uid.is_empty() {
            set(spec, "uid", identity.uid.as_str());
        }
        if !identity.groups.is_empty() {
            set(spec, "groups", json!(identity.groups));
        }
        if !identity.extra.is_empty() {
            set(spec, "extra", json!(identity.extra));
        }
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        copy_field(object, old, "spec");
        match cx.subresource.as_str() {
            "status" => {
                keep_verdicts(object, old);
                date_conditions(cx, object, old);
            }
            "approval" => {
                date_conditions(cx, object, old);
                let conditions = obj(status(object), "conditions").clone();
                copy_field(object, old, "status");
                if !conditions.is_null() {
                    crate::access::ensure_map(object, "status");
                    if let Some(status) = object.get_mut("status") {
                        set(status, "conditions", conditions);
                    }
                } else if let Some(status) = object.get_mut("status") {
                    remove(status, "conditions");
                }
            }
            _ => copy_field(object, old, "status"),
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        check(object, None)
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        let mut errors = check(object, Some(old));
        check_change(&mut errors, &cx.subresource, object, old);
        errors
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", text(spec(object), "signerName").to_owned())]
    }

    fn validate_name(&self, _name: &str, _prefix: bool) -> Vec<String> {
        Vec::new()
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("certificates.k8s.io/v1/certificatesigningrequests")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let signer = match text(spec(object), "signerName") {
            "" => "<none>",
            name => name,
        };
        let duration = opt_int(spec(object), "expirationSeconds").map(apimachinery::duration::human_duration);
        vec![
            name_of(object),
            age_of(object, now),
            json!(signer),
            json!(text(spec(object), "username")),
            json!(duration.unwrap_or_else(|| "<none>".to_owned())),
            json!(summary(object)),
        ]
    }
}

fn count(object: &Value, ty: &str) -> usize {
    items(status(object), "conditions").iter().filter(|c| text(c, "type") == ty).count()
}

/// The `Condition` column.
fn summary(object: &Value) -> String {
    let verdict = match (count(object, "Denied"), count(object, "Approved")) {
        (1.., _) => "Denied",
        (0, 1..) => "Approved",
        (0, 0) => "Pending",
    };
    let failed = if count(object, "Failed") > 0 { ",Failed" } else { "" };
    let issued = if text(status(object), "certificate").is_empty() { "" } else { ",Issued" };
    format!("{verdict}{failed}{issued}")
}

/// A write of the status leaves the verdict as it was; one that adds or removes a verdict is left to validation.
fn keep_verdicts(object: &mut Value, old: &Value) {
    for ty in VERDICTS {
        if count(object, ty) != count(old, ty) {
            continue;
        }
        let was: Vec<Value> =
            items(status(old), "conditions").iter().filter(|c| text(c, "type") == *ty).cloned().collect();
        let Some(status) = object.get_mut("status") else { continue };
        let now = items_mut(status, "conditions").iter_mut().filter(|c| text(c, "type") == *ty);
        for (now, was) in now.zip(was) {
            *now = was;
        }
    }
}

fn date_conditions(cx: &RequestContext, object: &mut Value, old: &Value) {
    let now = cx.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let before = items(status(old), "conditions");
    let Some(status) = object.get_mut("status") else { return };
    for condition in items_mut(status, "conditions") {
        if !has(condition, "lastUpdateTime") {
            set(condition, "lastUpdateTime", now.as_str());
        }
        if !has(condition, "lastTransitionTime") {
            let same = |c: &&Value| ["type", "status"].iter().all(|key| text(c, key) == text(condition, key));
            let since = before.iter().filter(same).map(|c| text(c, "lastTransitionTime")).find(|t| !t.is_empty());
            let since = since.unwrap_or(&now).to_owned();
            set(condition, "lastTransitionTime", since);
        }
    }
}

fn repeated(values: &[&str]) -> bool {
    values.iter().enumerate().any(|(i, value)| values[..i].contains(value))
}

/// What every state of a request must be. What `old` has done wrong already, it may go on doing.
fn check(object: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (own, path) = (spec(object), Path::new("spec"));
    let (no_spec, no_status) = (Value::Null, Value::Null);
    let (old_spec, old_status) = old.map_or((&no_spec, &no_status), |old| (spec(old), status(old)));
    if let Some(text_of) = check_request(text(own, "request")) {
        errors.invalid(path.child("request"), text(own, "request"), &text_of);
    }
    let usages = texts(own, "usages");
    if usages.is_empty() {
        errors.required(path.child("usages"), "");
    }
    if texts(old_spec, "usages").iter().all(|u| USAGES.contains(u)) {
        for (i, usage) in usages.iter().enumerate().filter(|(_, u)| !USAGES.contains(u)) {
            errors.not_supported(path.child("usages").index(i), *usage, USAGES);
        }
    }
    if !repeated(&texts(old_spec, "usages")) {
        for (i, usage) in usages.iter().enumerate().filter(|(i, u)| usages[..*i].contains(u)) {
            errors.duplicate(path.child("usages").index(i), *usage);
        }
    }
    let signer = text(own, "signerName");
    if signer == LEGACY_SIGNER && text(old_spec, "signerName") != LEGACY_SIGNER {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.invalid(path.child("signerName"), signer, detail);
    } else {
        check_signer_name(&mut errors, &path.child("signerName"), signer);
    }
    if let Some(seconds) = opt_int(own, "expirationSeconds").filter(|s| *s < SHORTEST) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.invalid(path.child("expirationSeconds"), seconds, detail);
    }
    check_conditions(&mut errors, items(status(object), "conditions"), items(old_status, "conditions"));
    let certificate = text(status(object), "certificate");
    let was = text(old_status, "certificate");
    let tolerated = old.is_some() && (certificate == was || check_certificate(was).is_some());
    if let Some(bad) = check_certificate(certificate).filter(|_| !tolerated) {
        errors.invalid(Path::new("status").child("certificate"), "<certificate data>", &bad);
    }
    errors
}

fn check_conditions(errors: &mut ErrorList, conditions: &[Value], old: &[Value]) {
    let path = Path::new("status").child("conditions");
    let of = |list: &[Value], ty: &str| list.iter().any(|c| text(c, "type") == ty);
    let both_before = VERDICTS.iter().all(|ty| of(old, ty));
    let old_types: Vec<&str> = old.iter().map(|c| text(c, "type")).collect();
    for (i, condition) in conditions.iter().enumerate() {
        let (at, ty, state) = (path.index(i), text(condition, "type"), text(condition, "status"));
        if ty.is_empty() && !old_types.contains(&"") {
            errors.required(at.child("type"), "");
        }
        let allowed: &[&str] = if FINAL.contains(&ty) { &["True"] } else { &["False", "True", "Unknown"] };
        if state.is_empty() {
            errors.required(at.child("status"), "");
        } else if !allowed.contains(&state) {
            errors.not_supported(at.child("status"), state, allowed);
        }
        let other = match ty {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "-",
        };
        if !both_before && of(&conditions[..i], other) {
            errors.invalid(path.clone(), ty, "Approved and Denied conditions are mutually exclusive");
        }
        if of(&conditions[..i], ty) && !repeated(&old_types) {
            errors.duplicate(at.child("type"), ty);
        }
    }
}

/// What may become of a request through each of its doors.
fn check_change(errors: &mut ErrorList, door: &str, object: &Value, old: &Value) {
    let path = Path::new("status");
    for ty in FINAL.iter().filter(|ty| count(object, ty) < count(old, ty)) {
        let detail = format!("updates may not remove a condition of type {ty:?}");
        errors.forbidden(path.child("conditions"), &detail);
    }
    if door != "approval" {
        for ty in VERDICTS.iter().filter(|ty| count(object, ty) > count(old, ty)) {
            let detail = format!("updates may not add a condition of type {ty:?}");
            errors.forbidden(path.child("conditions"), &detail);
        }
    }
    let (certificate, was) = (text(status(object), "certificate"), text(status(old), "certificate"));
    if certificate != was && door != "status" {
        errors.forbidden(path.child("certificate"), "updates may not set certificate content");
    } else if certificate != was && !was.is_empty() {
        errors.forbidden(path.child("certificate"), "updates may not modify existing certificate content");
    }
}

#[cfg(test)]
mod tests {
    use super::super::pem::tests::REQUEST;
    use super::*;
    use crate::checks::testing::{created, cx, texts};
    use crate::kind::Identity;

    fn request() -> Value {
        json!({"metadata": {"name": "x"}, "spec": {"request": REQUEST, "signerName": "example.com/s",
            "usages": ["client auth"], "username": "spoof", "groups": ["system:masters"]}})
    }

    fn written(door: &str, old: &Value, status: Value) -> (Value, Vec<String>) {
        let mut new = old.clone();
        new["status"] = status;
        new["spec"]["signerName"] = json!("example.com/other");
        let strategy = CertificateSigningRequest;
        strategy.prepare_for_update(&cx(door), &mut new, old);
        let errors = texts(&strategy.validate_update(&cx(door), &new, old));
        (new, errors)
    }

    #[test]
    fn the_server_says_who_asks() {
        let mut object = request();
        let identity = Identity { uid: "1".into(), groups: vec!["g".into()], extra: Default::default() };
        let cx = RequestContext { identity: Some(Box::new(identity)), ..cx("") };
        CertificateSigningRequest.prepare_for_create(&cx, &mut object);
        assert_eq!((&object["spec"]["username"], &object["spec"]["groups"]), (&json!("admin"), &json!(["g"])));
        assert_eq!((&object["spec"]["uid"], &object["status"]), (&json!("1"), &json!({})));
        assert!(CertificateSigningRequest.validate(&cx, &object).is_empty());
    }

    #[test]
    fn verdicts_come_through_approval_alone() {
        let old = created(&CertificateSigningRequest, request());
        let approved = json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "Zm9v"});
        let (new, errors) = written("approval", &old, approved.clone());
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(new["spec"]["signerName"], "example.com/s");
        assert_eq!(new["status"]["conditions"][0]["lastUpdateTime"], "2026-01-02T03:04:05Z");
        assert!(new["status"].get("certificate").is_none());
        let (_, errors) = written("status", &old, approved);
        assert_eq!(
            errors,
            [
                "status.certificate: Invalid value: \"<certificate data>\": must contain at least one CERTIFICATE PEM block",
                "status.conditions: Forbidden: updates may not add a condition of type \"Approved\"",
            ]
        );
        let (_, errors) = written("approval", &new, json!({"conditions": []}));
        assert_eq!(errors, ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]);
        let both =
            json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]});
        let (_, errors) = written("approval", &new, both);
        assert_eq!(
            errors,
            ["status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"]
        );
        assert_eq!(summary(&new), "Approved");
    }
}
