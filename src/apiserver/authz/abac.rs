//! ABAC: a file of policies, one JSON object a line.
//!
//! Invariants:
//! - AB-1: the file is read at the start; a line that cannot be read fails the start with its number.

use serde_json::Value;

use super::{AUTHENTICATED, Attributes};

const GROUP: &str = "abac.authorization.kubernetes.io/";

#[derive(Debug, Default, PartialEq, Eq)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    api_group: String,
    resource: String,
    namespace: String,
    path: String,
}

/// The policies of a file.
#[derive(Debug, Default)]
pub struct Abac(Vec<Policy>);

impl Abac {
    /// # Errors
    /// Names the line.
    pub fn parse(file: &str) -> Result<Self, String> {
        let mut policies = Vec::new();
        for (index, line) in file.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let failed = |why: String| format!("error reading policy file, line {}: {line}: {why}", index + 1);
            let value: Value = serde_json::from_str(line).map_err(|error| failed(error.to_string()))?;
            policies.push(Policy::of_value(&value).map_err(failed)?);
        }
        Ok(Self(policies))
    }

    pub fn allows(&self, asked: &Attributes) -> bool {
        self.0.iter().any(|policy| policy.matches(asked))
    }

    /// The rules of a user's policies, as self-reviews show them: verbs, group, resource, path.
    pub fn rules_of<'a>(&'a self, user: &'a crate::User, namespace: &'a str) -> impl Iterator<Item = super::Rule> + 'a {
        let mine = self.0.iter().filter(move |policy| policy.is_about(user));
        mine.filter(move |policy| !policy.path.is_empty() || matches(&policy.namespace, namespace)).map(|policy| {
            let verbs = if policy.readonly { vec!["get", "list", "watch"] } else { vec!["*"] };
            let verbs = verbs.into_iter().map(str::to_owned).collect();
            match policy.path.as_str() {
                "" => super::Rule {
                    verbs,
                    api_groups: vec![policy.api_group.clone()],
                    resources: vec![policy.resource.clone()],
                    ..Default::default()
                },
                path => super::Rule { verbs, non_resource_urls: vec![path.to_owned()], ..Default::default() },
            }
        })
    }
}

fn matches(pattern: &str, value: &str) -> bool {
    pattern == "*" || pattern == value
}

impl Policy {
    fn of_value(value: &Value) -> Result<Self, String> {
        let (version, kind) = (&value["apiVersion"], &value["kind"]);
        // The first form had no version and no spec, and saw only what its time knew.
        let unversioned = version.is_null() && kind.is_null();
        let spec = if unversioned { value } else { &value["spec"] };
        let known = version.as_str().is_some_and(|v| v == format!("{GROUP}v1beta1")) && kind == "Policy";
        if !unversioned && !known {
            return Err(format!("unknown kind {kind} of {version}"));
        }
        let text = |key: &str| spec[key].as_str().unwrap_or_default().to_owned();
        let mut policy = Self {
            user: text("user"),
            group: text("group"),
            readonly: spec["readonly"] == true,
            api_group: text("apiGroup"),
            resource: text("resource"),
            namespace: text("namespace"),
            path: text("nonResourcePath"),
        };
        if unversioned {
            let everything = |field: &mut String| {
                if field.is_empty() {
                    "*".clone_into(field);
                }
            };
            // No subject meant everybody.
            if policy.user.is_empty() && policy.group.is_empty() {
                AUTHENTICATED.clone_into(&mut policy.group);
            }
            // No resource meant every one, and every path as well.
            if policy.resource.is_empty() && policy.namespace.is_empty() {
                "*".clone_into(&mut policy.path);
            }
            "*".clone_into(&mut policy.api_group);
            everything(&mut policy.resource);
            everything(&mut policy.namespace);
        }
        if policy.user == "*" || policy.group == "*" {
            AUTHENTICATED.clone_into(&mut policy.group);
        }
        Ok(policy)
    }

    fn is_about(&self, user: &crate::User) -> bool {
        let of_user = self.user.is_empty() || matches(&self.user, &user.name);
        let of_group = self.group.is_empty() || user.groups.contains(&self.group);
        (!self.user.is_empty() || !self.group.is_empty()) && of_user && of_group
    }

    fn matches(&self, asked: &Attributes) -> bool {
        let reads = matches!(asked.verb.as_str(), "get" | "list" | "watch");
        if !self.is_about(&asked.user) || (self.readonly && !reads) {
            return false;
        }
        if asked.is_resource {
            return matches(&self.namespace, &asked.namespace)
                && matches(&self.resource, &asked.resource)
                && matches(&self.api_group, &asked.group);
        }
        match self.path.strip_suffix('*') {
            Some(prefix) => asked.path.starts_with(prefix),
            None => !self.path.is_empty() && self.path == asked.path,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::User;

    const FILE: &str = r#"
# comment
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"alice","namespace":"*","resource":"*","apiGroup":"*"}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"group":"ops","namespace":"a","resource":"pods","readonly":true}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"*","nonResourcePath":"/docs/*"}}
{"user":"old","resource":"pods","namespace":"a"}
"#;

    #[test]
    fn policies_match() {
        let abac = Abac::parse(FILE).expect("parses");
        let allows = |user: &User, verb: &str, group: &str, resource: &str, namespace: &str| {
            abac.allows(&Attributes::resource(user, verb, group, resource, namespace, ""))
        };
        let (alice, ops, old) = (User::new("alice", &[]), User::new("bob", &["ops"]), User::new("old", &[]));
        assert!(allows(&alice, "delete", "apps", "deployments", "x"));
        assert!(allows(&ops, "get", "", "pods", "a"));
        assert!(!allows(&ops, "delete", "", "pods", "a"));
        assert!(!allows(&ops, "get", "", "pods", "b"));
        assert!(!allows(&ops, "get", "apps", "pods", "a"));
        assert!(allows(&old, "delete", "apps", "pods", "a"));
        assert!(!allows(&old, "delete", "", "secrets", "a"));
        let path = |user: &User, path: &str| {
            abac.allows(&Attributes {
                user: user.clone(),
                verb: "get".into(),
                path: path.into(),
                ..Attributes::default()
            })
        };
        assert!(path(&ops, "/docs/x"));
        assert!(!path(&ops, "/other"));
        assert!(!path(&User { name: "anonymous".into(), ..User::default() }, "/docs/x"));
    }

    #[test]
    fn a_bad_line_is_named() {
        let why = Abac::parse("\n{").expect_err("is bad");
        assert!(why.starts_with("error reading policy file, line 2: {:"), "{why}");
        assert!(Abac::parse(r#"{"apiVersion":"x","kind":"Policy"}"#).is_err());
    }
}
