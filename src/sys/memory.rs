//! Gives memory back that only the start needed.

use std::io;

use nix::sys::mman::{MmapAdvise, madvise};

/// Tells the allocator to return freed memory at once: for a process that is idle nearly always, resident memory matters
/// more than the few microseconds of taking it again. Call it first.
#[allow(unsafe_code)]
pub fn prefer_small() {
    /// `mi_option_purge_delay` of mimalloc 2; the binding does not name it.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // SAFETY: setting an option is thread-safe, and any value is allowed.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, 0) }
}

/// Drops the program text that was mapped in while starting (it comes back from the page cache when it is run again) and
/// collects the allocator's free pages.
///
/// # Errors
/// When /proc/self/maps cannot be read or the kernel refuses.
#[allow(unsafe_code)]
pub fn trim() -> io::Result<()> {
    // SAFETY: frees only what is free.
    unsafe { libmimalloc_sys::mi_collect(true) }
    let program = std::fs::read_link("/proc/self/exe")?;
    for (start, end) in text_of(&std::fs::read_to_string("/proc/self/maps")?, &program.to_string_lossy()) {
        let address = std::ptr::NonNull::new(start as *mut std::ffi::c_void).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: a read-only, executable mapping of a file has no changes to lose: the pages are read again when needed.
        unsafe { madvise(address, end - start, MmapAdvise::MADV_DONTNEED) }?;
    }
    Ok(())
}

/// The executable, not writable mappings of `program`.
fn text_of(maps: &str, program: &str) -> Vec<(usize, usize)> {
    maps.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let (range, mode, path) = (words.next()?, words.next()?, words.nth(3)?);
            if mode != "r-xp" || path != program {
                return None;
            }
            let (start, end) = range.split_once('-')?;
            Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_read_only_text_of_the_program_is_dropped() {
        let maps = "1000-2000 r--p 00000000 fd:00 1 /bin/kedge\n\
                    2000-5000 r-xp 00001000 fd:00 1 /bin/kedge\n\
                    5000-6000 rw-p 00004000 fd:00 1 /bin/kedge\n\
                    7000-8000 r-xp 00000000 fd:00 2 /lib/libc.so\n";
        assert_eq!(text_of(maps, "/bin/kedge"), [(0x2000, 0x5000)]);
    }

    #[test]
    fn the_program_still_runs_after_a_trim() {
        prefer_small();
        trim().expect("trims");
        assert_eq!((1..=100).sum::<u32>(), 5050);
    }
}
