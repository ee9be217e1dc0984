//! The list in force: what came, what the pins admit of it, and what is kept of both.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Published, SyncState, TrustError};
use crate::clock::Clock;
use crate::integration::diff::diff;
use crate::integration::pins::{Admission, Pins, Quarantine, Quarantined};
use crate::integration::registry::IntegrationRegistry;
use crate::integration::snapshot::{Snapshot, SnapshotStore, StoreError};
use crate::integration::source::{IntegrationList, IntegrationSource, SourceError, SourceErrorKind};

/// How long a kept list may go without being confirmed anew, so that its age after a restart is about right.
const CONFIRM_AFTER: Duration = Duration::from_secs(10 * 60);

/// Holds the list and the pins, publishes what follows from them, and has them kept.
pub(super) struct Ledger {
    clock: Arc<dyn Clock>,
    entries: Mutex<Entries>,
    /// Whether the pins are held against the lists.
    is_questioned: bool,
    publish: watch::Sender<Published>,
    /// One save at a time, each with the newest there is.
    saving: AsyncMutex<Option<Saved>>,
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
}

/// What was saved last.
#[derive(Clone, Copy)]
struct Saved {
    at: Instant,
    revision: u64,
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
            saving: AsyncMutex::new(None),
            scope: source.scope(),
            source: source.describe(),
            store,
        }
    }

    /// Puts the kept list to use; says whether there is one. What cannot be used is set aside and does not stop anything.
    pub(super) async fn restore(&self) -> bool {
        let Some(store) = self.store.clone() else { return false };
        let loading = tokio::task::spawn_blocking(move || load(&*store));
        let loaded = loading.await.unwrap_or_else(|_| Err("reading the kept list failed for a defect of scm-agent".to_owned()));
        let snapshot = match loaded {
            Ok(Some(snapshot)) => snapshot,
            Ok(None) => return false,
            Err(problem) => {
                warn!(problem, "the kept list is not used");
                self.publish.send_modify(|published| published.state.snapshot_problems = vec![problem]);
                return false;
            }
        };
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
            log_quarantine(old, quarantine);
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
    pub(super) async fn succeeded(self: &Arc<Self>, list: IntegrationList) {
        self.take(list);
        self.save(false).await;
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
                log_quarantine(old, quarantine);
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
    pub(super) async fn trust(self: &Arc<Self>, id: &str, change: &str) -> Result<Quarantined, TrustError> {
        let quarantine = Arc::clone(&self.publish.borrow().quarantine);
        let held = quarantine.get(id).ok_or_else(|| TrustError::Unknown { id: id.to_owned() })?;
        if held.change != change {
            return Err(TrustError::Changed { id: id.to_owned() });
        }
        info!(target: "audit", integration = id, change, "accepted what was held back");
        self.accept(held);
        match self.save(false).await {
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

    /// Has the list and the pins kept, if they changed since they were, or anyway; why not.
    pub(super) async fn save(self: &Arc<Self>, anyway: bool) -> Option<String> {
        let store = self.store.clone()?;
        let mut saved = self.saving.lock().await;
        let is_kept = saved.is_some_and(|saved| saved.revision == self.lock().revision && saved.at.elapsed() < CONFIRM_AFTER);
        if is_kept && !anyway {
            return None;
        }
        let ledger = Arc::clone(self);
        let saving = tokio::task::spawn_blocking(move || {
            let (revision, snapshot) = ledger.write()?;
            Some(store.save(snapshot).map(|()| revision))
        });
        let problem = match saving.await {
            // There is no list yet.
            Ok(None) => return None,
            Ok(Some(Ok(revision))) => {
                *saved = Some(Saved { at: Instant::now(), revision });
                None
            }
            Ok(Some(Err(StoreError { message, .. }))) => Some(message),
            Err(_) => Some("keeping the list failed for a defect of scm-agent".to_owned()),
        };
        drop(saved);
        self.note_problem(problem.as_deref());
        problem
    }

    /// What is to be kept, and which revision that is.
    fn write(&self) -> Option<(u64, Vec<u8>)> {
        let entries = self.lock();
        let Entries { confirmed_at, list, pins, revision } = &*entries;
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
        if self.is_questioned { pins.admit(list.clone()) } else { Admission { list: list.clone(), quarantined: Vec::new() } }
    }

    /// Publishes what was admitted, under the lock of the entries, so that the newest comes last; `log` says whether the registry is
    /// another than before, and `note` changes the state along with it.
    fn publish_list(
        &self,
        admission: Admission,
        log: impl FnOnce(&Published, &IntegrationRegistry, &Quarantine) -> bool,
        note: impl FnOnce(&mut SyncState),
    ) {
        let Admission { list, quarantined } = admission;
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
            info!(usable, rejected, added, changed, removed, oauth_removed, pat_disabled, unusable, "the integrations changed");
        }
        let rejected_changed = refusals(old) != refusals(new);
        if let (true, Some(first)) = (rejected_changed, new.rejected().first()) {
            // Debug for what the control plane wrote: it escapes control characters.
            warn!(rejected, position = first.position, id = ?first.id, reason = %first.reason, "some integrations cannot be used; this is the first");
        }
        rejected_changed || !changes.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the kept list; what is damaged is set aside, in a sentence that tells where it is now.
fn load(store: &dyn SnapshotStore) -> Result<Option<Snapshot>, String> {
    let problem = match store.load() {
        Ok(None) => return Ok(None),
        Ok(Some(bytes)) => match Snapshot::from_bytes(&bytes) {
            Ok(snapshot) => return Ok(Some(snapshot)),
            Err(error) => error.to_string(),
        },
        Err(StoreError { damaged: true, message }) => message,
        Err(StoreError { damaged: false, message }) => return Err(format!("the kept list cannot be read: {message}")),
    };
    let place = match store.set_aside() {
        Ok(place) => format!("it is now {place}"),
        Err(error) => format!("and it cannot be moved away: {error}"),
    };
    // Until an operator has seen it: whoever can damage the file can make the agent forget what it trusted.
    Err(format!("the kept list was not usable: {problem}; {place}, and what the control plane says now is trusted anew"))
}

/// Writes a line for each integration that is held back and was not before, or no longer is.
fn log_quarantine(old: &Published, new: &Quarantine) {
    for entry in
        new.entries().iter().filter(|entry| old.quarantine.get(&entry.proposed.id).is_none_or(|known| known.change != entry.change))
    {
        let fields: Vec<&str> = entry.changes.iter().map(|change| change.field).collect();
        let (integration, serving) = (&entry.proposed.id, entry.trusted.is_some());
        warn!(target: "audit", integration, fields = fields.join(" "), serving, "held back: changed without a new secret; see scm-agent trust");
    }
    for gone in old.quarantine.entries().iter().filter(|entry| new.get(&entry.proposed.id).is_none()) {
        info!(target: "audit", integration = gone.proposed.id, "no longer held back: the control plane took the change back");
    }
}

/// The rejected entries, wherever in the list they stood.
fn refusals(registry: &IntegrationRegistry) -> Vec<(Option<&str>, &str)> {
    let mut refusals: Vec<_> = registry.rejected().iter().map(|entry| (entry.id.as_deref(), entry.reason.as_str())).collect();
    refusals.sort_unstable();
    refusals
}
