//! Priority: a pod's priority comes from its class and from nowhere else.

use std::sync::Arc;

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin, text};
use crate::cache::Object;

const CLASSES: &str = "priorityclasses";
const DEFAULT_POLICY: &str = "PreemptLowerPriority";
/// The classes that are there even before their objects are.
const SYSTEM: &[(&str, i64)] = &[("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

pub struct Priority;

struct Class {
    name: String,
    value: i64,
    policy: String,
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let of_class = request.is("scheduling.k8s.io", CLASSES) && request.subresource.is_empty();
        if of_class && matches!(request.operation, Operation::Create | Operation::Update) {
            return only_default(request, object).await;
        }
        Ok(())
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        if !request.writes_pod() || !object["spec"].is_object() {
            return Ok(());
        }
        if request.operation == Operation::Update {
            // An update that leaves these out keeps them.
            for key in ["priority", "preemptionPolicy"] {
                if let (true, Some(old)) = (object["spec"][key].is_null(), request.old_object) {
                    if !old["spec"][key].is_null() {
                        object["spec"][key] = old["spec"][key].clone();
                    }
                }
            }
            return Ok(());
        }
        let class = class_of(request, text(&object["spec"], "priorityClassName")).await?;
        let spec = &mut object["spec"];
        if let Some(given) = spec["priority"].as_i64().filter(|given| *given != class.value) {
            return Err(request.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.value
            )));
        }
        if let Some(given) = spec["preemptionPolicy"].as_str().filter(|given| *given != class.policy) {
            return Err(request.forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                class.policy
            )));
        }
        if !class.name.is_empty() {
            spec["priorityClassName"] = class.name.into();
        }
        spec["priority"] = class.value.into();
        spec["preemptionPolicy"] = class.policy.into();
        Ok(())
    }
}

/// There is one default class at most.
async fn only_default(request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
    if object["globalDefault"] != Value::Bool(true) {
        return Ok(());
    }
    let all = request.reader.list(CLASSES, None).await;
    let other = all.iter().find(|class| {
        let itself = request.operation == Operation::Update && class.meta.name == text(&object["metadata"], "name");
        !itself && class.value()["globalDefault"] == Value::Bool(true)
    });
    match other {
        Some(class) => Err(request.forbidden(format!(
            "PriorityClass {} is already marked as default. Only one default can exist",
            class.meta.name
        ))),
        None => Ok(()),
    }
}

async fn class_of(request: &AdmissionRequest<'_>, name: &str) -> Result<Class, Status> {
    if name.is_empty() {
        let mut found: Vec<Class> = request
            .reader
            .peek_all(CLASSES, None)
            .iter()
            .filter(|object| object.value()["globalDefault"] == Value::Bool(true))
            .map(decode)
            .collect();
        found.sort_by_key(|class| class.value);
        let none = Class { name: String::new(), value: 0, policy: DEFAULT_POLICY.to_owned() };
        return Ok(found.into_iter().next().unwrap_or(none));
    }
    let found = match request.reader.peek(CLASSES, "", name) {
        Some(found) => Some(found),
        None => request.reader.get(CLASSES, "", name).await,
    };
    if let Some(object) = found {
        return Ok(decode(&object));
    }
    match SYSTEM.iter().find(|(known, _)| *known == name) {
        Some((name, value)) => Ok(Class { name: (*name).to_owned(), value: *value, policy: DEFAULT_POLICY.to_owned() }),
        None => Err(request.forbidden(format!("no PriorityClass with name {name} was found"))),
    }
}

fn decode(object: &Arc<Object>) -> Class {
    let value = object.value();
    let policy = value["preemptionPolicy"].as_str().unwrap_or(DEFAULT_POLICY).to_owned();
    Class { name: object.meta.name.clone(), value: value["value"].as_i64().unwrap_or(0), policy }
}
