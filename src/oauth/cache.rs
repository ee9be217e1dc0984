//! The tokens in memory: served at once while fresh, minted by one caller at a time, remembered failures instead of a storm.
//!
//! A mint runs in a task of its own (a flight), so a caller that gives up does not cancel it and no lock is held across an await.
//! A token is over when either the time of day or the monotonic clock says so; a clock that jumps can end a token early, never late.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::{Classified, Deadline, Error, ErrorClass, IssuedToken, Moment};
use crate::clock::Clock;
use crate::secret::AccessToken;

/// How long a token is kept whose issuer named no lifetime.
const ASSUMED_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// The life that an answer should have left: this much, or a quarter of the whole where that is less.
const LONGEST_MINIMUM_LIFE: Duration = Duration::from_secs(15 * 60);
/// The least of it, except for tokens that live less than twice as long.
const SKEW: Duration = Duration::from_secs(60);
/// When a token is refreshed in the background, in thousandths of its lifetime, and how far that is spread.
const REFRESH_PERMILLE: u32 = 700;
const REFRESH_SPREAD_PERMILLE: u32 = 70;
/// The wait after the first transient failure; it doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest wait, and the only one after a failure that time does not mend.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5 * 60);
/// How many keys are held.
const MAX_ENTRIES: usize = 10_000;

/// A token in the cache.
#[derive(Debug)]
pub struct CachedToken {
    /// The token.
    pub access_token: AccessToken,
    /// The time of day from which on it is dead; `None` when the issuer did not say.
    pub expires_at: Option<SystemTime>,
    /// When it was asked for.
    pub minted_at: SystemTime,
    /// The scopes granted, where the reply named them.
    pub scopes: Option<Vec<String>>,
    requested_at: Instant,
    was_kept: bool,
    deadline: Deadline,
    /// With less life than this, callers wait for a new one.
    minimum_life: Duration,
    /// With less life than this, a new one is fetched meanwhile.
    refresh_life: Duration,
}

impl CachedToken {
    fn new(issued: IssuedToken) -> Self {
        let expires_at = issued.expires_at();
        let IssuedToken { access_token, expires_in, requested_at, was_kept, scopes } = issued;
        let lifetime = expires_in.unwrap_or(ASSUMED_LIFETIME);
        let minimum_life = minimum_life(lifetime);
        let spread = u32::try_from(RandomState::new().hash_one(()) % u64::from(2 * REFRESH_SPREAD_PERMILLE + 1)).unwrap_or_default();
        let elapsed = REFRESH_PERMILLE - REFRESH_SPREAD_PERMILLE + spread;
        let refresh_life = refresh_life(lifetime, elapsed);
        let deadline = requested_at.after(lifetime);
        let Moment { monotonic, wall } = requested_at;
        Self { access_token, expires_at, minted_at: wall, scopes, requested_at: monotonic, was_kept, deadline, minimum_life, refresh_life }
    }

    /// Whether it was there already at that time, rather than asked for since.
    #[must_use]
    pub fn was_there(&self, at: Instant) -> bool {
        self.was_kept || self.requested_at < at
    }

    /// How long ago it was asked for.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.requested_at)
    }

    fn remaining(&self, now: Moment) -> Duration {
        self.deadline.remaining(now)
    }
}

/// With more life than this left, no token of that lifetime is refreshed yet.
#[must_use]
pub fn longest_refresh_life(lifetime: Duration) -> Duration {
    refresh_life(lifetime, REFRESH_PERMILLE - REFRESH_SPREAD_PERMILLE)
}

fn minimum_life(lifetime: Duration) -> Duration {
    LONGEST_MINIMUM_LIFE.min(lifetime / 4).max(SKEW.min(lifetime / 2))
}

/// What is left of a lifetime when so many thousandths are over. Before callers have to wait there is always a twentieth of it to
/// refresh in.
fn refresh_life(lifetime: Duration, elapsed_permille: u32) -> Duration {
    (lifetime / 1000 * (1000 - elapsed_permille)).max(minimum_life(lifetime) + lifetime / 20)
}

/// Why the cache has no token to give.
#[derive(Debug, thiserror::Error)]
pub enum MintError<E: std::error::Error + 'static = Error> {
    /// The token was dead before it could be served: a very short life, or a clock that jumped.
    #[error("the access token expired before it could be used")]
    Expired,
    /// The mint failed.
    #[error(transparent)]
    Failed(E),
    /// Too many keys are being minted at once.
    #[error("too many access tokens are being fetched at once")]
    Full,
    /// The mint ended without a result.
    #[error("fetching the access token was interrupted")]
    Interrupted,
    /// The key was purged while its token was being fetched.
    #[error("the integration changed while its access token was being fetched")]
    Purged,
}

impl<E: Classified + 'static> Classified for MintError<E> {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Failed(error) => error.class(),
            Self::Expired | Self::Full | Self::Interrupted | Self::Purged => ErrorClass::Transient,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failed(error) => error.retry_after(),
            Self::Expired | Self::Full | Self::Interrupted | Self::Purged => None,
        }
    }
}

/// What `status` shows of a key.
#[derive(Debug)]
pub struct TokenStatus<E: std::error::Error + 'static = Error> {
    /// When the token dies; `None` when there is none, or its issuer did not say.
    pub expires_at: Option<SystemTime>,
    /// What the last mint failed with, until one succeeds.
    pub last_error: Option<Arc<MintError<E>>>,
    /// How the key fares.
    pub state: TokenState,
}

/// How a key fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenState {
    /// The last mint failed.
    Failing,
    /// A mint is under way.
    Refreshing,
    /// There is a live token.
    Valid,
}

type Outcome<E> = Result<Arc<CachedToken>, Arc<MintError<E>>>;
type Landed<E> = watch::Receiver<Option<Outcome<E>>>;

/// Tokens by key, at most 10,000. `E` is what a mint fails with.
pub struct TokenCache<K, E: std::error::Error + 'static = Error> {
    shared: Arc<Shared<K, E>>,
}

/// Takes the tokens that came for keys which had been purged meanwhile.
type TakeOrphan<K> = Box<dyn Fn(K, Arc<CachedToken>) + Send + Sync>;

struct Shared<K, E: std::error::Error + 'static> {
    clock: Arc<dyn Clock>,
    max_entries: usize,
    take_orphan: TakeOrphan<K>,
    state: Mutex<State<K, E>>,
}

struct State<K, E: std::error::Error + 'static> {
    entries: HashMap<K, Entry<E>>,
    /// The last flight's number. It tells a flight from a later one for the same key, so that a purge is not undone.
    generation: u64,
}

struct Entry<E: std::error::Error + 'static> {
    failure: Option<Failure<E>>,
    flight: Option<Flight<E>>,
    last_used: Instant,
    token: Option<Arc<CachedToken>>,
}

struct Failure<E: std::error::Error + 'static> {
    /// How many mints in a row failed.
    count: u32,
    error: Arc<MintError<E>>,
    /// No request before this.
    until: Instant,
}

struct Flight<E: std::error::Error + 'static> {
    generation: u64,
    landed: Landed<E>,
}

/// What would come of asking for a key's token now, without asking for it.
#[derive(Debug)]
pub struct Prospect<E: std::error::Error + 'static = Error> {
    /// What would be done.
    pub expected: Expected<E>,
    /// What the last mint failed with, until one succeeds.
    pub last_error: Option<Arc<MintError<E>>>,
    /// How long nothing is minted after that.
    pub retry_in: Option<Duration>,
}

/// What the cache would do for who asks now.
#[derive(Debug)]
pub enum Expected<E: std::error::Error + 'static = Error> {
    /// Fetch a token first.
    Fetch,
    /// Serve the one that is held.
    Held {
        /// When it dies; `None` when its issuer did not say.
        expires_at: Option<SystemTime>,
    },
    /// Wait for the one that is being fetched.
    Wait,
    /// Answer with the error of the last mint, which failed so short a time ago.
    Withheld(Arc<MintError<E>>),
}

/// What a caller is to do.
enum Step<E: std::error::Error + 'static> {
    /// Answer with this.
    Answer(Outcome<E>),
    /// Wait for the flight.
    Wait(Landed<E>),
}

/// How a key stands for a caller.
enum Look<E: std::error::Error + 'static> {
    /// There is an answer.
    Answer(Outcome<E>),
    /// A flight has to be waited for.
    Join(Landed<E>),
    /// A flight is to be started; the token is good enough meanwhile if there is one.
    Start(Option<Arc<CachedToken>>),
}

impl<K, E> TokenCache<K, E>
where
    K: Eq + Hash + Clone + Send + 'static,
    E: Classified + Send + Sync + 'static,
{
    /// Makes an empty cache.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_max_entries(clock, MAX_ENTRIES)
    }

    /// Makes an empty cache for at most this many keys; the one used longest ago gives way.
    #[must_use]
    pub fn with_max_entries(clock: Arc<dyn Clock>, max_entries: usize) -> Self {
        Self::assemble(clock, max_entries, Box::new(|_, _| {}))
    }

    /// Makes an empty cache that hands over what [`TokenCache::purge`] could not yet return: each living token whose mint was under
    /// way when its key was purged, once it comes. Without this such tokens are dropped.
    ///
    /// `take_orphan` runs in the mint's task, outside the cache's lock; it should not block.
    #[must_use]
    pub fn with_orphans(clock: Arc<dyn Clock>, take_orphan: impl Fn(K, Arc<CachedToken>) + Send + Sync + 'static) -> Self {
        Self::assemble(clock, MAX_ENTRIES, Box::new(take_orphan))
    }

    fn assemble(clock: Arc<dyn Clock>, max_entries: usize, take_orphan: TakeOrphan<K>) -> Self {
        let state = Mutex::new(State { entries: HashMap::new(), generation: 0 });
        Self { shared: Arc::new(Shared { clock, max_entries, take_orphan, state }) }
    }

    /// Answers with the key's token, minting one if there is none with enough life left.
    ///
    /// However many callers ask, one mint per key runs at a time, in a task of its own. A token that still lives is served when
    /// its successor cannot be had; after a failure nothing is asked until the backoff or the host's `Retry-After` is over.
    ///
    /// # Errors
    /// [`MintError`], the same one for all who waited and for those who ask during the backoff.
    pub async fn get_or_mint<M, F>(&self, key: &K, mint: M) -> Result<Arc<CachedToken>, Arc<MintError<E>>>
    where
        M: FnOnce() -> F + Send + 'static,
        F: Future<Output = Result<IssuedToken, E>> + Send + 'static,
    {
        let (step, landing) = self.step(key);
        // Not under the lock: a runtime that is stopping drops the task, and with it the landing, right here.
        if let Some(landing) = landing {
            tokio::spawn(async move { landing.land(mint().await) });
        }
        let mut landed = match step {
            Step::Answer(outcome) => return outcome,
            Step::Wait(landed) => landed,
        };
        let outcome = match landed.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone(),
            // The task went away without landing.
            Err(_) => None,
        };
        let now = self.shared.now();
        match outcome.unwrap_or_else(|| Err(Arc::new(MintError::Interrupted))) {
            Ok(token) if token.remaining(now).is_zero() => Err(Arc::new(MintError::Expired)),
            Ok(token) => Ok(token),
            Err(error) => self.shared.lock().living_token(key, now).ok_or(error),
        }
    }

    /// Says what [`TokenCache::get_or_mint`] would do now. Nothing is asked, and nothing changes.
    #[must_use]
    pub fn prospect(&self, key: &K) -> Prospect<E> {
        let now = self.shared.now();
        let state = self.shared.lock();
        let expected = match state.judge(key, now) {
            Look::Answer(Ok(token)) | Look::Start(Some(token)) => Expected::Held { expires_at: token.expires_at },
            Look::Answer(Err(error)) => Expected::Withheld(error),
            Look::Join(_) => Expected::Wait,
            Look::Start(None) => Expected::Fetch,
        };
        let failure = state.entries.get(key).and_then(|entry| entry.failure.as_ref());
        Prospect {
            expected,
            last_error: failure.map(|failure| Arc::clone(&failure.error)),
            retry_in: failure.and_then(|failure| failure.until.checked_duration_since(now.monotonic)).filter(|wait| !wait.is_zero()),
        }
    }

    /// Gives a key whose mint is under way a token that serves until the mint brings a better one, and goes on serving should that
    /// fail. Where there is a token already, or no mint, nothing happens.
    pub fn lend(&self, key: &K, issued: IssuedToken) {
        let token = CachedToken::new(issued);
        let mut state = self.shared.lock();
        if let Some(entry) = state.entries.get_mut(key).filter(|entry| entry.flight.is_some()) {
            entry.token.get_or_insert_with(|| Arc::new(token));
        }
    }

    /// The key's token, whether or not it still lives.
    #[must_use]
    pub fn held(&self, key: &K) -> Option<Arc<CachedToken>> {
        self.shared.lock().entries.get(key)?.token.clone()
    }

    /// Drops the key's token if it is this password, compared in constant time; says whether it did.
    pub fn erase(&self, key: &K, password: &[u8]) -> bool {
        let mut state = self.shared.lock();
        let Some(entry) = state.entries.get_mut(key) else { return false };
        if !entry.token.as_ref().is_some_and(|token| token.access_token.matches(password)) {
            return false;
        }
        entry.token = None;
        state.drop_if_idle(key);
        true
    }

    /// Drops everything about the keys that the predicate picks and returns their living tokens. A mint that is under way for one
    /// of them runs to its end, but its token is served to nobody (see [`TokenCache::with_orphans`]). The predicate runs under the
    /// cache's lock: keep it short.
    pub fn purge(&self, mut doomed: impl FnMut(&K) -> bool) -> Vec<(K, Arc<CachedToken>)> {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        let dropped = state.entries.extract_if(|key, _| doomed(key)).filter_map(|(key, entry)| Some((key, entry.token?)));
        dropped.filter(|(_, token)| !token.remaining(now).is_zero()).collect()
    }

    /// Whether any key has this very token, compared in constant time.
    #[must_use]
    pub fn holds(&self, token: &AccessToken) -> bool {
        let token = token.expose_secret().as_bytes();
        self.shared.lock().entries.values().filter_map(|entry| entry.token.as_ref()).any(|held| held.access_token.matches(token))
    }

    /// Forgets the failures of mints that the predicate calls mended, so that the next caller tries again at once. The predicate
    /// runs under the cache's lock: keep it short.
    pub fn forget_failures(&self, mut mended: impl FnMut(&E) -> bool) {
        self.shared.lock().entries.retain(|_, entry| {
            entry.failure.take_if(|failure| matches!(&*failure.error, MintError::Failed(error) if mended(error)));
            !entry.is_idle()
        });
    }

    /// How each key fares, in no order. Dead tokens are forgotten on the way.
    #[must_use]
    pub fn states(&self) -> Vec<(K, TokenStatus<E>)> {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        state.entries.retain(|_, entry| {
            entry.token.take_if(|token| token.remaining(now).is_zero());
            !entry.is_idle()
        });
        let status = |entry: &Entry<E>| TokenStatus {
            expires_at: entry.token.as_ref().and_then(|token| token.expires_at),
            last_error: entry.failure.as_ref().map(|failure| Arc::clone(&failure.error)),
            state: match (&entry.flight, &entry.failure) {
                (Some(_), _) => TokenState::Refreshing,
                (None, Some(_)) => TokenState::Failing,
                (None, None) => TokenState::Valid,
            },
        };
        state.entries.iter().map(|(key, entry)| (key.clone(), status(entry))).collect()
    }

    /// What the caller is to do, and the landing of the flight that is to be started for it.
    fn step(&self, key: &K) -> (Step<E>, Option<Landing<K, E>>) {
        let now = self.shared.now();
        let mut state = self.shared.lock();
        let meanwhile = match state.look(key, now) {
            Look::Answer(outcome) => return (Step::Answer(outcome), None),
            Look::Join(landed) => return (Step::Wait(landed), None),
            Look::Start(meanwhile) => meanwhile,
        };
        if !state.make_room(key, self.shared.max_entries) {
            return (Step::Answer(Err(Arc::new(MintError::Full))), None);
        }
        let (sender, landed) = watch::channel(None);
        let generation = state.take_off(key, now, landed.clone());
        let landing = Landing { generation, key: key.clone(), sender, shared: Arc::clone(&self.shared) };
        let step = meanwhile.map_or_else(|| Step::Wait(landed), |token| Step::Answer(Ok(token)));
        (step, Some(landing))
    }
}

impl<K, E: std::error::Error + 'static> Shared<K, E> {
    fn lock(&self) -> MutexGuard<'_, State<K, E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Moment {
        Moment::now(&*self.clock)
    }
}

impl<K: Eq + Hash + Clone, E: std::error::Error + 'static> State<K, E> {
    fn look(&mut self, key: &K, now: Moment) -> Look<E> {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.last_used = now.monotonic;
            entry.token.take_if(|token| token.remaining(now).is_zero());
        }
        self.judge(key, now)
    }

    /// How a key stands, with nothing changed.
    fn judge(&self, key: &K, now: Moment) -> Look<E> {
        let Some(entry) = self.entries.get(key) else { return Look::Start(None) };
        let flight = entry.flight.as_ref().map(|flight| flight.landed.clone());
        let failure = entry.failure.as_ref().filter(|failure| now.monotonic < failure.until);
        let Some(token) = entry.token.clone().filter(|token| !token.remaining(now).is_zero()) else {
            return match (flight, failure) {
                (Some(landed), _) => Look::Join(landed),
                (None, Some(failure)) => Look::Answer(Err(Arc::clone(&failure.error))),
                (None, None) => Look::Start(None),
            };
        };
        let remaining = token.remaining(now);
        match (flight, failure) {
            _ if remaining > token.refresh_life => Look::Answer(Ok(token)),
            (Some(_), _) if remaining > token.minimum_life => Look::Answer(Ok(token)),
            (Some(landed), _) => Look::Join(landed),
            (None, Some(_)) => Look::Answer(Ok(token)),
            (None, None) => Look::Start((remaining > token.minimum_life).then_some(token)),
        }
    }

    /// Notes a flight and returns its number.
    fn take_off(&mut self, key: &K, now: Moment, landed: Landed<E>) -> u64 {
        self.generation += 1;
        let flight = Some(Flight { generation: self.generation, landed });
        match self.entries.get_mut(key) {
            Some(entry) => entry.flight = flight,
            None => {
                let entry = Entry { failure: None, flight, last_used: now.monotonic, token: None };
                self.entries.insert(key.clone(), entry);
            }
        }
        self.generation
    }

    fn living_token(&self, key: &K, now: Moment) -> Option<Arc<CachedToken>> {
        let token = self.entries.get(key)?.token.as_ref()?;
        (!token.remaining(now).is_zero()).then(|| Arc::clone(token))
    }

    /// Makes room for the key; says no when every other one has a flight.
    fn make_room(&mut self, key: &K, max_entries: usize) -> bool {
        if self.entries.len() < max_entries || self.entries.contains_key(key) {
            return true;
        }
        let grounded = self.entries.iter().filter(|(_, entry)| entry.flight.is_none());
        let Some(oldest) = grounded.min_by_key(|(_, entry)| entry.last_used).map(|(key, _)| key.clone()) else {
            return false;
        };
        self.entries.remove(&oldest);
        true
    }

    fn drop_if_idle(&mut self, key: &K) {
        if self.entries.get(key).is_some_and(Entry::is_idle) {
            self.entries.remove(key);
        }
    }
}

impl<E: std::error::Error + 'static> Entry<E> {
    /// Whether it holds nothing worth keeping.
    fn is_idle(&self) -> bool {
        self.token.is_none() && self.flight.is_none() && self.failure.is_none()
    }
}

/// The end of a flight: by landing, or by being dropped when the mint panics or the runtime stops.
struct Landing<K: Eq + Hash + Clone, E: std::error::Error + 'static> {
    generation: u64,
    key: K,
    sender: watch::Sender<Option<Outcome<E>>>,
    shared: Arc<Shared<K, E>>,
}

impl<K: Eq + Hash + Clone, E: Classified + 'static> Landing<K, E> {
    fn land(self, result: Result<IssuedToken, E>) {
        let now = self.shared.now();
        let outcome = match result.map(CachedToken::new) {
            Ok(token) if token.remaining(now).is_zero() => Err(Arc::new(MintError::Expired)),
            Ok(token) => Ok(Arc::new(token)),
            Err(error) => Err(Arc::new(MintError::Failed(error))),
        };
        let mut state = self.shared.lock();
        let (outcome, orphan) = match state.entries.get_mut(&self.key) {
            Some(entry) if entry.flight.as_ref().is_some_and(|flight| flight.generation == self.generation) => {
                entry.flight = None;
                match &outcome {
                    Ok(token) => {
                        entry.failure = None;
                        entry.token = Some(Arc::clone(token));
                    }
                    Err(error) => entry.failure = Some(Failure::after(entry.failure.as_ref(), error, now.monotonic)),
                }
                (outcome, None)
            }
            _ => (Err(Arc::new(MintError::Purged)), outcome.ok()),
        };
        drop(state);
        if let Some(orphan) = orphan {
            (self.shared.take_orphan)(self.key.clone(), orphan);
        }
        self.sender.send_replace(Some(outcome));
    }
}

impl<K: Eq + Hash + Clone, E: std::error::Error + 'static> Drop for Landing<K, E> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if let Some(entry) = state.entries.get_mut(&self.key)
            && entry.flight.as_ref().is_some_and(|flight| flight.generation == self.generation)
        {
            entry.flight = None;
            state.drop_if_idle(&self.key);
        }
    }
}

impl<E: Classified + 'static> Failure<E> {
    fn after(previous: Option<&Self>, error: &Arc<MintError<E>>, now: Instant) -> Self {
        let count = previous.map_or(0, |previous| previous.count).saturating_add(1);
        let backoff = match error.class() {
            // 1 s, 2 s, 4 s ... 256 s, 5 min.
            ErrorClass::Transient => FIRST_BACKOFF.saturating_mul(1 << (count - 1).min(9)).min(LONGEST_BACKOFF),
            ErrorClass::Operator | ErrorClass::Terminal => LONGEST_BACKOFF,
        };
        let wait = backoff.max(error.retry_after().unwrap_or_default());
        Self { count, error: Arc::clone(error), until: now + wait }
    }
}
