//! The bytes of a snapshot file: header, leases, keys, and a SHA-256 over all of it.
//!
//! ```text
//! "kedgesn\n"  format:u32  length:u64  revision:i64  created:i64  leases:u64  keys:u64     (numbers little-endian)
//! leases × { id:i64  ttl:i64  remaining:i64 }
//! keys   × { key length:u32  value length:u32  create:i64  mod:i64  version:i64  lease:i64  key  value }
//! sha256 of everything before
//! ```
//!
//! Keys come in order of their `mod` revision, so that a database can be built from start to end.
//!
//! Invariants:
//! - SN-1: nothing of a file is used whose length or checksum is wrong.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use crate::{Error, KeyValue, Lease, Result, Revision};

const MAGIC: [u8; 8] = *b"kedgesn\n";
const FORMAT: u32 = 1;
const HEADER: u64 = 8 + 4 + 5 * 8;
const LEASE: u64 = 3 * 8;
const KEY: u64 = 2 * 4 + 4 * 8;
const DIGEST: u64 = 32;

/// What the header of a snapshot says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The state is that after this revision.
    pub revision: Revision,
    /// Seconds since 1970.
    pub created: i64,
    pub leases: u64,
    pub keys: u64,
    /// Size of the file.
    pub bytes: u64,
}

/// A lease and the seconds that it has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SavedLease {
    pub(crate) lease: Lease,
    pub(crate) remaining: i64,
}

pub(super) fn info(revision: Revision, created: i64, leases: &[SavedLease], kvs: &[KeyValue]) -> SnapshotInfo {
    let data: usize = kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
    let (leases, keys) = (leases.len() as u64, kvs.len() as u64);
    let bytes = HEADER + leases * LEASE + keys * KEY + data as u64 + DIGEST;
    SnapshotInfo { revision, created, leases, keys, bytes }
}

pub(super) fn write(
    out: &mut impl Write,
    info: &SnapshotInfo,
    leases: &[SavedLease],
    kvs: &[KeyValue],
) -> std::io::Result<()> {
    let mut out = Hashing { inner: out, hash: Sha256::new() };
    out.write_all(&MAGIC)?;
    out.write_all(&FORMAT.to_le_bytes())?;
    out.write_all(&info.bytes.to_le_bytes())?;
    out.write_all(&info.revision.to_le_bytes())?;
    out.write_all(&info.created.to_le_bytes())?;
    out.write_all(&info.leases.to_le_bytes())?;
    out.write_all(&info.keys.to_le_bytes())?;
    for SavedLease { lease, remaining } in leases {
        for number in [lease.id, lease.ttl_seconds, *remaining] {
            out.write_all(&number.to_le_bytes())?;
        }
    }
    for kv in kvs {
        let length = |bytes: &Bytes| u32::try_from(bytes.len()).map_err(std::io::Error::other);
        out.write_all(&length(&kv.key)?.to_le_bytes())?;
        out.write_all(&length(&kv.value)?.to_le_bytes())?;
        for number in [kv.create_revision, kv.mod_revision, kv.version, kv.lease] {
            out.write_all(&number.to_le_bytes())?;
        }
        out.write_all(&kv.key)?;
        out.write_all(&kv.value)?;
    }
    let digest = out.hash.finalize();
    out.inner.write_all(&digest)
}

struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<W: Write> Write for Hashing<&mut W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// Reads a snapshot from start to end.
pub(crate) struct Reader<'p> {
    path: &'p Path,
    file: Hashing<BufReader<File>>,
    pub(crate) info: SnapshotInfo,
    /// Bytes before the checksum that have not been read.
    left: u64,
}

impl<'p> Reader<'p> {
    /// Opens the file and checks everything but the checksum.
    pub(crate) fn open(path: &'p Path) -> Result<Self> {
        let file = File::open(path).map_err(|error| refused(path, format!("cannot open it: {error}")))?;
        let size = file.metadata().map_err(|error| refused(path, format!("cannot read it: {error}")))?.len();
        let file = Hashing { inner: BufReader::with_capacity(1 << 18, file), hash: Sha256::new() };
        let info = SnapshotInfo { revision: 0, created: 0, leases: 0, keys: 0, bytes: size };
        let mut this = Self { path, file, info, left: size };
        let mut start = Vec::new();
        this.file.inner.by_ref().take(20).read_to_end(&mut start).map_err(|error| this.unreadable(&error))?;
        this.file.hash.update(&start);
        if start.is_empty() {
            return Err(refused(path, "the file is empty".into()));
        }
        let known = start.len().min(MAGIC.len());
        if start[..known] != MAGIC[..known] {
            return Err(refused(path, foreign(&start).into()));
        }
        if size < HEADER + DIGEST {
            return Err(refused(path, format!("truncated: its {size} bytes are less than a header")));
        }
        let format = u32::from_le_bytes(start[8..12].try_into().expect("4 bytes"));
        if format != FORMAT {
            return Err(refused(path, format!("format {format} is unknown to this program, which reads format 1")));
        }
        let bytes = u64::from_le_bytes(start[12..20].try_into().expect("8 bytes"));
        match size.cmp(&bytes) {
            std::cmp::Ordering::Less => {
                return Err(refused(path, format!("truncated: {size} of {bytes} bytes are there")));
            }
            std::cmp::Ordering::Greater => {
                return Err(refused(path, format!("damaged: {size} bytes are there, {bytes} were written")));
            }
            std::cmp::Ordering::Equal => {}
        }
        this.left = size - DIGEST - 20;
        let [revision, created] = this.numbers()?;
        let [leases, keys] = this.numbers()?.map(i64::cast_unsigned);
        this.info = SnapshotInfo { revision, created, leases, keys, bytes };
        Ok(this)
    }

    pub(crate) fn lease(&mut self) -> Result<SavedLease> {
        let [id, ttl_seconds, remaining] = self.numbers()?;
        Ok(SavedLease { lease: Lease { id, ttl_seconds }, remaining })
    }

    pub(crate) fn key_value(&mut self) -> Result<KeyValue> {
        let mut lengths = [0; 8];
        self.fill(&mut lengths)?;
        let length = |at: usize| u32::from_le_bytes(lengths[at..at + 4].try_into().expect("4 bytes")) as usize;
        let (key_length, value_length) = (length(0), length(4));
        let [create_revision, mod_revision, version, lease] = self.numbers()?;
        if (key_length + value_length) as u64 > self.left {
            return Err(self.damaged());
        }
        let mut both = BytesMut::zeroed(key_length + value_length);
        self.fill(&mut both)?;
        let mut value = both.freeze();
        let key = value.split_to(key_length);
        Ok(KeyValue { key, value, create_revision, mod_revision, version, lease })
    }

    /// Reads what is left and compares the checksum.
    pub(crate) fn finish(mut self) -> Result<SnapshotInfo> {
        let mut chunk = vec![0; 1 << 16];
        while self.left > 0 {
            let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(chunk.len());
            self.fill(&mut chunk[..take])?;
        }
        let mut written = [0; DIGEST as usize];
        self.file.inner.read_exact(&mut written).map_err(|error| self.unreadable(&error))?;
        let found = self.file.hash.finalize();
        if found[..] != written {
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let detail = format!("damaged: its sha256 is {}, not {}", hex(&found), hex(&written));
            return Err(refused(self.path, detail));
        }
        Ok(self.info)
    }

    fn numbers<const N: usize>(&mut self) -> Result<[i64; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            let mut bytes = [0; 8];
            self.fill(&mut bytes)?;
            *number = i64::from_le_bytes(bytes);
        }
        Ok(numbers)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        if bytes.len() as u64 > self.left {
            return Err(self.damaged());
        }
        self.file.inner.read_exact(bytes).map_err(|error| self.unreadable(&error))?;
        self.file.hash.update(&*bytes);
        self.left -= bytes.len() as u64;
        Ok(())
    }

    fn damaged(&self) -> Error {
        refused(self.path, "damaged: its records do not fit its length".into())
    }

    fn unreadable(&self, error: &std::io::Error) -> Error {
        refused(self.path, format!("cannot read it: {error}"))
    }
}

/// What a file that is not ours may be.
fn foreign(start: &[u8]) -> &'static str {
    const BBOLT: [u8; 4] = 0xED0C_DAED_u32.to_le_bytes();
    if start.starts_with(b"SQLite format 3\0") {
        "not a kedge snapshot, but an SQLite database"
    } else if start.len() >= 20 && start[16..20] == BBOLT {
        "not a kedge snapshot, but one of etcd's (a bbolt database)"
    } else {
        "not a kedge snapshot"
    }
}

pub(super) fn refused(path: &Path, detail: String) -> Error {
    Error::Snapshot { path: path.display().to_string(), detail }
}
