//! Maintenance of the SQLite store: hashes, backups, alarms.
//!
//! Invariants:
//! - MT-1: a hash or a backup sees one revision: it reads within one transaction of SQLite, after what was acknowledged
//!   from memory has been written.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use prost::Message as _;
use rusqlite::Connection;

use super::disk::{self, SUB_BITS, StoredEvent};
use super::writer::{Command, Shared};
use super::{SqliteStore, backup, watch};
use crate::grpc::pb::mvccpb;
use crate::maintenance::{Alarm, Backup, Identity, KvHash, Maintenance};
use crate::{Error, EventKind, Result, Revision};

/// Names of the rows of `meta` that hold the alarms.
pub(crate) const ALARMS: [(Alarm, &str); 2] = [(Alarm::NoSpace, "alarm nospace"), (Alarm::Corrupt, "alarm corrupt")];

#[async_trait]
impl Maintenance for SqliteStore {
    fn identity(&self) -> Identity {
        self.shared.identity
    }

    async fn wait_swept(&self) -> Result<()> {
        self.open_or_closed()?;
        self.ask(|reply| Command::Swept { reply }).await
    }

    async fn defragment(&self) -> Result<()> {
        self.open_or_closed()?;
        self.ask(|reply| Command::Defragment { reply }).await
    }

    async fn hash_kv(&self, revision: Revision) -> Result<KvHash> {
        let current = self.ask(|reply| Command::Sync { reply }).await?;
        self.read(move |shared, conn| {
            let compacted = shared.snapshot.load().compacted;
            if revision > 0 && revision <= compacted {
                return Err(Error::Compacted { compacted });
            }
            if revision > current {
                return Err(Error::FutureRevision { current });
            }
            let revision = if revision <= 0 { current } else { revision };
            let hash = kv_hash(shared, conn, revision, compacted)?;
            Ok(KvHash { hash, revision, current, compacted })
        })
        .await
    }

    async fn hash(&self) -> Result<u32> {
        let revision = self.ask(|reply| Command::Sync { reply }).await?;
        self.read(move |shared, conn| {
            let snapshot = shared.snapshot.load_full();
            let mut crc = Crc32c::new();
            crc.write(b"key");
            each_row(shared, conn, revision, |event| hash_row(&mut crc, event))?;
            crc.write(b"lease");
            for (id, record) in &snapshot.leases {
                crc.write(&id.to_be_bytes());
                crc.write(&record.ttl.to_be_bytes());
            }
            Ok(crc.finish())
        })
        .await
    }

    async fn backup(&self) -> Result<Backup> {
        let revision = self.ask(|reply| Command::Sync { reply }).await?;
        self.read(move |shared, conn| backup::write(shared, conn, revision)).await
    }

    fn send_progress(&self) {
        let behind = self.shared.hub.lock().send_asked();
        for behind in behind {
            watch::resume(&self.shared, behind);
        }
    }

    fn alarms(&self) -> Vec<Alarm> {
        let mut alarms = self.shared.alarms.lock().clone();
        if self.shared.full.load(Ordering::Relaxed) {
            alarms.insert(Alarm::NoSpace);
        }
        if self.shared.readers.damaged().load(Ordering::Relaxed) {
            alarms.insert(Alarm::Corrupt);
        }
        alarms.into_iter().collect()
    }

    fn is_on(&self, alarm: Alarm) -> bool {
        let damaged = alarm == Alarm::Corrupt && self.shared.readers.damaged().load(Ordering::Relaxed);
        damaged || self.shared.alarms.lock().contains(&alarm)
    }

    async fn set_alarm(&self, alarm: Alarm, on: bool) -> Result<()> {
        self.open_or_closed()?;
        let name = ALARMS.iter().find(|(known, _)| *known == alarm).map_or("alarm", |(_, name)| name);
        // Off must work even when the disk has no place for that row.
        if !on {
            self.shared.alarms.lock().remove(&alarm);
            match alarm {
                Alarm::NoSpace => self.shared.full.store(false, Ordering::Relaxed),
                Alarm::Corrupt => self.shared.readers.damaged().store(false, Ordering::Relaxed),
            }
        }
        self.ask(|reply| Command::SetMeta { name, value: i64::from(on), reply }).await?;
        if on {
            self.shared.alarms.lock().insert(alarm);
        }
        Ok(())
    }

    fn quota(&self) -> Option<u64> {
        self.shared.config.quota_bytes
    }
}

impl SqliteStore {
    /// Reads within one transaction, on a thread that may block.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Shared, &Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.open_or_closed()?;
        let shared = Arc::clone(&self.shared);
        let work = move || {
            shared.readers.with(|conn| {
                let fail = |e| disk::db_error(shared.readers.path(), e);
                let transaction = conn.unchecked_transaction().map_err(fail)?;
                let result = read(&shared, conn)?;
                transaction.finish().map_err(fail)?;
                Ok(result)
            })
        };
        tokio::task::spawn_blocking(work).await.map_err(|e| Error::Database(e.to_string()))?
    }
}

/// Calls `each` with every stored event up to `revision`, oldest first.
pub(crate) fn each_row(
    shared: &Shared,
    conn: &Connection,
    revision: Revision,
    mut each: impl FnMut(&StoredEvent),
) -> Result<()> {
    let take = |event| {
        each(&event);
        true
    };
    disk::scan(conn, shared.readers.path(), (1, revision), usize::MAX, |_| true, take)?;
    Ok(())
}

/// The ids of the rows that a compaction at `revision` keeps although there are newer ones, or could be.
pub(crate) fn kept(shared: &Shared, conn: &Connection, revision: Revision) -> Result<HashMap<Box<[u8]>, i64>> {
    let mut keep: HashMap<Box<[u8]>, i64> = HashMap::new();
    each_row(shared, conn, revision, |event| match event.kind {
        EventKind::Put => drop(keep.insert(event.kv.key.as_ref().into(), event.id)),
        EventKind::Delete => drop(keep.remove(event.kv.key.as_ref())),
    })?;
    Ok(keep)
}

/// An event as etcd keeps it: the key of its record, and the record.
pub(crate) fn etcd_row(event: &StoredEvent) -> (Vec<u8>, Vec<u8>) {
    let sub = event.id & ((1 << SUB_BITS) - 1);
    let mut key = etcd_revision(event.kv.mod_revision, sub).to_vec();
    if event.kind == EventKind::Delete {
        key.push(b't');
        let kv = mvccpb::KeyValue { key: event.kv.key.clone(), ..Default::default() };
        return (key, kv.encode_to_vec());
    }
    (key, mvccpb::KeyValue::from(event.kv.clone()).encode_to_vec())
}

pub(crate) fn etcd_revision(main: Revision, sub: i64) -> [u8; 17] {
    let mut bytes = [b'_'; 17];
    bytes[..8].copy_from_slice(&main.to_be_bytes());
    bytes[9..].copy_from_slice(&sub.to_be_bytes());
    bytes
}

fn hash_row(crc: &mut Crc32c, event: &StoredEvent) {
    let (key, value) = etcd_row(event);
    crc.write(&key);
    crc.write(&value);
}

/// etcd's: of what was compacted, only what a compaction at `revision` would keep counts.
fn kv_hash(shared: &Shared, conn: &Connection, revision: Revision, compacted: Revision) -> Result<u32> {
    let keep = if compacted > 0 { kept(shared, conn, revision)? } else { HashMap::new() };
    let mut crc = Crc32c::new();
    crc.write(b"key");
    each_row(shared, conn, revision, |event| {
        let gone = event.kv.mod_revision <= compacted && keep.get(event.kv.key.as_ref()) != Some(&event.id);
        if keep.is_empty() || !gone {
            hash_row(&mut crc, event);
        }
    })?;
    Ok(crc.finish())
}

/// CRC-32 with Castagnoli's polynomial.
struct Crc32c(u32);

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = i as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

impl Crc32c {
    fn new() -> Self {
        Self(!0)
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 >> 8 ^ TABLE[usize::from(self.0 as u8 ^ byte)];
        }
    }

    fn finish(&self) -> u32 {
        !self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_check_string() {
        let mut crc = Crc32c::new();
        crc.write(b"1234");
        crc.write(b"56789");
        assert_eq!(crc.finish(), 0xe306_9283);
    }
}
