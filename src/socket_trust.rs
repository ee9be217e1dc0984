//! Whose socket it is. A request holds what git would send a server, so it goes to the agent's socket only, not to one that
//! another user put in the agent's place.
//!
//! A socket is as trustworthy as everybody who could have put it there. Trusted are root, whoever owns `/` (root, seen from
//! inside a user namespace) and the caller. The agent may have a user of its own: it is whoever owns both the socket and the
//! directory that the socket is in, if that directory was made where only somebody trusted can make one.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::git::frame::printable;

/// Why a socket is not used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TrustError {
    /// A directory above it belongs to somebody who is not trusted.
    DirectoryOwner(PathBuf),
    /// Everybody may replace what is in a directory above it.
    DirectoryWritable(PathBuf),
    /// It is no socket but some other file.
    NotASocket(PathBuf),
    /// It belongs to somebody who is not trusted.
    Owner(PathBuf),
    /// It cannot be looked at.
    Unreachable(io::ErrorKind),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (path, why) = match self {
            Self::DirectoryOwner(path) => (path, "may have been made by anybody: it belongs neither to root nor to you"),
            Self::DirectoryWritable(path) => (path, "is writable by everybody"),
            Self::NotASocket(path) => (path, "is not a socket"),
            Self::Owner(path) => (path, "belongs neither to root nor to you nor to the owner of its directory"),
            Self::Unreachable(kind) => return write!(f, "{kind}"),
        };
        write!(f, "{} {why}", printable(&path.to_string_lossy()))
    }
}

/// What counts of a file.
#[derive(Debug, Clone)]
struct File {
    path: PathBuf,
    owner: u32,
    mode: u32,
    link: bool,
    socket: bool,
}

impl File {
    fn look(path: &Path) -> Result<Self, TrustError> {
        let metadata = fs::symlink_metadata(path).map_err(|error| TrustError::Unreachable(error.kind()))?;
        let kind = metadata.file_type();
        let (link, socket) = (kind.is_symlink(), kind.is_socket());
        Ok(Self { path: path.to_owned(), owner: metadata.uid(), mode: metadata.mode(), link, socket })
    }
}

/// The socket's path without symbolic links, if nobody but somebody trusted can have put a socket there.
///
/// # Errors
/// [`TrustError`] naming the file that spoils it.
pub(crate) fn checked(socket: &Path) -> Result<PathBuf, TrustError> {
    let look = |path: &Path| path.ancestors().map(File::look).collect::<Result<Vec<_>, _>>();
    let (mut path, mut files) = (socket.to_owned(), Vec::new());
    if path.is_absolute() {
        files = look(&path)?;
    }
    // Links are resolved once and not followed again: whoever owns a link could turn it after the check.
    if files.is_empty() || files.iter().any(|file| file.link) {
        path = socket.canonicalize().map_err(|error| TrustError::Unreachable(error.kind()))?;
        files = look(&path)?;
    }
    // The effective user, from the kernel. Unknown where /proc is missing or hides it: then nobody is trusted for being the caller.
    let caller = || fs::metadata("/proc/self").map(|metadata| metadata.uid()).ok();
    judge(&files, caller)?;
    Ok(path)
}

/// Judges a socket, given first, and the directories above it, `/` last. The caller is asked for only if it matters.
fn judge(files: &[File], caller: impl Fn() -> Option<u32>) -> Result<(), TrustError> {
    let [socket, directories @ ..] = files else { return Ok(()) };
    let root_owner = directories.last().map(|root| root.owner);
    let trusted = |owner: u32| owner == 0 || Some(owner) == root_owner || Some(owner) == caller();
    if !socket.socket {
        return Err(TrustError::NotASocket(socket.path.clone()));
    }
    let home_owner = directories.first().map(|home| home.owner);
    if !trusted(socket.owner) && Some(socket.owner) != home_owner {
        return Err(TrustError::Owner(socket.path.clone()));
    }
    for (depth, directory) in directories.iter().enumerate() {
        // Only the agent's own directory may be the agent's.
        let agent = depth == 0 && directory.owner == socket.owner;
        if !agent && !trusted(directory.owner) {
            return Err(TrustError::DirectoryOwner(directory.path.clone()));
        }
        if directory.mode & 0o002 == 0 {
            continue;
        }
        // Where everybody may write, the sticky bit keeps others from replacing a file but not from making it first.
        let below = &files[depth];
        if directory.mode & 0o1000 == 0 {
            return Err(TrustError::DirectoryWritable(directory.path.clone()));
        }
        if !trusted(below.owner) {
            let path = below.path.clone();
            return Err(if depth == 0 { TrustError::Owner(path) } else { TrustError::DirectoryOwner(path) });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const CALLER: u32 = 1_000;
    const AGENT: u32 = 900;
    const OTHER: u32 = 1_001;

    /// Judges a path given from `/` down as (owner, mode), the socket last.
    fn judged(files: &[(u32, u32)]) -> Result<(), TrustError> {
        let mut path = PathBuf::from("/");
        let mut list = Vec::new();
        for (depth, &(owner, mode)) in files.iter().enumerate() {
            if depth > 0 {
                path.push(depth.to_string());
            }
            list.insert(0, File { path: path.clone(), owner, mode, link: false, socket: depth + 1 == files.len() });
        }
        judge(&list, || Some(CALLER))
    }

    #[test]
    fn the_usual_places_are_trusted() {
        let table: &[(&str, &[(u32, u32)])] = &[
            ("/run/scm-agent/agent.sock of the agent's user", &[(0, 0o755), (0, 0o755), (AGENT, 0o750), (AGENT, 0o660)]),
            ("the same, bound by systemd", &[(0, 0o755), (0, 0o755), (0, 0o755), (0, 0o660)]),
            ("/run/user/1000/agent.sock", &[(0, 0o755), (0, 0o755), (0, 0o755), (CALLER, 0o700), (CALLER, 0o600)]),
            ("a directory of the caller's in /tmp", &[(0, 0o755), (0, 0o1777), (CALLER, 0o700), (CALLER, 0o600)]),
            ("a socket of the caller's in /tmp", &[(0, 0o755), (0, 0o1777), (CALLER, 0o600)]),
            ("a socket of root's in /tmp", &[(0, 0o755), (0, 0o1777), (0, 0o666)]),
            ("inside a user namespace", &[(65_534, 0o755), (65_534, 0o755), (AGENT, 0o750), (AGENT, 0o660)]),
        ];
        for (place, files) in table {
            assert_eq!(judged(files), Ok(()), "{place}");
        }
    }

    #[test]
    fn a_place_that_another_user_can_take_is_not_trusted() {
        let owner = |path: &str| Err(TrustError::Owner(path.into()));
        let directory = |path: &str| Err(TrustError::DirectoryOwner(path.into()));
        let writable = |path: &str| Err(TrustError::DirectoryWritable(path.into()));
        type Row<'a> = (&'a str, &'a [(u32, u32)], Result<(), TrustError>);
        let table: &[Row<'_>] = &[
            ("a socket of another's in /tmp", &[(0, 0o755), (0, 0o1777), (OTHER, 0o666)], owner("/1/2")),
            ("a directory of another's in /tmp", &[(0, 0o755), (0, 0o1777), (OTHER, 0o755), (OTHER, 0o666)], directory("/1/2")),
            ("deeper down", &[(0, 0o755), (0, 0o1777), (OTHER, 0o755), (OTHER, 0o755), (OTHER, 0o666)], directory("/1/2")),
            ("a caller's socket in a directory of another's", &[(0, 0o755), (OTHER, 0o755), (CALLER, 0o600)], directory("/1")),
            ("another's socket in the caller's directory", &[(0, 0o755), (CALLER, 0o755), (OTHER, 0o666)], owner("/1/2")),
            ("another's socket in the agent's directory", &[(0, 0o755), (AGENT, 0o775), (OTHER, 0o666)], owner("/1/2")),
            ("a directory that everybody may change", &[(0, 0o755), (0, 0o777), (0, 0o660)], writable("/1")),
            ("the same, further up", &[(0, 0o755), (0, 0o777), (0, 0o755), (0, 0o660)], writable("/1")),
            ("the agent's own, but open to everybody", &[(0, 0o755), (AGENT, 0o777), (AGENT, 0o660)], writable("/1")),
            ("the agent's own sticky directory", &[(0, 0o755), (AGENT, 0o1777), (AGENT, 0o660)], owner("/1/2")),
            ("a directory of the agent's two up", &[(0, 0o755), (AGENT, 0o755), (AGENT, 0o755), (AGENT, 0o660)], directory("/1")),
        ];
        for (place, files, expected) in table {
            assert_eq!(judged(files), *expected, "{place}");
        }
    }

    #[test]
    fn a_caller_who_is_unknown_is_not_trusted() {
        let file = |path: &str, owner, socket| File { path: path.into(), owner, mode: 0o700, link: false, socket };
        let files = [file("/a/b", CALLER, true), file("/a", 0, false), file("/", 0, false)];
        assert_eq!(judge(&files, || None), Err(TrustError::Owner("/a/b".into())));
    }

    #[test]
    fn a_real_socket_is_found_through_a_link_and_another_file_is_not() {
        let directory = std::env::temp_dir().join(format!("scm-agent-trust-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let directory = directory.canonicalize().unwrap();
        let socket = directory.join("agent.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let link = directory.join("link");
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        fs::write(directory.join("file"), "").unwrap();

        assert_eq!(checked(&socket), Ok(socket.clone()));
        assert_eq!(checked(&link), Ok(socket.clone()));
        let indirect = directory.join("to");
        std::os::unix::fs::symlink(&directory, &indirect).unwrap();
        assert_eq!(checked(&indirect.join("agent.sock")), Ok(socket));
        assert_eq!(checked(&directory.join("file")), Err(TrustError::NotASocket(directory.join("file"))));
        assert_eq!(checked(&directory), Err(TrustError::NotASocket(directory.clone())));
        assert_eq!(checked(&directory.join("none")), Err(TrustError::Unreachable(io::ErrorKind::NotFound)));
        drop(listener);
        fs::remove_dir_all(&directory).unwrap();
    }
}
