//! ValidatingAdmissionPolicy: expressions that may refuse objects before they are stored.
//!
//! Invariants:
//! - VP-1: the status is the type checker's, written through `status` alone, which keeps everything else.

use apimachinery::validation::{ErrorList, Path};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::expressions::Checker;
use super::policies::{Doing, blank, check_policy_head, param_kind};
use super::rules::{count, default_match_resources};
use crate::access::{has, items, obj, opt_text, set, set_missing, text};
use crate::checks::{keep_metadata, keep_spec_or_status, name, qualified_name, spec, start_generation, status};
use crate::conditions::check_conditions;
use crate::kind::{Column, Kind, RequestContext, Scope, Strategy};
use crate::printers::{age_of, columns_of, name_of};

pub struct ValidatingAdmissionPolicy;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.admissionregistration.v1.ValidatingAdmissionPolicy";
    const GROUP: &str = "admissionregistration.k8s.io/v1";
    const KIND: &str = "ValidatingAdmissionPolicy";
    Kind::builtin(GROUP, KIND, "validatingadmissionpolicies", Scope::Cluster, DEFINITION, ValidatingAdmissionPolicy)
        .with_categories(&["api-extensions"])
        .with_subresource("status", GROUP, KIND, &["get", "patch", "update"])
}

const MOST_AUDIT_ANNOTATIONS: usize = 20;
const LONGEST_VALUE_EXPRESSION: usize = 5 * 1024;
const REASONS: &[&str] = &["Forbidden", "Invalid", "RequestEntityTooLarge"];

impl Strategy for ValidatingAdmissionPolicy {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec").filter(|s| s.is_object()) else { return };
        set_missing(spec, "failurePolicy", "Fail");
        default_match_resources(spec, "matchConstraints");
    }

    fn prepare_for_create(&self, _cx: &RequestContext, object: &mut Value) {
        set(object, "status", json!({}));
        start_generation(object);
    }

    fn prepare_for_update(&self, cx: &RequestContext, object: &mut Value, old: &Value) {
        keep_spec_or_status(cx, object, old);
        if cx.subresource == "status" {
            keep_metadata(object, old);
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        check(object, None)
    }

    fn validate_update(&self, cx: &RequestContext, object: &Value, old: &Value) -> ErrorList {
        if cx.subresource == "status" { check_status(object) } else { check(object, Some(old)) }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn columns(&self) -> Vec<Column> {
        columns_of("admissionregistration.k8s.io/v1/validatingadmissionpolicies")
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        vec![name_of(object), count(spec(object), "validations"), param_kind(object), age_of(object, now)]
    }
}

fn check(object: &Value, old: Option<&Value>) -> ErrorList {
    let mut errors = ErrorList::new();
    let (own, path) = (spec(object), Path::new("spec"));
    let checker = check_policy_head(&mut errors, &path, object, old, Doing::Validate);
    let (validations, annotations) = (items(own, "validations"), items(own, "auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        let detail = "validations or auditAnnotations must contain at least one item";
        errors.required(path.child("validations"), detail);
        errors.required(path.child("auditAnnotations"), detail);
        return errors;
    }
    for (i, validation) in validations.iter().enumerate() {
        check_validation(&mut errors, &checker, &path.child("validations").index(i), validation);
    }
    let path = path.child("auditAnnotations");
    if annotations.len() > MOST_AUDIT_ANNOTATIONS {
        let shown: Vec<String> = annotations
            .iter()
            .map(|a| {
                crate::checks::dump(&[
                    ("Key", json!(text(a, "key"))),
                    ("ValueExpression", json!(text(a, "valueExpression"))),
                ])
            })
            .collect();
        let detail = format!("must not have more than {MOST_AUDIT_ANNOTATIONS} auditAnnotations");
        errors.invalid_text(path.clone(), &format!("[{}]", shown.join(",")), &detail);
    }
    for (i, annotation) in annotations.iter().enumerate() {
        let (at, key) = (path.index(i), text(annotation, "key"));
        if name(object).is_empty() {
            errors.invalid(at.child("key"), key, "requires metadata.name be non-empty");
        } else {
            qualified_name(&mut errors, at.child("key"), &format!("{}/{key}", name(object)));
        }
        match text(annotation, "valueExpression").trim() {
            "" => errors.required(at.child("valueExpression"), "valueExpression is not specified"),
            long if long.len() > LONGEST_VALUE_EXPRESSION => {
                let detail = format!("must not exceed {LONGEST_VALUE_EXPRESSION} bytes in length");
                errors.required(at.child("valueExpression"), &detail);
            }
            _ => checker.annotation(&mut errors, at.child("valueExpression"), text(annotation, "valueExpression")),
        }
        if annotations[..i].iter().any(|a| text(a, "key") == key) {
            errors.duplicate(at.child("key"), key);
        }
    }
    errors
}

fn check_validation(errors: &mut ErrorList, checker: &Checker, path: &Path, validation: &Value) {
    match text(validation, "expression") {
        none if none.trim().is_empty() => errors.required(path.child("expression"), "expression is not specified"),
        source => checker.condition(errors, path.child("expression"), source),
    }
    const BLANK: &str = "must be non-empty if specified";
    let source = text(validation, "messageExpression");
    if blank(validation, "messageExpression") {
        errors.invalid(path.child("messageExpression"), source, BLANK);
    } else if !source.is_empty() {
        checker.message(errors, path.child("messageExpression"), source);
    }
    let message = text(validation, "message");
    if blank(validation, "message") {
        errors.invalid(path.child("message"), message, BLANK);
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(path.child("message"), message, "must not contain line breaks");
    }
    if let Some(reason) = opt_text(validation, "reason").filter(|r| !REASONS.contains(r)) {
        errors.not_supported(path.child("reason"), reason, REASONS);
    }
}

fn check_status(object: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("status");
    let warnings = path.children(&["typeChecking", "expressionWarnings"]);
    for (i, warning) in items(obj(status(object), "typeChecking"), "expressionWarnings").iter().enumerate() {
        let at = warnings.index(i);
        if !has(warning, "warning") || text(warning, "warning").is_empty() {
            errors.required(at.child("warning"), "");
        }
        if text(warning, "fieldRef").trim().is_empty() {
            errors.required(at.child("fieldRef"), "");
        }
    }
    check_conditions(&mut errors, &path.child("conditions"), status(object));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::{create_errors, created, cx, texts};

    fn policy(more: &Value) -> Value {
        let mut spec = json!({"matchConstraints": {"resourceRules": [
            {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        json!({"metadata": {"name": "p"}, "spec": spec})
    }

    #[test]
    fn defaults() {
        let made = created(&ValidatingAdmissionPolicy, policy(&json!({"validations": [{"expression": "true"}]})));
        let constraints = &made["spec"]["matchConstraints"];
        assert_eq!((&constraints["matchPolicy"], &constraints["objectSelector"]), (&json!("Equivalent"), &json!({})));
        assert_eq!((&constraints["resourceRules"][0]["scope"], &made["status"]), (&json!("*"), &json!({})));
    }

    #[test]
    fn something_must_be_validated() {
        assert_eq!(
            create_errors(&ValidatingAdmissionPolicy, policy(&json!({}))),
            [
                "spec.validations: Required value: validations or auditAnnotations must contain at least one item",
                "spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
            ]
        );
        assert_eq!(
            create_errors(
                &ValidatingAdmissionPolicy,
                policy(&json!({"validations": [{"expression": "true", "message": "a\nb", "reason": "No"}]}))
            ),
            [
                "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
                "spec.validations[0].reason: Unsupported value: \"No\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
            ]
        );
    }

    #[test]
    fn warnings_name_their_field() {
        let object = json!({"status": {"typeChecking": {"expressionWarnings": [{"fieldRef": " "}]}}});
        assert_eq!(
            texts(&ValidatingAdmissionPolicy.validate_update(&cx("status"), &object, &object)),
            [
                "status.typeChecking.expressionWarnings[0].warning: Required value",
                "status.typeChecking.expressionWarnings[0].fieldRef: Required value",
            ]
        );
    }
}
