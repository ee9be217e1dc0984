//! System calls that the standard library does not have. The only module of the library that may be unsafe, for those that no
//! crate of the tree wraps, or wraps wrongly for us: to rustix a writer's process id is never 0, which it is where the writer's process
//! cannot be seen from here.
#![allow(
    unsafe_code,
    reason = "getsockopt(SO_PEERGROUPS, SO_PEERPIDFD), ioctl(PIDFD_GET_INFO), SCM_CREDENTIALS of 0 and mallopt have no safe wrapper"
)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How many supplementary groups a process can have: `NGROUPS_MAX`.
const MAX_GROUPS: usize = 65_536;

/// The supplementary group ids of the process at the other end of a Unix socket, as they were when it connected.
///
/// `SO_PEERGROUPS`, unix(7): from the kernel, so neither a recycled process id nor a change of the group database can alter it.
///
/// # Errors
/// What the system says; kernels before 4.13 do not know the option.
pub(crate) fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut length = libc::socklen_t::try_from(std::mem::size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the descriptor is open for as long as `socket` is borrowed; `groups` is a live, writable buffer of exactly
        // `length` bytes, and the kernel writes at most that many and says in `length` how many it wrote or wanted.
        let result = unsafe {
            libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERGROUPS, groups.as_mut_ptr().cast(), &raw mut length)
        };
        let count = usize::try_from(length).map_err(io::Error::other)? / std::mem::size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        let too_small = error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() && count <= MAX_GROUPS;
        if !too_small {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

/// Has the allocator give memory back that is free, and keep few heaps apart: whoever locks its memory pays for what lies idle in RAM.
/// Before there are threads. glibc only; the allocators of other C libraries have nothing to set.
pub(crate) fn give_back_free_memory() {
    #[cfg(target_env = "gnu")]
    {
        // Two heaps, not eight for each core, of which each keeps what its threads once needed. Setting a threshold also ends glibc's
        // raising it by itself with each large block that is freed.
        const MAX_HEAPS: libc::c_int = 2;
        const FREE_AT_TOP: libc::c_int = 128 * 1024;
        const LARGE_BLOCK: libc::c_int = 64 * 1024;
        for (parameter, value) in
            [(libc::M_ARENA_MAX, MAX_HEAPS), (libc::M_TRIM_THRESHOLD, FREE_AT_TOP), (libc::M_MMAP_THRESHOLD, LARGE_BLOCK)]
        {
            // SAFETY: mallopt takes and gives plain numbers. What it does not know it leaves as it is.
            unsafe { libc::mallopt(parameter, value) };
        }
    }
}

/// Who wrote what was read from a Unix socket with `SO_PASSCRED`: `SCM_CREDENTIALS`, unix(7). Without a privilege nobody can have the
/// kernel say another than oneself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writer {
    /// Process id at the time of the reading; 0 where the process cannot be seen from here.
    pub(crate) pid: i32,
    /// Real user id.
    pub(crate) uid: u32,
}

/// Room for one message of credentials and for nothing else: descriptors that come along find none, and the kernel closes them.
#[repr(C, align(8))]
struct Credentials([MaybeUninit<u8>; CREDENTIALS_SPACE]);

// SAFETY: the macro only computes.
const CREDENTIALS_SPACE: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::ucred>() as u32) } as usize;

/// Reads from a Unix socket, and who wrote that. Of several writers it reads what the first one wrote: the kernel joins no two.
///
/// The writer is `None` at the end, and where the socket is without `SO_PASSCRED`.
///
/// # Errors
/// What the system says.
pub(crate) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<(usize, Option<Writer>)> {
    let mut space = Credentials([MaybeUninit::uninit(); CREDENTIALS_SPACE]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: all of its fields may be zero; that sets those that a C library pads it with.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = space.0.as_mut_ptr().cast();
    message.msg_controllen = CREDENTIALS_SPACE as _;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; `message` points at `buffer` and `space`, which live and are
    // writable, with their very lengths.
    let result = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    let mut writer = None;
    // SAFETY: `message` is as the kernel left it, so that the macros stay within the part of `space` that it has written.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while let Some(found) = header.as_ref() {
            let is_whole = found.cmsg_len >= libc::CMSG_LEN(size_of::<libc::ucred>() as u32) as _;
            if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_CREDENTIALS && is_whole {
                let credentials = libc::CMSG_DATA(header).cast::<libc::ucred>().read_unaligned();
                writer = Some(Writer { pid: credentials.pid, uid: credentials.uid });
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    Ok((length, writer.filter(|_| length > 0)))
}

/// The process at the other end of a Unix socket, as it was when it connected, whatever has become of its number since.
///
/// `SO_PEERPIDFD`, Linux 6.5.
///
/// # Errors
/// What the system says: `ENOPROTOOPT` where it does not know the option, and on some versions `ESRCH` or `EINVAL` where the process has
/// ended.
pub(crate) fn peer_process(socket: impl AsFd) -> io::Result<OwnedFd> {
    let mut descriptor: RawFd = -1;
    let mut length = size_of::<RawFd>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as `socket` is borrowed; `descriptor` is a live, writable buffer of exactly `length`
    // bytes.
    let result = unsafe {
        libc::getsockopt(socket.as_fd().as_raw_fd(), libc::SOL_SOCKET, libc::SO_PEERPIDFD, (&raw mut descriptor).cast(), &raw mut length)
    };
    if result != 0 || descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessInfo {
    /// The id of its cgroup in the hierarchy of version 2: the inode of its directory.
    pub(crate) cgroup_id: Option<u64>,
    /// Its number.
    pub(crate) pid: u32,
}

/// Whether the kernel refused a question because it does not know it.
pub(crate) fn is_unknown_question(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL | libc::ENOPROTOOPT | libc::EOPNOTSUPP))
}

/// Asks for a process's number and cgroup: `PIDFD_GET_INFO`, Linux 6.13.
///
/// # Errors
/// What the system says: `ENOTTY` or `EINVAL` where it does not know the question, `ESRCH` where the process has ended.
pub(crate) fn process_info(process: impl AsFd) -> io::Result<ProcessInfo> {
    const PID: u64 = 1;
    const CGROUP_ID: u64 = 1 << 2;
    // SAFETY: all of its fields are numbers.
    let mut info: libc::pidfd_info = unsafe { std::mem::zeroed() };
    info.mask = PID | CGROUP_ID;
    // SAFETY: the descriptor is open for as long as `process` is borrowed; the number of the request holds the size of `info`, which is
    // live and writable, and the kernel writes no more than that.
    let result = unsafe { libc::ioctl(process.as_fd().as_raw_fd(), libc::PIDFD_GET_INFO as _, &raw mut info) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let cgroup_id = (info.mask & CGROUP_ID != 0 && info.cgroupid != 0).then_some(info.cgroupid);
    Ok(ProcessInfo { cgroup_id, pid: info.tgid })
}

/// Connects to a Unix socket without waiting for longer than that: `connect` waits for as long as the listener's queue is full.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when the queue stayed full, else what the system says.
pub(crate) fn connect_within(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(limit))?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(UnixStream::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_groups_of_a_peer_are_those_of_its_process() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut found = peer_groups(&ours).unwrap();
        let mut expected: Vec<u32> = nix::unistd::getgroups().unwrap().into_iter().map(nix::unistd::Gid::as_raw).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected);
    }

    #[test]
    fn each_part_of_what_is_read_comes_with_who_wrote_it_and_without_descriptors() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_passcred(&ours, true).unwrap();
        let own = Writer { pid: i32::try_from(std::process::id()).unwrap(), uid: nix::unistd::getuid().as_raw() };
        std::io::Write::write_all(&mut &theirs, b"one").unwrap();
        let mut buffer = [0; 8];
        assert_eq!(receive(&ours, &mut buffer).unwrap(), (3, Some(own)));
        // A descriptor along with it is not taken.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = rustix::net::SendAncillaryBuffer::new(&mut space);
        let passed = [theirs.as_fd()];
        assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&passed)));
        let parts = [io::IoSlice::new(b"two")];
        rustix::net::sendmsg(&theirs, &parts, &mut control, rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(receive(&ours, &mut buffer).unwrap(), (3, Some(own)));
        drop(theirs);
        // Were it held open here, this would wait for ever.
        assert_eq!(receive(&ours, &mut buffer).unwrap(), (0, None));
        let (without, theirs) = UnixStream::pair().unwrap();
        std::io::Write::write_all(&mut &theirs, b"x").unwrap();
        assert_eq!(receive(&without, &mut buffer).unwrap(), (1, None));
    }

    #[test]
    fn the_process_at_the_other_end_is_told_where_the_kernel_can() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let process = match peer_process(&ours) {
            Ok(process) => process,
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ENOPROTOOPT));
                return;
            }
        };
        match process_info(&process) {
            Ok(info) => assert_eq!(info.pid, std::process::id()),
            Err(error) => assert!(matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)), "{error}"),
        }
    }

    #[test]
    fn a_listener_that_does_not_accept_is_not_waited_for_for_ever() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("full.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let mut queued = Vec::new();
        let error = loop {
            match connect_within(&path, Duration::from_millis(50)) {
                Ok(stream) => queued.push(stream),
                Err(error) => break error,
            }
            assert!(queued.len() < 100, "the queue is never full");
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
