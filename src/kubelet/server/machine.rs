//! What the whole machine uses, from `/proc`.
//!
//! Invariants:
//! - KM-1: a file that cannot be read or parsed gives zeros, not errors: statistics are best effort.

use std::path::Path;

/// Ticks of `/proc/stat` in a second (`USER_HZ`; the kernel's interface fixes it at 100 on all our targets).
const TICK_NANOSECONDS: u64 = 10_000_000;

/// The machine at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Machine {
    pub cpu_nanoseconds: u64,
    /// Seconds since the epoch.
    pub boot: i64,
    /// Bytes, like the following.
    pub memory_total: u64,
    pub memory_usage: u64,
    pub working_set: u64,
    pub rss: u64,
    pub swap_total: u64,
    pub swap_free: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub interfaces: Vec<Interface>,
    pub default_interface: Option<String>,
    pub processes: u64,
    pub max_pid: u64,
    pub cores: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_errors: u64,
    pub tx_bytes: u64,
    pub tx_errors: u64,
}

/// Our own process: what upstream calls the system container `kubelet`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Process {
    pub cpu_nanoseconds: u64,
    pub rss: u64,
}

impl Machine {
    pub fn read() -> Self {
        Self::read_from(Path::new("/proc"))
    }

    fn read_from(proc: &Path) -> Self {
        let file = |name: &str| std::fs::read_to_string(proc.join(name)).unwrap_or_default();
        let (stat, memory, vm) = (file("stat"), file("meminfo"), file("vmstat"));
        let kib = |name: &str| field(&memory, &format!("{name}:")) * 1024;
        let usage = kib("MemTotal").saturating_sub(kib("MemFree"));
        Self {
            cpu_nanoseconds: cpu(&stat),
            boot: i64::try_from(field(&stat, "btime")).unwrap_or(0),
            memory_total: kib("MemTotal"),
            memory_usage: usage,
            working_set: usage.saturating_sub(kib("Inactive(file)")),
            rss: kib("AnonPages"),
            swap_total: kib("SwapTotal"),
            swap_free: kib("SwapFree"),
            page_faults: field(&vm, "pgfault"),
            major_page_faults: field(&vm, "pgmajfault"),
            interfaces: interfaces(&file("net/dev")),
            default_interface: default_interface(&file("net/route")),
            processes: processes(&file("loadavg")),
            max_pid: file("sys/kernel/pid_max").trim().parse().unwrap_or(0),
            cores: stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu ")).count() as u64,
        }
    }
}

impl Process {
    pub fn read() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self { cpu_nanoseconds: process_cpu(&stat), rss: field(&status, "VmRSS:") * 1024 }
    }
}

/// The first number after `name` at the start of a line.
fn field(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(name).filter(|rest| rest.starts_with([' ', '\t'])));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Everything but idle and waiting for disks; guests are in user time already.
fn cpu(stat: &str) -> u64 {
    let numbers = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    let ticks = numbers.split_whitespace().take(8).enumerate().filter(|(at, _)| *at != 3 && *at != 4);
    ticks.filter_map(|(_, n)| n.parse::<u64>().ok()).sum::<u64>() * TICK_NANOSECONDS
}

fn process_cpu(stat: &str) -> u64 {
    // The name in parentheses may hold anything.
    let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
    let ticks = after.split_whitespace().skip(11).take(2);
    ticks.filter_map(|n| n.parse::<u64>().ok()).sum::<u64>() * TICK_NANOSECONDS
}

fn interfaces(dev: &str) -> Vec<Interface> {
    let mut out = Vec::new();
    for line in dev.lines().skip(2) {
        let Some((name, numbers)) = line.split_once(':') else { continue };
        let name = name.trim();
        // Pods' ends are counted with their pods.
        if name == "lo" || name.starts_with("veth") {
            continue;
        }
        let numbers: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied().unwrap_or(0);
        out.push(Interface {
            name: name.to_owned(),
            rx_bytes: at(0),
            rx_errors: at(2),
            tx_bytes: at(8),
            tx_errors: at(10),
        });
    }
    out
}

fn default_interface(route: &str) -> Option<String> {
    let mut fields = route.lines().skip(1).map(str::split_whitespace);
    fields
        .find_map(|mut f| Some((f.next()?, f.next()?)).filter(|(_, to)| *to == "00000000"))
        .map(|(name, _)| name.into())
}

/// `0.1 0.2 0.3 2/345 6789`: the number after the slash.
fn processes(loadavg: &str) -> u64 {
    let all = loadavg.split_whitespace().nth(3).and_then(|f| f.split_once('/'));
    all.and_then(|(_, all)| all.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_proc() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("net")).expect("net");
        let files = [
            ("stat", "cpu  1 2 3 100 50 4 5 6 7 8\ncpu0 1 2\ncpu1 1 2\nbtime 1700000000\n"),
            ("meminfo", "MemTotal:  1000 kB\nMemFree:  400 kB\nInactive(file): 100 kB\nAnonPages: 7 kB\n"),
            ("vmstat", "pgfault 9\npgmajfault 3\n"),
            (
                "net/dev",
                "a\nb\n    lo: 1 1 0 0 0 0 0 0 1 1 0\n  eth0: 10 1 2 0 0 0 0 0 20 1 4 0\nveth1: 1 1 1 1 1 1 1 1 1 1 1\n",
            ),
            ("net/route", "Iface\tDestination\neth1\t0000FEA9\neth0\t00000000\t0101\n"),
            ("loadavg", "0.1 0.2 0.3 2/345 6789\n"),
        ];
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).expect("writes");
        }
        let machine = Machine::read_from(dir.path());
        let eth0 = Interface { name: "eth0".into(), rx_bytes: 10, rx_errors: 2, tx_bytes: 20, tx_errors: 4 };
        let expected = Machine {
            cpu_nanoseconds: 21 * TICK_NANOSECONDS,
            boot: 1_700_000_000,
            memory_total: 1000 << 10,
            memory_usage: 600 << 10,
            working_set: 500 << 10,
            rss: 7 << 10,
            page_faults: 9,
            major_page_faults: 3,
            interfaces: vec![eth0],
            default_interface: Some("eth0".into()),
            processes: 345,
            cores: 2,
            ..Machine::default()
        };
        assert_eq!(machine, expected);
        assert_eq!(Machine::read_from(Path::new("/nowhere")), Machine::default());
    }

    #[test]
    fn reads_a_process() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 11 12 13";
        assert_eq!(process_cpu(stat), (11 + 12) * TICK_NANOSECONDS);
        assert!(Process::read().rss > 0);
    }
}
