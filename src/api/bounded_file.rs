//! Reads a file that must be a regular one and not larger than it should be.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// Nothing in it, or only blanks.
    #[error("it is empty")]
    Empty,
    /// A character that no bearer token has.
    #[error("it contains a character that is not allowed in a token")]
    NotAToken,
    /// A directory, a FIFO, a device or a socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// Others on this machine could read or change a secret.
    #[error("its mode {mode:04o} lets others read or change it, run: chmod go-w,o-r")]
    Permissions {
        /// The permission bits.
        mode: u32,
    },
    /// Longer than it should be.
    #[error("it is longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The system did not let us.
    #[error("it cannot be read")]
    Unreadable(#[source] std::io::Error),
}

/// Who else may have access to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Anyone.
    Any,
    /// Its owner; its group may read, as systemd's credentials let it.
    Private,
}

/// Reads the whole file.
///
/// # Errors
/// [`FileError`], all but `Empty` and `NotAToken`, which the caller judges.
pub(super) fn read(path: &Path, limit: usize, access: Access) -> Result<Zeroizing<Vec<u8>>, FileError> {
    // Without O_NONBLOCK opening a FIFO waits for a writer, for ever.
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(FileError::Unreadable)?;
    let metadata = file.metadata().map_err(FileError::Unreadable)?;
    if !metadata.is_file() {
        return Err(FileError::NotRegular);
    }
    let mode = metadata.mode() & 0o7777;
    if access == Access::Private && mode & 0o026 != 0 {
        return Err(FileError::Permissions { mode });
    }
    let length = usize::try_from(metadata.len()).unwrap_or(usize::MAX);
    if length > limit {
        return Err(FileError::TooLarge { limit });
    }
    // One allocation that also fits the bytes a file gained since: growing would leave copies behind.
    let mut content = Zeroizing::new(Vec::with_capacity(limit.min(length.saturating_add(4096)) + 1));
    file.take(limit as u64 + 1).read_to_end(&mut content).map_err(FileError::Unreadable)?;
    if content.len() > limit {
        return Err(FileError::TooLarge { limit });
    }
    Ok(content)
}
