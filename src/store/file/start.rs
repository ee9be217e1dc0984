//! What a start finds in the directory, and what becomes of it.

use rustix::fs::{AtFlags, statat};
use rustix::io::Errno;

use super::contents::Contents;
use super::database::{self, Database};
use super::seal::DataKey;
use super::{Files, Inner};
use crate::state::{LoadError, SealedFile, StateDir, StateKeys, Written};
use crate::store::{StoreError, StoreErrorKind};

const KEY: &str = "grants-key";
const SPARE_KEY: &str = "grants-key-spare";
const HEAD: &str = "grants-head";
const LOST: &str = "the users whose grants were in it have to sign in again";

/// The number of the last commit, as far as it was noted.
#[derive(Clone, Copy)]
enum Head {
    At(u64),
    Missing,
    /// There was a file, which is reported already.
    SetAside,
}

impl Head {
    fn number(self) -> Option<u64> {
        match self {
            Self::At(number) => Some(number),
            Self::Missing | Self::SetAside => None,
        }
    }
}

/// What a database holds, and the database, or why it is not to be written to.
type Existing = (Result<Database, StoreError>, Contents);

/// Opens what is there, sets aside what cannot be used, makes what is missing, and says what was wrong.
pub(super) fn start(directory: &StateDir, keys: &StateKeys) -> Result<(Inner, Vec<String>), StoreError> {
    directory.check()?;
    let files = Files {
        directory: directory.clone(),
        key: directory.file(KEY),
        spare_key: directory.file(SPARE_KEY),
        head: directory.file(HEAD),
        database: directory.file(database::FILE),
    };
    if keys.is_empty() {
        return Err(StoreError::other(format!("cannot open {} without a runner key", files.database.path().display())));
    }
    for file in files.sealed() {
        if let Some(written) = file.written().filter(Written::is_newer) {
            return Err(StoreError::newer(&file.path(), &written));
        }
    }
    let mut problems = Vec::new();
    let key = data_key(&files, keys, &mut problems)?;
    let head = head(&files, &key, &mut problems)?;
    let (database, contents) = match existing(&files, &key, head, &mut problems)? {
        Some(found) => found,
        None => {
            let (database, contents) = new(&files, &key, head.number())?;
            (Ok(database), contents)
        }
    };
    let (database, unwritable) = match database {
        Ok(database) => (Some(database), None),
        Err(error) => (None, Some(error)),
    };
    let mut inner = Inner { files, key, contents, head: head.number(), database, unwritable };
    if !inner.contents.is_whole() {
        let Contents { refused, missing, .. } = &inner.contents;
        problems.push(format!(
            "{} of the grants in {} were damaged, missing or put there from elsewhere, and are dropped: their users have to sign in again",
            refused.len().max(*missing),
            inner.files.database.path().display()
        ));
        // Tried again by the next save if it cannot be done now: what was dropped is not used either way.
        if let Err(error) = inner.ready().and_then(|()| inner.commit(None, None)) {
            tracing::warn!(error = %error, "damaged grants are not removed");
        }
    }
    if let Err(error) = inner.modernise(keys) {
        // Said of the store as a whole where it is to be written to and cannot be. All of it is read on as it is.
        inner.unwritable.get_or_insert(error);
    }
    // Without room for it the store can still be read. The next save writes it first.
    if inner.head != Some(inner.contents.generation)
        && let Err(error) = inner.save_head()
    {
        tracing::warn!(error = %error, "the number of the last commit is not written");
    }
    Ok((inner, problems))
}

/// The data key, or a new one where there is none that can be used. Then nothing else that is there can be used either.
fn data_key(files: &Files, keys: &StateKeys, problems: &mut Vec<String>) -> Result<DataKey, StoreError> {
    let why = match files.key.load(keys) {
        Ok(Some(bytes)) => match DataKey::parse(&bytes) {
            Some(key) => return Ok(sealed_for_all(files, keys, key, problems)),
            None => Some(LoadError::Damaged { path: files.key.path() }.to_string()),
        },
        Ok(None) => None,
        Err(error) => Some(unless_unreadable(error)?.to_string()),
    };
    if let Ok(Some(bytes)) = files.spare_key.load(keys)
        && let Some(key) = DataKey::parse(&bytes)
    {
        return Ok(sealed_for_all(files, keys, key, problems));
    }
    if let Some(why) = why {
        problems.push(aside(&files.key, &why)?);
    }
    let needed = format!("{} cannot be opened without the key that was in {}", files.database.path().display(), files.key.path().display());
    if is_there(files, database::FILE)? {
        problems.push(format!("{}: {LOST}", aside(&files.database, &needed)?));
    }
    if is_there(files, HEAD)? {
        let gone = aside(&files.head, &format!("{} was written and is gone", files.database.path().display()))?;
        if problems.is_empty() {
            problems.push(format!("{gone}: {LOST}"));
        }
    }
    let key = DataKey::generate().ok_or_else(|| StoreError::other(format!("cannot make a key for {}", files.key.path().display())))?;
    files.save_key(keys, &key)?;
    Ok(key)
}

/// Seals a data key anew unless both ends of the runner's keys open it, and no other key does: keys that are changed before a start
/// are rotated all the same. Where that cannot be done now, the key in use serves on.
fn sealed_for_all(files: &Files, keys: &StateKeys, key: DataKey, problems: &mut Vec<String>) -> DataKey {
    let opens = |file: &SealedFile, keys: &StateKeys| matches!(file.load(keys), Ok(Some(bytes)) if DataKey::parse(&bytes).is_some());
    let is_spared = match keys.oldest_alone() {
        Some(oldest) => opens(&files.spare_key, &oldest),
        None => matches!(is_there(files, SPARE_KEY), Ok(false)),
    };
    if !(is_spared && opens(&files.key, &keys.newest_alone()))
        && let Err(error) = files.seal_key_anew(keys, &key)
    {
        problems.push(format!("the grants are not sealed for each of the runner's keys, so keep those that there are: {error}"));
    }
    key
}

/// The number of the last commit that was noted.
fn head(files: &Files, key: &DataKey, problems: &mut Vec<String>) -> Result<Head, StoreError> {
    let why = match files.head.load(&key.for_file()) {
        Ok(Some(bytes)) => match bytes.as_slice().try_into() {
            Ok(bytes) => return Ok(Head::At(u64::from_le_bytes(bytes))),
            Err(_) => LoadError::Damaged { path: files.head.path() }.to_string(),
        },
        Ok(None) => return Ok(Head::Missing),
        Err(LoadError::UnknownKey { .. }) => format!("{} does not belong to these grants", files.head.path().display()),
        Err(error) => unless_unreadable(error)?.to_string(),
    };
    let path = files.database.path();
    problems.push(format!("{}: whether {} is the newest cannot be told", aside(&files.head, &why)?, path.display()));
    Ok(Head::SetAside)
}

/// The database that is there, if it is one and not older than the head says. Where it can be read and not written to, what it holds,
/// and why not: grants serve from a disk that takes nothing, and are kept again once it does.
fn existing(files: &Files, key: &DataKey, head: Head, problems: &mut Vec<String>) -> Result<Option<Existing>, StoreError> {
    let path = files.database.path();
    let opened = |rows| files.contents(key, rows);
    let found = Database::open(&files.directory).and_then(|database| {
        let Some(database) = database else { return Ok(None) };
        let contents = opened(database.read()?)?;
        Ok(Some((Ok(database), contents)))
    });
    let found = match found {
        Err(error) if matches!(error.kind, StoreErrorKind::Full | StoreErrorKind::ReadOnly) => {
            Database::peek(&files.directory).and_then(|rows| Ok(rows.map(opened).transpose()?.map(|contents| (Err(error), contents))))
        }
        found => found,
    };
    match found {
        Ok(Some((database, contents))) => {
            if matches!(head, Head::At(number) if contents.generation < number) {
                drop(database);
                let why = format!("{} is older than what was last saved to it", path.display());
                problems.push(format!("{}: {LOST}", aside(&files.database, &why)?));
                return Ok(None);
            }
            let lacking = match head {
                Head::At(number) if contents.generation > number.saturating_add(1) => Some("is older than the grants"),
                Head::Missing => Some("is missing"),
                Head::At(_) | Head::SetAside => None,
            };
            if let Some(lacking) = lacking {
                let head = files.head.path();
                problems.push(format!("{} {lacking}: whether {} is the newest cannot be told", head.display(), path.display()));
            }
            Ok(Some((database, contents)))
        }
        Ok(None) => {
            // At the first start the head is written with 0 before there is a database.
            if matches!(head, Head::At(1..)) {
                problems.push(format!("{} is gone: {LOST}", path.display()));
            }
            Ok(None)
        }
        Err(error) if error.kind == StoreErrorKind::Damaged => {
            problems.push(format!("{}: {LOST}", aside(&files.database, &error.message)?));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An empty database that is newer than any other that the head knows of.
fn new(files: &Files, key: &DataKey, head: Option<u64>) -> Result<(Database, Contents), StoreError> {
    let before = head.unwrap_or(0);
    if head.is_none() {
        files.head.save(&key.for_file(), before.to_le_bytes())?;
    }
    let generation = before.saturating_add(1);
    let manifest = Contents::manifest(key, generation, std::iter::empty())
        .ok_or_else(|| StoreError::other(format!("cannot seal {}", files.database.path().display())))?;
    Ok((Database::create(&files.directory, &manifest)?, Contents::empty(generation)))
}

/// What is wrong with a file, unless it could not be read at all: that may pass.
fn unless_unreadable(error: LoadError) -> Result<LoadError, StoreError> {
    match error {
        LoadError::Io { path, reason } => Err(StoreError::system("read", &path, &reason)),
        other => Ok(other),
    }
}

fn aside(file: &SealedFile, why: &str) -> Result<String, StoreError> {
    let place = file.set_aside()?;
    Ok(format!("{why}; it was set aside as {}", place.display()))
}

/// Whether anything has this name, and be it a link that leads nowhere.
pub(super) fn is_there(files: &Files, name: &'static str) -> Result<bool, StoreError> {
    match statat(&*files.directory.held(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(StoreError::system("inspect", &files.directory.path().join(name), &errno.into())),
    }
}
