//! SelfSubjectAccessReview: may the client itself do something? (`kubectl auth can-i`)

use apimachinery::validation::ErrorList;
use serde_json::Value;

use super::access::{check_attributes, check_metadata};
use crate::kind::{Kind, RequestContext, Scope, Strategy};

pub struct SelfSubjectAccessReview;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.authorization.v1.SelfSubjectAccessReview";
    Kind::builtin(
        "authorization.k8s.io/v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        Scope::Cluster,
        DEFINITION,
        SelfSubjectAccessReview,
    )
    .with_verbs(&["create"])
}

impl Strategy for SelfSubjectAccessReview {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_attributes(&mut errors, object);
        check_metadata(&mut errors, object, false);
        errors
    }
}
