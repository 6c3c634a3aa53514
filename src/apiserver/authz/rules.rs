//! RBAC policy rules: matching, covering, compacting, describing. Pure.
//!
//! Invariants:
//! - RU-1: a rule with resource names never covers or allows a request without a name.

use serde_json::Value;

/// A rule of a Role or ClusterRole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Vec<String>,
    pub api_groups: Vec<String>,
    pub resources: Vec<String>,
    pub resource_names: Vec<String>,
    pub non_resource_urls: Vec<String>,
}

/// What a rule is asked.
#[derive(Debug, Clone, Copy)]
pub enum Asked<'a> {
    Resource { verb: &'a str, group: &'a str, resource: &'a str, subresource: &'a str, name: &'a str },
    Path { verb: &'a str, path: &'a str },
}

impl Rule {
    pub fn from_value(value: &Value) -> Self {
        let texts = |key: &str| {
            value[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            verbs: texts("verbs"),
            api_groups: texts("apiGroups"),
            resources: texts("resources"),
            resource_names: texts("resourceNames"),
            non_resource_urls: texts("nonResourceURLs"),
        }
    }

    /// The rules of a role.
    pub fn list(rules: &Value) -> Vec<Self> {
        rules.as_array().into_iter().flatten().map(Self::from_value).collect()
    }

    /// The rule as the API shows it, in upstream's field order.
    pub fn to_value(&self) -> Value {
        let mut out = serde_json::Map::new();
        out.insert("verbs".into(), self.verbs.clone().into());
        for (key, list) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !list.is_empty() {
                out.insert(key.into(), list.clone().into());
            }
        }
        Value::Object(out)
    }

    pub fn allows(&self, asked: &Asked<'_>) -> bool {
        match asked {
            Asked::Resource { verb, group, resource, subresource, name } => {
                has_or_star(&self.verbs, verb)
                    && has_or_star(&self.api_groups, group)
                    && self.resource_matches(resource, subresource)
                    && (self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == name))
            }
            Asked::Path { verb, path } => {
                has_or_star(&self.verbs, verb) && self.non_resource_urls.iter().any(|url| url_covers(url, path))
            }
        }
    }

    fn resource_matches(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|r| {
            if r == "*" {
                return true;
            }
            match r.split_once('/') {
                None => subresource.is_empty() && r == resource,
                Some((main, sub)) => !subresource.is_empty() && sub == subresource && (main == "*" || main == resource),
            }
        })
    }

    /// Whoever has this rule has `wanted` too. `wanted` is a piece of [`Rule::pieces`].
    fn covers(&self, wanted: &Rule) -> bool {
        let all = |owned: &[String], asked: &[String]| {
            owned.iter().any(|o| o == "*") || asked.iter().all(|a| owned.contains(a))
        };
        let names = match wanted.resource_names.is_empty() {
            true => self.resource_names.is_empty(),
            false => {
                self.resource_names.is_empty() || wanted.resource_names.iter().all(|n| self.resource_names.contains(n))
            }
        };
        let resources = self.resources.iter().any(|r| r == "*")
            || wanted.resources.iter().all(|asked| {
                self.resources.contains(asked)
                    || asked.split_once('/').is_some_and(|(_, sub)| self.resources.contains(&format!("*/{sub}")))
            });
        let urls = wanted
            .non_resource_urls
            .iter()
            .all(|asked| self.non_resource_urls.iter().any(|owned| owned == asked || url_covers(owned, asked)));
        all(&self.verbs, &wanted.verbs) && all(&self.api_groups, &wanted.api_groups) && resources && names && urls
    }

    /// One rule per group, resource, name and verb, and per URL and verb.
    fn pieces(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let piece = Rule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.resource_names.is_empty() {
                        out.push(piece);
                    } else {
                        out.extend(
                            self.resource_names
                                .iter()
                                .map(|n| Rule { resource_names: vec![n.clone()], ..piece.clone() }),
                        );
                    }
                }
            }
        }
        for url in &self.non_resource_urls {
            for verb in &self.verbs {
                out.push(Rule { verbs: vec![verb.clone()], non_resource_urls: vec![url.clone()], ..Rule::default() });
            }
        }
        out
    }

    /// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                parts.push(format!("{name}:{}", go_strings(list)));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

/// What of `wanted` no rule of `owned` covers, in pieces.
pub fn missing(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for piece in wanted.iter().flat_map(Rule::pieces) {
        if !owned.iter().any(|rule| rule.covers(&piece)) {
            out.push(piece);
        }
    }
    out
}

/// Joins pieces that differ in their verbs only.
pub fn compact(rules: Vec<Rule>) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    for rule in rules {
        let simple = rule.api_groups.len() == 1
            && rule.resources.len() == 1
            && rule.resource_names.len() <= 1
            && rule.non_resource_urls.is_empty();
        let twin = out.iter_mut().find(|kept| {
            simple
                && kept.api_groups == rule.api_groups
                && kept.resources == rule.resources
                && kept.resource_names == rule.resource_names
                && kept.non_resource_urls.is_empty()
        });
        match twin {
            Some(kept) => kept.verbs.extend(rule.verbs),
            None => out.push(rule),
        }
    }
    out
}

/// Go's `%q` of a string slice.
pub fn go_strings(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|s| go_quote(s)).collect();
    format!("[{}]", quoted.join(" "))
}

/// Go's `%q` of a string.
pub fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn has_or_star(list: &[String], asked: &str) -> bool {
    list.iter().any(|item| item == "*" || item == asked)
}

fn url_covers(owned: &str, asked: &str) -> bool {
    owned == "*" || owned == asked || owned.strip_suffix('*').is_some_and(|prefix| asked.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rule(value: Value) -> Rule {
        Rule::from_value(&value)
    }

    #[test]
    fn resource_matrix() {
        let r = |groups: &[&str], resources: &[&str], verbs: &[&str], names: &[&str]| {
            rule(json!({"apiGroups": groups, "resources": resources, "verbs": verbs, "resourceNames": names}))
        };
        let ask =
            |verb, group, resource, subresource, name| Asked::Resource { verb, group, resource, subresource, name };
        let table = [
            (r(&[""], &["pods"], &["get"], &[]), ask("get", "", "pods", "", "x"), true),
            (r(&[""], &["pods"], &["get"], &[]), ask("list", "", "pods", "", ""), false),
            (r(&[""], &["pods"], &["get"], &[]), ask("get", "", "pods", "log", "x"), false),
            (r(&[""], &["pods/log"], &["get"], &[]), ask("get", "", "pods", "log", "x"), true),
            (r(&[""], &["pods/log"], &["get"], &[]), ask("get", "", "pods", "", "x"), false),
            (r(&["apps"], &["*/scale"], &["*"], &[]), ask("patch", "apps", "deployments", "scale", "x"), true),
            (r(&["apps"], &["*/scale"], &["*"], &[]), ask("patch", "apps", "deployments", "", "x"), false),
            (r(&["*"], &["*"], &["*"], &[]), ask("patch", "apps", "deployments", "status", "x"), true),
            (r(&["apps"], &["*"], &["*"], &[]), ask("get", "", "pods", "", "x"), false),
            (r(&[""], &["configmaps"], &["get"], &["a"]), ask("get", "", "configmaps", "", "a"), true),
            (r(&[""], &["configmaps"], &["get"], &["a"]), ask("get", "", "configmaps", "", "b"), false),
            (r(&[""], &["configmaps"], &["list"], &["a"]), ask("list", "", "configmaps", "", ""), false),
            (r(&[""], &["pods/*"], &["get"], &[]), ask("get", "", "pods", "log", "x"), false),
        ];
        for (rule, asked, want) in table {
            assert_eq!(rule.allows(&asked), want, "{rule:?} {asked:?}");
        }
    }

    #[test]
    fn paths() {
        let r = rule(json!({"nonResourceURLs": ["/healthz", "/api/*"], "verbs": ["get"]}));
        for (verb, path, want) in [
            ("get", "/healthz", true),
            ("get", "/healthz/x", false),
            ("get", "/api/v1", true),
            ("get", "/api", false),
            ("post", "/healthz", false),
        ] {
            assert_eq!(r.allows(&Asked::Path { verb, path }), want, "{path}");
        }
    }

    #[test]
    fn escalation_lists_what_is_missing() {
        let owned = [rule(json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"]}))];
        let wanted = [
            rule(json!({"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "list"]})),
            rule(json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get"], "resourceNames": ["n"]})),
            rule(json!({"nonResourceURLs": ["/x"], "verbs": ["get"]})),
        ];
        let described: Vec<String> = compact(missing(&owned, &wanted)).iter().map(Rule::describe).collect();
        assert_eq!(
            described,
            [
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#,
                r#"{NonResourceURLs:["/x"], Verbs:["get"]}"#
            ]
        );
        let all = [rule(json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}))];
        assert_eq!(missing(&all, &wanted[..2]), []);
        // Names on the owner's side never cover a rule without names.
        assert_eq!(missing(&wanted[1..2], &owned).len(), 1);
    }
}
