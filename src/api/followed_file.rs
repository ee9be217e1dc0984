//! A file that somebody may replace at any time: notices when it is another than it was when it was last read.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often the file is looked at while somebody waits for it to change.
const LOOK: Duration = Duration::from_secs(2);

/// Follows one path. Clones follow together.
#[derive(Debug, Clone)]
pub(super) struct FollowedFile {
    path: PathBuf,
    seen: Arc<Mutex<Option<Mark>>>,
}

/// What changes when a file is written or replaced; of the file that a link points to, since credentials are often links.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    length: u64,
    mode: u32,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FollowedFile {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), seen: Arc::default() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Notes how the file looks. To be called before it is read, so that no change in between is missed.
    pub(super) fn note(&self) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = mark(&self.path);
    }

    /// Waits until the file looks other than noted.
    pub(super) async fn changed(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let path = self.path.clone();
            // The file may be on a file system that hangs.
            let now = tokio::task::spawn_blocking(move || mark(&path)).await;
            if now.is_ok_and(|now| now != seen) {
                return;
            }
        }
    }
}

fn mark(path: &Path) -> Option<Mark> {
    let metadata = std::fs::metadata(path).ok()?;
    Some(Mark {
        device: metadata.dev(),
        inode: metadata.ino(),
        length: metadata.len(),
        mode: metadata.mode(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
    })
}
