//! Who is at the other end of a connection, by what the kernel says, and whether they may ask.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::UnixStream;

use crate::sys;

/// The process that connected, as it was when it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Process id, for the log only: by the time it is read it may be another process's.
    pub pid: Option<i32>,
}

impl Peer {
    /// Asks the kernel: `SO_PEERCRED` and `SO_PEERGROUPS`, unix(7).
    ///
    /// # Errors
    /// What the system says; the connection must be refused then.
    pub fn of(stream: &UnixStream) -> std::io::Result<Self> {
        let credentials = stream.peer_cred()?;
        Ok(Self { uid: credentials.uid(), gid: credentials.gid(), groups: sys::peer_groups(stream)?, pid: credentials.pid() })
    }
}

/// Whether a process has not ended.
///
/// # Errors
/// What the system says.
pub(crate) fn lives(process: impl AsFd) -> io::Result<bool> {
    let mut events = [PollFd::new(&process, PollFlags::IN)];
    Ok(poll(&mut events, Some(&Timespec::default()))? == 0)
}

/// The number of a process; `None` where it cannot be seen from here.
///
/// # Errors
/// What the system says; `ESRCH` where it has ended.
pub(crate) fn number(process: impl AsFd) -> io::Result<Option<i32>> {
    match sys::process_info(&process) {
        Ok(info) => Ok(i32::try_from(info.pid).ok().filter(|pid| *pid > 0)),
        Err(error) if sys::is_unknown_question(&error) => {
            // proc_pid_fdinfo(5): 0 for one that cannot be seen, -1 for one that has ended.
            let path = format!("/proc/self/fdinfo/{}", process.as_fd().as_raw_fd());
            let text = std::fs::read_to_string(path)?;
            let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok());
            Ok(number.filter(|pid: &i32| *pid > 0))
        }
        // Its process namespace is none that is below ours.
        Err(error) if error.raw_os_error() == Some(libc::EREMOTE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Who may ask: root, the daemon's own user, and the members of the socket's group.
///
/// The socket's mode says the same, but a mode can be loosened by accident; this cannot.
#[derive(Debug, Clone, Copy)]
pub struct Admission {
    /// The daemon's effective user id.
    pub own_uid: u32,
    /// The group of the socket.
    pub socket_gid: u32,
}

impl Admission {
    /// Whether a peer is root or the daemon's own user, for whom places are kept.
    #[must_use]
    pub fn is_privileged(&self, peer: &Peer) -> bool {
        peer.uid == 0 || peer.uid == self.own_uid
    }

    /// Whether a peer may ask.
    #[must_use]
    pub fn admits(&self, peer: &Peer) -> bool {
        self.is_privileged(peer) || peer.gid == self.socket_gid || peer.groups.contains(&self.socket_gid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_the_own_user_and_members_of_the_group_are_admitted() {
        let admission = Admission { own_uid: 990, socket_gid: 980 };
        let peer = |uid, gid, groups: &[u32]| Peer { uid, gid, groups: groups.to_vec(), pid: Some(1) };
        assert!(admission.admits(&peer(0, 0, &[])));
        assert!(admission.admits(&peer(990, 1, &[])));
        assert!(admission.admits(&peer(1000, 980, &[])));
        assert!(admission.admits(&peer(1000, 1000, &[27, 980])));
        assert!(!admission.admits(&peer(1000, 1000, &[27, 990])));
        assert!(!admission.admits(&peer(980, 1000, &[])));
    }
}
