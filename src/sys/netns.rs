//! Work in another network namespace.

use std::fs::File;
use std::future::Future;
use std::io;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread of its own that has entered the network namespace at `path`; the caller's thread stays where
/// it is. `work` gets a tokio runtime of that thread.
///
/// # Errors
/// When the namespace cannot be entered; `work`'s own result is inside.
pub fn in_namespace<F, Fut, T>(path: &Path, work: F) -> io::Result<T>
where
    F: FnOnce() -> Fut + Send,
    Fut: Future<Output = T>,
    T: Send,
{
    let namespace = File::open(path)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(work()))
        });
        thread.join().map_err(|_| io::Error::other("work in the namespace panicked"))?
    })
}
