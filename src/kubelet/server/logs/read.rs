//! Reading one log file of a container, to its end or for as long as the container writes.
//!
//! Invariants:
//! - LR-1: nothing is polled: a follower sleeps until the kernel tells of a change in the log's directory or the
//!   runtime tells of the container's end.
//! - LR-2: a file that was rotated away is read to its end before the next one, and looked at once more when the next
//!   one has its first byte (the runtime writes to the old one until it has opened the new one).
//! - LR-3: at most one block of the file and its output is in memory; the next is read when that was taken.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use sys::inotify::DirWatch;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::line::{Filter, Machine};
use crate::runtime::logs::rotated_files;

const BLOCK: usize = 32 * 1024;

/// What to read.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub filter: Filter,
    /// Begin this many lines of the file before its end.
    pub tail: Option<u64>,
}

/// The output of a container, piece by piece.
pub struct LogStream {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
    next: Option<File>,
    machine: Machine,
    block: Vec<u8>,
    /// Bytes of the file still to read; `None` when following.
    left: Option<u64>,
    follow: Option<Follow>,
}

struct Follow {
    watch: DirWatch,
    ended: BoxFuture<'static, ()>,
    has_ended: bool,
}

impl LogStream {
    /// Opens the log at `path`. With `follow`, reading goes on until that future is done (the container has ended) and
    /// everything written before is read.
    ///
    /// # Errors
    /// When the file cannot be opened, or not be watched.
    pub async fn open(path: &Path, options: Options, follow: Option<BoxFuture<'static, ()>>) -> io::Result<Self> {
        // Watch first: what happens between here and the first wait is then told.
        let follow = match follow {
            Some(ended) => {
                let dir = path.parent().unwrap_or(Path::new("/"));
                let watch = DirWatch::new(dir).map_err(|error| failed("create inotify watcher", dir, &error))?;
                Some(Follow { watch, ended, has_ended: false })
            }
            None => None,
        };
        let mut file = File::open(path).await.map_err(|error| failed("open log file", path, &error))?;
        let meta = file.metadata().await?;
        let start = match options.tail {
            Some(lines) => tail_start(&mut file, meta.len(), lines).await?,
            None => 0,
        };
        file.seek(io::SeekFrom::Start(start)).await?;
        let mut filter = options.filter;
        let left = match follow {
            Some(_) => None,
            None => {
                filter.lines = options.tail;
                Some(meta.len() - start)
            }
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            identity: (meta.dev(), meta.ino()),
            next: None,
            machine: Machine::new(filter),
            block: vec![0; BLOCK],
            left,
            follow,
        })
    }

    /// The next piece of output; `None` at the end.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if self.machine.is_done() {
                return Ok(None);
            }
            let want = self.left.map_or(BLOCK, |left| usize::try_from(left).unwrap_or(BLOCK).min(BLOCK));
            let got = if want == 0 { 0 } else { self.file.read(&mut self.block[..want]).await? };
            if got > 0 {
                if let Some(left) = &mut self.left {
                    *left -= got as u64;
                }
                let mut out = Vec::new();
                self.machine.feed(&self.block[..got], &mut out);
                if !out.is_empty() {
                    return Ok(Some(out.into()));
                }
            } else if !self.at_end().await? {
                return Ok(None);
            }
        }
    }

    /// Waits for more; `false` when there will be no more.
    async fn at_end(&mut self) -> io::Result<bool> {
        let Some(follow) = &mut self.follow else { return Ok(false) };
        if let Some(next) = self.next.take() {
            let meta = next.metadata().await?;
            self.identity = (meta.dev(), meta.ino());
            self.file = next;
            self.machine.new_file();
            return Ok(true);
        }
        self.next = successor(&self.path, self.identity).await;
        if self.next.is_some() {
            // LR-2: the old one once more, then the next.
            return Ok(true);
        }
        if follow.has_ended {
            return Ok(false);
        }
        tokio::select! {
            biased;
            () = follow.ended.as_mut() => {
                // What was written before the end is there now.
                follow.has_ended = true;
                follow.ended = std::future::pending().boxed();
            }
            changed = follow.watch.changed() => changed?,
        }
        Ok(true)
    }
}

/// The file that was written after the one with `identity`, once there is something in it.
async fn successor(path: &Path, identity: (u64, u64)) -> Option<File> {
    let is = |meta: &std::fs::Metadata| (meta.dev(), meta.ino()) == identity;
    let current = tokio::fs::metadata(path).await.ok()?;
    if is(&current) || current.len() == 0 {
        return None;
    }
    // Rotated more than once since we looked: the ones between, oldest first.
    let all = rotated_files(path);
    let mut later = all.iter().skip_while(|file| !std::fs::metadata(file).is_ok_and(|meta| is(&meta))).skip(1);
    let next = later.find(|file| file.extension().is_none_or(|e| e != "gz"));
    File::open(next.map_or(path, PathBuf::as_path)).await.ok()
}

/// Where the last `lines` lines begin.
async fn tail_start(file: &mut File, size: u64, lines: u64) -> io::Result<u64> {
    let mut block = vec![0; BLOCK];
    let (mut right, mut seen) = (size, 0_u64);
    while right > 0 {
        let left = right.saturating_sub(BLOCK as u64);
        let length = usize::try_from(right - left).unwrap_or(BLOCK);
        file.seek(io::SeekFrom::Start(left)).await?;
        file.read_exact(&mut block[..length]).await?;
        for (at, _) in block[..length].iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            seen += 1;
            if seen > lines {
                return Ok(left + at as u64 + 1);
            }
        }
        right = left;
    }
    Ok(0)
}

fn failed(what: &str, path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("failed to {what} {:?}: {error}", path.display().to_string()))
}
