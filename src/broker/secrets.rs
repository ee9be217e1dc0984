//! Which sealed secrets a runner key opens, remembered by the ciphertext's digest and never by content.
//!
//! A control plane that is not to be trusted could use the agent as an oracle by sending ciphertexts and watching what becomes
//! of them. So a ciphertext that did not open is not tried again, new ones are opened at a bounded rate, and every failure
//! looks alike.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use crate::integration::EncryptedClientSecret;
use crate::key::KeyRing;
use crate::secret::ClientSecret;
use crate::status;

/// How many ciphertexts never seen before may be opened at once: a full list's worth, 5,000 integrations.
const BURST: u32 = 5_000;

/// How long one further ciphertext takes to be allowed.
const REFILL: Duration = Duration::from_secs(1);

type CiphertextDigest = [u8; 32];

/// What is known of the sealed secrets.
pub(super) struct SecretLedger {
    keys: Arc<KeyRing>,
    opens: Mutex<HashMap<CiphertextDigest, bool>>,
    allowance: AsyncMutex<Allowance>,
}

impl SecretLedger {
    pub(super) fn new(keys: Arc<KeyRing>) -> Self {
        Self { keys, opens: Mutex::default(), allowance: AsyncMutex::new(Allowance::new()) }
    }

    /// Opens a secret for one use; `None` when no key opens it. A ciphertext known not to open is not tried.
    pub(super) async fn open(&self, ciphertext: &EncryptedClientSecret) -> Option<ClientSecret> {
        let digest = digest(ciphertext);
        match self.known(&digest) {
            Some(false) => return None,
            Some(true) => {}
            None => self.allowance.lock().await.take().await,
        }
        let opened = self.decrypt(ciphertext.clone()).await;
        self.remember(digest, opened.is_some());
        opened
    }

    /// Finds out for each of a list's ciphertexts whether it opens, and forgets those no longer in it.
    pub(super) async fn check_all(&self, ciphertexts: Vec<EncryptedClientSecret>) {
        let current: HashSet<CiphertextDigest> = ciphertexts.iter().map(digest).collect();
        self.lock().retain(|digest, _| current.contains(digest));
        for ciphertext in ciphertexts {
            if self.known(&digest(&ciphertext)).is_none() {
                // The opened secret is wiped at the end of this statement.
                drop(self.open(&ciphertext).await);
            }
        }
    }

    /// What `status` says of a secret. One not looked at yet counts as fine.
    pub(super) fn state(&self, ciphertext: &EncryptedClientSecret) -> status::Secret {
        if ciphertext.is_empty() {
            return status::Secret::Missing;
        }
        match self.known(&digest(ciphertext)) {
            Some(false) => status::Secret::Undecryptable,
            Some(true) | None => status::Secret::Ok,
        }
    }

    /// Opens away from the threads that serve git: a large RSA key takes milliseconds.
    async fn decrypt(&self, ciphertext: EncryptedClientSecret) -> Option<ClientSecret> {
        let keys = Arc::clone(&self.keys);
        tokio::task::spawn_blocking(move || keys.decrypt(ciphertext.as_bytes()).ok()).await.ok().flatten()
    }

    fn known(&self, digest: &CiphertextDigest) -> Option<bool> {
        self.lock().get(digest).copied()
    }

    fn remember(&self, digest: CiphertextDigest, opens: bool) {
        self.lock().insert(digest, opens);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<CiphertextDigest, bool>> {
        self.opens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn digest(ciphertext: &EncryptedClientSecret) -> CiphertextDigest {
    Sha256::digest(ciphertext.as_bytes()).into()
}

/// A token bucket: [`BURST`] at once, then one every [`REFILL`].
struct Allowance {
    left: u32,
    counted_at: Instant,
}

impl Allowance {
    fn new() -> Self {
        Self { left: BURST, counted_at: Instant::now() }
    }

    async fn take(&mut self) {
        let now = Instant::now();
        let earned = u32::try_from(now.duration_since(self.counted_at).as_secs()).unwrap_or(BURST);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.counted_at = now;
        }
        if self.left == 0 {
            tokio::time::sleep_until(self.counted_at + REFILL).await;
            self.counted_at = Instant::now();
            self.left = 1;
        }
        self.left -= 1;
    }
}
