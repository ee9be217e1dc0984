//! Keeps the registry current: one task polls the source and publishes what it finds.
//!
//! A poll that fails changes nothing but the state: the last list stays in use for as long as it takes. However the source
//! fails, the next attempt waits, so that a fleet neither hammers a control plane in trouble nor comes back all at once.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::diff::diff;
use super::registry::IntegrationRegistry;
use super::source::{IntegrationList, IntegrationSource, SourceError, SourceErrorKind};
use crate::clock::Clock;

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
    /// When an attempt last ended, well or not.
    pub last_attempt: Option<SystemTime>,
    /// Why the last attempt failed; `None` after a good one.
    pub last_error: Option<String>,
    /// When a list last came.
    pub last_success: Option<SystemTime>,
    /// What is asked.
    pub source: String,
    /// Whether the source tells of changes by itself, so that polls are only the net below.
    pub watching: bool,
}

/// The list in use and how fresh it is. The registry is the same `Arc` as before while the list does not change.
#[derive(Debug, Clone)]
pub struct Published {
    /// The last good list; empty until the first one.
    pub registry: Arc<IntegrationRegistry>,
    /// How fresh it is.
    pub state: SyncState,
    attempts: u64,
}

/// The polling task. Dropping the handle ends the task, at whatever it waits for.
#[derive(Debug)]
pub struct SyncHandle {
    begun: Arc<AtomicU64>,
    published: watch::Receiver<Published>,
    task: JoinHandle<()>,
    wake: Arc<Notify>,
}

impl SyncHandle {
    /// Starts the task on the current Tokio runtime. It asks at once, then every poll interval.
    #[must_use]
    pub fn start(source: Arc<dyn IntegrationSource>, config: Config, clock: Arc<dyn Clock>, jitter: Arc<dyn Jitter>) -> Self {
        let state = SyncState { source: source.describe(), ..SyncState::default() };
        let (publish, published) = watch::channel(Published { registry: Arc::default(), state, attempts: 0 });
        let (begun, wake) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        let poller = Poller { begun: Arc::clone(&begun), clock, config, jitter, publish, source, wake: Arc::clone(&wake) };
        Self { begun, published, task: tokio::spawn(poller.run()), wake }
    }

    /// The list in use.
    #[must_use]
    pub fn registry(&self) -> Arc<IntegrationRegistry> {
        Arc::clone(&self.published.borrow().registry)
    }

    /// How fresh the list is.
    #[must_use]
    pub fn state(&self) -> SyncState {
        self.published.borrow().state.clone()
    }

    /// Follows the list and its state. A slow reader sees only the newest, so it compares with the list it last acted on.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Published> {
        self.published.clone()
    }

    /// Waits for the first good list; `None` if the task ended without one.
    pub async fn first_list(&self) -> Option<Arc<IntegrationRegistry>> {
        let mut published = self.published.clone();
        let first = published.wait_for(|published| published.state.last_success.is_some()).await.ok()?;
        Some(Arc::clone(&first.registry))
    }

    /// Has the source asked soon, however long the task meant to wait. Requests in a burst cause one attempt.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Has the source asked and waits for the result of an attempt that began after this call.
    pub async fn sync_now(&self) -> Published {
        let begun = self.begun.load(Ordering::SeqCst);
        self.wake();
        let mut published = self.published.clone();
        // An error means that the task has ended: what it left is the answer.
        if let Ok(fresh) = published.wait_for(|published| published.attempts > begun).await {
            return fresh.clone();
        }
        self.published.borrow().clone()
    }

    /// Ends the task and waits until it is gone.
    pub async fn stop(mut self) {
        self.task.abort();
        // The only outcome is that it was cancelled.
        let _ = (&mut self.task).await;
    }
}

impl Drop for SyncHandle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Poller {
    begun: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    config: Config,
    jitter: Arc<dyn Jitter>,
    publish: watch::Sender<Published>,
    source: Arc<dyn IntegrationSource>,
    wake: Arc<Notify>,
}

impl Poller {
    async fn run(self) {
        loop {
            // Whoever asked before this attempt is served by it. The order matters to `sync_now`: first the request goes, then
            // the count grows.
            let _ = self.wake.notified().now_or_never();
            self.begun.fetch_add(1, Ordering::SeqCst);
            let error = match timeout(self.config.fetch_timeout, self.source.fetch()).await {
                Ok(Ok(list)) => {
                    self.succeeded(list);
                    None
                }
                Ok(Err(error)) => Some(error),
                Err(_) => Some(SourceError {
                    kind: SourceErrorKind::Transient,
                    message: "the list did not arrive in time".to_owned(),
                    retry_after: None,
                }),
            };
            if let Some(error) = &error {
                self.failed(error);
            }
            let ended = Instant::now();
            let failures = self.publish.borrow().state.consecutive_failures;
            let pause = self.pause(error.as_ref(), failures);
            tokio::select! {
                () = sleep(pause) => {}
                () = self.wake.notified() => sleep_until(ended + pause.min(MIN_PAUSE)).await,
            }
        }
    }

    fn succeeded(&self, list: IntegrationList) {
        let new = IntegrationRegistry::new(list);
        let old = Arc::clone(&self.publish.borrow().registry);
        let is_new = self.log_list(&old, &new);
        let now = self.clock.now();
        self.publish.send_modify(|published| {
            if is_new {
                published.registry = Arc::new(new);
            }
            let state = &mut published.state;
            state.consecutive_failures = 0;
            state.last_attempt = Some(now);
            state.last_error = None;
            state.last_success = Some(now);
            published.attempts += 1;
        });
    }

    fn failed(&self, error: &SourceError) {
        let now = self.clock.now();
        if self.publish.borrow().state.last_error.as_ref() != Some(&error.message) {
            let needs_operator = error.kind == SourceErrorKind::Operator;
            let source = self.source.describe();
            warn!(source, reason = %error.message, needs_operator, "cannot fetch the integrations; the last list stays in use");
        }
        self.publish.send_modify(|published| {
            let state = &mut published.state;
            state.consecutive_failures = state.consecutive_failures.saturating_add(1);
            state.last_attempt = Some(now);
            state.last_error = Some(error.message.clone());
            published.attempts += 1;
        });
    }

    /// Writes what changed, in a line per kind of news; says whether anything did.
    fn log_list(&self, old: &IntegrationRegistry, new: &IntegrationRegistry) -> bool {
        let (is_first, failures) = {
            let published = self.publish.borrow();
            (published.state.last_success.is_none(), published.state.consecutive_failures)
        };
        let (usable, rejected) = (new.integrations().len(), new.rejected().len());
        if failures > 0 {
            info!(failures, "fetching the integrations works again");
        }
        let changes = diff(old, new);
        if is_first {
            info!(source = self.source.describe(), usable, rejected, "fetched the integrations");
        } else if !changes.is_empty() {
            let (added, changed, removed) = (changes.added.len(), changes.changed.len(), changes.removed.len());
            let (oauth_removed, pat_disabled) = (changes.oauth_removed.len(), changes.pat_disabled.len());
            let unusable = changes.unusable.len();
            info!(usable, rejected, added, changed, removed, oauth_removed, pat_disabled, unusable, "the integrations changed");
        }
        let rejected_changed = refusals(old) != refusals(new);
        if let (true, Some(first)) = (rejected_changed, new.rejected().first()) {
            // Debug for what the control plane wrote: it escapes control characters.
            warn!(rejected, position = first.position, id = ?first.id, reason = %first.reason, "some integrations cannot be used; this is the first");
        }
        rejected_changed || !changes.is_empty()
    }

    /// How long to wait after an attempt.
    fn pause(&self, error: Option<&SourceError>, failures: u32) -> Duration {
        let permille = self.jitter.permille().min(PERMILLE);
        let interval = self.config.poll_interval.clamp(MIN_INTERVAL, MAX_INTERVAL);
        // From 90 % to 110 %.
        let poll = interval * (9 * PERMILLE + 2 * permille) / (10 * PERMILLE);
        let Some(error) = error else { return poll };
        let own = match error.kind {
            // Asking more often than that cannot help before somebody acts.
            SourceErrorKind::Operator => poll,
            SourceErrorKind::Transient => {
                let most = interval.max(FIRST_BACKOFF).min(MAX_BACKOFF);
                let doublings = failures.saturating_sub(1).min(16);
                // From 75 % to 100 %: never later than the next poll would have been.
                (FIRST_BACKOFF * (1 << doublings)).min(most) * (4 * PERMILLE - permille) / (4 * PERMILLE)
            }
        };
        // Not before the source allows it; a little later each, or the whole fleet would come back in one second.
        let asked = error.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER) * (10 * PERMILLE + permille) / (10 * PERMILLE);
        own.max(asked)
    }
}

/// The rejected entries, wherever in the list they stood.
fn refusals(registry: &IntegrationRegistry) -> Vec<(Option<&str>, &str)> {
    let mut refusals: Vec<_> = registry.rejected().iter().map(|entry| (entry.id.as_deref(), entry.reason.as_str())).collect();
    refusals.sort_unstable();
    refusals
}

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(5 * 60);
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The least time between two attempts, however often somebody asks for one.
const MIN_PAUSE: Duration = Duration::from_secs(1);
const PERMILLE: u32 = 1000;

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
