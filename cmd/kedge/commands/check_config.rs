//! `kedge check-config`: what a node needs of its machine, one line each.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;

#[derive(Debug, Args)]
pub struct Options {}

/// What a check found.
pub enum State {
    Good(String),
    /// Works, but not at its best.
    Degraded(String),
    Missing(String),
}

use State::{Degraded, Good, Missing};

/// Name and check of everything that a node needs. One list for this command and for the server's start.
const CHECKS: &[(&str, fn() -> State)] = &[
    ("root", root),
    ("containerd", || program("containerd")),
    ("runc", || program("runc")),
    ("nft", || program("nft")),
    ("cgroups", cgroups),
    ("overlayfs", overlayfs),
    ("ip forwarding", || writable("/proc/sys/net/ipv4/ip_forward")),
    ("oom_score_adj", oom_score_adj),
];

pub fn run(_: &Options) -> Result<()> {
    let mut out = std::io::stdout();
    let mut missing = 0;
    for (name, check) in CHECKS {
        let (word, text) = match check() {
            Good(text) => ("ok", text),
            Degraded(text) => ("degraded", text),
            Missing(text) => {
                missing += 1;
                ("missing", text)
            }
        };
        writeln!(out, "{name:<14} {word:<9} {text}")?;
    }
    if missing > 0 {
        bail!("{missing} of {} checks failed", CHECKS.len());
    }
    Ok(())
}

/// The first thing that a node cannot do without; `own_containerd`: we start containerd ourselves.
///
/// # Errors
/// One line that says what to do.
pub fn require(own_containerd: bool) -> Result<()> {
    let needed = CHECKS.iter().filter(|(name, _)| own_containerd || !["containerd", "runc"].contains(name));
    for (_, check) in needed {
        if let Missing(text) = check() {
            bail!(text);
        }
    }
    Ok(())
}

fn root() -> State {
    if nix::unistd::geteuid().is_root() {
        Good("running as root".into())
    } else {
        Missing(
            "not root: a node needs to be (run it with sudo, or with --disable-agent for a control plane alone)".into(),
        )
    }
}

fn program(name: &str) -> State {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(Into::into));
    match folders.map(|folder| folder.join(name)).find(|path| path.is_file()) {
        Some(path) => Good(path.display().to_string()),
        None => {
            let package = if name == "nft" { "nftables" } else { name };
            Missing(format!(
                "{name} is not installed: install it with 'apt-get install {package}', or run ./install.sh"
            ))
        }
    }
}

fn cgroups() -> State {
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers");
    if let Ok(controllers) = std::fs::read_to_string(unified) {
        let lacking: Vec<&str> = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|c| !controllers.split_whitespace().any(|w| w == *c))
            .collect();
        return match lacking.as_slice() {
            [] => Good("v2".into()),
            some => Missing(format!(
                "cgroup v2 lacks {}: on a Raspberry Pi add cgroup_memory=1 cgroup_enable=memory to /boot/cmdline.txt",
                some.join(", ")
            )),
        };
    }
    let lacking: Vec<&str> =
        ["cpu", "memory", "pids"].into_iter().filter(|c| !Path::new("/sys/fs/cgroup").join(c).is_dir()).collect();
    match lacking.as_slice() {
        [] => Good("v1".into()),
        some => Missing(format!("no cgroup controllers {}: mount them below /sys/fs/cgroup", some.join(", "))),
    }
}

fn overlayfs() -> State {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if known.lines().any(|line| line.trim_start_matches("nodev").trim() == "overlay") {
        Good("in the kernel".into())
    } else {
        Degraded("not loaded yet: 'modprobe overlay', or container images take more room".into())
    }
}

fn writable(path: &str) -> State {
    match std::fs::OpenOptions::new().write(true).open(path) {
        Ok(_) => Good(path.into()),
        Err(error) => Missing(format!("cannot write {path}: {error}")),
    }
}

fn oom_score_adj() -> State {
    if sys::capability::has(sys::capability::Capability::SysResource).unwrap_or(false) {
        Good("can be lowered".into())
    } else {
        Degraded("cannot be lowered (no CAP_SYS_RESOURCE): containers start without it".into())
    }
}
