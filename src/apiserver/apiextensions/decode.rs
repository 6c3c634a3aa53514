//! Request bodies as custom resources.

use apimachinery::decode::{self, Decoded, Encoding, FieldValidation};
use apimachinery::goformat::quote;
use apimachinery::status::Status;
use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use super::objects;
use super::strategy::CustomResource;

/// A body with defaults, pruned; and what strict field validation has to say, as the caller's option wants it.
///
/// # Errors
/// 400 for what cannot be read, is of another version, or is refused by strict validation.
pub fn body(
    custom: &CustomResource,
    bytes: &[u8],
    encoding: Encoding,
    validation: FieldValidation,
    warn: &dyn Fn(String),
) -> Result<Value, Status> {
    let kind = &custom.definition.kind;
    let expected = format!("{}/{}", custom.definition.group, custom.version.name);
    let shape = |value: &mut Value| shape(custom, value);
    let (gvk, decoded) =
        decode::decode_custom_body(bytes, encoding, &shape).map_err(|error| error.status(kind, bytes))?;
    settle(&decoded, validation, warn).map_err(|error| {
        let version = quote(&gvk.version);
        Status::bad_request(format!("{} in version {version} cannot be handled as a {kind}: {error}", gvk.kind))
    })?;
    if gvk.api_version() != expected {
        return Err(Status::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version ({expected})",
            gvk.api_version(),
        )));
    }
    Ok(decoded.value)
}

fn settle(decoded: &Decoded, validation: FieldValidation, warn: &dyn Fn(String)) -> Result<(), String> {
    decoded.warnings(validation)?.iter().for_each(|text| warn(text.clone()));
    Ok(())
}

/// Defaults first, so that a null with a default is no null. An object of another kind is left alone: validation
/// refuses it.
fn shape(custom: &CustomResource, value: &mut Value) -> Result<Vec<String>, String> {
    if value["kind"] != custom.definition.kind.as_str() {
        return Ok(Vec::new());
    }
    objects::default(value, &custom.version.schema);
    objects::coerce(value, &custom.version.schema)
}

/// The result of a JSON or merge patch. `strict` is what is wrong with the patch document itself.
///
/// # Errors
/// 422 showing the patched object.
pub fn patched(
    custom: &CustomResource,
    object: Value,
    validation: FieldValidation,
    strict: Vec<String>,
    warn: &dyn Fn(String),
) -> Result<Value, Status> {
    let shown = apimachinery::goformat::json(&object);
    let refuse = |error: &str| {
        let mut errors = ErrorList::new();
        errors.invalid(Path::new("patch"), shown.as_str(), error);
        Status::invalid(&apimachinery::gvk::GroupKind::new("", ""), "", &errors)
    };
    let shape = |value: &mut Value| shape(custom, value);
    let mut decoded = decode::decode_custom_value(object, &shape).map_err(|error| refuse(&error))?;
    decoded.strict_errors.splice(0..0, strict);
    settle(&decoded, validation, warn).map_err(|error| refuse(&error))?;
    Ok(decoded.value)
}

/// The result of a server-side apply, or of admission: defaults, and nulls that lists and maps left behind go.
pub fn complete(custom: &CustomResource, object: &mut Value) {
    objects::default(object, &custom.version.schema);
    objects::drop_nulls(object, &custom.version.schema);
}
