//! Mounts and file system space.

use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts a tmpfs of at most `size` bytes (none: the kernel's default) at `target`. Everybody may write to it, and
/// remove only what is their own (the kernel's default, as upstream leaves it).
///
/// # Errors
/// When the kernel refuses.
pub fn tmpfs(target: &Path, size: Option<u64>) -> io::Result<()> {
    let mut options = String::from("mode=1777");
    if let Some(size) = size {
        options.push_str(&format!(",size={size}"));
    }
    mount(Some("tmpfs"), target, Some("tmpfs"), MsFlags::empty(), Some(options.as_str())).map_err(io::Error::from)
}

/// Binds `source` at `target`.
///
/// # Errors
/// When the kernel refuses.
pub fn bind(source: &Path, target: &Path) -> io::Result<()> {
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>).map_err(io::Error::from)
}

/// Binds what `path` names below `root` at `target`, resolving it without ever leaving `root`.
///
/// # Errors
/// When a link leads out of `root`, or the kernel refuses.
pub fn bind_beneath(root: &Path, path: &Path, target: &Path) -> io::Result<()> {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
    use std::os::fd::AsRawFd as _;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let dir = open(root, flags | OFlag::O_DIRECTORY, nix::sys::stat::Mode::empty()).map_err(io::Error::from)?;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let found = openat2(&dir, path, how).map_err(io::Error::from)?;
    bind(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())), target)
}

/// Writes out everything of the file system that holds `path`.
///
/// # Errors
/// When it cannot be opened, or the disk refuses.
pub fn flush(path: &Path) -> io::Result<()> {
    let dir = std::fs::File::open(path)?;
    nix::unistd::syncfs(&dir).map_err(io::Error::from)
}

/// Makes the mount at `target` propagate to its peers (which bidirectional volume mounts need).
///
/// # Errors
/// When the kernel refuses.
pub fn make_shared(target: &Path) -> io::Result<()> {
    mount(None::<&str>, target, None::<&str>, MsFlags::MS_SHARED | MsFlags::MS_REC, None::<&str>)
        .map_err(io::Error::from)
}

/// Detaches what is mounted at `target`.
///
/// # Errors
/// When the kernel refuses.
pub fn unmount(target: &Path) -> io::Result<()> {
    umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW).map_err(io::Error::from)
}

/// Mount points at or below `dir`, the deepest first.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn mounts_under(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = mount_points(&std::fs::read_to_string("/proc/self/mountinfo")?)
        .filter(|point| point.starts_with(dir))
        .collect();
    found.reverse();
    found.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    Ok(found)
}

/// Whether something is mounted exactly at `path`.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    Ok(mount_points(&std::fs::read_to_string("/proc/self/mountinfo")?).any(|point| point == path))
}

fn mount_points(mountinfo: &str) -> impl Iterator<Item = PathBuf> + '_ {
    mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(|path| PathBuf::from(unescape(path)))
}

/// Undoes the octal escapes of `/proc` (`\040` is a space).
pub(crate) fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        let octal = (bytes[at] == b'\\').then(|| text.get(at + 1..at + 4)).flatten();
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Space of a file system, in bytes and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    pub capacity: u64,
    pub available: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// The space of the file system that holds `path`.
///
/// # Errors
/// When there is no such path.
#[allow(clippy::unnecessary_cast)] // The widths differ between targets.
pub fn disk_space(path: &Path) -> io::Result<DiskSpace> {
    let stat = nix::sys::statvfs::statvfs(path).map_err(io::Error::from)?;
    let unit = stat.fragment_size() as u64;
    Ok(DiskSpace {
        capacity: stat.blocks() as u64 * unit,
        available: stat.blocks_available() as u64 * unit,
        inodes: stat.files() as u64,
        inodes_free: stat.files_free() as u64,
    })
}

/// Whether `path` is on a file system that overlayfs can use as its upper layer (not itself an overlay, not a tmpfs
/// without the attributes it needs): tried for real in a directory below `path`.
pub fn supports_overlay(path: &Path) -> bool {
    let dir = path.join(".overlay-check");
    let [lower, upper, work, merged] = ["lower", "upper", "work", "merged"].map(|name| dir.join(name));
    let ready = [&lower, &upper, &work, &merged].iter().all(|dir| std::fs::create_dir_all(dir).is_ok());
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
    let works = ready
        && mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).is_ok()
        && unmount(&merged).is_ok();
    // What cannot be removed is an empty directory of ours.
    let _ = std::fs::remove_dir_all(&dir);
    works
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mount_points_with_escapes() {
        let text = "22 1 0:20 / / rw - ext4 /dev/a rw\n23 22 0:21 / /a\\040b rw - tmpfs tmpfs rw\n";
        let points: Vec<PathBuf> = mount_points(text).collect();
        assert_eq!(points, [PathBuf::from("/"), PathBuf::from("/a b")]);
    }

    #[test]
    fn a_tmpfs_comes_and_goes() {
        if !crate::capability::has(crate::capability::Capability::SysAdmin).unwrap_or(false) {
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        tmpfs(dir.path(), Some(1 << 20)).expect("mounts");
        let space = disk_space(dir.path()).expect("space");
        let found = mounts_under(dir.path()).expect("mounts");
        let is = is_mount_point(dir.path()).expect("mounts");
        unmount(dir.path()).expect("unmounts");
        assert_eq!(space.capacity, 1 << 20);
        assert_eq!(found, [dir.path()]);
        assert!(is);
        assert!(!is_mount_point(dir.path()).expect("mounts"));
    }
}
