//! What containers, pods and the node use: gathered once, shown as `/stats/summary` or as metrics.
//!
//! Invariants:
//! - KU-1: only containers that run and belong to a pod that the kubelet knows are shown.
//! - KU-2: a source that fails is left out; the others are shown.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sys::mount::DiskSpace;
use tracing::debug;

use super::State;
use super::http::Query;
use super::machine::{Interface, Machine, Process};
use crate::containers::text;
use crate::cri::v1;
use crate::runtime::names;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// Nanoseconds since the epoch.
    pub time: i64,
    pub total_nanoseconds: u64,
    /// Nanoseconds of processor time a second; `None` until known.
    pub nano_cores: Option<u64>,
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    pub time: i64,
    pub available: Option<u64>,
    pub usage: u64,
    pub working_set: u64,
    pub rss: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
}

#[derive(Debug, Clone, Default)]
pub struct ContainerUse {
    pub id: String,
    pub name: String,
    pub image: String,
    pub started: Option<Timestamp>,
    pub cpu: Cpu,
    pub memory: Memory,
    pub swap: Option<u64>,
    /// Of the writable layer.
    pub root_bytes: u64,
    pub root_inodes: u64,
    pub log_bytes: u64,
    pub memory_limit: u64,
}

#[derive(Debug, Clone, Default)]
pub struct PodUse {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub sandbox: String,
    pub started: Option<Timestamp>,
    pub cpu: Cpu,
    pub memory: Memory,
    pub interfaces: Vec<Interface>,
    pub processes: Option<u64>,
    pub containers: Vec<ContainerUse>,
}

/// Everything at one moment.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub time: Timestamp,
    pub machine: Machine,
    pub node_cpu: Cpu,
    pub kubelet: (Cpu, u64),
    /// All pods together.
    pub all_pods: Option<(Cpu, sys::cgroup::Usage)>,
    pub node_fs: Option<DiskSpace>,
    pub image_fs: Option<(DiskSpace, u64, u64)>,
    pub pods: Vec<PodUse>,
}

/// Remembers the last reading of each counter, to tell its speed.
#[derive(Default)]
pub struct Rates(Mutex<HashMap<String, Cpu>>);

impl Rates {
    /// Readings closer together than this say little.
    const CLOSEST: i64 = 500_000_000;

    fn of(&self, key: &str, time: i64, total: u64) -> Cpu {
        let mut known = self.0.lock();
        let old = known.get(key).copied();
        let new = match old {
            Some(old) if time - old.time < Self::CLOSEST => {
                return Cpu { time, total_nanoseconds: total, nano_cores: old.nano_cores };
            }
            Some(old) => {
                let (spent, passed) = (total.saturating_sub(old.total_nanoseconds), time - old.time);
                let rate = u128::from(spent) * 1_000_000_000 / passed.unsigned_abs() as u128;
                Cpu { time, total_nanoseconds: total, nano_cores: Some(u64::try_from(rate).unwrap_or(u64::MAX)) }
            }
            None => Cpu { time, total_nanoseconds: total, nano_cores: None },
        };
        known.insert(key.to_owned(), new);
        new
    }

    fn keep(&self, keys: &HashSet<&str>) {
        self.0.lock().retain(|key, _| keys.contains(key.as_str()));
    }
}

const NODE: &str = "node";
const KUBELET: &str = "kubelet";
const PODS: &str = "pods";

pub async fn gather(state: &State) -> Snapshot {
    let (containers, sandboxes, image_fs) =
        tokio::join!(state.runtime.container_stats(), state.runtime.sandbox_stats(), state.runtime.image_fs());
    let containers = containers.unwrap_or_else(|error| {
        debug!(%error, "no container statistics");
        Vec::new()
    });
    // 1.6 before its own statistics, and other runtimes: pods are then the sums of their containers.
    let sandboxes = sandboxes.unwrap_or_default();
    let time = state.clock.now();
    let now = i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX);
    let machine = Machine::read();
    let process = Process::read();
    let group = state.groups.as_ref().and_then(|(groups, pods)| groups.usage(pods).ok());
    let rates = &state.rates;
    let mut snapshot = Snapshot {
        time,
        node_cpu: rates.of(NODE, now, machine.cpu_nanoseconds),
        kubelet: (rates.of(KUBELET, now, process.cpu_nanoseconds), process.rss),
        all_pods: group.map(|usage| (rates.of(PODS, now, usage.cpu_nanoseconds), usage)),
        machine,
        node_fs: sys::mount::disk_space(&state.config.data_dir).ok(),
        image_fs: image_fs.ok().and_then(|info| image_space(&info)),
        pods: Vec::new(),
    };
    let (by_pod, by_sandbox) = (by_uid(containers, container_uid), by_uid(sandboxes, sandbox_uid));
    for pod in state.pods.pods() {
        let uid = text(&pod.metadata.uid);
        let containers = by_pod.get(uid).map_or(&[][..], Vec::as_slice);
        let sandboxes = by_sandbox.get(uid).map_or(&[][..], Vec::as_slice);
        if !containers.is_empty() || !sandboxes.is_empty() {
            snapshot.pods.push(pod_use(state, &pod, containers, sandboxes, now));
        }
    }
    let mut keys = HashSet::from([NODE, KUBELET, PODS]);
    for pod in &snapshot.pods {
        keys.insert(&pod.uid);
        keys.extend(pod.containers.iter().map(|c| c.id.as_str()));
    }
    rates.keep(&keys);
    snapshot
}

fn image_space(info: &v1::ImageFsInfoResponse) -> Option<(DiskSpace, u64, u64)> {
    let fs = info.image_filesystems.first()?;
    let space = sys::mount::disk_space(Path::new(&fs.fs_id.as_ref()?.mountpoint)).ok()?;
    Some((space, number(&fs.used_bytes), number(&fs.inodes_used)))
}

fn by_uid<T>(items: Vec<T>, uid: impl Fn(&T) -> Option<String>) -> HashMap<String, Vec<T>> {
    let mut out: HashMap<String, Vec<T>> = HashMap::new();
    for item in items {
        if let Some(uid) = uid(&item) {
            out.entry(uid).or_default().push(item);
        }
    }
    out
}

fn container_uid(stats: &v1::ContainerStats) -> Option<String> {
    stats.attributes.as_ref()?.labels.get(names::POD_UID).cloned()
}

fn sandbox_uid(stats: &v1::PodSandboxStats) -> Option<String> {
    stats.attributes.as_ref()?.labels.get(names::POD_UID).cloned()
}

fn number(value: &Option<v1::UInt64Value>) -> u64 {
    value.as_ref().map_or(0, |v| v.value)
}

fn pod_use(
    state: &State,
    pod: &Arc<Pod>,
    containers: &[v1::ContainerStats],
    sandboxes: &[v1::PodSandboxStats],
    now: i64,
) -> PodUse {
    let meta = &pod.metadata;
    let status = pod.status.as_ref();
    let mut out = PodUse {
        namespace: text(&meta.namespace).to_owned(),
        name: text(&meta.name).to_owned(),
        uid: text(&meta.uid).to_owned(),
        started: status.and_then(|s| s.start_time.as_ref()).map(|t| t.0),
        ..PodUse::default()
    };
    let statuses: Vec<&ContainerStatus> = status.map_or(Vec::new(), |s| {
        [&s.init_container_statuses, &s.container_statuses, &s.ephemeral_container_statuses]
            .into_iter()
            .flatten()
            .flatten()
            .collect()
    });
    for stats in containers {
        out.containers.extend(container_use(state, pod, &statuses, stats, now));
    }
    out.containers.sort_by(|a, b| a.name.cmp(&b.name));
    // The newest sandbox that has numbers: an ended one has none.
    let linux = sandboxes.iter().filter_map(|s| Some((s.attributes.as_ref()?, s.linux.as_ref()?)));
    let found = linux.max_by_key(|(_, linux)| linux.cpu.as_ref().map_or(0, |cpu| cpu.timestamp));
    if let Some((attributes, linux)) = found {
        out.sandbox.clone_from(&attributes.id);
        out.processes = linux.process.as_ref().and_then(|p| p.process_count.as_ref()).map(|n| n.value);
        let network = linux.network.iter();
        out.interfaces = network.flat_map(|n| n.default_interface.iter().chain(&n.interfaces)).map(interface).collect();
        out.interfaces.dedup_by(|a, b| a.name == b.name);
    }
    let cpu = found.and_then(|(_, linux)| linux.cpu.as_ref()).filter(|cpu| cpu.usage_core_nano_seconds.is_some());
    let (time, total) = match cpu {
        Some(cpu) => (cpu.timestamp, number(&cpu.usage_core_nano_seconds)),
        None => (now, out.containers.iter().map(|c| c.cpu.total_nanoseconds).sum()),
    };
    out.cpu = state.rates.of(&out.uid, time, total);
    out.memory = match found.and_then(|(_, linux)| linux.memory.as_ref()).filter(|m| m.working_set_bytes.is_some()) {
        Some(stats) => memory(stats),
        None => out.containers.iter().fold(Memory { time: now, ..Memory::default() }, |sum, c| Memory {
            usage: sum.usage + c.memory.usage,
            working_set: sum.working_set + c.memory.working_set,
            rss: sum.rss + c.memory.rss,
            page_faults: sum.page_faults + c.memory.page_faults,
            major_page_faults: sum.major_page_faults + c.memory.major_page_faults,
            ..sum
        }),
    };
    out
}

fn container_use(
    state: &State,
    pod: &Pod,
    statuses: &[&ContainerStatus],
    stats: &v1::ContainerStats,
    now: i64,
) -> Option<ContainerUse> {
    let attributes = stats.attributes.as_ref()?;
    let cpu = stats.cpu.as_ref()?;
    let name = attributes.labels.get(names::CONTAINER_NAME)?.clone();
    let status = statuses.iter().find(|s| {
        s.container_id.as_deref().and_then(|id| id.split_once("://")).is_some_and(|(_, id)| id == attributes.id)
    });
    let running = status.and_then(|s| s.state.as_ref()).and_then(|s| s.running.as_ref());
    let spec = crate::containers::find(pod, &name);
    let limit = spec.and_then(|c| c.resources).and_then(|r| r.limits).and_then(|l| l.get("memory").cloned());
    let layer = stats.writable_layer.as_ref();
    let meta = &pod.metadata;
    let logs = format!("{}_{}_{}/{name}", text(&meta.namespace), text(&meta.name), text(&meta.uid));
    let time = if cpu.timestamp > 0 { cpu.timestamp } else { now };
    let measured = state.rates.of(&attributes.id, time, number(&cpu.usage_core_nano_seconds));
    let told = cpu.usage_nano_cores.as_ref().map(|n| n.value).filter(|n| *n > 0);
    Some(ContainerUse {
        id: attributes.id.clone(),
        image: status.map(|s| s.image.clone()).unwrap_or_default(),
        started: running.and_then(|r| r.started_at.as_ref()).map(|t| t.0),
        cpu: Cpu { nano_cores: told.or(measured.nano_cores), ..measured },
        memory: stats.memory.as_ref().map(memory).unwrap_or_default(),
        swap: stats.swap.as_ref().and_then(|s| s.swap_usage_bytes.as_ref()).map(|n| n.value),
        root_bytes: layer.map_or(0, |l| number(&l.used_bytes)),
        root_inodes: layer.map_or(0, |l| number(&l.inodes_used)),
        log_bytes: size_of_files(&state.config.pods_log_dir.join(logs)),
        memory_limit: limit.and_then(|l| crate::quantity::value(&l.0)).and_then(|v| u64::try_from(v).ok()).unwrap_or(0),
        name,
    })
}

fn memory(stats: &v1::MemoryUsage) -> Memory {
    Memory {
        time: stats.timestamp,
        available: stats.available_bytes.as_ref().map(|n| n.value).filter(|n| *n > 0),
        usage: number(&stats.usage_bytes),
        working_set: number(&stats.working_set_bytes),
        rss: number(&stats.rss_bytes),
        page_faults: number(&stats.page_faults),
        major_page_faults: number(&stats.major_page_faults),
    }
}

fn interface(stats: &v1::NetworkInterfaceUsage) -> Interface {
    Interface {
        name: stats.name.clone(),
        rx_bytes: number(&stats.rx_bytes),
        rx_errors: number(&stats.rx_errors),
        tx_bytes: number(&stats.tx_bytes),
        tx_errors: number(&stats.tx_errors),
    }
}

fn size_of_files(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).filter(|meta| meta.is_file()).map(|meta| meta.len()).sum()
}

/// `/stats/summary`.
pub fn summary(snapshot: &Snapshot, node: &str, query: &Query) -> Value {
    let machine = &snapshot.machine;
    let time = stamp(snapshot.time);
    let node_memory = Memory {
        time: i64::try_from(snapshot.time.as_nanosecond()).unwrap_or(i64::MAX),
        available: Some(machine.memory_total.saturating_sub(machine.working_set)),
        usage: machine.memory_usage,
        working_set: machine.working_set,
        rss: machine.rss,
        page_faults: machine.page_faults,
        major_page_faults: machine.major_page_faults,
    };
    let short = query.get("only_cpu_and_memory").is_some_and(|v| v == "true" || v == "1");
    let boot = Timestamp::from_second(machine.boot).unwrap_or_default();
    let (kubelet_cpu, kubelet_rss) = snapshot.kubelet;
    let kubelet_memory = Memory {
        time: kubelet_cpu.time,
        usage: kubelet_rss,
        working_set: kubelet_rss,
        rss: kubelet_rss,
        ..Memory::default()
    };
    let mut system =
        vec![json!({"name": "kubelet", "startTime": time, "cpu": cpu(kubelet_cpu), "memory": mem(kubelet_memory)})];
    if let Some((used, usage)) = snapshot.all_pods {
        let memory = Memory {
            time: used.time,
            available: usage.memory_limit.map(|limit| limit.saturating_sub(usage.working_set)),
            usage: usage.memory,
            working_set: usage.working_set,
            rss: usage.rss,
            page_faults: usage.page_faults,
            major_page_faults: usage.major_page_faults,
        };
        system.push(json!({"name": "pods", "startTime": stamp(boot), "cpu": cpu(used), "memory": mem(memory)}));
    }
    let mut of_node = json!({
        "nodeName": node,
        "systemContainers": system,
        "startTime": stamp(boot),
        "cpu": cpu(snapshot.node_cpu),
        "memory": mem(node_memory),
        "swap": {
            "time": time,
            "swapAvailableBytes": machine.swap_free,
            "swapUsageBytes": machine.swap_total.saturating_sub(machine.swap_free),
        },
    });
    if !short {
        of_node["network"] = network(&time, &machine.interfaces, machine.default_interface.as_deref());
        if let Some(space) = snapshot.node_fs {
            let used = space.capacity.saturating_sub(space.available);
            of_node["fs"] = fs(&time, space, used, space.inodes.saturating_sub(space.inodes_free));
        }
        if let Some((space, used, inodes)) = snapshot.image_fs {
            let image = fs(&time, space, used, inodes);
            of_node["runtime"] = json!({"imageFs": image, "containerFs": image});
        }
        of_node["rlimit"] = json!({"time": time, "maxpid": machine.max_pid, "curproc": machine.processes});
    }
    let pods: Vec<Value> = snapshot.pods.iter().map(|pod| pod_summary(snapshot, pod, short)).collect();
    json!({"node": of_node, "pods": pods})
}

fn pod_summary(snapshot: &Snapshot, pod: &PodUse, short: bool) -> Value {
    let time = stamp(snapshot.time);
    let started = stamp(pod.started.unwrap_or(snapshot.time));
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|c| {
            let mut out = json!({
                "name": c.name,
                "startTime": c.started.map_or_else(|| started.clone(), stamp),
                "cpu": cpu(c.cpu),
                "memory": mem(c.memory),
            });
            if let Some(swap) = c.swap {
                out["swap"] = json!({"time": time, "swapUsageBytes": swap});
            }
            if !short {
                if let Some((space, ..)) = snapshot.image_fs {
                    out["rootfs"] = fs(&time, space, c.root_bytes, c.root_inodes);
                }
                if let Some(space) = snapshot.node_fs {
                    out["logs"] = fs(&time, space, c.log_bytes, space.inodes.saturating_sub(space.inodes_free));
                }
            }
            out
        })
        .collect();
    let mut out = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": started,
        "containers": containers,
        "cpu": cpu(pod.cpu),
        "memory": mem(pod.memory),
    });
    if !short {
        if !pod.interfaces.is_empty() {
            out["network"] = network(&time, &pod.interfaces, None);
        }
        if let Some(space) = snapshot.node_fs {
            let used = pod.containers.iter().map(|c| c.root_bytes + c.log_bytes).sum();
            out["ephemeral-storage"] = fs(&time, space, used, pod.containers.iter().map(|c| c.root_inodes).sum());
        }
        if let Some(count) = pod.processes {
            out["process_stats"] = json!({"process_count": count});
        }
    }
    out
}

/// Whole seconds, as the API shows times.
fn stamp(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn nanoseconds(time: i64) -> String {
    stamp(Timestamp::from_nanosecond(time.into()).unwrap_or_default())
}

fn cpu(cpu: Cpu) -> Value {
    let mut out = json!({"time": nanoseconds(cpu.time), "usageCoreNanoSeconds": cpu.total_nanoseconds});
    if let Some(rate) = cpu.nano_cores {
        out["usageNanoCores"] = rate.into();
    }
    out
}

fn mem(memory: Memory) -> Value {
    let mut out = json!({
        "time": nanoseconds(memory.time),
        "usageBytes": memory.usage,
        "workingSetBytes": memory.working_set,
        "rssBytes": memory.rss,
        "pageFaults": memory.page_faults,
        "majorPageFaults": memory.major_page_faults,
    });
    if let Some(available) = memory.available {
        out["availableBytes"] = available.into();
    }
    out
}

fn fs(time: &str, space: DiskSpace, used: u64, inodes_used: u64) -> Value {
    json!({
        "time": time,
        "availableBytes": space.available,
        "capacityBytes": space.capacity,
        "usedBytes": used,
        "inodesFree": space.inodes_free,
        "inodes": space.inodes,
        "inodesUsed": inodes_used,
    })
}

fn network(time: &str, interfaces: &[Interface], default: Option<&str>) -> Value {
    let one = |i: &Interface| json!({"name": i.name, "rxBytes": i.rx_bytes, "rxErrors": i.rx_errors, "txBytes": i.tx_bytes, "txErrors": i.tx_errors});
    let main = interfaces.iter().find(|i| default.is_none_or(|name| i.name == name)).or(interfaces.first());
    let mut out = main.map(one).unwrap_or_else(|| json!({}));
    out["time"] = time.into();
    out["interfaces"] = interfaces.iter().map(one).collect();
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_need_two_readings_apart() {
        let rates = Rates::default();
        assert_eq!(rates.of("a", 0, 100).nano_cores, None);
        assert_eq!(rates.of("a", 1000, 200).nano_cores, None);
        assert_eq!(rates.of("a", 1_000_000_000, 500_000_100).nano_cores, Some(500_000_000));
        assert_eq!(rates.of("a", 1_100_000_000, 900_000_000).nano_cores, Some(500_000_000));
        // The counter of another container under that name began anew.
        assert_eq!(rates.of("a", 3_000_000_000, 0).nano_cores, Some(0));
        rates.keep(&HashSet::new());
        assert_eq!(rates.of("a", 9_000_000_000, 1).nano_cores, None);
    }
}
