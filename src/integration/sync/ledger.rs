//! The list in force: what came, what the pins admit of it, and what is kept of both.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::{Published, SyncState, TrustError};
use crate::clock::Clock;
use crate::integration::diff::diff;
use crate::integration::pins::{Admission, Pins, Quarantine, Quarantined};
use crate::integration::registry::IntegrationRegistry;
use crate::integration::snapshot::{Snapshot, SnapshotStore, StoreError};
use crate::integration::source::{IntegrationList, IntegrationSource, SourceError, SourceErrorKind};

/// How long reading or writing may take before it is said that the store does not answer.
const SLOW_STORE: Duration = Duration::from_secs(10);

/// How long whoever accepts something waits for it to be kept.
const TRUST_WAIT: Duration = Duration::from_secs(5);

const NO_ANSWER: &str = "the state directory does not answer";

/// How long a kept list may go without being confirmed anew, so that its age after a restart is about right.
const CONFIRM_AFTER: Duration = Duration::from_secs(10 * 60);

/// Holds the list and the pins, publishes what follows from them, and has them kept.
pub(super) struct Ledger {
    clock: Arc<dyn Clock>,
    entries: Mutex<Entries>,
    /// Whether the pins are held against the lists.
    is_questioned: bool,
    publish: watch::Sender<Published>,
    saves: Saves,
    scope: String,
    source: String,
    store: Option<Arc<dyn SnapshotStore>>,
}

#[derive(Default)]
struct Entries {
    /// When the source last said that the list is the current one.
    confirmed_at: Option<SystemTime>,
    /// The list as it came; `None` before the first.
    list: Option<IntegrationList>,
    pins: Pins,
    /// Grows with each change of the list or the pins.
    revision: u64,
    /// Whether there is a kept list that could not be read: it must not be written over, and what it trusts still counts.
    unread: bool,
}

/// Saving goes on beside everything else: a disk that hangs must not keep a list from being fetched or put to use.
#[derive(Default)]
struct Saves {
    /// The last one that was asked for.
    asked: AtomicU64,
    /// The last one that was dealt with, and why it failed.
    done: watch::Sender<(u64, Option<String>)>,
    request: Notify,
    /// What was saved last, and when.
    saved: Mutex<Option<(u64, Instant)>>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("scope", &self.scope).finish_non_exhaustive()
    }
}

impl Ledger {
    pub(super) fn new(
        clock: Arc<dyn Clock>,
        publish: watch::Sender<Published>,
        source: &dyn IntegrationSource,
        store: Option<Arc<dyn SnapshotStore>>,
    ) -> Self {
        Self {
            clock,
            entries: Mutex::default(),
            is_questioned: !source.is_operators(),
            publish,
            saves: Saves::default(),
            scope: source.scope(),
            source: source.describe(),
            store,
        }
    }

    /// Puts the kept list to use; says whether there is one. What cannot be used is set aside and does not stop anything.
    pub(super) async fn restore(&self) -> bool {
        let Some(store) = self.store.clone() else { return false };
        let loading = timeout(SLOW_STORE, tokio::task::spawn_blocking(move || load(&*store)));
        let loaded = match loading.await {
            Ok(loaded) => loaded.unwrap_or_else(|_| Err(LoadError::Unread("reading it failed for a defect of scm-agent".to_owned()))),
            Err(_) => Err(LoadError::Unread(NO_ANSWER.to_owned())),
        };
        let problem = match loaded {
            Ok(Some(snapshot)) => return self.adopt(snapshot),
            Ok(None) => return false,
            Err(LoadError::SetAside(problem)) => problem,
            Err(LoadError::Unread(reason)) => {
                self.lock().unread = true;
                unread(&reason)
            }
        };
        warn!(problem, "the kept list is not used");
        self.publish.send_modify(|published| published.state.snapshot_problems = vec![problem]);
        false
    }

    fn adopt(&self, snapshot: Snapshot) -> bool {
        let Snapshot { confirmed_at, list, pins, scope } = snapshot;
        let mut entries = self.lock();
        entries.pins = pins;
        if scope != self.scope {
            info!("the kept list is another runner's or another control plane's; only what is trusted is taken from it");
            return false;
        }
        entries.confirmed_at = Some(confirmed_at);
        let admission = self.admit(&mut entries.pins, &list);
        entries.list = Some(list);
        let age = self.clock.now().duration_since(confirmed_at).unwrap_or_default().as_secs();
        let log = |old: &Published, new: &IntegrationRegistry, quarantine: &Quarantine| {
            let (usable, quarantined) = (new.integrations().len(), quarantine.entries().len());
            info!(source = self.source, usable, quarantined, age_seconds = age, "serving the kept list until the source answers");
            log_quarantine(old, new, quarantine);
            true
        };
        // Together, so that nobody takes it for a list that just came.
        self.publish_list(admission, log, |state| {
            state.from_snapshot = true;
            state.last_success = Some(confirmed_at);
        });
        true
    }

    /// Takes a list that came.
    pub(super) fn succeeded(&self, list: IntegrationList) {
        self.take(list);
        let revision = self.lock().revision;
        let saved = *self.saves.saved.lock().unwrap_or_else(PoisonError::into_inner);
        // The same list again is written only now and then.
        if saved.is_none_or(|(saved, at)| saved != revision || at.elapsed() >= CONFIRM_AFTER) {
            self.ask_to_save();
        }
    }

    fn take(&self, list: IntegrationList) {
        let now = self.clock.now();
        let (is_first, failures) = {
            let published = self.publish.borrow();
            (published.attempts == u64::from(published.state.consecutive_failures), published.state.consecutive_failures)
        };
        if failures > 0 {
            info!(failures, "fetching the integrations works again");
        }
        let mut entries = self.lock();
        entries.confirmed_at = Some(now);
        if entries.list.as_ref() != Some(&list) {
            let admission = self.admit(&mut entries.pins, &list);
            entries.list = Some(list);
            entries.revision += 1;
            let log = |old: &Published, new: &IntegrationRegistry, quarantine: &Quarantine| {
                log_quarantine(old, new, quarantine);
                self.log_list(is_first, &old.registry, new)
            };
            self.publish_list(admission, log, |_| {});
        } else if is_first {
            // The same list again costs nothing.
            let registry = Arc::clone(&self.publish.borrow().registry);
            let (usable, rejected) = (registry.integrations().len(), registry.rejected().len());
            info!(source = self.source, usable, rejected, "fetched the integrations; the kept list is the current one");
        }
        self.publish.send_modify(|published| {
            let state = &mut published.state;
            state.consecutive_failures = 0;
            state.from_snapshot = false;
            state.last_attempt = Some(now);
            state.last_error = None;
            state.next = None;
            state.last_success = Some(now);
            published.attempts += 1;
        });
    }

    /// Notes an attempt that failed.
    pub(super) fn failed(&self, error: &SourceError) {
        let now = self.clock.now();
        if self.publish.borrow().state.last_error.as_ref() != Some(&error.message) {
            let needs_operator = error.kind == SourceErrorKind::Operator;
            let next = error.next;
            warn!(source = self.source, reason = %error.message, needs_operator, next, "cannot fetch the integrations; the last list stays in use");
        }
        self.publish.send_modify(|published| {
            let state = &mut published.state;
            state.consecutive_failures = state.consecutive_failures.saturating_add(1);
            state.last_attempt = Some(now);
            state.last_error = Some(error.message.clone());
            state.next = error.next;
            published.attempts += 1;
        });
    }

    /// Failed attempts since the last good one.
    pub(super) fn failures(&self) -> u32 {
        self.publish.borrow().state.consecutive_failures
    }

    pub(super) fn set_watching(&self, watching: bool) {
        self.publish.send_if_modified(|published| std::mem::replace(&mut published.state.watching, watching) != watching);
    }

    /// Accepts what is held back under an id, if it is still what was shown.
    pub(super) async fn trust(&self, id: &str, change: &str) -> Result<Quarantined, TrustError> {
        let quarantine = Arc::clone(&self.publish.borrow().quarantine);
        let held = quarantine.get(id).ok_or_else(|| TrustError::Unknown { id: id.to_owned() })?;
        if held.change != change {
            return Err(TrustError::Changed { id: id.to_owned() });
        }
        info!(target: "audit", event = "trusted", integration = id, change, "accepted what was held back");
        self.accept(held);
        match self.save(TRUST_WAIT).await {
            None => Ok(held.clone()),
            Some(reason) => Err(TrustError::NotKept { id: id.to_owned(), reason }),
        }
    }

    fn accept(&self, held: &Quarantined) {
        let mut entries = self.lock();
        let Entries { list, pins, revision, .. } = &mut *entries;
        pins.accept(held);
        *revision += 1;
        if let Some(list) = list {
            let admission = self.admit(pins, list);
            self.publish_list(admission, |old, new, _| self.log_list(false, &old.registry, new), |_| {});
        }
    }

    /// Has the list and the pins kept soon; the number of the request.
    fn ask_to_save(&self) -> u64 {
        let number = self.saves.asked.fetch_add(1, Ordering::SeqCst) + 1;
        self.saves.request.notify_one();
        number
    }

    /// Has the list and the pins kept, and waits for that; why it did not happen.
    pub(super) async fn save(&self, patience: Duration) -> Option<String> {
        self.store.as_ref()?;
        let mut done = self.saves.done.subscribe();
        let number = self.ask_to_save();
        match timeout(patience, done.wait_for(|(last, _)| *last >= number)).await {
            Ok(Ok(done)) => done.1.clone(),
            // The task has ended, and the process with it.
            Ok(Err(_)) => Some("the agent is stopping".to_owned()),
            Err(_) => Some(NO_ANSWER.to_owned()),
        }
    }

    /// Saves whenever that is asked for, one save at a time, each with the newest there is. Never ends.
    pub(super) async fn keep_saving(self: Arc<Self>) {
        let Some(store) = self.store.clone() else { return };
        loop {
            self.saves.request.notified().await;
            let number = self.saves.asked.load(Ordering::SeqCst);
            let (ledger, store) = (Arc::clone(&self), Arc::clone(&store));
            let mut saving = tokio::task::spawn_blocking(move || ledger.save_now(&*store));
            let saved = match timeout(SLOW_STORE, &mut saving).await {
                Ok(saved) => saved,
                Err(_) => {
                    self.note_problem(Some(NO_ANSWER));
                    saving.await
                }
            };
            let problem = saved.unwrap_or_else(|_| Some("keeping it failed for a defect of scm-agent".to_owned()));
            self.note_problem(problem.as_deref());
            self.saves.done.send_replace((number, problem));
        }
    }

    /// Saves what is in force; why it could not be.
    fn save_now(&self, store: &dyn SnapshotStore) -> Option<String> {
        let is_unread = self.lock().unread;
        if is_unread {
            match load(store) {
                Ok(None) => self.lock().unread = false,
                Ok(Some(snapshot)) => self.catch_up(snapshot),
                Err(LoadError::SetAside(problem)) => {
                    self.lock().unread = false;
                    self.publish.send_modify(|published| published.state.snapshot_problems.push(problem));
                }
                // Not written over: what it trusts still counts once it can be read.
                Err(LoadError::Unread(reason)) => return Some(reason),
            }
        }
        let (revision, snapshot) = self.write()?;
        match store.save(snapshot) {
            Ok(()) => {
                *self.saves.saved.lock().unwrap_or_else(PoisonError::into_inner) = Some((revision, Instant::now()));
                None
            }
            Err(StoreError { message, .. }) => Some(message),
        }
    }

    /// Takes the pins of a kept list that could not be read until now, and holds them against what is in force.
    fn catch_up(&self, snapshot: Snapshot) {
        let mut entries = self.lock();
        let Entries { list, pins, revision, unread, .. } = &mut *entries;
        (*pins, *unread, *revision) = (snapshot.pins, false, *revision + 1);
        info!("the kept list can be read again; what it trusts counts");
        if let Some(list) = list {
            let admission = self.admit(pins, list);
            let log = |old: &Published, new: &IntegrationRegistry, quarantine: &Quarantine| {
                log_quarantine(old, new, quarantine);
                self.log_list(false, &old.registry, new)
            };
            self.publish_list(admission, log, |_| {});
        }
    }

    /// What is to be kept, and which revision that is.
    fn write(&self) -> Option<(u64, Vec<u8>)> {
        let entries = self.lock();
        let Entries { confirmed_at, list, pins, revision, .. } = &*entries;
        Some((*revision, Snapshot::write((*confirmed_at)?, list.as_ref()?, pins, &self.scope)))
    }

    /// Notes whether the list could be kept, with a line when that changes. What was wrong at the start stays noted.
    fn note_problem(&self, problem: Option<&str>) {
        const NOT_KEPT: &str = "the list of integrations is not kept for the next start: ";
        let problem = problem.map(|problem| format!("{NOT_KEPT}{problem}"));
        let is_news = self.publish.send_if_modified(|published| {
            let problems = &mut published.state.snapshot_problems;
            let before = problems.iter().position(|known| known.starts_with(NOT_KEPT));
            if before.map(|index| &problems[index]) == problem.as_ref() {
                return false;
            }
            before.map(|index| problems.remove(index));
            problems.extend(problem.clone());
            true
        });
        match problem {
            Some(problem) if is_news => warn!(problem, "trying again with the next list"),
            None if is_news => info!("the list of integrations is kept again"),
            _ => {}
        }
    }

    fn admit(&self, pins: &mut Pins, list: &IntegrationList) -> Admission {
        if !self.is_questioned {
            return Admission { forgotten: 0, list: list.clone(), quarantined: Vec::new() };
        }
        let admission = pins.admit(list.clone(), self.clock.now());
        if admission.forgotten > 0 {
            let forgotten = admission.forgotten;
            warn!(target: "audit", event = "trust_forgotten", secrets = forgotten, "forgot secrets that were gone for a month, to make room for others");
        }
        admission
    }

    /// Publishes what was admitted, under the lock of the entries, so that the newest comes last; `log` says whether the registry is
    /// another than before, and `note` changes the state along with it.
    fn publish_list(
        &self,
        admission: Admission,
        log: impl FnOnce(&Published, &IntegrationRegistry, &Quarantine) -> bool,
        note: impl FnOnce(&mut SyncState),
    ) {
        let Admission { forgotten: _, list, quarantined } = admission;
        let (registry, quarantine) = (IntegrationRegistry::new(list), Quarantine::new(quarantined));
        let old = self.publish.borrow().clone();
        let is_new = log(&old, &registry, &quarantine);
        self.publish.send_modify(|published| {
            if is_new {
                published.registry = Arc::new(registry);
            }
            if old.quarantine.entries() != quarantine.entries() {
                published.quarantine = Arc::new(quarantine);
            }
            note(&mut published.state);
        });
    }

    /// Writes what changed, in a line per kind of news; says whether anything did.
    fn log_list(&self, is_first: bool, old: &IntegrationRegistry, new: &IntegrationRegistry) -> bool {
        let (usable, rejected) = (new.integrations().len(), new.rejected().len());
        let changes = diff(old, new);
        if is_first {
            info!(source = self.source, usable, rejected, "fetched the integrations");
        } else if !changes.is_empty() {
            let (added, changed, removed) = (changes.added.len(), changes.changed.len(), changes.removed.len());
            let (oauth_removed, pat_disabled) = (changes.oauth_removed.len(), changes.pat_disabled.len());
            let unusable = changes.unusable.len();
            info!(target: "audit", event = "list_changed", usable, rejected, added, changed, removed, oauth_removed, pat_disabled, unusable, "the integrations changed");
        }
        let rejected_changed = refusals(old) != refusals(new);
        if let (true, Some(first)) = (rejected_changed, new.rejected().first()) {
            // As a text for what the control plane wrote: control characters in it are escaped.
            warn!(rejected, position = first.position, id = first.id, reason = %first.reason, "some integrations cannot be used; this is the first");
        }
        rejected_changed || !changes.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no kept list, though there may be one.
enum LoadError {
    /// It is bad, and was moved out of the way; in a sentence.
    SetAside(String),
    /// It may be good and cannot be read at present; why.
    Unread(String),
}

/// Reads the kept list; what is damaged is set aside, in a sentence that tells where it is now.
fn load(store: &dyn SnapshotStore) -> Result<Option<Snapshot>, LoadError> {
    let problem = match store.load() {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => match Snapshot::from_bytes(&bytes) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(error) => error.to_string(),
        },
        Err(StoreError { damaged: true, message }) => message,
        Err(StoreError { damaged: false, message }) => return Err(LoadError::Unread(message)),
    };
    match store.set_aside() {
        // Until an operator has seen it: whoever can damage the file can make the agent forget what it trusted.
        Ok(place) => Err(LoadError::SetAside(format!(
            "the kept list was not usable: {problem}; it is now {place}, and what the control plane says now is trusted anew"
        ))),
        Err(error) => Err(LoadError::Unread(format!("{problem}, and it cannot be moved away: {error}"))),
    }
}

fn unread(reason: &str) -> String {
    format!("the kept list cannot be read: {reason}; until it can be, what the control plane says is trusted anew")
}

/// Writes a line for each integration that is held back and was not before, or no longer is.
fn log_quarantine(old: &Published, registry: &IntegrationRegistry, new: &Quarantine) {
    for entry in
        new.entries().iter().filter(|entry| old.quarantine.get(&entry.proposed.id).is_none_or(|known| known.change != entry.change))
    {
        let fields: Vec<&str> = entry.changes.iter().map(|change| change.field).collect();
        let (integration, serving) = (&entry.proposed.id, entry.trusted.is_some());
        warn!(target: "audit", event = "held_back", integration, fields = fields.join(" "), serving, "held back: changed without a new secret; see scm-agent trust");
    }
    for gone in old.quarantine.entries().iter().filter(|entry| new.get(&entry.proposed.id).is_none()) {
        let integration = &gone.proposed.id;
        match registry.get(integration) {
            Some(_) => {
                info!(target: "audit", event = "released", integration, "no longer held back: the control plane took the change back, or sent a new secret")
            }
            None => info!(target: "audit", event = "released", integration, "no longer held back: the list has it no more"),
        }
    }
}

/// The rejected entries, wherever in the list they stood.
fn refusals(registry: &IntegrationRegistry) -> Vec<(Option<&str>, &str)> {
    let mut refusals: Vec<_> = registry.rejected().iter().map(|entry| (entry.id.as_deref(), entry.reason.as_str())).collect();
    refusals.sort_unstable();
    refusals
}
