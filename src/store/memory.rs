//! Grants in memory: for a daemon without a state directory, and for tests. A restart asks every user to sign in again.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroizing;

use super::{GrantKey, GrantRecord, GrantState, GrantStore, GrantSummary, MAX_GRANTS, MAX_TOTAL_BYTES, StoreError, record};
use crate::state::StateKeys;

/// Keeps grants as long as it lives, as bytes that are wiped.
#[derive(Default)]
pub struct MemoryStore(Mutex<BTreeMap<GrantKey, Zeroizing<Vec<u8>>>>);

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn grants(&self) -> MutexGuard<'_, BTreeMap<GrantKey, Zeroizing<Vec<u8>>>> {
        // A record is put in or taken out in one step, so the map is whole whatever panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("grants", &self.grants().len()).finish()
    }
}

impl GrantStore for MemoryStore {
    fn kind(&self) -> &'static str {
        "memory"
    }

    fn list(&self) -> Result<Vec<GrantSummary>, StoreError> {
        self.grants().values().map(|bytes| read(bytes).map(|record| record.summary())).collect()
    }

    fn load(&self, key: &GrantKey) -> Result<Option<GrantRecord>, StoreError> {
        self.grants().get(key).map(|bytes| read(bytes)).transpose()
    }

    fn save(&self, record: &GrantRecord) -> Result<(), StoreError> {
        let bytes = record::encode(record)?;
        let mut grants = self.grants();
        let replaced = grants.get(&record.key);
        let others_bytes = grants.values().map(|bytes| bytes.len()).sum::<usize>() - replaced.map_or(0, |bytes| bytes.len());
        check_limits(grants.len() - usize::from(replaced.is_some()), others_bytes, bytes.len())?;
        grants.insert(record.key.clone(), bytes);
        Ok(())
    }

    fn mark(&self, key: &GrantKey, state: GrantState) -> Result<bool, StoreError> {
        let mut grants = self.grants();
        let Some(bytes) = grants.get_mut(key) else { return Ok(false) };
        let record = GrantRecord { state, ..read(bytes)? };
        *bytes = record::encode(&record)?;
        Ok(true)
    }

    fn remove(&self, key: &GrantKey) -> Result<bool, StoreError> {
        Ok(self.grants().remove(key).is_some())
    }

    fn check_room(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn reseal(&self, _keys: StateKeys) -> Result<(), StoreError> {
        Ok(())
    }

    fn problems(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Whether one grant of `bytes` has its place beside `others` that have `others_bytes`.
pub(super) fn check_limits(others: usize, others_bytes: usize, bytes: usize) -> Result<(), StoreError> {
    if others >= MAX_GRANTS {
        return Err(StoreError::full(format!("the store holds {others} grants, the most that it takes")));
    }
    if others_bytes + bytes > MAX_TOTAL_BYTES {
        return Err(StoreError::full(format!("the store's grants would be larger than {MAX_TOTAL_BYTES} bytes together")));
    }
    Ok(())
}

fn read(bytes: &[u8]) -> Result<GrantRecord, StoreError> {
    // Nobody else writes here, so this cannot happen short of a defect in memory.
    record::decode(bytes)
        .ok_or_else(|| StoreError { kind: super::StoreErrorKind::Damaged, message: "a grant in memory is damaged".to_owned() })
}
