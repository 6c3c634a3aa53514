//! The watch cache: current state of every resource in memory, fed by one store watch, and the fan-out of its changes.
//!
//! Invariants:
//! - CA-1: the cache applies the store's events in revision order; [`Cache::revision`] is advanced after every event up
//!   to it is in the snapshots.
//! - CA-2: a watcher gets every event of its range after its start revision, once, in order, or is ended.
//! - CA-4: a resource that is added while the feed runs is loaded by the feed itself: no event is lost or seen twice.
//! - CA-3: a slow watcher is ended; it never blocks the feed or another watcher.

pub mod encode;
mod feed;
mod object;
mod reader;
mod resource;
mod watcher;

pub use feed::{Cache, object_key};
pub use object::{Meta, Object};
pub use reader::ObjectReader;
pub use resource::{Event, EventType, ResourceCache, Restore, SelectableFields, Snapshot, frame};
pub use watcher::{CacheWatcher, Delivery, WatchFilter};
