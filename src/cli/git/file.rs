//! Changes a file of git's configuration as git itself does: under `FILE.lock`, whole or not at all.
//!
//! A link is followed to the file that it leads to, and stays. Mode and owner stay as they were. What another process wrote in between is
//! never overwritten: the lock keeps git out, and the file is read again under it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, OFlags};

use crate::error::{Error, Kind};
use crate::harden;

/// The largest file taken. git's own limit is higher, and no configuration that a person wrote comes near either.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How many links are followed, as git does.
const MAX_LINKS: usize = 5;

/// A file of git's configuration, and what was in it when it was read.
#[derive(Debug)]
pub(super) struct ConfigFile {
    /// As it was named.
    named: PathBuf,
    /// Behind all links.
    path: PathBuf,
    content: Option<Vec<u8>>,
}

impl ConfigFile {
    /// Reads the file, if there is one.
    ///
    /// # Errors
    /// When it cannot be read, or is no file.
    pub(super) fn read(named: &Path) -> Result<Self, Error> {
        let path = resolve(named)?;
        let content = read(&path)?;
        Ok(Self { named: named.to_owned(), path, content })
    }

    /// As it was named.
    pub(super) fn name(&self) -> &Path {
        &self.named
    }

    /// What is in it; nothing where there is no file.
    pub(super) fn content(&self) -> &[u8] {
        self.content.as_deref().unwrap_or_default()
    }

    /// Whether there is a file.
    pub(super) fn exists(&self) -> bool {
        self.content.is_some()
    }

    /// How many of the folders above it there are not.
    pub(super) fn missing_folders(&self) -> usize {
        self.path.ancestors().skip(1).take_while(|folder| fs::symlink_metadata(folder).is_err()).count()
    }

    /// Puts something else in, or fails and leaves it as it was.
    ///
    /// # Errors
    /// When it may not be written, is being changed by somebody else, or was changed since it was read.
    pub(super) fn replace(&self, new: &[u8]) -> Result<(), Error> {
        self.check_writable()?;
        let missing = self.missing_folders();
        self.make_folders()?;
        let lock = Lock::take(&self.path).inspect_err(|_| self.remove_folders(missing))?;
        let written = self.check_unchanged().and_then(|()| lock.commit(new, self.attributes()?.as_ref(), &self.path));
        if written.is_err() {
            self.remove_folders(missing);
        }
        written
    }

    /// Removes the file, and so many folders above it as are empty then.
    ///
    /// # Errors
    /// As [`ConfigFile::replace`].
    pub(super) fn remove(&self, folders: usize) -> Result<(), Error> {
        self.check_writable()?;
        let lock = Lock::take(&self.path)?;
        self.check_unchanged()?;
        fs::remove_file(&self.path).map_err(|error| system("remove", &self.path, error))?;
        drop(lock);
        self.remove_folders(folders);
        Ok(())
    }

    fn check_unchanged(&self) -> Result<(), Error> {
        if read(&self.path)? == self.content {
            return Ok(());
        }
        Err(Error::new(Kind::User, format!("{} was changed by somebody else just now", self.path.display())).hint("run the command again"))
    }

    /// A rename asks for leave to change the folder only. What was made read-only was made so on purpose.
    fn check_writable(&self) -> Result<(), Error> {
        let Some(attributes) = self.attributes()? else { return Ok(()) };
        let path = self.path.display();
        if attributes.mode() & 0o222 == 0 {
            let error = Error::new(Kind::User, format!("{path} is read-only (mode {:04o})", attributes.mode() & 0o7777));
            return Err(error.hint(format!("make it writable first: chmod u+w {path}; or use another file: --file FILE")));
        }
        rustix::fs::access(&self.path, Access::WRITE_OK).map_err(|errno| system("write", &self.path, errno.into()))
    }

    fn attributes(&self) -> Result<Option<fs::Metadata>, Error> {
        match fs::metadata(&self.path) {
            Ok(attributes) => Ok(Some(attributes)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(system("look at", &self.path, error)),
        }
    }

    fn make_folders(&self) -> Result<(), Error> {
        let missing: Vec<&Path> = self.path.ancestors().skip(1).take(self.missing_folders()).collect();
        for folder in missing.into_iter().rev() {
            let made = fs::create_dir(folder)
                .and_then(|()| fs::set_permissions(folder, PermissionsExt::from_mode(0o777 & !harden::inherited_umask())));
            match made {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(system("make the folder", folder, error)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Removes folders from the lowest on, up to the first one that has something in it.
    fn remove_folders(&self, count: usize) {
        let _ = self.path.ancestors().skip(1).take(count).try_for_each(fs::remove_dir);
    }
}

/// `FILE.lock`, which git takes before it changes FILE. Dropping it gives the file free.
struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    fn take(file: &Path) -> Result<Self, Error> {
        let mut path = OsString::from(file);
        path.push(".lock");
        let path = PathBuf::from(path);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        match opened {
            Ok(file) => Ok(Self { path, file }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let path = path.display();
                Err(Error::new(Kind::User, format!("{path} exists, so git or another program is changing the file now"))
                    .hint(format!("run the command again; if nothing is at work there, something ended early: rm {path}")))
            }
            Err(error) => Err(system("write", &path, error)),
        }
    }

    /// Writes the new content to the lock's file and puts it in the place of the old one.
    fn commit(mut self, content: &[u8], old: Option<&fs::Metadata>, target: &Path) -> Result<(), Error> {
        let failed = |error| system("write", target, error);
        self.file.write_all(content).map_err(failed)?;
        let mode = match old {
            Some(old) => {
                self.keep_owner(old, target)?;
                old.mode() & 0o7777
            }
            None => 0o666 & !harden::inherited_umask(),
        };
        // After the owner: a change of it takes bits away.
        self.file.set_permissions(fs::Permissions::from_mode(mode)).map_err(failed)?;
        self.file.sync_all().map_err(failed)?;
        fs::rename(&self.path, target).map_err(failed)?;
        // The lock's name is gone; what `drop` would remove under it could be another's.
        self.path.clear();
        let folder = target.parent().unwrap_or(Path::new("/"));
        // The file is in place; a folder that cannot be synced spoils only what a crash right now would show.
        let _ = File::open(folder).and_then(|folder| folder.sync_all());
        Ok(())
    }

    fn keep_owner(&self, old: &fs::Metadata, target: &Path) -> Result<(), Error> {
        let new = self.file.metadata().map_err(|error| system("look at", &self.path, error))?;
        if (new.uid(), new.gid()) == (old.uid(), old.gid()) {
            return Ok(());
        }
        std::os::unix::fs::fchown(&self.file, Some(old.uid()), Some(old.gid())).map_err(|error| {
            Error::new(Kind::User, format!("{} belongs to another user or group, and would no longer", target.display()))
                .because(error)
                .hint("run this as its owner, or as root")
        })
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Follows links by hand, since the last one may lead to a file that is yet to be made.
fn resolve(named: &Path) -> Result<PathBuf, Error> {
    let mut path = named.to_owned();
    for _ in 0..=MAX_LINKS {
        match fs::read_link(&path) {
            Ok(link) => path = path.parent().unwrap_or(Path::new("/")).join(link),
            // No link, or nothing at all.
            Err(error) if matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::NotFound) => return Ok(path),
            Err(error) => return Err(system("read", &path, error)),
        }
    }
    Err(Error::new(Kind::User, format!("{} is a link that leads to too many others", named.display()))
        .hint("name the file itself: --file FILE"))
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = match OpenOptions::new().read(true).custom_flags(nonblocking).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(system("read", path, error)),
    };
    let attributes = file.metadata().map_err(|error| system("read", path, error))?;
    if !attributes.is_file() {
        return Err(Error::new(Kind::User, format!("{} is no regular file", path.display())).hint("name another one: --file FILE"));
    }
    let mut content = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut content).map_err(|error| system("read", path, error))?;
    if content.len() as u64 > MAX_BYTES {
        return Err(
            Error::new(Kind::User, format!("{} has more than {MAX_BYTES} bytes", path.display())).hint("name another file: --file FILE")
        );
    }
    Ok(Some(content))
}

fn system(action: &str, path: &Path, error: io::Error) -> Error {
    let hint = match error.kind() {
        ErrorKind::PermissionDenied => "run this as root, or use another file: --global, or --file FILE",
        ErrorKind::ReadOnlyFilesystem => "the file system is read-only: use another file, with --global or --file FILE",
        ErrorKind::NotADirectory => "a part of the path is no folder: name another file with --file FILE",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room there, and run the command again",
        _ => "see whether the file system is mounted and healthy",
    };
    Error::new(Kind::User, format!("cannot {action} {}", path.display())).because(error).hint(hint)
}
