//! The end of a helper that is stuck where the standard library has no time limit.
//!
//! `UnixStream::connect` waits for as long as the queue of a listener that does not accept is full. A watchdog thread would end
//! that too, but costs every start an eighth of its time (`benches/helper.py`: 1.25 against 1.1 of a C client); the kernel's own
//! alarm costs one system call. Its default action ends the process, which git reports as "died of signal 14".

use std::ffi::c_uint;

/// Has the kernel end this process after so many seconds, whatever it is doing then.
pub(crate) fn end_process_after(seconds: u32) {
    sys::alarm(seconds);
}

#[expect(unsafe_code, reason = "alarm(2) takes and returns plain numbers: there is no way to call it wrongly")]
mod sys {
    use super::c_uint;

    unsafe extern "C" {
        pub(super) safe fn alarm(seconds: c_uint) -> c_uint;
    }
}
