//! Where the server's knowledge comes from: the kubelet's pods and the container runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use component_base::SharedClock;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{mpsc, watch};

use crate::containerd::events::{self, RuntimeEvent};
use crate::containers::text;
use crate::cri::v1::runtime_service_client::RuntimeServiceClient;
use crate::cri::{Cri, ExecOutput, v1};
use crate::error::Result;
use crate::kubelet::Access;
use crate::runtime::names;

/// The pods of this node, with the newest statuses that the kubelet knows.
pub trait PodSource: Send + Sync + 'static {
    fn pods(&self) -> Vec<Arc<Pod>>;

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>>;

    /// # Errors
    /// Why the kubelet does not do its work.
    fn health(&self) -> Result<(), String> {
        Ok(())
    }
}

/// What the server asks of the container runtime.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn container(&self, id: &str) -> Result<v1::ContainerStatus>;
    /// The id of the running container of that name.
    async fn running_container(&self, pod_uid: &str, name: &str) -> Result<Option<String>>;
    /// The id of the pod's ready sandbox.
    async fn ready_sandbox(&self, pod_uid: &str) -> Result<Option<String>>;
    /// The URL where the runtime serves the streams; likewise the next two.
    async fn exec(&self, request: v1::ExecRequest) -> Result<String>;
    async fn attach(&self, request: v1::AttachRequest) -> Result<String>;
    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String>;
    async fn exec_sync(&self, container: &str, command: &[String]) -> Result<ExecOutput>;
    async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>>;
    async fn sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>>;
    async fn image_fs(&self) -> Result<v1::ImageFsInfoResponse>;
    /// Tells of changes for ever.
    async fn watch(&self, clock: SharedClock, out: mpsc::UnboundedSender<RuntimeEvent>);
}

/// A kubelet that runs.
impl PodSource for Access {
    fn pods(&self) -> Vec<Arc<Pod>> {
        Access::pods(self).into_iter().map(Arc::new).collect()
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        let pod = Access::pod(self, namespace, name)?;
        Some(match self.shared.status.get(text(&pod.metadata.uid)) {
            Some(status) => Arc::new(Pod { status: Some(status), ..pod.as_ref().clone() }),
            None => pod,
        })
    }
}

/// A kubelet that may not run yet, or be between two runs: it then has no pods.
impl PodSource for watch::Receiver<Option<Access>> {
    fn pods(&self) -> Vec<Arc<Pod>> {
        self.borrow().as_ref().map_or(Vec::new(), PodSource::pods)
    }

    fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Pod>> {
        PodSource::pod(self.borrow().as_ref()?, namespace, name)
    }

    fn health(&self) -> Result<(), String> {
        if self.borrow().is_some() { Ok(()) } else { Err("the kubelet does not run".into()) }
    }
}

#[async_trait]
impl Runtime for Cri {
    async fn container(&self, id: &str) -> Result<v1::ContainerStatus> {
        self.container_status(id).await
    }

    async fn running_container(&self, pod_uid: &str, name: &str) -> Result<Option<String>> {
        let label_selector = HashMap::from([
            (names::POD_UID.to_owned(), pod_uid.to_owned()),
            (names::CONTAINER_NAME.to_owned(), name.to_owned()),
        ]);
        let state = Some(v1::ContainerStateValue { state: v1::ContainerState::ContainerRunning.into() });
        let filter = v1::ContainerFilter { label_selector, state, ..v1::ContainerFilter::default() };
        let found = self.list_containers(filter).await?;
        Ok(found.into_iter().max_by_key(|c| c.created_at).map(|c| c.id))
    }

    async fn ready_sandbox(&self, pod_uid: &str) -> Result<Option<String>> {
        let label_selector = HashMap::from([(names::POD_UID.to_owned(), pod_uid.to_owned())]);
        let filter = v1::PodSandboxFilter { label_selector, ..v1::PodSandboxFilter::default() };
        let found = self.list_pod_sandboxes(filter).await?;
        let ready = found.into_iter().filter(|s| s.state() == v1::PodSandboxState::SandboxReady);
        Ok(ready.max_by_key(|s| s.created_at).map(|s| s.id))
    }

    async fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        self.exec(request).await
    }

    async fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        self.attach(request).await
    }

    async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String> {
        self.port_forward(request).await
    }

    async fn exec_sync(&self, container: &str, command: &[String]) -> Result<ExecOutput> {
        self.exec_sync(container, command, Duration::ZERO).await
    }

    async fn container_stats(&self) -> Result<Vec<v1::ContainerStats>> {
        self.list_container_stats().await
    }

    async fn sandbox_stats(&self) -> Result<Vec<v1::PodSandboxStats>> {
        let mut request = tonic::Request::new(v1::ListPodSandboxStatsRequest { filter: None });
        request.set_timeout(Duration::from_secs(30));
        let mut client = RuntimeServiceClient::new(self.channel()).max_decoding_message_size(16 << 20);
        Ok(client.list_pod_sandbox_stats(request).await?.into_inner().stats)
    }

    async fn image_fs(&self) -> Result<v1::ImageFsInfoResponse> {
        self.image_fs_info().await
    }

    async fn watch(&self, clock: SharedClock, out: mpsc::UnboundedSender<RuntimeEvent>) {
        events::watch(self.clone(), clock, out).await;
    }
}
