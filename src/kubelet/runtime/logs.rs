//! Container log files in CRI's format: their tails and their rotation.
//!
//! Invariants:
//! - LG-1: a line is never lost by rotation: the file is renamed first, then the runtime opens a new one.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;

use crate::config::LogRotation;
use crate::cri::Cri;
use crate::error::{Error, Result};

/// The text of the last `lines` lines, at most `limit` bytes, without the timestamps.
pub fn tail(path: &Path, lines: usize, limit: usize) -> String {
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    // Timestamps and stream names take room too.
    let window = (limit + lines * 48) as u64;
    let length = file.metadata().map_or(0, |m| m.len());
    if file.seek(SeekFrom::Start(length.saturating_sub(window))).is_err() {
        return String::new();
    }
    let mut data = Vec::new();
    if file.take(window).read_to_end(&mut data).is_err() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&data);
    let mut all: Vec<&str> = text.lines().collect();
    if length > window && !all.is_empty() {
        all.remove(0);
    }
    let from = all.len().saturating_sub(lines);
    let mut out = String::new();
    for line in &all[from..] {
        let mut parts = line.splitn(4, ' ');
        let (_time, _stream, tag, content) = (parts.next(), parts.next(), parts.next(), parts.next());
        out.push_str(content.unwrap_or_default());
        if tag != Some("P") {
            out.push('\n');
        }
    }
    let start = out.len().saturating_sub(limit);
    let start = (start..out.len()).find(|at| out.is_char_boundary(*at)).unwrap_or(out.len());
    out.split_off(start)
}

/// Rotates the log of a running container when it has grown too large.
///
/// # Errors
/// When a file cannot be moved or the runtime does not reopen it.
pub async fn rotate(cri: &Cri, id: &str, path: &Path, limits: LogRotation, now: Timestamp) -> Result<bool> {
    let Ok(meta) = std::fs::metadata(path) else { return Ok(false) };
    if meta.len() < limits.max_bytes {
        return Ok(false);
    }
    let rotated = rotated_files(path);
    // The current file and the one being made count too.
    let keep = limits.max_files.saturating_sub(2);
    for old in rotated.iter().take(rotated.len().saturating_sub(keep)) {
        std::fs::remove_file(old).map_err(Error::io("removing", old))?;
    }
    for plain in rotated_files(path).iter().filter(|p| p.extension().is_none_or(|e| e != "gz")) {
        let plain = plain.clone();
        tokio::task::spawn_blocking(move || compress(&plain))
            .await
            .map_err(|error| Error::pod(format!("compressing a log: {error}")))??;
    }
    let stamp = now.strftime("%Y%m%d-%H%M%S");
    let target = PathBuf::from(format!("{}.{stamp}", path.display()));
    std::fs::rename(path, &target).map_err(Error::io("renaming", path))?;
    if let Err(error) = cri.reopen_container_log(id).await {
        // Put it back, so that the runtime's open file keeps its name.
        std::fs::rename(&target, path).map_err(Error::io("renaming", &target))?;
        return Err(error);
    }
    Ok(true)
}

/// Rotated files of `path`, oldest first.
pub fn rotated_files(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_name().to_string_lossy().starts_with(&prefix))
        .map(|e| e.path())
        .filter(|p| p.extension().is_none_or(|e| e != "tmp"))
        .collect();
    found.sort();
    found
}

fn compress(path: &Path) -> Result<()> {
    let temporary = PathBuf::from(format!("{}.tmp", path.display()));
    let done = PathBuf::from(format!("{}.gz", path.display()));
    let mut from = std::fs::File::open(path).map_err(Error::io("opening", path))?;
    let to = std::fs::File::create(&temporary).map_err(Error::io("creating", &temporary))?;
    let mut encoder = GzEncoder::new(to, Compression::default());
    std::io::copy(&mut from, &mut encoder).map_err(Error::io("compressing", path))?;
    encoder.finish().map_err(Error::io("compressing", path))?;
    std::fs::rename(&temporary, &done).map_err(Error::io("renaming", &temporary))?;
    std::fs::remove_file(path).map_err(Error::io("removing", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_without_timestamps() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let stamp = "2026-01-01T00:00:00.000000000Z";
        std::fs::write(&path, format!("{stamp} stdout F one\n{stamp} stderr P tw\n{stamp} stderr F o\n"))
            .expect("writes");
        assert_eq!(tail(&path, 80, 2048), "one\ntwo\n");
        assert_eq!(tail(&path, 1, 2048), "o\n");
        assert_eq!(tail(&path, 80, 4), "two\n");
        assert_eq!(tail(&dir.path().join("none"), 80, 4), "");
    }

    #[test]
    fn compresses_and_lists_rotated_files() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("0.log");
        let old = dir.path().join("0.log.20260101-000000");
        for file in [&path, &old] {
            std::fs::write(file, "x").expect("writes");
        }
        assert_eq!(rotated_files(&path), std::slice::from_ref(&old));
        compress(&old).expect("compresses");
        assert_eq!(rotated_files(&path), [dir.path().join("0.log.20260101-000000.gz")]);
    }
}
