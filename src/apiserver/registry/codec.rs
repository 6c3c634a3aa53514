//! Between bytes and objects: decoding with defaults, and who owns which field.

use std::borrow::Cow;
use std::sync::Arc;

use api::Kind;
use apimachinery::decode::{self, Encoding, FieldValidation};
use apimachinery::goformat::quote;
use apimachinery::gvk::{GroupKind, GroupVersionKind};
use apimachinery::managedfields::{self, ApplyError, Request, ResetFields, Versions};
use apimachinery::schema::Schema;
use apimachinery::status::{Cause, Status};
use apimachinery::validation::{ErrorList, Path};
use serde_json::{Map, Value};

use super::options::WriteOptions;
use super::{Cx, unstructured};
use crate::wire::{negotiate, respond};

/// Decodes a body as the request's kind, with defaults.
///
/// # Errors
/// 400 and 415 for what cannot be read.
pub fn decode(cx: &Cx, body: &[u8], validation: FieldValidation) -> Result<Value, Status> {
    decode_as(cx, &cx.kind, body, validation)
}

/// Decodes a body as `kind`, with defaults.
///
/// # Errors
/// 400 and 415 for what cannot be read.
pub fn decode_as(cx: &Cx, kind: &Kind, body: &[u8], validation: FieldValidation) -> Result<Value, Status> {
    let encoding = encoding(cx)?;
    if let Some(custom) = crate::apiextensions::of(kind) {
        let mut value = crate::apiextensions::decode::body(custom, body, encoding, validation, &|text| cx.warn(text))?;
        complete(kind, &mut value);
        keep_sent_reset(&mut value, body, encoding);
        return Ok(value);
    }
    let expected = GroupVersionKind::new(kind.group.as_ref(), kind.version.as_ref(), kind.kind.as_ref());
    let (gvk, decoded) = decode::decode_body(body, encoding, &expected, |gvk| known(cx, gvk))
        .map_err(|error| error.status(&kind.kind, body))?;
    let warnings = decoded.warnings(validation).map_err(|error| {
        Status::bad_request(format!(
            "{} in version {} cannot be handled as a {}: {error}",
            gvk.kind,
            quote(&gvk.version),
            kind.kind
        ))
    })?;
    for warning in warnings {
        cx.warn(warning.clone());
    }
    if gvk.group_version() != expected.group_version() && gvk.kind != "Eviction" {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({})",
            gvk.api_version(),
            expected.api_version()
        )));
    }
    let mut value = decoded.value;
    complete(kind, &mut value);
    keep_sent_reset(&mut value, body, encoding);
    Ok(value)
}

fn keep_sent_reset(value: &mut Value, body: &[u8], encoding: Encoding) {
    const MANAGED: &[u8] = b"managedFields";
    if body.windows(MANAGED.len()).any(|window| window == MANAGED) {
        let reset = decode::parse(body, encoding).is_ok_and(|document| asks_reset(&document.node.into_value()));
        keep_reset(value, reset);
    }
}

/// Defaults, in the form the server returns objects in.
pub fn complete(kind: &Kind, value: &mut Value) {
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("selfLink");
    }
    kind.strategy.default(value);
    decode::normalize_sent(value, &kind.schema);
}

/// An empty list of managed fields is a wish (to track nothing), though the server never shows one.
fn keep_reset(value: &mut Value, asked: bool) {
    if asked {
        super::meta::of(value).insert("managedFields".into(), Value::Array(Vec::new()));
    }
}

fn asks_reset(value: &Value) -> bool {
    value["metadata"]["managedFields"].as_array().is_some_and(Vec::is_empty)
}

fn encoding(cx: &Cx) -> Result<Encoding, Status> {
    let media = cx.content_type().split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match media.as_str() {
        "" | negotiate::JSON => Ok(Encoding::Json),
        negotiate::YAML => Ok(Encoding::Yaml),
        negotiate::PROTOBUF => Ok(Encoding::Protobuf),
        _ => Err(Status::unsupported_media_type(negotiate::OBJECT_TYPES)),
    }
}

/// Versions that are no longer served, but that upstream still can read.
const RETIRED: &[(&str, &str)] = &[
    ("extensions", "v1beta1"),
    ("apps", "v1beta1"),
    ("apps", "v1beta2"),
    ("autoscaling", "v2beta1"),
    ("autoscaling", "v2beta2"),
    ("batch", "v1beta1"),
    ("certificates.k8s.io", "v1beta1"),
    ("coordination.k8s.io", "v1beta1"),
    ("discovery.k8s.io", "v1beta1"),
    ("events.k8s.io", "v1beta1"),
    ("networking.k8s.io", "v1beta1"),
    ("node.k8s.io", "v1alpha1"),
    ("node.k8s.io", "v1beta1"),
    ("policy", "v1beta1"),
    ("rbac.authorization.k8s.io", "v1alpha1"),
    ("rbac.authorization.k8s.io", "v1beta1"),
    ("scheduling.k8s.io", "v1alpha1"),
    ("scheduling.k8s.io", "v1beta1"),
    ("storage.k8s.io", "v1alpha1"),
    ("storage.k8s.io", "v1beta1"),
    ("admissionregistration.k8s.io", "v1alpha1"),
    ("admissionregistration.k8s.io", "v1beta1"),
];

/// The schema of any kind the server knows.
fn known(cx: &Cx, gvk: &GroupVersionKind) -> Option<Schema> {
    // Evictions are taken in their old version too.
    let version = if gvk.group == "policy" && gvk.kind == "Eviction" { "v1" } else { gvk.version.as_str() };
    let matches = |kind: &Arc<Kind>| kind.group == gvk.group && kind.version == version && kind.kind == gvk.kind;
    let served = cx.server.kinds.built_in();
    let found = served.iter().chain(api::bodies()).find(|kind| matches(kind));
    let retired = || {
        let old = RETIRED.iter().any(|(group, version)| *group == gvk.group && *version == gvk.version);
        served
            .iter()
            .find(|kind| old && kind.kind == gvk.kind && (kind.group == gvk.group || gvk.group == "extensions"))
    };
    found
        .or_else(retired)
        .map(|kind| kind.schema.clone())
        .or_else(|| apimachinery::schema::builtin_schema_for(&gvk.group, &gvk.version, &gvk.kind))
}

/// The body of a DELETE.
///
/// # Errors
/// 400 for what is no DeleteOptions.
pub fn decode_options(cx: &Cx, body: &[u8]) -> Result<Value, Status> {
    const SCHEMA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
    let encoding = encoding(cx)?;
    let document = decode::parse(body, encoding).map_err(|error| match encoding {
        Encoding::Protobuf => Status::bad_request(error),
        _ => Status::bad_request(format!("couldn't get version/kind; json parse error: {error}")),
    })?;
    let gvk = decode::type_meta(&document.node).map_err(|error| Status::bad_request(error.message))?;
    if !matches!(gvk.kind.as_str(), "" | "DeleteOptions") {
        return Err(Status::bad_request(format!(
            "no kind {} is registered for version {} in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\"",
            quote(&gvk.kind),
            quote(&gvk.api_version())
        )));
    }
    let schema = apimachinery::schema::builtin_schema(SCHEMA).ok_or_else(|| Status::internal("no DeleteOptions"))?;
    decode::decode_document(document, &schema).map(|decoded| decoded.value).map_err(|error| {
        Status::bad_request(format!(
            "DeleteOptions in version {} cannot be handled as a DeleteOptions: {error}",
            quote(&gvk.version)
        ))
    })
}

/// The configuration of a server-side apply: YAML (or JSON, which is YAML), not yet checked against the kind.
///
/// # Errors
/// 400 for what cannot be read, and for repeated keys under strict validation.
pub fn decode_applied(cx: &Cx, body: &[u8], validation: FieldValidation) -> Result<Value, Status> {
    let yaml = decode::yaml::parse(body)
        .map_err(|error| Status::bad_request(format!("error decoding YAML: error converting YAML to JSON: {error}")))?;
    match validation {
        FieldValidation::Strict if !yaml.repeated.is_empty() => {
            return Err(Status::bad_request(format!(
                "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  {}",
                yaml.repeated.join("\n  ")
            )));
        }
        FieldValidation::Warn => yaml.repeated.iter().for_each(|repeated| cx.warn(repeated.clone())),
        _ => {}
    }
    match yaml.node.into_value() {
        Value::Null => Ok(Value::Object(Map::new())),
        value @ Value::Object(_) => Ok(value),
        other => Err(Status::bad_request(format!(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {} into Go value of type map[string]interface {{}}",
            decode::Node::from(other).kind()
        ))),
    }
}

/// What an error about a patched object shows.
pub enum Shown {
    /// The patch: strategic merge patches.
    Patch(String),
    /// The patched object as text.
    Result(String),
    /// The patched object with sorted fields: server-side apply.
    Sorted,
}

/// The result of a patch, checked against the kind and with defaults. `strict` is what is wrong with the patch
/// document itself.
///
/// # Errors
/// 422 for a result that is no object of the kind.
pub fn decode_patched(
    cx: &Cx,
    kind: &Kind,
    object: Value,
    shown: Shown,
    validation: FieldValidation,
    strict: Vec<String>,
) -> Result<Value, Status> {
    if let Some(custom) = crate::apiextensions::of(kind) {
        let reset = asks_reset(&object);
        let mut value = match shown {
            Shown::Sorted => object,
            _ => {
                let warn = |text| cx.warn(text);
                crate::apiextensions::decode::patched(custom, object, validation, strict, &warn)?
            }
        };
        complete(kind, &mut value);
        keep_reset(&mut value, reset);
        return Ok(value);
    }
    let strategic = matches!(shown, Shown::Patch(_));
    let show = match shown {
        Shown::Patch(text) | Shown::Result(text) => text,
        Shown::Sorted => String::from_utf8_lossy(&respond::encode_sorted(&object)).into_owned(),
    };
    let refuse = |error: &str| {
        let mut errors = ErrorList::new();
        errors.invalid(Path::new("patch"), show.as_str(), error);
        Status::invalid(&GroupKind::new("", ""), "", &errors)
    };
    let reset = asks_reset(&object);
    if let Some(other) = object["kind"].as_str().filter(|other| *other != kind.kind) {
        let version = object["apiVersion"].as_str().unwrap_or("").rsplit('/').next().unwrap_or("");
        let package = match kind.group.as_ref() {
            "" => "core",
            group => group.split('.').next().unwrap_or(""),
        };
        return Err(refuse(&format!(
            "converting ({version}.{other}) to ({package}.{}): unknown conversion",
            kind.kind
        )));
    }
    if strategic {
        if let Some(error) = unstructured::mismatch(&object, kind.schema.root()) {
            return Err(refuse(&error));
        }
    }
    let mut decoded = decode::decode_value(object, &kind.schema).map_err(|error| refuse(&error))?;
    let strict_errors: Vec<String> = strict.into_iter().chain(std::mem::take(&mut decoded.strict_errors)).collect();
    match validation {
        FieldValidation::Strict if !strict_errors.is_empty() => {
            return Err(refuse(&format!("strict decoding error: {}", strict_errors.join(", "))));
        }
        FieldValidation::Warn => strict_errors.into_iter().for_each(|error| cx.warn(error)),
        _ => {}
    }
    let mut value = decoded.value;
    complete(kind, &mut value);
    keep_reset(&mut value, reset);
    Ok(value)
}

/// What Go's encoder writes of an object that has only metadata.
pub fn empty_fields(cx: &Cx, value: &mut Value) {
    decode::normalize(value, &cx.kind.schema);
}

/// The kind of a body that is another than its resource's.
///
/// # Errors
/// 404 when the server does not know it.
pub fn body_kind(group: &str, version: &str, kind: &str) -> Result<Arc<Kind>, Status> {
    let known = api::bodies().iter().chain(api::kinds());
    let found = known.into_iter().find(|k| k.group == group && k.version == version && k.kind == kind);
    found.cloned().ok_or_else(Status::path_not_found)
}

/// What the storage resets on a write is owned by nobody.
fn reset_fields<'a>(kind: &Kind, subresource: &str) -> ResetFields<'a> {
    if subresource == "status" && crate::apiextensions::of(kind).is_some() {
        return ResetFields::Exclude(&[&["spec"], &["metadata"]]);
    }
    match subresource {
        "status" => match kind.plural.as_ref() {
            "pods" => {
                ResetFields::Exclude(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
            }
            "customresourcedefinitions" | "flowschemas" | "prioritylevelconfigurations" | "volumeattachments" => {
                ResetFields::Exclude(&[&["spec"], &["metadata"]])
            }
            "deployments" => ResetFields::Exclude(&[&["spec"], &["metadata", "labels"]]),
            "certificatesigningrequests" => ResetFields::Exclude(&[&["spec"], &["status", "conditions"]]),
            "apiservices" | "validatingadmissionpolicies" => ResetFields::Exclude(&[&["spec"], &["metadata"]]),
            _ => ResetFields::Exclude(&[&["spec"]]),
        },
        "approval" => ResetFields::Exclude(&[&["spec"], &["status", "certificate"]]),
        "" if kind.plural == "certificatesigningrequests" => ResetFields::Exclude(&[&["spec"], &["status"]]),
        "finalize" => ResetFields::Exclude(&[&["status"]]),
        "" if super::find_subresource(kind, "status").is_some() => ResetFields::Exclude(&[&["status"]]),
        _ => ResetFields::None,
    }
}

/// The other versions of a kind, for ownership recorded there.
struct OtherVersions<'a> {
    cx: &'a Cx,
}

impl Versions for OtherVersions<'_> {
    fn convert<'b>(&self, object: &'b Value, api_version: &str) -> Option<(Cow<'b, Value>, Schema)> {
        let kinds = self.cx.server.kinds.all();
        let other = kinds
            .iter()
            .find(|kind| kind.storage_key == self.cx.kind.storage_key && kind.api_version() == api_version)?;
        let mut value = object.clone();
        if self.cx.custom().is_none() {
            super::conversion::builtin_to_storage(self.cx, &mut value);
            other.strategy.from_storage(&mut value);
        }
        value["apiVersion"] = api_version.into();
        Some((Cow::Owned(value), other.schema.clone()))
    }
}

fn request<'a>(
    cx: &'a Cx,
    kind: &'a Kind,
    api_version: &'a str,
    options: &'a WriteOptions,
    versions: &'a OtherVersions<'a>,
) -> Request<'a> {
    Request {
        schema: &kind.schema,
        api_version,
        kind: &kind.kind,
        subresource: &cx.info.subresource,
        manager: &options.manager,
        reset: if kind.kind == cx.kind.kind { reset_fields(kind, &cx.info.subresource) } else { ResetFields::None },
        versions,
        now: cx.now(),
    }
}

/// Tracks who owns the fields of a new object.
///
/// # Errors
/// None today; upstream's signature.
pub fn manage(cx: &Cx, old: Option<&Value>, object: &mut Value, options: &WriteOptions) -> Result<(), Status> {
    manage_as(cx, &cx.kind, old, object, options)
}

pub fn manage_as(
    cx: &Cx,
    kind: &Kind,
    old: Option<&Value>,
    object: &mut Value,
    options: &WriteOptions,
) -> Result<(), Status> {
    let api_version = kind.api_version();
    let versions = OtherVersions { cx };
    managedfields::update(&request(cx, kind, &api_version, options, &versions), old, object);
    decode::normalize(object, &kind.schema);
    Ok(())
}

/// Applies a configuration, decoded and with defaults.
///
/// # Errors
/// 400, 409 with the conflicts, 500.
pub fn apply(cx: &Cx, old: Option<&Value>, config: &Value, options: &WriteOptions) -> Result<Value, Status> {
    apply_as(cx, &cx.kind, old, config, options)
}

pub fn apply_as(
    cx: &Cx,
    kind: &Kind,
    old: Option<&Value>,
    config: &Value,
    options: &WriteOptions,
) -> Result<Value, Status> {
    let api_version = kind.api_version();
    let versions = OtherVersions { cx };
    let request = request(cx, kind, &api_version, options, &versions);
    let object = managedfields::apply(&request, old, config, options.force).map_err(|error| match error {
        ApplyError::BadRequest(text) => Status::bad_request(text),
        ApplyError::Internal(text) => Status::unknown(text),
        ApplyError::Conflict(conflicts) => Status::apply_conflict(
            conflicts.message,
            conflicts
                .causes
                .into_iter()
                .map(|cause| Cause {
                    reason: "FieldManagerConflict".into(),
                    message: cause.message,
                    field: cause.field,
                })
                .collect(),
        ),
    })?;
    let mut object = decode_patched(cx, kind, object, Shown::Sorted, FieldValidation::Ignore, Vec::new())?;
    decode::normalize(&mut object, &kind.schema);
    Ok(object)
}
