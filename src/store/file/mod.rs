//! Grants in the state directory: sealed records in a database, beside the key that they are sealed with and a mark of how far it got.
//!
//! | file | holds | sealed for |
//! |---|---|---|
//! | `grants-key` | the data key: random, made once | the first of the runner's keys; sealed anew when they rotate |
//! | `grants-key-spare` | the same, during a rotation | the last of the runner's keys |
//! | `grants.redb` | a row for each grant, and a manifest of all rows | the data key |
//! | `grants-head` | the number of the last commit | the data key |
//!
//! Each commit of the database has a number, one higher than the one before. A save is a commit, on disk before the head is
//! written with its number, on disk before the save returns. So without anybody's interference the database has the head's
//! number or the next one, and at a start:
//!
//! - The database has a lower number: it was rolled back. It is set aside, and a new one begins with the head's next number.
//! - It has a number more than one higher, or there is no head: the head was rolled back or lost. The grants stay, which is reported.
//! - A row is not as the manifest names it: it was damaged, swapped, or put there from an older copy. That grant alone is dropped.
//! - The database is damaged, or gone while the head is there; or no key of the runner's opens the data key: what is there is set
//!   aside, and the store begins empty.
//!
//! A sealed file of a format that is not known keeps all of it from being opened: nothing is written, removed or set aside. A manifest
//! that alone is newer shows once the database is open: no row is written then. So a later format writes the sealed files first.
//!
//! What this cannot notice: database and head put back together to an earlier moment, with or without the key. Only something outside
//! the directory could tell.
//!
//! The sealed rows are kept in memory too, so that a disk in trouble takes no grant away from a daemon that runs.

mod backend;
mod contents;
mod database;
mod seal;
mod start;

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use self::contents::{Contents, Refusal, Row};
use self::database::{Change, Database, Rows};
use self::seal::{DataKey, Purpose, RowId};
use super::memory::check_limits;
use super::{GrantKey, GrantRecord, GrantState, GrantStore, GrantSummary, StoreError, record};
use crate::state::{FORMAT, LoadError, SealedFile, StateDir, StateKeys, Written};

/// Keeps grants in files of the state directory, whose lock makes it the only store there.
pub struct FileStore {
    inner: Mutex<Inner>,
    problems: Vec<String>,
}

/// The state directory and the sealed files in it.
struct Files {
    directory: StateDir,
    key: SealedFile,
    /// The same key, sealed with the last of several runner keys.
    spare_key: SealedFile,
    head: SealedFile,
    database: SealedFile,
}

struct Inner {
    files: Files,
    key: DataKey,
    /// What the database held when it was last read or written.
    contents: Contents,
    /// The number in the head file, if it is known to be there.
    head: Option<u64>,
    /// `None` after a failure: redb wants to be opened anew.
    database: Option<Database>,
    /// Why nothing could be written at the start, until something can.
    unwritable: Option<StoreError>,
}

impl FileStore {
    /// Opens the directory's store, or makes it. What is damaged or rolled back is set aside, which [`problems`](GrantStore::problems)
    /// tells of.
    ///
    /// # Errors
    /// [`StoreError`] when there is no key, or when the system refuses: nothing is set aside then. What can be read and not written to is
    /// opened all the same.
    pub fn open(directory: &StateDir, keys: StateKeys) -> Result<Self, StoreError> {
        let (inner, problems) = start::start(directory, &keys)?;
        Ok(Self { inner: Mutex::new(inner), problems })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // What is in memory changes after the disk, in steps that do not panic.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("directory", &self.inner().files.directory).finish()
    }
}

impl GrantStore for FileStore {
    fn kind(&self) -> &'static str {
        "file"
    }

    fn list(&self) -> Result<Vec<GrantSummary>, StoreError> {
        Ok(self.inner().contents.rows.values().map(|row| row.summary.clone()).collect())
    }

    fn load(&self, key: &GrantKey) -> Result<Option<GrantRecord>, StoreError> {
        self.inner().load(key)
    }

    fn save(&self, record: &GrantRecord) -> Result<(), StoreError> {
        self.inner().save(record)
    }

    fn mark(&self, key: &GrantKey, state: GrantState) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        let Some(record) = inner.load(key)? else { return Ok(false) };
        inner.save(&GrantRecord { state, ..record })?;
        Ok(true)
    }

    fn remove(&self, key: &GrantKey) -> Result<bool, StoreError> {
        let mut inner = self.inner();
        // Brought up to date first, as a save that seemed to fail may have been one.
        inner.ready()?;
        if !inner.contents.rows.contains_key(key) {
            return Ok(false);
        }
        inner.commit(None, Some(key))?;
        Ok(true)
    }

    fn check_room(&self) -> Result<(), StoreError> {
        let mut inner = self.inner();
        inner.ready()?;
        inner.save_head()?;
        let manifest_bytes = inner.contents.manifest_bytes();
        inner.with_database(|database| database.try_room(manifest_bytes))
    }

    fn reseal(&self, keys: StateKeys) -> Result<(), StoreError> {
        let inner = self.inner();
        inner.files.seal_key_anew(&keys, &inner.key)
    }

    fn problems(&self) -> Vec<String> {
        let unwritable = self.inner().unwritable.as_ref().map(|error| format!("sign-ins are read, and new ones are not kept: {error}"));
        self.problems.iter().cloned().chain(unwritable).collect()
    }
}

impl Files {
    /// Seals the data key for these runner keys. A copy of an older format goes with the first key that is taken away.
    fn seal_key_anew(&self, keys: &StateKeys, key: &DataKey) -> Result<(), StoreError> {
        let is_for_another = |file: &SealedFile| matches!(file.load(keys), Err(LoadError::UnknownKey { .. }));
        let has_lost_a_key = [&self.key, &self.spare_key].into_iter().any(is_for_another);
        self.save_key(keys, key)?;
        if has_lost_a_key {
            self.directory.forget_copy();
        }
        Ok(())
    }

    /// What was read from the database.
    fn contents(&self, key: &DataKey, rows: Rows) -> Result<Contents, StoreError> {
        Contents::read(key, rows).map_err(|refusal| match refusal {
            Refusal::Damaged => StoreError::damaged(&self.database.path()),
            Refusal::Newer(written) => StoreError::newer(&self.database.path(), &written),
        })
    }

    /// The sealed ones.
    fn sealed(&self) -> [&SealedFile; 3] {
        [&self.key, &self.spare_key, &self.head]
    }

    /// Seals the data key for the first and for the last of the runner's keys: in a rotation, nobody but the operator knows which of
    /// them will be alone at the next start. For no other one: a key that was taken away is to open nothing any more.
    fn save_key(&self, keys: &StateKeys, key: &DataKey) -> Result<(), StoreError> {
        self.key.save(keys, key.expose_secret())?;
        match keys.oldest_alone() {
            Some(oldest) => self.spare_key.save(&oldest, key.expose_secret())?,
            None => self.spare_key.remove()?,
        }
        Ok(())
    }
}

impl Inner {
    fn load(&self, key: &GrantKey) -> Result<Option<GrantRecord>, StoreError> {
        let Some(row) = self.contents.rows.get(key) else { return Ok(None) };
        let content = self.key.open(Purpose::Grant, &row.id, &row.sealed);
        let record = content.and_then(|(_, content)| record::decode(&content));
        record.map(Some).ok_or_else(|| StoreError::damaged(&self.files.database.path()))
    }

    fn save(&mut self, record: &GrantRecord) -> Result<(), StoreError> {
        let content = record::encode(record)?;
        self.ready()?;
        let others = self.contents.rows.values().filter(|row| row.summary.key != record.key);
        check_limits(others.clone().count(), others.map(|row| row.sealed.len()).sum(), content.len())?;
        let (id, generation) = (self.key.row_id(&record.key), self.next_generation());
        let sealed = self.key.seal(Purpose::Grant, &id, generation, &content).ok_or_else(|| self.cannot_seal())?;
        self.commit(Some(Row { id, generation, sealed, summary: record.summary() }), None)
    }

    /// Makes a change on disk, then here, then notes how far the database got.
    fn commit(&mut self, put: Option<Row>, remove: Option<&GrantKey>) -> Result<(), StoreError> {
        let generation = self.next_generation();
        let rows = &self.contents.rows;
        let removed: Vec<RowId> =
            self.contents.refused.iter().copied().chain(remove.and_then(|key| rows.get(key)).map(|row| row.id)).collect();
        let kept = rows.values().map(|row| (row.id, row.generation));
        let kept = kept.filter(|(id, _)| !removed.contains(id) && put.as_ref().is_none_or(|put| put.id != *id));
        let named = kept.chain(put.as_ref().map(|row| (row.id, row.generation)));
        let manifest = Contents::manifest(&self.key, generation, named).ok_or_else(|| self.cannot_seal())?;
        let change = Change { put: put.as_ref().map(|row| (&row.id, row.sealed.as_slice())), remove: &removed, manifest: &manifest };
        self.with_database(|database| database.change(&change))?;
        (self.contents.generation, self.contents.written, self.unwritable) = (generation, Written::now(), None);
        self.contents.refused.clear();
        self.contents.missing = 0;
        if let Some(key) = remove {
            self.contents.rows.remove(key);
        }
        if let Some(row) = put {
            self.contents.rows.insert(row.summary.key.clone(), row);
        }
        self.save_head()
    }

    /// Opens the database anew after a failure, and brings the head up to it: a commit may only be one ahead.
    fn ready(&mut self) -> Result<(), StoreError> {
        if self.database.is_none() {
            let damaged = || StoreError::damaged(&self.files.database.path());
            let database = Database::open(&self.files.directory)?.ok_or_else(damaged)?;
            let contents = self.files.contents(&self.key, database.read()?)?;
            // What failed may have been done nevertheless; nothing else happened since.
            let expected = contents.generation == self.contents.generation || contents.generation == self.next_generation();
            if !expected || !(contents.is_whole() || contents.generation == self.contents.generation) {
                return Err(damaged());
            }
            (self.contents, self.database, self.unwritable) = (contents, Some(database), None);
        } else if !start::is_there(&self.files, database::FILE)? {
            // What is open is no file that the next start would find.
            let path = self.files.database.path();
            return Err(StoreError::other(format!("{} was removed under the daemon, which has to be restarted", path.display())));
        }
        if self.head != Some(self.contents.generation) {
            self.save_head()?;
        }
        Ok(())
    }

    /// Writes anew what is in a format of before.
    fn modernise(&mut self, keys: &StateKeys) -> Result<(), StoreError> {
        let is_old = |written: &Written| written.format < FORMAT;
        if self.files.sealed().into_iter().filter_map(SealedFile::written).any(|written| is_old(&written)) {
            self.files.save_key(keys, &self.key)?;
            self.head = None;
        }
        self.ready()?;
        if is_old(&self.contents.written) { self.commit(None, None) } else { Ok(()) }
    }

    fn save_head(&mut self) -> Result<(), StoreError> {
        let generation = self.contents.generation;
        self.head = None;
        self.files.head.save(&self.key.for_file(), generation.to_le_bytes())?;
        self.head = Some(generation);
        Ok(())
    }

    fn with_database(&mut self, work: impl FnOnce(&Database) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let database = self.database.as_ref().ok_or_else(|| StoreError::damaged(&self.files.database.path()))?;
        work(database).inspect_err(|_| self.database = None)
    }

    fn next_generation(&self) -> u64 {
        self.contents.generation.saturating_add(1)
    }

    fn cannot_seal(&self) -> StoreError {
        StoreError::other(format!("cannot seal a grant for {}", self.files.database.path().display()))
    }
}
