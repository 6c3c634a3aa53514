//! What a kubelet is told when it starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use bytes::Bytes;
use k8s_openapi::api::core::v1::Taint;

/// The version every node reports.
pub const KUBELET_VERSION: &str = "v1.36.2+kedge1";

#[derive(Debug, Clone)]
pub struct KubeletConfig {
    pub node_name: String,
    /// The address of the node, and of its host-network pods.
    pub node_ip: IpAddr,
    /// Survives reboots (`/var/lib/kedge/agent`).
    pub data_dir: PathBuf,
    /// Does not (`/run/kedge`).
    pub run_dir: PathBuf,
    /// `/var/log/pods`.
    pub pods_log_dir: PathBuf,
    /// `/var/log/containers`: links for log collectors.
    pub container_log_links: PathBuf,
    pub containerd: ContainerdMode,
    /// The program that containerd calls as its CNI plug-in: it is linked into the CNI
    /// directory as `kedge` and `loopback` (empty: somebody else does that).
    pub cni_bin: PathBuf,
    pub cluster_dns: Vec<IpAddr>,
    pub cluster_domain: String,
    pub pause_image: PauseImage,
    pub node_labels: BTreeMap<String, String>,
    /// Put on the node when it registers.
    pub node_taints: Vec<Taint>,
    pub max_pods: u32,
    /// The resolver file of the host, which pods with `dnsPolicy: Default` inherit.
    pub resolv_conf: PathBuf,
    pub server: ServerConfig,
    pub eviction: EvictionThresholds,
    pub image_gc: ImageGc,
    pub provider_id: Option<String>,
    /// The group under which `kubepods` is made ("" is the root of the hierarchy).
    pub cgroup_root: String,
    pub log_rotation: LogRotation,
}

impl KubeletConfig {
    /// The defaults for `node_name` at `node_ip`.
    pub fn new(node_name: impl Into<String>, node_ip: IpAddr, pause_image: PauseImage) -> Self {
        Self {
            node_name: node_name.into(),
            node_ip,
            data_dir: "/var/lib/kedge/agent".into(),
            run_dir: "/run/kedge".into(),
            pods_log_dir: "/var/log/pods".into(),
            container_log_links: "/var/log/containers".into(),
            containerd: ContainerdMode::Managed { binary: None },
            cni_bin: PathBuf::new(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            pause_image,
            node_labels: BTreeMap::new(),
            node_taints: Vec::new(),
            max_pods: 110,
            resolv_conf: "/etc/resolv.conf".into(),
            server: ServerConfig::default(),
            eviction: EvictionThresholds::default(),
            image_gc: ImageGc::default(),
            provider_id: None,
            cgroup_root: String::new(),
            log_rotation: LogRotation::default(),
        }
    }

    /// Where the runtime listens.
    pub fn runtime_endpoint(&self) -> String {
        match &self.containerd {
            ContainerdMode::Managed { .. } => {
                format!("unix://{}", self.run_dir.join("containerd/containerd.sock").display())
            }
            ContainerdMode::External { endpoint } => endpoint.clone(),
        }
    }

    /// Network configurations for the runtime (`*.conflist`); the network component writes them.
    pub fn cni_conf_dir(&self) -> PathBuf {
        self.data_dir.join("cni/net.d")
    }

    pub fn cni_bin_dir(&self) -> PathBuf {
        self.data_dir.join("cni/bin")
    }

    /// OCI archives here are imported at start.
    pub fn images_dir(&self) -> PathBuf {
        self.data_dir.join("images")
    }

    /// Per-registry `hosts.toml` files (containerd's own format).
    pub fn registry_dir(&self) -> PathBuf {
        self.data_dir.join("registry")
    }

    /// What belongs to one pod.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    pub fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("pods")
    }

    /// The logs of one pod, named as upstream names them.
    pub fn pod_log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.pods_log_dir.join(format!("{namespace}_{name}_{uid}"))
    }
}

#[derive(Debug, Clone)]
pub enum ContainerdMode {
    /// We start and supervise our own, with everything of it under our directories.
    Managed {
        /// `None`: the first `containerd` in the usual places.
        binary: Option<PathBuf>,
    },
    /// Somebody else runs it.
    External { endpoint: String },
}

/// The image of every sandbox, brought along in the binary.
#[derive(Debug, Clone)]
pub struct PauseImage {
    /// `docker.io/kedge/pause:1`.
    pub reference: String,
    /// An OCI archive that holds `reference`.
    pub tar: Bytes,
}

/// The kubelet's HTTPS server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    pub bind: SocketAddr,
    /// PEM; without a certificate the server does not start.
    pub certificate: Option<String>,
    pub key: Option<String>,
    /// PEM bundle that client certificates must chain to.
    pub client_ca: Option<String>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { bind: SocketAddr::from(([0, 0, 0, 0], 10250)), certificate: None, key: None, client_ca: None }
    }
}

/// Hard eviction thresholds, upstream's defaults.
#[derive(Debug, Clone, Copy)]
pub struct EvictionThresholds {
    /// Bytes.
    pub memory_available: u64,
    /// Fractions of the capacity.
    pub nodefs_available: f64,
    pub nodefs_inodes_free: f64,
    pub imagefs_available: f64,
}

impl Default for EvictionThresholds {
    fn default() -> Self {
        Self { memory_available: 100 << 20, nodefs_available: 0.10, nodefs_inodes_free: 0.05, imagefs_available: 0.15 }
    }
}

/// When unused images are removed: percent of the image file system in use.
#[derive(Debug, Clone, Copy)]
pub struct ImageGc {
    pub high_percent: u64,
    pub low_percent: u64,
}

impl Default for ImageGc {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80 }
    }
}

/// Upstream's `containerLogMaxSize` and `containerLogMaxFiles`.
#[derive(Debug, Clone, Copy)]
pub struct LogRotation {
    pub max_bytes: u64,
    pub max_files: usize,
}

impl Default for LogRotation {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, max_files: 5 }
    }
}
