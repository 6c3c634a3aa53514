//! Eviction: the body of `pods/eviction`. Whether a pod may go now is the server's decision.

use crate::kind::{Kind, Scope, Strategy};

pub struct Eviction;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.policy.v1.Eviction";
    Kind::builtin("policy/v1", "Eviction", "evictions", Scope::Namespaced, DEFINITION, Eviction).with_verbs(&["create"])
}

impl Strategy for Eviction {}
