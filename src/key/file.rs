//! Opens a key or passphrase file once and looks at what was opened, not at what the path may name a moment later.
//!
//! `/dev/fd/N` and `/proc/self/fd/N` mean a descriptor that this process was started with: systemd's `OpenFile=`, a memory file, a
//! pipe from the shell's `<(...)`. It is used as it is and not opened again, so its file may be one that this user cannot open.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{OwnedFd, RawFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use zeroize::Zeroizing;

use super::Problem;

/// The largest key file that is read. An RSA key of 8192 bits takes a tenth of it.
pub(super) const MAX_BYTES: usize = 64 * 1024;

/// How long a pipe may take to deliver all of it.
const PIPE_DEADLINE: Duration = Duration::from_secs(10);

/// Whose files are trusted.
pub(super) struct Rules {
    /// The user that this process acts as; root's files are trusted too.
    euid: u32,
    /// One more user whose files are trusted.
    other: Option<u32>,
    /// systemd's directory of credentials for this service: it may show root's files there as readable by a group
    /// (the mask of the access list through which the service's user reads them).
    credentials_directory: Option<PathBuf>,
}

impl Rules {
    /// The rules for this process, and for one more user whose files are trusted.
    pub(super) fn of_process(other: Option<u32>) -> Self {
        Self {
            other,
            euid: rustix::process::geteuid().as_raw(),
            credentials_directory: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from),
        }
    }

    fn check(&self, path: &Path, owner: u32, mode: u32) -> Result<(), Problem> {
        if owner != 0 && owner != self.euid && Some(owner) != self.other {
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
        let inherited = inherited_descriptor(path);
        let descriptor = match inherited {
            Some(number) => duplicate(number).map_err(unopened)?,
            None => open(path).map_err(unopened)?,
        };
        let stat = rustix::fs::fstat(&descriptor).map_err(unreadable)?;
        let bytes = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => read_file(descriptor, &stat)?,
            FileType::Fifo if inherited.is_some() => read_pipe(descriptor)?,
            FileType::Fifo => return Err(Problem::Fifo),
            FileType::Directory => return Err(Problem::Directory),
            FileType::Socket => return Err(Problem::Socket),
            FileType::Symlink => return Err(Problem::Symlink),
            FileType::BlockDevice | FileType::CharacterDevice | FileType::Unknown => return Err(Problem::Device),
        };
        // A file without a name, above all one in memory, is out of others' reach whatever its permissions are.
        let mode = if inherited.is_some() && stat.st_nlink == 0 { 0o600 } else { stat.st_mode };
        Ok(Self { bytes, owner: stat.st_uid, mode })
    }

    /// Reads a file that only root, this user and the one more that is trusted can have written, and none but they can read.
    pub(super) fn read_private(path: &Path, other: Option<u32>) -> Result<Self, Problem> {
        let contents = Self::read(path)?;
        contents.check_private(path, other)?;
        Ok(contents)
    }

    /// Checks the owner and the permissions of the file that was read.
    pub(super) fn check_private(&self, path: &Path, other: Option<u32>) -> Result<(), Problem> {
        Rules::of_process(other).check(path, self.owner, self.mode)
    }
}

/// Reads a passphrase: one line, without its line end.
pub(super) fn read_passphrase(path: &Path, other: Option<u32>) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut bytes = Contents::read_private(path, other)?.bytes;
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

fn open(path: &Path) -> Result<OwnedFd, Errno> {
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    rustix::fs::open(path, flags, Mode::empty())
}

/// The number of a descriptor that this process was started with, if the path means one.
pub(super) fn inherited_descriptor(path: &Path) -> Option<RawFd> {
    let path = path.to_str()?;
    let number = path.strip_prefix("/dev/fd/").or_else(|| path.strip_prefix("/proc/self/fd/"))?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then(|| number.parse().ok())?
}

/// A second descriptor for the same open file, by number. The kernel looks the number up, so no unsafe claim to own it is needed.
fn duplicate(number: RawFd) -> Result<OwnedFd, Errno> {
    let this_process = pidfd_open(getpid(), PidfdFlags::empty())?;
    pidfd_getfd(this_process, number, PidfdGetfdFlags::empty())
}

fn read_file(descriptor: OwnedFd, stat: &Stat) -> Result<Zeroizing<Vec<u8>>, Problem> {
    match usize::try_from(stat.st_size) {
        Ok(0) => return Err(Problem::Empty),
        Ok(1..=MAX_BYTES) => {}
        _ => return Err(Problem::TooLarge { limit: MAX_BYTES }),
    }
    let file = File::from(descriptor);
    // From the start, wherever an inherited descriptor stands: it is read again when keys are loaded anew.
    read_bounded(|buffer, offset| file.read_at(buffer, offset as u64))
}

fn read_pipe(descriptor: OwnedFd) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let deadline = Instant::now() + PIPE_DEADLINE;
    let mut pipe = File::from(descriptor);
    read_bounded(|buffer, _| {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&left))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => pipe.read(buffer),
        }
    })
}

fn read_bounded(mut read: impl FnMut(&mut [u8], usize) -> io::Result<usize>) -> Result<Zeroizing<Vec<u8>>, Problem> {
    // Allocated once at full size, and one byte more than allowed: the file may have grown since its size was looked at.
    let mut bytes = Zeroizing::new(vec![0; MAX_BYTES + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match read(&mut bytes[length..], length) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
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
        // Bad descriptors are numbers under which nothing was inherited.
        Errno::NOENT | Errno::BADF => Problem::Missing,
        Errno::ACCESS | Errno::PERM => Problem::PermissionDenied,
        Errno::LOOP => Problem::Symlink,
        // What opening a socket, or a device without a driver, ends in.
        Errno::NXIO | Errno::NODEV => Problem::Socket,
        other => unreadable(other),
    }
}

fn unreadable(error: Errno) -> Problem {
    Problem::Unreadable(io::Error::from(error).kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules { euid: 1000, other: Some(1002), credentials_directory: Some(PathBuf::from("/run/credentials/a.service")) }
    }

    #[test]
    fn only_root_and_this_user_may_own_a_key() {
        let path = Path::new("/etc/key");
        assert_eq!(rules().check(path, 0, 0o100600), Ok(()));
        assert_eq!(rules().check(path, 1000, 0o100400), Ok(()));
        assert_eq!(rules().check(path, 1001, 0o100600), Err(Problem::ForeignOwner { owner: 1001 }));
        assert_eq!(rules().check(path, 1002, 0o100600), Ok(()));
        assert_eq!(rules().check(path, 1002, 0o100640), Err(Problem::OpenToOthers { mode: 0o640 }));
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
        let outside = Rules { euid: 1000, other: Some(1002), credentials_directory: None };
        assert!(outside.check(path, 0, 0o100440).is_err());
    }
}
