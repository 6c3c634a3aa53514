//! The options of each verb, from the query and the body, checked as upstream checks them.

use std::sync::Arc;

use api::Kind;
use apimachinery::decode::FieldValidation;
use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use apimachinery::validation::{ErrorList, Path, meta};
use serde_json::{Value, json};

use super::Cx;
use crate::attributes::Query;
use crate::wire::query;

/// Options of create, update and patch.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub dry_run: bool,
    /// The manager of the fields: asked for, or from the user agent.
    pub manager: String,
    pub validation: FieldValidation,
    pub force: bool,
}

impl WriteOptions {
    /// `kind`: `CreateOptions`, `UpdateOptions`, `PatchOptions`. `apply`: this is a server-side apply.
    ///
    /// # Errors
    /// 422 naming every bad option.
    pub fn parse(cx: &Cx, kind: &str, apply: bool) -> Result<Self, Status> {
        let query = &cx.info.query;
        let manager = query.get("fieldManager").unwrap_or("");
        let force = query::flag(query, "force");
        let mut errors = ErrorList::new();
        if kind == "PatchOptions" {
            if apply && manager.is_empty() {
                errors.required(Path::new("fieldManager"), "is required for apply patch");
            } else if !apply && force.is_some() {
                errors.forbidden(Path::new("force"), "may not be specified for non-apply patch");
            }
        }
        errors.extend(meta::validate_field_manager(manager, &Path::new("fieldManager")));
        let dry_run = dry_run(query, &mut errors);
        let asked = query.get("fieldValidation").unwrap_or("");
        let validation = FieldValidation::parse(asked).unwrap_or_else(|| {
            errors.not_supported(Path::new("fieldValidation"), asked, &["", "Ignore", "Strict", "Warn"]);
            FieldValidation::Warn
        });
        check(kind, &errors)?;
        let manager = if manager.is_empty() { manager_of_agent(cx.user_agent()) } else { manager.to_owned() };
        Ok(Self { dry_run, manager, validation, force: force.unwrap_or(false) })
    }
}

fn dry_run(query: &Query, errors: &mut ErrorList) -> bool {
    let asked = query.all("dryRun");
    if asked.iter().any(|value| *value != "All") {
        errors.not_supported(Path::new("dryRun"), json!(asked), &["All"]);
    }
    !asked.is_empty()
}

fn check(kind: &str, errors: &ErrorList) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&GroupKind::new("meta.k8s.io", kind), "", errors))
}

/// `kubectl/v1.33.0 (…)` → `kubectl`, without what cannot be in a manager's name.
fn manager_of_agent(agent: &str) -> String {
    let mut manager = String::new();
    for c in agent.split('/').next().unwrap_or("").chars().filter(|c| apimachinery::goformat::is_print(*c)) {
        if manager.len() + c.len_utf8() > 128 {
            break;
        }
        manager.push(c);
    }
    manager
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// Options of delete and deletecollection.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub grace_period: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub orphan_dependents: Option<bool>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// The body decides alone when there is one, else the query.
    ///
    /// # Errors
    /// 400 for what cannot be read, 422 for bad values.
    pub fn parse(cx: &Cx, body: &[u8]) -> Result<Self, Status> {
        if body.is_empty() {
            Self::of_query(&cx.info.query)
        } else {
            Self::of_value(&super::codec::decode_options(cx, body)?)
        }
    }

    fn of_query(query: &Query) -> Result<Self, Status> {
        let mut errors = ErrorList::new();
        let mut options = Self {
            grace_period: query::int(query, "gracePeriodSeconds")?,
            orphan_dependents: query::flag(query, "orphanDependents"),
            ..Self::default()
        };
        options.propagation = propagation(query.get("propagationPolicy"), &mut errors);
        options.finish(query.all("dryRun").iter().map(|v| json!(v)).collect(), errors)
    }

    /// From the JSON of a DeleteOptions (the body, or part of an Eviction).
    ///
    /// # Errors
    /// 422 for bad values.
    pub fn of_value(value: &Value) -> Result<Self, Status> {
        let mut errors = ErrorList::new();
        let text = |at: &str| value.pointer(at).and_then(Value::as_str).map(str::to_owned);
        let mut options = Self {
            grace_period: value["gracePeriodSeconds"].as_i64(),
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            orphan_dependents: value["orphanDependents"].as_bool(),
            ..Self::default()
        };
        options.propagation = propagation(value["propagationPolicy"].as_str(), &mut errors);
        options.finish(value["dryRun"].as_array().cloned().unwrap_or_default(), errors)
    }

    /// The propagation policy, also when it was said in the old way.
    pub fn policy(&self) -> Option<&'static str> {
        match (self.propagation, self.orphan_dependents) {
            (Some(policy), _) => Some(policy.as_str()),
            (None, Some(true)) => Some("Orphan"),
            (None, Some(false)) => Some("Background"),
            (None, None) => None,
        }
    }

    fn finish(mut self, dry_run: Vec<Value>, mut errors: ErrorList) -> Result<Self, Status> {
        if self.orphan_dependents.is_some() && self.propagation.is_some() {
            errors.invalid(
                Path::new("propagationPolicy"),
                self.propagation.map_or("", Propagation::as_str),
                "orphanDependents and deletionPropagation cannot be both set",
            );
        }
        self.dry_run = !dry_run.is_empty();
        if dry_run.iter().any(|value| value != "All") {
            errors.not_supported(Path::new("dryRun"), Value::Array(dry_run), &["All"]);
        }
        check("DeleteOptions", &errors)?;
        Ok(self)
    }
}

impl Propagation {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Orphan => "Orphan",
            Self::Background => "Background",
            Self::Foreground => "Foreground",
        }
    }
}

fn propagation(text: Option<&str>, errors: &mut ErrorList) -> Option<Propagation> {
    match text {
        None => None,
        Some("Orphan") => Some(Propagation::Orphan),
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some(other) => {
            let supported = ["Foreground", "Background", "Orphan", "nil"];
            errors.not_supported(Path::new("propagationPolicy"), other, &supported);
            None
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    Unset,
    Exact,
    NotOlderThan,
}

/// Options of list, watch and deletecollection.
#[derive(Debug, Clone)]
pub struct ListOptions {
    pub labels: apimachinery::labels::Selector,
    pub fields: apimachinery::fields::Selector,
    /// As sent; "" when unset.
    pub resource_version: String,
    pub version_match: VersionMatch,
    pub limit: i64,
    pub continue_token: String,
    pub timeout_seconds: Option<i64>,
    pub bookmarks: bool,
    pub send_initial_events: Option<bool>,
    /// The kind whose fields the selector names, where that is not the stored one.
    served: Option<Arc<Kind>>,
}

impl ListOptions {
    /// # Errors
    /// 400 for what cannot be read, 422 for combinations that make no sense.
    pub fn parse(cx: &Cx, watch: bool) -> Result<Self, Status> {
        let query = &cx.info.query;
        let text = |key: &str| query.get(key).unwrap_or("").to_owned();
        let labels = apimachinery::labels::Selector::parse(&text("labelSelector")).map_err(Status::bad_request)?;
        let fields = apimachinery::fields::Selector::parse(&text("fieldSelector")).map_err(Status::bad_request)?;
        let mut options = Self {
            labels,
            fields,
            resource_version: text("resourceVersion"),
            version_match: VersionMatch::Unset,
            timeout_seconds: query::int(query, "timeoutSeconds")?,
            limit: query::int(query, "limit")?.unwrap_or(0),
            continue_token: text("continue"),
            bookmarks: query::flag(query, "allowWatchBookmarks").unwrap_or(false),
            send_initial_events: query::flag(query, "sendInitialEvents"),
            served: None,
        };
        let mut matching = text("resourceVersionMatch");
        let legacy = matches!(options.resource_version.as_str(), "" | "0");
        if watch && legacy && options.send_initial_events.is_none() && matching.is_empty() {
            // A watch without a version has always begun with the current objects.
            options.send_initial_events = Some(true);
            matching = "NotOlderThan".to_owned();
        }
        let errors = if watch { options.check_watch(&matching) } else { options.check_list(&matching) };
        check("ListOptions", &errors)?;
        options.version_match = match matching.as_str() {
            "Exact" => VersionMatch::Exact,
            "NotOlderThan" => VersionMatch::NotOlderThan,
            _ => VersionMatch::Unset,
        };
        options.check_fields(cx)?;
        if !options.fields.is_everything() && !super::conversion::same_version(cx) {
            options.served = Some(cx.kind.clone());
        }
        Ok(options)
    }

    fn check_watch(&self, matching: &str) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = || Path::new("resourceVersionMatch");
        if self.send_initial_events.is_some() {
            if matching != "NotOlderThan" {
                errors.forbidden(path(), "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
            }
        }
        if matching.is_empty() {
            return errors;
        }
        if self.send_initial_events.is_none() {
            errors
                .forbidden(path(), "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided");
        }
        if matching != "NotOlderThan" {
            errors.not_supported(path(), matching, &["NotOlderThan"]);
        }
        if !self.continue_token.is_empty() {
            errors.forbidden(path(), "resourceVersionMatch is forbidden when continue is provided");
        }
        errors
    }

    fn check_list(&self, matching: &str) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = || Path::new("resourceVersionMatch");
        if !matching.is_empty() {
            if self.resource_version.is_empty() {
                errors.forbidden(path(), "resourceVersionMatch is forbidden unless resourceVersion is provided");
            }
            if !self.continue_token.is_empty() {
                errors.forbidden(path(), "resourceVersionMatch is forbidden when continue is provided");
            }
            if !matches!(matching, "Exact" | "NotOlderThan") {
                errors.not_supported(path(), matching, &["Exact", "NotOlderThan", ""]);
            }
            if matching == "Exact" && self.resource_version == "0" {
                errors.forbidden(path(), "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"");
            }
        }
        if self.send_initial_events.is_some() {
            errors.forbidden(Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
        errors
    }

    /// Only fields that this kind selects by.
    fn check_fields(&self, cx: &Cx) -> Result<(), Status> {
        let known = cx.kind.strategy.selectable_fields(&Value::Null);
        for requirement in self.fields.requirements() {
            let field = requirement.field.as_str();
            if matches!(field, "metadata.name" | "metadata.namespace") || known.iter().any(|(name, _)| *name == field) {
                continue;
            }
            return Err(Status::bad_request(if known.is_empty() {
                format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
            } else {
                format!("field label not supported: {field}")
            }));
        }
        Ok(())
    }

    pub fn selects_all(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub fn matches(&self, object: &crate::Object) -> bool {
        if !self.labels.matches(&object.meta.labels) {
            return false;
        }
        let Some(kind) = &self.served else {
            return self.fields.matches(|field| object.meta.field(field).unwrap_or(""));
        };
        let mut value = object.value();
        kind.strategy.from_storage(&mut value);
        let served = crate::cache::Meta::of(&value, &|value| kind.strategy.selectable_fields(value));
        self.fields.matches(|field| served.field(field).unwrap_or(""))
    }
}
