//! The task: one attempt after the other, and the wait between them.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::ledger::Ledger;
use super::pace::Pace;
use super::{Config, Jitter, Request, Signals};
use crate::integration::source::{IntegrationList, IntegrationSource, SourceError, SourceErrorKind};
use crate::metrics::Metrics;
use crate::metrics::labels::Sync;

pub(super) struct Poller {
    config: Config,
    ledger: Arc<Ledger>,
    metrics: Arc<Metrics>,
    pace: Pace,
    requests: mpsc::Receiver<Request>,
    signals: Arc<Signals>,
    source: Arc<dyn IntegrationSource>,
}

impl Poller {
    pub(super) fn new(
        config: Config,
        jitter: Arc<dyn Jitter>,
        ledger: Arc<Ledger>,
        requests: mpsc::Receiver<Request>,
        signals: Arc<Signals>,
        source: Arc<dyn IntegrationSource>,
    ) -> Self {
        Self { pace: Pace::new(&config, jitter), config, ledger, metrics: Arc::default(), requests, signals, source }
    }

    /// Has attempts counted there.
    pub(super) fn counted_by(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    pub(super) async fn run(mut self) {
        if self.ledger.restore().await {
            let due = Instant::now() + self.pace.splay();
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.signals.wanted.notified() => {}
                () = self.signals.hinted.notified() => {}
                Some(request) = self.requests.recv() => request.answer(Instant::now()),
            }
        }
        loop {
            // Whoever asked before this attempt is served by it. The order matters to `ask`: first the request goes, then the
            // count grows.
            while let Ok(request) = self.requests.try_recv() {
                request.answer(Instant::now());
            }
            let _ = self.signals.hinted.notified().now_or_never();
            self.signals.begun.fetch_add(1, Ordering::SeqCst);
            let failure = match self.counted_attempt().await {
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

    async fn counted_attempt(&self) -> Result<IntegrationList, SourceError> {
        let begun = Instant::now();
        let attempt = self.attempt().await;
        let outcome = match &attempt {
            Ok(_) => Sync::Success,
            Err(error) if error.kind == SourceErrorKind::Operator => Sync::Operator,
            Err(_) => Sync::Transient,
        };
        self.metrics.synced(outcome, begun.elapsed());
        attempt
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
        let mut hinted = false;
        let mut changed = self.source.changed();
        let mut has_changed = false;
        loop {
            tokio::select! {
                () = sleep_until(due) => return,
                Some(request) = self.requests.recv() => {
                    due = self.pace.follow_request(request.asker, ended, failure, due);
                    request.answer(due);
                }
                () = self.signals.hinted.notified(), if !hinted && failure.is_none() => {
                    hinted = true;
                    due = self.pace.follow_hint(due);
                }
                () = &mut changed, if !has_changed => {
                    has_changed = true;
                    due = due.min(ended + Pace::pause_after_change(failure));
                }
            }
        }
    }
}
