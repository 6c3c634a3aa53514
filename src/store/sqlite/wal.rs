//! Looks over the write-ahead log before SQLite does, and tells a torn tail from damage.
//!
//! SQLite ends its recovery at the first frame whose checksum is wrong. After a crash that is right: what follows is the
//! one transaction that was being written, which nobody was told of. But a bad sector in the middle looks the same, and
//! then SQLite would silently drop every acknowledged transaction behind it.
//!
//! Invariants:
//! - WL-1: a log is refused if transactions of the same log begin after the one that holds the first bad frame: each
//!   transaction is synced before the next one begins, so only the last can be torn.
//! - WL-2: what a crash can leave is never refused: a tail of one transaction in any state, frames of an older log, an
//!   empty log.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use super::disk::{corrupt, io_error};
use crate::Result;

const HEADER: usize = 32;
const FRAME_HEADER: usize = 24;
/// The lowest bit says that checksums are of big-endian words.
const MAGIC: u32 = 0x377f_0682;

/// The log of the database at `path`.
pub(crate) fn path_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Blocking.
///
/// # Errors
/// [`crate::Error::Corrupt`] when acknowledged transactions would be lost.
pub(crate) fn check(path: &Path) -> Result<()> {
    let wal = path_of(path);
    let file = match File::open(&wal) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error(&wal, &error)),
    };
    let found = scan(BufReader::with_capacity(1 << 18, file)).map_err(|error| io_error(&wal, &error))?;
    match found {
        Found::Good => Ok(()),
        Found::BadHeader => {
            Err(corrupt(&wal, "its header is damaged, and with it every transaction since the last checkpoint".into()))
        }
        Found::Damage { at, after } => Err(corrupt(
            &wal,
            format!(
                "the frame at byte {at} does not match its checksum, but later transactions follow it (at byte \
                 {after}); restore a snapshot, or cut the file off at byte {at} to do without them"
            ),
        )),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Good,
    BadHeader,
    Damage { at: u64, after: u64 },
}

fn scan(mut log: impl Read) -> std::io::Result<Found> {
    let mut header = [0; HEADER];
    if !fill(&mut log, &mut header)? {
        return Ok(Found::Good);
    }
    let magic = word(&header, 0);
    let sums = Sums { big_endian: magic & 1 == 1 };
    let size = word(&header, 8) as usize;
    let mut last = sums.of((0, 0), &header[..24]);
    let sane = magic & !1 == MAGIC && (512..=65536).contains(&size) && size.is_power_of_two();
    if !sane || last != (word(&header, 24), word(&header, 28)) {
        // A file that was made longer but never written is all zeros.
        let mut rest = header.to_vec();
        log.read_to_end(&mut rest)?;
        let nothing = rest.len() < HEADER + FRAME_HEADER || rest.iter().all(|byte| *byte == 0);
        return Ok(if nothing { Found::Good } else { Found::BadHeader });
    }
    let salt = &header[16..24];
    let mut frame = vec![0; FRAME_HEADER + size];
    let mut at = HEADER as u64;
    let (mut bad, mut ended) = (None, false);
    while fill(&mut log, &mut frame)? {
        let ours = &frame[8..16] == salt && word(&frame, 0) != 0;
        let stored = (word(&frame, 16), word(&frame, 20));
        // Only frames of this log are worth the sum.
        let good = ours && sums.of(sums.of(last, &frame[..8]), &frame[FRAME_HEADER..]) == stored;
        let commits = word(&frame, 4) != 0;
        match bad {
            None if good => {}
            None => {
                bad = Some(at);
                ended = ours && commits;
            }
            Some(bad) if good && ended => return Ok(Found::Damage { at: bad, after: at }),
            Some(_) => ended |= ours && commits,
        }
        last = stored;
        at += frame.len() as u64;
    }
    Ok(Found::Good)
}

/// False at the end, also when only a part is left.
fn fill(log: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |four| u32::from_be_bytes(*four))
}

struct Sums {
    big_endian: bool,
}

impl Sums {
    /// SQLite's, over pairs of words, going on from `(a, b)`.
    fn of(&self, (mut a, mut b): (u32, u32), bytes: &[u8]) -> (u32, u32) {
        let (pairs, _) = bytes.as_chunks::<8>();
        for [p, q, r, s, t, u, v, w] in pairs {
            let (x, y) = ([*p, *q, *r, *s], [*t, *u, *v, *w]);
            let (x, y) = if self.big_endian {
                (u32::from_be_bytes(x), u32::from_be_bytes(y))
            } else {
                (u32::from_le_bytes(x), u32::from_le_bytes(y))
            };
            a = a.wrapping_add(x).wrapping_add(b);
            b = b.wrapping_add(y).wrapping_add(a);
        }
        (a, b)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, everything, put};
    use super::*;
    use crate::{Error, SqliteStore, Store as _};

    /// A log of transactions, most of several pages, and the places where each ends.
    async fn log() -> (tempfile::TempDir, Vec<u8>, Vec<usize>) {
        let dir = tempfile::tempdir().unwrap();
        let store = SqliteStore::open(config(dir.path())).await.unwrap();
        let wal = path_of(&dir.path().join("db/state.db"));
        let mut ends = Vec::new();
        for i in 0..12 {
            store.txn(put(format!("w/{i:02}"), vec![i; 9000])).await.unwrap();
            ends.push(std::fs::read(&wal).unwrap().len());
        }
        let image = tempfile::tempdir().unwrap();
        std::fs::create_dir(image.path().join("db")).unwrap();
        std::fs::copy(dir.path().join("db/state.db"), image.path().join("db/state.db")).unwrap();
        let bytes = std::fs::read(&wal).unwrap();
        store.close().await.unwrap();
        (image, bytes, ends)
    }

    #[tokio::test]
    async fn damage_before_the_last_transaction_is_refused_and_a_torn_tail_is_not() {
        let (_image, good, ends) = log().await;
        assert_eq!(scan(&good[..]).unwrap(), Found::Good);
        let frame = FRAME_HEADER + 8192;
        // Cut off anywhere.
        for len in (0..good.len()).step_by(997) {
            assert_eq!(scan(&good[..len]).unwrap(), Found::Good, "cut off at {len}");
        }
        // The last transaction in any state.
        let last = ends[ends.len() - 2];
        for lost in (last..good.len()).step_by(frame) {
            let mut torn = good.clone();
            torn[lost..lost + frame].fill(0);
            assert_eq!(scan(&torn[..]).unwrap(), Found::Good, "the frame at {lost} was never written");
        }
        // A frame of an earlier one: its page, or all of it.
        for start in (HEADER..ends[ends.len() - 4]).step_by(frame) {
            for (from, to) in
                [(start + 1000, start + 1001), (start + FRAME_HEADER, start + frame), (start, start + frame)]
            {
                let mut damaged = good.clone();
                damaged[from..to].iter_mut().for_each(|byte| *byte ^= 0x40);
                let found = scan(&damaged[..]).unwrap();
                assert!(matches!(found, Found::Damage { at, .. } if at == start as u64), "{from}..{to}: {found:?}");
            }
        }
        // The header.
        let mut damaged = good.clone();
        damaged[17] ^= 1;
        assert_eq!(scan(&damaged[..]).unwrap(), Found::BadHeader);
        assert_eq!(scan(&[0; 50_000][..]).unwrap(), Found::Good);
        // Frames of an older log behind those of this one.
        let mut older = good.clone();
        for start in (ends[5]..older.len()).step_by(frame) {
            older[start + 8] ^= 1;
        }
        assert_eq!(scan(&older[..]).unwrap(), Found::Good);
    }

    #[tokio::test]
    async fn a_damaged_log_is_not_opened_and_not_changed() {
        let (image, mut bytes, ends) = log().await;
        let wal = path_of(&image.path().join("db/state.db"));
        bytes[ends[3] + 500] ^= 1;
        std::fs::write(&wal, &bytes).unwrap();
        for _ in 0..2 {
            let error = SqliteStore::open(config(image.path())).await.err();
            assert!(
                matches!(&error, Some(Error::Corrupt { detail, .. }) if detail.contains("later trans")),
                "{error:?}"
            );
            assert_eq!(std::fs::read(&wal).unwrap(), bytes);
        }
        // As the message says.
        std::fs::write(&wal, &bytes[..ends[3]]).unwrap();
        let store = SqliteStore::open(config(image.path())).await.unwrap();
        assert_eq!(everything(&*store, 0).await.len(), 4);
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn a_log_starts_over_when_it_is_opened() {
        let (image, bytes, ends) = log().await;
        let wal = path_of(&image.path().join("db/state.db"));
        std::fs::write(&wal, &bytes[..ends[7] - 100]).unwrap();
        let store = SqliteStore::open(config(image.path())).await.unwrap();
        assert_eq!(everything(&*store, 0).await.len(), 7);
        assert_eq!(std::fs::metadata(&wal).unwrap().len(), 0, "nothing of a former life is left in it");
        store.close().await.unwrap();
    }
}
