//! What every worker uses.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{EventRecorder, EventType, Informer, object_reference};
use component_base::SharedClock;
use k8s_openapi::api::core::v1::{ObjectReference, Pod, Service};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::{Api, Client};
use parking_lot::Mutex;

use crate::cgroups::PodGroups;
use crate::config::KubeletConfig;
use crate::containers::field_path;
use crate::cri::Cri;
use crate::error::{Error, Result};
use crate::images::Images;
use crate::images::durable::Durable;
use crate::objects::Objects;
use crate::probes::Probes;
use crate::probes::prober::Prober;
use crate::runtime::{self, PodRuntime};
use crate::status::manager::StatusManager;
use crate::volumes::Volumes;

/// The machine, as far as pods are concerned.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Bytes.
    pub memory: i64,
    pub milli_cpu: i64,
    /// What the node offers to pods.
    pub allocatable: BTreeMap<String, Quantity>,
}

pub struct Shared {
    pub config: Arc<KubeletConfig>,
    pub client: Client,
    pub cri: Cri,
    pub images: Images,
    pub durable: Durable,
    pub volumes: Volumes,
    pub objects: Objects,
    pub status: StatusManager,
    pub probes: Probes,
    pub prober: Prober,
    pub groups: PodGroups,
    pub recorder: EventRecorder,
    pub clock: SharedClock,
    pub services: Informer<Service>,
    pub machine: Machine,
    /// Containers and sandboxes by id, and the pod they belong to.
    pub owners: Mutex<HashMap<String, String>>,
}

impl Shared {
    /// A reference to the pod (or one of its containers) for events.
    pub fn reference(&self, pod: &Pod, container: Option<&str>) -> ObjectReference {
        let mut reference = object_reference(pod);
        reference.field_path = container.and_then(|name| field_path(pod, name));
        reference
    }

    pub fn event(&self, pod: &Pod, container: Option<&str>, kind: EventType, reason: &str, message: &str) {
        self.recorder.event(&self.reference(pod, container), kind, reason, message);
    }

    pub fn owner_of(&self, id: &str) -> Option<String> {
        self.owners.lock().get(id).cloned()
    }

    pub fn own(&self, id: &str, uid: &str) {
        self.owners.lock().insert(id.to_owned(), uid.to_owned());
    }

    /// Reads the pod from the runtime and remembers whose containers these are.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn read(&self, uid: &str) -> Result<PodRuntime> {
        let found = runtime::read(&self.cri, uid).await?;
        let mut owners = self.owners.lock();
        let ids = found.containers.iter().map(|c| &c.id).chain(found.sandboxes.iter().map(|s| &s.id));
        for id in ids {
            if !owners.contains_key(id) {
                owners.insert(id.clone(), uid.to_owned());
            }
        }
        Ok(found)
    }

    pub fn disown(&self, uid: &str) {
        self.owners.lock().retain(|_, owner| owner != uid);
    }

    pub fn host_ips(&self) -> Vec<String> {
        vec![self.config.node_ip.to_string()]
    }

    /// The runtime handler that the pod's RuntimeClass names.
    ///
    /// # Errors
    /// When there is no such class.
    pub async fn runtime_handler(&self, pod: &Pod) -> Result<String> {
        let name = pod.spec.as_ref().and_then(|s| s.runtime_class_name.clone()).filter(|n| !n.is_empty());
        let Some(name) = name else { return Ok(String::new()) };
        let class = Api::<RuntimeClass>::all(self.client.clone()).get(&name).await;
        class
            .map(|class| class.handler)
            .map_err(Error::api(format!("failed to get sandbox runtime: RuntimeClass {name:?}")))
    }
}
