//! A policy, compiled.

use api::admissionregistration::{Declared, environment};
use serde_json::Value;

use super::super::expression::{Compiled, Condition, Variables, conditions};
use super::super::matching::Criteria;
use super::super::{list, text};

/// `paramKind`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamKind {
    pub api_version: String,
    pub kind: String,
}

pub struct Validation {
    pub expression: Compiled,
    pub message_expression: Option<Compiled>,
    pub message: String,
    pub reason: String,
}

/// A value for the audit log.
pub struct Annotation {
    pub key: String,
    pub value: Compiled,
}

pub enum Mutation {
    /// `Object{…}`, merged in.
    Configuration(Compiled),
    /// A list of `JSONPatch{…}`.
    Patch(Compiled),
}

pub struct Policy {
    pub name: String,
    /// What cannot be decided is passed over.
    pub ignore: bool,
    pub criteria: Criteria,
    pub param_kind: Option<ParamKind>,
    pub conditions: Vec<Condition>,
    pub variables: Vec<(String, Compiled)>,
    pub validations: Vec<Validation>,
    pub annotations: Vec<Annotation>,
    pub mutations: Vec<Mutation>,
    /// `reinvocationPolicy: IfNeeded`
    pub again: bool,
}

impl Policy {
    pub fn compile(object: &Value) -> Self {
        let spec = &object["spec"];
        let param_kind = spec["paramKind"].is_object().then(|| ParamKind {
            api_version: text(&spec["paramKind"], "apiVersion").to_owned(),
            kind: text(&spec["paramKind"], "kind").to_owned(),
        });
        let declared = Declared { params: param_kind.is_some(), authorizer: true, changes: false };
        let Variables { compiled, types } = Variables::compile(spec, declared);
        let compile = |declared: Declared, source: &str| Compiled::new(&environment(declared, Some(&types)), source);
        let validations = list(spec, "validations").iter().map(|validation| Validation {
            expression: compile(declared, text(validation, "expression")),
            message_expression: Some(text(validation, "messageExpression"))
                .filter(|source| !source.is_empty())
                .map(|source| compile(Declared { authorizer: false, ..declared }, source)),
            message: text(validation, "message").trim().to_owned(),
            reason: Some(text(validation, "reason"))
                .filter(|reason| !reason.is_empty())
                .unwrap_or("Invalid")
                .to_owned(),
        });
        let annotations = list(spec, "auditAnnotations").iter().map(|annotation| Annotation {
            key: text(annotation, "key").to_owned(),
            value: compile(declared, text(annotation, "valueExpression").trim()),
        });
        let changing = Declared { changes: true, ..declared };
        let mutations = list(spec, "mutations").iter().map(|mutation| match text(mutation, "patchType") {
            "JSONPatch" => Mutation::Patch(compile(changing, text(&mutation["jsonPatch"], "expression").trim())),
            _ => {
                let source = text(&mutation["applyConfiguration"], "expression").trim();
                Mutation::Configuration(compile(changing, source))
            }
        });
        Self {
            name: text(&object["metadata"], "name").to_owned(),
            ignore: text(spec, "failurePolicy") == "Ignore",
            criteria: Criteria::of_resources(&spec["matchConstraints"]),
            conditions: conditions(spec, param_kind.is_some()),
            validations: validations.collect(),
            annotations: annotations.collect(),
            mutations: mutations.collect(),
            again: text(spec, "reinvocationPolicy") == "IfNeeded",
            variables: compiled,
            param_kind,
        }
    }
}
