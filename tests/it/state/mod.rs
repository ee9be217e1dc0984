//! Tests of `state`: what is kept is kept whole, by one daemon at a time, and read by nobody without the key.

mod crash;
mod directory;
mod file;
pub mod upgrade;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use scm_agent::secret::StateKey;
use scm_agent::state::{StateDir, StateKeys};
use tempfile::TempDir;

/// Keys of these bytes each, newest first.
pub fn keys(bytes: &[u8]) -> StateKeys {
    StateKeys::new(bytes.iter().map(|byte| StateKey::new(&[*byte; StateKey::BYTES])).collect())
}

/// A place for a state directory.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    /// Where the state directory is, or is to be.
    fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn open(&self) -> StateDir {
        StateDir::open(&self.state()).unwrap()
    }

    /// The names in the state directory, in order.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(self.state()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}
