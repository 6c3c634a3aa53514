//! The scale of a custom resource: numbers at paths that its definition names.

use apimachinery::goformat;
use apimachinery::status::Status;
use apimachinery::validation::{ErrorList, Path};
use serde_json::{Map, Value, json};

use super::definition::{Definition, ScalePaths};

/// What a scale shows where the object has no replicas.
const UNSET: i64 = i32::MIN as i64;

/// `.spec.replicas` as the names of its fields.
pub fn fields(path: &str) -> Vec<&str> {
    path.strip_prefix('.').unwrap_or(path).split('.').collect()
}

/// Where each version of the definition keeps its replicas; empty where it has no scale.
pub fn replicas_paths(definition: &Definition) -> Vec<(String, Vec<String>)> {
    let paths = definition.versions.iter().map(|version| {
        let path = version.scale.as_ref().map(|scale| fields(&scale.spec).iter().map(|f| (*f).to_owned()).collect());
        (format!("{}/{}", definition.group, version.name), path.unwrap_or_default())
    });
    paths.collect()
}

/// Go's name of a decoded JSON value's type.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn go_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<nil>".to_owned(),
        Value::Array(items) => format!("[{}]", items.iter().map(go_value).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let members: Vec<String> = map.iter().map(|(key, value)| format!("{key}:{}", go_value(value))).collect();
            format!("map[{}]", members.join(" "))
        }
        other => goformat::json(other),
    }
}

/// The value at a path, in upstream's words if something on the way is no object.
fn nested<'a>(object: &'a Value, path: &[&str], expected: &str) -> Result<Option<&'a Value>, String> {
    let mut value = object;
    let wrong = |at: usize, value: &Value, expected: &str| {
        let path = path[..at].iter().map(|name| format!(".{name}")).collect::<String>();
        Err(format!(
            "{path} accessor error: {} is of the type {}, expected {expected}",
            go_value(value),
            go_type(value)
        ))
    };
    for (at, name) in path.iter().enumerate() {
        match value {
            Value::Object(map) => match map.get(*name) {
                Some(inner) => value = inner,
                None => return Ok(None),
            },
            Value::Null => return Ok(None),
            other => return wrong(at, other, "map[string]interface{}"),
        }
    }
    let fits = match expected {
        "int64" => value.is_i64(),
        _ => value.is_string(),
    };
    if fits { Ok(Some(value)) } else { wrong(path.len(), value, expected) }
}

fn check_number(object: &Value, path: &str, errors: &mut ErrorList) {
    let at = Path::new(path);
    match nested(object, &fields(path), "int64") {
        Err(error) => errors.invalid(at, 0, &error),
        Ok(found) => {
            let n = found.and_then(Value::as_i64).unwrap_or(0);
            if n < 0 {
                errors.invalid(at, n, "should be a non-negative integer");
            } else if n > i64::from(i32::MAX) {
                errors.invalid(at, n, &format!("should be less than or equal to {}", i32::MAX));
            }
        }
    }
}

/// The numbers of both sides.
pub fn check(object: &Value, paths: Option<&ScalePaths>, errors: &mut ErrorList) {
    if let Some(paths) = paths {
        check_number(object, &paths.spec, errors);
    }
    check_status(object, paths, errors);
}

/// The numbers and the selector of the status.
pub fn check_status(object: &Value, paths: Option<&ScalePaths>, errors: &mut ErrorList) {
    let Some(paths) = paths else { return };
    check_number(object, &paths.status, errors);
    if let Some(selector) = &paths.selector {
        if let Err(error) = nested(object, &fields(selector), "string") {
            errors.invalid(Path::new(selector), "", &error);
        }
    }
}

/// A scale of an object, without managed fields. `writing`: an object without replicas has a scale that says so.
///
/// # Errors
/// 500 for what has no replicas, or others than numbers.
pub fn of_object(object: &Value, paths: &ScalePaths, writing: bool) -> Result<Value, Status> {
    let number = |path: &str| nested(object, &fields(path), "int64").map_err(Status::unknown);
    let spec = number(&paths.spec)?.and_then(Value::as_i64);
    let status = number(&paths.status)?.and_then(Value::as_i64).unwrap_or(0);
    let selector = match &paths.selector {
        Some(path) => nested(object, &fields(path), "string").map_err(Status::unknown)?.and_then(Value::as_str),
        None => None,
    };
    let replicas = match spec {
        Some(replicas) => replicas,
        None if writing => UNSET,
        None => {
            let path = goformat::quote(&paths.spec);
            return Err(Status::internal(format!("the spec replicas field {path} does not exist")));
        }
    };
    let mut metadata = Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object["metadata"].get(field) {
            metadata.insert(field.into(), value.clone());
        }
    }
    let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": {},
        "status": {"replicas": status}});
    if replicas != 0 {
        scale["spec"]["replicas"] = json!(replicas);
    }
    if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
        scale["status"]["selector"] = json!(selector);
    }
    Ok(scale)
}

/// Writes the replicas of a scale into the object.
///
/// # Errors
/// 400 when the scale names none, 500 when the place for them is taken by something else.
pub fn into_object(object: &mut Value, paths: &ScalePaths, scale: &Value) -> Result<(), Status> {
    let replicas = scale["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas == UNSET {
        let path = goformat::quote(&paths.spec);
        return Err(Status::bad_request(format!("the spec replicas field {path} cannot be empty")));
    }
    let path = fields(&paths.spec);
    let mut at = &mut *object;
    for (depth, name) in path[..path.len().saturating_sub(1)].iter().enumerate() {
        let Value::Object(map) = at else {
            let shown: String = path[..depth].iter().map(|name| format!(".{name}")).collect();
            let text = format!("value cannot be set because {shown} is not a map[string]interface{{}}");
            return Err(Status::unknown(text));
        };
        at = map.entry((*name).to_owned()).or_insert_with(|| json!({}));
    }
    match (at, path.last()) {
        (Value::Object(map), Some(name)) => {
            map.insert((*name).to_owned(), json!(replicas));
            Ok(())
        }
        _ => {
            let text = format!("value cannot be set because {} is not a map[string]interface{{}}", paths.spec);
            Err(Status::unknown(text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> ScalePaths {
        ScalePaths {
            spec: ".spec.replicas".into(),
            status: ".status.replicas".into(),
            selector: Some(".status.selector".into()),
        }
    }

    #[test]
    fn reads_and_writes() {
        let mut object = json!({"metadata": {"name": "x"}, "spec": {"replicas": 2},
            "status": {"replicas": 1, "selector": "a=b"}});
        let scale = of_object(&object, &paths(), false).expect("scale");
        assert_eq!(scale["spec"], json!({"replicas": 2}));
        assert_eq!(scale["status"], json!({"replicas": 1, "selector": "a=b"}));
        into_object(&mut object, &paths(), &json!({"spec": {"replicas": 5}})).expect("written");
        assert_eq!(object["spec"]["replicas"], 5);
        let none = of_object(&json!({}), &paths(), false).expect_err("no replicas");
        assert_eq!(none.code, 500);
        let writing = of_object(&json!({}), &paths(), true).expect("scale");
        assert_eq!(into_object(&mut object, &paths(), &writing).expect_err("empty").code, 400);
    }

    #[test]
    fn numbers_are_checked() {
        let mut errors = ErrorList::new();
        check(&json!({"spec": {"replicas": -1}, "status": {"replicas": "x"}}), Some(&paths()), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                ".spec.replicas: Invalid value: -1: should be a non-negative integer",
                ".status.replicas: Invalid value: 0: .status.replicas accessor error: x is of the type string, \
                 expected int64"
            ]
        );
    }
}
