//! What the process uses, by what the kernel says of it. Its own folder in `/proc` is all that this needs.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

/// What the process uses at a moment.
pub(super) struct Usage {
    /// Processor time.
    pub(super) cpu: Option<Duration>,
    /// File descriptors that may be open; `None` without a limit.
    pub(super) max_fds: Option<u64>,
    /// File descriptors that are open.
    pub(super) open_fds: Option<u64>,
    /// Memory that is in RAM.
    pub(super) resident_bytes: Option<u64>,
    /// Address space.
    pub(super) virtual_bytes: Option<u64>,
}

/// Looks at the process.
pub(super) fn usage() -> Usage {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let cpu = clock_gettime(ClockId::ProcessCPUTime);
    Usage {
        cpu: u64::try_from(cpu.tv_sec).ok().zip(u32::try_from(cpu.tv_nsec).ok()).map(|(seconds, rest)| Duration::new(seconds, rest)),
        max_fds: getrlimit(Resource::Nofile).current,
        // The one that is opened for this is not counted.
        open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|open| (open.count() as u64).saturating_sub(1)),
        resident_bytes: bytes(&status, "VmRSS:"),
        virtual_bytes: bytes(&status, "VmSize:"),
    }
}

/// A line of proc_pid_status(5) that is in KiB.
fn bytes(status: &str, name: &str) -> Option<u64> {
    let kibibytes: u64 = status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        assert_eq!(bytes("Name:\tx\nVmSize:\t   12 kB\nVmRSS:\t 3 kB\n", "VmRSS:"), Some(3 * 1024));
        assert_eq!(bytes("VmRSS:\tmany kB\n", "VmRSS:"), None);
        let usage = usage();
        let (resident, whole) = (usage.resident_bytes.unwrap(), usage.virtual_bytes.unwrap());
        assert!(resident > 1 << 20 && whole > resident, "{resident} of {whole}");
        assert!(usage.open_fds.unwrap() >= 3 && usage.max_fds.is_none_or(|most| most >= usage.open_fds.unwrap()));
        assert!(usage.cpu.is_some());
    }
}
