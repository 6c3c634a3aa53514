//! Control groups, version 1 (one hierarchy a controller), version 2, and both at once, by their files.
//!
//! Invariants:
//! - CG-1: a limit is written in the units of version 1 and translated for version 2 here, nowhere else.
//! - CG-2: a group is removed only with everything below it, and only when no process is left in it.
//! - CG-3: on a machine with both versions the limits are those of version 1, but groups go from both: runc makes a
//!   version 2 group for every container there, and never removes its parents.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::mount::unescape;

/// The hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cgroups {
    V1 {
        /// Controller name → mount point of its hierarchy.
        controllers: BTreeMap<String, PathBuf>,
        /// The version 2 hierarchy beside them (a "hybrid" machine).
        unified: Option<PathBuf>,
    },
    V2(PathBuf),
}

/// Limits of one group; `None` leaves a file alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// 2..262144; 1024 is one core's worth.
    pub cpu_shares: Option<u64>,
    /// Microseconds per period; -1 is unlimited.
    pub cpu_quota: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Bytes; -1 is unlimited.
    pub memory: Option<i64>,
    pub pids: Option<i64>,
}

/// What a group uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub cpu_nanoseconds: u64,
    pub memory: u64,
    /// Memory without what the kernel can drop at once.
    pub working_set: u64,
    pub rss: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    /// Bytes; `None` without a limit.
    pub memory_limit: Option<u64>,
    pub processes: u64,
}

/// The controllers whose hierarchies pods get a group in.
const CONTROLLERS: &[&str] = &[
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "name=systemd",
    "systemd",
];

impl Cgroups {
    /// Finds the hierarchies of this machine.
    ///
    /// # Errors
    /// When none is mounted.
    pub fn detect() -> io::Result<Self> {
        Self::from_mountinfo(&std::fs::read_to_string("/proc/self/mountinfo")?)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup hierarchy is mounted"))
    }

    fn from_mountinfo(text: &str) -> Option<Self> {
        let mut v1 = BTreeMap::new();
        let mut v2 = None;
        for line in text.lines() {
            let Some((head, tail)) = line.split_once(" - ") else { continue };
            let Some(point) = head.split(' ').nth(4).map(|p| PathBuf::from(unescape(p))) else { continue };
            let mut tail = tail.split(' ');
            match tail.next() {
                Some("cgroup2") => v2 = v2.or(Some(point)),
                Some("cgroup") => {
                    let options = tail.nth(1).unwrap_or_default();
                    for option in options.split(',').filter(|o| CONTROLLERS.contains(o)) {
                        v1.entry(option.to_owned()).or_insert_with(|| point.clone());
                    }
                }
                _ => {}
            }
        }
        // Hybrid: the controllers are on version 1, version 2 is there for processes alone.
        if v1.contains_key("memory") || v1.contains_key("cpu") {
            Some(Self::V1 { controllers: v1, unified: v2 })
        } else {
            v2.map(Self::V2)
        }
    }

    pub fn is_v2(&self) -> bool {
        matches!(self, Self::V2(_))
    }

    /// Creates `group` (`/kubepods/burstable`) and its parents everywhere.
    ///
    /// # Errors
    /// When a directory cannot be made.
    pub fn create(&self, group: &str) -> io::Result<()> {
        match self {
            Self::V1 { controllers, .. } => {
                for (controller, root) in controllers {
                    let mut dir = root.clone();
                    for part in group.split('/').filter(|p| !p.is_empty()) {
                        let parent = dir.clone();
                        dir.push(part);
                        make_dir(&dir)?;
                        if controller == "cpuset" {
                            inherit_cpuset(&parent, &dir)?;
                        }
                    }
                }
                Ok(())
            }
            Self::V2(root) => {
                let available = std::fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
                let enable: Vec<String> = available.split_whitespace().map(|name| format!("+{name}")).collect();
                let mut dir = root.clone();
                for part in group.split('/').filter(|p| !p.is_empty()) {
                    for name in &enable {
                        // One by one: a controller that cannot be delegated must not hide the others.
                        let _ = std::fs::write(dir.join("cgroup.subtree_control"), name);
                    }
                    dir.push(part);
                    make_dir(&dir)?;
                }
                for name in &enable {
                    let _ = std::fs::write(dir.join("cgroup.subtree_control"), name);
                }
                Ok(())
            }
        }
    }

    /// Sets the limits that are given.
    ///
    /// # Errors
    /// When the kernel refuses a value; a controller that is not there is skipped.
    pub fn set(&self, group: &str, limits: &Limits) -> io::Result<()> {
        for (controller, file, value) in self.files(limits) {
            let Some(dir) = self.dir(controller, group) else { continue };
            let path = dir.join(file);
            if path.exists() {
                std::fs::write(&path, &value)
                    .map_err(|e| io::Error::new(e.kind(), format!("writing {value:?} to {}: {e}", path.display())))?;
            }
        }
        Ok(())
    }

    fn files(&self, limits: &Limits) -> Vec<(&'static str, &'static str, String)> {
        let mut out = Vec::new();
        let unlimited = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
        if self.is_v2() {
            if let Some(shares) = limits.cpu_shares {
                out.push(("cpu", "cpu.weight", weight_of_shares(shares).to_string()));
            }
            if let Some(quota) = limits.cpu_quota {
                out.push(("cpu", "cpu.max", format!("{} {}", unlimited(quota), limits.cpu_period.unwrap_or(100_000))));
            }
            if let Some(memory) = limits.memory {
                out.push(("memory", "memory.max", unlimited(memory)));
            }
        } else {
            if let Some(shares) = limits.cpu_shares {
                out.push(("cpu", "cpu.shares", shares.to_string()));
            }
            if let Some(quota) = limits.cpu_quota {
                out.push(("cpu", "cpu.cfs_period_us", limits.cpu_period.unwrap_or(100_000).to_string()));
                out.push(("cpu", "cpu.cfs_quota_us", quota.to_string()));
            }
            if let Some(memory) = limits.memory {
                out.push(("memory", "memory.limit_in_bytes", memory.to_string()));
            }
        }
        if let Some(pids) = limits.pids {
            out.push(("pids", "pids.max", unlimited(pids)));
        }
        out
    }

    pub fn exists(&self, group: &str) -> bool {
        self.dir("memory", group).is_some_and(|dir| dir.is_dir())
    }

    /// The processes in `group` and below it.
    pub fn processes(&self, group: &str) -> Vec<u32> {
        let mut pids = Vec::new();
        for dir in self.dirs(group) {
            walk(&dir, &mut |dir| {
                let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
            });
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes `group` and everything below it from every hierarchy. Groups that are gone are fine.
    ///
    /// # Errors
    /// When a process is still in one of them.
    pub fn remove(&self, group: &str) -> io::Result<()> {
        let mut result = Ok(());
        for dir in self.dirs(group) {
            let mut below = Vec::new();
            walk(&dir, &mut |dir| below.push(dir.to_owned()));
            for dir in below.into_iter().rev() {
                if let Err(error) = std::fs::remove_dir(&dir) {
                    if error.kind() != io::ErrorKind::NotFound {
                        result = Err(io::Error::new(error.kind(), format!("removing {}: {error}", dir.display())));
                    }
                }
            }
        }
        result
    }

    /// The names of the groups directly below `group`.
    pub fn children(&self, group: &str) -> Vec<String> {
        let Some(dir) = self.dir("memory", group).or_else(|| self.dir("cpu", group)) else { return Vec::new() };
        let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
        entries
            .flatten()
            .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect()
    }

    /// What `group` uses now.
    ///
    /// # Errors
    /// When it is not there.
    pub fn usage(&self, group: &str) -> io::Result<Usage> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, format!("no cgroup {group}"));
        let memory = self.dir("memory", group).filter(|dir| dir.is_dir()).ok_or_else(missing)?;
        let stat = std::fs::read_to_string(memory.join("memory.stat")).unwrap_or_default();
        let mut usage = Usage::default();
        let (inactive, limit);
        if self.is_v2() {
            usage.memory = number(&memory, "memory.current");
            usage.rss = field(&stat, "anon");
            usage.page_faults = field(&stat, "pgfault");
            usage.major_page_faults = field(&stat, "pgmajfault");
            inactive = field(&stat, "inactive_file");
            limit = number(&memory, "memory.max");
            let cpu = std::fs::read_to_string(memory.join("cpu.stat")).unwrap_or_default();
            usage.cpu_nanoseconds = field(&cpu, "usage_usec") * 1000;
        } else {
            usage.memory = number(&memory, "memory.usage_in_bytes");
            usage.rss = field(&stat, "total_rss");
            usage.page_faults = field(&stat, "total_pgfault");
            usage.major_page_faults = field(&stat, "total_pgmajfault");
            inactive = field(&stat, "total_inactive_file");
            limit = number(&memory, "memory.limit_in_bytes");
            usage.cpu_nanoseconds = self.dir("cpuacct", group).map_or(0, |dir| number(&dir, "cpuacct.usage"));
        }
        usage.working_set = usage.memory.saturating_sub(inactive);
        // Version 1 says "no limit" with the largest multiple of a page.
        usage.memory_limit = (limit > 0 && limit < 1 << 62).then_some(limit);
        usage.processes = self.processes(group).len() as u64;
        Ok(usage)
    }

    fn dir(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let group = group.trim_start_matches('/');
        match self {
            Self::V1 { controllers, .. } => controllers.get(controller).map(|root| root.join(group)),
            Self::V2(root) => Some(root.join(group)),
        }
    }

    fn dirs(&self, group: &str) -> Vec<PathBuf> {
        let group = group.trim_start_matches('/');
        match self {
            Self::V1 { controllers, unified } => {
                let mut dirs: Vec<PathBuf> = controllers.values().chain(unified).map(|root| root.join(group)).collect();
                dirs.sort();
                dirs.dedup();
                dirs
            }
            Self::V2(root) => vec![root.join(group)],
        }
    }
}

/// CPU shares as a version 2 weight, by runc's formula.
pub fn weight_of_shares(shares: u64) -> u64 {
    if shares == 0 { 0 } else { 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142 }
}

fn make_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(io::Error::new(error.kind(), format!("creating {}: {error}", dir.display())))
        }
        _ => Ok(()),
    }
}

/// A new version 1 cpuset is empty and takes no process until it has processors and memory nodes.
fn inherit_cpuset(parent: &Path, dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = std::fs::read_to_string(dir.join(file)).unwrap_or_default();
        if own.trim().is_empty() {
            if let Ok(value) = std::fs::read_to_string(parent.join(file)) {
                std::fs::write(dir.join(file), value.trim())?;
            }
        }
    }
    Ok(())
}

/// Calls `visit` with `dir` and every directory below it, parents first.
fn walk(dir: &Path, visit: &mut dyn FnMut(&Path)) {
    if !dir.is_dir() {
        return;
    }
    visit(dir);
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk(&entry.path(), visit);
        }
    }
}

fn number(dir: &Path, file: &str) -> u64 {
    std::fs::read_to_string(dir.join(file)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

fn field(text: &str, name: &str) -> u64 {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_v1_v2_and_hybrid() {
        let v1 = "31 30 0:26 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                  32 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n";
        let both = format!("{v1}33 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
        for text in [v1, &both] {
            let Some(Cgroups::V1 { controllers, unified }) = Cgroups::from_mountinfo(text) else { panic!("version 1") };
            assert_eq!(controllers["cpuacct"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
            assert_eq!(controllers.len(), 3);
            assert_eq!(unified.is_some(), text == both);
        }
        let v2 = "33 30 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(Cgroups::from_mountinfo(v2), Some(Cgroups::V2("/sys/fs/cgroup".into())));
        assert_eq!(Cgroups::from_mountinfo(""), None);
    }

    #[test]
    fn limits_in_the_files_of_each_version() {
        let limits = Limits { cpu_shares: Some(102), cpu_quota: Some(20_000), memory: Some(-1), ..Limits::default() };
        let v1 = Cgroups::V1 { controllers: BTreeMap::new(), unified: None };
        assert_eq!(
            v1.files(&limits),
            [
                ("cpu", "cpu.shares", "102".to_owned()),
                ("cpu", "cpu.cfs_period_us", "100000".to_owned()),
                ("cpu", "cpu.cfs_quota_us", "20000".to_owned()),
                ("memory", "memory.limit_in_bytes", "-1".to_owned()),
            ]
        );
        let v2 = Cgroups::V2(PathBuf::new());
        assert_eq!(
            v2.files(&limits),
            [
                ("cpu", "cpu.weight", "4".to_owned()),
                ("cpu", "cpu.max", "20000 100000".to_owned()),
                ("memory", "memory.max", "max".to_owned()),
            ]
        );
    }

    #[test]
    fn weights() {
        for (shares, weight) in [(0, 0), (2, 1), (1024, 39), (262_144, 10_000), (1 << 30, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight);
        }
    }

    #[test]
    fn a_real_group_lives_and_dies() {
        if !crate::capability::is_root() {
            return;
        }
        let Ok(cgroups) = Cgroups::detect() else { return };
        let group = format!("/kedge-test-{}/inner", std::process::id());
        cgroups.create(&group).expect("created");
        let set = cgroups.set(&group, &Limits { cpu_shares: Some(100), memory: Some(64 << 20), ..Limits::default() });
        let usage = cgroups.usage(&group);
        let parent = group.rsplit_once('/').expect("has a parent").0;
        // As runc does beside ours.
        let beside = match &cgroups {
            Cgroups::V1 { unified: Some(root), .. } => Some(root.join(group.trim_start_matches('/'))),
            _ => None,
        };
        let made = beside.as_ref().map(std::fs::create_dir_all);
        let children = cgroups.children(parent);
        cgroups.remove(parent).expect("removed");
        assert!(made.is_none_or(|made| made.is_ok()) && beside.is_none_or(|dir| !dir.exists()));
        set.expect("limits are set");
        assert_eq!(usage.expect("usage").memory_limit, Some(64 << 20));
        assert_eq!(children, ["inner"]);
        assert!(!cgroups.exists(&group));
    }
}
