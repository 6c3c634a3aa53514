//! Reading and atomic writing of small files (PK-2).

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use crate::{Error, Result};

/// Writes `bytes` to `path` so that a reader, or a machine that loses power, sees the old file or the new one.
/// `mode` is exact: the umask does not apply. The directory is created (0700) when missing.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    ensure_dir(dir)?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{:08x}.tmp", rand::random::<u32>()));
    let temporary = Path::new(&temporary);
    let written = (|| {
        // 0600 from the first moment; widened, if at all, once the content is complete.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(temporary)?;
        file.write_all(bytes)?;
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        std::fs::rename(temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    if let Err(source) = written {
        let _ = std::fs::remove_file(temporary);
        return Err(Error::Io { verb: "write", path: path.to_owned(), source });
    }
    Ok(())
}

pub(crate) fn ensure_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| Error::Io {
        verb: "create",
        path: dir.to_owned(),
        source,
    })
}

pub(crate) fn read_optional(path: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { verb: "read", path: path.to_owned(), source }),
    }
}
