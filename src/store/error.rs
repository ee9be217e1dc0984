//! Why a store cannot do what it was asked to. Names files and hosts, never what a record holds.

use std::io;
use std::path::Path;

use rustix::io::Errno;

use crate::state::{self, FORMAT, Written};

/// What a caller has to tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoreErrorKind {
    /// What is there is not what was written.
    Damaged,
    /// There is no room: on the file system, or in the store.
    Full,
    /// Another version of scm-agent wrote it, in a format that this one does not know.
    Newer,
    /// Anything else, such as a record that is too large.
    Other,
    /// Writing is not allowed here.
    ReadOnly,
}

/// Why a store cannot do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    /// What a caller has to tell apart.
    pub kind: StoreErrorKind,
    /// What is wrong, for people: it names the file or the host.
    pub message: String,
}

impl StoreError {
    pub(super) fn damaged(path: &Path) -> Self {
        Self { kind: StoreErrorKind::Damaged, message: format!("{} is damaged: it is not what an agent wrote", path.display()) }
    }

    pub(super) fn full(message: String) -> Self {
        Self { kind: StoreErrorKind::Full, message }
    }

    pub(super) fn newer(path: &Path, written: &Written) -> Self {
        let message = format!(
            "{} is in {written}, and this scm-agent knows up to format {FORMAT}: install that version again, or move {} away, and all users sign in again",
            path.display(),
            path.with_file_name("grants*").display()
        );
        Self { kind: StoreErrorKind::Newer, message }
    }

    pub(super) fn other(message: String) -> Self {
        Self { kind: StoreErrorKind::Other, message }
    }

    /// An error of the system's, with what was tried on which path.
    pub(super) fn system(action: &str, path: &Path, error: &io::Error) -> Self {
        Self { kind: kind_of(error), message: format!("cannot {action} {}: {error}", path.display()) }
    }
}

impl From<state::Error> for StoreError {
    fn from(error: state::Error) -> Self {
        let kind = match &error {
            state::Error::System { reason, .. } => kind_of(reason),
            _ => StoreErrorKind::Other,
        };
        Self { kind, message: error.to_string() }
    }
}

fn kind_of(error: &io::Error) -> StoreErrorKind {
    match Errno::from_io_error(error) {
        // A limit on the size of files is the room that there is.
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => StoreErrorKind::Full,
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => StoreErrorKind::ReadOnly,
        _ => StoreErrorKind::Other,
    }
}
