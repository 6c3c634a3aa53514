//! Being told by the kernel that something in a directory changed.
//!
//! Invariants:
//! - IY-1: a change after [`DirWatch::new`] returned is never missed: it is either still to be told or was told.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches one directory: its entries' contents, names, appearance and disappearance.
#[derive(Debug)]
pub struct DirWatch(AsyncFd<OwnedFd>);

impl DirWatch {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the directory is not there, or the user has too many watches.
    pub fn new(dir: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let interest = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        inotify.add_watch(dir, interest)?;
        // SAFETY: an `OwnedFd` is the same open descriptor for as long as it lives, and it lives in the `AsyncFd`.
        #[allow(unsafe_code)]
        let registered = unsafe { AsyncFd::register_with_interest(OwnedFd::from(inotify), Interest::READABLE) };
        Ok(Self(registered?))
    }

    /// Returns when something changed since the last call (or since the watch began). Dropping the future loses nothing.
    ///
    /// # Errors
    /// When the kernel does not tell any more.
    pub async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.0.readable().await?;
            // What changed does not matter, only that something did: events are taken off the queue unread.
            let mut events = [0; 4096];
            let mut any = false;
            loop {
                match nix::unistd::read(self.0.get_ref(), &mut events) {
                    Ok(0) => break,
                    Ok(_) => any = true,
                    Err(Errno::EINTR) => {}
                    Err(Errno::EAGAIN) => {
                        ready.clear_ready();
                        break;
                    }
                    Err(error) => return Err(error.into()),
                }
            }
            if any {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn tells_of_changes_before_and_after_it_is_asked() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut watch = DirWatch::new(dir.path()).expect("watches");
        let file = dir.path().join("a");
        std::fs::write(&file, "x").expect("writes");
        watch.changed().await.expect("told");
        let waiting = watch.changed();
        tokio::pin!(waiting);
        assert!(futures::poll!(waiting.as_mut()).is_pending());
        std::fs::rename(&file, dir.path().join("b")).expect("renames");
        waiting.await.expect("told");
        assert!(DirWatch::new(&dir.path().join("none")).is_err());
    }
}
