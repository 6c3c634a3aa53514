//! The end of a namespace: deletes everything in it, then lets it go.
//!
//! Watches namespaces, and pods (whose end a namespace often waits for). Deletes every namespaced object of a namespace
//! that is being deleted; writes the namespace's status conditions and, last, removes its finalizer `kubernetes`.
//!
//! Invariants:
//! - NS-1: the finalizer goes only when every kind that discovery names was found empty.
//! - NS-2: pods go first: what they use outlives them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Change, Informer, ObjectKey, WorkQueue};
use component_base::{Backoff, SharedClock};
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, DynamicObject, ListParams, PostParams, PropagationPolicy};
use kube::core::ApiResource;
use kube::discovery::{Discovery, Scope, verbs};
use kube::error::DiscoveryError;
use kube::{Api, Client};
use parking_lot::Mutex;
use tracing::info;

use crate::error::{Error, code, gone_is_fine};
use crate::manager::{Context, Controller};

const FINALIZER: &str = "kubernetes";
/// How soon a namespace that is not empty yet is looked at again.
const RETRY: Backoff = Backoff::new(Duration::from_millis(100), 2, Duration::from_secs(5));

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = Namespaces {
        client: cx.client.clone(),
        queue: cx.queue(),
        clock: cx.clock.clone(),
        namespaces: cx.informers.of(),
        waits: Arc::default(),
    };
    let (queue, waits) = (this.queue.clone(), this.waits.clone());
    this.namespaces.on_change(move |change| {
        let namespace = change.object();
        let key = ObjectKey::of(namespace.as_ref());
        if let Change::Deleted(_) = change {
            waits.lock().remove(&key.name);
        } else if namespace.metadata.deletion_timestamp.is_some() {
            queue.add(key);
        }
    });
    let (queue, waits) = (this.queue.clone(), this.waits.clone());
    cx.informers.of::<Pod>().on_change(move |change| {
        if let Change::Deleted(pod) = change {
            let namespace = pod.metadata.namespace.clone().unwrap_or_default();
            if waits.lock().contains_key(&namespace) {
                queue.add(ObjectKey::cluster(namespace));
            }
        }
    });
    Arc::new(this)
}

struct Namespaces {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    clock: SharedClock,
    namespaces: Informer<Namespace>,
    /// Namespaces that are not empty yet, and how often they were looked at.
    waits: Arc<Mutex<HashMap<String, u32>>>,
}

/// What one pass over the content came to.
#[derive(Default)]
struct Report {
    discovery_error: Option<String>,
    version_error: Option<String>,
    content_errors: Vec<String>,
    /// By resource and group.
    remaining: BTreeMap<(String, String), usize>,
    finalizers: BTreeMap<String, usize>,
}

#[derive(Debug, PartialEq)]
enum Action {
    SetStatus(NamespaceStatus),
    Finalize,
}

fn plan(namespace: &Namespace, report: &Report, now: jiff::Timestamp) -> Vec<Action> {
    let mut actions = Vec::new();
    let old = namespace.status.clone().unwrap_or_default();
    let old_conditions = old.conditions.clone().unwrap_or_default();
    let mut conditions = old_conditions.clone();
    for new in conditions_of(report) {
        match conditions.iter_mut().find(|condition| condition.type_ == new.type_) {
            Some(same) if (&same.status, &same.reason, &same.message) == (&new.status, &new.reason, &new.message) => {}
            Some(condition) => *condition = NamespaceCondition { last_transition_time: Some(Time(now)), ..new },
            None => conditions.push(NamespaceCondition { last_transition_time: Some(Time(now)), ..new }),
        }
    }
    if conditions != old_conditions || old.phase.as_deref() != Some("Terminating") {
        let conditions = Some(conditions);
        actions.push(Action::SetStatus(NamespaceStatus { conditions, phase: Some("Terminating".into()) }));
    }
    let clean = report.discovery_error.is_none() && report.version_error.is_none() && report.content_errors.is_empty();
    if clean && report.remaining.is_empty() {
        actions.push(Action::Finalize);
    }
    actions
}

fn conditions_of(report: &Report) -> [NamespaceCondition; 5] {
    let condition = |kind: &str, bad: Option<(&str, String)>, good: (&str, &str)| {
        let status = if bad.is_some() { "True" } else { "False" };
        let (reason, message) = bad.unwrap_or_else(|| (good.0, good.1.to_owned()));
        NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: None,
        }
    };
    let errors = match report.content_errors.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    };
    let failing = errors.map(|text| {
        let count = report.content_errors.len();
        ("ContentDeletionFailed", format!("Failed to delete all resource types, {count} remaining: {text}"))
    });
    let remaining: Vec<String> = report
        .remaining
        .iter()
        .map(|((resource, group), count)| format!("{resource}.{group} has {count} resource instances"))
        .collect();
    let finalizers: Vec<String> =
        report.finalizers.iter().map(|(name, count)| format!("{name} in {count} resource instances")).collect();
    let some = |list: Vec<String>, reason: &'static str, intro: &str| {
        (!list.is_empty()).then(|| (reason, format!("{intro}: {}", list.join(", "))))
    };
    [
        condition(
            "NamespaceDeletionDiscoveryFailure",
            report.discovery_error.clone().map(|error| ("DiscoveryFailed", error)),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        condition(
            "NamespaceDeletionGroupVersionParsingFailure",
            report.version_error.clone().map(|error| ("GroupVersionParsingFailed", error)),
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        condition(
            "NamespaceDeletionContentFailure",
            failing,
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        condition(
            "NamespaceContentRemaining",
            some(remaining, "SomeResourcesRemain", "Some resources are remaining"),
            ("ContentRemoved", "All content successfully removed"),
        ),
        condition(
            "NamespaceFinalizersRemaining",
            some(finalizers, "SomeFinalizersRemain", "Some content in the namespace has finalizers remaining"),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ]
}

/// A kind that is to be emptied.
struct Content {
    resource: ApiResource,
    by_collection: bool,
}

impl Namespaces {
    async fn discover(&self) -> kube::Result<Vec<Content>> {
        let discovery = match Discovery::new(self.client.clone()).run_aggregated().await {
            Ok(discovery) => discovery,
            Err(_) => Discovery::new(self.client.clone()).run().await?,
        };
        let found = discovery.groups().flat_map(|group| group.recommended_resources());
        let mut found: Vec<Content> = found
            .filter(|(_, capabilities)| {
                capabilities.scope == Scope::Namespaced
                    && capabilities.supports_operation(verbs::DELETE)
                    && capabilities.supports_operation(verbs::LIST)
            })
            .map(|(resource, capabilities)| Content {
                resource,
                by_collection: capabilities.supports_operation(verbs::DELETE_COLLECTION),
            })
            .collect();
        let is_pods = |content: &Content| content.resource.plural == "pods" && content.resource.group.is_empty();
        found.sort_by_key(|content| !is_pods(content));
        Ok(found)
    }

    async fn delete_content(&self, namespace: &str) -> Report {
        let mut report = Report::default();
        let found = match self.discover().await {
            Ok(found) => found,
            Err(kube::Error::Discovery(error @ DiscoveryError::InvalidGroupVersion(_))) => {
                report.version_error = Some(error.to_string());
                return report;
            }
            Err(error) => {
                report.discovery_error = Some(error.to_string());
                return report;
            }
        };
        for content in found {
            let is_pods = content.resource.plural == "pods" && content.resource.group.is_empty();
            if let Err(error) = self.empty(namespace, &content, &mut report).await {
                report.content_errors.push(error.to_string());
            }
            if is_pods && (!report.remaining.is_empty() || !report.content_errors.is_empty()) {
                break;
            }
        }
        report
    }

    async fn empty(&self, namespace: &str, content: &Content, report: &mut Report) -> kube::Result<()> {
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &content.resource);
        let list = ListParams::default();
        let present = match api.list_metadata(&list).await {
            // The kind went away since discovery.
            Err(error) if code(&error) == 404 => return Ok(()),
            other => other?,
        };
        if present.items.is_empty() {
            return Ok(());
        }
        let params =
            DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..DeleteParams::default() };
        let collected = if content.by_collection { Some(api.delete_collection(&params, &list).await) } else { None };
        match collected {
            Some(Ok(_)) => {}
            Some(Err(error)) if !matches!(code(&error), 404 | 405) => return Err(error),
            _ => {
                for object in &present.items {
                    gone_is_fine(api.delete(object.metadata.name.as_deref().unwrap_or_default(), &params).await)?;
                }
            }
        }
        let left = api.list_metadata(&list).await?.items;
        if left.is_empty() {
            return Ok(());
        }
        let key = (content.resource.plural.clone(), content.resource.group.clone());
        report.remaining.insert(key, left.len());
        for finalizer in left.iter().flat_map(|object| object.metadata.finalizers.iter().flatten()) {
            *report.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    async fn apply(&self, mut namespace: Namespace, actions: Vec<Action>) -> Result<(), Error> {
        let api = Api::<Namespace>::all(self.client.clone());
        let name = namespace.metadata.name.clone().unwrap_or_default();
        for action in actions {
            match action {
                Action::SetStatus(status) => {
                    namespace.status = Some(status);
                    let result = api.replace_status(&name, &PostParams::default(), &namespace).await;
                    let written =
                        gone_is_fine(result).map_err(Error::api(format!("update status of namespace {name}")))?;
                    let Some(written) = written else { return Ok(()) };
                    namespace = written;
                }
                Action::Finalize => {
                    let finalizers = namespace.spec.get_or_insert_default().finalizers.get_or_insert_default();
                    finalizers.retain(|finalizer| finalizer != FINALIZER);
                    let result = api.replace_subresource("finalize", &name, &PostParams::default(), &namespace).await;
                    gone_is_fine(result).map_err(Error::api(format!("finalize namespace {name}")))?;
                    info!(namespace = name, "namespace is empty and may go");
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace"
    }

    fn workers(&self) -> usize {
        10
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.namespaces.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let name = &key.name;
        let live = Api::<Namespace>::all(self.client.clone()).get(name).await;
        let Some(namespace) = gone_is_fine(live).map_err(Error::api(format!("get namespace {name}")))? else {
            return Ok(None);
        };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|finalizer| finalizer == FINALIZER)
        {
            return Ok(None);
        }
        // From here on the end of a pod wakes us.
        let round = {
            let mut waits = self.waits.lock();
            let rounds = waits.entry(name.clone()).or_default();
            *rounds += 1;
            *rounds - 1
        };
        let report = self.delete_content(name).await;
        let actions = plan(&namespace, &report, self.clock.now());
        let done = actions.contains(&Action::Finalize);
        self.apply(namespace, actions).await?;
        if done {
            self.waits.lock().remove(name);
            return Ok(None);
        }
        Ok(Some(RETRY.delay(round)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    fn namespace(conditions: Option<Vec<NamespaceCondition>>) -> Namespace {
        let mut namespace: Namespace =
            serde_json::from_value(json!({ "metadata": { "name": "x" }, "status": { "phase": "Terminating" } }))
                .expect("a namespace");
        namespace.status.get_or_insert_default().conditions = conditions;
        namespace
    }

    fn said(actions: &[Action]) -> Vec<String> {
        let Some(Action::SetStatus(status)) = actions.first() else { panic!("{actions:?}") };
        let conditions = status.conditions.iter().flatten();
        let text = |condition: &NamespaceCondition| {
            let of = |text: &Option<String>| text.clone().unwrap_or_default();
            format!("{} {} {}", condition.status, of(&condition.reason), of(&condition.message))
        };
        conditions.map(text).collect()
    }

    #[test]
    fn an_empty_namespace_goes() {
        let actions = plan(&namespace(None), &Report::default(), NOW);
        assert_eq!(
            said(&actions),
            [
                "False ResourcesDiscovered All resources successfully discovered",
                "False ParsedGroupVersions All legacy kube types successfully parsed",
                "False ContentDeleted All content successfully deleted, may be waiting on finalization",
                "False ContentRemoved All content successfully removed",
                "False ContentHasNoFinalizers All content-preserving finalizers finished",
            ]
        );
        assert_eq!(actions[1..], [Action::Finalize]);
        let Action::SetStatus(status) = &actions[0] else { panic!() };
        assert_eq!(plan(&namespace(status.conditions.clone()), &Report::default(), NOW), [Action::Finalize]);
    }

    #[test]
    fn what_remains_is_told() {
        let report = Report {
            remaining: BTreeMap::from([
                (("pods".into(), String::new()), 2),
                (("deployments".into(), "apps".into()), 1),
            ]),
            finalizers: BTreeMap::from([("example.com/x".into(), 3)]),
            ..Report::default()
        };
        let actions = plan(&namespace(None), &report, NOW);
        assert_eq!(
            said(&actions)[3..],
            [
                "True SomeResourcesRemain Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances",
                "True SomeFinalizersRemain Some content in the namespace has finalizers remaining: example.com/x in 3 resource instances",
            ]
        );
        assert_eq!(actions.len(), 1);
    }

    #[test]
    fn failures_keep_it() {
        let report = Report { content_errors: vec!["a".into(), "b".into()], ..Report::default() };
        let actions = plan(&namespace(None), &report, NOW);
        let expected = "True ContentDeletionFailed Failed to delete all resource types, 2 remaining: [a, b]";
        assert_eq!((said(&actions)[2].as_str(), actions.len()), (expected, 1));
        let report = Report { discovery_error: Some("no".into()), ..Report::default() };
        assert_eq!(said(&plan(&namespace(None), &report, NOW))[0], "True DiscoveryFailed no");
    }
}
