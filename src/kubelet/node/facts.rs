//! What the machine is and has.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::NodeSystemInfo;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::config::{KUBELET_VERSION, KubeletConfig};
use crate::cri::v1::VersionResponse;
use crate::error::{Error, Result};
use crate::podworkers::Machine;

/// Memory in bytes: total, and what could be had without swapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub total: u64,
    pub available: u64,
}

/// # Errors
/// When `/proc` cannot be read.
pub fn memory() -> Result<Memory> {
    let path = std::path::Path::new("/proc/meminfo");
    let text = std::fs::read_to_string(path).map_err(Error::io("reading", path))?;
    Ok(parse_memory(&text))
}

fn parse_memory(text: &str) -> Memory {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Memory { total: field("MemTotal:"), available: field("MemAvailable:") }
}

fn cpus() -> i64 {
    std::thread::available_parallelism().map_or(1, |n| i64::try_from(n.get()).unwrap_or(1))
}

/// What there is, as the node reports it.
///
/// # Errors
/// When the machine cannot be examined.
pub fn capacity(config: &KubeletConfig) -> Result<BTreeMap<String, Quantity>> {
    let disk = sys::mount::disk_space(&config.data_dir).map_err(Error::io("examining", &config.data_dir))?;
    let mut out = BTreeMap::from([
        ("cpu".to_owned(), Quantity(cpus().to_string())),
        ("memory".to_owned(), Quantity(format!("{}Ki", memory()?.total / 1024))),
        ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", disk.capacity / 1024))),
        ("pods".to_owned(), Quantity(config.max_pods.to_string())),
    ]);
    for entry in std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kib) = name.strip_prefix("hugepages-").and_then(|n| n.strip_suffix("kB")?.parse::<u64>().ok()) else {
            continue;
        };
        let pages = std::fs::read_to_string(entry.path().join("nr_hugepages")).unwrap_or_default();
        let pages: u64 = pages.trim().parse().unwrap_or(0);
        let size = if kib >= 1 << 20 { format!("{}Gi", kib >> 20) } else { format!("{}Mi", kib >> 10) };
        let amount = if pages == 0 { "0".to_owned() } else { format!("{}Ki", pages * kib) };
        out.insert(format!("hugepages-{size}"), Quantity(amount));
    }
    Ok(out)
}

/// What of `capacity` pods may have: the eviction thresholds are held back.
pub fn allocatable(config: &KubeletConfig, capacity: &BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    let mut out = capacity.clone();
    let value = |name: &str| crate::quantity::value_of(Some(capacity), name).unwrap_or(0);
    let reserved = i64::try_from(config.eviction.memory_available).unwrap_or(0);
    out.insert("memory".into(), Quantity(format!("{}Ki", (value("memory") - reserved).max(0) / 1024)));
    let disk = value("ephemeral-storage") as f64 * (1.0 - config.eviction.nodefs_available);
    out.insert("ephemeral-storage".into(), Quantity(format!("{}", disk as i64)));
    out
}

/// # Errors
/// When the machine cannot be examined.
pub fn machine(config: &KubeletConfig) -> Result<Machine> {
    std::fs::create_dir_all(&config.data_dir).map_err(Error::io("creating", &config.data_dir))?;
    let allocatable = allocatable(config, &capacity(config)?);
    let memory = i64::try_from(memory()?.total).unwrap_or(i64::MAX);
    Ok(Machine { memory, milli_cpu: cpus() * 1000, allocatable })
}

/// Go's name of the architecture.
pub fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "armv7l" | "armv6l" => "arm",
        "i686" | "i386" => "386",
        other => other,
    }
}

/// # Errors
/// When the kernel does not tell what it is.
pub fn system_info(runtime: &VersionResponse) -> Result<NodeSystemInfo> {
    let first_line = |path: &str| {
        std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let (kernel, machine) = sys::process::kernel().map_err(|error| Error::Config(format!("uname: {error}")))?;
    let machine_id = first_line("/etc/machine-id").or_else(|| first_line("/var/lib/dbus/machine-id"));
    let boot_id = first_line("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Ok(NodeSystemInfo {
        // Without one of its own (minimal images), the machine is told apart by its boot.
        machine_id: machine_id.clone().unwrap_or_else(|| boot_id.replace('-', "")),
        system_uuid: first_line("/sys/class/dmi/id/product_uuid").or(machine_id).unwrap_or_else(|| boot_id.clone()),
        boot_id,
        kernel_version: kernel,
        os_image: os_image(&std::fs::read_to_string("/etc/os-release").unwrap_or_default()),
        container_runtime_version: format!(
            "{}://{}",
            runtime.runtime_name,
            runtime.runtime_version.trim_start_matches('v')
        ),
        kubelet_version: KUBELET_VERSION.into(),
        kube_proxy_version: String::new(),
        operating_system: "linux".into(),
        architecture: architecture(&machine).into(),
        ..NodeSystemInfo::default()
    })
}

fn os_image(release: &str) -> String {
    let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

/// Processes there are, and how many there may be.
pub fn pids() -> Option<(u64, u64)> {
    let load = std::fs::read_to_string("/proc/loadavg").ok()?;
    let used = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    let read = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let limit = read("/proc/sys/kernel/pid_max")?.min(read("/proc/sys/kernel/threads-max")?);
    Some((used, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let memory = parse_memory("MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    500 kB\n");
        assert_eq!(memory, Memory { total: 1_024_000, available: 512_000 });
        assert_eq!(os_image("NAME=x\nPRETTY_NAME=\"Debian 12\"\n"), "Debian 12");
        assert_eq!(architecture("aarch64"), "arm64");
    }
}
