//! Owned tasks: a group that is cancelled and awaited as a whole.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns tasks that all end when the group is stopped (CB-1). Cloning shares the group.
#[derive(Clone, Debug, Default)]
pub struct TaskGroup {
    tracker: TaskTracker,
    token: CancellationToken,
}

impl TaskGroup {
    pub fn new() -> Self {
        Self::default()
    }

    /// A group whose tasks also end when `token` is cancelled.
    pub fn child_of(token: &CancellationToken) -> Self {
        Self { tracker: TaskTracker::new(), token: token.child_token() }
    }

    /// Cancelled when the group stops; long-running tasks may select on it to end in their own way.
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Runs `task` until it ends or the group stops, whichever is first (it is dropped at an await point).
    pub fn spawn<F>(&self, task: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let token = self.token.clone();
        self.tracker.spawn(async move { token.run_until_cancelled(task).await })
    }

    /// Runs `task` to its own end: it must watch [`Self::token`] itself.
    pub fn spawn_graceful<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tracker.spawn(task)
    }

    /// Cancels every task and waits for all of them.
    pub async fn stop(&self) {
        self.token.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stop_ends_every_task() {
        let group = TaskGroup::new();
        let endless = group.spawn(std::future::pending::<()>());
        let done = group.spawn(async { 7 });
        assert_eq!(done.await.expect("joins"), Some(7));
        group.stop().await;
        assert_eq!(endless.await.expect("joins"), None);
    }
}
