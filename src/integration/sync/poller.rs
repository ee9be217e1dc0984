//! The task: one attempt after the other, and the wait between them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use tokio::time::{Instant, sleep_until, timeout};

use super::ledger::Ledger;
use super::pace::Pace;
use super::{Config, Jitter, Signals};
use crate::integration::source::{IntegrationList, IntegrationSource, SourceError, SourceErrorKind};

pub(super) struct Poller {
    config: Config,
    ledger: Arc<Ledger>,
    pace: Pace,
    signals: Arc<Signals>,
    source: Arc<dyn IntegrationSource>,
}

impl Poller {
    pub(super) fn new(
        config: Config,
        jitter: Arc<dyn Jitter>,
        ledger: Arc<Ledger>,
        signals: Arc<Signals>,
        source: Arc<dyn IntegrationSource>,
    ) -> Self {
        Self { pace: Pace::new(&config, jitter), config, ledger, signals, source }
    }

    pub(super) async fn run(mut self) {
        if self.ledger.restore().await {
            let due = Instant::now() + self.pace.splay();
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.signals.asked.notified() => {}
                () = self.signals.hinted.notified() => {}
            }
        }
        loop {
            // Whoever asked before this attempt is served by it. The order matters to `sync_now`: first the request goes, then
            // the count grows.
            let _ = self.signals.asked.notified().now_or_never();
            let _ = self.signals.hinted.notified().now_or_never();
            self.signals.begun.fetch_add(1, Ordering::SeqCst);
            let failure = match self.attempt().await {
                Ok(list) => {
                    self.ledger.succeeded(list);
                    None
                }
                Err(error) => {
                    self.ledger.failed(&error);
                    Some(error)
                }
            };
            self.wait(failure.as_ref()).await;
        }
    }

    async fn attempt(&self) -> Result<IntegrationList, SourceError> {
        let failure =
            |message: &str| SourceError { kind: SourceErrorKind::Transient, message: message.to_owned(), next: None, retry_after: None };
        // A defect in reading one list must not be the end of all reading.
        match timeout(self.config.fetch_timeout, AssertUnwindSafe(self.source.fetch()).catch_unwind()).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(_)) => Err(failure("reading the list failed for a defect of scm-agent")),
            Err(_) => Err(failure("the list did not arrive in time")),
        }
    }

    /// Waits for the next attempt's time, and brings it forward when somebody asks or something happens.
    async fn wait(&mut self, failure: Option<&SourceError>) {
        let ended = Instant::now();
        let mut due = ended + self.pace.pause(failure, self.ledger.failures());
        let soonest = ended + Pace::pause_when_asked(failure);
        let mut hinted = false;
        let mut changed = self.source.changed();
        let mut has_changed = false;
        loop {
            tokio::select! {
                () = sleep_until(due) => return,
                () = self.signals.asked.notified() => due = due.min(soonest),
                () = self.signals.hinted.notified(), if !hinted && failure.is_none() => {
                    hinted = true;
                    due = due.min(self.pace.follow_hint(Instant::now()));
                }
                () = &mut changed, if !has_changed => {
                    has_changed = true;
                    due = due.min(soonest);
                }
            }
        }
    }
}
