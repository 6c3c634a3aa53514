//! The machine as it was before: processes, mounts, network namespaces, devices, rules, logs and cgroups.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::command::{quiet, signal};

/// The nftables tables of kedge.
const TABLES: &[&str] = &["kedge-proxy", "kedge-policy", "kedge-cni"];
pub const BRIDGE: &str = "kedge0";

/// What was there before a server started.
pub struct Before {
    namespaces: BTreeSet<PathBuf>,
    pod_logs: bool,
}

impl Before {
    pub fn look() -> Self {
        Self { namespaces: network_namespaces(), pod_logs: Path::new("/var/log/pods").exists() }
    }

    /// Removes what a server with its folders below `root` left.
    pub fn restore(&self, root: &Path) {
        end_processes(root);
        unmount(root);
        if occupied().is_some() {
            // Somebody started another one meanwhile: what is left of the network is theirs.
            return;
        }
        for namespace in network_namespaces().difference(&self.namespaces) {
            quiet("umount", &["-l".into(), namespace.clone()]);
            let _ = std::fs::remove_file(namespace);
        }
        network();
        if !self.pod_logs {
            let _ = std::fs::remove_dir_all("/var/log/pods");
            let _ = std::fs::remove_dir_all("/var/log/containers");
        }
        control_groups();
    }
}

/// Removes what killed runs left in /tmp, except those whose kedge still runs.
pub fn sweep() {
    for entry in std::fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let path = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with("kedge-test.");
        let serving = processes().values().any(|p| p.mentions(&path) && p.argv.iter().any(|arg| arg == "server"));
        if ours && !serving {
            end_processes(&path);
            unmount(&path);
            let _ = std::fs::remove_dir_all(&path);
        }
    }
}

/// Why a node cannot start here now, if another one runs.
pub fn occupied() -> Option<String> {
    let running = processes().into_iter().find(|(_, p)| {
        p.argv.first().is_some_and(|program| program.ends_with("/kedge") || program == "kedge")
            && p.argv.iter().any(|arg| arg == "server")
            && !p.argv.iter().any(|arg| arg == "--disable-agent")
    });
    running.map(|(pid, p)| format!("another kedge runs here (pid {pid}: {}): stop it first", p.argv.join(" ")))
}

/// Devices, addresses and rules of any kedge. Only after [`occupied`] said that none runs.
pub fn network() {
    for line in quiet("nft", &["list", "tables"]).lines() {
        if let ["table", family, name] = line.split_whitespace().collect::<Vec<_>>()[..] {
            if TABLES.contains(&name) {
                quiet("nft", &["delete", "table", family, name]);
            }
        }
    }
    quiet("ip", &["link", "delete", BRIDGE]);
    quiet("ip", &["address", "delete", "10.43.0.10/32", "dev", "lo"]);
}

struct Process {
    parent: u32,
    argv: Vec<String>,
}

impl Process {
    /// Whether it is a part of the kedge with its folders below `root` (and not, say, somebody's `tail` of its log).
    fn mentions(&self, root: &Path) -> bool {
        let root = format!("{}/", root.display());
        let program = self.argv.first().and_then(|path| path.rsplit('/').next()).unwrap_or_default();
        let part = program.starts_with("containerd") || program.starts_with("kedge") || program == "runc";
        part && self.argv.iter().any(|arg| arg.contains(&root))
    }
}

fn processes() -> BTreeMap<u32, Process> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(cmdline) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let argv = cmdline.split(|b| *b == 0).filter(|arg| !arg.is_empty());
        let argv = argv.map(|arg| String::from_utf8_lossy(arg).into_owned()).collect();
        found.insert(pid, Process { parent, argv });
    }
    found
}

/// containerd and shims with `root` in their argv, and everything below them.
fn end_processes(root: &Path) {
    for _ in 0..5 {
        let all = processes();
        let mut ours: BTreeSet<u32> = all.iter().filter(|(_, p)| p.mentions(root)).map(|(pid, _)| *pid).collect();
        loop {
            let more: Vec<u32> = all
                .iter()
                .filter(|(pid, p)| ours.contains(&p.parent) && !ours.contains(pid))
                .map(|(pid, _)| *pid)
                .collect();
            if more.is_empty() {
                break;
            }
            ours.extend(more);
        }
        ours.remove(&std::process::id());
        if ours.is_empty() {
            return;
        }
        for pid in ours {
            signal(pid, "KILL");
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn unmount(root: &Path) {
    // Twice: a lazily unmounted parent may have hidden a child.
    for _ in 0..2 {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points =
            table.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| Path::new(point).starts_with(root));
        let mut points: Vec<&str> = points.collect();
        points.reverse();
        for point in points {
            quiet("umount", &["-l", point]);
        }
    }
}

fn network_namespaces() -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("cni-")).map(|entry| entry.path()).collect()
}

/// Empty cgroups of pods; those still in use refuse.
fn control_groups() {
    let roots = quiet("find", &["/sys/fs/cgroup", "-maxdepth", "2", "-type", "d", "-name", "kubepods*"]);
    for root in roots.lines() {
        quiet("find", &[root, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]);
    }
}
