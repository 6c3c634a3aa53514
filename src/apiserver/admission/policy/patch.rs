//! What a mutation makes of an object.
//!
//! Invariants:
//! - PA-1: what comes out is an object of the same kind, with defaults.
//! - PA-2: a JSON patch of which a `test` fails changes nothing.

use api::Kind;
use apimachinery::decode::{self, FieldValidation};
use apimachinery::managedfields;
use apimachinery::patch::{JsonPatch, Validation};
use cel::RUNTIME_CEL_COST_BUDGET;
use serde_json::{Map, Value, json};

use super::super::expression::{Inputs, OUT_OF_BUDGET, OutOfBudget, Run};
use super::compile::Mutation;
use crate::registry::{self, body_kind};

/// The object after a mutation. Err: upstream's text.
pub fn apply(kind: &Kind, mutation: &Mutation, inputs: &Inputs<'_>) -> Result<Value, String> {
    let mut run = Run::new(inputs, RUNTIME_CEL_COST_BUDGET);
    let (Mutation::Configuration(expression) | Mutation::Patch(expression)) = mutation;
    let value = run.eval(expression).map_err(|OutOfBudget| OUT_OF_BUDGET.to_owned())??;
    let patched = match mutation {
        Mutation::Configuration(_) => configuration(kind, inputs.object, &value)?,
        Mutation::Patch(_) => {
            let operations = operations(&value)?;
            let mut patched = inputs.object.clone();
            match json_patch(&operations, &mut patched)? {
                true => patched,
                false => return Ok(inputs.object.clone()),
            }
        }
    };
    typed(kind, patched).map_err(|error| format!("failed to decode patched object: {error}"))
}

/// Whether the patch applied. Err: upstream's text.
pub fn json_patch(operations: &Value, object: &mut Value) -> Result<bool, String> {
    let text = operations.to_string();
    let patch = JsonPatch::parse(text.as_bytes(), Validation::Ignore).map_err(|error| error.to_string())?;
    match patch.apply(object) {
        Ok(()) => Ok(true),
        Err(error) if error.to_string().ends_with("test failed") => Ok(false),
        Err(error) => Err(format!("JSON Patch: {error}")),
    }
}

/// A list of `JSONPatch{…}` as a JSON patch.
fn operations(value: &cel::Value<'_>) -> Result<Value, String> {
    const FORM: &str = "type mismatch: JSONPatchType.expression should evaluate to array";
    let cel::Value::List(list) = value else { return Err(FORM.to_owned()) };
    let mut out = Vec::with_capacity(list.len());
    for item in list.iter() {
        let cel::Value::Map(item) = item.map_err(|error| error.to_string())? else {
            return Err(format!("{FORM} of JSONPatch"));
        };
        let mut operation = Map::new();
        for key in ["op", "path", "from"] {
            let text = item.field(key).transpose().map_err(|error| error.to_string())?;
            let text = text.as_ref().and_then(|text| text.as_str()).unwrap_or_default();
            if key != "from" || !text.is_empty() {
                operation.insert(key.to_owned(), json!(text));
            }
        }
        if let Some(value) = item.field("value") {
            let value = value.and_then(|value| value.to_json()).map_err(|error| {
                format!("JSONPath valueExpression evaluated to a type that could not marshal to JSON: {error}")
            })?;
            operation.insert("value".to_owned(), value);
        }
        out.push(Value::Object(operation));
    }
    Ok(Value::Array(out))
}

fn configuration(kind: &Kind, object: &Value, value: &cel::Value<'_>) -> Result<Value, String> {
    let cel::Value::Map(_) = value else {
        return Err(format!("expected object type from ApplyConfiguration expression, got {}", value.type_name()));
    };
    let mut applied = value.to_json().map_err(|error| error.to_string())?;
    applied["apiVersion"] = object["apiVersion"].clone();
    applied["kind"] = object["kind"].clone();
    let body = body_of(kind, object);
    let schema = body.as_deref().map_or(&kind.schema, |body| &body.schema);
    managedfields::merge_configuration(schema, object, &applied)
        .map_err(|error| format!("error applying patch: {error}"))
}

/// The kind of an object that is the body of a subresource.
fn body_of(kind: &Kind, object: &Value) -> Option<std::sync::Arc<Kind>> {
    let (api_version, name) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    if name == kind.kind {
        return None;
    }
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    body_kind(group, version, name).ok()
}

/// PA-1. Err: what is wrong with its form.
pub fn typed(kind: &Kind, object: Value) -> Result<Value, String> {
    if let Some(custom) = crate::apiextensions::of(kind).filter(|_| object["kind"] == kind.kind.as_ref()) {
        let quiet = |_: String| {};
        let decoded =
            crate::apiextensions::decode::patched(custom, object, FieldValidation::Ignore, Vec::new(), &quiet);
        let mut object = decoded.map_err(|status| status.message)?;
        registry::complete(kind, &mut object);
        return Ok(object);
    }
    let body = body_of(kind, &object);
    if body.is_none() && object["kind"] != kind.kind.as_ref() {
        // Options of a connect: nothing is known of them but what was asked.
        return Ok(object);
    }
    let kind = body.as_deref().unwrap_or(kind);
    let mut object = decode::decode_value(object, &kind.schema)?.value;
    registry::complete(kind, &mut object);
    Ok(object)
}
