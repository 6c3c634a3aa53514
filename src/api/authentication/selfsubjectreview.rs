//! SelfSubjectReview: who the server thinks the client is. The server answers.

use crate::kind::{Kind, Scope, Strategy};

pub struct SelfSubjectReview;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.authentication.v1.SelfSubjectReview";
    let version = "authentication.k8s.io/v1";
    Kind::builtin(version, "SelfSubjectReview", "selfsubjectreviews", Scope::Cluster, DEFINITION, SelfSubjectReview)
        .with_verbs(&["create"])
}

impl Strategy for SelfSubjectReview {}
