//! What a kind is: its names, scope, schema and behaviour. Built-in kinds and custom resources are both this.

use std::borrow::Cow;
use std::sync::Arc;

use apimachinery::schema::Schema;
use apimachinery::validation::{ErrorList, Path};
use serde_json::Value;

pub type Str = Cow<'static, str>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// The verbs of discovery, in upstream's (alphabetical) order.
pub const ALL_VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// A resource: everything that routing, discovery, printing and the registry need to know.
#[derive(Clone)]
pub struct Kind {
    /// "" is the core group.
    pub group: Str,
    /// Served version. A kind served in several versions is several `Kind`s that share [`Self::storage_key`].
    pub version: Str,
    pub kind: Str,
    pub plural: Str,
    pub singular: Str,
    pub short_names: Cow<'static, [Str]>,
    pub categories: Cow<'static, [Str]>,
    pub scope: Scope,
    pub verbs: Cow<'static, [&'static str]>,
    pub subresources: Cow<'static, [Subresource]>,
    /// `pods`, `services/specs`, `minions`: upstream's path below `/registry/` (for custom resources `<group>/<plural>`).
    pub storage_key: Str,
    /// OpenAPI definition; `None` only for kinds that have no body of their own.
    pub schema: Schema,
    pub strategy: Arc<dyn Strategy>,
}

/// `pods/log`, `deployments/scale`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    pub name: Str,
    /// The kind of its body; often another than the parent's.
    pub group: Str,
    pub version: Str,
    pub kind: Str,
    pub verbs: Cow<'static, [&'static str]>,
}

/// A cell of a table is made from the object by [`Strategy::row`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: Str,
    /// OpenAPI type: `string`, `integer`, `boolean`, `date`.
    pub ty: Str,
    pub format: Str,
    pub description: Str,
    /// 0: always shown; 1: `-o wide`.
    pub priority: i32,
}

/// Facts of the request that a strategy may need and cannot find out itself (it has no clock and does no I/O).
#[derive(Debug, Clone)]
pub struct RequestContext {
    pub now: jiff::Timestamp,
    /// `system:admin`, …
    pub user: String,
    /// "" or a subresource name: a strategy sees `status` here when the status is what is being written.
    pub subresource: String,
    /// The rest of who the user is, for kinds that ask for it ([`Strategy::wants_identity`]).
    pub identity: Option<Box<Identity>>,
}

/// What is known of a user besides the name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: std::collections::BTreeMap<String, Vec<String>>,
}

/// A kind's behaviour. Every method works on the object as JSON; the order on a write is
/// `default` → `prepare_for_*` → admission → `default` again if admission changed it → `validate*`.
pub trait Strategy: Send + Sync + 'static {
    /// Fills in upstream's defaults. Idempotent.
    fn default(&self, _object: &mut Value) {}

    /// The kind records who made an object: [`RequestContext::identity`] is filled in.
    fn wants_identity(&self) -> bool {
        false
    }

    /// Drops what a creator may not set (status), sets generation and initial status.
    fn prepare_for_create(&self, _cx: &RequestContext, _object: &mut Value) {}

    /// Defaults that depend on what [`Self::prepare_for_create`] has made: upstream fills in defaults once more when it
    /// reads what it stored, after validation.
    fn default_stored(&self, _object: &mut Value) {}

    /// Keeps of `old` what this update may not touch: an update of the main resource keeps the status, an update of
    /// `status` keeps everything else; bumps `metadata.generation` when the spec changed.
    fn prepare_for_update(&self, _cx: &RequestContext, _object: &mut Value, _old: &Value) {}

    /// Validates the whole object but the common metadata (the registry does that).
    fn validate(&self, _cx: &RequestContext, _object: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// Validates a change. Called instead of [`Self::validate`]; an implementation calls that itself where upstream does.
    fn validate_update(&self, cx: &RequestContext, object: &Value, _old: &Value) -> ErrorList {
        self.validate(cx, object)
    }

    /// Texts for `Warning` headers.
    fn warnings(&self, _cx: &RequestContext, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// Warnings of a create about what [`Self::prepare_for_create`] will make invisible; called before it (and before
    /// admission), shown before those of [`Self::warnings`].
    fn early_warnings(&self, _cx: &RequestContext, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Fields besides `metadata.name` and `metadata.namespace` that field selectors may name, with this object's values.
    /// Called with `Value::Null` to learn the names alone.
    fn selectable_fields(&self, _object: &Value) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// The name validation of `metadata.name`, upstream's messages.
    fn validate_name(&self, name: &str, prefix: bool) -> Vec<String> {
        apimachinery::validation::names::dns1123_subdomain(name, prefix)
    }

    /// A PUT on a missing object creates it (nodes' leases, endpoints, …).
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// An update without resourceVersion is allowed.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Seconds of grace for a DELETE that named none; `None`: this kind has no graceful deletion. `requested` is the
    /// client's wish. Pods: the spec's terminationGracePeriodSeconds, 0 when unscheduled or already finished.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// What a `Warning` header says on every request of this kind, reads too.
    fn deprecation(&self) -> Option<Str> {
        None
    }

    /// The group that error messages name, where it is not the kind's own (`events.k8s.io` events are core's inside).
    fn internal_group(&self) -> Option<&'static str> {
        None
    }

    /// Rewrites an object of this version as the one that is stored. The storage version's own strategy does nothing.
    fn to_storage(&self, _object: &mut Value) {}

    /// Rewrites a stored object as one of this version.
    #[allow(clippy::wrong_self_convention)] // converts the object, not the strategy
    fn from_storage(&self, _object: &mut Value) {}

    /// Takes what the object needs of the cluster's shared number spaces (cluster IPs, node ports) and writes it into
    /// the object. Called before `prepare_for_*`, on create (`old` is `None`) and on updates of the main resource.
    fn allocate(
        &self,
        _object: &mut Value,
        _old: Option<&Value>,
        _pool: &mut dyn Allocator,
    ) -> Result<(), AllocationError> {
        Ok(())
    }

    /// What a stored object holds of those number spaces: to rebuild them at start, and to release what a change or a
    /// deletion gave back.
    fn claims(&self, _object: &Value) -> Claims {
        Claims::default()
    }

    /// Something besides `metadata.finalizers` keeps a deleted object (a namespace's `spec.finalizers`).
    fn deletion_blocked(&self, _object: &Value) -> bool {
        false
    }

    /// Marks an object whose deletion starts (a namespace's phase), besides `metadata.deletionTimestamp`.
    fn mark_deleting(&self, _object: &mut Value) {}

    /// A DELETE that removed the object answers with the object instead of a Status.
    fn returns_deleted_object(&self) -> bool {
        false
    }

    /// Dependents are orphaned by a DELETE without a propagation policy.
    fn orphans_by_default(&self) -> bool {
        false
    }

    /// Texts for `Warning` headers of a DELETE; `propagation` is the client's `propagationPolicy`.
    fn delete_warnings(&self, _propagation: Option<&str>) -> Vec<String> {
        Vec::new()
    }

    /// An annotation that only this version's form has, not the object itself: tables do not show it.
    fn version_annotation(&self) -> Option<&'static str> {
        None
    }

    /// The strategy itself, for whoever made it: custom resources have ways that the registry must know.
    fn as_any(&self) -> Option<&dyn std::any::Any> {
        None
    }

    /// Columns of `kubectl get`.
    fn columns(&self) -> Vec<Column> {
        default_columns()
    }

    /// The cells of one object, one per column. `now` is for ages.
    fn row(&self, object: &Value, now: jiff::Timestamp) -> Vec<Value> {
        default_row(object, now)
    }

    /// `conditions` of the object's row: marks a finished pod as completed.
    fn row_conditions(&self, _object: &Value) -> Vec<Value> {
        Vec::new()
    }
}

/// The cluster's shared number spaces as one transaction: what is taken is given back when the write fails.
/// In a dry run nothing is taken; upstream then answers [`Self::next_port`] with 32769, 32770, ….
pub trait Allocator {
    /// Takes an address. The error is upstream's text (`provided IP is already allocated`, `the provided network does
    /// not match the current range`).
    fn take_ip(&mut self, ip: std::net::IpAddr) -> Result<(), String>;
    /// Takes any free address.
    fn next_ip(&mut self) -> Result<std::net::IpAddr, String>;
    /// Takes a node port. The error is upstream's text (`provided port is already allocated`, `provided port is not in
    /// the valid range. The range of valid ports is 30000-32767`).
    fn take_port(&mut self, port: u16) -> Result<(), String>;
    fn next_port(&mut self) -> Result<u16, String>;
}

/// Why [`Strategy::allocate`] failed.
#[derive(Debug)]
pub enum AllocationError {
    /// 422 with these causes.
    Invalid(ErrorList),
    /// 500 with this text.
    Internal(String),
}

/// Cluster-wide numbers an object holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Claims {
    pub ips: Vec<std::net::IpAddr>,
    pub ports: Vec<u16>,
}

/// `Name`, `Created At`: what a kind without a printer shows.
pub fn default_columns() -> Vec<Column> {
    crate::printers::default_columns()
}

fn default_row(object: &Value, now: jiff::Timestamp) -> Vec<Value> {
    crate::printers::default_row(object, now)
}

impl Kind {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `pods` or `deployments.apps`: how messages name the resource.
    pub fn qualified_resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Runs the name rule of this kind for `metadata.name`.
    pub fn validate_name_at(&self, path: &Path, name: &str) -> ErrorList {
        let mut errors = ErrorList::new();
        for detail in self.strategy.validate_name(name, false) {
            errors.invalid(path.clone(), name, &detail);
        }
        errors
    }
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.api_version(), self.kind)
    }
}

/// Building the built-in kinds.
impl Kind {
    /// A built-in kind with every verb, in the core group's way of storage (`/registry/<plural>`) and no subresources.
    /// `definition` is the OpenAPI name (`io.k8s.api.core.v1.Pod`).
    pub fn builtin(
        api_version: &'static str,
        kind: &'static str,
        plural: &'static str,
        scope: Scope,
        definition: &'static str,
        strategy: impl Strategy,
    ) -> Kind {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Kind {
            group: group.into(),
            version: version.into(),
            kind: kind.into(),
            plural: plural.into(),
            singular: kind.to_ascii_lowercase().into(),
            short_names: Cow::Borrowed(&[]),
            categories: Cow::Borrowed(&[]),
            scope,
            verbs: Cow::Borrowed(ALL_VERBS),
            subresources: Cow::Borrowed(&[]),
            storage_key: plural.into(),
            schema: apimachinery::schema::builtin_schema(definition)
                .expect("every built-in kind has a recorded definition"),
            strategy: Arc::new(strategy),
        }
    }

    pub fn with_short_names(mut self, names: &[&'static str]) -> Kind {
        self.short_names = names.iter().map(|n| Str::Borrowed(n)).collect();
        self
    }

    pub fn with_categories(mut self, categories: &[&'static str]) -> Kind {
        self.categories = categories.iter().map(|n| Str::Borrowed(n)).collect();
        self
    }

    pub fn with_verbs(mut self, verbs: &'static [&'static str]) -> Kind {
        self.verbs = Cow::Borrowed(verbs);
        self
    }

    pub fn with_storage_key(mut self, key: &'static str) -> Kind {
        self.storage_key = key.into();
        self
    }

    /// Adds a subresource whose body is of `api_version`/`kind`.
    pub fn with_subresource(
        mut self,
        name: &'static str,
        api_version: &'static str,
        kind: &'static str,
        verbs: &'static [&'static str],
    ) -> Kind {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let verbs = Cow::Borrowed(verbs);
        let sub =
            Subresource { name: name.into(), group: group.into(), version: version.into(), kind: kind.into(), verbs };
        self.subresources.to_mut().push(sub);
        self
    }
}
