//! TokenRequest: the body of `serviceaccounts/token`.

use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

use crate::access::{ensure_map, int, set_missing};
use crate::checks::spec;
use crate::kind::{Kind, RequestContext, Scope, Strategy};

pub struct TokenRequest;

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.authentication.v1.TokenRequest";
    Kind::builtin(
        "authentication.k8s.io/v1",
        "TokenRequest",
        "tokenrequests",
        Scope::Namespaced,
        DEFINITION,
        TokenRequest,
    )
    .with_verbs(&["create"])
}

impl Strategy for TokenRequest {
    fn default(&self, object: &mut Value) {
        ensure_map(object, "spec");
        if let Some(spec) = object.get_mut("spec") {
            set_missing(spec, "expirationSeconds", 3600);
        }
    }

    fn validate(&self, _cx: &RequestContext, object: &Value) -> ErrorList {
        const MIN_SECONDS: i64 = 600;
        const MAX_SECONDS: i64 = 1 << 32;
        let mut errors = ErrorList::new();
        let seconds = int(spec(object), "expirationSeconds");
        let path = Path::new("spec").child("expirationSeconds");
        if seconds < MIN_SECONDS {
            errors.invalid(path.clone(), seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > MAX_SECONDS {
            errors.invalid(path, seconds, "may not specify a duration larger than 2^32 seconds");
        }
        errors
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checks::testing::create_errors;
    use serde_json::json;

    #[test]
    fn lasts_between_ten_minutes_and_a_century() {
        for (seconds, want) in [
            (json!(null), None),
            (json!(600), None),
            (json!(599), Some("599: may not specify a duration less than 10 minutes")),
            (json!(4294967297_i64), Some("4294967297: may not specify a duration larger than 2^32 seconds")),
        ] {
            let got = create_errors(&TokenRequest, json!({"spec": {"expirationSeconds": seconds}}));
            let want: Vec<_> =
                want.map(|w| format!("spec.expirationSeconds: Invalid value: {w}")).into_iter().collect();
            assert_eq!(got, want);
        }
    }
}
