//! What the operator of a store can ask for, beyond reading and writing: the trait that the etcd v3 face needs besides
//! [`Store`].

use std::fs::File;

use async_trait::async_trait;

use crate::{Result, Revision, Store};

/// Who a store is, from its first start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    pub cluster_id: u64,
    pub member_id: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alarm {
    /// Writes that need space are refused.
    NoSpace,
    /// Writes are refused.
    Corrupt,
}

/// etcd's hash of the keys and values of a revision: equal histories have equal hashes, whoever keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvHash {
    pub hash: u32,
    /// The revision that was hashed.
    pub revision: Revision,
    /// The store's.
    pub current: Revision,
    /// 0: never compacted.
    pub compacted: Revision,
}

/// A consistent copy of a store as an etcd database file (bbolt), already unlinked; its position is 0.
#[derive(Debug)]
pub struct Backup {
    pub file: File,
    pub bytes: u64,
    pub revision: Revision,
}

#[async_trait]
pub trait Maintenance: Store {
    fn identity(&self) -> Identity;

    /// Waits until history below the compacted revision is gone from the disk.
    async fn wait_swept(&self) -> Result<()>;

    /// Gives all free pages back to the file system.
    async fn defragment(&self) -> Result<()>;

    /// Hashes the keys and values of a revision (0: the current one).
    ///
    /// # Errors
    /// [`crate::Error::Compacted`], [`crate::Error::FutureRevision`].
    async fn hash_kv(&self, revision: Revision) -> Result<KvHash>;

    /// Hashes everything that is kept, history and leases.
    async fn hash(&self) -> Result<u32>;

    async fn backup(&self) -> Result<Backup>;

    /// Sends every watcher that has asked for it ([`crate::ProgressRequest`]) one batch as soon as everything before it
    /// has been sent.
    fn send_progress(&self);

    /// What is wrong. [`Alarm::NoSpace`] is on by itself from a write that found no space to one that does;
    /// [`Alarm::Corrupt`] from a read that found damage until it is turned off.
    fn alarms(&self) -> Vec<Alarm>;

    /// Whether an alarm has been turned on, by [`Self::set_alarm`] or, [`Alarm::Corrupt`], by damage.
    fn is_on(&self, alarm: Alarm) -> bool;

    /// Turns an alarm on, until it is turned off; restarts keep it.
    async fn set_alarm(&self, alarm: Alarm, on: bool) -> Result<()>;

    /// The largest the database may become, in bytes.
    fn quota(&self) -> Option<u64>;
}
