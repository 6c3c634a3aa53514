//! RuntimeClass: a pod takes over what its runtime class costs and where it may run.

use apimachinery::quantity::Quantity;
use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::{AdmissionRequest, Operation, Plugin, list, list_mut, text};

pub struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if request.operation != Operation::Create || !request.writes_pod() || !object["spec"].is_object() {
            return Ok(());
        }
        let name = text(&object["spec"], "runtimeClassName").to_owned();
        if name.is_empty() {
            if !object["spec"]["overhead"].is_null() {
                return Err(request
                    .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"));
            }
            return Ok(());
        }
        let found = match request.reader.peek("runtimeclasses", "", &name) {
            Some(found) => Some(found),
            None => request.reader.get("runtimeclasses", "", &name).await,
        };
        let Some(class) = found else {
            return Err(request.forbidden(format!("pod rejected: RuntimeClass \"{name}\" not found")));
        };
        let class = class.value();
        overhead(request, object, &class["overhead"]["podFixed"])?;
        scheduling(request, object, &class["scheduling"])
    }
}

fn overhead(request: &AdmissionRequest<'_>, object: &mut Value, fixed: &Value) -> Result<(), Status> {
    let given = &object["spec"]["overhead"];
    if fixed.is_null() {
        if !given.is_null() {
            return Err(
                request.forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
            );
        }
        return Ok(());
    }
    if !given.is_null() && !same_amounts(given, fixed) {
        return Err(request.forbidden("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"));
    }
    object["spec"]["overhead"] = fixed.clone();
    Ok(())
}

/// `1Gi` is `1024Mi`.
fn same_amounts(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let same = |one: &Value, other: &Value| match (Quantity::from_json(one), Quantity::from_json(other)) {
        (Ok(one), Ok(other)) => one.cmp(&other).is_eq(),
        _ => one == other,
    };
    a.len() == b.len() && a.iter().all(|(name, one)| b.get(name).is_some_and(|other| same(one, other)))
}

fn scheduling(request: &AdmissionRequest<'_>, object: &mut Value, scheduling: &Value) -> Result<(), Status> {
    let spec = &mut object["spec"];
    if let Some(wanted) = scheduling["nodeSelector"].as_object().filter(|m| !m.is_empty()) {
        let mut merged = spec.get("nodeSelector").and_then(Value::as_object).cloned().unwrap_or_else(Map::new);
        for (key, value) in wanted {
            let (asked, given) = (value.as_str().unwrap_or_default(), merged.get(key).and_then(Value::as_str));
            if let Some(given) = given.filter(|given| *given != asked) {
                return Err(request.forbidden(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {asked}; pod.spec.nodeSelector[{key}] = {given}"
                )));
            }
            merged.insert(key.clone(), value.clone());
        }
        spec["nodeSelector"] = json!(merged);
    }
    let tolerations = list(scheduling, "tolerations");
    if !tolerations.is_empty() {
        let kept = list_mut(spec, "tolerations");
        for toleration in tolerations {
            if !kept.contains(toleration) {
                kept.push(toleration.clone());
            }
        }
    }
    Ok(())
}
