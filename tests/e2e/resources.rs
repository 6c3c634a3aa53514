//! Point 4: requests and limits reach the kernel, and what the kernel does is told.

use std::path::{Path, PathBuf};

use crate::scene::{LONG, SHORT, Scene, contains, shell_pod, text};
use crate::{Run, Scenario};

pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "resource_memory_limit_kills", run: Run::Shared(memory) },
    Scenario { name: "resource_limits_in_the_cgroup", run: Run::Shared(cgroup) },
    Scenario { name: "resource_security_context", run: Run::Shared(security) },
];

fn memory(s: &Scene<'_>) {
    s.create(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: greedy}\nspec:\n  containers:\n  - name: web\n    image: docker.io/kedge/pause:1\n    \
         args: [serve, --port, '8080']\n    resources: {limits: {memory: 32Mi}}\n",
    );
    s.pod_ready("greedy");
    let ip = text(&s.json("pod greedy"), "/status/podIP");
    // It does not live to answer.
    let _ = s.get(&ip, 8080, "/stress?mib=200");
    let pod = s.until_value("pod greedy", "/status/containerStatuses/0/restartCount", LONG, |n| n.as_u64() >= Some(1));
    let last = &pod["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["reason"], "OOMKilled", "{last}");
    assert_eq!(last["exitCode"], 137, "{last}");
    s.pod_ready("greedy");
    let described = s.k("describe pod greedy");
    contains(&described, "OOMKilled");
    contains(&described, "Exit Code:    137");
}

/// The cgroup folder of a container's process, below one v1 controller or the v2 root.
fn cgroup_of(s: &Scene<'_>, pod: &str, controller: &str) -> PathBuf {
    let id = text(&s.json(&format!("pod {pod}")), "/status/containerStatuses/0/containerID");
    let id = id.trim_start_matches("containerd://").to_owned();
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let root = if unified { PathBuf::from("/sys/fs/cgroup") } else { Path::new("/sys/fs/cgroup").join(controller) };
    let found = kedge_tests::command::quiet(
        "find",
        &[root.as_os_str(), "-type".as_ref(), "d".as_ref(), "-name".as_ref(), format!("*{id}*").as_ref()],
    );
    let folder = found.lines().next().unwrap_or_else(|| panic!("no cgroup of container {id} below {}", root.display()));
    PathBuf::from(folder)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

fn cgroup(s: &Scene<'_>) {
    let limited = shell_pod("limited")
        + "    resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 250m, memory: 48Mi}}\n";
    s.create(&limited);
    s.create(&shell_pod("free"));
    let guaranteed = shell_pod("full") + "    resources: {limits: {cpu: 100m, memory: 16Mi}}\n";
    s.create(&guaranteed);
    for pod in ["limited", "free", "full"] {
        s.pod_ready(pod);
    }
    let (cpu, memory) = (cgroup_of(s, "limited", "cpu"), cgroup_of(s, "limited", "memory"));
    if cpu.join("cpu.max").exists() {
        assert_eq!(read(&cpu.join("cpu.max")), "25000 100000");
        assert_eq!(read(&memory.join("memory.max")), "50331648");
        assert_eq!(read(&cpu.parent().expect("a pod's cgroup").join("memory.max")), "50331648");
    } else {
        assert_eq!(read(&cpu.join("cpu.cfs_quota_us")), "25000");
        assert_eq!(read(&cpu.join("cpu.cfs_period_us")), "100000");
        assert_eq!(read(&cpu.join("cpu.shares")), "102");
        assert_eq!(read(&memory.join("memory.limit_in_bytes")), "50331648");
        assert_eq!(read(&memory.parent().expect("a pod's cgroup").join("memory.limit_in_bytes")), "50331648");
    }
    for (pod, class, part) in [
        ("limited", "Burstable", "burstable"),
        ("free", "BestEffort", "besteffort"),
        ("full", "Guaranteed", "kubepods"),
    ] {
        assert_eq!(text(&s.json(&format!("pod {pod}")), "/status/qosClass"), class);
        contains(&cgroup_of(s, pod, "cpu").display().to_string(), part);
    }
    let uid = text(&s.json("pod free"), "/metadata/uid");
    s.k("delete pod free --timeout=60s");
    let left = || kedge_tests::command::quiet("find", &["/sys/fs/cgroup", "-type", "d", "-name", &format!("*{uid}*")]);
    s.until("the pod's cgroups are gone", SHORT, || left().is_empty().then_some(()));
}

fn security(s: &Scene<'_>) {
    let yaml = shell_pod("tight")
        + "    securityContext: {runAsUser: 1234, runAsGroup: 4321, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}\n";
    s.create(&yaml);
    s.pod_ready("tight");
    contains(&s.sh("tight", "id").ok(), "uid=1234 gid=4321");
    assert!(!s.sh("tight", "touch /x").success(), "the root file system is read only");
    let status = s.sh("tight", "cat /proc/self/status").ok();
    contains(&status, "CapEff:\t0000000000000000");
    contains(&status, "NoNewPrivs:\t1");
    s.create(&(shell_pod("root") + "    securityContext: {runAsNonRoot: true}\n"));
    let pod = s.until_value("pod root", "/status/containerStatuses/0/state/waiting/reason", LONG, |r| {
        r == "CreateContainerConfigError"
    });
    contains(
        &text(&pod, "/status/containerStatuses/0/state/waiting/message"),
        "container has runAsNonRoot and image will run as root",
    );
}
