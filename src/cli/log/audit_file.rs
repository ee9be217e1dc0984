//! The audit log's own file: JSON lines, appended. A disk that takes none stops nothing; it is said, and so is what the file lacks.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Who got what is nobody's business but the operator's, and git's users are in the daemon's own group.
const MODE: u32 = 0o600;

/// The file, and what is wrong with it.
#[derive(Debug)]
pub(super) struct AuditFile {
    path: PathBuf,
    file: Option<File>,
    problem: Option<String>,
    /// Lines that the file lacks.
    lost: u64,
    /// The last line stopped short of its end.
    is_cut: bool,
}

/// What changed with a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum News {
    /// The file takes lines again, and lacks so many.
    Back(u64),
    /// From now on it takes none, for this reason.
    Broken(String),
}

impl AuditFile {
    /// Opens the file, or makes it. A disk that is full or broken is found out about later.
    ///
    /// # Errors
    /// Why there can be no such file.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        let ((file, is_cut), problem) = match open(path) {
            Ok(opened) => (opened, None),
            Err(error) if is_the_disk_s(&error) => ((None, false), Some(error.to_string())),
            Err(error) => return Err(format!("log.audit_file: cannot open {}: {error}", path.display())),
        };
        Ok(Self { path: path.to_owned(), file, problem, lost: 0, is_cut })
    }

    /// Appends a line, which ends in a line feed.
    pub(super) fn write(&mut self, line: &str) -> Option<News> {
        match self.append(line) {
            Ok(()) => self.problem.take().map(|_| News::Back(std::mem::take(&mut self.lost))),
            Err(error) => {
                self.lost += 1;
                let error = error.to_string();
                let is_news = self.problem.replace(error.clone()).is_none();
                is_news.then_some(News::Broken(error))
            }
        }
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        // Who takes the file away means to have another.
        let is_gone = |file: &File| file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        if self.file.as_ref().is_none_or(is_gone) {
            (self.file, self.is_cut) = open(&self.path)?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut bytes = Vec::with_capacity(line.len() + 1);
        if self.is_cut {
            bytes.push(b'\n');
        }
        bytes.extend_from_slice(line.as_bytes());
        // In one piece, so that what another process appends comes before or after.
        let written = file.write(&bytes)?;
        if written > 0 {
            self.is_cut = written < bytes.len();
        }
        if self.is_cut { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
    }

    /// The same, in the file that has the name now, if that can be opened.
    pub(super) fn reopened(self) -> Self {
        match Self::open(&self.path) {
            Ok(new) => new.succeeding(self),
            Err(_) => self,
        }
    }

    /// Goes on for one that was open before: what that one lacks is still to be said.
    pub(super) fn succeeding(self, before: Self) -> Self {
        Self { problem: self.problem.or(before.problem), lost: before.lost, ..self }
    }

    /// What `degraded` says of it.
    pub(super) fn problem(&self) -> Option<String> {
        let problem = self.problem.as_ref()?;
        let lost = match self.lost {
            0 => String::new(),
            1 => "; it lacks 1 line, which is in the log".to_owned(),
            lost => format!("; it lacks {lost} lines, which are in the log"),
        };
        Some(format!("the audit log {} cannot be written: {problem}{lost}", self.path.display()))
    }
}

/// Opens the file, and says whether its last line was not written to the end. Neither a link nor a device will do: whoever can put one
/// there does not say where the daemon writes.
fn open(path: &Path) -> io::Result<(Option<File>, bool)> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(MODE).custom_flags(flags).open(path).map_err(|error| {
        if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) { io::Error::other("it is a link") } else { error }
    })?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut last = [b'\n'];
    if let Some(at) = metadata.len().checked_sub(1) {
        file.read_exact_at(&mut last, at)?;
    }
    Ok((Some(file), last != [b'\n']))
}

/// Whether an error is none of the configuration's.
fn is_the_disk_s(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
        || error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn lines_are_appended_to_a_file_of_the_daemon_s_alone_and_one_that_was_moved_away_is_kept_to() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
        let mut audit = AuditFile::open(&path).unwrap();
        assert_eq!((audit.write("{\"a\":1}\n"), mode(&path)), (None, 0o600));
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(audit.write("{\"a\":2}\n"), None);
        assert_eq!(std::fs::read_to_string(&moved).unwrap(), "{\"a\":1}\n{\"a\":2}\n");
        // A new start, as after a rotation, goes to the new one.
        let mut audit = AuditFile::open(&path).unwrap();
        audit.write("{\"a\":3}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":3}\n");
        // One that was removed is made again.
        std::fs::remove_file(&path).unwrap();
        audit.write("{\"a\":4}\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"a\":4}\n");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
        for (name, expected) in [
            ("link", "it is a link"),
            ("folder", "Is a directory (os error 21)"),
            ("pipe", "it is not a file"),
            ("none/file", "No such file or directory (os error 2)"),
        ] {
            let error = AuditFile::open(&path(name)).unwrap_err();
            assert_eq!(error, format!("log.audit_file: cannot open {}: {expected}", path(name).display()));
        }
        assert_eq!(AuditFile::open(Path::new("/dev/null")).unwrap_err(), "log.audit_file: cannot open /dev/null: it is not a file");
    }

    #[test]
    fn a_full_disk_is_told_once_and_the_lines_that_are_missing_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        let mut audit = AuditFile::open(&path).unwrap();
        // Every write to it fails as on a full disk.
        audit.file = Some(OpenOptions::new().write(true).open("/dev/full").unwrap());
        let full = "No space left on device (os error 28)";
        assert_eq!(audit.write("1\n"), Some(News::Broken(full.to_owned())));
        assert!(audit.problem().unwrap().ends_with("; it lacks 1 line, which is in the log"));
        assert_eq!((audit.write("2\n"), audit.lost), (None, 2));
        let said = format!("the audit log {} cannot be written: {full}; it lacks 2 lines, which are in the log", path.display());
        assert_eq!(audit.problem(), Some(said));
        // A line that stopped halfway does not swallow the next.
        std::fs::write(&path, "{\"a").unwrap();
        let mut audit = audit.reopened();
        assert_eq!(audit.write("3\n"), Some(News::Back(2)));
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), audit.problem()), ("{\"a\n3\n", None));
    }
}
