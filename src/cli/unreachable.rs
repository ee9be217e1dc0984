//! Why no daemon answers on a socket, as far as that shows from the outside, and what to do about it.
//!
//! What is seen is gathered first; what it means is a pure function of that.

use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use super::advice;
use super::git::chain::shell_word;

/// What is seen of a socket that does not let the caller in.
#[derive(Debug, Default)]
struct Seen {
    /// The first directory above it that the caller may not pass through.
    closed: Option<PathBuf>,
    /// What is at its path.
    file: Option<File>,
    /// The daemon that made a socket there.
    listener: Option<u32>,
    /// The caller's name.
    user: String,
}

/// A file where the socket should be.
#[derive(Debug)]
struct File {
    is_socket: bool,
    /// Whether its mode lets the group in.
    group_may: bool,
    /// The group's name, or its number.
    group: String,
    /// Whether the caller's process has the group.
    in_group: bool,
    /// Whether the user database has the caller in the group.
    listed: bool,
}

/// What to do where connecting failed.
pub(super) fn hint(socket: &Path, kind: ErrorKind) -> String {
    match kind {
        ErrorKind::WouldBlock => format!("it is there but takes no connections: {}", advice::restart(None)),
        ErrorKind::NotFound | ErrorKind::ConnectionRefused | ErrorKind::PermissionDenied => advise(socket, kind, &look(socket)),
        _ => format!("start it: {}", advice::start(socket)),
    }
}

/// What to do where the daemon took the connection and closed it without a word.
pub(super) fn refusal(socket: &Path) -> String {
    match look(socket) {
        Seen { file: Some(file), user, .. } if !file.in_group => membership(&file, &user),
        _ => "only root, the daemon's own user and members of the socket's group may ask".to_owned(),
    }
}

/// What to do about a daemon that took the connection and does not answer.
pub(super) fn silence(stream: &UnixStream) -> String {
    // A socket that systemd made tells of systemd.
    let pid = rustix::net::sockopt::socket_peercred(stream.as_fd()).ok().map(|peer| peer.pid.as_raw_nonzero().get());
    let pid = pid.filter(|pid| *pid > 1);
    match pid.filter(|pid| is_stopped(*pid)) {
        Some(pid) => format!("its process is stopped; let it go on: {}", advice::as_root(&format!("kill -CONT {pid}"))),
        None => {
            let pid = pid.and_then(|pid| u32::try_from(pid).ok());
            format!("it hangs or has too much to do: {}", advice::restart(pid))
        }
    }
}

/// Whether a process is stopped, by a signal or a debugger (proc_pid_stat(5)).
fn is_stopped(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it may have anything in it.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['T', 't']))
}

/// The process that holds a lock on a file (proc_locks(5)), without taking it.
pub(super) fn holder(file: &Path) -> Option<i32> {
    let metadata = std::fs::metadata(file).ok()?;
    let (major, minor) = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
    let wanted = format!("{major:02x}:{minor:02x}:{}", metadata.ino());
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let pid = words.nth(4)?.parse().ok()?;
        (words.next()? == wanted).then_some(pid)
    })
}

/// The daemon that made a socket at that path, whatever became of the file: it holds the lock beside it.
pub(super) fn listener(socket: &Path) -> Option<i32> {
    let mut lock = socket.as_os_str().to_owned();
    lock.push(".lock");
    holder(Path::new(&lock))
}

fn look(socket: &Path) -> Seen {
    let above: Vec<&Path> = socket.ancestors().skip(1).filter(|path| !path.as_os_str().is_empty()).collect();
    let closed = |path: &&&Path| rustix::fs::access(**path, Access::EXEC_OK) == Err(rustix::io::Errno::ACCESS);
    let closed = above.iter().rev().find(closed).map(|path| path.to_path_buf());
    let uid = nix::unistd::geteuid();
    let user = nix::unistd::User::from_uid(uid).ok().flatten();
    let file = std::fs::metadata(socket).ok().map(|metadata| {
        let group = nix::unistd::Group::from_gid(metadata.gid().into()).ok().flatten();
        let held = nix::unistd::getgroups().unwrap_or_default();
        let listed = |name: &str| group.as_ref().is_some_and(|group| group.mem.iter().any(|member| member == name));
        File {
            is_socket: metadata.file_type().is_socket(),
            group_may: metadata.mode() & 0o060 == 0o060,
            in_group: nix::unistd::getegid().as_raw() == metadata.gid() || held.iter().any(|gid| gid.as_raw() == metadata.gid()),
            listed: user.as_ref().is_some_and(|user| user.gid.as_raw() == metadata.gid() || listed(&user.name)),
            group: group.map_or_else(|| metadata.gid().to_string(), |group| group.name),
        }
    });
    let listener = listener(socket).and_then(|pid| u32::try_from(pid).ok());
    Seen { closed, file, listener, user: user.map_or_else(|| uid.to_string(), |user| user.name) }
}

fn advise(socket: &Path, kind: ErrorKind, seen: &Seen) -> String {
    let start = || format!("start it: {}", advice::start(socket));
    match (kind, &seen.file) {
        (ErrorKind::PermissionDenied, _) if seen.closed.is_some() => {
            let closed = seen.closed.as_deref().unwrap_or(socket).display().to_string();
            format!("users may not pass through {closed}: {}", advice::as_root(&format!("chmod a+x {}", shell_word(&closed))))
        }
        (ErrorKind::PermissionDenied, Some(file)) if !file.group_may => {
            "its mode shuts the group out: see agent.socket_mode, or SocketMode= in the socket unit".to_owned()
        }
        (ErrorKind::PermissionDenied, Some(file)) => membership(file, &seen.user),
        (ErrorKind::PermissionDenied, None) => "only members of the socket's group may ask: add the user to it, or run as root".to_owned(),
        (_, Some(file)) if !file.is_socket => "what is there is no socket: move it away, or change agent.socket".to_owned(),
        (ErrorKind::NotFound, None) if seen.listener.is_some() => {
            let pid = seen.listener.unwrap_or_default();
            format!("the daemon runs (pid {pid}), but the file of its socket is gone: {}", advice::restart(Some(pid)))
        }
        (ErrorKind::ConnectionRefused, Some(_)) => format!("nobody listens there any more; {}", start()),
        _ => start(),
    }
}

/// What somebody is told whom the socket's group would let in.
fn membership(file: &File, user: &str) -> String {
    let File { group, listed, .. } = file;
    if *listed {
        return format!(
            "{user} is in the group {group}, but was not when this session began: log out and in, or for one shell: newgrp {}",
            shell_word(group)
        );
    }
    let add = advice::as_root(&format!("usermod -aG {} {}", shell_word(group), shell_word(user)));
    format!("only members of the group {group} may ask: {add}, then log out and in")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> File {
        File { is_socket: true, group_may: true, group: "scm-agent".to_owned(), in_group: false, listed: false }
    }

    fn advised(kind: ErrorKind, file: Option<File>, closed: Option<&str>) -> String {
        let seen = Seen { closed: closed.map(PathBuf::from), file, listener: None, user: "mona".to_owned() };
        advise(Path::new("/x/agent.sock"), kind, &seen)
    }

    #[test]
    fn each_obstacle_has_its_own_advice() {
        use ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
        assert!(advised(NotFound, None, None).starts_with("start it: "));
        let gone = advise(Path::new("/x/agent.sock"), NotFound, &Seen { listener: Some(7), ..Seen::default() });
        assert!(gone.starts_with("the daemon runs (pid 7), but the file of its socket is gone: "), "{gone}");
        assert!(advised(ConnectionRefused, Some(file()), None).starts_with("nobody listens there any more; start it: "));
        assert!(advised(ConnectionRefused, Some(File { is_socket: false, ..file() }), None).contains("is no socket"));
        assert!(advised(PermissionDenied, Some(File { group_may: false, ..file() }), None).contains("agent.socket_mode"));
        assert!(advised(PermissionDenied, None, Some("/x y")).contains("chmod a+x '/x y'"));
        assert!(advised(PermissionDenied, Some(file()), None).contains("usermod -aG scm-agent mona, then log out and in"));
        let older = advised(PermissionDenied, Some(File { listed: true, ..file() }), None);
        assert!(older.contains("was not when this session began") && older.ends_with("newgrp scm-agent"), "{older}");
    }
}
