//! Why the state directory cannot be used, and why a file in it cannot be loaded. Each names the path, none a file's content.

use std::io;
use std::path::PathBuf;

use super::{FORMAT, Written};

/// Why the state directory cannot be used or written to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The directory belongs to a user who is neither root nor this one.
    #[error("state directory {path} belongs to the user with the number {owner}, neither to root nor to this user")]
    ForeignOwner {
        /// The directory.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Another daemon has the directory open.
    #[error("another scm-agent uses the state directory {path}")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A newer version of the agent wrote the file that is to be replaced or moved.
    #[error("{path} is in {written}, and this scm-agent knows up to format {FORMAT}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        written: Written,
    },
    /// There is no key to seal a file with.
    #[error("cannot seal {path} without a runner key")]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// The directory that the state directory should be made in is missing.
    #[error("state directory {path} cannot be made: the directory above it does not exist")]
    NoParent {
        /// The directory.
        path: PathBuf,
    },
    /// Something that is no directory has its name.
    #[error("state directory {path} is not a directory")]
    NotADirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The cryptographic library refused to seal.
    #[error("cannot seal {path}")]
    Seal {
        /// The file.
        path: PathBuf,
    },
    /// A symbolic link has its name.
    #[error("state directory {path} is a symbolic link, which is not followed")]
    Symlink {
        /// The link.
        path: PathBuf,
    },
    /// The system refused a step.
    #[error("cannot {action} {path}: {reason}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What it was tried on.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// More than a file may hold.
    #[error("cannot save {path}: its content is larger than {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes it may hold.
        limit: usize,
    },
    /// Somebody else can put files into the directory.
    #[error("state directory {path} can be written to by its group or by others (mode {mode:04o})")]
    WritableByOthers {
        /// The directory.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

/// Why a file cannot be loaded. It is still there; [`SealedFile::set_aside`](super::SealedFile::set_aside) makes room for a new one,
/// unless it is [`LoadError::Newer`].
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It is cut off or changed, was sealed as another file, or was never sealed by an agent.
    #[error("{path} is damaged: it is not what an agent sealed under this name")]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The system refused to read it.
    #[error("cannot read {path}: {reason}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: io::Error,
    },
    /// A newer version of the agent wrote it.
    #[error("{path} is in {written}, and this scm-agent knows up to format {FORMAT}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// What it says of itself.
        written: Written,
    },
    /// It is larger than any file that was ever sealed.
    #[error("{path} is larger than the {limit} bytes that such a file may have")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The most bytes it may have.
        limit: usize,
    },
    /// It was sealed with a key that is not loaded.
    #[error("{path} was sealed with a runner key that is not loaded")]
    UnknownKey {
        /// The file.
        path: PathBuf,
    },
}
