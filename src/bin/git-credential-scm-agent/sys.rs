//! What the helper asks of the C library directly; the only file of it in which the word `unsafe` may stand.
//!
//! The symbol and the alarm save time at every start of git (`benches/helper.py`, as ratios to the same process in C). Rust's own start-up code
//! reads `/proc/self/maps` and installs signal handlers for stack overflows: 1.23 with it, 1.08 without. And a thread that
//! watches the clock costs another 0.15, where the kernel's alarm costs one system call.
//!
//! Without that start-up code SIGPIPE ends the process, as it ends any C program, and a descriptor that was closed when the
//! process started stays closed: [`crate::Streams`] has to be taken before anything is opened.
#![expect(unsafe_code, reason = "a symbol for the C library to start with, functions of plain numbers, and one write in a signal handler")]

use std::ffi::{c_int, c_uint};
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

/// Where the C library starts the process. glibc hands the arguments to the standard library by itself; elsewhere the usual
/// `main` is needed for them.
#[cfg(all(target_os = "linux", target_env = "gnu", not(test)))]
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const std::ffi::c_char) -> c_int {
    crate::run().into()
}

/// What is said then, where nothing else can be said any more.
const LATE: &[u8] = b"git-credential-scm-agent: no answer from the agent: it took too long; see `systemctl status scm-agent`\n";

/// Where [`late`] says it; negative for nowhere.
static STDERR: AtomicI32 = AtomicI32::new(-1);

/// Has the kernel end this process after so many seconds, whatever it is doing then, with a line on `stderr`.
///
/// For what the standard library has no limit for: `UnixStream::connect` waits for as long as the queue of a listener that does
/// not accept is full.
pub(crate) fn end_process_after(seconds: u32, stderr: Option<RawFd>) {
    STDERR.store(stderr.unwrap_or(-1), Ordering::Relaxed);
    // Whoever started this process may have had the signal ignored or held back, and both are inherited.
    libc::signal(SIGALRM, late as extern "C" fn(c_int) as usize);
    libc::sigrelse(SIGALRM);
    libc::alarm(seconds);
}

/// Runs wherever the process is at that moment, so it takes no lock, allocates nothing and calls what signal-safety(7) allows only.
extern "C" fn late(_signal: c_int) {
    // A stderr that nobody reads must not keep the process: git reports this end as signal 14.
    libc::signal(SIGALRM, SIG_DFL);
    libc::sigrelse(SIGALRM);
    libc::alarm(1);
    let stderr = STDERR.load(Ordering::Relaxed);
    if stderr >= 0 {
        // SAFETY: the bytes are a constant of that length.
        unsafe { libc::write(stderr, LATE.as_ptr(), LATE.len()) };
    }
    libc::_exit(c_int::from(crate::FAILED));
}

/// signal(7): 14 on every architecture of Linux.
const SIGALRM: c_int = 14;
/// signal(2): the default action, as a plain number.
const SIG_DFL: usize = 0;

mod libc {
    use super::{c_int, c_uint};

    unsafe extern "C" {
        /// _exit(2): ends the process at once.
        pub(super) safe fn _exit(status: c_int) -> !;
        /// alarm(2): takes and returns plain numbers, so that there is no way to call it wrongly.
        pub(super) safe fn alarm(seconds: c_uint) -> c_uint;
        /// signal(2): called with the default action, or with a function that may run at any time.
        pub(super) safe fn signal(number: c_int, action: usize) -> usize;
        /// sigset(3): takes one signal out of the mask.
        pub(super) safe fn sigrelse(number: c_int) -> c_int;
        /// write(2): `bytes` has to be readable for `count`.
        pub(super) fn write(descriptor: c_int, bytes: *const u8, count: usize) -> isize;
    }
}
