//! Common metadata on writes.

use apimachinery::status::Status;
use apimachinery::validation::{ErrorList, Path, meta};
use jiff::Timestamp;
use rand::Rng as _;
use serde_json::{Map, Value, json};

use super::Cx;

/// Letters of generated names: no vowels, nothing that is mistaken for another.
const NAME_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX: usize = 5;
const LONGEST_BASE: usize = 63 - SUFFIX;

/// `metadata`, made if it is absent.
pub fn of(object: &mut Value) -> &mut Map<String, Value> {
    apimachinery::value::object_entry(object, &["metadata"])
}

pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or("")
}

/// The resourceVersion a client sent; 0 when it sent none.
///
/// # Errors
/// 500 when it is no number, as upstream.
pub fn resource_version(object: &Value) -> Result<u64, Status> {
    match text(object, "resourceVersion") {
        "" => Ok(0),
        text => crate::wire::query::parse_uint(text).map_err(Status::unknown),
    }
}

/// RFC 3339, whole seconds.
pub fn timestamp(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// What a client may not say about a new object.
pub fn wipe_system_fields(object: &mut Value) {
    let metadata = of(object);
    for field in ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        metadata.remove(field);
    }
}

/// Gives a new object its identity.
pub fn fill_system_fields(object: &mut Value, now: Timestamp) {
    let metadata = of(object);
    metadata.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
    metadata.insert("creationTimestamp".into(), json!(timestamp(now)));
}

/// A name from `generateName`: the prefix, cut so that the whole stays a label, and five random letters.
pub fn generate_name(base: &str) -> String {
    let cut = base.char_indices().map(|(at, _)| at).chain([base.len()]).take_while(|at| *at <= LONGEST_BASE).last();
    let mut name = base[..cut.unwrap_or(0)].to_owned();
    let mut rng = rand::rng();
    name.extend((0..SUFFIX).map(|_| char::from(NAME_LETTERS[rng.random_range(0..NAME_LETTERS.len())])));
    name
}

/// The object's namespace must be the request's, or absent (then it becomes the request's).
///
/// # Errors
/// 400 when they differ.
pub fn match_namespace(cx: &Cx, object: &mut Value) -> Result<(), Status> {
    let expected = if cx.kind.namespaced() { cx.info.namespace.as_str() } else { "" };
    let given = text(object, "namespace");
    if given == expected {
        if expected.is_empty() {
            of(object).remove("namespace");
        }
        return Ok(());
    }
    if !given.is_empty() && !expected.is_empty() {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let metadata = of(object);
    if expected.is_empty() {
        metadata.remove("namespace");
    } else {
        metadata.insert("namespace".into(), json!(expected));
    }
    Ok(())
}

/// Kinds whose update validation looks at the whole metadata once more upstream (it shows in the number of causes).
const VALIDATED_AGAIN: &[&str] = &[
    "configmaps",
    "secrets",
    "serviceaccounts",
    "services",
    "roles",
    "clusterroles",
    "rolebindings",
    "clusterrolebindings",
    "endpointslices",
    "apiservices",
    "certificatesigningrequests",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "validatingwebhookconfigurations",
];

pub fn validate_new(cx: &Cx, object: &Value) -> ErrorList {
    let path = Path::new("metadata");
    let strategy = cx.kind.strategy.clone();
    let names = move |name: &str, prefix: bool| strategy.validate_name(name, prefix);
    if plain_finalizers(cx) {
        return meta::validate_object_meta_generic(&object["metadata"], cx.kind.namespaced(), &names, &path);
    }
    meta::validate_object_meta(&object["metadata"], cx.kind.namespaced(), &names, &path)
}

pub fn validate_update(cx: &Cx, object: &Value, old: &Value) -> ErrorList {
    let path = Path::new("metadata");
    let (new_meta, old_meta) = (&object["metadata"], &old["metadata"]);
    let segment = |name: &str, prefix: bool| apimachinery::validation::names::path_segment(name, prefix);
    let strategy = cx.kind.strategy.clone();
    let names = move |name: &str, prefix: bool| strategy.validate_name(name, prefix);
    let mut errors = meta::validate_object_meta_generic(new_meta, cx.kind.namespaced(), &segment, &path);
    errors.extend(meta::validate_object_meta_update_generic(new_meta, old_meta, &path));
    if plain_finalizers(cx) {
        errors.extend(meta::validate_object_meta_update_generic(new_meta, old_meta, &path));
    } else {
        errors.extend(meta::validate_object_meta_update(new_meta, old_meta, &path));
    }
    if VALIDATED_AGAIN.contains(&cx.kind.plural.as_ref()) {
        errors.extend(meta::validate_object_meta(new_meta, cx.kind.namespaced(), &names, &path));
    }
    errors
}

/// Upstream checks the domains of finalizers where core's validation is used, which these do not.
fn plain_finalizers(cx: &Cx) -> bool {
    cx.custom().is_some() || cx.kind.group == "apiextensions.k8s.io"
}

/// Drops repeated owner references, with the warning upstream gives.
pub fn dedup_owners(cx: &Cx, object: &mut Value, after_admission: bool) {
    let uids = meta::duplicate_owner_uids(&object["metadata"]);
    if uids.is_empty() {
        return;
    }
    if let Some(owners) = of(object).get_mut("ownerReferences").and_then(Value::as_array_mut) {
        let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
        for owner in owners.drain(..) {
            if !kept.contains(&owner) {
                kept.push(owner);
            }
        }
        *owners = kept;
    }
    let when = if after_admission { " after mutating admission happens" } else { "" };
    cx.warn(format!(
        ".metadata.ownerReferences contains duplicate entries{when}; API server dedups owner references in 1.20+, and may reject such requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {}",
        uids.join(", ")
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        assert_eq!(generate_name("x-").len(), 7);
        let long = generate_name(&"é".repeat(60));
        assert!(long.len() <= 63 && long.starts_with("é"), "{long}");
    }

    #[test]
    fn time_has_whole_seconds() {
        assert_eq!(timestamp(Timestamp::UNIX_EPOCH), "1970-01-01T00:00:00Z");
    }
}
