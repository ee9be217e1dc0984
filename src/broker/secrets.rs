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
use crate::key::KeyRing;
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
        Self { state: Mutex::new(state), allowance: AsyncMutex::new(Allowance::new()), rotations: watch::Sender::new(0) }
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
        // One that was opened before is not held up by new ones, whatever keys there were then.
        if !self.lock().opens.contains_key(&digest) {
            self.allowance.lock().await.take().await;
        }
        loop {
            let (ring, rotation) = self.lock().keys_for(&digest)?;
            let opened = decrypt(ring, ciphertext.clone()).await;
            // What the keys of before did not open, those of now may.
            if self.lock().remember(digest, Known { opens: opened.is_some(), rotation }) || opened.is_some() {
                return opened;
            }
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
            if !self.lock().is_current(&digest(&ciphertext)) {
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
        match self.lock().opens.get(&digest(ciphertext)) {
            Some(Known { opens: false, .. }) => status::Secret::Undecryptable,
            Some(Known { opens: true, .. }) | None => status::Secret::Ok,
        }
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

    fn is_current(&self, digest: &CiphertextDigest) -> bool {
        self.opens.get(digest).is_some_and(|known| known.rotation == self.rotation)
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
async fn decrypt(ring: Arc<KeyRing>, ciphertext: EncryptedClientSecret) -> Option<ClientSecret> {
    tokio::task::spawn_blocking(move || ring.decrypt(ciphertext.as_bytes()).ok()).await.ok().flatten()
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
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::key::Config;

    /// A ring of X25519 keys made from these seeds, and what each seals.
    fn ring(seeds: &[u8]) -> KeyRing {
        let folder = tempfile::tempdir().unwrap();
        KeyRing::load(&Config { files: seeds.iter().map(|seed| file(folder.path(), *seed)).collect(), ..Config::default() }).unwrap()
    }

    fn sealed(seed: u8) -> EncryptedClientSecret {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), seed);
        let ring = KeyRing::load(&Config { files: vec![path], ..Config::default() }).unwrap();
        EncryptedClientSecret::new(ring.keys()[0].public_key().seal(b"the secret").unwrap())
    }

    fn file(folder: &std::path::Path, seed: u8) -> std::path::PathBuf {
        let path = folder.join(seed.to_string());
        let bytes: Vec<u8> = (0..32).map(|index| seed.wrapping_mul(41).wrapping_add(index * 3) | 0x80).collect();
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    #[tokio::test]
    async fn other_keys_try_again_what_did_not_open_and_look_again_at_what_did() {
        let ledger = SecretLedger::new(ring(&[1]));
        let (first, second) = (sealed(1), sealed(2));
        ledger.check_all(vec![first.clone(), second.clone()]).await;
        assert_eq!((ledger.state(&first), ledger.state(&second)), (status::Secret::Ok, status::Secret::Undecryptable));
        assert!(ledger.open(&second).await.is_none());
        ledger.replace(ring(&[2]));
        // Until it was looked at anew, what was known counts for the status, but not for who needs the secret.
        assert_eq!((ledger.state(&first), ledger.state(&second)), (status::Secret::Ok, status::Secret::Undecryptable));
        assert!(ledger.open(&second).await.is_some());
        ledger.check_all(vec![first.clone(), second.clone()]).await;
        assert_eq!((ledger.state(&first), ledger.state(&second)), (status::Secret::Undecryptable, status::Secret::Ok));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_looked_at_before_needs_no_allowance_after_a_rotation() {
        let ledger = SecretLedger::new(ring(&[1]));
        let (first, second) = (sealed(1), sealed(2));
        ledger.check_all(vec![first.clone(), second.clone()]).await;
        ledger.allowance.lock().await.left = 0;
        ledger.replace(ring(&[1, 2]));
        let before = Instant::now();
        ledger.check_all(vec![first, second.clone()]).await;
        assert_eq!((before.elapsed(), ledger.state(&second)), (Duration::ZERO, status::Secret::Ok));
        // A new one does.
        assert!(ledger.open(&sealed(2)).await.is_some());
        assert!(before.elapsed() > Duration::ZERO);
    }

    #[test]
    fn what_older_keys_did_is_not_taken_for_what_those_in_use_do() {
        let mut state = State { ring: Arc::new(ring(&[])), rotation: 1, opens: HashMap::new() };
        let digest = [7; 32];
        assert!(!state.remember(digest, Known { opens: false, rotation: 0 }));
        assert!(!state.is_current(&digest) && state.keys_for(&digest).is_some());
        assert!(state.remember(digest, Known { opens: false, rotation: 1 }));
        assert!(state.keys_for(&digest).is_none());
        assert!(state.remember(digest, Known { opens: true, rotation: 1 }));
        assert!(!state.remember(digest, Known { opens: false, rotation: 0 }));
        assert!(state.opens[&digest].opens && state.keys_for(&digest).is_some());
    }
}
