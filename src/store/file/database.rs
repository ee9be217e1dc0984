//! The database file: opened with every page checked, read whole, changed in transactions that are on disk when they end.
//!
//! redb answers damage with an error, or with a panic. Both end here, and the file is closed. A file whose pages are not what their
//! checksums say is not read at all.
#![allow(clippy::result_large_err, reason = "redb's error is 160 bytes, and ends in this file")]

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::InMemoryBackend;
use redb::{ReadableTable as _, StorageBackend, TableDefinition};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, fchmod, fstat, fsync, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::backend::{Backend, Control, MAX_FILE_BYTES};
use super::seal::{OVERHEAD_BYTES, RowId};
use crate::state::StateDir;
use crate::store::{MAX_GRANTS, MAX_RECORD_BYTES, StoreError};

/// The file's name in the state directory.
pub(super) const FILE: &str = "grants.redb";
/// Its name while it is made: the state directory removes what is left under such names.
const PARTIAL: &str = ".grants.redb.partial";
const GRANTS: TableDefinition<'_, RowId, &[u8]> = TableDefinition::new("grants");
const MANIFEST: TableDefinition<'_, (), &[u8]> = TableDefinition::new("manifest");
const ROOM: TableDefinition<'_, (), &[u8]> = TableDefinition::new("room");
/// What redb writes at the beginning of each of our files and never changes: its magic number, and from the 12th byte on the size of a
/// page, and how many pages a region has for itself and for data. It believes these numbers, and computes for minutes with wrong ones.
const MAGIC: &[u8] = b"redb\x1a\x0a\xa9\x0d\x0a";
const SIZES: [u32; 3] = [PAGE_BYTES, 130, 1 << 20];
const PAGE_BYTES: u32 = 4096;
/// Up to the numbers of full regions, which is none below 4 GiB, and of pages in the last one.
const HEADER_BYTES: usize = 32;
/// What redb may keep in memory of the file.
const CACHE_BYTES: usize = 1 << 20;
/// Whether there is room is tried with this much: a refresh notes that it begins and saves what it brings, and redb may put two of the
/// largest grants on one page, while the pages before are not free yet.
const TRIED_BYTES: usize = 6 * MAX_RECORD_BYTES;

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    /// Taken when it is closed.
    redb: Option<redb::Database>,
    control: Arc<Control>,
    path: PathBuf,
}

/// Everything that a database holds, as it is.
pub(super) struct Rows {
    pub(super) manifest: Vec<u8>,
    pub(super) grants: Vec<(RowId, Vec<u8>)>,
}

/// What a transaction changes.
pub(super) struct Change<'a> {
    pub(super) put: Option<(&'a RowId, &'a [u8])>,
    pub(super) remove: &'a [RowId],
    pub(super) manifest: &'a [u8],
}

impl Database {
    /// Opens the database of the directory. `None` if there is none.
    ///
    /// # Errors
    /// [`StoreError`], with [`Damaged`](crate::store::StoreErrorKind::Damaged) only for what the file itself is.
    pub(super) fn open(directory: &StateDir) -> Result<Option<Self>, StoreError> {
        directory.prepare_to_write()?;
        let Some((file, path)) = Self::file(directory, OFlags::RDWR)? else { return Ok(None) };
        let (backend, control) = Backend::new(file);
        Self::on(backend, control, path).map(Some)
    }

    /// Everything that the directory's database holds, where it may not be written to. redb mends what it opens, so it gets a copy in
    /// memory. `None` if there is no database.
    ///
    /// # Errors
    /// [`StoreError`], as for [`open`](Self::open).
    pub(super) fn peek(directory: &StateDir) -> Result<Option<Rows>, StoreError> {
        let Some((file, path)) = Self::file(directory, OFlags::RDONLY)? else { return Ok(None) };
        let copied = || {
            let mut bytes = Vec::new();
            file.take(MAX_FILE_BYTES).read_to_end(&mut bytes)?;
            let copy = InMemoryBackend::new();
            copy.set_len(bytes.len() as u64)?;
            StorageBackend::write(&copy, 0, &bytes)?;
            Ok(copy)
        };
        let copy = copied().map_err(|error: io::Error| StoreError::system("read", &path, &error))?;
        Self::on(copy, Arc::default(), path)?.read().map(Some)
    }

    /// The file, if there is one and it begins as ours do.
    fn file(directory: &StateDir, access: OFlags) -> Result<Option<(File, PathBuf)>, StoreError> {
        let path = directory.path().join(FILE);
        // Without O_NONBLOCK, opening a named pipe would wait for its writer.
        let flags = access | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        let file = match openat(&*directory.held(), FILE, flags, Mode::empty()) {
            Ok(descriptor) => File::from(descriptor),
            Err(Errno::NOENT) => return Ok(None),
            // A link, a directory, a socket, a device: not made by us.
            Err(Errno::LOOP | Errno::ISDIR | Errno::NXIO | Errno::NODEV) => return Err(StoreError::damaged(&path)),
            Err(errno) => return Err(StoreError::system("open", &path, &errno.into())),
        };
        let stat = fstat(&file).map_err(|errno| StoreError::system("inspect", &path, &errno.into()))?;
        let length = u64::try_from(stat.st_size).unwrap_or(u64::MAX);
        // In an empty file redb would make a new database, as if nothing had been there.
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || length == 0 || length > MAX_FILE_BYTES {
            return Err(StoreError::damaged(&path));
        }
        let mut header = [0; HEADER_BYTES];
        match file.read_exact_at(&mut header, 0) {
            Ok(()) if is_ours(&header) => Ok(Some((file, path))),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(StoreError::system("read", &path, &error)),
            _ => Err(StoreError::damaged(&path)),
        }
    }

    /// Makes the directory's database with this manifest and no grants. It is there, whole and on disk, or it is not.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(super) fn create(directory: &StateDir, manifest: &[u8]) -> Result<Self, StoreError> {
        directory.prepare_to_write()?;
        let path = directory.path().join(FILE);
        let directory = &*directory.held();
        let failed = |errno: Errno| StoreError::system("make", &path, &errno.into());
        let create = || {
            match unlinkat(directory, PARTIAL, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(failed(errno)),
            }
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let owner_only = Mode::RUSR | Mode::WUSR;
            let file = File::from(openat(directory, PARTIAL, flags, owner_only).map_err(failed)?);
            // The umask may have taken bits away that the owner needs.
            fchmod(&file, owner_only).map_err(failed)?;
            let (backend, control) = Backend::new(file);
            let database = Self::on(backend, control, path.clone())?;
            database.change(&Change { put: None, remove: &[], manifest })?;
            renameat(directory, PARTIAL, directory, FILE).map_err(failed)?;
            fsync(directory).map_err(failed)?;
            Ok(database)
        };
        create().inspect_err(|_| {
            // Its space may be what is missing.
            let _ = unlinkat(directory, PARTIAL, AtFlags::empty());
        })
    }

    /// Everything that it holds.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(super) fn read(&self) -> Result<Rows, StoreError> {
        self.guarded("read", |redb| {
            let transaction = redb.begin_read()?;
            let manifest = transaction.open_table(MANIFEST)?;
            let Some(manifest) = manifest.get(())?.map(|row| row.value().to_vec()) else { return Ok(None) };
            let table = match transaction.open_table(GRANTS) {
                Ok(table) => table,
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Some(Rows { manifest, grants: Vec::new() })),
                Err(error) => return Err(error.into()),
            };
            let mut grants = Vec::new();
            for row in table.iter()? {
                let (id, row) = row?;
                if grants.len() == MAX_GRANTS {
                    return Ok(None);
                }
                // One that is too large was not saved by us, and does not open without its content.
                let sealed = row.value();
                let sealed = if sealed.len() > MAX_RECORD_BYTES + OVERHEAD_BYTES { Vec::new() } else { sealed.to_vec() };
                grants.push((id.value(), sealed));
            }
            Ok(Some(Rows { manifest, grants }))
        })?
        .ok_or_else(|| StoreError::damaged(&self.path))
    }

    /// Makes a change, as a whole and on disk when this returns.
    ///
    /// # Errors
    /// [`StoreError`], and then it must be opened anew, when the change is there or is not.
    pub(super) fn change(&self, change: &Change<'_>) -> Result<(), StoreError> {
        self.guarded("write", |redb| {
            let transaction = redb.begin_write()?;
            {
                let mut grants = transaction.open_table(GRANTS)?;
                for id in change.remove {
                    grants.remove(id)?;
                }
                if let Some((id, sealed)) = change.put {
                    grants.insert(id, sealed)?;
                }
                transaction.open_table(MANIFEST)?.insert((), change.manifest)?;
            }
            Ok(transaction.commit()?)
        })
    }

    /// Writes as much as the next changes may need, and takes it away again.
    ///
    /// # Errors
    /// [`StoreError`], and then it must be opened anew.
    pub(super) fn try_room(&self, manifest_bytes: usize) -> Result<(), StoreError> {
        self.guarded("write", |redb| {
            let transaction = redb.begin_write()?;
            transaction.open_table(ROOM)?.insert((), vec![0; TRIED_BYTES + manifest_bytes].as_slice())?;
            transaction.commit()?;
            let transaction = redb.begin_write()?;
            transaction.open_table(ROOM)?.remove(())?;
            transaction.commit()?;
            // redb gives the pages of one transaction back at the end of the next. Only then are they there for a change.
            Ok(redb.begin_write()?.commit()?)
        })
    }

    fn on(backend: impl StorageBackend, control: Arc<Control>, path: PathBuf) -> Result<Self, StoreError> {
        let open = || {
            // The format that redb 3 and later read too.
            Ok(redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_file_format_v3(true).create_with_backend(backend)?)
        };
        let opened = guarded("open", &path, &control, open);
        Ok(Self { redb: Some(opened?), control, path })
    }

    fn guarded<T>(&self, action: &str, work: impl FnOnce(&redb::Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let redb = self.redb.as_ref().expect("only taken when this is dropped");
        guarded(action, &self.path, &self.control, || work(redb))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.control.close();
        let redb = self.redb.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(redb)));
    }
}

/// Whether a file begins as ours do.
fn is_ours(header: &[u8; HEADER_BYTES]) -> bool {
    let (numbers, _) = header[12..].as_chunks::<4>();
    let [page, region_header, region_data, full, last]: [u32; 5] = std::array::from_fn(|index| u32::from_le_bytes(numbers[index]));
    let last_fits = u64::from(last) <= MAX_FILE_BYTES / u64::from(PAGE_BYTES);
    header.starts_with(MAGIC) && [page, region_header, region_data] == SIZES && full == 0 && last_fits
}

/// Does something with redb, and says of whatever it fails with whether the system or the file is to blame.
fn guarded<T>(action: &str, path: &Path, control: &Control, work: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StoreError> {
    // Nothing that a panic may have left half-done is used again: the database is closed.
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) | Err(_) => Err(match control.refused() {
            Some(error) => StoreError::system(action, path, &error),
            None => StoreError::damaged(path),
        }),
    }
}
