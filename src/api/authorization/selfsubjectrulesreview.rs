//! SelfSubjectRulesReview: all the client may do in a namespace (`kubectl auth can-i --list`).

use crate::kind::{Kind, Scope, Strategy};

pub struct SelfSubjectRulesReview;

/// Upstream's 400 for a review without `spec.namespace`.
pub const NO_NAMESPACE: &str = "no namespace on request";

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.authorization.v1.SelfSubjectRulesReview";
    Kind::builtin(
        "authorization.k8s.io/v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        Scope::Cluster,
        DEFINITION,
        SelfSubjectRulesReview,
    )
    .with_verbs(&["create"])
}

impl Strategy for SelfSubjectRulesReview {}
