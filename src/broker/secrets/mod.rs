//! Which sealed secrets a runner key opens, remembered by the ciphertext's digest and never by content.
//!
//! A control plane that is not to be trusted could use the agent as an oracle by sending ciphertexts and watching what becomes
//! of them. So a ciphertext that did not open is not tried again, new ones are opened at a bounded rate, and every failure
//! looks alike.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;

use crate::integration::EncryptedClientSecret;
use crate::key::{self, KeyRing};
use crate::metrics::Metrics;
use crate::metrics::labels::Algorithm;
use crate::secret::ClientSecret;
use crate::status;

/// How many ciphertexts never seen before may be opened at once: a full list's worth, 5,000 integrations.
const BURST: u32 = 5_000;

/// How long one further ciphertext takes to be allowed.
const REFILL: Duration = Duration::from_secs(1);

type CiphertextDigest = [u8; 32];

/// The keys in use, and what is known of the sealed secrets.
pub(super) struct SecretLedger {
    state: Mutex<State>,
    allowance: AsyncMutex<Allowance>,
    metrics: Arc<Metrics>,
    rotations: watch::Sender<u64>,
}

struct State {
    ring: Arc<KeyRing>,
    /// How many rings came before this one.
    rotation: u64,
    opens: HashMap<CiphertextDigest, Known>,
}

/// What became of a ciphertext.
#[derive(Clone, Copy)]
struct Known {
    opens: bool,
    /// Under which ring. Another one has yet to try.
    rotation: u64,
}

impl SecretLedger {
    pub(super) fn new(ring: KeyRing) -> Self {
        let state = State { ring: Arc::new(ring), rotation: 0, opens: HashMap::new() };
        let allowance = AsyncMutex::new(Allowance::new());
        Self { state: Mutex::new(state), allowance, metrics: Arc::default(), rotations: watch::Sender::new(0) }
    }

    /// Has what is opened counted there.
    pub(super) fn counted_by(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// The keys in use.
    pub(super) fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.lock().ring)
    }

    /// Puts other keys in the place of those in use. What is being opened is opened with the keys that it began with.
    pub(super) fn replace(&self, ring: KeyRing) {
        let rotation = {
            let mut state = self.lock();
            state.ring = Arc::new(ring);
            state.rotation += 1;
            state.rotation
        };
        self.rotations.send_replace(rotation);
    }

    /// Follows the number of rings that came before the one in use.
    pub(super) fn rotations(&self) -> watch::Receiver<u64> {
        self.rotations.subscribe()
    }

    /// Opens a secret for one use; `None` when no key opens it. A ciphertext known not to open is not tried.
    pub(super) async fn open(&self, ciphertext: &EncryptedClientSecret) -> Option<ClientSecret> {
        let digest = digest(ciphertext);
        let mut turn = None;
        if !self.is_known(&digest) {
            // New ones take turns, each to its end, so that none is tried twice. One that was opened before does not wait for
            // them, whatever keys there were then.
            let mut allowance = self.allowance.lock().await;
            if !self.is_known(&digest) {
                allowance.take().await;
            }
            turn = Some(allowance);
        }
        let opened = loop {
            let (ring, rotation) = self.lock().keys_for(&digest)?;
            let opened = decrypt(ring, ciphertext.clone()).await;
            self.metrics.decrypted(match &opened {
                None => Algorithm::None,
                Some((_, key::Algorithm::Rsa { .. })) => Algorithm::Rsa,
                Some((_, key::Algorithm::X25519)) => Algorithm::X25519,
            });
            let opened = opened.map(|(secret, _)| secret);
            // What the keys of before did not open, those of now may.
            if self.lock().remember(digest, Known { opens: opened.is_some(), rotation }) || opened.is_some() {
                break opened;
            }
        };
        drop(turn);
        opened
    }

    /// Whether a secret opens; costs nothing where that is known.
    pub(super) async fn opens(&self, ciphertext: &EncryptedClientSecret) -> bool {
        let known = self.lock().known_now(&digest(ciphertext));
        match known {
            Some(opens) => opens,
            // The opened secret is wiped at the end of this statement.
            None => self.open(ciphertext).await.is_some(),
        }
    }

    /// Finds out for each of a list's ciphertexts whether it opens, and forgets those no longer in it.
    pub(super) async fn check_all(&self, mut ciphertexts: Vec<EncryptedClientSecret>) {
        let current: HashSet<CiphertextDigest> = ciphertexts.iter().map(digest).collect();
        {
            let mut state = self.lock();
            state.opens.retain(|digest, _| current.contains(digest));
            // Those first that no allowance can hold up.
            ciphertexts.sort_by_cached_key(|ciphertext| !state.opens.contains_key(&digest(ciphertext)));
        }
        for ciphertext in ciphertexts {
            self.opens(&ciphertext).await;
        }
    }

    /// What `status` says of a secret. One not looked at yet counts as fine.
    pub(super) fn state(&self, ciphertext: &EncryptedClientSecret) -> status::Secret {
        if ciphertext.is_empty() {
            return status::Secret::Missing;
        }
        match self.lock().opens.get(&digest(ciphertext)) {
            Some(Known { opens: false, .. }) => status::Secret::Undecryptable,
            Some(Known { opens: true, .. }) | None => status::Secret::Ok,
        }
    }

    fn is_known(&self, digest: &CiphertextDigest) -> bool {
        self.lock().opens.contains_key(digest)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The keys to try on a ciphertext; `None` when they were tried in vain.
    fn keys_for(&self, digest: &CiphertextDigest) -> Option<(Arc<KeyRing>, u64)> {
        let in_vain = self.opens.get(digest).is_some_and(|known| !known.opens && known.rotation == self.rotation);
        (!in_vain).then(|| (Arc::clone(&self.ring), self.rotation))
    }

    /// Whether a ciphertext opens with the keys in use; `None` while they have not tried.
    fn known_now(&self, digest: &CiphertextDigest) -> Option<bool> {
        self.opens.get(digest).filter(|known| known.rotation == self.rotation).map(|known| known.opens)
    }

    /// Notes what became of a ciphertext, unless later keys were tried on it; says whether it is about the keys in use.
    fn remember(&mut self, digest: CiphertextDigest, known: Known) -> bool {
        let kept = self.opens.entry(digest).or_insert(known);
        if kept.rotation <= known.rotation {
            *kept = known;
        }
        known.rotation == self.rotation
    }
}

/// Opens away from the threads that serve git: a large RSA key takes milliseconds.
async fn decrypt(ring: Arc<KeyRing>, ciphertext: EncryptedClientSecret) -> Option<(ClientSecret, key::Algorithm)> {
    #[cfg(test)]
    tests::count(&ciphertext);
    tokio::task::spawn_blocking(move || ring.open(ciphertext.as_bytes()).ok()).await.ok().flatten()
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

#[cfg(test)]
mod rotation_tests;
#[cfg(test)]
mod tests;
