//! Nobody hands out more than they have: roles and bindings are checked against the writer's own rules. Upstream does
//! this in the storage of these kinds, before validation; so it runs as the last mutating plugin.

use std::sync::Arc;

use apimachinery::status::Status;
use async_trait::async_trait;
use serde_json::Value;

use super::{AdmissionRequest, Operation, Plugin, text};
use crate::authz::rules::{Rule, compact, go_quote, go_strings, missing};
use crate::authz::{Attributes, Authorizer, MASTERS};

const GROUP: &str = "rbac.authorization.k8s.io";

pub struct Escalation {
    authorizer: Arc<Authorizer>,
}

impl Escalation {
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Self { authorizer }
    }

    async fn allowed(&self, request: &AdmissionRequest<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let attributes = Attributes::resource(request.user, verb, GROUP, resource, request.namespace, name);
        self.authorizer.authorize(&attributes).await.allowed()
    }

    async fn confirm(&self, request: &AdmissionRequest<'_>, wanted: &[Rule]) -> Result<(), Status> {
        let (owned, errors) = self.authorizer.rules_for(request.user, request.namespace).await;
        let lacking = missing(&owned, wanted);
        if lacking.is_empty() {
            return Ok(());
        }
        let mut described: Vec<String> = compact(lacking).iter().map(Rule::describe).collect();
        described.sort();
        described.dedup();
        let mut text = format!(
            "user {} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
            go_quote(&request.user.name),
            go_strings(&request.user.groups),
            described.join("\n")
        );
        if !errors.is_empty() {
            text.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
        }
        Err(request.forbidden(text))
    }

    async fn role(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let name = text(&object["metadata"], "name");
        if self.allowed(request, "escalate", &request.kind.plural, name).await {
            return Ok(());
        }
        // An aggregated role can come to hold anything.
        if !object["aggregationRule"]["clusterRoleSelectors"].as_array().is_none_or(Vec::is_empty) {
            let star = || vec!["*".to_owned()];
            let everything = [
                Rule { verbs: star(), api_groups: star(), resources: star(), ..Rule::default() },
                Rule { verbs: star(), non_resource_urls: star(), ..Rule::default() },
            ];
            self.confirm(request, &everything).await?;
        }
        self.confirm(request, &Rule::list(&object["rules"])).await
    }

    async fn binding(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        let role = &object["roleRef"];
        let (kind, name) = (text(role, "kind"), text(role, "name"));
        let resource = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        if self.allowed(request, "bind", resource, name).await {
            return Ok(());
        }
        match self.authorizer.role_rules(kind, request.namespace, name).await {
            Some(rules) => self.confirm(request, &rules).await,
            None => Err(Status::not_found(&request.resource(), name)),
        }
    }
}

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        if request.kind.group != GROUP || !writes || request.user.groups.iter().any(|g| g == MASTERS) {
            return Ok(());
        }
        if request.old_object.is_some_and(|old| only_collectors_fields(object, old)) {
            return Ok(());
        }
        match request.kind.plural.as_ref() {
            "roles" | "clusterroles" => self.role(request, object).await,
            "rolebindings" | "clusterrolebindings" => self.binding(request, object).await,
            _ => Ok(()),
        }
    }
}

/// The garbage collector may finish a deletion without holding what the role grants.
fn only_collectors_fields(object: &Value, old: &Value) -> bool {
    let stripped = |value: &Value| {
        let mut value = value.clone();
        if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            for key in ["ownerReferences", "finalizers", "managedFields"] {
                meta.remove(key);
            }
        }
        value
    };
    stripped(object) == stripped(old)
}
