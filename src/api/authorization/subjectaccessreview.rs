//! SubjectAccessReview: may someone do something?

use apimachinery::validation::ErrorList;
use serde_json::Value;

use super::access::{check_attributes, check_metadata, check_subject};
use crate::kind::{Kind, RequestContext, Scope, Strategy};

pub struct SubjectAccessReview;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.authorization.v1.SubjectAccessReview";
    let version = "authorization.k8s.io/v1";
    Kind::builtin(
        version,
        "SubjectAccessReview",
        "subjectaccessreviews",
        Scope::Cluster,
        DEFINITION,
        SubjectAccessReview,
    )
    .with_verbs(&["create"])
}

impl Strategy for SubjectAccessReview {
    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_attributes(&mut errors, object);
        check_subject(&mut errors, object);
        check_metadata(&mut errors, object, false);
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::create_errors;
    use serde_json::json;

    #[test]
    fn needs_one_question_about_one_subject() {
        assert_eq!(
            create_errors(&SubjectAccessReview, json!({"metadata": {"name": "x"}, "spec": {}})),
            [
                "spec.resourceAttributes: Invalid value: \"null\": exactly one of nonResourceAttributes or resourceAttributes must be specified",
                "spec.user: Invalid value: \"\": at least one of user or group must be specified",
                "metadata: Invalid value: {\"name\":\"x\"}: must be empty",
            ]
        );
        assert_eq!(
            create_errors(
                &SubjectAccessReview,
                json!({"spec": {"groups": ["g"], "nonResourceAttributes": {"path": "/"}, "resourceAttributes": {"fieldSelector": {}}}})
            ),
            [
                "spec.nonResourceAttributes: Invalid value: {\"Path\":\"/\",\"Verb\":\"\"}: cannot be specified in combination with resourceAttributes",
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required",
            ]
        );
    }
}
