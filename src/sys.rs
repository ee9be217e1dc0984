//! System calls that the standard library does not have. The only module of the library that may be unsafe, for the one that no
//! crate of the tree wraps.
#![allow(unsafe_code, reason = "getsockopt(SO_PEERGROUPS) has no safe wrapper yet")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
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
