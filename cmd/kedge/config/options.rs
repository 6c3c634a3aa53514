//! The options themselves: one struct, read by clap from flags, environment and (through [`super::file`]) the file.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use super::AccessOptions;
use super::datastore::{DatastoreOptions, SnapshotOptions};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// Log debug messages too
    #[arg(long, env = "KEDGE_DEBUG")]
    pub debug: bool,
    /// How log lines look
    #[arg(long, env = "KEDGE_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
}

/// What a node needs, on a server and on an agent.
#[derive(Debug, Clone, Args)]
pub struct AgentOptions {
    /// Folder of all state
    #[arg(long, short = 'd', env = "KEDGE_DATA_DIR", default_value = "/var/lib/kedge", help_heading = "Places")]
    pub data_dir: PathBuf,
    /// Folder of sockets and run-time state
    #[arg(long, env = "KEDGE_RUN_DIR", default_value = "/run/kedge", help_heading = "Places")]
    pub run_dir: PathBuf,
    /// Name of this node [default: the host name]
    #[arg(long, env = "KEDGE_NODE_NAME", value_parser = node_name, help_heading = "Node")]
    pub node_name: Option<String>,
    /// Address of this node [default: the source address of the default route]
    #[arg(long, env = "KEDGE_NODE_IP", value_parser = address, help_heading = "Node")]
    pub node_ip: Option<IpAddr>,
    /// Label of the node when it registers, key=value; may be repeated
    #[arg(long, env = "KEDGE_NODE_LABEL", value_delimiter = ',', value_parser = node_label, help_heading = "Node")]
    pub node_label: Vec<(String, String)>,
    /// Taint of the node when it registers, key=value:effect; may be repeated
    #[arg(long, env = "KEDGE_NODE_TAINT", value_delimiter = ',', value_parser = node_taint, help_heading = "Node")]
    pub node_taint: Vec<Taint>,
    /// Use this containerd (unix:///path) instead of starting our own
    #[arg(long, env = "KEDGE_CONTAINER_RUNTIME_ENDPOINT", value_parser = endpoint, help_heading = "Node")]
    pub container_runtime_endpoint: Option<PathBuf>,
    /// resolv.conf that pods and the DNS forwarder start from
    #[arg(long, env = "KEDGE_RESOLV_CONF", default_value = "/etc/resolv.conf", help_heading = "Node")]
    pub resolv_conf: PathBuf,
    /// Kubelet setting, key=value: max-pods, container-log-max-size, container-log-max-files; may be repeated
    #[arg(long, env = "KEDGE_KUBELET_ARG", value_delimiter = ',', value_parser = kubelet_arg, help_heading = "Node")]
    pub kubelet_arg: Vec<KubeletArg>,
}

#[derive(Debug, Clone, Args)]
pub struct ServerOptions {
    /// Configuration file; keys are the names of these flags [default: /etc/kedge/config.yaml]
    #[arg(long, short = 'c', env = "KEDGE_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    pub log: LogOptions,
    #[command(flatten)]
    pub agent: AgentOptions,
    /// Secret that joins machines to this cluster [default: made at the first start]
    #[arg(long, short = 't', env = "KEDGE_TOKEN", hide_env_values = true, help_heading = "API server")]
    pub token: Option<String>,
    /// File that holds the secret
    #[arg(long, env = "KEDGE_TOKEN_FILE", conflicts_with = "token", help_heading = "API server")]
    pub token_file: Option<PathBuf>,
    /// Address that the API server listens on
    #[arg(long, env = "KEDGE_BIND_ADDRESS", default_value = "0.0.0.0", value_parser = address, help_heading = "API server")]
    pub bind_address: IpAddr,
    /// Port that the API server listens on
    #[arg(long, env = "KEDGE_HTTPS_LISTEN_PORT", default_value_t = 6443, value_parser = port, help_heading = "API server")]
    pub https_listen_port: u16,
    /// Further name or address for the API server's certificate; may be repeated
    #[arg(long, env = "KEDGE_TLS_SAN", value_delimiter = ',', help_heading = "API server")]
    pub tls_san: Vec<String>,
    /// Also serve the etcd v3 API at HOST:PORT, to clients with a certificate of server/tls/etcd [default: only on
    /// the socket etcd.sock in --run-dir]
    #[arg(long, env = "KEDGE_ETCD_LISTEN_ADDRESS", value_parser = listen_address, help_heading = "API server")]
    pub etcd_listen_address: Option<SocketAddr>,
    /// Reading requests served at once; with the mutating ones, what priority and fairness shares out
    #[arg(long, env = "KEDGE_MAX_REQUESTS_INFLIGHT", default_value_t = 400, help_heading = "API server")]
    pub max_requests_inflight: u32,
    /// Mutating requests served at once
    #[arg(long, env = "KEDGE_MAX_MUTATING_REQUESTS_INFLIGHT", default_value_t = 200, help_heading = "API server")]
    pub max_mutating_requests_inflight: u32,
    #[command(flatten)]
    pub access: AccessOptions,
    /// Where the administrator's kubeconfig is written
    #[arg(
        long,
        short = 'o',
        env = "KEDGE_WRITE_KUBECONFIG",
        default_value = "/etc/kedge/kedge.yaml",
        help_heading = "API server"
    )]
    pub write_kubeconfig: PathBuf,
    /// Its mode, in octal
    #[arg(long, env = "KEDGE_WRITE_KUBECONFIG_MODE", default_value = "0600", value_parser = octal_mode, help_heading = "API server")]
    pub write_kubeconfig_mode: u32,
    /// Network of the pods; each node gets a /24 of it
    #[arg(long, env = "KEDGE_CLUSTER_CIDR", default_value = "10.42.0.0/16", value_parser = network, help_heading = "Network")]
    pub cluster_cidr: IpNet,
    /// Network of the services
    #[arg(long, env = "KEDGE_SERVICE_CIDR", default_value = "10.43.0.0/16", value_parser = network, help_heading = "Network")]
    pub service_cidr: IpNet,
    /// Ports for services of type NodePort
    #[arg(long, env = "KEDGE_SERVICE_NODE_PORT_RANGE", default_value = "30000-32767", value_parser = port_range, help_heading = "Network")]
    pub service_node_port_range: (u16, u16),
    /// Address of the cluster's DNS [default: the tenth of the service network]
    #[arg(long, env = "KEDGE_CLUSTER_DNS", value_parser = address, help_heading = "Network")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of the cluster's DNS names
    #[arg(long, env = "KEDGE_CLUSTER_DOMAIN", default_value = "cluster.local", value_parser = domain, help_heading = "Network")]
    pub cluster_domain: String,
    #[command(flatten)]
    pub datastore: DatastoreOptions,
    #[command(flatten)]
    pub snapshots: SnapshotOptions,
    /// Run no kubelet, no containerd, no proxy and no DNS here
    #[arg(long, env = "KEDGE_DISABLE_AGENT", help_heading = "Components")]
    pub disable_agent: bool,
    /// Run no scheduler
    #[arg(long, env = "KEDGE_DISABLE_SCHEDULER", help_heading = "Components")]
    pub disable_scheduler: bool,
    /// Run no controllers
    #[arg(long, env = "KEDGE_DISABLE_CONTROLLER_MANAGER", help_heading = "Components")]
    pub disable_controller_manager: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KubeletArg {
    MaxPods(u32),
    LogMaxSize(u64),
    LogMaxFiles(u32),
}

fn node_name(text: &str) -> Result<String, String> {
    let problems = apimachinery::validation::names::dns1123_subdomain(text, false);
    if problems.is_empty() { Ok(text.to_owned()) } else { Err(problems.join("; ")) }
}

fn node_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let mut problems = apimachinery::validation::names::is_qualified_name(key);
    problems.extend(apimachinery::validation::names::is_valid_label_value(value));
    if problems.is_empty() { Ok((key.to_owned(), value.to_owned())) } else { Err(problems.join("; ")) }
}

fn node_taint(text: &str) -> Result<Taint, String> {
    const WANT: &str = "want key=value:effect or key:effect, with effect NoSchedule, PreferNoSchedule or NoExecute";
    let (rest, effect) = text.rsplit_once(':').ok_or(WANT)?;
    if !["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        return Err(WANT.into());
    }
    let (key, value) = node_label(rest)?;
    Ok(Taint { key, value, effect: effect.to_owned() })
}

fn network(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "want a network, as 10.42.0.0/16".to_owned())
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| "want an IP address, as 192.168.1.10".to_owned())
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let want = || "want HOST:PORT, as 0.0.0.0:2379".to_owned();
    crate::commands::etcd::socket_address(text.trim_start_matches("https://")).ok_or_else(want)
}

fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| "want a port, 1 to 65535".to_owned())
}

fn endpoint(text: &str) -> Result<PathBuf, String> {
    match text.strip_prefix("unix://").unwrap_or(text) {
        path if path.starts_with('/') => Ok(PathBuf::from(path)),
        _ => Err("want the path of a unix socket, as unix:///run/containerd/containerd.sock".into()),
    }
}

fn octal_mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("want an octal file mode, 0000 to 0777".into()),
    }
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    let parsed = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    match parsed {
        Some((low, high)) if 0 < low && low <= high => Ok((low, high)),
        _ => Err("want two ports, low-high".into()),
    }
}

fn domain(text: &str) -> Result<String, String> {
    node_name(text.trim_end_matches('.'))
}

fn kubelet_arg(text: &str) -> Result<KubeletArg, String> {
    const WANT: &str =
        "allowed are max-pods=N, container-log-max-size=BYTES (10Mi), container-log-max-files=N (2 or more)";
    let (key, value) = text.split_once('=').ok_or(WANT)?;
    let number = || value.parse::<u32>().ok().filter(|n| *n > 0);
    match key {
        "max-pods" => number().map(KubeletArg::MaxPods),
        "container-log-max-files" => number().filter(|n| *n >= 2).map(KubeletArg::LogMaxFiles),
        "container-log-max-size" => apimachinery::quantity::Quantity::parse(value)
            .ok()
            .and_then(|size| u64::try_from(size.value()).ok())
            .filter(|size| *size > 0)
            .map(KubeletArg::LogMaxSize),
        _ => None,
    }
    .ok_or_else(|| WANT.to_owned())
}

impl ServerOptions {
    /// What one option alone cannot know.
    ///
    /// # Errors
    /// Names the option, its value and what is allowed.
    pub fn validate(&self) -> Result<(), String> {
        let (cluster, service) = (self.cluster_cidr, self.service_cidr);
        if cluster.prefix_len() > 24 || !cluster.addr().is_ipv4() {
            return Err(format!("--cluster-cidr {cluster}: want an IPv4 network of /24 or larger"));
        }
        if service.prefix_len() > 28 || service.prefix_len() < 8 || !service.addr().is_ipv4() {
            return Err(format!("--service-cidr {service}: want an IPv4 network from /8 to /28"));
        }
        if cluster.contains(&service) || service.contains(&cluster) {
            return Err(format!(
                "--service-cidr {service} overlaps --cluster-cidr {cluster}: want two separate networks"
            ));
        }
        if let Some(dns) = self.cluster_dns.filter(|dns| !service.contains(dns)) {
            return Err(format!("--cluster-dns {dns}: want an address inside --service-cidr {service}"));
        }
        self.datastore.validate()?;
        if let Some(ip) = self.agent.node_ip.filter(|ip| ip.is_unspecified() || ip.is_multicast()) {
            return Err(format!("--node-ip {ip}: want an address of this machine"));
        }
        Ok(())
    }

    /// The DNS address: as given, or the tenth of the service network.
    pub fn cluster_dns(&self) -> IpAddr {
        self.cluster_dns.unwrap_or_else(|| nth(self.service_cidr, 10))
    }
}

/// The `n`th address of `net`.
pub fn nth(net: IpNet, n: u32) -> IpAddr {
    match net.network() {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base) + n).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base) + u128::from(n)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parsers_say_what_is_allowed() {
        assert_eq!(octal_mode("0644"), Ok(0o644));
        assert!(octal_mode("0999").is_err());
        assert_eq!(port_range("30000-30010"), Ok((30000, 30010)));
        assert!(port_range("9-1").is_err());
        assert_eq!(endpoint("unix:///run/c.sock"), Ok(PathBuf::from("/run/c.sock")));
        assert!(endpoint("tcp://1.2.3.4:1").is_err());
        assert!(node_taint("a=b:Never").unwrap_err().starts_with("want key=value:effect"));
        assert_eq!(kubelet_arg("max-pods=5"), Ok(KubeletArg::MaxPods(5)));
        assert_eq!(kubelet_arg("container-log-max-size=1Mi"), Ok(KubeletArg::LogMaxSize(1 << 20)));
        assert!(kubelet_arg("v=9").unwrap_err().starts_with("allowed are"));
    }
}
