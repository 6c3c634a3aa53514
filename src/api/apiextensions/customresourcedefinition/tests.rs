//! Definitions as users send them, and what upstream says to them.

use apimachinery::validation::ErrorList;
use serde_json::{Value, json};

use super::CustomResourceDefinition;
use crate::checks::testing::{created, cx, texts};
use crate::kind::Strategy;

const STRATEGY: CustomResourceDefinition = CustomResourceDefinition { defaults: |_, _, _| ErrorList::new() };

fn crd(spec: Value) -> Value {
    let mut whole = json!({
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"plural": "foos", "kind": "Foo"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}],
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        whole[key] = value.clone();
    }
    json!({"metadata": {"name": "foos.example.com"}, "spec": whole})
}

fn with_schema(schema: Value) -> Value {
    crd(json!({"versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}))
}

fn errors(object: Value) -> Vec<String> {
    let object = created(&STRATEGY, object);
    texts(&STRATEGY.validate(&cx(""), &object))
}

fn schema_errors(schema: Value) -> Vec<String> {
    errors(with_schema(schema)).into_iter().map(|e| e.replace("spec.validation.openAPIV3Schema", "$")).collect()
}

fn property_errors(property: Value) -> Vec<String> {
    schema_errors(json!({"type": "object", "properties": {"a": property}}))
}

#[test]
fn defaults() {
    let made = created(&STRATEGY, crd(json!({})));
    assert_eq!(
        made["spec"]["names"],
        json!({"plural": "foos", "kind": "Foo", "singular": "foo", "listKind": "FooList"})
    );
    assert_eq!(made["spec"]["conversion"], json!({"strategy": "None"}));
    assert_eq!(made["status"]["storedVersions"], json!(["v1"]));
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(errors(crd(json!({}))), [""; 0]);
}

#[test]
fn names_group_scope() {
    assert_eq!(
        errors(crd(json!({"group": "nodots", "scope": "Galaxy"}))),
        [
            "metadata.name: Invalid value: \"foos.example.com\": must be spec.names.plural+\".\"+spec.group",
            "spec.group: Invalid value: \"nodots\": should be a domain with at least one dot",
            "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"",
        ]
    );
    let names = json!({"plural": "foos", "kind": "Foo", "listKind": "Foo", "shortNames": [""]});
    let found = errors(crd(json!({"names": names})));
    assert!(found[0].starts_with("spec.names.shortNames[0]: Invalid value: \"\": a DNS-1035 label"), "{found:?}");
    assert_eq!(found[1], "spec.names.listKind: Invalid value: \"Foo\": kind and listKind may not be the same");
}

#[test]
fn versions() {
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": {"type": "object"}}})
    };
    let found = errors(crd(json!({"versions": [version("v1", true), version("v1", false)]})));
    assert_eq!(
        found,
        [
            "spec.versions: Invalid value: [{\"Name\":\"v1\",\"Served\":true,\"Storage\":true,\"Deprecated\":false,\"DeprecationWarning\":null,\"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\"SelectableFields\":null},{\"Name\":\"v1\",\"Served\":true,\"Storage\":false,\"Deprecated\":false,\"DeprecationWarning\":null,\"Schema\":null,\"Subresources\":null,\"AdditionalPrinterColumns\":null,\"SelectableFields\":null}]: must contain unique version names"
        ]
    );
    assert_eq!(
        errors(crd(json!({"versions": []}))),
        [
            "spec.versions: Invalid value: []: must have exactly one version marked as storage version",
            "status.storedVersions: Invalid value: null: must have at least one stored version",
        ]
    );
    let bare = json!([{"name": "v1", "served": true, "storage": true}, version("v2", false)]);
    assert_eq!(
        errors(crd(json!({"versions": bare}))),
        ["spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required"]
    );
}

#[test]
fn conversions() {
    let with = |conversion: Value| errors(crd(json!({"conversion": conversion})));
    assert_eq!(
        with(
            json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "http://x"}, "conversionReviewVersions": ["v9", "v9"]}})
        ),
        [
            "spec.conversion.webhookClientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
            "spec.conversion.conversionReviewVersions[1]: Invalid value: \"v9\": duplicate version",
            "spec.conversion.conversionReviewVersions: Invalid value: [\"v9\",\"v9\"]: must include at least one of v1, v1beta1",
        ]
    );
    assert_eq!(
        with(json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}})),
        ["spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook"]
    );
}

#[test]
fn structure() {
    assert_eq!(
        schema_errors(json!({"type": "string"})),
        ["$.type: Invalid value: \"string\": must be object at the root"]
    );
    assert_eq!(schema_errors(json!({})), ["$.type: Required value: must not be empty at the root"]);
    assert_eq!(property_errors(json!({"type": "array"})), ["$.properties[a].items: Required value: must be specified"]);
    assert_eq!(
        property_errors(json!({"type": "string", "pattern": "("})),
        [
            "$.properties[a].pattern: Invalid value: \"(\": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`"
        ]
    );
    let int_or_string = json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]});
    assert_eq!(property_errors(int_or_string), [""; 0]);
    // upstream looks for what conditions leave undescribed at the root alone
    assert_eq!(
        schema_errors(json!({"type": "object", "anyOf": [{"type": "object", "properties": {"b": {"minimum": 1}}}]})),
        [
            "$.anyOf[0].type: Forbidden: must be empty to be structural",
            "$.properties[b]: Required value: because it is defined in $.anyOf[0].properties[b]",
        ]
    );
    assert_eq!(
        property_errors(json!({"type": "object", "x-kubernetes-embedded-resource": true})),
        [
            "$.properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"
        ]
    );
    let metadata = |own: Value| schema_errors(json!({"type": "object", "properties": {"metadata": own}}));
    assert_eq!(
        metadata(json!({"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}})),
        [""; 0]
    );
    assert_eq!(
        metadata(json!({"type": "object", "description": "x"})),
        [
            "$.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified"
        ]
    );
}

#[test]
fn openapi() {
    assert_eq!(
        property_errors(json!({"type": "string", "$ref": "#/x"})),
        ["$.properties[a].$ref: Forbidden: $ref is not supported"]
    );
    assert_eq!(
        property_errors(json!({"type": "float"})),
        [
            "$.properties[a].type: Unsupported value: \"float\": supported values: \"array\", \"boolean\", \"integer\", \"number\", \"object\", \"string\""
        ]
    );
    assert_eq!(
        property_errors(json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}})),
        [
            "$.properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set"
        ]
    );
    assert_eq!(
        property_errors(
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k", "k", "z"],
            "items": {"type": "object", "properties": {"k": {"type": "string", "nullable": true}}, "required": ["k"]}})
        ),
        [
            "$.properties[a].x-kubernetes-list-map-keys: Invalid value: [\"k\",\"k\",\"z\"]: must not contain duplicate entries",
            "$.properties[a].x-kubernetes-list-map-keys: Invalid value: [\"k\",\"k\",\"z\"]: entries must all be names of item properties",
            "$.properties[a].items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            "$.properties[a].items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
        ]
    );
    assert_eq!(
        schema_errors(json!({"type": "object", "properties": {"kind": {"type": "string", "default": "X"}}})),
        ["$.properties[kind].default: Forbidden: must not be set in top-level kind"]
    );
}

#[test]
fn the_root_with_a_status() {
    let object =
        crd(json!({"versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": {"type": "object", "maxProperties": 3}}}]}));
    let found = errors(object);
    assert!(
        found[0]
            .starts_with("spec.validation.openAPIV3Schema: Invalid value: {\"ID\":\"\",\"Schema\":\"\",\"Ref\":null,")
    );
    assert!(found[0].ends_with("Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled"));
}

#[test]
fn updates() {
    let old = created(&STRATEGY, crd(json!({})));
    let mut new = old.clone();
    new["spec"]["group"] = json!("other.example.com");
    new["spec"]["scope"] = json!("Cluster");
    let found = |new: &Value, old: &Value| -> Vec<String> {
        let mut new = new.clone();
        STRATEGY.prepare_for_update(&cx(""), &mut new, old);
        let errors: ErrorList = STRATEGY.validate_update(&cx(""), &new, old);
        texts(&errors)
    };
    assert_eq!(found(&new, &old), ["spec.group: Invalid value: \"other.example.com\": field is immutable"]);
    let mut established = old.clone();
    established["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    assert_eq!(
        found(&new, &established),
        [
            "spec.scope: Invalid value: \"Cluster\": field is immutable",
            "spec.group: Invalid value: \"other.example.com\": field is immutable",
        ]
    );
    let mut gone = old.clone();
    gone["spec"]["versions"][0]["name"] = json!("v2");
    assert!(
        found(&gone, &old)[0]
            .starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was")
    );
}
