//! The two things that the helper asks of the C library directly; the only file of it in which the word `unsafe` may stand.
//!
//! Both save time at every start of git (`benches/helper.py`, as ratios to the same process in C). Rust's own start-up code
//! reads `/proc/self/maps` and installs signal handlers for stack overflows: 1.23 with it, 1.08 without. And a thread that
//! watches the clock costs another 0.15, where the kernel's alarm costs one system call.
//!
//! Without that start-up code SIGPIPE ends the process, as it ends any C program, and a descriptor that was closed when the
//! process started stays closed: [`crate::Streams`] has to be taken before anything is opened.
#![expect(unsafe_code, reason = "a symbol for the C library to start with, and a function of plain numbers")]

use std::ffi::{c_int, c_uint};

/// Where the C library starts the process. glibc hands the arguments to the standard library by itself; elsewhere the usual
/// `main` is needed for them.
#[cfg(all(target_os = "linux", target_env = "gnu", not(test)))]
#[unsafe(no_mangle)]
extern "C" fn main(_count: c_int, _arguments: *const *const std::ffi::c_char) -> c_int {
    crate::run().into()
}

/// Has the kernel end this process after so many seconds, whatever it is doing then; git reports that as signal 14.
///
/// For what the standard library has no limit for: `UnixStream::connect` waits for as long as the queue of a listener that does
/// not accept is full.
pub(crate) fn end_process_after(seconds: u32) {
    // Whoever started this process may have had the signal ignored or held back, and both are inherited.
    libc::signal(SIGALRM, SIG_DFL);
    libc::sigrelse(SIGALRM);
    libc::alarm(seconds);
}

/// signal(7): 14 on every architecture of Linux.
const SIGALRM: c_int = 14;
/// signal(2): the default action, as a plain number.
const SIG_DFL: usize = 0;

mod libc {
    use super::{c_int, c_uint};

    unsafe extern "C" {
        /// alarm(2): takes and returns plain numbers, so that there is no way to call it wrongly.
        pub(super) safe fn alarm(seconds: c_uint) -> c_uint;
        /// signal(2): with the default action there is no handler that could be wrong.
        pub(super) safe fn signal(number: c_int, action: usize) -> usize;
        /// sigset(3): takes one signal out of the mask.
        pub(super) safe fn sigrelse(number: c_int) -> c_int;
    }
}
