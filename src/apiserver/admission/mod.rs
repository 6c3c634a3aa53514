//! Admission: what is changed and refused after authorization and before an object is stored.
//!
//! Invariants:
//! - AD-1: plugins run in upstream's order, all `mutate` before any `validate`.
//! - AD-2: a plugin reads other objects only through the [`ObjectReader`].
//! - AD-3: what a hook changed goes once more through every plugin that mutates.

mod certificates;
mod claim_resize;
mod config;
mod default_ingress_class;
mod default_storage_class;
mod escalation;
mod expression;
mod lifecycle;
mod limit_ranger;
mod live;
mod matching;
mod node_restriction;
mod node_taint;
mod optional;
mod pod_topology;
mod podsecurity;
mod policy;
mod priority;
mod protection;
pub mod quota;
mod reinvocation;
mod runtime_class;
mod service_account;
mod shown;
mod tolerations;
mod webhook;

use std::sync::Arc;

pub use config::AdmissionConfig;
pub use podsecurity::PodSecurityConfig;
pub use reinvocation::Reinvocation;

use api::Kind;
use apimachinery::gvk::GroupResource;
use apimachinery::status::Status;
use async_trait::async_trait;
use component_base::SharedClock;
use serde_json::Value;

use crate::Server;
use crate::attributes::User;
use crate::authz::Authorizer;
use crate::cache::ObjectReader;
use crate::error::Error;
use crate::kinds::Kinds;
use crate::loopback::Writer;
use crate::notes::RequestNotes;
use crate::webhooks::Caller;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    /// exec, attach, portforward, proxy.
    Connect,
}

/// What is to be admitted. For a delete, the object is in `old_object` and the plugins get `Value::Null`.
pub struct AdmissionRequest<'a> {
    pub user: &'a User,
    /// The resource's kind, also for its subresources.
    pub kind: &'a Kind,
    pub operation: Operation,
    /// "" for the resource itself.
    pub subresource: &'a str,
    pub namespace: &'a str,
    /// "" while generateName has not been resolved.
    pub name: &'a str,
    /// This object is deleted along with others: the request itself names none.
    pub in_collection: bool,
    pub old_object: Option<&'a Value>,
    pub dry_run: bool,
    /// The CreateOptions, UpdateOptions, DeleteOptions of the request.
    pub options: &'a Value,
    pub reader: &'a dyn ObjectReader,
    pub notes: &'a RequestNotes,
    /// For what a plugin itself must write.
    pub writer: &'a dyn Writer,
    /// For versions that only a webhook can convert between; `None` in tests.
    pub server: Option<&'a Server>,
    pub reinvocation: Reinvocation,
}

impl AdmissionRequest<'_> {
    pub fn resource(&self) -> GroupResource {
        GroupResource::new(self.kind.group.as_ref(), self.kind.plural.as_ref())
    }

    pub fn is(&self, group: &str, resource: &str) -> bool {
        self.kind.group == group && self.kind.plural == resource
    }

    /// The name in the request, as hooks see it.
    pub(crate) fn shown_name(&self) -> &str {
        if self.in_collection { "" } else { self.name }
    }

    pub(crate) fn forbidden(&self, text: impl std::fmt::Display) -> Status {
        Status::forbidden(&self.resource(), self.name, text)
    }

    /// Tells the client something beside the answer.
    pub fn warn(&self, text: impl Into<String>) {
        self.notes.warn(text);
    }

    /// Tells the audit log something.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        self.notes.annotate(key, value);
    }

    /// A create or update of the pod itself.
    fn writes_pod(&self) -> bool {
        self.is("", "pods")
            && self.subresource.is_empty()
            && matches!(self.operation, Operation::Create | Operation::Update)
    }
}

/// One plugin. Both halves are optional.
#[async_trait]
pub trait Plugin: Send + Sync + 'static {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    async fn mutate(&self, _request: &AdmissionRequest<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    async fn validate(&self, _request: &AdmissionRequest<'_>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }

    /// The mutating half of a deletion for who must see what is deleted.
    async fn deleting(&self, _request: &AdmissionRequest<'_>) -> Result<(), Status> {
        Ok(())
    }
}

/// The plugins of a server, in order.
pub struct Admission {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Admission {
    /// AD-1: the plugins in upstream's order.
    ///
    /// # Errors
    /// [`Error::Config`] for names of plugins that there are not.
    pub fn new(
        config: &AdmissionConfig,
        authorizer: Arc<Authorizer>,
        clock: SharedClock,
        kinds: Arc<Kinds>,
        caller: Arc<Caller>,
    ) -> Result<Self, Error> {
        let all: Vec<(bool, Box<dyn Plugin>)> = vec![
            (false, Box::new(optional::AlwaysAdmit)),
            (true, Box::new(lifecycle::NamespaceLifecycle)),
            (false, Box::new(optional::NamespaceExists)),
            (true, Box::new(limit_ranger::LimitRanger)),
            (false, Box::new(optional::LimitPodHardAntiAffinityTopology)),
            (true, Box::new(service_account::ServiceAccount)),
            (true, Box::new(node_restriction::NodeRestriction::new(authorizer.clone()))),
            (true, Box::new(node_taint::TaintNodesByCondition)),
            (false, Box::new(optional::AlwaysPullImages)),
            (true, Box::new(podsecurity::PodSecurity::new(config.pod_security.clone()))),
            (true, Box::new(priority::Priority)),
            (true, Box::new(tolerations::DefaultTolerationSeconds)),
            (false, Box::new(optional::ExtendedResourceToleration)),
            (true, Box::new(default_storage_class::DefaultStorageClass)),
            (true, Box::new(protection::StorageObjectInUseProtection)),
            (false, Box::new(optional::OwnerReferencesPermissionEnforcement::new(authorizer.clone()))),
            (true, Box::new(claim_resize::PersistentVolumeClaimResize)),
            (true, Box::new(runtime_class::RuntimeClass)),
            (true, Box::new(certificates::CertificateApproval(authorizer.clone()))),
            (true, Box::new(certificates::CertificateSigning(authorizer.clone()))),
            (true, Box::new(certificates::CertificateSubjectRestriction)),
            (true, Box::new(default_ingress_class::DefaultIngressClass)),
            (false, Box::new(optional::DenyServiceExternalIPs)),
            (true, Box::new(pod_topology::PodTopologyLabels)),
            (true, Box::new(escalation::Escalation::new(authorizer.clone()))),
            (true, Box::new(policy::MutatingPolicies::new(authorizer.clone(), kinds.clone()))),
            (true, Box::new(webhook::MutatingWebhooks::new(authorizer.clone(), kinds.clone(), caller.clone()))),
            (true, Box::new(policy::ValidatingPolicies::new(authorizer.clone(), kinds.clone()))),
            (true, Box::new(webhook::ValidatingWebhooks::new(authorizer, kinds, caller))),
            (true, Box::new(quota::ResourceQuota::new(clock, config.limited_resources.clone()))),
            (false, Box::new(optional::AlwaysDeny)),
        ];
        for (flag, names) in [("enable", &config.enable), ("disable", &config.disable)] {
            let unknown = names.iter().find(|name| !all.iter().any(|(_, plugin)| plugin.name() == *name));
            if let Some(name) = unknown {
                let detail = format!("{flag}-admission-plugins plugin \"{name}\" is unknown");
                return Err(Error::Config { what: "admission", detail });
            }
            if let Some(name) = config.enable.iter().find(|name| config.disable.contains(name)) {
                let detail = format!("\"{name}\" in enable-admission-plugins and disable-admission-plugins overlapped");
                return Err(Error::Config { what: "admission", detail });
            }
        }
        let plugins = all.into_iter().filter_map(|(default, plugin)| {
            let named = |list: &[String]| list.iter().any(|name| name == plugin.name());
            ((default || named(&config.enable)) && !named(&config.disable)).then_some(plugin)
        });
        Ok(Self { plugins: plugins.collect() })
    }

    pub async fn mutate(&self, request: &AdmissionRequest<'_>, object: &mut Value) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.mutate(request, object).await?;
        }
        // AD-3
        if request.reinvocation.next_round() {
            for plugin in &self.plugins {
                plugin.mutate(request, object).await?;
            }
        }
        Ok(())
    }

    /// A deletion, once it is known what is deleted.
    pub async fn deleting(&self, request: &AdmissionRequest<'_>) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.deleting(request).await?;
        }
        Ok(())
    }

    pub async fn validate(&self, request: &AdmissionRequest<'_>, object: &Value) -> Result<(), Status> {
        for plugin in &self.plugins {
            plugin.validate(request, object).await?;
        }
        Ok(())
    }
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Every container of a pod, of whatever sort.
fn containers(spec: &Value) -> impl Iterator<Item = &Value> {
    ["initContainers", "containers", "ephemeralContainers"].into_iter().flat_map(|key| list(spec, key))
}

/// The sources of the projected volumes of a pod.
fn projections(spec: &Value) -> impl Iterator<Item = &Value> {
    list(spec, "volumes").iter().flat_map(|volume| list(&volume["projected"], "sources"))
}

/// The pod names a Secret somewhere.
fn refers_to_secrets(spec: &Value) -> bool {
    const BY_DRIVER: &[&str] =
        &["csi", "cephfs", "flexVolume", "rbd", "scaleIO", "iscsi", "storageos", "azureFile", "secret"];
    let of_driver = |volume: &Value| {
        let keys = ["secretRef", "nodePublishSecretRef", "secretName"];
        BY_DRIVER.iter().any(|driver| keys.iter().any(|key| !volume[*driver][*key].is_null()))
    };
    let of_container = |container: &Value| {
        list(container, "envFrom").iter().any(|entry| !entry["secretRef"].is_null())
            || list(container, "env").iter().any(|entry| !entry["valueFrom"]["secretKeyRef"].is_null())
    };
    !list(spec, "imagePullSecrets").is_empty()
        || containers(spec).any(of_container)
        || list(spec, "volumes").iter().any(of_driver)
        || projections(spec).any(|source| !source["secret"].is_null())
}

/// The list at a key, made when absent or null.
fn list_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut Vec<Value> {
    let slot = &mut object[key];
    if !slot.is_array() {
        *slot = Value::Array(Vec::new());
    }
    slot.as_array_mut().expect("it was made one")
}

#[cfg(test)]
mod plugin_tests;
#[cfg(test)]
pub(crate) mod tests;
