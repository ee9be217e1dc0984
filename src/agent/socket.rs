//! The daemon's Unix socket: never wider than its mode says, a live one never taken over, a stale one replaced.
//!
//! Or one that the service manager made and listens on itself (`LISTEN_FDS`, sd_listen_fds(3)): connections wait in it while the
//! daemon is restarted. Its file, mode and group are the manager's then, and outlive the daemon.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use crate::sys;

/// How many connections may wait to be accepted. More wait in `connect`.
const BACKLOG: i32 = 1024;

/// How long a socket that is in the way has to take a connection before it counts as busy.
const LIVENESS_LIMIT: Duration = Duration::from_secs(1);

/// Why the socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file of a socket that was handed over is gone: only who made it can make it again.
    #[error("the file of the socket {path} is gone, so that nobody can connect")]
    Gone {
        /// The socket's path.
        path: PathBuf,
    },
    /// What the service manager handed over is not what can be served on.
    #[error("the socket that the service manager handed over {problem}")]
    Inherited {
        /// What is wrong with it.
        problem: String,
    },
    /// Another daemon answers on it.
    #[error("another scm-agent is running on {path}")]
    InUse {
        /// The socket's path.
        path: PathBuf,
    },
    /// Something that is no socket is in the way.
    #[error("{path} exists and is not a socket")]
    NotASocket {
        /// The socket's path.
        path: PathBuf,
    },
    /// The system refused a step.
    #[error("cannot {action} {path}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The path it was tried on.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound socket. Dropping one that was bound here removes its file, if the file is still this socket's.
#[derive(Debug)]
pub struct BoundSocket {
    /// Accepts connections; not blocking.
    pub listener: UnixListener,
    /// The file's group.
    pub gid: u32,
    path: PathBuf,
    identity: (u64, u64),
    own: Option<Own>,
}

/// What there is to a socket that was bound here.
#[derive(Debug)]
struct Own {
    mode: u32,
    // Held as long as the socket: of two daemons that start at once, one sees the other.
    _lock: rustix::fd::OwnedFd,
}

impl BoundSocket {
    /// Binds the socket with its mode and group.
    ///
    /// It is bound under another name, narrowed or widened to its mode, and only then renamed into place, so that nobody
    /// can connect before the mode stands.
    ///
    /// # Errors
    /// [`Error`]; a live socket is left alone.
    pub fn bind(path: &Path, mode: u32, gid: Option<u32>) -> Result<Self, Error> {
        let directory = directory_of(path);
        if path.file_name().is_none() || path.is_dir() {
            return Err(Error::NotASocket { path: path.to_owned() });
        }
        prepare(directory, gid)?;
        let lock_path = sibling(path, ".lock");
        let lock = open(&lock_path, OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::RUSR | Mode::WUSR)
            .map_err(io::Error::from)
            .map_err(system("open", &lock_path))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let error = io::Error::from(error);
            return Err(match error.kind() {
                io::ErrorKind::WouldBlock => Error::InUse { path: path.to_owned() },
                _ => system("lock", &lock_path)(error),
            });
        }
        refuse_to_replace(path)?;
        let (listener, metadata) = place(path, mode, gid)?;
        let own = Some(Own { mode, _lock: lock });
        Ok(Self { listener, gid: metadata.gid(), path: path.to_owned(), identity: (metadata.dev(), metadata.ino()), own })
    }

    /// Takes over the socket that the service manager listens on, if it handed one over, which must be the one at `path`: that is
    /// where git's helper looks for it. To be called before there are threads, once: the environment forgets it.
    ///
    /// # Errors
    /// [`Error::Inherited`] when there are several, or it is no listening Unix stream socket, or another one.
    pub fn inherited(path: &Path) -> Result<Option<Self>, Error> {
        // Without a process id it may have been meant for any ancestor of this process.
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(None);
        }
        let mut handed_over = listenfd::ListenFd::from_env();
        let wrong = |problem: String| Error::Inherited { problem };
        match handed_over.len() {
            0 => return Ok(None),
            1 => {}
            several => return Err(wrong(format!("is one of {several}; the socket unit needs a single ListenStream="))),
        }
        let listener = handed_over.take_unix_listener(0).map_err(|_| wrong("is no Unix stream socket".to_owned()))?;
        listener.map(|listener| Self::adopt(listener, path)).transpose()
    }

    /// Puts a socket that others bound to use, if it is the one that is meant.
    fn adopt(listener: UnixListener, path: &Path) -> Result<Self, Error> {
        let wrong = |problem: String| Error::Inherited { problem };
        let failed = |error: io::Error| Error::Inherited { problem: format!("cannot be used: {}", error.kind()) };
        if !rustix::net::sockopt::socket_acceptconn(&listener).map_err(io::Error::from).map_err(failed)? {
            return Err(wrong("does not listen; the socket unit needs ListenStream= and Accept=no".to_owned()));
        }
        let address = listener.local_addr().map_err(failed)?;
        let Some(bound) = SocketAddr::as_pathname(&address) else { return Err(wrong("has no path".to_owned())) };
        let look = |path: &Path| std::fs::metadata(path).ok().filter(|found| found.file_type().is_socket());
        let Some(metadata) = look(bound) else { return Err(wrong(format!("was at {}, where it is no more", bound.display()))) };
        let identity = (metadata.dev(), metadata.ino());
        // Under whatever name, such as by way of /var/run.
        if look(path).is_none_or(|configured| (configured.dev(), configured.ino()) != identity) {
            return Err(wrong(format!("is at {}, and agent.socket says {}", bound.display(), path.display())));
        }
        listener.set_nonblocking(true).map_err(failed)?;
        rustix::net::sockopt::set_socket_passcred(&listener, true).map_err(io::Error::from).map_err(failed)?;
        Ok(Self { listener, gid: metadata.gid(), path: path.to_owned(), identity, own: None })
    }

    /// Whether the service manager made it, so that its file, mode and group are none of the daemon's.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        self.own.is_none()
    }

    /// Binds the socket anew if its file is gone, so that a cleaner of old files does not cut git off. Says whether it did.
    ///
    /// # Errors
    /// [`Error`] when it is gone and cannot be made again.
    pub fn restore(&mut self) -> Result<bool, Error> {
        match std::fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let Some(Own { mode, .. }) = self.own else { return Err(Error::Gone { path: self.path.clone() }) };
                prepare(directory_of(&self.path), Some(self.gid))?;
                let (listener, metadata) = place(&self.path, mode, Some(self.gid))?;
                self.listener = listener;
                self.identity = (metadata.dev(), metadata.ino());
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if self.is_inherited() {
            return;
        }
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// An error of the system's, with what was tried on which path.
fn system(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::System { action, path, source }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes the socket's directory where it is missing, for the group to enter. Only the last part of the path: whoever wrote more
/// of it has an idea of who may pass.
fn prepare(directory: &Path, gid: Option<u32>) -> Result<(), Error> {
    if directory.exists() {
        return Ok(());
    }
    std::fs::create_dir(directory).map_err(system("create", directory))?;
    if let Some(gid) = gid {
        std::os::unix::fs::chown(directory, None, Some(gid)).map_err(system("set the group of", directory))?;
    }
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o750)).map_err(system("set the mode of", directory))
}

/// Binds a socket under another name, gives it its group and mode, and renames it into place.
fn place(path: &Path, mode: u32, gid: Option<u32>) -> Result<(UnixListener, std::fs::Metadata), Error> {
    // Shorter than any name that people give a socket: the system's limit is on the whole path.
    let fresh = directory_of(path).join(format!(".{}", std::process::id()));
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(system("remove", &fresh)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(system("bind", &fresh))?;
    let placed = (|| {
        if let Some(gid) = gid {
            std::os::unix::fs::chown(&fresh, None, Some(gid)).map_err(system("set the group of", &fresh))?;
        }
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode)).map_err(system("set the mode of", &fresh))?;
        // Connections have it from the listener: from their first byte on, the kernel says who wrote what.
        rustix::net::sockopt::set_socket_passcred(&listener, true).map_err(io::Error::from).map_err(system("prepare", &fresh))?;
        rustix::net::listen(&listener, BACKLOG).map_err(io::Error::from).map_err(system("listen on", &fresh))?;
        listener.set_nonblocking(true).map_err(system("prepare", &fresh))?;
        let metadata = std::fs::symlink_metadata(&fresh).map_err(system("inspect", &fresh))?;
        std::fs::rename(&fresh, path).map_err(system("put in place", path))?;
        Ok(metadata)
    })();
    match placed {
        Ok(metadata) => Ok((listener, metadata)),
        Err(error) => {
            let _ = std::fs::remove_file(&fresh);
            Err(error)
        }
    }
}

/// Refuses anything that is no socket, and a socket that still answers.
fn refuse_to_replace(path: &Path) -> Result<(), Error> {
    let metadata = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::System { action: "inspect", path: path.to_owned(), source }),
        Ok(metadata) => metadata,
    };
    if !metadata.file_type().is_socket() {
        return Err(Error::NotASocket { path: path.to_owned() });
    }
    match sys::connect_within(path, LIVENESS_LIMIT) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        // Its queue is full, so there is one.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(Error::InUse { path: path.to_owned() }),
        // Gone between the two looks.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(Error::InUse { path: path.to_owned() }),
        Err(source) => Err(Error::System { action: "ask who owns", path: path.to_owned(), source }),
    }
}

fn sibling(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_owner() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let bound = BoundSocket::bind(&path, 0o660, None).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_is_never_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let _bound = BoundSocket::bind(&path, 0o600, None).unwrap();
        assert!(matches!(BoundSocket::bind(&path, 0o600, None), Err(Error::InUse { .. })));
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_live_socket_of_another_program_is_never_taken_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let _other = UnixListener::bind(&path).unwrap();
        assert!(matches!(BoundSocket::bind(&path, 0o600, None), Err(Error::InUse { .. })));
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _bound = BoundSocket::bind(&path, 0o600, None).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
    }

    #[test]
    fn a_file_in_the_way_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(BoundSocket::bind(&path, 0o600, None), Err(Error::NotASocket { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_whose_file_is_gone_is_made_again_and_another_file_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let mut bound = BoundSocket::bind(&path, 0o660, None).unwrap();
        assert!(!bound.restore().unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(bound.restore().unwrap());
        assert!(UnixStream::connect(&path).is_ok());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert!(!bound.restore().unwrap());
        drop(bound);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_socket_of_others_is_used_where_it_is_and_outlives_its_user() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let managers = UnixListener::bind(&path).unwrap();
        let link = directory.path().join("link.sock");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut adopted = BoundSocket::adopt(managers.try_clone().unwrap(), &link).unwrap();
        assert!(adopted.is_inherited() && !adopted.restore().unwrap());
        assert_eq!(adopted.gid, std::fs::metadata(&path).unwrap().gid());
        drop(adopted);
        assert!(UnixStream::connect(&path).is_ok());

        let mut adopted = BoundSocket::adopt(managers, &path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(adopted.restore(), Err(Error::Gone { .. })));
    }

    #[test]
    fn what_is_handed_over_must_listen_at_the_path_that_git_is_told() {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, socket};
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let problem = |listener: UnixListener| match BoundSocket::adopt(listener, &at("agent.sock")) {
            Err(Error::Inherited { problem }) => problem,
            other => panic!("{other:?}"),
        };
        let elsewhere = UnixListener::bind(at("other.sock")).unwrap();
        let expected = format!("is at {}, and agent.socket says {}", at("other.sock").display(), at("agent.sock").display());
        assert_eq!(problem(elsewhere.try_clone().unwrap()), expected);
        let _in_the_way = UnixListener::bind(at("agent.sock")).unwrap();
        assert_eq!(problem(elsewhere.try_clone().unwrap()), expected);
        std::fs::remove_file(at("other.sock")).unwrap();
        assert!(problem(elsewhere).ends_with("where it is no more"));
        let abstract_name = <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(b"scm-agent-test-adopt").unwrap();
        assert_eq!(problem(UnixListener::bind_addr(&abstract_name).unwrap()), "has no path");
        let silent = socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        bind(&silent, &SocketAddrUnix::new(at("silent.sock")).unwrap()).unwrap();
        assert!(problem(UnixListener::from(silent)).starts_with("does not listen"));
    }

    #[test]
    fn a_successors_socket_survives_the_end_of_its_predecessor() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let bound = BoundSocket::bind(&path, 0o600, None).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _successor = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
    }
}
