//! I/O errors for tests of databases: SQLite's file access, with errors where a test wants them. Only compiled with the
//! feature `sqlite-faults`.
//!
//! Every file that SQLite opens after [`install`] keeps its own methods, but for reading, writing, truncating and
//! syncing, which first ask whether a fault is set for the file.
//!
//! Invariants:
//! - SQF-1: without a fault nothing differs from SQLite's own access.

use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use rusqlite::ffi;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Read,
    Write,
    /// Of the file's data, not of its folder.
    Sync,
}

/// The methods of SQLite that a file had, and its name.
struct Opened {
    methods: *const ffi::sqlite3_io_methods,
    path: PathBuf,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    /// Operations that still succeed.
    after: u32,
    /// Operations that then fail.
    times: u32,
}

#[derive(Default)]
struct State {
    /// By address of SQLite's file.
    files: HashMap<usize, Opened>,
    /// Our methods, by SQLite's.
    methods: HashMap<usize, usize>,
    faults: HashMap<(PathBuf, Operation), Fault>,
    failed: u64,
}

// SAFETY: the pointers are to SQLite's static tables of functions.
unsafe impl Send for State {}

static STATE: OnceLock<Mutex<State>> = OnceLock::new();
static OPEN: OnceLock<Open> = OnceLock::new();

type Open = unsafe extern "C" fn(
    *mut ffi::sqlite3_vfs,
    ffi::sqlite3_filename,
    *mut ffi::sqlite3_file,
    c_int,
    *mut c_int,
) -> c_int;

fn state() -> MutexGuard<'static, State> {
    STATE.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts itself between SQLite and its files, in this process, once.
pub fn install() {
    OPEN.get_or_init(|| {
        // SAFETY: the default file system exists, and lives as long as the process; nothing has been opened that would
        // read the table at the same time, or it reads either pointer, which both work.
        unsafe {
            let vfs = ffi::sqlite3_vfs_find(std::ptr::null());
            let open = (*vfs).xOpen.expect("every file system opens files");
            (*vfs).xOpen = Some(opens);
            open
        }
    });
}

/// From now on, after `after` more of these operations on `path` have succeeded, the next `times` fail.
pub fn fail(path: &Path, operation: Operation, after: u32, times: u32) {
    state().faults.insert((path.to_owned(), operation), Fault { after, times });
}

/// The disk is well again. Returns how many operations have failed since the last time.
pub fn heal() -> u64 {
    let mut state = state();
    state.faults.clear();
    std::mem::take(&mut state.failed)
}

/// Whether this operation is to fail, and otherwise what SQLite would do.
fn ask(file: *mut ffi::sqlite3_file, operation: Operation) -> Result<&'static ffi::sqlite3_io_methods, ()> {
    let mut state = state();
    let opened = state.files.get(&(file as usize)).map(|opened| (opened.methods, opened.path.clone()));
    let (methods, path) = opened.ok_or(())?;
    if let Some(fault) = state.faults.get_mut(&(path, operation)) {
        if fault.after > 0 {
            fault.after -= 1;
        } else if fault.times > 0 {
            fault.times -= 1;
            state.failed += 1;
            return Err(());
        }
    }
    // SAFETY: SQLite's tables are static.
    Ok(unsafe { &*methods })
}

unsafe extern "C" fn opens(
    vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    let Some(open) = OPEN.get() else { return ffi::SQLITE_CANTOPEN };
    // SAFETY: the arguments are those of SQLite, which are given on unchanged; after a success the file has methods.
    unsafe {
        let code = open(vfs, name, file, flags, out);
        if code == ffi::SQLITE_OK && !name.is_null() && !(*file).pMethods.is_null() {
            let path = PathBuf::from(CStr::from_ptr(name).to_string_lossy().into_owned());
            let methods = (*file).pMethods;
            let mut state = state();
            let ours = *state.methods.entry(methods as usize).or_insert_with(|| {
                let mut ours = *methods;
                ours.xClose = Some(closes);
                ours.xRead = Some(reads);
                ours.xWrite = Some(writes);
                ours.xTruncate = Some(truncates);
                ours.xSync = Some(syncs);
                // Mapped memory would go around us.
                ours.iVersion = ours.iVersion.min(2);
                std::ptr::from_ref(Box::leak(Box::new(ours))) as usize
            });
            (*file).pMethods = ours as *const ffi::sqlite3_io_methods;
            state.files.insert(file as usize, Opened { methods, path });
        }
        code
    }
}

unsafe extern "C" fn closes(file: *mut ffi::sqlite3_file) -> c_int {
    let Some(opened) = state().files.remove(&(file as usize)) else { return ffi::SQLITE_OK };
    // SAFETY: as SQLite would call it; its own methods are put back first.
    unsafe {
        (*file).pMethods = opened.methods;
        (*opened.methods).xClose.map_or(ffi::SQLITE_OK, |close| close(file))
    }
}

unsafe extern "C" fn reads(
    file: *mut ffi::sqlite3_file,
    to: *mut c_void,
    size: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    match ask(file, Operation::Read).map(|methods| methods.xRead) {
        // SAFETY: the arguments are those of SQLite.
        Ok(Some(read)) => unsafe { read(file, to, size, at) },
        _ => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn writes(
    file: *mut ffi::sqlite3_file,
    from: *const c_void,
    size: c_int,
    at: ffi::sqlite3_int64,
) -> c_int {
    match ask(file, Operation::Write).map(|methods| methods.xWrite) {
        // SAFETY: the arguments are those of SQLite.
        Ok(Some(write)) => unsafe { write(file, from, size, at) },
        _ => ffi::SQLITE_IOERR_WRITE,
    }
}

unsafe extern "C" fn truncates(file: *mut ffi::sqlite3_file, size: ffi::sqlite3_int64) -> c_int {
    match ask(file, Operation::Write).map(|methods| methods.xTruncate) {
        // SAFETY: the arguments are those of SQLite.
        Ok(Some(truncate)) => unsafe { truncate(file, size) },
        _ => ffi::SQLITE_IOERR_TRUNCATE,
    }
}

unsafe extern "C" fn syncs(file: *mut ffi::sqlite3_file, flags: c_int) -> c_int {
    match ask(file, Operation::Sync).map(|methods| methods.xSync) {
        // SAFETY: the arguments are those of SQLite.
        Ok(Some(sync)) => unsafe { sync(file, flags) },
        _ => ffi::SQLITE_IOERR_FSYNC,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_and_syncs_fail_when_told_to() {
        install();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.db");
        let conn = rusqlite::Connection::open(&path).unwrap();
        conn.execute_batch("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (a)").unwrap();
        let wal = dir.path().join("test.db-wal");
        let insert = || conn.execute("INSERT INTO t VALUES (1)", []);
        insert().unwrap();
        for operation in [Operation::Write, Operation::Sync] {
            fail(&wal, operation, 0, 1);
            assert!(insert().is_err(), "{operation:?}");
            insert().unwrap();
            assert_eq!(heal(), 1);
        }
        let count: i64 = conn.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(count, 3);
    }
}
