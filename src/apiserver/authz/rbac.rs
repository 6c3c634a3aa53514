//! RBAC, compiled: roles and bindings are decoded once per revision and kept.
//!
//! Invariants:
//! - RB-1: the compiled policy is brought up to the cache's state before every decision; an object is decoded only when
//!   its revision changed.
//! - RB-2: an aggregated ClusterRole grants the rules of the roles its selectors match, whether or not a controller has
//!   written them into it; what is served on a read is not touched.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use apimachinery::labels::Selector;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::TryRecvError;

use super::rules::{Asked, Rule, go_quote};
use super::{Attributes, Decision};
use crate::attributes::User;
use crate::cache::{Event, Object, ObjectReader};

const CLUSTER_ROLES: &str = "clusterroles";
const ROLES: &str = "roles";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings";
const ROLE_BINDINGS: &str = "rolebindings";

/// The RBAC authorizer.
pub struct Rbac {
    reader: Arc<dyn ObjectReader>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    watched: HashMap<&'static str, broadcast::Receiver<Arc<Event>>>,
    /// By namespace ("" for ClusterRoles) and name.
    roles: HashMap<String, BTreeMap<String, Entry<Role>>>,
    /// By namespace ("" for ClusterRoleBindings) and name: decisions go through them in name order.
    bindings: HashMap<String, BTreeMap<String, Entry<Binding>>>,
}

struct Entry<T> {
    revision: i64,
    object: Arc<T>,
}

struct Role {
    rules: Vec<Rule>,
    labels: BTreeMap<String, String>,
    aggregates: Vec<Selector>,
}

struct Binding {
    subjects: Vec<Subject>,
    role_kind: String,
    role_name: String,
}

struct Subject {
    kind: String,
    namespace: String,
    name: String,
}

impl Rbac {
    pub fn new(reader: Arc<dyn ObjectReader>) -> Self {
        Self { reader, state: Mutex::new(State::default()) }
    }

    pub fn authorize(&self, attributes: &Attributes) -> Decision {
        let mut state = self.state.lock();
        state.refresh(self.reader.as_ref());
        let asked = attributes.asked();
        let mut errors = Vec::new();
        for scope in scopes(&attributes.namespace) {
            for (name, entry) in state.bindings.get(scope).into_iter().flatten() {
                let binding = &entry.object;
                let Some(subject) = binding.subject_of(&attributes.user, scope) else { continue };
                match state.allows(binding, scope, &asked) {
                    Ok(true) => return Decision::Allow(allowed_by(name, scope, binding, subject)),
                    Ok(false) => {}
                    Err(error) => errors.push(error),
                }
            }
        }
        Decision::Deny(match errors.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }

    pub fn rules_for(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let mut state = self.state.lock();
        state.refresh(self.reader.as_ref());
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        for scope in scopes(namespace) {
            for entry in state.bindings.get(scope).into_iter().flat_map(BTreeMap::values) {
                let binding = &entry.object;
                if binding.subject_of(user, scope).is_none() {
                    continue;
                }
                match state.role_rules(&binding.role_kind, scope, &binding.role_name) {
                    Some(found) => rules.extend(found),
                    None => errors.push(not_found(&binding.role_kind, &binding.role_name)),
                }
            }
        }
        (rules, errors)
    }

    pub fn role_rules(&self, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        let mut state = self.state.lock();
        state.refresh(self.reader.as_ref());
        state.role_rules(kind, namespace, name)
    }
}

/// Cluster-wide first, as upstream.
fn scopes(namespace: &str) -> impl Iterator<Item = &str> {
    std::iter::once("").chain((!namespace.is_empty()).then_some(namespace))
}

fn allowed_by(name: &str, namespace: &str, binding: &Binding, subject: &Subject) -> String {
    let (kind, name) = match namespace {
        "" => ("ClusterRoleBinding", name.to_owned()),
        namespace => ("RoleBinding", format!("{name}/{namespace}")),
    };
    let who = match subject.kind.as_str() {
        "ServiceAccount" => format!("{}/{}", subject.name, subject.namespace),
        _ => subject.name.clone(),
    };
    format!(
        "RBAC: allowed by {kind} {} of {} {} to {} {}",
        go_quote(&name),
        binding.role_kind,
        go_quote(&binding.role_name),
        subject.kind,
        go_quote(&who)
    )
}

fn not_found(kind: &str, name: &str) -> String {
    format!("{}.rbac.authorization.k8s.io {} not found", kind.to_lowercase(), go_quote(name))
}

impl State {
    /// RB-1.
    fn refresh(&mut self, reader: &dyn ObjectReader) {
        for key in [CLUSTER_ROLES, ROLES, CLUSTER_ROLE_BINDINGS, ROLE_BINDINGS] {
            let changed = match self.watched.get_mut(key) {
                Some(receiver) => drained(receiver),
                None => {
                    // Subscribed before the read, so that nothing falls in between.
                    let Some(receiver) = reader.subscribe(key) else { continue };
                    self.watched.insert(key, receiver);
                    true
                }
            };
            if !changed {
                continue;
            }
            let objects = reader.peek_all(key, None);
            match key {
                CLUSTER_ROLES | ROLES => reload(&mut self.roles, &objects, key == CLUSTER_ROLES, Role::of),
                _ => reload(&mut self.bindings, &objects, key == CLUSTER_ROLE_BINDINGS, Binding::of),
            }
        }
    }

    fn role(&self, kind: &str, namespace: &str, name: &str) -> Option<&Arc<Role>> {
        let scope = if kind == "ClusterRole" { "" } else { namespace };
        self.roles.get(scope)?.get(name).map(|entry| &entry.object)
    }

    fn aggregated<'a>(&'a self, role: &'a Role) -> impl Iterator<Item = &'a Role> {
        self.roles
            .get("")
            .filter(|_| !role.aggregates.is_empty())
            .into_iter()
            .flat_map(BTreeMap::values)
            .map(|entry| entry.object.as_ref())
            .filter(move |other| {
                !std::ptr::eq(*other, role) && role.aggregates.iter().any(|s| s.matches(&other.labels))
            })
    }

    fn allows(&self, binding: &Binding, namespace: &str, asked: &Asked<'_>) -> Result<bool, String> {
        let Some(role) = self.role(&binding.role_kind, namespace, &binding.role_name) else {
            return Err(not_found(&binding.role_kind, &binding.role_name));
        };
        // A role binding never grants paths.
        if !namespace.is_empty() && matches!(asked, Asked::Path { .. }) {
            return Ok(false);
        }
        Ok(self.reach(role).iter().any(|role| role.rules.iter().any(|rule| rule.allows(asked))))
    }

    /// The role and, transitively, what it aggregates.
    fn reach<'a>(&'a self, role: &'a Role) -> Vec<&'a Role> {
        let mut reached = vec![role];
        let mut at = 0;
        while at < reached.len() {
            for other in self.aggregated(reached[at]) {
                if !reached.iter().any(|known| std::ptr::eq(*known, other)) {
                    reached.push(other);
                }
            }
            at += 1;
        }
        reached
    }

    fn role_rules(&self, kind: &str, namespace: &str, name: &str) -> Option<Vec<Rule>> {
        let role = self.role(kind, namespace, name)?;
        Some(self.reach(role).iter().flat_map(|role| role.rules.iter().cloned()).collect())
    }
}

fn drained(receiver: &mut broadcast::Receiver<Arc<Event>>) -> bool {
    let mut any = false;
    loop {
        match receiver.try_recv() {
            Ok(_) | Err(TryRecvError::Lagged(_)) => any = true,
            Err(TryRecvError::Empty | TryRecvError::Closed) => return any,
        }
    }
}

/// Replaces the cluster's part or the namespaces' part of `kept`.
fn reload<T>(
    kept: &mut HashMap<String, BTreeMap<String, Entry<T>>>,
    objects: &[Arc<Object>],
    cluster: bool,
    decode: fn(&Value) -> T,
) {
    let mut old = HashMap::new();
    for (namespace, entries) in kept.extract_if(|namespace, _| namespace.is_empty() == cluster) {
        old.insert(namespace, entries);
    }
    for object in objects {
        let meta = &object.meta;
        let reusable = old
            .get_mut(&meta.namespace)
            .and_then(|entries| entries.remove(&meta.name))
            .filter(|entry| entry.revision == object.revision);
        let entry =
            reusable.unwrap_or_else(|| Entry { revision: object.revision, object: Arc::new(decode(&object.value())) });
        kept.entry(meta.namespace.clone()).or_default().insert(meta.name.clone(), entry);
    }
}

impl Role {
    fn of(value: &Value) -> Self {
        let selectors = value["aggregationRule"]["clusterRoleSelectors"].as_array();
        Self {
            rules: Rule::list(&value["rules"]),
            labels: value["metadata"]["labels"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
                .collect(),
            aggregates: selectors.into_iter().flatten().filter_map(|s| Selector::from_label_selector(s).ok()).collect(),
        }
    }
}

impl Binding {
    fn of(value: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Self {
            subjects: value["subjects"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|s| Subject { kind: text(&s["kind"]), namespace: text(&s["namespace"]), name: text(&s["name"]) })
                .collect(),
            role_kind: text(&value["roleRef"]["kind"]),
            role_name: text(&value["roleRef"]["name"]),
        }
    }

    fn subject_of(&self, user: &User, namespace: &str) -> Option<&Subject> {
        self.subjects.iter().find(|subject| match subject.kind.as_str() {
            "User" => subject.name == user.name,
            "Group" => user.groups.contains(&subject.name),
            "ServiceAccount" => {
                let home = if subject.namespace.is_empty() { namespace } else { &subject.namespace };
                !home.is_empty()
                    && user
                        .name
                        .strip_prefix("system:serviceaccount:")
                        .and_then(|rest| rest.split_once(':'))
                        .is_some_and(|(ns, name)| ns == home && name == subject.name)
            }
            _ => false,
        })
    }
}
