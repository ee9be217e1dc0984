//! The records behind the grants: what the store takes, what it does not take and memory keeps, and what is known of both.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::{info, warn};

use super::{Grants, lock};
use crate::key::KeyRing;
use crate::secret::RefreshToken;
use crate::state::StateKeys;
use crate::store::{GrantKey, GrantRecord, GrantState, StoreError, StoreErrorKind};

/// What became of a renewed pair.
pub(super) enum Saved {
    /// It serves; `false` when the store did not take it and only memory has it.
    Kept(bool),
    /// The grant is another one by now, or gone.
    Gone(Box<GrantRecord>),
}

impl Grants {
    /// The record of a grant: the one that is in memory only, else the store's.
    pub(super) async fn load(&self, key: &GrantKey) -> Result<Option<GrantRecord>, StoreError> {
        if lock(&self.removed).contains(key) {
            return Ok(None);
        }
        if let Some(record) = lock(&self.unsaved).get(key) {
            return Ok(Some(copy(record)));
        }
        let (store, key) = (Arc::clone(&self.store), key.clone());
        blocking(move || store.load(&key)).await
    }

    /// Keeps what a sign-in brought; what was in its place. A record that the store does not take stays in memory, which the error says.
    pub(super) async fn save(&self, record: GrantRecord) -> (Option<GrantRecord>, Result<(), StoreError>) {
        let _turn = self.writing.lock().await;
        let before = self.load(&record.key).await.ok().flatten();
        (before, self.put(record).await)
    }

    /// Keeps a renewed pair in the place of the one that came at `before`, if that is still the one there.
    pub(super) async fn save_renewed(&self, record: GrantRecord, before: SystemTime) -> Saved {
        let _turn = self.writing.lock().await;
        match self.is_still(&record.key, before).await {
            true => Saved::Kept(self.put(record).await.is_ok()),
            false => Saved::Gone(Box::new(record)),
        }
    }

    /// Changes what is known of the life of the grant whose pair came at `before`. Whether that is still the one there.
    ///
    /// # Errors
    /// When the store does not take it. It counts all the same for as long as the daemon runs if it says that a grant is over.
    pub(super) async fn mark(&self, key: &GrantKey, before: SystemTime, state: GrantState) -> Result<bool, StoreError> {
        let _turn = self.writing.lock().await;
        if !self.is_still(key, before).await {
            return Ok(false);
        }
        let unsaved = lock(&self.unsaved).get(key).map(copy);
        if let Some(record) = unsaved {
            // Memory is ahead of the store, so the store gets the whole.
            return self.put(GrantRecord { state, ..record }).await.map(|()| true);
        }
        let (store, marked, new) = (Arc::clone(&self.store), key.clone(), state.clone());
        let marked = blocking(move || store.mark(&marked, new)).await;
        self.note(marked.as_ref().err());
        if marked.is_ok() || matches!(state, GrantState::NeedsLogin { .. }) {
            if let Some(summary) = lock(&self.index).get_mut(key) {
                summary.state = state.clone();
            }
            if marked.is_err()
                && let Ok(Some(record)) = self.load(key).await
            {
                lock(&self.unsaved).insert(key.clone(), GrantRecord { state, ..record });
            }
        }
        marked
    }

    /// Has the kept token taken for expired, if it is this one; whether it is.
    pub(super) async fn expire(&self, key: &GrantKey, token: &[u8]) -> bool {
        let _turn = self.writing.lock().await;
        let Ok(Some(record)) = self.load(key).await else { return false };
        let is_it = record.access_token.matches(token);
        let now = self.clock.now();
        // Many gits may say so of one token at once.
        if is_it && record.expires_at.is_none_or(|end| end > now) {
            let _ = self.put(GrantRecord { expires_at: Some(now), ..record }).await;
        }
        is_it
    }

    /// Forgets a grant; what it was. Where the store cannot, that is tried again later, and meanwhile the grant is gone all the same.
    pub(super) async fn remove(&self, key: &GrantKey) -> (Option<GrantRecord>, Result<(), StoreError>) {
        let _turn = self.writing.lock().await;
        self.remove_in_turn(key).await
    }

    /// As [`remove`](Self::remove), in the turn of whoever calls.
    pub(super) async fn remove_in_turn(&self, key: &GrantKey) -> (Option<GrantRecord>, Result<(), StoreError>) {
        let record = self.load(key).await.ok().flatten();
        self.cache.purge(|other| other == key);
        lock(&self.unsaved).remove(key);
        lock(&self.index).remove(key);
        lock(&self.removed).insert(key.clone());
        (record, self.forget(key).await)
    }

    /// Does what the store did not take before.
    pub(super) async fn catch_up(&self) {
        let removed: Vec<GrantKey> = lock(&self.removed).iter().cloned().collect();
        for key in removed {
            let _turn = self.writing.lock().await;
            // Somebody may have signed in anew meanwhile.
            let is_gone = lock(&self.removed).contains(&key);
            if is_gone && self.forget(&key).await.is_err() {
                return;
            }
        }
        let unsaved: Vec<GrantKey> = lock(&self.unsaved).keys().cloned().collect();
        let mut trouble = None;
        for key in unsaved {
            let _turn = self.writing.lock().await;
            let Some(record) = lock(&self.unsaved).get(&key).map(copy) else { continue };
            let Err(error) = self.put(record).await else { continue };
            // What is wrong with the disk is wrong for all of them; what is wrong with one is not.
            if matches!(error.kind, StoreErrorKind::Full | StoreErrorKind::ReadOnly) {
                return;
            }
            trouble = Some(error);
        }
        if trouble.is_some() {
            self.note(trouble.as_ref());
        }
        let keys = lock(&self.resealing).clone();
        if let Some(keys) = keys {
            self.reseal_for(keys).await;
        }
    }

    /// Whether a save would find room.
    pub(super) async fn check_room(&self) -> Result<(), StoreError> {
        let store = Arc::clone(&self.store);
        let room = blocking(move || store.check_room()).await;
        self.note(room.as_ref().err());
        room
    }

    /// Seals the store for other keys.
    pub(in crate::broker) async fn reseal(&self, ring: &Arc<KeyRing>) {
        *lock(&self.resealing) = Some(Arc::clone(ring));
        self.reseal_for(Arc::clone(ring)).await;
    }

    /// Seals the store, and tries again later where that fails: a start with the new keys alone would find nothing that they open.
    async fn reseal_for(&self, ring: Arc<KeyRing>) {
        let (store, keys) = (Arc::clone(&self.store), StateKeys::new(ring.state_keys()));
        match blocking(move || store.reseal(keys)).await {
            Err(error) => warn!(error = %error, "sign-ins are not sealed for the new keys yet"),
            Ok(()) => {
                let mut resealing = lock(&self.resealing);
                // Keys may have changed again meanwhile.
                if resealing.as_ref().is_some_and(|pending| Arc::ptr_eq(pending, &ring)) {
                    *resealing = None;
                }
            }
        }
    }

    /// Whether the grant is the one whose pair came at that time. In doubt it is: a pair that is thrown away is lost.
    pub(super) async fn is_still(&self, key: &GrantKey, obtained_at: SystemTime) -> bool {
        match self.load(key).await {
            Ok(record) => record.is_some_and(|record| record.obtained_at == obtained_at),
            Err(_) => true,
        }
    }

    /// Writes a record, in the turn of whoever calls.
    pub(super) async fn put(&self, record: GrantRecord) -> Result<(), StoreError> {
        let key = record.key.clone();
        lock(&self.removed).remove(&key);
        lock(&self.index).insert(key.clone(), record.summary());
        // In memory first, so that nothing is lost whatever becomes of the thread that writes.
        lock(&self.unsaved).insert(key.clone(), copy(&record));
        let store = Arc::clone(&self.store);
        let saved = blocking(move || store.save(&record)).await;
        if saved.is_ok() {
            lock(&self.unsaved).remove(&key);
        }
        self.note(saved.as_ref().err());
        saved
    }

    /// Has the store forget a grant, in the turn of whoever calls.
    async fn forget(&self, key: &GrantKey) -> Result<(), StoreError> {
        let (store, gone) = (Arc::clone(&self.store), key.clone());
        let forgotten = blocking(move || store.remove(&gone)).await.map(|_| ());
        if forgotten.is_ok() {
            lock(&self.removed).remove(key);
        }
        self.note(forgotten.as_ref().err());
        forgotten
    }

    /// Notes whether the store works, with a line when that changes.
    fn note(&self, error: Option<&StoreError>) {
        let new = error.map(ToString::to_string);
        let old = std::mem::replace(&mut *lock(&self.trouble), new.clone());
        match new {
            Some(reason) if old.as_ref() != Some(&reason) => warn!(reason, "sign-ins cannot be kept; those in memory serve on"),
            None if old.is_some() => info!("sign-ins can be kept again"),
            _ => {}
        }
    }
}

/// The same record once more, for the store and for memory. Written out, because every copy of tokens is to be seen.
fn copy(record: &GrantRecord) -> GrantRecord {
    let GrantRecord { key, host, binding, access_token, refresh_token, expires_at, refresh_expires_at, obtained_at, scopes, state } =
        record;
    GrantRecord {
        key: key.clone(),
        host: host.clone(),
        binding: *binding,
        access_token: access_token.duplicate(),
        refresh_token: refresh_token.as_ref().map(RefreshToken::duplicate),
        expires_at: *expires_at,
        refresh_expires_at: *refresh_expires_at,
        obtained_at: *obtained_at,
        scopes: scopes.clone(),
        state: state.clone(),
    }
}

/// Runs what blocks away from the threads that serve git.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(_) => {
            let message = "reading or writing the kept sign-ins failed for a defect of scm-agent".to_owned();
            Err(StoreError { kind: StoreErrorKind::Other, message })
        }
    }
}
