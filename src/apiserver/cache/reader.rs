//! Reading objects from inside the server: admission, authorization, token checks, allocation.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::broadcast;

use super::{Event, Object};

/// Reads of the cache. `storage_key` names the resource as `Kind::storage_key` does (`pods`, `services/specs`, …).
#[async_trait]
pub trait ObjectReader: Send + Sync + 'static {
    /// The object as the cache knows it now: at most milliseconds old.
    fn peek(&self, storage_key: &str, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// Every object (of one namespace), in key order, as the cache knows them now.
    fn peek_all(&self, storage_key: &str, namespace: Option<&str>) -> Vec<Arc<Object>>;

    /// Waits until the cache has seen every write acknowledged before this call.
    async fn fresh(&self);

    /// The object, no older than the last write acknowledged before this call.
    async fn get(&self, storage_key: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.fresh().await;
        self.peek(storage_key, namespace, name)
    }

    /// As [`Self::peek_all`], no older than the last write acknowledged before this call.
    async fn list(&self, storage_key: &str, namespace: Option<&str>) -> Vec<Arc<Object>> {
        self.fresh().await;
        self.peek_all(storage_key, namespace)
    }

    /// Changes of a resource from now on. A receiver that lags must read everything again ([`broadcast`] says so).
    /// `None`: no such resource.
    fn subscribe(&self, storage_key: &str) -> Option<broadcast::Receiver<Arc<Event>>>;
}
