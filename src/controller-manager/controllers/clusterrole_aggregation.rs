//! ClusterRoles that are made of others: their rules are those of the roles that their selectors match.
//!
//! Watches ClusterRoles. Writes the rules of those with an aggregationRule.
//!
//! Invariants:
//! - CA-1: each rule once, in the order of the names of the roles it comes from; a role does not aggregate itself.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::{Client, Informer, ObjectKey, WorkQueue};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use kube::Api;
use kube::api::PostParams;

use crate::error::{Error, gone_is_fine};
use crate::manager::{Context, Controller};
use crate::owners::selects;

struct Aggregation {
    client: Client,
    queue: WorkQueue<ObjectKey>,
    roles: Informer<ClusterRole>,
}

pub fn new(cx: &Context) -> Arc<dyn Controller> {
    let this = Aggregation { client: cx.client.clone(), queue: cx.queue(), roles: cx.informers.of() };
    let (queue, roles) = (this.queue.clone(), this.roles.clone());
    this.roles.on_change(move |change| {
        queue.add(ObjectKey::of(change.object().as_ref()));
        // Whatever aggregates may have to take it in, or leave it out now.
        for role in roles.list().into_iter().filter(|role| role.aggregation_rule.is_some()) {
            queue.add(ObjectKey::of(role.as_ref()));
        }
    });
    Arc::new(this)
}

/// The rules that `role` should have; none: it is not made of others.
fn aggregated(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Option<Vec<PolicyRule>> {
    let selectors = role.aggregation_rule.as_ref()?.cluster_role_selectors.as_ref();
    let mut rules: Vec<PolicyRule> = Vec::new();
    for selector in selectors.into_iter().flatten() {
        let mut matching: Vec<&Arc<ClusterRole>> = all
            .iter()
            .filter(|other| other.metadata.name != role.metadata.name)
            .filter(|other| selects(selector, other.metadata.labels.as_ref()))
            .collect();
        matching.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        for rule in matching.into_iter().flat_map(|other| other.rules.iter().flatten()) {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
    Some(rules)
}

#[async_trait]
impl Controller for Aggregation {
    fn name(&self) -> &'static str {
        "clusterrole-aggregation"
    }

    fn queue(&self) -> &WorkQueue<ObjectKey> {
        &self.queue
    }

    async fn synced(&self) {
        self.roles.synced().await;
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Option<Duration>, Error> {
        let Some(role) = self.roles.get(key) else { return Ok(None) };
        let Some(rules) = aggregated(&role, &self.roles.list()) else { return Ok(None) };
        if role.rules.as_deref().unwrap_or_default() == rules {
            return Ok(None);
        }
        let changed = ClusterRole { rules: Some(rules), ..ClusterRole::clone(&role) };
        let api = Api::<ClusterRole>::all(self.client.clone());
        let written = api.replace(&key.name, &PostParams::default(), &changed).await;
        gone_is_fine(written).map_err(Error::api(format!("aggregate cluster role {key}")))?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn role(value: Value) -> Arc<ClusterRole> {
        Arc::new(serde_json::from_value(value).expect("a role"))
    }

    #[test]
    fn takes_each_rule_once_in_the_order_of_names() {
        let rule = |resource: &str| json!({ "apiGroups": [""], "resources": [resource], "verbs": ["get"] });
        let view = role(json!({ "metadata": { "name": "view", "labels": { "to-view": "true" } },
            "aggregationRule": { "clusterRoleSelectors": [{ "matchLabels": { "to-view": "true" } }] } }));
        let all = [
            role(
                json!({ "metadata": { "name": "b", "labels": { "to-view": "true" } }, "rules": [rule("b"), rule("a")] }),
            ),
            role(json!({ "metadata": { "name": "a", "labels": { "to-view": "true" } }, "rules": [rule("a")] })),
            role(json!({ "metadata": { "name": "c" }, "rules": [rule("c")] })),
            view.clone(),
        ];
        let rules = aggregated(&view, &all).expect("aggregates");
        let names: Vec<_> = rules.iter().map(|rule| rule.resources.clone().unwrap_or_default().concat()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(aggregated(&all[2], &all), None);
    }
}
