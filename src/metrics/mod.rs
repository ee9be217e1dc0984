//! What an operator's Prometheus is told: numbers that are counted where things happen, and those of what is held now.
//!
//! There is one [`Metrics`] in a daemon. It is handed on like the clock, counts without a lock, and outlives every reload. What is held at a
//! moment, such as tokens and integrations, is not counted along: it is looked at when somebody asks ([`Gauges`]). No label has anything in
//! it that a caller, a host or the control plane could choose: see [`labels`].

mod count;
pub mod labels;
pub mod listen;
mod process;
mod registry;
pub mod serve;
mod text;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::denial::Denials;
use count::{Counters, Histogram};
use labels::{
    Algorithm, Holder, Operation, Outcome, Provider, Refresh, Registered, Rejected, Revocation, Secret, Served, Success, Sync, TokenGrant,
    TokenOutcome, TokenState,
};
pub use text::Format;

const fn micros(number: u64) -> Duration {
    Duration::from_micros(number)
}

const fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

/// For an answer: from memory it takes less than a millisecond, and nobody waits for longer than the longest `request_timeout` of sense.
static REQUEST_BUCKETS: [Duration; 16] = [
    micros(50),
    micros(100),
    micros(250),
    micros(500),
    millis(1),
    micros(2_500),
    millis(5),
    millis(10),
    millis(25),
    millis(50),
    millis(100),
    millis(250),
    millis(500),
    seconds(1),
    micros(2_500_000),
    seconds(10),
];

/// For what goes over a network.
static NETWORK_BUCKETS: [Duration; 13] = [
    millis(5),
    millis(10),
    millis(25),
    millis(50),
    millis(100),
    millis(250),
    millis(500),
    seconds(1),
    micros(2_500_000),
    seconds(5),
    seconds(10),
    seconds(30),
    seconds(120),
];

/// All that is counted.
pub struct Metrics {
    started: SystemTime,
    connections: AtomicU64,
    decrypts: Counters<(Algorithm, Success)>,
    denials: Arc<Denials>,
    refreshes: Counters<Refresh>,
    rejected: Counters<Rejected>,
    reloads: Counters<Success>,
    last_reload_failed: AtomicBool,
    requests: Counters<(Operation, Outcome)>,
    request_durations: [Histogram; 4],
    revocations: Counters<Revocation>,
    syncs: Counters<Sync>,
    sync_durations: Histogram,
    token_requests: [Counters<(Provider, TokenOutcome)>; 3],
    token_durations: Histogram,
    /// Why nobody can ask for all this.
    problem: Mutex<Option<String>>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            started: SystemTime::now(),
            connections: AtomicU64::new(0),
            decrypts: Counters::of_pairs(),
            denials: Arc::default(),
            refreshes: Counters::new(),
            rejected: Counters::new(),
            reloads: Counters::new(),
            last_reload_failed: AtomicBool::new(false),
            requests: Counters::of_pairs(),
            request_durations: std::array::from_fn(|_| Histogram::new(&REQUEST_BUCKETS)),
            revocations: Counters::new(),
            syncs: Counters::new(),
            sync_durations: Histogram::new(&NETWORK_BUCKETS),
            token_requests: std::array::from_fn(|_| Counters::of_pairs()),
            token_durations: Histogram::new(&NETWORK_BUCKETS),
            problem: Mutex::default(),
        }
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Metrics {
    /// Where what is refused to callers is counted, and written down.
    #[must_use]
    pub fn denials(&self) -> &Arc<Denials> {
        &self.denials
    }

    /// Somebody who may ask has connected, and there was a place.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// A request was answered, or given up.
    pub fn answered(&self, operation: Operation, outcome: Outcome, served: Served, took: Duration) {
        self.requests.add_pair(operation, outcome);
        self.request_durations[labels::Label::index(served)].observe(took);
    }

    /// A request could not be read.
    pub fn unreadable(&self) {
        self.requests.add_pair(Operation::Other, Outcome::Error);
    }

    /// An app's secret was tried to open.
    pub fn decrypted(&self, algorithm: Algorithm) {
        self.decrypts.add_pair(algorithm, if algorithm == Algorithm::None { Success::Failure } else { Success::Success });
    }

    /// An issuer was asked for a token.
    pub fn token_requested(&self, grant: TokenGrant, provider: Provider, outcome: TokenOutcome, took: Duration) {
        self.token_requests[labels::Label::index(grant)].add_pair(provider, outcome);
        self.token_durations.observe(took);
    }

    /// A sign-in was to be renewed.
    pub fn refreshed(&self, outcome: Refresh) {
        self.refreshes.add(outcome);
    }

    /// git says that a host refused a token that is held.
    pub fn rejected(&self, outcome: Rejected) {
        self.rejected.add(outcome);
    }

    /// A token that nobody is to use any more was dealt with.
    pub fn revoked(&self, outcome: Revocation) {
        self.revocations.add(outcome);
    }

    /// The list was asked for.
    pub fn synced(&self, outcome: Sync, took: Duration) {
        self.syncs.add(outcome);
        self.sync_durations.observe(took);
    }

    /// The settings were read again.
    pub fn reloaded(&self, outcome: Success) {
        self.reloads.add(outcome);
        self.last_reload_failed.store(outcome == Success::Failure, Ordering::Relaxed);
    }

    /// Notes why nobody can ask for the metrics, for [`Metrics::problem`].
    pub fn note_problem(&self, problem: Option<String>) {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }

    /// What is to be said of the metrics in `degraded`.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything, as a scrape has it.
    #[must_use]
    pub fn scrape(&self, gauges: &Gauges, format: Format) -> String {
        registry::write(self, gauges, format)
    }
}

/// What is held at a moment. Nothing in it is about a single caller, host or integration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Open connections.
    pub connections: u64,
    /// How many there may be.
    pub connections_limit: u64,
    /// How many things do not work as they should.
    pub degraded: u64,
    /// The usable integrations, and those held back, by the state of their secret.
    pub integrations: Vec<(Secret, u64)>,
    /// The runner's keys.
    pub keys: Vec<(Registered, u64)>,
    /// When the list was last asked for.
    pub last_attempt: Option<u64>,
    /// When a whole list last came, or a kept one was last confirmed; Unix seconds, as all times here.
    pub last_success: Option<u64>,
    /// Whether secrets are kept out of swap.
    pub memory_locked: bool,
    /// Tokens that are not replaced though hosts refuse them.
    pub paused: u64,
    /// How often the list is asked for.
    pub poll_interval: Duration,
    /// Whether the list in use is older than it should be.
    pub stale: bool,
    /// Whether users' grants can be kept.
    pub store_healthy: bool,
    /// Failed attempts at the list since the last good one.
    pub sync_failures: u64,
    /// The tokens held, the kept ones of users included.
    pub tokens: Vec<((Holder, TokenState), u64)>,
    /// Whether changes of the list are pushed.
    pub watching: bool,
}
