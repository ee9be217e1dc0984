//! Keeps the registry current: one task polls the source, listens to hints, and publishes what it finds.
//!
//! A poll that fails changes nothing but the state: the last list stays in use for as long as it takes, across restarts if there
//! is a store. However the source fails, the next attempt waits, so that a fleet neither hammers a control plane in trouble nor
//! comes back all at once.

mod ledger;
mod pace;
mod poller;

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::pins::{Quarantine, Quarantined};
use super::registry::IntegrationRegistry;
use super::snapshot::SnapshotStore;
use super::source::IntegrationSource;
use crate::clock::Clock;
use crate::metrics::Metrics;
use ledger::Ledger;
pub(crate) use pace::Allowance;
use pace::PERMILLE;
use poller::Poller;

/// How often the source is asked.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// How long a whole list may take, all its pages together.
    pub fetch_timeout: Duration,
    /// The time between two polls, give or take a tenth; at least 10 milliseconds, at most a day.
    pub poll_interval: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { fetch_timeout: Duration::from_secs(120), poll_interval: Duration::from_secs(60) }
    }
}

/// What spreads polls in time, so that the hosts of a fleet do not ask in step.
pub trait Jitter: Send + Sync + 'static {
    /// A fraction in thousandths, from 0 to 1000.
    fn permille(&self) -> u32;
}

/// Differs from call to call and from process to process. Not fit for secrets.
#[derive(Debug, Clone, Copy, Default)]
pub struct RandomJitter;

impl Jitter for RandomJitter {
    fn permille(&self) -> u32 {
        // The standard library seeds its hash maps from the system's randomness: good enough to spread polls.
        let random = RandomState::new().hash_one(()) % u64::from(PERMILLE + 1);
        u32::try_from(random).unwrap_or(PERMILLE)
    }
}

/// How fresh the list is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SyncState {
    /// Failed attempts since the last good one.
    pub consecutive_failures: u32,
    /// Whether the list in use was kept from before the start and the source has not confirmed it since.
    pub from_snapshot: bool,
    /// When an attempt last ended, well or not.
    pub last_attempt: Option<SystemTime>,
    /// Why the last attempt failed; `None` after a good one.
    pub last_error: Option<String>,
    /// When a list last came; for a kept list, when the source last said that it is the current one.
    pub last_success: Option<SystemTime>,
    /// What to do about the last attempt's failure, where there is something to do.
    pub next: Option<&'static str>,
    /// The time between two polls.
    pub poll_interval: Duration,
    /// What is wrong with keeping the list, in sentences.
    pub snapshot_problems: Vec<String>,
    /// What is asked.
    pub source: String,
    /// Whether the source tells of changes by itself, so that polls are only the net below.
    pub watching: bool,
}

/// On whose behalf the source is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// Whoever may talk to the daemon: what the source asks for counts.
    Anyone,
    /// Who answers for this host, and may know better.
    Operator,
}

/// What came of a request to ask the source.
#[derive(Debug)]
pub struct Answer {
    /// In how long the source is asked, where that is not soon and so was not waited for.
    pub next_attempt_in: Option<Duration>,
    /// The list, and how the last attempt went.
    pub published: Published,
}

/// The list in use and how fresh it is. The registry is the same `Arc` as before while the list does not change.
#[derive(Debug, Clone)]
pub struct Published {
    /// What is held back until an operator accepts it. The same `Arc` as before while that does not change.
    pub quarantine: Arc<Quarantine>,
    /// The last good list; empty until the first one.
    pub registry: Arc<IntegrationRegistry>,
    /// How fresh it is.
    pub state: SyncState,
    attempts: u64,
}

/// What the task is made of.
pub struct Parts {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// How often the source is asked.
    pub config: Config,
    /// What spreads the attempts in time.
    pub jitter: Arc<dyn Jitter>,
    /// Where attempts are counted.
    pub metrics: Arc<Metrics>,
    /// Where the list comes from.
    pub source: Arc<dyn IntegrationSource>,
    /// Where the list and the pins rest; without one they end with the process.
    pub store: Option<Arc<dyn SnapshotStore>>,
}

/// Why a quarantined integration was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TrustError {
    /// The control plane has changed it again since it was shown.
    #[error("what is held back of integration {id} is no longer what was shown")]
    Changed {
        /// UUID of the integration.
        id: String,
    },
    /// It is accepted, until the next start.
    #[error("integration {id} is accepted, but only until the next start: {reason}")]
    NotKept {
        /// UUID of the integration.
        id: String,
        /// Why it could not be written down.
        reason: String,
    },
    /// There is nothing to accept.
    #[error("nothing is held back of integration {id}")]
    Unknown {
        /// UUID of the integration, as it was asked for.
        id: String,
    },
}

/// The polling task. Dropping the handle ends the task, at whatever it waits for.
#[derive(Debug)]
pub struct SyncHandle {
    ledger: Arc<Ledger>,
    published: watch::Receiver<Published>,
    requests: mpsc::Sender<Request>,
    signals: Arc<Signals>,
    tasks: JoinSet<()>,
}

/// Somebody wants the source asked.
#[derive(Debug)]
struct Request {
    asker: Asker,
    due: oneshot::Sender<Instant>,
}

impl Request {
    /// Says when the source is asked.
    fn answer(self, due: Instant) {
        // Whoever asked may have gone meanwhile.
        let _ = self.due.send(due);
    }
}

/// How many requests may wait for the end of an attempt before the next one waits for its place.
const WAITING_REQUESTS: usize = 64;

/// How soon an attempt must be for who asks for it to wait.
const SOON: Duration = Duration::from_secs(5);

/// What the task listens to.
#[derive(Debug, Default)]
struct Signals {
    /// How many attempts have begun.
    begun: AtomicU64,
    hinted: Notify,
    /// Somebody waits for the first attempt.
    wanted: Notify,
}

/// Tells the task what a feed of changes says.
#[derive(Debug, Clone)]
pub struct Hinter {
    ledger: Arc<Ledger>,
    published: watch::Receiver<Published>,
    signals: Arc<Signals>,
}

impl Hinter {
    /// The list may have changed. Hints in a burst cause one attempt, and none cuts a pause short that follows a failure.
    pub fn hint(&self) {
        self.signals.hinted.notify_one();
    }

    /// Waits until the source has been asked once since the start, however that went.
    pub async fn first_attempt(&self) {
        first_attempt(self.published.clone()).await;
    }

    /// Whether such hints are to be expected.
    pub fn set_watching(&self, watching: bool) {
        self.ledger.set_watching(watching);
    }
}

impl SyncHandle {
    /// Starts the task without a store on the current Tokio runtime. It asks at once, then every poll interval.
    #[must_use]
    pub fn start(source: Arc<dyn IntegrationSource>, config: Config, clock: Arc<dyn Clock>, jitter: Arc<dyn Jitter>) -> Self {
        Self::start_with(Parts { clock, config, jitter, metrics: Arc::default(), source, store: None })
    }

    /// Starts the task on the current Tokio runtime. With a kept list, the first question may wait for some seconds.
    #[must_use]
    pub fn start_with(parts: Parts) -> Self {
        let Parts { clock, config, jitter, metrics, source, store } = parts;
        let state = SyncState { poll_interval: config.poll_interval, source: source.describe(), ..SyncState::default() };
        let (publish, published) = watch::channel(Published { quarantine: Arc::default(), registry: Arc::default(), state, attempts: 0 });
        let signals = Arc::new(Signals::default());
        let ledger = Arc::new(Ledger::new(clock, publish, &*source, store));
        let (requests, asked) = mpsc::channel(WAITING_REQUESTS);
        let poller = Poller::new(config, jitter, Arc::clone(&ledger), asked, Arc::clone(&signals), source).counted_by(metrics);
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&ledger).keep_saving());
        tasks.spawn(poller.run());
        Self { ledger, published, requests, signals, tasks }
    }

    /// The list in use.
    #[must_use]
    pub fn registry(&self) -> Arc<IntegrationRegistry> {
        Arc::clone(&self.published.borrow().registry)
    }

    /// What is held back until an operator accepts it.
    #[must_use]
    pub fn quarantine(&self) -> Arc<Quarantine> {
        Arc::clone(&self.published.borrow().quarantine)
    }

    /// How fresh the list is.
    #[must_use]
    pub fn state(&self) -> SyncState {
        self.published.borrow().state.clone()
    }

    /// Whether the list in use was kept from before the start and the source has not confirmed it since.
    #[must_use]
    pub fn is_from_snapshot(&self) -> bool {
        self.published.borrow().state.from_snapshot
    }

    /// Follows the list and its state. A slow reader sees only the newest, so it compares with the list it last acted on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    /// For a feed of changes.
    #[must_use]
    pub fn hinter(&self) -> Hinter {
        Hinter { ledger: Arc::clone(&self.ledger), published: self.published.clone(), signals: Arc::clone(&self.signals) }
    }

    /// Waits for the first good list, kept or new; `None` if the task ended without one.
    pub async fn first_list(&self) -> Option<Arc<IntegrationRegistry>> {
        let mut published = self.published.clone();
        let first = published.wait_for(|published| published.state.last_success.is_some()).await.ok()?;
        Some(Arc::clone(&first.registry))
    }

    /// Waits until the source has been asked once since the start, however that went. It is asked at once for this.
    pub async fn first_attempt(&self) {
        if self.published.borrow().attempts == 0 {
            self.signals.wanted.notify_one();
        }
        first_attempt(self.published.clone()).await;
    }

    /// Has the source asked as soon as it may be, and waits for the result of an attempt that began after this call if that is
    /// within seconds. Requests in a burst cause one attempt.
    pub async fn ask(&self, asker: Asker) -> Answer {
        self.ask_for(asker, SOON).await
    }

    /// Has the source asked for an operator and waits for the result, however long that takes.
    pub async fn sync_now(&self) -> Published {
        self.ask_for(Asker::Operator, Duration::MAX).await.published
    }

    async fn ask_for(&self, asker: Asker, patience: Duration) -> Answer {
        let begun = self.signals.begun.load(Ordering::SeqCst);
        let mut published = self.published.clone();
        let (due, answered) = oneshot::channel();
        let mut next_attempt_in = None;
        // An error means that the task has ended: what it left is the answer.
        if self.requests.send(Request { asker, due }).await.is_ok()
            && let Ok(due) = answered.await
        {
            let pause = due.saturating_duration_since(Instant::now());
            if pause > patience {
                next_attempt_in = Some(pause);
            } else {
                let _ = published.wait_for(|published| published.attempts > begun).await;
            }
        }
        let published = published.borrow().clone();
        Answer { next_attempt_in, published }
    }

    /// Accepts a quarantined integration as it was shown, and puts it to use at once.
    ///
    /// # Errors
    /// [`TrustError`]
    pub async fn trust(&self, id: &str, change: &str) -> Result<Quarantined, TrustError> {
        self.ledger.trust(id, change).await
    }

    /// Writes the kept list again, as after a change of the keys that seal it, and waits for that, but not for ever.
    pub async fn save_again(&self) {
        self.ledger.save(SAVE_WAIT).await;
    }

    /// Ends the task and waits until it is gone.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

/// How long a save that somebody waits for may take.
const SAVE_WAIT: Duration = Duration::from_secs(10);

async fn first_attempt(mut published: watch::Receiver<Published>) {
    // An error means that the task has ended, and with it the wait.
    let _ = published.wait_for(|published| published.attempts > 0).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_jitter_stays_in_range_and_differs() {
        let samples: Vec<u32> = (0..1_000).map(|_| RandomJitter.permille()).collect();
        assert!(samples.iter().all(|sample| *sample <= PERMILLE));
        assert!(samples.iter().any(|sample| *sample < 250) && samples.iter().any(|sample| *sample > 750));
    }
}
