//! The keys that the daemon holds: one, or several while one takes the other's place.

use super::{Algorithm, Config, DecryptError, Error, LoadOptions, Problem, RunnerPrivateKey};
use crate::secret::{ClientSecret, StateKey};

/// The runner's private keys. Shared between threads; a rotation loads a new ring and swaps it in.
#[derive(Debug)]
pub struct KeyRing {
    keys: Vec<RunnerPrivateKey>,
}

/// What `status` says about a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyDescription {
    /// `rsa-2048`, `x25519`.
    pub algorithm: String,
    /// `SHA256:` and base64.
    pub fingerprint: String,
}

impl KeyRing {
    /// Loads every key of a configuration. The same key in two files counts once.
    ///
    /// # Errors
    /// The first file's [`Error`]; nothing is loaded by halves. A development key is refused unless the configuration allows it.
    pub fn load(config: &Config) -> Result<Self, Error> {
        let options = LoadOptions { passphrase_file: config.passphrase_file.clone(), oaep_hash: config.oaep_hash, owner: config.owner };
        let mut keys: Vec<RunnerPrivateKey> = Vec::with_capacity(config.files.len());
        for path in &config.files {
            let key = RunnerPrivateKey::load(path, &options)?;
            if key.fingerprint().is_development() && !config.allow_development_key {
                return Err(Error::KeyFile { path: path.clone(), problem: Problem::DevelopmentKey });
            }
            if !keys.iter().any(|loaded| loaded.is_same_as(&key)) {
                keys.push(key);
            }
        }
        Ok(Self { keys })
    }

    /// Opens a sealed client secret with whichever key it was sealed for.
    ///
    /// Takes a millisecond (RSA-2048) to tens of them (RSA-8192) of processor time, so async code calls it on a blocking thread.
    ///
    /// # Errors
    /// [`DecryptError`], whatever went wrong and however many keys were tried.
    pub fn decrypt(&self, ciphertext: &[u8]) -> Result<ClientSecret, DecryptError> {
        self.open(ciphertext).map(|(secret, _)| secret)
    }

    /// The same, with what the key is that opened it.
    ///
    /// # Errors
    /// [`DecryptError`]
    pub fn open(&self, ciphertext: &[u8]) -> Result<(ClientSecret, Algorithm), DecryptError> {
        self.keys.iter().find_map(|key| Some((key.decrypt(ciphertext).ok()?, key.algorithm()))).ok_or(DecryptError)
    }

    /// The keys, in the order of their files.
    #[must_use]
    pub fn keys(&self) -> &[RunnerPrivateKey] {
        &self.keys
    }

    /// The keys for the daemon's state, one for each key, in their order.
    #[must_use]
    pub fn state_keys(&self) -> Vec<StateKey> {
        self.keys.iter().map(RunnerPrivateKey::state_key).collect()
    }

    /// What each key is.
    #[must_use]
    pub fn descriptions(&self) -> Vec<KeyDescription> {
        let describe =
            |key: &RunnerPrivateKey| KeyDescription { algorithm: key.algorithm().to_string(), fingerprint: key.fingerprint().to_string() };
        self.keys.iter().map(describe).collect()
    }

    /// Whether it holds no key, because none was configured.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_can_be_shared_between_threads() {
        fn shared<T: Send + Sync + 'static>() {}
        shared::<KeyRing>();
    }

    #[test]
    fn a_ring_without_keys_opens_nothing() {
        let ring = KeyRing::load(&Config::default()).unwrap();
        assert!(ring.is_empty());
        assert_eq!(ring.decrypt(&[0; 256]).unwrap_err(), DecryptError);
    }
}
