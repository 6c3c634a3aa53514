//! Helpers of this crate's tests.

use apimachinery::validation::ErrorList;

use crate::kind::RequestContext;

/// A request on a subresource ("" for the object itself) at a fixed time.
pub(crate) fn cx(subresource: &str) -> RequestContext {
    let now = "2026-01-02T03:04:05Z".parse().expect("a constant time");
    RequestContext { now, user: "admin".to_owned(), subresource: subresource.to_owned(), identity: None }
}

/// The errors as upstream words them.
pub(crate) fn messages(errors: &ErrorList) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}
