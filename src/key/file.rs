//! Opens a key or passphrase file once and looks at what was opened, not at what the path may name a moment later.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::Problem;

/// The largest key file that is read. An RSA key of 8192 bits takes a tenth of it.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// Whose files are trusted.
pub(super) struct Rules {
    /// The user that this process acts as; root's files are trusted too.
    euid: u32,
    /// systemd's directory of credentials for this service: it may show root's files there as readable by a group
    /// (the mask of the access list through which the service's user reads them).
    credentials_directory: Option<PathBuf>,
}

impl Rules {
    /// The rules for this process.
    pub(super) fn of_process() -> Self {
        Self {
            euid: rustix::process::geteuid().as_raw(),
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }

    fn check(&self, path: &Path, owner: u32, mode: u32) -> Result<(), Problem> {
        if owner != 0 && owner != self.euid {
            return Err(Problem::ForeignOwner { owner });
        }
        let forbidden = if owner == 0 && self.is_credential(path) { 0o037 } else { 0o077 };
        if mode & forbidden != 0 {
            return Err(Problem::OpenToOthers { mode: mode & 0o7777 });
        }
        Ok(())
    }

    fn is_credential(&self, path: &Path) -> bool {
        // Compared by name, so a name that climbs out again does not count.
        self.credentials_directory.as_deref().is_some_and(|directory| {
            directory.is_absolute() && path.starts_with(directory) && !path.components().any(|part| part == Component::ParentDir)
        })
    }
}

/// A regular file of bounded size, read to its end.
pub(super) struct Contents {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    owner: u32,
    mode: u32,
}

impl Contents {
    /// Reads a file that may be anyone's; [`Contents::check_private`] must follow before a secret in it is used.
    pub(super) fn read(path: &Path) -> Result<Self, Problem> {
        // Without O_NONBLOCK, opening a named pipe would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let descriptor = rustix::fs::open(path, flags, Mode::empty()).map_err(unopened)?;
        let stat = rustix::fs::fstat(&descriptor).map_err(unreadable)?;
        check_kind(&stat)?;
        let bytes = read_bounded(descriptor)?;
        Ok(Self { bytes, owner: stat.st_uid, mode: stat.st_mode })
    }

    /// Reads a file that only root and this user can have written, and only this user and root can read.
    pub(super) fn read_private(path: &Path) -> Result<Self, Problem> {
        let contents = Self::read(path)?;
        contents.check_private(path)?;
        Ok(contents)
    }

    /// Checks the owner and the permissions of the file that was read.
    pub(super) fn check_private(&self, path: &Path) -> Result<(), Problem> {
        Rules::of_process().check(path, self.owner, self.mode)
    }
}

/// Reads a passphrase: one line, without its line end.
pub(super) fn read_passphrase(path: &Path) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut bytes = Contents::read_private(path)?.bytes;
    for line_end in [b'\n', b'\r'] {
        if bytes.last() == Some(&line_end) {
            bytes.pop();
        }
    }
    if bytes.is_empty() {
        return Err(Problem::Empty);
    }
    if bytes.iter().any(|byte| matches!(byte, b'\n' | b'\r')) {
        return Err(Problem::SeveralLines);
    }
    Ok(bytes)
}

fn check_kind(stat: &Stat) -> Result<(), Problem> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Problem::Directory),
        FileType::Fifo => return Err(Problem::Fifo),
        FileType::Socket => return Err(Problem::Socket),
        FileType::Symlink => return Err(Problem::Symlink),
        FileType::BlockDevice | FileType::CharacterDevice | FileType::Unknown => return Err(Problem::Device),
    }
    match usize::try_from(stat.st_size) {
        Ok(0) => Err(Problem::Empty),
        Ok(1..=MAX_BYTES) => Ok(()),
        _ => Err(Problem::TooLarge { limit: MAX_BYTES }),
    }
}

fn read_bounded(descriptor: OwnedFd) -> Result<Zeroizing<Vec<u8>>, Problem> {
    // Allocated once at full size, and one byte more than allowed: the file may have grown since its size was looked at.
    let mut bytes = Zeroizing::new(vec![0; MAX_BYTES + 1]);
    let mut file = std::fs::File::from(descriptor);
    let mut length = 0;
    while length < bytes.len() {
        match file.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Problem::Unreadable(error.kind())),
        }
    }
    match length {
        0 => Err(Problem::Empty),
        1..=MAX_BYTES => {
            bytes.truncate(length);
            Ok(bytes)
        }
        _ => Err(Problem::TooLarge { limit: MAX_BYTES }),
    }
}

fn unopened(error: Errno) -> Problem {
    match error {
        Errno::NOENT => Problem::Missing,
        Errno::ACCESS | Errno::PERM => Problem::PermissionDenied,
        Errno::LOOP => Problem::Symlink,
        // What opening a socket, or a device without a driver, ends in.
        Errno::NXIO | Errno::NODEV => Problem::Socket,
        other => unreadable(other),
    }
}

fn unreadable(error: Errno) -> Problem {
    Problem::Unreadable(std::io::Error::from(error).kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules { euid: 1000, credentials_directory: Some(PathBuf::from("/run/credentials/a.service")) }
    }

    #[test]
    fn only_root_and_this_user_may_own_a_key() {
        let path = Path::new("/etc/key");
        assert_eq!(rules().check(path, 0, 0o100600), Ok(()));
        assert_eq!(rules().check(path, 1000, 0o100400), Ok(()));
        assert_eq!(rules().check(path, 1001, 0o100600), Err(Problem::ForeignOwner { owner: 1001 }));
    }

    #[test]
    fn each_bit_for_group_or_others_is_refused() {
        for bit in [0o040, 0o020, 0o010, 0o004, 0o002, 0o001] {
            let refused = Err(Problem::OpenToOthers { mode: 0o600 | bit });
            assert_eq!(rules().check(Path::new("/etc/key"), 1000, 0o100600 | bit), refused, "{bit:o}");
        }
    }

    #[test]
    fn a_credential_of_root_may_be_readable_by_its_group_and_nothing_more() {
        let path = Path::new("/run/credentials/a.service/runner-key");
        assert_eq!(rules().check(path, 0, 0o100440), Ok(()));
        assert!(rules().check(path, 1000, 0o100440).is_err(), "not root's");
        for mode in [0o100444, 0o100460, 0o100450] {
            assert!(rules().check(path, 0, mode).is_err(), "{mode:o}");
        }
        for elsewhere in ["/run/credentials/a.service/../b/key", "/run/credentials/a.service2/key", "run/credentials/a.service/key"] {
            assert!(rules().check(Path::new(elsewhere), 0, 0o100440).is_err(), "{elsewhere}");
        }
        let outside = Rules { euid: 1000, credentials_directory: None };
        assert!(outside.check(path, 0, 0o100440).is_err());
    }
}
