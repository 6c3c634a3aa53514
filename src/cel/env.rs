//! The environment that expressions compile in: Kubernetes' libraries, and the variables that the caller declares.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{ObjectType, Type};

/// What an expression may use. Cheap to clone and to extend.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: BTreeMap<Arc<str>, Type>,
    /// `Object{…}`, `Object.spec{…}` and `JSONPatch{…}` may be constructed.
    mutation: bool,
}

impl Env {
    /// The libraries and options that Kubernetes v1.36 enables, and no variables.
    pub fn kubernetes() -> Env {
        Env::default()
    }

    /// Declares a variable; dots in the name are allowed (`authorizer.requestResource`).
    #[must_use]
    pub fn with_variable(mut self, name: &str, ty: Type) -> Env {
        self.variables.insert(Arc::from(name), ty);
        self
    }

    /// Allows the constructors of MutatingAdmissionPolicy: `Object{…}` and its parts, `JSONPatch{…}`, and
    /// `jsonpatch.escapeKey`.
    #[must_use]
    pub fn with_mutation(mut self) -> Env {
        self.mutation = true;
        self
    }

    pub fn variable(&self, name: &str) -> Option<&Type> {
        self.variables.get(name)
    }

    pub(crate) fn mutation(&self) -> bool {
        self.mutation
    }

    /// The object type that a constructor's name means.
    pub(crate) fn message(&self, name: &str) -> Option<Type> {
        if !self.mutation {
            return None;
        }
        match name {
            "JSONPatch" => Some(json_patch()),
            _ if name == "Object" || name.starts_with("Object.") => {
                Some(Type::Object(Arc::new(ObjectType { name: name.to_owned(), fields: BTreeMap::new(), open: true })))
            }
            _ => None,
        }
    }
}

/// The type of `JSONPatch{op, path, from, value}`.
pub fn json_patch() -> Type {
    Type::object(
        "JSONPatch",
        [("op", Type::String), ("path", Type::String), ("from", Type::String), ("value", Type::Dyn)],
    )
}
