//! One sealed file of the state directory: saved whole, loaded whole, or set aside.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, fstat, fsync, openat, renameat, statat, unlinkat};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::directory::{Held, StateDir, partial, system};
use super::seal::{self, MAX_OVERHEAD_BYTES, MAX_PREFIX_BYTES, Refusal};
use super::{Error, LoadError, StateKeys, Written};

/// The most bytes that a file may hold.
pub const MAX_PLAINTEXT_BYTES: usize = 64 * 1024 * 1024;
const MAX_FILE_BYTES: usize = MAX_PLAINTEXT_BYTES + MAX_OVERHEAD_BYTES;
/// How many files that were set aside are kept, for whoever wants to know what happened to them.
const KEPT_ASIDE: usize = 3;

/// A file of the state directory, sealed under its name.
#[derive(Debug, Clone)]
pub struct SealedFile {
    directory: StateDir,
    name: &'static str,
}

impl SealedFile {
    pub(super) fn new(directory: StateDir, name: &'static str) -> Self {
        Self { directory, name }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join(self.name)
    }

    /// Seals a content with the newest key and puts it in the place of the file's, on disk when this returns.
    ///
    /// # Errors
    /// [`Error`], and then the old content is still there. Only if the last step fails, which writes the directory to disk, is the
    /// new one there already, and a power failure may take it back.
    pub fn save(&self, keys: &StateKeys, plaintext: impl Into<Vec<u8>>) -> Result<(), Error> {
        let plaintext = Zeroizing::new(plaintext.into());
        if plaintext.len() > MAX_PLAINTEXT_BYTES {
            return Err(Error::TooLarge { path: self.path(), limit: MAX_PLAINTEXT_BYTES });
        }
        let key = keys.newest().ok_or_else(|| Error::NoKey { path: self.path() })?;
        let sealed = seal::seal(key, self.name, plaintext).ok_or_else(|| Error::Seal { path: self.path() })?;
        let partial = partial(self.name);
        self.directory.write(|held| {
            self.check_format(held)?;
            self.write(held, &partial, &sealed).and_then(|()| renameat(held, &partial, held, self.name).map_err(io::Error::from)).map_err(
                |error| {
                    // Its space may be what is missing.
                    let _ = unlinkat(held, &partial, AtFlags::empty());
                    system("save", &self.path())(error)
                },
            )?;
            self.sync(held)
        })
    }

    /// Opens the file's content with whichever key sealed it. `None` if there is no such file.
    ///
    /// # Errors
    /// [`LoadError`]; nothing of a file that is not whole is ever returned.
    pub fn load(&self, keys: &StateKeys) -> Result<Option<Zeroizing<Vec<u8>>>, LoadError> {
        let Some(file) = self.read()? else { return Ok(None) };
        seal::open(keys, self.name, file).map(Some).map_err(|refusal| match refusal {
            Refusal::Damaged => LoadError::Damaged { path: self.path() },
            Refusal::Newer(written) => LoadError::Newer { path: self.path(), written },
            Refusal::UnknownKey => LoadError::UnknownKey { path: self.path() },
        })
    }

    /// What the file says of itself, which only opening it proves. `None` if there is no such file, or no sealed one.
    #[must_use]
    pub fn written(&self) -> Option<Written> {
        self.written_in(&self.directory.held())
    }

    fn written_in(&self, held: &Held) -> Option<Written> {
        written(held, self.name)
    }

    /// Leaves a file alone that a newer version wrote.
    fn check_format(&self, held: &Held) -> Result<(), Error> {
        match self.written_in(held) {
            Some(written) if written.is_newer() => Err(Error::Newer { path: self.path(), written }),
            _ => Ok(()),
        }
    }

    /// Removes the file, if there is one; that is on disk when this returns.
    ///
    /// # Errors
    /// [`Error`]
    pub fn remove(&self) -> Result<(), Error> {
        self.directory.write(|held| {
            self.check_format(held)?;
            match unlinkat(held, self.name, AtFlags::empty()) {
                Ok(()) => self.sync(held),
                Err(Errno::NOENT) => Ok(()),
                Err(errno) => Err(system("remove", &self.path())(errno)),
            }
        })
    }

    /// Renames the file, whatever it is, to its name and `.damaged-1`, and those before it to higher numbers, of which the highest
    /// goes. Returns the new path.
    ///
    /// # Errors
    /// [`Error::System`], above all when there is no such file.
    pub fn set_aside(&self) -> Result<PathBuf, Error> {
        self.directory.write(|held| {
            self.check_format(held)?;
            let refused = |errno: Errno| system("set aside", &self.path())(errno);
            statat(held, self.name, AtFlags::SYMLINK_NOFOLLOW).map_err(refused)?;
            let numbered = |number: usize| format!("{}.damaged-{number}", self.name);
            let taken = |number: &usize| statat(held, numbered(*number), AtFlags::SYMLINK_NOFOLLOW).is_ok();
            // Up to the first gap only: what lies behind it need not move.
            let last = (1..KEPT_ASIDE).take_while(taken).count();
            for number in (1..=last).rev() {
                renameat(held, numbered(number), held, numbered(number + 1)).map_err(refused)?;
            }
            renameat(held, self.name, held, numbered(1)).map_err(refused)?;
            self.sync(held)?;
            Ok(self.directory.path().join(numbered(1)))
        })
    }

    fn write(&self, held: &Held, partial: &str, bytes: &[u8]) -> io::Result<()> {
        match unlinkat(held, partial, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR) => self.clear(held, partial)?,
            Err(other) => return Err(other.into()),
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let owner_only = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(openat(held, partial, flags, owner_only)?);
        // The umask may have taken bits away that the owner needs.
        fchmod(&file, owner_only)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    /// Takes a directory out of the way that somebody made where the file is to be written: deletes it if it is empty, else renames it
    /// to the first free number, as what is in it is not the daemon's to delete.
    fn clear(&self, held: &Held, partial: &str) -> io::Result<()> {
        match unlinkat(held, partial, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            other => return Ok(other?),
        }
        let numbered = |number: usize| format!("{}.partial-{number}", self.name);
        let is_free = |number: &usize| statat(held, numbered(*number), AtFlags::SYMLINK_NOFOLLOW).is_err();
        let number = (1..=KEPT_ASIDE).find(is_free).ok_or(Errno::NOTEMPTY)?;
        Ok(renameat(held, partial, held, numbered(number))?)
    }

    fn read(&self) -> Result<Option<Zeroizing<Vec<u8>>>, LoadError> {
        let damaged = || LoadError::Damaged { path: self.path() };
        let unreadable = |error: io::Error| LoadError::Io { path: self.path(), reason: error };
        // Without O_NONBLOCK, opening a named pipe would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let held = self.directory.held();
        let mut file = match openat(&*held, self.name, flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(Errno::NOENT) => return Ok(None),
            // A link, a socket, a device: not saved by us.
            Err(Errno::LOOP | Errno::NXIO | Errno::NODEV) => return Err(damaged()),
            Err(other) => return Err(unreadable(other.into())),
        };
        let stat = fstat(&file).map_err(|errno| unreadable(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(damaged());
        }
        let length = usize::try_from(stat.st_size).unwrap_or(usize::MAX);
        if length > MAX_FILE_BYTES {
            return Err(LoadError::TooLarge { path: self.path(), limit: MAX_FILE_BYTES });
        }
        // Allocated once at full size, as the content is opened in it.
        let mut bytes = Zeroizing::new(vec![0; length]);
        match file.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(damaged()),
            Err(error) => Err(unreadable(error)),
        }
    }

    /// Waits until the directory's entries are on disk.
    fn sync(&self, held: &Held) -> Result<(), Error> {
        fsync(held).map_err(system("write to disk", self.directory.path()))
    }
}

/// What the file of that name says of itself.
pub(super) fn written(directory: impl AsFd, name: &str) -> Option<Written> {
    // Without O_NONBLOCK, opening a named pipe would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let file = File::from(openat(directory, name, flags, Mode::empty()).ok()?);
    let mut start = Vec::with_capacity(MAX_PREFIX_BYTES);
    file.take(MAX_PREFIX_BYTES as u64).read_to_end(&mut start).ok()?;
    Some(seal::prefix(&start)?.0)
}
