//! The directory that the daemon keeps its files in: its own, and one daemon's at a time.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, flock, fstat, fsync, mkdir, open, openat, unlinkat};
use rustix::io::Errno;

use super::{Error, SealedFile, upgrade};

/// The file that a daemon holds a lock on.
pub(super) const LOCK: &str = "daemon.lock";
/// The one that a daemon of format 1 holds a lock on. A link in its place keeps such a daemon from writing (`upgrade`).
pub(super) const OLD_LOCK: &str = "lock";
/// What the name of a half-written file starts and ends with.
const PARTIAL: (&str, &str) = (".", ".partial");
/// What somebody else must not be allowed: to write, as group or as others.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// An open state directory. Clones are the same directory; the last one to be dropped, files included, lets the next daemon in.
#[derive(Clone)]
pub struct StateDir(Arc<Opened>);

struct Opened {
    path: PathBuf,
    held: Mutex<Held>,
}

/// A directory that is open. Everything is done relative to it: whoever swaps the path later changes nothing.
pub(crate) struct Held {
    directory: OwnedFd,
    is_link: bool,
    /// Needed to write. A directory that cannot be written to is read without it.
    lock: Option<Lock>,
    /// Whether no daemon of format 1 writes here any more.
    is_upgraded: bool,
}

/// The lock on the directory, as long as this lives, and the one that a daemon of format 1 would take.
struct Lock {
    new: OwnedFd,
    old: Option<OwnedFd>,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough while a process that was started at this moment holds a copy of the descriptor.
        for lock in self.old.iter().chain([&self.new]) {
            let _ = flock(lock, FlockOperation::Unlock);
        }
    }
}

impl StateDir {
    /// Opens the directory, or makes it with mode 0700 if only it is missing, takes its lock, and removes what a crashed daemon
    /// left half-written.
    ///
    /// To be written to, it must be a directory, not a link to one, belong to root or to this user, be closed to writers of its group
    /// and to others, and its lock must be free. Whether it is so is seen at each step that writes, so that what is mended later
    /// counts. It is read in any case: its files are sealed, and somebody else can at most hide them or put old ones back.
    ///
    /// # Errors
    /// [`Error`], when there is no directory to read; [`Error::InUse`] while another daemon has it open.
    pub fn open(path: &Path) -> Result<Self, Error> {
        // Without a slash or a dot at its end, with which a link would be followed after all.
        let path: PathBuf = path.components().collect();
        let mut held = match open_or_make(&path) {
            Ok(directory) => Held::new(directory, false),
            Err(error @ Error::Symlink { .. }) => Held::new(open_link(&path).map_err(|_| error)?, true),
            Err(error) => return Err(error),
        };
        if let Err(error @ Error::InUse { .. }) = held.prepare(&path) {
            return Err(error);
        }
        Ok(Self(Arc::new(Opened { path, held: Mutex::new(held) })))
    }

    /// A file of the directory, which need not exist. The name is one part of a path and begins with no dot.
    #[must_use]
    pub fn file(&self, name: &'static str) -> SealedFile {
        debug_assert!(
            !name.is_empty() && ![LOCK, OLD_LOCK].contains(&name) && !name.starts_with('.') && !name.contains('/'),
            "no name for a file: {name}"
        );
        SealedFile::new(self.clone(), name)
    }

    /// Whether it can be written to, as far as that shows without writing.
    ///
    /// # Errors
    /// [`Error`], as a save would give it.
    pub fn check(&self) -> Result<(), Error> {
        self.held().prepare(&self.0.path)
    }

    /// Makes it ready to be written to by other means than its files'.
    ///
    /// # Errors
    /// [`Error`], as a save would give it.
    pub(crate) fn prepare_to_write(&self) -> Result<(), Error> {
        self.write(|_| Ok(()))
    }

    /// Deletes the copy of format 1, where there is one: nobody is to open it any more.
    pub(crate) fn forget_copy(&self) {
        if let Err(error) = self.write(|held| upgrade::forget(&held.directory).map_err(system("delete the copy in", &self.0.path))) {
            tracing::warn!(error = %error, "the copy of the state from before the upgrade stays");
        }
    }

    /// Where it was when it was opened.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Waits until nobody else uses it: one file is read or written at a time.
    pub(crate) fn held(&self) -> MutexGuard<'_, Held> {
        // The files are whole whatever a writer did before it panicked.
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what writes. A directory that was deleted is opened or made again for it; one that was moved away is not.
    pub(super) fn write<T>(&self, work: impl Fn(&Held) -> Result<T, Error>) -> Result<T, Error> {
        let mut held = self.held();
        let first = held.prepare_to_write(&self.0.path).and_then(|()| work(&held));
        match first {
            Err(Error::System { reason, .. }) if is_gone(&reason) && held.is_deleted() => {}
            other => return other,
        }
        *held = Held::new(open_or_make(&self.0.path)?, false);
        held.prepare_to_write(&self.0.path)?;
        work(&held)
    }
}

impl Held {
    fn new(directory: OwnedFd, is_link: bool) -> Self {
        Self { directory, is_link, lock: None, is_upgraded: false }
    }

    /// Makes sure that it may be written to, and that everything of before is kept that a daemon of before could want back.
    fn prepare_to_write(&mut self, path: &Path) -> Result<(), Error> {
        self.prepare(path)?;
        if !self.is_upgraded {
            upgrade::upgrade(&self.directory, path)?;
            self.is_upgraded = true;
        }
        upgrade::forget_in_time(&self.directory);
        Ok(())
    }

    /// Makes sure that it may be written to.
    fn prepare(&mut self, path: &Path) -> Result<(), Error> {
        if self.is_link {
            // It may have become a directory since.
            *self = Self::new(open_or_make(path)?, false);
        }
        let stat = fstat(&self.directory).map_err(system("inspect", path))?;
        check(path, stat.st_uid, stat.st_mode, rustix::process::geteuid().as_raw())?;
        if self.lock.is_none() {
            self.lock = Some(take_lock(&self.directory, path)?);
            remove_partial(&self.directory);
        }
        Ok(())
    }

    fn is_deleted(&self) -> bool {
        // A remote file system no longer knows what was deleted.
        fstat(&self.directory).map_or(true, |stat| stat.st_nlink == 0)
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}

impl fmt::Debug for StateDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StateDir").field(&self.0.path).finish()
    }
}

/// The name that a file has while it is written.
pub(super) fn partial(name: &str) -> String {
    format!("{}{name}{}", PARTIAL.0, PARTIAL.1)
}

/// An error of the system's, with what was tried on which path.
pub(super) fn system<E: Into<io::Error>>(action: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    move |error| Error::System { action, path: path.to_owned(), reason: error.into() }
}

fn open_or_make(path: &Path) -> Result<OwnedFd, Error> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let refused = |errno| match errno {
        // The system says the one or the other of a link, depending on its version.
        Errno::LOOP | Errno::NOTDIR => match std::fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => Error::Symlink { path: path.to_owned() },
            _ => Error::NotADirectory { path: path.to_owned() },
        },
        other => system("open the state directory", path)(other),
    };
    match open(path, flags, Mode::empty()) {
        Err(Errno::NOENT) => {}
        opened => return opened.map_err(refused),
    }
    match mkdir(path, Mode::RWXU) {
        // Another daemon was faster. The lock decides between the two.
        Ok(()) | Err(Errno::EXIST) => {}
        Err(Errno::NOENT) => return Err(Error::NoParent { path: path.to_owned() }),
        Err(other) => return Err(system("make the state directory", path)(other)),
    }
    // Its own entry must survive a power failure too. A directory above that may not be read cannot be synchronised.
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if let Ok(parent) = open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        fsync(&parent).map_err(system("write to disk the directory above", path))?;
    }
    open(path, flags, Mode::empty()).map_err(refused)
}

fn check(path: &Path, owner: u32, mode: u32, euid: u32) -> Result<(), Error> {
    if owner != 0 && owner != euid {
        return Err(Error::ForeignOwner { path: path.to_owned(), owner });
    }
    if mode & WRITABLE_BY_OTHERS != 0 {
        return Err(Error::WritableByOthers { path: path.to_owned(), mode: mode & 0o7777 });
    }
    Ok(())
}

/// What the path leads to, link or not, for reading only.
fn open_link(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether the system says that a directory is no longer there.
fn is_gone(reason: &io::Error) -> bool {
    reason.kind() == io::ErrorKind::NotFound || reason.raw_os_error() == Some(Errno::STALE.raw_os_error())
}

/// On a file that only this user opens: a lock on the directory itself could be taken by everybody who may list it.
fn take_lock(directory: &OwnedFd, path: &Path) -> Result<Lock, Error> {
    let other = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let new = openat(directory, LOCK, OFlags::CREATE | OFlags::RDWR | other, Mode::RUSR | Mode::WUSR)
        // On a file system that is read-only, or where an operator made a directory of that name, it locks as well.
        .or_else(|errno| openat(directory, LOCK, OFlags::RDONLY | other, Mode::empty()).map_err(|_| errno))
        .map_err(system("open", &path.join(LOCK)))?;
    lock(&new, path, LOCK)?;
    // There is none where no daemon of format 1 was, and a link where none is to write any more.
    let old = openat(directory, OLD_LOCK, OFlags::RDONLY | other, Mode::empty()).ok();
    if let Some(old) = &old {
        lock(old, path, OLD_LOCK)?;
    }
    Ok(Lock { new, old })
}

fn lock(file: &OwnedFd, path: &Path, name: &str) -> Result<(), Error> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| match errno {
        Errno::WOULDBLOCK => Error::InUse { path: path.to_owned() },
        other => system("lock", &path.join(name))(other),
    })
}

/// Removes what a crashed daemon left. What stays is said by whoever needs the name.
fn remove_partial(directory: &OwnedFd) {
    for entry in Dir::read_from(directory).into_iter().flatten().map_while(Result::ok) {
        let name = entry.file_name().to_bytes();
        if name.starts_with(PARTIAL.0.as_bytes()) && name.ends_with(PARTIAL.1.as_bytes()) && entry.file_type() != FileType::Directory {
            let _ = unlinkat(directory, entry.file_name(), AtFlags::empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_this_user_may_own_it_and_nobody_else_may_write_to_it() {
        let path = Path::new("/state");
        for (owner, mode) in [(0, 0o40700), (1000, 0o40700), (1000, 0o40755), (0, 0o41755), (1000, 0o42750)] {
            assert!(check(path, owner, mode, 1000).is_ok(), "{owner} {mode:o}");
        }
        for mode in [0o40720, 0o40702, 0o40770, 0o41777] {
            let refused = check(path, 1000, mode, 1000);
            assert!(matches!(refused, Err(Error::WritableByOthers { mode: named, .. }) if named == mode & 0o7777), "{mode:o}");
        }
        assert!(matches!(check(path, 1001, 0o40700, 1000), Err(Error::ForeignOwner { owner: 1001, .. })));
        assert!(matches!(check(path, 1000, 0o40700, 0), Err(Error::ForeignOwner { owner: 1000, .. })));
    }
}
