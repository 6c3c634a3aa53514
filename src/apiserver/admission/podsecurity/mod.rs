//! PodSecurity: pods keep to the level their namespace is labelled with.
//!
//! Invariants:
//! - PS-4: only pods themselves are refused; what makes pods is warned about and audited.
//! - PS-5: an update that changes nothing the checks look at is never refused.

mod checks;
pub mod policy;

use std::collections::{BTreeMap, HashSet};

use apimachinery::gvk::GroupKind;
use apimachinery::status::Status;
use apimachinery::validation::ErrorList;
use async_trait::async_trait;
use serde_json::Value;

use self::checks::Violation;
use self::policy::{Level, LevelVersion, Policy};
use super::{AdmissionRequest, Operation, Plugin, list, text};
use crate::cache::Object;

/// Of a namespace with more pods, so many are looked at when its level changes.
const MOST_PODS: usize = 3000;
const AUDIT: &str = "pod-security.kubernetes.io/";
/// These say nothing about how a pod runs.
const OTHER_SUBRESOURCES: &[&str] = &["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// What namespaces get that say nothing, and who is left alone.
#[derive(Debug, Clone, Default)]
pub struct PodSecurityConfig {
    pub defaults: Policy,
    pub exempt_usernames: Vec<String>,
    pub exempt_namespaces: Vec<String>,
    pub exempt_runtime_classes: Vec<String>,
}

pub struct PodSecurity {
    config: PodSecurityConfig,
}

impl PodSecurity {
    pub fn new(config: PodSecurityConfig) -> Self {
        Self { config }
    }

    async fn namespace(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        if !request.subresource.is_empty() {
            return Ok(());
        }
        let defaults = &self.config.defaults;
        let name = text(&object["metadata"], "name");
        let (new, new_errors) = Policy::of_labels(&object["metadata"]["labels"], defaults);
        let invalid = |errors: &ErrorList| Status::invalid(&GroupKind::new("", "Namespace"), name, errors);
        let exempt = self.config.exempt_namespaces.iter().any(|exempt| exempt == name);
        let ignored = || {
            if !new.is_privileged() && !new.equivalent(defaults) {
                let policy = new.compact();
                request.warn(format!(
                    "namespace \"{name}\" is exempt from Pod Security, and the policy ({policy}) will be ignored"
                ));
            }
        };
        let Some(old_object) = request.old_object.filter(|_| request.operation == Operation::Update) else {
            if !new_errors.is_empty() {
                return Err(invalid(&new_errors));
            }
            if exempt {
                ignored();
            }
            return Ok(());
        };
        let (old, old_errors) = Policy::of_labels(&old_object["metadata"]["labels"], defaults);
        if !new_errors.is_empty() && new_errors.aggregate() != old_errors.aggregate() {
            return Err(invalid(&new_errors));
        }
        let laxer = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
        if new == old || exempt {
            if exempt && new != old {
                ignored();
            }
            return Ok(());
        }
        if new.enforce == old.enforce || new.enforce.level == Level::Privileged || laxer {
            return Ok(());
        }
        let pods = request.reader.list("pods", Some(name)).await;
        let found: Vec<(String, Value)> =
            pods.iter().map(|pod: &std::sync::Arc<Object>| (pod.meta.name.clone(), pod.value())).collect();
        for warning in self.existing(name, found, new.enforce) {
            request.warn(warning);
        }
        Ok(())
    }

    /// What to say of a namespace's pods when it starts to enforce `level`.
    fn existing(&self, namespace: &str, pods: Vec<(String, Value)>, level: LevelVersion) -> Vec<String> {
        let total = pods.len();
        let mut by_reason: BTreeMap<String, (String, usize)> = BTreeMap::new();
        for (name, pod) in one_per_controller_first(pods).into_iter().take(MOST_PODS) {
            if self.exempt_class(&pod["spec"]) {
                continue;
            }
            let violations = checks::evaluate(level, &pod["metadata"], &pod["spec"]);
            if violations.is_empty() {
                continue;
            }
            let (first, count) = by_reason.entry(checks::reasons(&violations)).or_insert_with(|| (name.clone(), 0));
            *count += 1;
            if name < *first {
                *first = name;
            }
        }
        let mut warnings = Vec::new();
        if total > MOST_PODS {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {MOST_PODS} of {total} existing pods"
            ));
        }
        if !by_reason.is_empty() {
            warnings.push(format!(
                "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{level}\""
            ));
        }
        let mut of_pods: Vec<String> = by_reason
            .into_iter()
            .map(|(reason, (name, count))| match count {
                1 => format!("{name}: {reason}"),
                2 => format!("{name} (and 1 other pod): {reason}"),
                more => format!("{name} (and {} other pods): {reason}", more - 1),
            })
            .collect();
        of_pods.sort();
        warnings.extend(of_pods);
        warnings
    }

    async fn pod(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let is_pod = request.is("", "pods");
        let applies = match is_pod {
            true => !OTHER_SUBRESOURCES.contains(&request.subresource),
            false => request.subresource.is_empty(),
        };
        if !applies {
            return Ok(());
        }
        let exempt = |what: &str| {
            request.annotate(format!("{AUDIT}exempt"), what);
            Ok(())
        };
        if self.config.exempt_namespaces.iter().any(|exempt| exempt == request.namespace) {
            return exempt("namespace");
        }
        if self.config.exempt_usernames.contains(&request.user.name) {
            return exempt("user");
        }
        let namespace = match request.reader.peek("namespaces", "", request.namespace) {
            Some(found) => Some(found),
            None => request.reader.get("namespaces", "", request.namespace).await,
        };
        let Some(namespace) = namespace else {
            return Err(Status::internal(format!("failed to lookup namespace \"{}\"", request.namespace)));
        };
        // Labels are at hand undecoded; most namespaces have none of ours.
        let labels: serde_json::Map<String, Value> = (namespace.meta.labels.iter())
            .filter(|(key, _)| key.starts_with(AUDIT))
            .map(|(key, value)| (key.clone(), Value::String(value.clone())))
            .collect();
        let (policy, errors) = Policy::of_labels(&Value::Object(labels), &self.config.defaults);
        let lax = |mode: LevelVersion| mode.level == Level::Privileged;
        if errors.is_empty() && lax(policy.audit) && lax(policy.warn) && (!is_pod || lax(policy.enforce)) {
            if is_pod {
                request.annotate(format!("{AUDIT}enforce-policy"), policy.enforce.to_string());
            }
            return Ok(());
        }
        if let Some(old) = request.old_object.filter(|_| is_pod && request.operation == Operation::Update) {
            if !is_significant(object, old) {
                return Ok(());
            }
        }
        let Some(template) = template_of(request, object) else { return Ok(()) };
        if self.exempt_class(&template["spec"]) {
            return exempt("runtimeClass");
        }
        if !errors.is_empty() {
            request.annotate(format!("{AUDIT}error"), format!("Failed to parse policy: {}", errors.aggregate()));
        }
        decide(request, &policy, template, is_pod)
    }

    fn exempt_class(&self, spec: &Value) -> bool {
        let class = text(spec, "runtimeClassName");
        !class.is_empty() && self.config.exempt_runtime_classes.iter().any(|exempt| exempt == class)
    }
}

fn decide(request: &AdmissionRequest<'_>, policy: &Policy, pod: &Value, enforce: bool) -> Result<(), Status> {
    let mut known: Vec<(LevelVersion, Vec<Violation>)> = Vec::new();
    let mut check = |mode: LevelVersion| -> Vec<Violation> {
        if let Some((_, found)) = known.iter().find(|(done, _)| *done == mode) {
            return found.clone();
        }
        let found = checks::evaluate(mode, &pod["metadata"], &pod["spec"]);
        known.push((mode, found.clone()));
        found
    };
    let mut refused = None;
    if enforce {
        request.annotate(format!("{AUDIT}enforce-policy"), policy.enforce.to_string());
        let found = check(policy.enforce);
        if !found.is_empty() {
            let text = format!("violates PodSecurity \"{}\": {}", policy.enforce, checks::describe(&found));
            refused = Some(request.forbidden(text));
        }
    }
    let would = |mode: LevelVersion, found: &[Violation]| {
        format!("would violate PodSecurity \"{mode}\": {}", checks::describe(found))
    };
    let found = check(policy.audit);
    if !found.is_empty() {
        request.annotate(format!("{AUDIT}audit-violations"), would(policy.audit, &found));
    }
    if let Some(status) = refused {
        return Err(status);
    }
    let found = check(policy.warn);
    if !found.is_empty() {
        request.warn(would(policy.warn, &found));
    }
    Ok(())
}

/// The pod in an object: itself or its template; none where the object has no template.
fn template_of<'a>(request: &AdmissionRequest<'_>, object: &'a Value) -> Option<&'a Value> {
    let found = match request.kind.plural.as_ref() {
        "pods" => object,
        "podtemplates" => &object["template"],
        "cronjobs" => &object["spec"]["jobTemplate"]["spec"]["template"],
        _ => &object["spec"]["template"],
    };
    (!found.is_null()).then_some(found)
}

fn makes_pods(request: &AdmissionRequest<'_>) -> bool {
    matches!(
        (request.kind.group.as_ref(), request.kind.plural.as_ref()),
        ("", "pods" | "replicationcontrollers" | "podtemplates")
            | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
            | ("batch", "jobs" | "cronjobs")
    )
}

/// PS-5.
fn is_significant(new: &Value, old: &Value) -> bool {
    let annotation = |pod: &Value, key: &str| pod["metadata"]["annotations"][key].clone();
    let differs = |key: &str| annotation(new, key) != annotation(old, key);
    if differs("seccomp.security.alpha.kubernetes.io/pod") {
        return true;
    }
    let changed = |new: &Value, old: &Value| {
        let name = text(new, "name");
        text(new, "image") != text(old, "image")
            || differs(&format!("container.seccomp.security.alpha.kubernetes.io/{name}"))
            || differs(&format!("container.apparmor.security.beta.kubernetes.io/{name}"))
    };
    for key in ["containers", "initContainers"] {
        let (new, old) = (list(&new["spec"], key), list(&old["spec"], key));
        if new.len() != old.len() || new.iter().zip(old).any(|(new, old)| changed(new, old)) {
            return true;
        }
    }
    let known = list(&old["spec"], "ephemeralContainers");
    list(&new["spec"], "ephemeralContainers").iter().any(|container| {
        let before = known.iter().find(|known| known["name"] == container["name"]);
        before.is_none_or(|before| changed(container, before))
    })
}

/// Pods of one controller are alike: one of each comes before the others.
fn one_per_controller_first(pods: Vec<(String, Value)>) -> Vec<(String, Value)> {
    let mut seen = HashSet::new();
    let (mut first, rest): (Vec<_>, Vec<_>) = pods.into_iter().partition(|(_, pod)| {
        let owners = list(&pod["metadata"], "ownerReferences");
        let controller = owners.iter().find(|owner| owner["controller"] == true);
        controller.is_none_or(|owner| seen.insert(text(owner, "uid").to_owned()))
    });
    first.extend(rest);
    first
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        if !matches!(request.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        if request.is("", "namespaces") {
            return self.namespace(request, object).await;
        }
        if makes_pods(request) { self.pod(request, object).await } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
