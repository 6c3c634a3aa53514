//! ADD, DEL, CHECK, STATUS, GC, VERSION.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};
use serde_json::{Value, json};
use sys::netlink::Netlink;
use sys::netns::in_namespace;

use super::ipam::{AddressBook, Lease};
use super::{CniEnvironment, CniError, CniOutcome, LOOPBACK, NetworkConfig, VERSIONS, version_info};
use crate::nat;

type Result<T> = std::result::Result<T, CniError>;

/// Serves one call. `stdin` is the network configuration.
pub fn run(environment: &CniEnvironment, stdin: &[u8]) -> CniOutcome {
    if environment.command == "VERSION" {
        return CniOutcome { stdout: version_info().to_string(), success: true };
    }
    let version = serde_json::from_slice::<Value>(stdin).ok();
    let version = version.as_ref().and_then(|config| config["cniVersion"].as_str()).unwrap_or("1.0.0").to_owned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = runtime.map_err(CniError::failed).and_then(|runtime| runtime.block_on(serve(environment, stdin)));
    match result {
        Ok(Some(mut value)) => {
            value["cniVersion"] = version.into();
            CniOutcome { stdout: value.to_string(), success: true }
        }
        Ok(None) => CniOutcome { stdout: String::new(), success: true },
        Err(error) => error.outcome(&version),
    }
}

async fn serve(environment: &CniEnvironment, stdin: &[u8]) -> Result<Option<Value>> {
    let malformed = |error: serde_json::Error| CniError::new(6, format!("network configuration: {error}"));
    let document: Value = serde_json::from_slice(stdin).map_err(malformed)?;
    if document["type"] == LOOPBACK {
        return loopback(environment);
    }
    let config: NetworkConfig = serde_json::from_value(document).map_err(malformed)?;
    if !config.cni_version.is_empty() && !VERSIONS.contains(&config.cni_version.as_str()) {
        return Err(CniError::new(
            1,
            format!("CNI version {} is not one of {}", config.cni_version, VERSIONS.join(", ")),
        ));
    }
    match environment.command.as_str() {
        "ADD" => add(environment, &config).await.map(Some),
        "DEL" => delete(environment, &config).await.map(|()| None),
        "CHECK" => check(environment, &config).await.map(|()| None),
        "STATUS" => status(&config).await.map(|()| None),
        "GC" => collect(stdin, &config).await.map(|()| None),
        other => {
            Err(CniError::new(4, format!("CNI_COMMAND {other:?} is not one of ADD, DEL, CHECK, STATUS, GC, VERSION")))
        }
    }
}

/// The plugin `loopback`: ADD brings `lo` up, everything else has nothing to do.
fn loopback(environment: &CniEnvironment) -> Result<Option<Value>> {
    let ("ADD", Some(namespace)) = (environment.command.as_str(), environment.namespace.as_deref()) else {
        return Ok(None);
    };
    in_namespace(namespace, || async {
        let pod = Netlink::open().map_err(CniError::failed)?;
        let lo = pod.link("lo").await.map_err(CniError::failed)?;
        let lo = lo.ok_or_else(|| CniError::failed("device lo is missing in the pod"))?;
        pod.up(&lo).await.map_err(CniError::failed)
    })
    .map_err(|error| CniError::failed(format!("network namespace {}: {error}", namespace.display())))??;
    Ok(Some(json!({
        "interfaces": [{ "name": "lo", "mac": "00:00:00:00:00:00", "sandbox": namespace }],
        "ips": [{ "interface": 0, "address": "127.0.0.1/8" }],
        "routes": [],
        "dns": {},
    })))
}

fn required<'a>(name: &str, value: &'a str) -> Result<&'a str> {
    if value.is_empty() { Err(CniError::new(4, format!("{name} is not set"))) } else { Ok(value) }
}

/// The node's end of the pod's cable: short enough for a device name, and found again from the container id.
fn host_device(container: &str) -> String {
    let id: String = container.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    format!("veth{id}")
}

async fn add(environment: &CniEnvironment, config: &NetworkConfig) -> Result<Value> {
    let container = required("CNI_CONTAINERID", &environment.container_id)?;
    let interface = required("CNI_IFNAME", &environment.interface)?;
    let namespace = environment.namespace.as_deref().ok_or_else(|| CniError::new(4, "CNI_NETNS is not set"))?;
    let mut host_ports = config.runtime_config.port_mappings.clone();
    host_ports.retain(|mapping| mapping.host_port > 0);
    let lease = Lease { container: container.to_owned(), interface: interface.to_owned(), host_ports };
    let book = AddressBook::open(&config.addresses).map_err(CniError::failed)?;
    let ip = book.allocate(config.subnet, config.gateway, &lease).map_err(CniError::failed)?;
    drop(book);
    let result = connect(config, container, interface, namespace, ip, &lease).await;
    if result.is_err() {
        // CN-2; the first error is the one worth telling.
        let _ = delete(environment, config).await;
    }
    result
}

async fn connect(
    config: &NetworkConfig,
    container: &str,
    interface: &str,
    namespace: &Path,
    ip: Ipv4Addr,
    lease: &Lease,
) -> Result<Value> {
    let host = Netlink::open().map_err(CniError::failed)?;
    let bridge = host.link(&config.bridge).await.map_err(CniError::failed)?;
    let bridge = bridge.ok_or_else(|| CniError::new(11, format!("bridge {} is not there yet", config.bridge)))?;
    let device = host_device(container);
    host.delete_link(&device).await.map_err(CniError::failed)?;
    let fd = File::open(namespace)
        .map_err(|error| CniError::failed(format!("network namespace {}: {error}", namespace.display())))?;
    let veth =
        host.create_veth(&device, config.mtu, bridge.index, fd.as_fd(), interface).await.map_err(CniError::failed)?;
    let gateway = config.gateway;
    let mac = in_namespace(namespace, || configure_pod(interface, ip, gateway))
        .map_err(|error| CniError::failed(format!("network namespace {}: {error}", namespace.display())))??;
    if !lease.host_ports.is_empty() {
        let script = nat::add_host_ports(ip, &lease.host_ports);
        sys::nft::apply(&script).await.map_err(|error| CniError::failed(format!("hostPort: {error}")))?;
    }
    Ok(json!({
        "interfaces": [
            { "name": config.bridge, "mac": text(&bridge.mac) },
            { "name": device, "mac": text(&veth.mac) },
            { "name": interface, "mac": text(&mac), "sandbox": namespace },
        ],
        "ips": [{ "interface": 2, "address": format!("{ip}/32"), "gateway": gateway }],
        "routes": [{ "dst": "0.0.0.0/0", "gw": gateway }],
        "dns": {},
    }))
}

/// Inside the pod's namespace: loopback, address, and the two routes that a /32 needs.
async fn configure_pod(interface: &str, ip: Ipv4Addr, gateway: Ipv4Addr) -> Result<Vec<u8>> {
    let pod = Netlink::open().map_err(CniError::failed)?;
    let find = async |name: &str| {
        let link = pod.link(name).await.map_err(CniError::failed)?;
        link.ok_or_else(|| CniError::failed(format!("device {name} is missing in the pod")))
    };
    let (lo, eth) = (find("lo").await?, find(interface).await?);
    pod.up(&lo).await.map_err(CniError::failed)?;
    let host = |ip| IpNet::V4(Ipv4Net::new(ip, 32).expect("32 is a prefix length"));
    pod.add_address(&eth, host(ip)).await.map_err(CniError::failed)?;
    pod.up(&eth).await.map_err(CniError::failed)?;
    pod.add_route(&eth, host(gateway), None).await.map_err(CniError::failed)?;
    pod.add_route(&eth, IpNet::V4(Ipv4Net::default()), Some(gateway)).await.map_err(CniError::failed)?;
    Ok(eth.mac)
}

async fn delete(environment: &CniEnvironment, config: &NetworkConfig) -> Result<()> {
    let container = required("CNI_CONTAINERID", &environment.container_id)?;
    let host = Netlink::open().map_err(CniError::failed)?;
    // Deleting one end deletes the pair; the namespace may be gone already, and the pair with it.
    host.delete_link(&host_device(container)).await.map_err(CniError::failed)?;
    free(container, config).await
}

async fn free(container: &str, config: &NetworkConfig) -> Result<()> {
    let freed =
        AddressBook::open(&config.addresses).and_then(|book| book.release(container)).map_err(CniError::failed)?;
    for (_, lease) in freed.iter().filter(|(_, lease)| !lease.host_ports.is_empty()) {
        for mapping in &lease.host_ports {
            // One by one: an element that is gone already must not keep the others.
            let _ = sys::nft::apply(&nat::delete_host_port(mapping)).await;
        }
    }
    Ok(())
}

async fn check(environment: &CniEnvironment, config: &NetworkConfig) -> Result<()> {
    let container = required("CNI_CONTAINERID", &environment.container_id)?;
    status(config).await?;
    let host = Netlink::open().map_err(CniError::failed)?;
    let device = host_device(container);
    if host.link(&device).await.map_err(CniError::failed)?.is_none() {
        return Err(CniError::failed(format!("device {device} of container {container} is missing")));
    }
    let leases = AddressBook::open(&config.addresses).and_then(|book| book.leases()).map_err(CniError::failed)?;
    if !leases.iter().any(|(_, lease)| lease.container == container) {
        return Err(CniError::failed(format!("container {container} has no address")));
    }
    Ok(())
}

async fn status(config: &NetworkConfig) -> Result<()> {
    let host = Netlink::open().map_err(CniError::failed)?;
    match host.link(&config.bridge).await.map_err(CniError::failed)? {
        Some(_) => Ok(()),
        None => Err(CniError::new(50, format!("bridge {} is not there yet", config.bridge))),
    }
}

/// Frees what belongs to no attachment that the runtime still knows.
async fn collect(stdin: &[u8], config: &NetworkConfig) -> Result<()> {
    let document: Value = serde_json::from_slice(stdin).map_err(CniError::failed)?;
    let valid: Vec<&str> = document["cni.dev/valid-attachments"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|attachment| attachment["containerID"].as_str())
        .collect();
    let leases = AddressBook::open(&config.addresses).and_then(|book| book.leases()).map_err(CniError::failed)?;
    for (_, lease) in leases.iter().filter(|(_, lease)| !valid.contains(&lease.container.as_str())) {
        free(&lease.container, config).await?;
    }
    Ok(())
}

fn text(mac: &[u8]) -> String {
    mac.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}
