//! `Impersonate-*`: acting as somebody else, as far as the policy lets one.
//!
//! Invariants:
//! - IM-1: every part of the other identity (user, each group, uid, each extra value) is authorized by itself.

use std::collections::BTreeMap;

use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use http::HeaderMap;

use crate::attributes::{User, unescape};
use crate::authz::rules::go_quote;
use crate::authz::{ANONYMOUS, AUTHENTICATED, Attributes, Authorizer, UNAUTHENTICATED};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// Whom `requestor` acts as: itself when no header asks for another.
///
/// # Errors
/// 400 for headers without a user, 403.
pub async fn impersonate(authorizer: &Authorizer, requestor: User, headers: &HeaderMap) -> Result<User, Status> {
    let Some(mut wanted) = requested(headers)? else { return Ok(requestor) };
    let requestor = &requestor;
    let account = service_account(&wanted.name);
    let mut checks = Vec::new();
    match account {
        Some((namespace, name)) => checks.push(check(requestor, "", "serviceaccounts", "", namespace, name)),
        None => checks.push(check(requestor, "", "users", "", "", &wanted.name)),
    }
    checks.extend(wanted.groups.iter().map(|group| check(requestor, "", "groups", "", "", group)));
    for (key, values) in &wanted.extra {
        checks.extend(values.iter().map(|v| check(requestor, "authentication.k8s.io", "userextras", key, "", v)));
    }
    if !wanted.uid.is_empty() {
        checks.push(check(requestor, "authentication.k8s.io", "uids", "", "", &wanted.uid));
    }
    for attributes in checks {
        let decision = authorizer.authorize(&attributes).await;
        if !decision.allowed() {
            let resource = GroupResource::new(attributes.group.clone(), attributes.resource.clone());
            let text = attributes.forbidden_text(decision.reason());
            return Err(Status::forbidden(&resource, &attributes.name, text));
        }
    }
    if let (Some((namespace, _)), true) = (account, wanted.groups.is_empty()) {
        wanted.groups = vec!["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
    }
    let has = |group: &str| wanted.groups.iter().any(|g| g == group);
    if wanted.name == ANONYMOUS {
        if !has(UNAUTHENTICATED) {
            wanted.groups.push(UNAUTHENTICATED.to_owned());
        }
    } else if !has(AUTHENTICATED) && !has(UNAUTHENTICATED) {
        wanted.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(wanted)
}

fn check(user: &User, group: &str, resource: &str, subresource: &str, namespace: &str, name: &str) -> Attributes {
    let mut attributes = Attributes::resource(user, "impersonate", group, resource, namespace, name);
    attributes.subresource = subresource.to_owned();
    attributes
}

/// Namespace and name of a service account's user name.
pub fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

fn requested(headers: &HeaderMap) -> Result<Option<User>, Status> {
    let all = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
    };
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        if let Some(key) = name.as_str().strip_prefix(EXTRA) {
            let key = unescape(key, false).unwrap_or_else(|| key.to_owned());
            extra.entry(key).or_default().push(String::from_utf8_lossy(value.as_bytes()).into_owned());
        }
    }
    let first = |name: &str| all(name).into_iter().next().unwrap_or_default();
    let user = User { name: first(USER), uid: first(UID), groups: all(GROUP), extra };
    if !user.name.is_empty() {
        return Ok(Some(user));
    }
    if user.groups.is_empty() && user.uid.is_empty() && user.extra.is_empty() {
        return Ok(None);
    }
    Err(Status::bad_request(format!("requested {} without impersonating a user name", go_struct(&user))))
}

/// Go's `%#v` of the user, which upstream shows in this message.
fn go_struct(user: &User) -> String {
    let slice = |list: &[String]| {
        if list.is_empty() {
            return "[]string(nil)".to_owned();
        }
        format!("[]string{{{}}}", list.iter().map(|s| go_quote(s)).collect::<Vec<_>>().join(", "))
    };
    let extra = if user.extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let entries: Vec<String> = user.extra.iter().map(|(k, v)| format!("{}:{}", go_quote(k), slice(v))).collect();
        format!("map[string][]string{{{}}}", entries.join(", "))
    };
    format!(
        "&user.DefaultInfo{{Name:{}, UID:{}, Groups:{}, Extra:{extra}}}",
        go_quote(&user.name),
        go_quote(&user.uid),
        slice(&user.groups)
    )
}
