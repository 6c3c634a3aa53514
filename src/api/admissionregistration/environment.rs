//! What the expressions of webhooks and policies may name: the environment that they are checked in, and run in.
//!
//! Invariants:
//! - EV-1: what is checked here runs in the same environment at admission.

use std::sync::Arc;

use cel::{AUTHORIZER, Env, RESOURCE_CHECK, Type};

/// Variables that only some expressions have.
#[derive(Debug, Clone, Copy, Default)]
pub struct Declared {
    /// `params`: the policy has a kind of parameters.
    pub params: bool,
    /// `authorizer` and `authorizer.requestResource`.
    pub authorizer: bool,
    /// The expression makes a change: `Object{…}`, `JSONPatch{…}`.
    pub changes: bool,
}

/// The environment of an expression; `variables` are a policy's, with their types, where it has any.
pub fn environment(declared: Declared, variables: Option<&[(String, Type)]>) -> Env {
    let mut env = Env::kubernetes()
        .with_variable("object", Type::Dyn)
        .with_variable("oldObject", Type::Dyn)
        .with_variable("request", request())
        .with_variable("namespaceObject", namespace());
    if declared.params {
        env = env.with_variable("params", Type::Dyn);
    }
    if declared.authorizer {
        env = env
            .with_variable("authorizer", Type::Opaque(AUTHORIZER))
            .with_variable("authorizer.requestResource", Type::Opaque(RESOURCE_CHECK));
    }
    if declared.changes {
        env = env.with_mutation();
    }
    if let Some(variables) = variables {
        env = env.with_variable("variables", Type::object("kubernetes.variables", variables.iter().cloned()));
    }
    env
}

fn texts() -> Type {
    Type::list(Type::String)
}

fn text_map() -> Type {
    Type::map(Type::String, Type::String)
}

fn request() -> Type {
    let three = |name: &str, last: &str| {
        Type::object(name, [("group", Type::String), ("version", Type::String), (last, Type::String)])
    };
    let kind = three("kubernetes.GroupVersionKind", "kind");
    let resource = three("kubernetes.GroupVersionResource", "resource");
    let user = Type::object(
        "kubernetes.UserInfo",
        [
            ("username", Type::String),
            ("uid", Type::String),
            ("groups", texts()),
            ("extra", Type::Map(Arc::new(Type::String), Arc::new(texts()))),
        ],
    );
    Type::object(
        "kubernetes.AdmissionRequest",
        [
            ("kind", kind.clone()),
            ("resource", resource.clone()),
            ("subResource", Type::String),
            ("requestKind", kind),
            ("requestResource", resource),
            ("requestSubResource", Type::String),
            ("name", Type::String),
            ("namespace", Type::String),
            ("operation", Type::String),
            ("userInfo", user),
            ("dryRun", Type::Bool),
            ("options", Type::Dyn),
        ],
    )
}

fn namespace() -> Type {
    let metadata = Type::object(
        "kubernetes.NamespaceMetadata",
        [
            ("name", Type::String),
            ("generateName", Type::String),
            ("namespace", Type::String),
            ("labels", text_map()),
            ("annotations", text_map()),
            ("UID", Type::String),
            ("creationTimestamp", Type::Timestamp),
            ("deletionGracePeriodSeconds", Type::Int),
            ("deletionTimestamp", Type::Timestamp),
            ("generation", Type::Int),
            ("resourceVersion", Type::String),
            ("finalizers", texts()),
        ],
    );
    let spec = Type::object("kubernetes.NamespaceSpec", [("finalizers", texts())]);
    let status = Type::object("kubernetes.NamespaceStatus", [("phase", Type::String)]);
    Type::object("kubernetes.Namespace", [("metadata", metadata), ("spec", spec), ("status", status)])
}
