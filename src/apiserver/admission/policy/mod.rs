//! ValidatingAdmissionPolicy and MutatingAdmissionPolicy: policies in CEL, what they bind to, and their parameters.
//!
//! Invariants:
//! - PO-1: a policy without a binding does nothing.
//! - PO-2: policies are asked in the order of their names, and so are a policy's bindings.
//! - PO-3: what cannot be decided is refused, unless the policy's failurePolicy is Ignore.

mod compile;
mod mutating;
mod params;
mod patch;
mod validating;

pub use mutating::MutatingPolicies;
pub(super) use patch::typed;
pub use validating::ValidatingPolicies;

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::status::Status;
use serde_json::Value;

use super::live::Live;
use super::matching::{Criteria, Subject};
use super::{AdmissionRequest, text};
use crate::Object;
use crate::cache::ObjectReader;
use compile::Policy;

/// A binding, as it is asked for.
struct Binding {
    name: String,
    /// `None`: whatever the policy is about.
    criteria: Option<Criteria>,
    param_ref: Value,
    /// `validationActions`
    actions: Vec<String>,
}

impl Binding {
    fn read(object: &Arc<Object>) -> (String, Arc<Self>) {
        let value = object.value();
        let spec = &value["spec"];
        let resources = &spec["matchResources"];
        let binding = Self {
            name: object.meta.name.clone(),
            criteria: resources.is_object().then(|| Criteria::of_resources(resources)),
            param_ref: spec["paramRef"].clone(),
            actions: super::list(spec, "validationActions")
                .iter()
                .filter_map(|action| action.as_str().map(str::to_owned))
                .collect(),
        };
        (text(spec, "policyName").to_owned(), Arc::new(binding))
    }
}

/// A policy with its bindings.
struct Bound {
    object: Arc<Object>,
    policy: Arc<Policy>,
    bindings: Vec<Arc<Binding>>,
}

type Hooks = Vec<Bound>;

/// The policies of a kind that have bindings, compiled; `None` when there are none.
fn hooks(live: &Live<Hooks>, reader: &dyn ObjectReader) -> Option<Arc<Hooks>> {
    let found = live.get(reader, |objects, known| {
        let [policies, bindings] = objects else { return Hooks::new() };
        // What did not change stays compiled.
        let old: HashMap<*const Object, &Bound> =
            known.into_iter().flatten().map(|bound| (Arc::as_ptr(&bound.object), bound)).collect();
        let mut bound: HashMap<String, Vec<Arc<Binding>>> = HashMap::new();
        for object in bindings {
            let (policy, binding) = Binding::read(object);
            bound.entry(policy).or_default().push(binding);
        }
        let make = |object: &Arc<Object>| {
            let bindings = bound.get(&object.meta.name)?.clone();
            let policy = match old.get(&Arc::as_ptr(object)) {
                Some(known) => known.policy.clone(),
                None => Arc::new(Policy::compile(&object.value())),
            };
            Some(Bound { object: object.clone(), policy, bindings })
        };
        policies.iter().filter_map(make).collect()
    })?;
    (!found.is_empty()).then_some(found)
}

/// Whether a binding is about the request.
fn binds(binding: &Binding, subject: &Subject<'_>, object: &Value) -> Result<bool, Status> {
    match &binding.criteria {
        None => Ok(true),
        Some(criteria) => criteria.matches(subject, object).map(|found| found.is_some()),
    }
}

/// Configuration errors that stand for the whole policy.
fn unknown_params(policy: &Policy, kinds: &crate::kinds::Kinds) -> Option<String> {
    let kind = policy.param_kind.as_ref()?;
    params::find(kinds, kind).is_none().then(|| {
        format!(
            "failed to find resource referenced by paramKind: '{}, Kind={}'",
            match kind.api_version.as_str() {
                plain if !plain.contains('/') => format!("/{plain}"),
                full => full.to_owned(),
            },
            kind.kind
        )
    })
}

fn shown_name<'r>(request: &'r AdmissionRequest<'_>, object: &'r Value) -> &'r str {
    let metadata = &object["metadata"];
    [request.shown_name(), text(metadata, "name"), text(metadata, "generateName")]
        .into_iter()
        .find(|name| !name.is_empty())
        .unwrap_or("Unknown")
}
