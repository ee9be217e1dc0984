//! Tests of `store`: what is saved is there again, and what is given back was saved.

mod contract;
mod crash;
mod damage;
mod file;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use scm_agent::secret::{AccessToken, RefreshToken};
use scm_agent::state::StateDir;
use scm_agent::store::{FileStore, GrantKey, GrantRecord, GrantState, GrantStore, Origin, StoreError};
use tempfile::TempDir;

use crate::state::keys;

/// A place for a state directory.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.state().join(name)
    }

    /// Opens the store with the key that tests use, which must find nothing wrong.
    fn open(&self) -> FileStore {
        let store = open(&self.state()).unwrap();
        assert_eq!(store.problems(), Vec::<String>::new());
        store
    }

    /// Opens the store, and what it says is wrong, without the directory's path.
    fn open_damaged(&self) -> (FileStore, Vec<String>) {
        let store = open(&self.state()).unwrap();
        let state = format!("{}/", self.state().display());
        let problems = store.problems().iter().map(|problem| problem.replace(&state, "")).collect();
        (store, problems)
    }

    /// The names in the state directory, in order.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(self.state()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Opens a directory's store with the key that tests use.
pub fn open(state: &Path) -> Result<FileStore, StoreError> {
    FileStore::open(&StateDir::open(state).unwrap(), keys(&[1]))
}

pub fn key(uid: u32) -> GrantKey {
    GrantKey { origin: Origin::SignIn, uid, integration_id: "8d1f9b1e".into(), account: "zoë@mail.example.org".into() }
}

/// A grant with these tokens.
pub fn record(uid: u32, token: &str) -> GrantRecord {
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789);
    GrantRecord {
        key: key(uid),
        host: "git.example.com".into(),
        binding: [9; 32],
        access_token: AccessToken::parse(format!("access-{token}").into_bytes().into()).unwrap(),
        refresh_token: Some(RefreshToken::parse(format!("refresh {token}").into_bytes().into()).unwrap()),
        expires_at: Some(at(1_800_000_000)),
        refresh_expires_at: None,
        obtained_at: at(1_799_990_000),
        scopes: vec!["api".into(), "read_repository".into()],
        state: GrantState::Active,
    }
}

/// Asserts that a record is this one, tokens and all.
#[track_caller]
fn assert_same(found: Option<&GrantRecord>, expected: &GrantRecord) {
    let found = found.expect("the grant is there");
    assert_eq!(found.summary(), expected.summary());
    assert_eq!(found.access_token.expose_secret(), expected.access_token.expose_secret());
    let refresh = |record: &GrantRecord| record.refresh_token.as_ref().map(|token| token.expose_secret().to_owned());
    assert_eq!(refresh(found), refresh(expected));
}

/// What a child process says of a result.
pub fn told(result: &Result<(), StoreError>) -> String {
    result.as_ref().map_or_else(|error| format!("{:?}", error.kind), |()| "Ok".to_owned())
}

/// Saves a grant that has its generation in both tokens, and a length of its own.
pub fn save_generation(store: &FileStore, generation: u64) {
    let padding = "p".repeat(usize::try_from(generation.wrapping_mul(7919) % 25_000).unwrap());
    store.save(&record(1, &format!("{generation}-{padding}"))).unwrap();
}

/// The generation that a store holds, the same in both tokens. 0 for none.
pub fn generation(store: &FileStore) -> u64 {
    let Some(found) = store.load(&key(1)).unwrap() else { return 0 };
    let number = |text: &str, prefix: &str| text.strip_prefix(prefix).unwrap().split('-').next().unwrap().parse::<u64>().unwrap();
    let access = number(found.access_token.expose_secret(), "access-");
    assert_eq!(number(found.refresh_token.unwrap().expose_secret(), "refresh "), access);
    access
}
