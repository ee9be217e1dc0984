//! What is done to a state directory of format 1 before anything in it is written.
//!
//! 1. Everything in it is copied to `before-format-2`, which is whole or not there: a state directory that the version of before takes in the
//!    place of this one. It is sealed as it was, and deleted after a week, or with the first key that is taken away.
//! 2. A link takes the place of `lock`. Daemons of format 1 open their lock without following links, so from then on they find a
//!    directory that cannot be written to: they say so, and leave alone what they would take for damaged.
//!
//! From here on each file is written anew by itself, whole or not at all. Each says its format, so any mixture can be read, and a crash at any
//! step leaves no more to be done than before it. Without room for the copy nothing is written: what is there serves on as it is.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, fchmod, fsync, mkdirat, openat, readlinkat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::directory::{LOCK, OLD_LOCK, partial, system};
use super::{Error, FORMAT, file};

/// Where the state rests as it was in format 1.
const COPY: &str = "before-format-2";
/// The one file of format 1 that says nothing of its format.
const DATABASE: &str = "grants.redb";
/// How long it is kept: who wants to go back knows by then.
const KEPT_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
/// The last format without a name for what wrote it.
const OLD_FORMAT: u8 = FORMAT - 1;
const _: () = assert!(OLD_FORMAT == 1, "a step of its own for each format");

/// Makes a directory this format's.
///
/// # Errors
/// [`Error::System`], and then nothing in it has changed that a daemon of before would see.
pub(super) fn upgrade(directory: &OwnedFd, path: &Path) -> Result<(), Error> {
    if readlinkat(directory, OLD_LOCK, Vec::new()).is_ok() {
        return Ok(());
    }
    let names = files(directory).map_err(system("list", path))?;
    if names.iter().any(|name| file::written(directory, name).is_some_and(|written| written.format == OLD_FORMAT)) {
        copy(directory, &names).map_err(system("copy, before it is changed to format 2, what is in", path))?;
        tracing::info!(path = %path.join(COPY).display(), "the state was of format 1; it is kept there for a week as it was");
    }
    bar_older(directory).map_err(system("replace", &path.join(OLD_LOCK)))
}

/// Deletes the copy when its time is over. A clock that goes wrong keeps it longer or not as long, and nothing else hangs on it.
pub(super) fn forget_in_time(directory: &OwnedFd) {
    let Ok(stat) = statat(directory, COPY, AtFlags::SYMLINK_NOFOLLOW) else { return };
    let made = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
    if SystemTime::now().duration_since(made).is_ok_and(|age| age > KEPT_FOR)
        && let Err(errno) = forget(directory)
    {
        tracing::warn!(error = %io::Error::from(errno), "the copy of the state of format 1 is not deleted");
    }
}

/// Deletes the copy, if there is one.
pub(super) fn forget(directory: &OwnedFd) -> Result<(), Errno> {
    remove(directory, COPY)?;
    fsync(directory)
}

/// The names of the files that are part of the state: sealed ones, and the database. What else is there is an operator's, who may not even let
/// it be read.
fn files(directory: &OwnedFd) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().to_str() else { continue };
        let is_left_out = name.starts_with('.') || name.contains(".damaged-");
        let is_file = || Ok(FileType::from_raw_mode(statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) == FileType::RegularFile);
        if !is_left_out && is_file()? && (name == DATABASE || file::written(directory, name).is_some()) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

fn copy(directory: &OwnedFd, names: &[String]) -> io::Result<()> {
    let partial = partial(COPY);
    remove(directory, &partial)?;
    let copied = || -> io::Result<()> {
        mkdirat(directory, &partial, Mode::RWXU)?;
        let to = open_folder(directory, &partial)?;
        fchmod(&to, Mode::RWXU)?;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        for name in names {
            let mut from = File::from(openat(directory, name, flags | OFlags::RDONLY, Mode::empty())?);
            let owner_only = Mode::RUSR | Mode::WUSR;
            let mut file = File::from(openat(&to, name, flags | OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY, owner_only)?);
            fchmod(&file, owner_only)?;
            io::copy(&mut from, &mut file)?;
            file.sync_all()?;
        }
        fsync(&to)?;
        // One of an earlier upgrade, which was taken back since.
        remove(directory, COPY)?;
        renameat(directory, &partial, directory, COPY)?;
        Ok(fsync(directory)?)
    };
    copied().inspect_err(|_| {
        // Its space may be what is missing.
        let _ = remove(directory, &partial);
    })
}

/// Puts a link in the place of the lock of older daemons. Where that cannot be, as on a file system without links, they are not barred.
fn bar_older(directory: &OwnedFd) -> Result<(), Errno> {
    let partial = partial(OLD_LOCK);
    match unlinkat(directory, &partial, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    match symlinkat(LOCK, directory, &partial).and_then(|()| renameat(directory, &partial, directory, OLD_LOCK)) {
        Ok(()) => fsync(directory),
        // An operator's directory in its place, or no links here.
        Err(Errno::ISDIR | Errno::NOTDIR | Errno::EXIST | Errno::NOTEMPTY | Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => {
            let _ = unlinkat(directory, &partial, AtFlags::empty());
            Ok(())
        }
        Err(errno) => Err(errno),
    }
}

/// Removes a folder with the files in it; it has no others in it.
fn remove(directory: &OwnedFd, name: &str) -> Result<(), Errno> {
    let folder = match open_folder(directory, name) {
        Ok(folder) => folder,
        Err(Errno::NOENT) => return Ok(()),
        // Not a folder of ours, and in its place.
        Err(Errno::NOTDIR | Errno::LOOP) => return unlinkat(directory, name, AtFlags::empty()),
        Err(errno) => return Err(errno),
    };
    for entry in Dir::read_from(&folder)? {
        let entry = entry?;
        if ![b".".as_slice(), b".."].contains(&entry.file_name().to_bytes()) {
            unlinkat(&folder, entry.file_name(), AtFlags::empty())?;
        }
    }
    unlinkat(directory, name, AtFlags::REMOVEDIR)
}

fn open_folder(directory: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}
