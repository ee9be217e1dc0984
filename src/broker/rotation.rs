//! Keys that change while the daemon serves: new files take the old ones' place, and the control plane is asked which it knows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{Broker, Error};
use crate::integration::source::{RegisteredKeySource, SourceError, SourceErrorKind};
use crate::integration::sync::{Allowance, Published};
use crate::key::{self, KeyDescription, KeyFiles, KeyRing, OaepHash, RunnerPublicKey};

/// When the registered key is asked for again, while it is one of those loaded or is not to be had.
const SETTLED_PAUSE: Duration = Duration::from_secs(10 * 60);

/// The same while somebody may be putting it right, or the control plane is in trouble.
const UNSETTLED_PAUSE: Duration = Duration::from_secs(60);

/// The least time between two questions, however often somebody wants to know.
const MIN_PAUSE: Duration = Duration::from_secs(1);

/// Keys that were loaded and are not in use yet. Nobody else reads the files while they are held.
pub struct LoadedKeys {
    files: OwnedMutexGuard<KeyFiles>,
    /// `None` where the keys in use stay.
    fresh: Option<(KeyFiles, KeyRing)>,
}

/// Where keys come from, and what is known about them beside the ring in use.
pub(super) struct Rotation {
    files: Arc<AsyncMutex<KeyFiles>>,
    source: Option<Arc<dyn RegisteredKeySource>>,
    /// Wakes who asks for the registered key.
    ask: Notify,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Why the files cannot be loaded.
    failure: Option<String>,
    registered: Registered,
    /// The problem with the registered key that was logged last.
    logged: Option<String>,
}

/// What the control plane has registered.
#[derive(Debug, Default)]
enum Registered {
    /// It was not asked, or does not say.
    #[default]
    Unknown,
    /// No key.
    Nothing,
    /// This one.
    Key(RunnerPublicKey),
    /// Something that is no key, in a sentence.
    Unusable(String),
}

impl Rotation {
    pub(super) fn new(files: KeyFiles, source: Option<Arc<dyn RegisteredKeySource>>) -> Self {
        Self { files: Arc::new(AsyncMutex::new(files)), source, ask: Notify::new(), known: Mutex::default() }
    }

    /// Has the registered key asked for soon.
    pub(super) fn ask_soon(&self) {
        self.ask.notify_one();
    }

    /// What is wrong, for `degraded`.
    pub(super) fn problems(&self, ring: &KeyRing) -> Vec<String> {
        let known = self.lock();
        let failure = known
            .failure
            .as_ref()
            .map(|failure| format!("the key files changed but could not be loaded: {failure}; the keys loaded before stay in use"));
        failure.into_iter().chain(known.registered.problem(&ring.descriptions())).collect()
    }

    /// Whether a key is the registered one; `None` when that is not known.
    pub(super) fn is_registered(&self, key: &KeyDescription) -> Option<bool> {
        self.lock().registered.is(key)
    }

    /// Writes a line when the problem with the registered key is another than before.
    fn log_registered(&self, ring: &KeyRing) {
        let mut known = self.lock();
        let problem = known.registered.problem(&ring.descriptions());
        if problem == known.logged {
            return;
        }
        match &problem {
            Some(problem) => warn!(problem, "the registered public key does not fit"),
            None => info!("there is no problem with the registered public key any more"),
        }
        known.logged = problem;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Registered {
    fn of(answer: Option<&[u8]>) -> Self {
        match answer {
            None => Self::Nothing,
            // The hash is for sealing, which is not what it is wanted for.
            Some(bytes) => match RunnerPublicKey::from_registered(bytes, OaepHash::default()) {
                Ok(key) => Self::Key(key),
                Err(error) => Self::Unusable(error.to_string()),
            },
        }
    }

    fn is(&self, key: &KeyDescription) -> Option<bool> {
        match self {
            Self::Unknown => None,
            Self::Nothing | Self::Unusable(_) => Some(false),
            Self::Key(registered) => Some(registered.fingerprint().to_string() == key.fingerprint),
        }
    }

    /// What is wrong, seen from the loaded keys, and what to do about it.
    fn problem(&self, loaded: &[KeyDescription]) -> Option<String> {
        const REGISTER: &str = "register the public key that `scm-agent key show FILE` prints";
        match self {
            Self::Unknown => None,
            Self::Nothing => Some(format!(
                "no public key is registered for this runner, so the control plane refuses new OAuth integrations; {REGISTER}"
            )),
            Self::Unusable(problem) => Some(format!("what is registered for this runner is not usable: {problem}; {REGISTER}")),
            Self::Key(_) if loaded.iter().any(|key| self.is(key) == Some(true)) => None,
            Self::Key(registered) => {
                let names: Vec<String> = loaded.iter().map(|key| format!("{} ({})", key.fingerprint, key.algorithm)).collect();
                Some(format!(
                    "the public key registered for this runner is {} ({}), loaded is {}; {REGISTER}, \
                     or put the registered key's file in key.files",
                    registered.fingerprint(),
                    registered.algorithm(),
                    if names.is_empty() { "none".to_owned() } else { names.join(", ") },
                ))
            }
        }
    }
}

impl Broker {
    /// Reads the key files again if they changed. All of them together take the old keys' place, or none does. Requests go on
    /// meanwhile, with the keys that they began with.
    pub async fn look_at_keys(&self) {
        let mut files = Arc::clone(&self.rotation.files).lock_owned().await;
        let reading = tokio::task::spawn_blocking(move || {
            let loaded = (files.reloadable() && files.changed()).then(|| files.load());
            (files, loaded)
        });
        // The files stay locked to the end: keys take each other's place in the order in which they were read.
        let Ok((_files, loaded)) = reading.await else { return };
        let changed = match loaded {
            Some(Ok(ring)) => self.take_over(ring),
            Some(Err(error)) => {
                self.note_failure(&error);
                false
            }
            None => false,
        };
        if changed {
            self.reseal().await;
        }
    }

    /// Reads the files that a configuration names, which may be those of before, as they are now. Nothing is changed yet.
    ///
    /// # Errors
    /// As [`KeyRing::load`]: all of them load, or it is an error.
    pub async fn load_keys(&self, config: key::Config) -> Result<LoadedKeys, key::Error> {
        let files = Arc::clone(&self.rotation.files).lock_owned().await;
        let same = files.are_those_of(&config);
        if same && !files.reloadable() {
            info!("the keys came through a pipe, which cannot be read again; a restart takes new ones");
            return Ok(LoadedKeys { files, fresh: None });
        }
        let mut fresh = KeyFiles::new(config);
        let reading = tokio::task::spawn_blocking(move || fresh.load().map(|ring| (fresh, ring)));
        match reading.await {
            Ok(Ok(fresh)) => Ok(LoadedKeys { files, fresh: Some(fresh) }),
            Ok(Err(error)) => {
                if same {
                    self.note_failure(&error);
                }
                Err(error)
            }
            // The runtime ends, and with it the daemon.
            Err(_) => Ok(LoadedKeys { files, fresh: None }),
        }
    }

    /// Puts keys to use that were loaded; says whether they are others than before. What is kept is to be sealed for them then, with
    /// [`Broker::reseal`].
    pub fn use_keys(&self, keys: LoadedKeys) -> bool {
        let LoadedKeys { mut files, fresh } = keys;
        self.rotation.ask_soon();
        let Some((fresh, ring)) = fresh else { return false };
        *files = fresh;
        self.take_over(ring)
    }

    /// Seals what is kept for the keys in use: it must open with those that the next start has.
    pub async fn reseal(&self) {
        self.grants.reseal(&self.secrets.ring()).await;
        self.sync.save_again().await;
    }

    fn note_failure(&self, error: &key::Error) {
        let failure = error.to_string();
        if self.rotation.lock().failure.replace(failure.clone()).as_ref() != Some(&failure) {
            warn!(target: "audit", event = "key_not_changed", reason = failure, "the key files changed but cannot be loaded; the keys loaded before stay in use");
        }
    }

    /// Puts keys that were loaded in the place of those in use; says whether they are others.
    fn take_over(&self, ring: KeyRing) -> bool {
        let end_of_failure = || self.rotation.lock().failure.take().is_some();
        let (old, new) = (self.secrets.ring().descriptions(), ring.descriptions());
        if old == new {
            // The same keys would open the same.
            if end_of_failure() {
                info!("the key files can be loaded again; the keys are the same");
            } else {
                debug!("the keys are the same");
            }
            return false;
        }
        if let Some(kept) = &self.kept {
            kept.seal_with(&ring);
        }
        self.secrets.replace(ring);
        // Now, and not before the keys are those that came to be loaded.
        end_of_failure();
        self.forget_undecryptable();
        let only = |these: &[KeyDescription], those: &[KeyDescription]| {
            let only: Vec<&str> = these.iter().filter(|key| !those.contains(key)).map(|key| key.fingerprint.as_str()).collect();
            only.join(" ")
        };
        info!(target: "audit", event = "key_changed", keys = new.len(), added = only(&new, &old), removed = only(&old, &new), "the keys changed");
        self.rotation.log_registered(&self.secrets.ring());
        self.rotation.ask_soon();
        true
    }

    /// Lets tokens be asked for again whose secret the keys of before did not open.
    pub(super) fn forget_undecryptable(&self) {
        self.cache.forget_failures(|error| matches!(error, Error::Undecryptable { .. }));
        self.grants.forget_undecryptable();
    }

    /// Asks the control plane now and then which public key it has registered, if the list comes from one. Never ends then.
    pub async fn follow_registered_key(&self) {
        let Some(source) = &self.rotation.source else { return };
        let mut lists = self.sync.subscribe();
        let mut allowance = Allowance::for_requests();
        let (mut due, mut soonest) = (Instant::now(), Instant::now());
        loop {
            let in_time = async {
                sleep_until(due).await;
                // After a list that came: a control plane in trouble has enough with that, whoever asks.
                lists
                    .wait_for(|Published { state, .. }| state.last_success.is_some() && state.last_error.is_none() && !state.from_snapshot)
                    .await
                    .is_ok()
            };
            tokio::select! {
                goes_on = in_time => if !goes_on { return },
                () = self.rotation.ask.notified() => {
                    due = allowance.bring_forward(due, soonest);
                    continue;
                }
            }
            let answer = source.registered_key().await;
            let wanted = answer.as_ref().err().and_then(|error| error.retry_after).unwrap_or_default();
            soonest = Instant::now() + MIN_PAUSE.max(wanted);
            due = Instant::now() + self.take_answer(answer);
        }
    }

    /// Notes what is registered; how long that is good for.
    fn take_answer(&self, answer: Result<Option<Vec<u8>>, SourceError>) -> Duration {
        let ring = self.secrets.ring();
        let pause = match answer {
            Ok(answer) => {
                let registered = Registered::of(answer.as_deref());
                let settled = registered.problem(&ring.descriptions()).is_none();
                self.rotation.lock().registered = registered;
                if settled { SETTLED_PAUSE } else { UNSETTLED_PAUSE }
            }
            // Old control planes do not have it, and a runner's token may not be allowed to see it: no harm in that.
            Err(error) => {
                debug!(reason = %error, "the registered public key is not to be had");
                if error.kind == SourceErrorKind::Operator {
                    self.rotation.lock().registered = Registered::Unknown;
                    SETTLED_PAUSE
                } else {
                    UNSETTLED_PAUSE.max(error.retry_after.unwrap_or_default())
                }
            }
        };
        self.rotation.log_registered(&ring);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(fingerprint: &str) -> KeyDescription {
        KeyDescription { algorithm: "x25519".into(), fingerprint: fingerprint.into() }
    }

    /// 32 bytes that are an X25519 public key.
    fn public_key(seed: u8) -> Vec<u8> {
        (0..32).map(|index| seed.wrapping_add(index * 5) | 0x80).collect()
    }

    fn fingerprint(bytes: &[u8]) -> String {
        RunnerPublicKey::from_registered(bytes, OaepHash::default()).unwrap().fingerprint().to_string()
    }

    #[test]
    fn one_registered_key_among_several_loaded_ones_is_no_problem() {
        let key = public_key(1);
        let (ours, other) = (loaded(&fingerprint(&key)), loaded("SHA256:other"));
        let registered = Registered::of(Some(&key));
        assert_eq!((registered.is(&ours), registered.is(&other)), (Some(true), Some(false)));
        assert_eq!(registered.problem(&[other.clone(), ours]), None);
        let problem = registered.problem(&[other, loaded("SHA256:more")]).unwrap();
        for part in [&fingerprint(&key), "loaded is SHA256:other (x25519), SHA256:more (x25519)", "key show FILE", "key.files"] {
            assert!(problem.contains(part), "{problem}");
        }
        assert!(registered.problem(&[]).unwrap().contains("loaded is none"));
    }

    #[test]
    fn no_key_and_no_usable_key_are_problems_and_no_answer_is_none() {
        let key = loaded("SHA256:ours");
        assert!(Registered::of(None).problem(std::slice::from_ref(&key)).unwrap().contains("no public key is registered"));
        let unusable = Registered::of(Some(b"canary"));
        assert_eq!(unusable.is(&key), Some(false));
        let problem = unusable.problem(std::slice::from_ref(&key)).unwrap();
        assert!(problem.contains("not usable: the public key") && !problem.contains("canary"), "{problem}");
        assert_eq!((Registered::Unknown.problem(std::slice::from_ref(&key)), Registered::Unknown.is(&key)), (None, None));
    }
}
