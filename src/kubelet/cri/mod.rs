//! The Container Runtime Interface: a client of one runtime over its unix socket.
//!
//! Invariants:
//! - CRI-1: every call has a deadline.
//! - CRI-2: the connection heals by itself: a runtime that restarts needs no new client.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::error::{Error, Result};

/// The protocol's own types.
#[allow(clippy::all, clippy::pedantic, rustdoc::all, missing_docs, rust_2018_idioms)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

use v1::image_service_client::ImageServiceClient;
use v1::runtime_service_client::RuntimeServiceClient;

/// Upstream's `runtimeRequestTimeout`.
const REQUEST: Duration = Duration::from_secs(120);
/// Creating a sandbox may include a slow network plug-in; upstream doubles the timeout.
const SANDBOX: Duration = Duration::from_secs(240);
/// Messages of nodes with very many containers.
const MESSAGE_LIMIT: usize = 16 << 20;

/// A runtime. Cloning shares the connection.
#[derive(Clone)]
pub struct Cri {
    channel: Channel,
    runtime: RuntimeServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    socket: PathBuf,
}

/// What a command in a container gave.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    pub exit_code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// The socket path of an endpoint (`unix:///run/x.sock` or a plain path).
pub fn socket_path(endpoint: &str) -> PathBuf {
    PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint))
}

fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    // The address is a placeholder: the connector above knows where to go.
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(connector)
}

fn timed<T>(message: T, timeout: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(timeout);
    request
}

impl Cri {
    /// A client of the runtime at `endpoint`. Does not connect yet.
    pub fn new(endpoint: &str) -> Self {
        let socket = socket_path(endpoint);
        let channel = channel(&socket);
        let limit = MESSAGE_LIMIT;
        Self {
            runtime: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(limit),
            images: ImageServiceClient::new(channel.clone()).max_decoding_message_size(limit),
            channel,
            socket,
        }
    }

    /// The connection, for the services of containerd that CRI lacks.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// # Errors
    /// When the runtime does not answer.
    pub async fn version(&self) -> Result<v1::VersionResponse> {
        let request = v1::VersionRequest { version: "0.1.0".into() };
        let answer = self.runtime.clone().version(timed(request, Duration::from_secs(10))).await;
        Ok(answer.map_err(|status| self.unreachable(&status))?.into_inner())
    }

    fn unreachable(&self, status: &tonic::Status) -> Error {
        Error::Connect { endpoint: self.socket.display().to_string(), message: status.message().to_owned() }
    }

    /// The conditions `RuntimeReady` and `NetworkReady`.
    ///
    /// # Errors
    /// When the runtime does not answer.
    pub async fn status(&self) -> Result<v1::StatusResponse> {
        let request = timed(v1::StatusRequest { verbose: false }, REQUEST);
        Ok(self.runtime.clone().status(request).await?.into_inner())
    }

    /// # Errors
    /// What the runtime says.
    pub async fn run_pod_sandbox(&self, config: v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let request = v1::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        let answer = self.runtime.clone().run_pod_sandbox(timed(request, SANDBOX)).await?;
        Ok(answer.into_inner().pod_sandbox_id)
    }

    /// # Errors
    /// What the runtime says; a sandbox that is gone is fine.
    pub async fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.runtime.clone().stop_pod_sandbox(timed(request, REQUEST)).await)
    }

    /// Removes the sandbox and its containers.
    ///
    /// # Errors
    /// What the runtime says; a sandbox that is gone is fine.
    pub async fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        gone_is_fine(self.runtime.clone().remove_pod_sandbox(timed(request, REQUEST)).await)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn pod_sandbox_status(&self, id: &str) -> Result<v1::PodSandboxStatus> {
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().pod_sandbox_status(timed(request, REQUEST)).await?.into_inner();
        answer.status.ok_or_else(|| tonic::Status::internal(format!("sandbox {id} has no status")).into())
    }

    /// # Errors
    /// What the runtime says.
    pub async fn list_pod_sandboxes(&self, filter: v1::PodSandboxFilter) -> Result<Vec<v1::PodSandbox>> {
        let request = timed(v1::ListPodSandboxRequest { filter: Some(filter) }, REQUEST);
        Ok(self.runtime.clone().list_pod_sandbox(request).await?.into_inner().items)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn create_container(
        &self,
        sandbox: &str,
        config: v1::ContainerConfig,
        sandbox_config: v1::PodSandboxConfig,
    ) -> Result<String> {
        let request = v1::CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        Ok(self.runtime.clone().create_container(timed(request, REQUEST)).await?.into_inner().container_id)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn start_container(&self, id: &str) -> Result<()> {
        let request = v1::StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(timed(request, REQUEST)).await?;
        Ok(())
    }

    /// Asks the container to stop and kills it after `grace` seconds.
    ///
    /// # Errors
    /// What the runtime says; a container that is gone is fine.
    pub async fn stop_container(&self, id: &str, grace: i64) -> Result<()> {
        let request = v1::StopContainerRequest { container_id: id.to_owned(), timeout: grace };
        let timeout = REQUEST + Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        gone_is_fine(self.runtime.clone().stop_container(timed(request, timeout)).await)
    }

    /// # Errors
    /// What the runtime says; a container that is gone is fine.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let request = v1::RemoveContainerRequest { container_id: id.to_owned() };
        gone_is_fine(self.runtime.clone().remove_container(timed(request, REQUEST)).await)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn list_containers(&self, filter: v1::ContainerFilter) -> Result<Vec<v1::Container>> {
        let request = timed(v1::ListContainersRequest { filter: Some(filter) }, REQUEST);
        Ok(self.runtime.clone().list_containers(request).await?.into_inner().containers)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn container_status(&self, id: &str) -> Result<v1::ContainerStatus> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.runtime.clone().container_status(timed(request, REQUEST)).await?.into_inner();
        answer.status.ok_or_else(|| tonic::Status::internal(format!("container {id} has no status")).into())
    }

    /// # Errors
    /// What the runtime says.
    pub async fn update_container_resources(&self, id: &str, linux: v1::LinuxContainerResources) -> Result<()> {
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(linux),
            ..Default::default()
        };
        self.runtime.clone().update_container_resources(timed(request, REQUEST)).await?;
        Ok(())
    }

    /// # Errors
    /// What the runtime says.
    pub async fn reopen_container_log(&self, id: &str) -> Result<()> {
        let request = v1::ReopenContainerLogRequest { container_id: id.to_owned() };
        self.runtime.clone().reopen_container_log(timed(request, REQUEST)).await?;
        Ok(())
    }

    /// Runs `command` in the container; the runtime kills it after `timeout` (zero: never).
    ///
    /// # Errors
    /// What the runtime says; `DeadlineExceeded` when the command did not end in time.
    pub async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput> {
        let seconds = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
        let request = v1::ExecSyncRequest { container_id: id.to_owned(), cmd: command.to_vec(), timeout: seconds };
        let mut request = tonic::Request::new(request);
        if !timeout.is_zero() {
            // The runtime's own limit should win: it cleans up the process.
            request.set_timeout(timeout + Duration::from_secs(10));
        }
        let answer = self.runtime.clone().exec_sync(request).await?.into_inner();
        Ok(ExecOutput { exit_code: answer.exit_code, stdout: answer.stdout, stderr: answer.stderr })
    }

    /// The URL where the runtime serves this exec's streams.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        Ok(self.runtime.clone().exec(timed(request, REQUEST)).await?.into_inner().url)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        Ok(self.runtime.clone().attach(timed(request, REQUEST)).await?.into_inner().url)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String> {
        Ok(self.runtime.clone().port_forward(timed(request, REQUEST)).await?.into_inner().url)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn list_container_stats(&self) -> Result<Vec<v1::ContainerStats>> {
        let request = timed(v1::ListContainerStatsRequest { filter: None }, REQUEST);
        Ok(self.runtime.clone().list_container_stats(request).await?.into_inner().stats)
    }

    /// The runtime's event stream (containerd 1.7 and later).
    ///
    /// # Errors
    /// `Unimplemented` when the runtime has none.
    pub async fn container_events(&self) -> Result<tonic::Streaming<v1::ContainerEventResponse>> {
        Ok(self.runtime.clone().get_container_events(v1::GetEventsRequest {}).await?.into_inner())
    }

    /// # Errors
    /// What the runtime says.
    pub async fn list_images(&self) -> Result<Vec<v1::Image>> {
        let request = timed(v1::ListImagesRequest { filter: None }, REQUEST);
        Ok(self.images.clone().list_images(request).await?.into_inner().images)
    }

    /// The image, when the runtime has it.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn image_status(&self, image: &str) -> Result<Option<v1::Image>> {
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = timed(v1::ImageStatusRequest { image: Some(spec), verbose: false }, REQUEST);
        Ok(self.images.clone().image_status(request).await?.into_inner().image)
    }

    /// Pulls without a deadline (the caller cancels by dropping); the reference of the image.
    ///
    /// # Errors
    /// What the runtime says.
    pub async fn pull_image(
        &self,
        image: &str,
        auth: Option<v1::AuthConfig>,
        sandbox_config: Option<v1::PodSandboxConfig>,
    ) -> Result<String> {
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = v1::PullImageRequest { image: Some(spec), auth, sandbox_config };
        Ok(self.images.clone().pull_image(request).await?.into_inner().image_ref)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn remove_image(&self, image: &str) -> Result<()> {
        let spec = v1::ImageSpec { image: image.to_owned(), ..Default::default() };
        let request = timed(v1::RemoveImageRequest { image: Some(spec) }, REQUEST);
        gone_is_fine(self.images.clone().remove_image(request).await)
    }

    /// # Errors
    /// What the runtime says.
    pub async fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        let request = timed(v1::ImageFsInfoRequest {}, REQUEST);
        Ok(self.images.clone().image_fs_info(request).await?.into_inner())
    }
}

fn gone_is_fine<T>(answer: Result<tonic::Response<T>, tonic::Status>) -> Result<()> {
    match answer {
        Err(status) if status.code() != tonic::Code::NotFound => Err(status.into()),
        _ => Ok(()),
    }
}
