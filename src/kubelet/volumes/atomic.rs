//! Files that change all at once: a time-stamped directory behind the link `..data`, as upstream lays it out.
//!
//! Invariants:
//! - AW-1: a reader of the volume sees the old set or the new set, never a mixture: the switch is one rename.
//! - AW-2: an unchanged payload touches nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;
use rand::Rng as _;

const DATA: &str = "..data";
const DATA_TMP: &str = "..data_tmp";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// The owner, when it is not root.
    pub uid: Option<u32>,
}

/// Relative paths and what is in them.
pub type Payload = BTreeMap<String, File>;

/// Whose group the files get (`fsGroup`).
pub type Group = Option<u32>;

/// Makes `dir` show `payload`. True when something was written.
///
/// # Errors
/// When a path leads out of `dir`, or the file system refuses.
pub fn write(dir: &Path, payload: &Payload, group: Group, now: Timestamp) -> io::Result<bool> {
    for path in payload.keys() {
        check(path)?;
    }
    let data_link = dir.join(DATA);
    let old = std::fs::read_link(&data_link).ok();
    if let Some(old) = &old {
        if matches(&dir.join(old), payload)? {
            return Ok(false);
        }
    }
    let stamp = now.strftime("..%Y_%m_%d_%H_%M_%S");
    let name = format!("{stamp}.{:010}", rand::rng().random::<u32>());
    let fresh = dir.join(&name);
    std::fs::create_dir(&fresh)?;
    let result = fill(&fresh, payload, group).and_then(|()| {
        let temporary = dir.join(DATA_TMP);
        remove_link(&temporary)?;
        symlink(&name, &temporary)?;
        std::fs::rename(&temporary, &data_link)
    });
    if let Err(error) = result {
        // The old set is still in place; what was begun is of no use.
        let _ = std::fs::remove_dir_all(&fresh);
        return Err(error);
    }
    show(dir, payload)?;
    if let Some(old) = old {
        std::fs::remove_dir_all(dir.join(old))?;
    }
    Ok(true)
}

fn check(path: &str) -> io::Result<()> {
    let bad = |why: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {path:?}: {why}"));
    let parsed = Path::new(path);
    if path.is_empty() || parsed.is_absolute() {
        return Err(bad("must be relative"));
    }
    if parsed.components().any(|part| !matches!(part, Component::Normal(_))) {
        return Err(bad("must not contain '..'"));
    }
    if path.starts_with("..") {
        return Err(bad("must not start with '..'"));
    }
    Ok(())
}

fn fill(dir: &Path, payload: &Payload, group: Group) -> io::Result<()> {
    set(dir, 0o755, None, group, true)?;
    for (path, file) in payload {
        let target = dir.join(path);
        let mut parent = dir.to_owned();
        for part in Path::new(path).parent().into_iter().flat_map(Path::components) {
            parent.push(part);
            if !parent.exists() {
                std::fs::create_dir(&parent)?;
                set(&parent, 0o755, None, group, true)?;
            }
        }
        std::fs::write(&target, &file.data)?;
        set(&target, file.mode, file.uid, group, false)?;
    }
    Ok(())
}

/// Mode and owner; with a group it may read what it is given, as upstream does for read-only volumes.
fn set(path: &Path, mode: u32, uid: Option<u32>, group: Group, is_dir: bool) -> io::Result<()> {
    if uid.is_some() || group.is_some() {
        chown(path, uid, group)?;
    }
    let more = match (group, is_dir) {
        (None, _) => 0,
        (Some(_), true) => 0o2550,
        (Some(_), false) => 0o440,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode | more))
}

fn matches(dir: &Path, payload: &Payload) -> io::Result<bool> {
    let mut present = BTreeSet::new();
    list(dir, Path::new(""), &mut present)?;
    if !present.iter().map(String::as_str).eq(payload.keys().map(String::as_str)) {
        return Ok(false);
    }
    for (path, file) in payload {
        if std::fs::read(dir.join(path))? != file.data {
            return Ok(false);
        }
    }
    Ok(true)
}

fn list(dir: &Path, prefix: &Path, out: &mut BTreeSet<String>) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in entries {
        let entry = entry?;
        let path = prefix.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(&entry.path(), &path, out)?;
        } else {
            out.insert(path.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

/// Links from the names users know into `..data`, and no stale ones.
fn show(dir: &Path, payload: &Payload) -> io::Result<()> {
    let wanted: BTreeSet<&str> = payload.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &wanted {
        let link = dir.join(name);
        if std::fs::read_link(&link).is_err() {
            symlink(PathBuf::from(DATA).join(name), &link)?;
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) && entry.file_type()?.is_symlink() {
            remove_link(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_link(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        files
            .iter()
            .map(|(path, data)| ((*path).to_owned(), File { data: data.as_bytes().to_vec(), mode: 0o640, uid: None }))
            .collect()
    }

    #[test]
    fn switches_all_at_once_and_only_when_changed() {
        let dir = tempfile::tempdir().expect("tempdir");
        let now = Timestamp::UNIX_EPOCH;
        assert!(write(dir.path(), &payload(&[("a", "1"), ("d/e", "2")]), None, now).expect("writes"));
        assert_eq!(std::fs::read_to_string(dir.path().join("d/e")).expect("reads"), "2");
        let mode = std::fs::metadata(dir.path().join("a")).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let before = std::fs::read_link(dir.path().join("..data")).expect("a link");
        assert!(!write(dir.path(), &payload(&[("a", "1"), ("d/e", "2")]), None, now).expect("writes"));
        assert_eq!(std::fs::read_link(dir.path().join("..data")).expect("a link"), before);
        assert!(write(dir.path(), &payload(&[("b", "3")]), None, now).expect("writes"));
        let mut names: Vec<String> = std::fs::read_dir(dir.path())
            .expect("lists")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!((names[1].as_str(), names[2].as_str()), ("..data", "b"));
    }

    #[test]
    fn refuses_paths_that_lead_out() {
        let dir = tempfile::tempdir().expect("tempdir");
        for bad in ["../x", "/x", "a/../../x", "", "..x"] {
            assert!(write(dir.path(), &payload(&[(bad, "")]), None, Timestamp::UNIX_EPOCH).is_err(), "{bad}");
        }
    }
}
