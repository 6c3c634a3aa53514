//! containerd's configuration file, in the format of its version.

use std::fmt;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A containerd release.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
}

impl Version {
    /// From `containerd --version`: `containerd github.com/containerd/containerd v1.7.2 abcdef`.
    pub fn parse(text: &str) -> Option<Self> {
        if !text.starts_with("containerd") {
            return None;
        }
        text.split_whitespace().skip(1).find_map(|word| {
            let mut parts = word.trim_start_matches('v').split('.');
            let major = parts.next()?.parse().ok()?;
            let minor = parts.next()?.parse().ok()?;
            Some(Self { major, minor })
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What varies.
#[derive(Debug, Clone)]
pub struct Settings {
    pub version: Version,
    pub root: PathBuf,
    pub state: PathBuf,
    pub snapshotter: &'static str,
    pub pause_image: String,
    /// Without CAP_SYS_RESOURCE a score below our own cannot be set.
    pub restrict_oom_score_adj: bool,
    pub apparmor: bool,
    pub cni_bin_dir: PathBuf,
    pub cni_conf_dir: PathBuf,
    pub registry_dir: PathBuf,
}

/// The whole file: format 3 for containerd 2, format 2 for 1.6 and 1.7.
pub fn render(settings: &Settings) -> String {
    let s = settings;
    let v3 = s.version.major >= 2;
    let mut out = String::from("# Written by kedge at every start.\n");
    let mut line = |text: String| {
        let _ = writeln!(out, "{text}");
    };
    line(format!("version = {}", if v3 { 3 } else { 2 }));
    line(format!("root = {}", quoted(&s.root)));
    line(format!("state = {}", quoted(&s.state)));
    // Of the snapshotters only ours, and nothing that probes for devices or tracing back ends at start.
    let mut disabled = vec![
        "io.containerd.snapshotter.v1.aufs",
        "io.containerd.snapshotter.v1.btrfs",
        "io.containerd.snapshotter.v1.devmapper",
        "io.containerd.snapshotter.v1.zfs",
        "io.containerd.snapshotter.v1.blockfile",
        "io.containerd.snapshotter.v1.erofs",
        "io.containerd.tracing.processor.v1.otlp",
        "io.containerd.internal.v1.tracing",
        "io.containerd.nri.v1.nri",
    ];
    if s.snapshotter == "native" {
        disabled.push("io.containerd.snapshotter.v1.overlayfs");
    }
    let disabled: Vec<String> = disabled.iter().map(|name| format!("{name:?}")).collect();
    line(format!("disabled_plugins = [{}]", disabled.join(", ")));
    line(String::new());
    line("[grpc]".into());
    line(format!("  address = {}", quoted(&s.state.join("containerd.sock"))));
    line("[ttrpc]".into());
    line(format!("  address = {}", quoted(&s.state.join("containerd.sock.ttrpc"))));
    line("[plugins.\"io.containerd.internal.v1.opt\"]".into());
    line(format!("  path = {}", quoted(&s.root.join("opt"))));
    if v3 {
        images_and_runtime_v3(s, &mut line);
    } else {
        cri_v2(s, &mut line);
    }
    out
}

fn cri_v2(s: &Settings, line: &mut impl FnMut(String)) {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    line(format!("[{cri}]"));
    line(format!("  sandbox_image = {:?}", s.pause_image));
    line(format!("  restrict_oom_score_adj = {}", s.restrict_oom_score_adj));
    line(format!("  disable_apparmor = {}", !s.apparmor));
    line("  stream_server_address = \"127.0.0.1\"".into());
    line("  stream_server_port = \"0\"".into());
    line("  enable_unprivileged_ports = true".into());
    line("  enable_unprivileged_icmp = true".into());
    line("  tolerate_missing_hugetlb_controller = true".into());
    line(format!("[{cri}.containerd]"));
    line(format!("  snapshotter = {:?}", s.snapshotter));
    line("  default_runtime_name = \"runc\"".into());
    line("  disable_snapshot_annotations = true".into());
    line(format!("[{cri}.containerd.runtimes.runc]"));
    line("  runtime_type = \"io.containerd.runc.v2\"".into());
    line(format!("[{cri}.containerd.runtimes.runc.options]"));
    line("  SystemdCgroup = false".into());
    line(format!("[{cri}.cni]"));
    line(format!("  bin_dir = {}", quoted(&s.cni_bin_dir)));
    line(format!("  conf_dir = {}", quoted(&s.cni_conf_dir)));
    line(format!("[{cri}.registry]"));
    line(format!("  config_path = {}", quoted(&s.registry_dir)));
}

fn images_and_runtime_v3(s: &Settings, line: &mut impl FnMut(String)) {
    let images = "plugins.\"io.containerd.cri.v1.images\"";
    line(format!("[{images}]"));
    line(format!("  snapshotter = {:?}", s.snapshotter));
    line("  disable_snapshot_annotations = true".into());
    line(format!("[{images}.pinned_images]"));
    line(format!("  sandbox = {:?}", s.pause_image));
    line(format!("[{images}.registry]"));
    line(format!("  config_path = {}", quoted(&s.registry_dir)));
    let runtime = "plugins.\"io.containerd.cri.v1.runtime\"";
    line(format!("[{runtime}]"));
    line(format!("  restrict_oom_score_adj = {}", s.restrict_oom_score_adj));
    line(format!("  disable_apparmor = {}", !s.apparmor));
    line("  enable_unprivileged_ports = true".into());
    line("  enable_unprivileged_icmp = true".into());
    line("  tolerate_missing_hugetlb_controller = true".into());
    line(format!("[{runtime}.containerd]"));
    line("  default_runtime_name = \"runc\"".into());
    line(format!("[{runtime}.containerd.runtimes.runc]"));
    line("  runtime_type = \"io.containerd.runc.v2\"".into());
    line(format!("[{runtime}.containerd.runtimes.runc.options]"));
    line("  SystemdCgroup = false".into());
    line(format!("[{runtime}.cni]"));
    // 2.1 takes a list; 2.0 knows the single directory only.
    if s.version.minor >= 1 {
        line(format!("  bin_dirs = [{}]", quoted(&s.cni_bin_dir)));
    } else {
        line(format!("  bin_dir = {}", quoted(&s.cni_bin_dir)));
    }
    line(format!("  conf_dir = {}", quoted(&s.cni_conf_dir)));
    line("[plugins.\"io.containerd.grpc.v1.cri\"]".into());
    line("  stream_server_address = \"127.0.0.1\"".into());
    line("  stream_server_port = \"0\"".into());
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(version: &str) -> Settings {
        Settings {
            version: Version::parse(&format!("containerd github.com/containerd/containerd {version} abc"))
                .expect(version),
            root: "/data/containerd".into(),
            state: "/run/kedge/containerd".into(),
            snapshotter: "overlayfs",
            pause_image: "docker.io/kedge/pause:1".into(),
            restrict_oom_score_adj: true,
            apparmor: false,
            cni_bin_dir: "/data/cni/bin".into(),
            cni_conf_dir: "/data/cni/net.d".into(),
            registry_dir: "/data/registry".into(),
        }
    }

    #[test]
    fn reads_versions() {
        for (text, expected) in [
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", Some((1, 6))),
            ("containerd github.com/containerd/containerd/v2 v2.1.4 75cb2b7193e4", Some((2, 1))),
            ("containerd containerd.io 1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da", Some((1, 7))),
            ("runc 1.1.5", None),
        ] {
            assert_eq!(Version::parse(text), expected.map(|(major, minor)| Version { major, minor }), "{text}");
        }
    }

    #[test]
    fn each_version_gets_its_format() {
        let old = render(&settings("1.6.20~ds1"));
        assert!(old.contains("version = 2\n"));
        assert!(old.contains("[plugins.\"io.containerd.grpc.v1.cri\".cni]\n  bin_dir = \"/data/cni/bin\"\n"));
        assert!(old.contains("sandbox_image = \"docker.io/kedge/pause:1\""));
        let new = render(&settings("v2.1.0"));
        assert!(new.contains("version = 3\n"));
        assert!(new.contains("bin_dirs = [\"/data/cni/bin\"]"));
        assert!(new.contains("[plugins.\"io.containerd.cri.v1.images\".pinned_images]\n  sandbox = "));
        assert!(render(&settings("v2.0.5")).contains("bin_dir = \"/data/cni/bin\""));
        for text in [&old, &new] {
            assert!(text.contains("restrict_oom_score_adj = true"));
        }
    }
}
