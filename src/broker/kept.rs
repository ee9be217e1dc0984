//! The list and the pins on disk: joins the store that stage 2 asks for, the sealed file, and the keys of stage 3.

use std::sync::{Arc, Mutex, PoisonError};

use zeroize::Zeroizing;

use crate::integration::snapshot::{SnapshotStore, StoreError};
use crate::key::KeyRing;
use crate::state::{LoadError, SealedFile, StateDir, StateKeys};

/// The name of the file in the state directory.
const FILE: &str = "integrations";

/// Keeps the list in a file that is sealed with keys derived from the runner's.
pub struct KeptList {
    file: Result<SealedFile, String>,
    /// Keys that are in use by a save stay in use for it while others take their place.
    keys: Mutex<Arc<StateKeys>>,
}

impl KeptList {
    /// Keeps the list in a state directory.
    #[must_use]
    pub fn new(directory: &StateDir, ring: &KeyRing) -> Self {
        Self { file: Ok(directory.file(FILE)), keys: Mutex::new(Arc::new(StateKeys::new(ring.state_keys()))) }
    }

    /// Keeps nothing, because the state directory is not usable. Why, is said whenever something should be kept.
    #[must_use]
    pub fn unusable(problem: String) -> Self {
        Self { file: Err(problem), keys: Mutex::new(Arc::new(StateKeys::new(Vec::new()))) }
    }

    /// Seals with these keys from now on.
    pub(super) fn seal_with(&self, ring: &KeyRing) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(StateKeys::new(ring.state_keys()));
    }

    fn keys(&self) -> Arc<StateKeys> {
        Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn file(&self) -> Result<&SealedFile, StoreError> {
        self.file.as_ref().map_err(|problem| StoreError { damaged: false, message: problem.clone() })
    }
}

impl SnapshotStore for KeptList {
    fn load(&self) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
        // Saving says what is wrong with the directory.
        let Ok(file) = self.file() else { return Ok(None) };
        file.load(&self.keys()).map_err(|error| StoreError { damaged: !matches!(error, LoadError::Io { .. }), message: error.to_string() })
    }

    fn save(&self, snapshot: Vec<u8>) -> Result<(), StoreError> {
        self.file()?.save(&self.keys(), snapshot).map_err(|error| StoreError { damaged: false, message: error.to_string() })
    }

    fn set_aside(&self) -> Result<String, StoreError> {
        let place = self.file()?.set_aside().map_err(|error| StoreError { damaged: false, message: error.to_string() })?;
        Ok(place.display().to_string())
    }
}
