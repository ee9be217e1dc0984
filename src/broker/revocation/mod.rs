//! Revokes at the issuer what integrations leave behind that are gone: in the background, a few tries each, within bounds.
//!
//! Only what nobody is to use any more is revoked: the tokens of an integration that was removed, or that lost its OAuth app. When
//! an integration merely changed (a rotated secret, another host), its tokens are dropped here and live on at the issuer until they
//! expire, because git commands that were given them still run and are to finish.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::{Broker, Error, TokenKey};
use crate::integration::ScmIntegration;
use crate::integration::registry::IntegrationRegistry;
use crate::integration::sync::{Jitter, Published, RandomJitter};
use crate::metrics::Metrics;
use crate::metrics::labels::Revocation;
use crate::oauth::{CachedToken, Classified, ErrorClass, Plan};

/// How many tokens are being revoked at the same time.
const AT_ONCE: usize = 4;

/// How many tokens may wait for their turn or their next try.
const MAX_WAITING: usize = 1_000;

/// How long to wait after each failure that time may mend; after one more the token is given up. Up to a quarter is added, so that
/// the hosts of a fleet do not come back together.
const WAITS: [Duration; 2] = [Duration::from_secs(15), Duration::from_secs(45)];

/// The tokens that are to be revoked.
pub(super) struct Revocations {
    arrived: Notify,
    list: watch::Receiver<Published>,
    metrics: Arc<Metrics>,
    waiting: Mutex<VecDeque<Doomed>>,
}

/// A token that is to be revoked.
struct Doomed {
    due: Instant,
    failures: usize,
    /// As it was when the token came through it.
    integration: Arc<ScmIntegration>,
    token: Arc<CachedToken>,
}

/// What became of a token that could be dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The issuer gave the same token for another integration, which goes on using it.
    InUse,
    /// The issuer offers no revocation.
    NotOffered,
    /// The issuer says that it is dead.
    Revoked,
}

impl Broker {
    /// Revokes the tokens of integrations that are gone, for as long as it is polled.
    pub async fn revoke_lost(&self) {
        self.revocations.run(|integration, token| self.revoke(integration, token)).await;
    }

    async fn revoke(&self, integration: Arc<ScmIntegration>, token: Arc<CachedToken>) -> Result<Verdict, Error> {
        if self.cache.holds(&token.access_token) {
            return Ok(Verdict::InUse);
        }
        let (Plan::Service(plan), Some(app)) = (self.latest().plan(&integration), &integration.oauth) else {
            return Ok(Verdict::NotOffered);
        };
        let Some(endpoint) = self.tokens.revocation_endpoint(&plan.endpoint, plan.client_authentication).await? else {
            return Ok(Verdict::NotOffered);
        };
        let client_secret = self.secrets.open(&app.encrypted_client_secret).await;
        let client_secret = client_secret.ok_or_else(|| Error::Undecryptable { integration_id: integration.id.clone() })?;
        self.tokens.revoke(&endpoint, &app.client_id, client_secret, &token.access_token).await?;
        Ok(Verdict::Revoked)
    }
}

impl Revocations {
    /// Nothing waits yet. By the list is judged whether an integration is gone.
    pub(super) fn new(list: watch::Receiver<Published>) -> Self {
        Self { arrived: Notify::new(), list, metrics: Arc::default(), waiting: Mutex::default() }
    }

    /// Has what becomes of tokens counted there.
    pub(super) fn counted_by(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// Takes what was dropped and keeps what is to be revoked: that of integrations which the list has no more.
    pub(super) fn take(&self, dropped: Vec<(TokenKey, Arc<CachedToken>)>) {
        if dropped.is_empty() {
            return;
        }
        let list = Arc::clone(&self.list.borrow().registry);
        let due = Instant::now();
        let doomed = lost(dropped, &list).map(|(key, token)| Doomed { due, failures: 0, integration: key.integration, token });
        self.wait_with(doomed);
        self.arrived.notify_one();
    }

    /// Has `revoke` deal with each token that waits, [`AT_ONCE`] at the same time. Never ends.
    pub(super) async fn run<R, F>(&self, revoke: R)
    where
        R: Fn(Arc<ScmIntegration>, Arc<CachedToken>) -> F,
        F: Future<Output = Result<Verdict, Error>>,
    {
        let mut running = Running { revocations: self, under_way: FuturesUnordered::new() };
        loop {
            while running.under_way.len() < AT_ONCE
                && let Some(doomed) = self.next_due()
            {
                let result = revoke(Arc::clone(&doomed.integration), Arc::clone(&doomed.token));
                running.under_way.push(async move { (doomed, result.await) });
            }
            let has_room = running.under_way.len() < AT_ONCE;
            let due = self.lock().iter().map(|doomed| doomed.due).min().filter(|_| has_room);
            tokio::select! {
                Some((doomed, result)) = running.under_way.next() => self.settle(doomed, result),
                () = self.arrived.notified(), if has_room => {}
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    /// Ends the matter with a line in the log, or has it wait for another try.
    fn settle(&self, mut doomed: Doomed, result: Result<Verdict, Error>) {
        let ScmIntegration { id: integration, host, .. } = &*doomed.integration;
        if let Ok(verdict) = &result {
            self.metrics.revoked(match verdict {
                Verdict::InUse => Revocation::InUse,
                Verdict::NotOffered => Revocation::NotOffered,
                Verdict::Revoked => Revocation::Revoked,
            });
        }
        let error = match result {
            Ok(Verdict::Revoked) => {
                return info!(target: "audit", event = "revoked", integration, host, "revoked the token of an integration that is gone");
            }
            Ok(Verdict::NotOffered) => return debug!(integration, host, "a token lives until it expires: its issuer revokes none"),
            Ok(Verdict::InUse) => {
                return info!(target: "audit", event = "not_revoked", integration, host, "not revoked: another integration was given the same token");
            }
            Err(error) => error,
        };
        match WAITS.get(doomed.failures).filter(|_| error.class() == ErrorClass::Transient) {
            Some(wait) => {
                debug!(integration, host, error = %error, "cannot revoke a token yet; trying again");
                let spread = *wait / 4 * RandomJitter.permille() / 1000;
                doomed.due = Instant::now() + (*wait + spread).max(error.retry_after().unwrap_or_default());
                doomed.failures += 1;
                self.wait_with(std::iter::once(doomed));
            }
            None => {
                self.metrics.revoked(Revocation::Failed);
                warn!(target: "audit", event = "not_revoked", integration, host, reason = %error, "cannot revoke the token of an integration that is gone; it lives until it expires")
            }
        }
    }

    /// The token whose turn it is: the first that is due.
    fn next_due(&self) -> Option<Doomed> {
        let now = Instant::now();
        let mut waiting = self.lock();
        let first = waiting.iter().position(|doomed| doomed.due <= now)?;
        waiting.remove(first)
    }

    fn wait_with(&self, doomed: impl Iterator<Item = Doomed>) {
        let mut waiting = self.lock();
        waiting.extend(doomed);
        let excess = waiting.len().saturating_sub(MAX_WAITING);
        if excess > 0 {
            waiting.drain(..excess);
            warn!(target: "audit", event = "not_revoked", tokens = excess, limit = MAX_WAITING, "too many tokens wait to be revoked; the oldest live until they expire");
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Doomed>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Those whose integration is no longer in the list, or has no OAuth app there. One that the list has but nobody can read was not
/// removed.
fn lost(dropped: Vec<(TokenKey, Arc<CachedToken>)>, list: &IntegrationRegistry) -> impl Iterator<Item = (TokenKey, Arc<CachedToken>)> {
    let unreadable: HashSet<&str> = list.rejected().iter().filter_map(|entry| entry.id.as_deref()).collect();
    dropped.into_iter().filter(move |(key, _)| {
        let id = key.integration.id.as_str();
        match list.get(id) {
            Some(integration) => integration.oauth.is_none(),
            None => !unreadable.contains(id),
        }
    })
}

/// The tries that go on. Dropping it ends them; what then was not revoked is told, not waited for.
struct Running<'r, F> {
    revocations: &'r Revocations,
    under_way: FuturesUnordered<F>,
}

impl<F> Drop for Running<'_, F> {
    fn drop(&mut self) {
        let left = self.under_way.len() + std::mem::take(&mut *self.revocations.lock()).len();
        if left > 0 {
            warn!(target: "audit", event = "not_revoked", tokens = left, "stopped before every token of an integration that is gone was revoked; the rest live until they expire");
        }
    }
}

#[cfg(test)]
mod tests;
