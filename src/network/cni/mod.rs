//! kedge as a CNI plugin: containerd runs the binary itself, once per sandbox.
//!
//! A pod gets a veth port on the node's bridge, a /32 address and the bridge as its gateway. With /32s all traffic
//! between pods passes the node's IP layer, so connection tracking sees both directions and no br_netfilter is needed.
//!
//! Invariants:
//! - CN-1: ADD after ADD, and DEL after DEL, are fine; DEL works when the namespace is gone already.
//! - CN-2: a failed ADD leaves nothing behind.

pub mod ipam;
mod plugin;

use std::net::Ipv4Addr;
use std::path::PathBuf;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

pub use plugin::run;

/// What `type` names in the network configuration, and so the name of the program in the plugin folder.
pub const PLUGIN: &str = "kedge";
/// containerd also wants the plugin that brings a pod's loopback device up; we are that too.
pub const LOOPBACK: &str = "loopback";
const VERSIONS: &[&str] = &["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// The environment of one call, as the CNI specification names it.
#[derive(Debug, Clone, Default)]
pub struct CniEnvironment {
    pub command: String,
    pub container_id: String,
    pub namespace: Option<PathBuf>,
    pub interface: String,
}

/// The network configuration that the kubelet side writes and the runtime passes in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkConfig {
    #[serde(default)]
    pub cni_version: String,
    #[serde(default)]
    pub name: String,
    pub bridge: String,
    pub mtu: u32,
    pub subnet: Ipv4Net,
    pub gateway: Ipv4Addr,
    /// Folder of the address book.
    pub addresses: PathBuf,
    #[serde(default, skip_serializing)]
    pub runtime_config: RuntimeConfig,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RuntimeConfig {
    pub port_mappings: Vec<PortMapping>,
}

/// A container's hostPort. containerd writes its own Go field names, which other plugins read without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    #[serde(alias = "Protocol", default)]
    pub protocol: String,
    #[serde(rename = "hostIP", alias = "HostIP", default)]
    pub host_ip: String,
}

/// What the program prints, and whether it succeeded.
#[derive(Debug)]
pub struct CniOutcome {
    pub stdout: String,
    pub success: bool,
}

/// A CNI error: `code` is the specification's (4 environment, 6 decoding, 7 configuration, 11 try again, 100 ours).
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct CniError {
    pub code: u32,
    pub message: String,
}

impl CniError {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    fn failed(error: impl std::fmt::Display) -> Self {
        Self::new(100, error.to_string())
    }

    fn outcome(&self, version: &str) -> CniOutcome {
        let body = json!({ "cniVersion": version, "code": self.code, "msg": self.message });
        CniOutcome { stdout: body.to_string(), success: false }
    }
}

fn version_info() -> Value {
    json!({ "cniVersion": "1.0.0", "supportedVersions": VERSIONS })
}

#[cfg(test)]
mod tests {
    use super::RuntimeConfig;

    #[test]
    fn port_mappings_as_the_specification_and_as_containerd_write_them() {
        for text in [
            r#"{"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"1.2.3.4"}]}"#,
            r#"{"portMappings":[{"HostPort":80,"ContainerPort":8080,"Protocol":"tcp","HostIP":"1.2.3.4"}]}"#,
        ] {
            let mapping = serde_json::from_str::<RuntimeConfig>(text).unwrap().port_mappings.remove(0);
            assert_eq!((mapping.host_port, mapping.container_port), (80, 8080));
            assert_eq!((mapping.protocol.as_str(), mapping.host_ip.as_str()), ("tcp", "1.2.3.4"));
        }
    }
}
