//! Signals and children, by the C library that std links anyway.

use std::ffi::c_int;

const SIGINT: c_int = 2;
const SIGTERM: c_int = 15;
const SIGCHLD: c_int = 17;
const SIG_BLOCK: c_int = 0;
const WNOHANG: c_int = 1;

/// glibc's and musl's `sigset_t` are both 128 bytes on Linux.
#[repr(C, align(8))]
struct SignalSet([u8; 128]);

unsafe extern "C" {
    fn sigemptyset(set: *mut SignalSet) -> c_int;
    fn sigaddset(set: *mut SignalSet, signal: c_int) -> c_int;
    fn pthread_sigmask(how: c_int, set: *const SignalSet, old: *mut SignalSet) -> c_int;
    fn sigwait(set: *const SignalSet, signal: *mut c_int) -> c_int;
    fn waitpid(pid: c_int, status: *mut c_int, options: c_int) -> c_int;
}

/// Blocks the signals for this thread and those it starts, then gives the set to wait on.
fn block(signals: &[c_int]) -> SignalSet {
    let mut set = SignalSet([0; 128]);
    // SAFETY: `set` is a valid, writable sigset_t and outlives the calls; a null `old` is allowed.
    unsafe {
        sigemptyset(&mut set);
        for signal in signals {
            sigaddset(&mut set, *signal);
        }
        pthread_sigmask(SIG_BLOCK, &set, std::ptr::null_mut());
    }
    set
}

fn wait(set: &SignalSet) -> c_int {
    let mut signal = 0;
    // SAFETY: both pointers are valid for the call.
    unsafe { sigwait(set, &mut signal) };
    signal
}

fn reap() {
    // SAFETY: a null status is allowed; WNOHANG never blocks.
    while unsafe { waitpid(-1, std::ptr::null_mut(), WNOHANG) } > 0 {}
}

/// Reaps orphans until SIGTERM or SIGINT.
pub fn reap_until_stopped() {
    let set = block(&[SIGCHLD, SIGTERM, SIGINT]);
    reap();
    while wait(&set) == SIGCHLD {
        reap();
    }
}

/// Call before starting threads; the returned waiter blocks until SIGTERM or SIGINT.
pub fn stop_waiter() -> impl FnOnce() {
    let set = block(&[SIGCHLD, SIGTERM, SIGINT]);
    move || {
        while wait(&set) == SIGCHLD {
            reap();
        }
    }
}
