//! Parts of volumes: bound to a place of our own, so that a container cannot redirect them later.
//!
//! Invariants:
//! - SP-1: what is mounted is inside the volume, whatever links the volume holds.

use std::io;
use std::path::{Component, Path, PathBuf};

/// Binds `sub` of the volume at `root` to `place` (made as needed, as a file or a directory); gives `place`.
///
/// # Errors
/// When `sub` leads out of the volume, or cannot be made or mounted.
pub fn bind(root: &Path, sub: &str, place: &Path) -> io::Result<PathBuf> {
    let sub = Path::new(sub);
    let plain = sub.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("must not contain {:?}", "..")));
    }
    let root = root.canonicalize()?;
    // A volume that is one file has no parts, but its own name is accepted.
    let full = root.join(sub);
    if !full.exists() {
        make(&root, sub)?;
    }
    let is_dir = full.is_dir();
    if sys::mount::is_mount_point(place)? {
        sys::mount::unmount(place)?;
    }
    if let Some(parent) = place.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if is_dir {
        std::fs::create_dir_all(place)?;
    } else if !place.exists() {
        std::fs::write(place, "")?;
    }
    sys::mount::bind_beneath(&root, sub, place)?;
    Ok(place.to_owned())
}

/// Makes the missing directories of `sub` with the volume's own mode (a group that may write the volume may write
/// them), after checking where the existing part really is.
fn make(root: &Path, sub: &Path) -> io::Result<()> {
    let mut existing = root.join(sub);
    let mut missing = Vec::new();
    while !existing.exists() {
        missing.extend(existing.file_name().map(std::ffi::OsStr::to_owned));
        if !existing.pop() {
            return Err(io::ErrorKind::NotFound.into());
        }
    }
    if !existing.canonicalize()?.starts_with(root) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "leads out of the volume"));
    }
    let mode = std::fs::metadata(root)?.permissions();
    for name in missing.iter().rev() {
        existing.push(name);
        std::fs::create_dir(&existing)?;
        std::fs::set_permissions(&existing, mode.clone())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stays_inside_the_volume() {
        if !sys::capability::is_root() {
            return;
        }
        let dir = tempfile::tempdir().expect("tempdir");
        let volume = dir.path().join("vol");
        std::fs::create_dir_all(volume.join("real")).expect("makes");
        std::fs::write(volume.join("real/f"), "x").expect("writes");
        std::os::unix::fs::symlink("/etc", volume.join("out")).expect("links");
        assert!(bind(&volume, "../x", &dir.path().join("a")).is_err());
        assert!(bind(&volume, "out/passwd", &dir.path().join("b")).is_err());
        assert!(bind(&volume, "out/new/dir", &dir.path().join("c")).is_err());
        let file = bind(&volume, "real/f", &dir.path().join("d/0"));
        let made = bind(&volume, "new/dir", &dir.path().join("d/1"));
        let text = file.as_ref().map(|path| std::fs::read_to_string(path).expect("reads"));
        for mounted in sys::mount::mounts_under(dir.path()).expect("mounts") {
            sys::mount::unmount(&mounted).expect("unmounts");
        }
        assert_eq!(text.expect("bound"), "x");
        assert!(made.is_ok() && volume.join("new/dir").is_dir());
    }
}
