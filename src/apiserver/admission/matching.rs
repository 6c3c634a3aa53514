//! What webhooks and policies are about: rules, selectors, and the other versions of a request's resource.
//!
//! Invariants:
//! - MA-1: nothing is looked up for a hook whose rules do not name the request.
//! - MA-2: what could not be looked up is an error only of hooks that are otherwise about the request.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use api::Kind;
use apimachinery::gvk::GroupResource;
use apimachinery::labels::Selector;
use apimachinery::status::Status;
use serde_json::{Value, json};

use super::{AdmissionRequest, Operation, list, text};
use crate::kinds::Kinds;
use crate::registry::find_subresource;
use crate::reviews;

impl Operation {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// Configuration of admission itself is not subject to it, or nobody could repair it. `reviews`: neither are questions.
pub(super) fn is_exempt(request: &AdmissionRequest<'_>, also_reviews: bool) -> bool {
    const OWN: &[&str] = &[
        "mutatingadmissionpolicies",
        "mutatingadmissionpolicybindings",
        "mutatingwebhookconfigurations",
        "validatingadmissionpolicies",
        "validatingadmissionpolicybindings",
        "validatingwebhookconfigurations",
    ];
    let (group, resource) = (request.kind.group.as_ref(), request.kind.plural.as_ref());
    (group == "admissionregistration.k8s.io" && OWN.contains(&resource))
        || (also_reviews && reviews::is_review(group, resource))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    All,
    Namespaced,
    Cluster,
}

/// A rule with operations.
#[derive(Debug)]
struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource.
    resources: Vec<(String, String)>,
    reach: Reach,
    /// None: every name.
    names: Vec<String>,
}

fn strings(value: &Value, key: &str) -> Vec<String> {
    list(value, key).iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// In a list that may say `*`.
fn named(list: &[String], wanted: &str) -> bool {
    list.iter().any(|item| item == "*" || item == wanted)
}

impl Rule {
    fn read(rule: &Value) -> Self {
        let resources = strings(rule, "resources").into_iter().map(|resource| match resource.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (resource, String::new()),
        });
        Self {
            operations: strings(rule, "operations"),
            groups: strings(rule, "apiGroups"),
            versions: strings(rule, "apiVersions"),
            resources: resources.collect(),
            reach: match text(rule, "scope") {
                "Namespaced" => Reach::Namespaced,
                "Cluster" => Reach::Cluster,
                _ => Reach::All,
            },
            names: strings(rule, "resourceNames"),
        }
    }

    fn names(&self, request: &AdmissionRequest<'_>, kind: &Kind) -> bool {
        let own_namespace = kind.plural == "namespaces";
        let reach = match self.reach {
            Reach::All => true,
            Reach::Namespaced => !own_namespace && !request.namespace.is_empty(),
            Reach::Cluster => own_namespace || request.namespace.is_empty(),
        };
        reach
            && named(&self.operations, request.operation.as_str())
            && named(&self.groups, &kind.group)
            && named(&self.versions, &kind.version)
            && self.resources.iter().any(|(resource, sub)| {
                (resource == "*" || *resource == kind.plural) && (sub == "*" || sub == request.subresource)
            })
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.shown_name()))
    }
}

/// When a hook is asked.
#[derive(Debug)]
pub(super) struct Criteria {
    namespaces: Result<Selector, String>,
    objects: Result<Selector, String>,
    rules: Vec<Rule>,
    excluded: Vec<Rule>,
    /// Rules may name another version of the resource.
    equivalent: bool,
    /// No rules: everything.
    open: bool,
}

fn selector(value: &Value) -> Result<Selector, String> {
    if value.is_null() { Ok(Selector::everything()) } else { Selector::from_label_selector(value) }
}

impl Criteria {
    /// Of a webhook.
    pub fn of_webhook(hook: &Value) -> Self {
        Self {
            namespaces: selector(&hook["namespaceSelector"]),
            objects: selector(&hook["objectSelector"]),
            rules: list(hook, "rules").iter().map(Rule::read).collect(),
            excluded: Vec::new(),
            equivalent: text(hook, "matchPolicy") == "Equivalent",
            open: false,
        }
    }

    /// Of a policy's `matchConstraints` or a binding's `matchResources`.
    pub fn of_resources(resources: &Value) -> Self {
        let rules: Vec<Rule> = list(resources, "resourceRules").iter().map(Rule::read).collect();
        Self {
            namespaces: selector(&resources["namespaceSelector"]),
            objects: selector(&resources["objectSelector"]),
            open: rules.is_empty(),
            rules,
            excluded: list(resources, "excludeResourceRules").iter().map(Rule::read).collect(),
            equivalent: text(resources, "matchPolicy") == "Equivalent",
        }
    }

    /// Whether the hook is about the request, and as which of its versions.
    ///
    /// # Errors
    /// When the namespace is not there, or a selector cannot be read.
    pub fn matches(&self, subject: &Subject<'_>, object: &Value) -> Result<Option<Match>, Status> {
        if self.named_by(&self.excluded, subject).is_some() {
            return Ok(None);
        }
        let found = if self.open { Some(Match::Own) } else { self.named_by(&self.rules, subject) };
        let Some(found) = found else { return Ok(None) };
        // MA-2: a selector that says no is heard before one that cannot be read.
        let namespace = subject.in_namespace(&self.namespaces, object);
        let by_label = match &self.objects {
            Ok(selector) => Ok(subject.by_label(selector, object)),
            Err(error) => Err(Status::internal(error)),
        };
        match (namespace, by_label) {
            (Ok(false), _) | (_, Ok(false)) => Ok(None),
            (Err(status), _) | (_, Err(status)) => Err(status),
            (Ok(true), Ok(true)) => Ok(Some(found)),
        }
    }

    fn named_by(&self, rules: &[Rule], subject: &Subject<'_>) -> Option<Match> {
        let request = subject.request;
        if rules.iter().any(|rule| rule.names(request, request.kind)) {
            return Some(Match::Own);
        }
        if !self.equivalent || rules.is_empty() {
            return None;
        }
        let others = subject.equivalents();
        rules.iter().find_map(|rule| others.iter().find(|kind| rule.names(request, kind))).cloned().map(Match::Other)
    }
}

/// As what a request is shown to a hook.
#[derive(Clone)]
pub(super) enum Match {
    Own,
    /// As an object of another version (or group).
    Other(Arc<Kind>),
}

/// Where a request is.
enum Place {
    /// No namespace decides.
    Cluster,
    /// A namespace that is being written: its labels are the object's.
    Own,
    Namespace(Arc<crate::Object>),
    Missing(String),
}

/// A request as hooks see it.
pub(super) struct Subject<'r> {
    pub request: &'r AdmissionRequest<'r>,
    kinds: &'r Kinds,
    place: Place,
    others: OnceLock<Vec<Arc<Kind>>>,
    /// The request as most expressions see it.
    told: OnceLock<Arc<Value>>,
}

impl<'r> Subject<'r> {
    pub async fn new(request: &'r AdmissionRequest<'r>, kinds: &'r Kinds) -> Self {
        let namespaces = request.kind.plural == "namespaces" && request.kind.group.is_empty();
        let written = matches!(request.operation, Operation::Create | Operation::Update);
        let place = if namespaces && request.subresource.is_empty() && written {
            Place::Own
        } else if request.namespace.is_empty() {
            Place::Cluster
        } else {
            let found = match request.reader.peek("namespaces", "", request.namespace) {
                Some(found) => Some(found),
                None => request.reader.get("namespaces", "", request.namespace).await,
            };
            found.map_or_else(|| Place::Missing(request.namespace.to_owned()), Place::Namespace)
        };
        Self { request, kinds, place, others: OnceLock::new(), told: OnceLock::new() }
    }

    /// The namespace of the request as expressions see it; null where there is none, and for namespaces themselves.
    ///
    /// # Errors
    /// 404 when it is not there.
    pub fn namespace_object(&self) -> Result<Value, Status> {
        if self.request.kind.plural == "namespaces" && self.request.kind.group.is_empty() {
            return Ok(Value::Null);
        }
        match &self.place {
            Place::Cluster | Place::Own => Ok(Value::Null),
            Place::Missing(name) => Err(missing(name)),
            Place::Namespace(object) => {
                let mut value = object.value();
                if let Some(metadata) = value["metadata"].as_object_mut() {
                    metadata.remove("managedFields");
                    metadata.remove("ownerReferences");
                }
                Ok(value)
            }
        }
    }

    fn in_namespace(&self, selector: &Result<Selector, String>, object: &Value) -> Result<bool, Status> {
        if matches!(self.place, Place::Cluster) {
            return Ok(true);
        }
        let selector = selector.as_ref().map_err(Status::internal)?;
        if selector.is_everything() {
            return Ok(true);
        }
        match &self.place {
            Place::Cluster => Ok(true),
            Place::Own => Ok(selector.matches(&object["metadata"]["labels"])),
            Place::Namespace(namespace) => Ok(selector.matches(&namespace.meta.labels)),
            Place::Missing(name) => Err(missing(name)),
        }
    }

    fn by_label(&self, selector: &Selector, object: &Value) -> bool {
        let of = |value: &Value| !value.is_null() && selector.matches(&value["metadata"]["labels"]);
        selector.is_everything() || of(object) || self.request.old_object.is_some_and(of)
    }

    /// The other kinds that show the same stored objects.
    fn equivalents(&self) -> &[Arc<Kind>] {
        self.others.get_or_init(|| {
            let (own, sub) = (self.request.kind, self.request.subresource);
            let all = self.kinds.all();
            let others = all.iter().filter(|kind| {
                kind.storage_key == own.storage_key
                    && (kind.version != own.version || kind.group != own.group)
                    && (sub.is_empty() || find_subresource(kind, sub).is_some())
            });
            others.cloned().collect()
        })
    }

    /// `request` of expressions.
    pub fn told(&self, found: &Match) -> Arc<Value> {
        let tell = |kind: &Kind| Arc::new(super::expression::request_value(self.request, kind));
        match found {
            Match::Own => self.told.get_or_init(|| tell(self.request.kind)).clone(),
            Match::Other(kind) => tell(kind),
        }
    }

    /// The resource's kind that a hook is shown.
    pub fn kind_of<'k>(&'k self, found: &'k Match) -> &'k Kind {
        match found {
            Match::Own => self.request.kind,
            Match::Other(kind) => kind,
        }
    }

    /// The object (and the old one) as a hook sees them.
    ///
    /// # Errors
    /// When a webhook does not convert them.
    pub async fn shown<'v>(&self, found: &Match, value: &'v Value) -> Result<Cow<'v, Value>, String> {
        match found {
            Match::Other(kind) if !value.is_null() => {
                self.convert(value, self.request.kind, kind).await.map(Cow::Owned)
            }
            _ => Ok(Cow::Borrowed(value)),
        }
    }

    /// Back from what a hook saw to the request's own version.
    ///
    /// # Errors
    /// When a webhook does not convert it.
    pub async fn own(&self, found: &Match, value: Value) -> Result<Value, String> {
        match found {
            Match::Other(kind) => self.convert(&value, kind, self.request.kind).await,
            Match::Own => Ok(value),
        }
    }

    async fn convert(&self, value: &Value, from: &Kind, to: &Kind) -> Result<Value, String> {
        // The bodies of subresources that are kinds of their own have one version.
        if value["kind"] != from.kind.as_ref() {
            return Ok(value.clone());
        }
        let (desired, mut out) = (to.api_version(), value.clone());
        if let Some(custom) = crate::apiextensions::of(from) {
            if let (Some(webhook), Some(server)) = (custom.definition.conversion.webhook(), self.request.server) {
                let sent = std::slice::from_ref(value);
                let converted = crate::apiextensions::convert(server, webhook, sent, &desired).await?;
                return converted.into_iter().next().ok_or_else(|| format!("nothing was converted to {desired}"));
            }
        } else {
            from.strategy.to_storage(&mut out);
            to.strategy.from_storage(&mut out);
        }
        out["apiVersion"] = json!(desired);
        Ok(out)
    }
}

fn missing(name: &str) -> Status {
    Status::not_found(&GroupResource::new("", "namespaces"), name)
}

/// Group, version and kind of the body of a request on `kind`.
pub(super) fn body_kind<'k>(kind: &'k Kind, subresource: &str) -> (&'k str, &'k str, &'k str) {
    match find_subresource(kind, subresource) {
        Some(sub) if sub.kind != kind.kind => (&sub.group, &sub.version, &sub.kind),
        _ => (&kind.group, &kind.version, &kind.kind),
    }
}

/// The request as hooks are told of it: what AdmissionReviews and the variable `request` have in common.
pub(super) fn describe(request: &AdmissionRequest<'_>, shown_as: &Kind) -> serde_json::Map<String, Value> {
    let gvk = |kind: &Kind| {
        let (group, version, kind) = body_kind(kind, request.subresource);
        json!({"group": group, "version": version, "kind": kind})
    };
    let gvr = |kind: &Kind| json!({"group": kind.group, "version": kind.version, "resource": kind.plural});
    let mut out = serde_json::Map::new();
    let mut put = |key: &str, value: Value| {
        if value != json!("") {
            out.insert(key.to_owned(), value);
        }
    };
    put("kind", gvk(shown_as));
    put("resource", gvr(shown_as));
    put("subResource", json!(request.subresource));
    put("requestKind", gvk(request.kind));
    put("requestResource", gvr(request.kind));
    put("requestSubResource", json!(request.subresource));
    put("name", json!(request.shown_name()));
    put("namespace", json!(request.namespace));
    put("operation", json!(request.operation.as_str()));
    put("userInfo", reviews::user_info(request.user));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_resources_and_subresources() {
        let rule = |resources: Value| Rule::read(&json!({"resources": resources}));
        let split = |rule: &Rule, resource: &str, sub: &str| {
            rule.resources.iter().any(|(r, s)| (r == "*" || r == resource) && (s == "*" || s == sub))
        };
        for (resources, resource, sub, want) in [
            (json!(["pods"]), "pods", "", true),
            (json!(["pods"]), "pods", "status", false),
            (json!(["pods/status"]), "pods", "status", true),
            (json!(["pods/*"]), "pods", "log", true),
            (json!(["*/scale"]), "deployments", "scale", true),
            (json!(["*"]), "pods", "status", false),
            (json!(["*/*"]), "pods", "status", true),
        ] {
            assert_eq!(split(&rule(resources.clone()), resource, sub), want, "{resources}");
        }
    }
}
