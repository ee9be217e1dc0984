//! What must outlive the daemon: sealed files in a directory of its own.
//!
//! The daemon alone reads and writes them, one daemon at a time. Each file is replaced as a whole, so that a crash or a power
//! failure leaves the old content or the new one, never a mixture, and is sealed with a key derived from the runner's private
//! key, so that nobody without that key reads it, changes it unnoticed, or puts one file in another's place. An old content of
//! the same file, put back by somebody who may write here, cannot be told from the newest.
//!
//! A directory that is not to be written to, because it is read-only, full, a link, or somebody else's to write to, is still read:
//! what is in it is authenticated, and to take it for absent would forget what is trusted, which is more than whoever wrote to it
//! could do. Nothing is written until it is mended.
//!
//! Everything says its format ([`FORMAT`]) before it is believed. What is older is read, and a copy of the directory as it was is made before
//! the first thing in it is written anew (`upgrade`). What is newer is neither read nor written over nor moved: it may be all that another
//! version has.
//!
//! Everything here blocks: async code calls it on a blocking thread. Nothing here knows what the files hold.

mod directory;
mod error;
mod file;
mod seal;
mod upgrade;

use std::fmt;

use crate::secret::StateKey;

pub use directory::StateDir;
pub use error::{Error, LoadError};
pub use file::{MAX_PLAINTEXT_BYTES, SealedFile};

/// The format that everything in the state directory is written in: sealed files, and what is in them. Everything of the formats before is
/// read, and written anew in this one. A change of what any file holds, which a reader of this format would not understand, is a new format.
pub const FORMAT: u8 = 2;

/// What a file says of itself, also to who cannot open it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its format.
    pub format: u8,
    /// The version of scm-agent that wrote it; `None` in format 1, which does not say.
    pub by: Option<String>,
}

impl Written {
    /// What this program writes.
    #[must_use]
    pub fn now() -> Self {
        Self { format: FORMAT, by: Some(env!("CARGO_PKG_VERSION").to_owned()) }
    }

    /// Whether this program must leave it alone.
    #[must_use]
    pub fn is_newer(&self) -> bool {
        self.format > FORMAT
    }
}

/// `format 3, written by scm-agent 0.9.0`
impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "format {}", self.format)?;
        self.by.as_ref().map_or(Ok(()), |by| write!(f, ", written by scm-agent {by}"))
    }
}

/// The keys that files are sealed with, newest first: the first one seals, each of them opens.
#[derive(Debug)]
pub struct StateKeys(Vec<StateKey>);

impl StateKeys {
    /// Takes the keys over, newest first.
    #[must_use]
    pub fn new(keys: Vec<StateKey>) -> Self {
        Self(keys)
    }

    /// Whether there is none, so that nothing can be saved or loaded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The first one alone.
    #[must_use]
    pub fn newest_alone(&self) -> Self {
        Self::alone(self.0.first())
    }

    /// The last one alone; `None` where the first is the last.
    #[must_use]
    pub fn oldest_alone(&self) -> Option<Self> {
        (self.0.len() > 1).then(|| Self::alone(self.0.last()))
    }

    fn alone(key: Option<&StateKey>) -> Self {
        Self(key.map(|key| StateKey::new(key.expose_secret())).into_iter().collect())
    }

    fn newest(&self) -> Option<&StateKey> {
        self.0.first()
    }

    fn iter(&self) -> impl Iterator<Item = &StateKey> {
        self.0.iter()
    }
}
