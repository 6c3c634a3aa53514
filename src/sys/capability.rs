//! What this process may do.

use std::io;

/// A capability by its number in `linux/capability.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Capability {
    NetAdmin = 12,
    SysAdmin = 21,
    SysResource = 24,
}

/// Whether the process holds `capability` in its effective set.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn has(capability: Capability) -> io::Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    Ok(effective(&status).is_some_and(|set| set & (1 << capability as u8) != 0))
}

/// Whether the process runs as root.
pub fn is_root() -> bool {
    nix::unistd::Uid::effective().is_root()
}

fn effective(status: &str) -> Option<u64> {
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_effective_set() {
        let set = effective("Name:\tx\nCapEff:\t000001fffeffffff\nCapBnd:\t0\n").expect("parses");
        assert_eq!(set & (1 << Capability::SysResource as u8), 0);
        assert_ne!(set & (1 << Capability::SysAdmin as u8), 0);
        assert_eq!(effective("Name:\tx\n"), None);
    }
}
