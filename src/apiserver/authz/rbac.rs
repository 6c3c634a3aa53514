//! RBAC, compiled: roles and bindings are decoded once per revision and kept.
//!
//! Invariants:
//! - RB-1: the compiled policy is brought up to the cache's state before every decision; an object is decoded only when
//!   its revision changed, and a change costs what it changes, however much policy there is.
//! - RB-2: an aggregated ClusterRole grants the rules of the roles its selectors match, whether or not a controller has
//!   written them into it; what is served on a read is not touched.
//! - RB-3: a decision looks only at the bindings that name the user or one of its groups, in the order of their names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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

const ACCOUNTS: &str = "system:serviceaccount:";
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
    /// By namespace ("" for ClusterRoleBindings).
    bindings: HashMap<String, Bindings>,
}

/// The bindings of a namespace.
#[derive(Default)]
struct Bindings {
    by_name: BTreeMap<Arc<str>, Entry<Binding>>,
    /// Names of bindings by what [`user_key`] and the like make of their subjects.
    by_subject: HashMap<String, BTreeSet<Arc<str>>>,
}

/// What happened to a resource since the last look.
enum Changes {
    Nothing,
    /// Namespaces and names of objects that are not what they were.
    Some(BTreeSet<(String, String)>),
    Unknown,
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
            for (name, binding) in state.bindings_of(&attributes.user, scope) {
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
            for (_, binding) in state.bindings_of(user, scope) {
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
            match self.watched.get_mut(key).map_or(Changes::Unknown, drained) {
                Changes::Nothing => {}
                Changes::Some(names) => {
                    for (namespace, name) in names {
                        self.put(key, &namespace, &name, reader.peek(key, &namespace, &name));
                    }
                }
                Changes::Unknown => {
                    // Subscribed before the read, so that nothing falls in between.
                    let Some(receiver) = reader.subscribe(key) else { continue };
                    self.watched.insert(key, receiver);
                    self.replace(key, reader.peek_all(key, None));
                }
            }
        }
    }

    /// Takes over all objects of a resource.
    fn replace(&mut self, key: &str, objects: Vec<Arc<Object>>) {
        let of_cluster = matches!(key, CLUSTER_ROLES | CLUSTER_ROLE_BINDINGS);
        let kept: BTreeSet<(&str, &str)> =
            objects.iter().map(|object| (object.meta.namespace.as_str(), object.meta.name.as_str())).collect();
        let known: Vec<(String, String)> = match key {
            CLUSTER_ROLES | ROLES => {
                let all = self.roles.iter().filter(|(namespace, _)| namespace.is_empty() == of_cluster);
                all.flat_map(|(namespace, roles)| roles.keys().map(|name| (namespace.clone(), name.clone()))).collect()
            }
            _ => {
                let all = self.bindings.iter().filter(|(namespace, _)| namespace.is_empty() == of_cluster);
                let names = |of: &Bindings| of.by_name.keys().map(|name| name.to_string()).collect::<Vec<_>>();
                all.flat_map(|(namespace, of)| names(of).into_iter().map(|name| (namespace.clone(), name))).collect()
            }
        };
        for (namespace, name) in known.iter().filter(|(namespace, name)| !kept.contains(&(namespace, name))) {
            self.put(key, namespace, name, None);
        }
        drop(kept);
        for object in objects {
            let (namespace, name) = (object.meta.namespace.clone(), object.meta.name.clone());
            self.put(key, &namespace, &name, Some(object));
        }
    }

    /// Takes over what an object is now; `None`: it is gone.
    fn put(&mut self, key: &str, namespace: &str, name: &str, object: Option<Arc<Object>>) {
        match key {
            CLUSTER_ROLES | ROLES => {
                let roles = self.roles.entry(namespace.to_owned()).or_default();
                match object {
                    Some(object) if roles.get(name).is_some_and(|known| known.revision == object.revision) => {}
                    Some(object) => {
                        let entry = Entry { revision: object.revision, object: Arc::new(Role::of(&object.value())) };
                        roles.insert(name.to_owned(), entry);
                    }
                    None => {
                        roles.remove(name);
                    }
                }
                if roles.is_empty() {
                    self.roles.remove(namespace);
                }
            }
            _ => {
                let bindings = self.bindings.entry(namespace.to_owned()).or_default();
                bindings.put(namespace, name, object);
                if bindings.by_name.is_empty() {
                    self.bindings.remove(namespace);
                }
            }
        }
    }

    /// RB-3.
    fn bindings_of<'a>(
        &'a self,
        user: &User,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a Arc<Binding>)> + use<'a> {
        let mut names: BTreeSet<&Arc<str>> = BTreeSet::new();
        let of = self.bindings.get(namespace);
        if let Some(of) = of {
            let account = user.name.strip_prefix(ACCOUNTS).and_then(|rest| rest.split_once(':'));
            let keys = [Some(user_key(&user.name)), account.map(|(home, name)| account_key(home, name))];
            for key in keys.into_iter().flatten().chain(user.groups.iter().map(|group| group_key(group))) {
                names.extend(of.by_subject.get(&key).into_iter().flatten());
            }
        }
        names.into_iter().filter_map(move |name| {
            let entry = of?.by_name.get(name)?;
            Some((&**name, &entry.object))
        })
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

impl Bindings {
    fn put(&mut self, namespace: &str, name: &str, object: Option<Arc<Object>>) {
        let known = self.by_name.get(name);
        if known.zip(object.as_ref()).is_some_and(|(known, object)| known.revision == object.revision) {
            return;
        }
        if let Some((name, old)) = self.by_name.remove_entry(name) {
            for key in old.object.keys(namespace) {
                if let Some(names) = self.by_subject.get_mut(&key) {
                    names.remove(&name);
                    if names.is_empty() {
                        self.by_subject.remove(&key);
                    }
                }
            }
        }
        let Some(object) = object else { return };
        let binding = Binding::of(&object.value());
        let name: Arc<str> = name.into();
        for key in binding.keys(namespace) {
            self.by_subject.entry(key).or_default().insert(name.clone());
        }
        self.by_name.insert(name, Entry { revision: object.revision, object: Arc::new(binding) });
    }
}

fn user_key(name: &str) -> String {
    format!("u:{name}")
}

fn group_key(name: &str) -> String {
    format!("g:{name}")
}

fn account_key(namespace: &str, name: &str) -> String {
    format!("s:{namespace}:{name}")
}

fn drained(receiver: &mut broadcast::Receiver<Arc<Event>>) -> Changes {
    let mut names = BTreeSet::new();
    loop {
        match receiver.try_recv() {
            Ok(event) => {
                let meta = &event.object.meta;
                names.insert((meta.namespace.clone(), meta.name.clone()));
            }
            Err(TryRecvError::Lagged(_) | TryRecvError::Closed) => return Changes::Unknown,
            Err(TryRecvError::Empty) if names.is_empty() => return Changes::Nothing,
            Err(TryRecvError::Empty) => return Changes::Some(names),
        }
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

    /// Under what its subjects are looked for.
    fn keys<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = String> + 'a {
        self.subjects.iter().filter_map(move |subject| match subject.kind.as_str() {
            "User" => Some(user_key(&subject.name)),
            "Group" => Some(group_key(&subject.name)),
            "ServiceAccount" => {
                let home = if subject.namespace.is_empty() { namespace } else { &subject.namespace };
                (!home.is_empty()).then(|| account_key(home, &subject.name))
            }
            _ => None,
        })
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
                        .strip_prefix(ACCOUNTS)
                        .and_then(|rest| rest.split_once(':'))
                        .is_some_and(|(ns, name)| ns == home && name == subject.name)
            }
            _ => false,
        })
    }
}
