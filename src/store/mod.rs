//! Where users' grants rest between two uses: refresh tokens, the access tokens that came with them, and personal access tokens.
//!
//! A [`GrantStore`] says what any of them does. [`MemoryStore`] forgets with the process. [`FileStore`] keeps sealed records in the
//! state directory; another kind only has to pass the same tests (`tests/it/store/contract.rs`). A store knows neither issuers nor
//! when a token is due: it keeps what it was given, whole or not at all, and gives nothing back that it was not given.
//!
//! All calls block: async code makes them on a blocking thread.

mod error;
mod file;
mod memory;
mod record;

use std::fmt::Debug;
use std::time::SystemTime;

use crate::secret::{AccessToken, RefreshToken};
use crate::state::StateKeys;

pub use error::{StoreError, StoreErrorKind};
pub use file::FileStore;
pub use memory::MemoryStore;

/// The most grants that a store holds.
pub const MAX_GRANTS: usize = 10_000;
/// The most bytes that one grant may have, with everything that belongs to it.
pub const MAX_RECORD_BYTES: usize = 64 * 1024;
/// The most bytes that all grants together may have.
pub const MAX_TOTAL_BYTES: usize = 64 * 1024 * 1024;

/// How a grant came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// Its user gave git a personal access token: the grant's access token, and all that there is of it.
    Pat,
    /// Its user signed in.
    SignIn,
}

/// Which grant: a user's, for an account at an integration's host.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantKey {
    /// How it came to be. An account may have one of each.
    pub origin: Origin,
    /// The user of this machine whose it is, and nobody else's.
    pub uid: u32,
    /// The integration that the grant came through.
    pub integration_id: String,
    /// The account at the host, as the user named it. Empty for the only one. Of a personal access token, the user name beside it.
    pub account: String,
}

/// A grant with its tokens. No `Clone`, so that no copy is made by the way; `Debug` shows no token.
#[derive(Debug)]
pub struct GrantRecord {
    /// Which one.
    pub key: GrantKey,
    /// The host that it is for, as messages name it.
    pub host: String,
    /// A digest of everything that the grant came through. A grant with another one is not used.
    pub binding: [u8; 32],
    /// The token that git is given.
    pub access_token: AccessToken,
    /// The token that the next pair is asked for with (RFC 6749 section 6).
    pub refresh_token: Option<RefreshToken>,
    /// When the access token expires, where the host said so.
    pub expires_at: Option<SystemTime>,
    /// When the refresh token expires, where the host said so.
    pub refresh_expires_at: Option<SystemTime>,
    /// When this pair arrived.
    pub obtained_at: SystemTime,
    /// What the host granted.
    pub scopes: Vec<String>,
    /// What is known of its life.
    pub state: GrantState,
}

/// What is known of a grant's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrantState {
    /// Usable until it expires.
    Active,
    /// Dead: its user has to sign in again.
    NeedsLogin {
        /// Since when that is known.
        since: SystemTime,
        /// Why, in words for the user.
        reason: String,
    },
    /// A refresh was begun, and its outcome is not known. After a crash the host may have taken the refresh token back.
    Refreshing {
        /// When it was begun.
        since: SystemTime,
    },
}

/// A grant without its tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantSummary {
    /// Which one.
    pub key: GrantKey,
    /// The host that it is for.
    pub host: String,
    /// A digest of everything that the grant came through.
    pub binding: [u8; 32],
    /// When the access token expires.
    pub expires_at: Option<SystemTime>,
    /// When the refresh token expires.
    pub refresh_expires_at: Option<SystemTime>,
    /// When this pair arrived.
    pub obtained_at: SystemTime,
    /// What the host granted.
    pub scopes: Vec<String>,
    /// What is known of its life.
    pub state: GrantState,
}

impl GrantRecord {
    /// What may be shown of it.
    #[must_use]
    pub fn summary(&self) -> GrantSummary {
        let Self { key, host, binding, access_token: _, refresh_token: _, expires_at, refresh_expires_at, obtained_at, scopes, state } =
            self;
        GrantSummary {
            key: key.clone(),
            host: host.clone(),
            binding: *binding,
            expires_at: *expires_at,
            refresh_expires_at: *refresh_expires_at,
            obtained_at: *obtained_at,
            scopes: scopes.clone(),
            state: state.clone(),
        }
    }
}

/// Where grants rest. Calls may come from several threads; each sees the ones that returned before it began.
pub trait GrantStore: Debug + Send + Sync + 'static {
    /// What kind of store this is: `memory` or `file`.
    fn kind(&self) -> &'static str;

    /// Every grant without its tokens, in the order of their keys.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read.
    fn list(&self) -> Result<Vec<GrantSummary>, StoreError>;

    /// The grant of this key, if there is one.
    ///
    /// # Errors
    /// [`StoreError`]; nothing of a record that is not whole is ever returned.
    fn load(&self, key: &GrantKey) -> Result<Option<GrantRecord>, StoreError>;

    /// Puts a grant in the place of the one with its key. It outlives a power failure once this returns, in a store that keeps
    /// anything.
    ///
    /// # Errors
    /// [`StoreError`], and then the old record or the new one is there, never a part of one. With
    /// [`StoreErrorKind::Full`] for a limit of the store's own, it is the old one.
    fn save(&self, record: &GrantRecord) -> Result<(), StoreError>;

    /// Changes a grant's state and nothing else, as durably as [`save`](Self::save). Whether there is such a grant.
    ///
    /// # Errors
    /// As for [`save`](Self::save).
    fn mark(&self, key: &GrantKey, state: GrantState) -> Result<bool, StoreError>;

    /// Forgets a grant, as durably as [`save`](Self::save). Whether there was one.
    ///
    /// # Errors
    /// As for [`save`](Self::save).
    fn remove(&self, key: &GrantKey) -> Result<bool, StoreError>;

    /// Whether a save would find room, found out by writing: to be asked before a refresh that takes the old pair's life.
    ///
    /// # Errors
    /// [`StoreError`] with what a save would fail with.
    fn check_room(&self) -> Result<(), StoreError>;

    /// Makes the store one that these keys open, and no others.
    ///
    /// # Errors
    /// [`StoreError`], and then the keys before open it.
    fn reseal(&self, keys: StateKeys) -> Result<(), StoreError>;

    /// What was found wrong and set aside or dropped, in sentences, until the next start.
    fn problems(&self) -> Vec<String>;
}
