//! Flow schemas, ready for matching requests.
//!
//! Invariants:
//! - FC-1: the first schema that matches decides; they are ordered by precedence, then by name.

use std::sync::Arc;

use ::http::HeaderValue;
use prometheus_client::metrics::counter::Counter;
use serde_json::Value;

use super::level::Level;
use crate::attributes::{RequestInfo, User};

const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// What tells the flows of one schema apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Distinguisher {
    None,
    User,
    Namespace,
}

/// One flow schema and the level that its requests go to.
pub struct Schema {
    pub name: String,
    /// For the response's header.
    pub uid: Option<HeaderValue>,
    pub level: Arc<Level>,
    pub dispatched: Counter,
    precedence: i64,
    distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    others: Vec<OtherRule>,
}

enum Subject {
    AnyUser,
    User(String),
    AnyGroup,
    Group(String),
    /// The user name, or for `*` the prefix of all names of the namespace.
    ServiceAccount {
        name: String,
        all: bool,
    },
}

struct ResourceRule {
    verbs: Names,
    groups: Names,
    resources: Names,
    cluster: bool,
    namespaces: Names,
}

struct OtherRule {
    verbs: Names,
    urls: Vec<String>,
}

/// A set of names, or every name.
enum Names {
    All,
    Of(Vec<String>),
}

impl Names {
    fn new(list: &Value) -> Self {
        let names: Vec<String> = strings(list);
        if names.iter().any(|name| name == "*") { Self::All } else { Self::Of(names) }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Of(names) => names.iter().any(|known| known == name),
        }
    }
}

fn strings(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str()).map(str::to_owned).collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

impl Schema {
    /// Compiles a FlowSchema.
    pub fn new(object: &Value, level: Arc<Level>, dispatched: Counter) -> Self {
        let spec = &object["spec"];
        Self {
            name: object["metadata"]["name"].as_str().unwrap_or_default().to_owned(),
            uid: uid_header(object),
            level,
            dispatched,
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or(i64::MAX),
            distinguisher: match spec["distinguisherMethod"]["type"].as_str() {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: list(&spec["rules"]).map(Rule::new).collect(),
        }
    }

    /// The order in which schemas are asked.
    pub fn rank(&self) -> (i64, &str) {
        (self.precedence, &self.name)
    }

    pub fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(user, info))
    }

    /// The flow of a request within this schema.
    pub fn flow<'a>(&self, user: &'a User, info: &'a RequestInfo) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        }
    }
}

/// An object's uid as a header.
pub fn uid_header(object: &Value) -> Option<HeaderValue> {
    object["metadata"]["uid"].as_str().and_then(|uid| HeaderValue::from_str(uid).ok())
}

impl Rule {
    fn new(rule: &Value) -> Self {
        Self {
            subjects: list(&rule["subjects"]).filter_map(Subject::new).collect(),
            resources: list(&rule["resourceRules"])
                .map(|rule| ResourceRule {
                    verbs: Names::new(&rule["verbs"]),
                    groups: Names::new(&rule["apiGroups"]),
                    resources: Names::new(&rule["resources"]),
                    cluster: rule["clusterScope"].as_bool().unwrap_or(false),
                    namespaces: Names::new(&rule["namespaces"]),
                })
                .collect(),
            others: list(&rule["nonResourceRules"])
                .map(|rule| OtherRule { verbs: Names::new(&rule["verbs"]), urls: strings(&rule["nonResourceURLs"]) })
                .collect(),
        }
    }

    fn matches(&self, user: &User, info: &RequestInfo) -> bool {
        if !self.subjects.iter().any(|subject| subject.matches(user)) {
            return false;
        }
        if info.is_resource {
            self.resources.iter().any(|rule| rule.matches(info))
        } else {
            self.others.iter().any(|rule| rule.matches(info))
        }
    }
}

impl Subject {
    fn new(subject: &Value) -> Option<Self> {
        let name = |of: &str| subject[of]["name"].as_str().unwrap_or_default().to_owned();
        Some(match subject["kind"].as_str()? {
            "User" => match name("user").as_str() {
                "*" => Self::AnyUser,
                name => Self::User(name.to_owned()),
            },
            "Group" => match name("group").as_str() {
                "*" => Self::AnyGroup,
                name => Self::Group(name.to_owned()),
            },
            "ServiceAccount" => {
                let namespace = subject["serviceAccount"]["namespace"].as_str().unwrap_or_default();
                let account = name("serviceAccount");
                let all = account == "*";
                let account = if all { "" } else { account.as_str() };
                Self::ServiceAccount { name: format!("{SERVICE_ACCOUNT}{namespace}:{account}"), all }
            }
            _ => return None,
        })
    }

    fn matches(&self, user: &User) -> bool {
        match self {
            Self::AnyUser | Self::AnyGroup => true,
            Self::User(name) => user.name == *name,
            Self::Group(name) => user.groups.iter().any(|group| group == name),
            Self::ServiceAccount { name, all: true } => user.name.starts_with(name.as_str()),
            Self::ServiceAccount { name, all: false } => user.name == *name,
        }
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        let scope = if info.namespace.is_empty() { self.cluster } else { self.namespaces.has(&info.namespace) };
        scope && self.verbs.has(&info.verb) && self.groups.has(&info.group) && self.has_resource(info)
    }

    fn has_resource(&self, info: &RequestInfo) -> bool {
        if info.subresource.is_empty() {
            return self.resources.has(&info.resource);
        }
        match &self.resources {
            Names::All => true,
            Names::Of(names) => names.iter().any(|name| {
                name.split_once('/').is_some_and(|(resource, sub)| resource == info.resource && sub == info.subresource)
            }),
        }
    }
}

impl OtherRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        self.verbs.has(&info.verb)
            && self.urls.iter().any(|url| match url.strip_suffix('*') {
                Some(prefix) => info.path.starts_with(prefix),
                None => *url == info.path,
            })
    }
}
