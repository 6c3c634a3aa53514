//! Addresses of this node's pods: one file per address in a folder, as host-local does it, so that every plugin process
//! and a person can see who has what.
//!
//! Invariants:
//! - IP-1: an address belongs to one container until that container's DEL, also across crashes and restarts.
//! - IP-2: addresses are handed out in turn, so that a freed one rests as long as possible.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::PortMapping;

/// Who has an address: the content of its file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub container: String,
    pub interface: String,
    /// What DEL must take away again.
    #[serde(default)]
    pub host_ports: Vec<PortMapping>,
}

#[derive(Debug, thiserror::Error)]
pub enum IpamError {
    #[error("no free address in {subnet}: all {total} are taken")]
    Exhausted { subnet: Ipv4Net, total: usize },
    #[error("address book {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
}

/// The address book, locked against other plugin processes while it is open.
pub struct AddressBook {
    folder: PathBuf,
    _lock: File,
}

impl AddressBook {
    /// Waits for the lock.
    ///
    /// # Errors
    /// When the folder cannot be made or locked.
    pub fn open(folder: &Path) -> Result<Self, IpamError> {
        let failed = |source| IpamError::Io { path: folder.to_owned(), source };
        std::fs::create_dir_all(folder).map_err(failed)?;
        let lock = OpenOptions::new().create(true).append(true).open(folder.join("lock")).map_err(failed)?;
        lock.lock().map_err(failed)?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
    }

    /// The address of `lease.container`: the one it has, or the next free one of `subnet`.
    pub fn allocate(&self, subnet: Ipv4Net, gateway: Ipv4Addr, lease: &Lease) -> Result<Ipv4Addr, IpamError> {
        let taken = self.leases()?;
        if let Some((ip, _)) =
            taken.iter().find(|(ip, known)| known.container == lease.container && subnet.contains(ip))
        {
            self.write(*ip, lease)?;
            return Ok(*ip);
        }
        let usable: Vec<Ipv4Addr> = subnet.hosts().filter(|ip| *ip != gateway).collect();
        let last = std::fs::read_to_string(self.folder.join("last")).ok().and_then(|text| text.trim().parse().ok());
        let start = last.and_then(|last: Ipv4Addr| usable.iter().position(|ip| *ip > last)).unwrap_or(0);
        let (before, after) = usable.split_at(start);
        let free = after.iter().chain(before).find(|ip| !taken.iter().any(|(used, _)| used == *ip));
        let ip = *free.ok_or(IpamError::Exhausted { subnet, total: usable.len() })?;
        self.write(ip, lease)?;
        // Only a hint: losing it costs nothing but the order.
        let _ = std::fs::write(self.folder.join("last"), ip.to_string());
        Ok(ip)
    }

    /// Frees every address of `container` and says what it had.
    pub fn release(&self, container: &str) -> Result<Vec<(Ipv4Addr, Lease)>, IpamError> {
        let mut freed = self.leases()?;
        freed.retain(|(_, lease)| lease.container == container);
        for (ip, _) in &freed {
            let path = self.folder.join(ip.to_string());
            std::fs::remove_file(&path).map_err(|source| IpamError::Io { path, source })?;
        }
        Ok(freed)
    }

    pub fn leases(&self) -> Result<Vec<(Ipv4Addr, Lease)>, IpamError> {
        let failed = |source| IpamError::Io { path: self.folder.clone(), source };
        let mut leases = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Some(ip) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let text = std::fs::read(entry.path()).map_err(failed)?;
            // A torn file (power loss) still marks its address as taken, by nobody: it is freed at the next start.
            let unknown = || Lease { container: String::new(), interface: String::new(), host_ports: Vec::new() };
            leases.push((ip, serde_json::from_slice(&text).unwrap_or_else(|_| unknown())));
        }
        Ok(leases)
    }

    fn write(&self, ip: Ipv4Addr, lease: &Lease) -> Result<(), IpamError> {
        let path = self.folder.join(ip.to_string());
        let temporary = self.folder.join(format!(".{ip}"));
        let text = serde_json::to_vec(lease).expect("a lease is JSON");
        let result = File::create(&temporary).and_then(|mut file| file.write_all(&text));
        result.and_then(|()| std::fs::rename(&temporary, &path)).map_err(|source| IpamError::Io { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(container: &str) -> Lease {
        Lease { container: container.into(), interface: "eth0".into(), host_ports: Vec::new() }
    }

    #[test]
    fn addresses_go_round_and_come_back() {
        let folder = tempfile::tempdir().expect("tempdir");
        let book = AddressBook::open(folder.path()).expect("opens");
        let subnet: Ipv4Net = "10.42.0.0/29".parse().expect("a net");
        let gateway = "10.42.0.1".parse().expect("an ip");
        let take = |name: &str| {
            book.allocate(subnet, gateway, &lease(name)).map(|ip| ip.octets()[3]).map_err(|e| e.to_string())
        };
        assert_eq!((take("a"), take("b"), take("a")), (Ok(2), Ok(3), Ok(2)));
        book.release("a").expect("freed");
        assert_eq!((take("c"), take("d"), take("e"), take("f")), (Ok(4), Ok(5), Ok(6), Ok(2)));
        assert_eq!(take("g"), Err("no free address in 10.42.0.0/29: all 5 are taken".into()));
        assert_eq!(book.release("nobody").expect("fine").len(), 0);
    }
}
