//! TokenReview: whose token this is. The server answers.

use crate::kind::{Kind, Scope, Strategy};

pub struct TokenReview;

/// Upstream's 400 for a review without a token.
pub const TOKEN_REQUIRED: &str = "token is required for TokenReview in authentication";

pub fn kind() -> Kind {
    const DEFINITION: &str = "io.k8s.api.authentication.v1.TokenReview";
    Kind::builtin("authentication.k8s.io/v1", "TokenReview", "tokenreviews", Scope::Cluster, DEFINITION, TokenReview)
        .with_verbs(&["create"])
}

impl Strategy for TokenReview {}
