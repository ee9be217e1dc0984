//! How fast one issuer is asked to renew: renewals that fail use up an allowance of the issuer's, so that many dead grants, or a
//! host in trouble with many users, cost it a request now and then and not one for each grant at once.
//!
//! A renewal under way holds one credit. One that succeeds gives it back, one that fails does not; credits come back with time. So at
//! most [`BURST`] renewals are under way at an issuer, and those of grants that live hardly wait for those of dead ones.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use super::lock;

/// How many renewals may fail in a row, and how many may be under way.
const BURST: u32 = 10;

/// How soon a credit comes back that a failure used up.
const REFILL: Duration = Duration::from_secs(6);

/// The allowances of all issuers, by host and port.
#[derive(Default)]
pub(super) struct Pace(Arc<Mutex<HashMap<String, Issuer>>>);

struct Issuer {
    credits: u32,
    /// No request before this: the issuer said so.
    held_until: Option<Instant>,
    /// Since when the next credit is coming.
    refilling_since: Instant,
    /// Told when a renewal ends.
    ended: Arc<Notify>,
    under_way: u32,
}

/// A renewal that may go to its issuer; its end is that of the renewal.
pub(super) struct Pass {
    failure: Option<Option<Duration>>,
    host: String,
    issuers: Arc<Mutex<HashMap<String, Issuer>>>,
}

impl Pace {
    /// Waits for a credit where renewals that are under way may give one back.
    ///
    /// # Errors
    /// How long to wait, where only time gives one back.
    pub(super) async fn enter(&self, host: &str) -> Result<Pass, Duration> {
        loop {
            let (ended, next) = {
                let now = Instant::now();
                let mut issuers = lock(&self.0);
                let issuer = issuers.entry(host.to_owned()).or_insert_with(|| Issuer::new(now));
                issuer.refill(now);
                if let Some(until) = issuer.held_until {
                    return Err(until - now);
                }
                if let Some(credits) = issuer.credits.checked_sub(1) {
                    issuer.credits = credits;
                    issuer.under_way += 1;
                    return Ok(Pass { failure: None, host: host.to_owned(), issuers: Arc::clone(&self.0) });
                }
                let next = (issuer.refilling_since + REFILL).saturating_duration_since(now);
                if issuer.under_way == 0 {
                    return Err(next);
                }
                (Arc::clone(&issuer.ended).notified_owned(), next)
            };
            // Whether one ended or time gave a credit back: look again.
            let _ = timeout(next, ended).await;
        }
    }
}

impl Issuer {
    fn new(now: Instant) -> Self {
        Self { credits: BURST, held_until: None, refilling_since: now, ended: Arc::default(), under_way: 0 }
    }

    /// Gives back what time gives back.
    fn refill(&mut self, now: Instant) {
        self.held_until = self.held_until.filter(|until| *until > now);
        while self.credits + self.under_way < BURST && self.refilling_since + REFILL <= now {
            self.credits += 1;
            self.refilling_since += REFILL;
        }
        if self.credits + self.under_way == BURST {
            self.refilling_since = now;
        }
    }
}

impl Pass {
    /// Says that the renewal failed, and how long the issuer wants to be left alone, if it said so.
    pub(super) fn failed(&mut self, retry_after: Option<Duration>) {
        self.failure = Some(retry_after);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let now = Instant::now();
        let mut issuers = lock(&self.issuers);
        let Some(issuer) = issuers.get_mut(&self.host) else { return };
        issuer.refill(now);
        issuer.under_way -= 1;
        match self.failure {
            None => issuer.credits += 1,
            Some(retry_after) => {
                let until = retry_after.filter(|wait| !wait.is_zero()).map(|wait| now + wait);
                issuer.held_until = issuer.held_until.max(until);
            }
        }
        issuer.ended.notify_waiters();
        if issuer.credits == BURST && issuer.held_until.is_none() {
            issuers.remove(&self.host);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// Has as many renewals fail as may, one after the other; how many that were, and the wait then.
    async fn fail_all(pace: &Pace, host: &str) -> (u32, Duration) {
        let mut count = 0;
        loop {
            match pace.enter(host).await {
                Ok(mut pass) => pass.failed(None),
                Err(wait) => return (count, wait),
            }
            count += 1;
            assert!(count <= BURST, "it never ends");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn dead_grants_cost_an_issuer_a_few_requests_and_then_one_now_and_then() {
        let pace = Pace::default();
        assert_eq!(fail_all(&pace, "a").await, (BURST, REFILL));
        advance(REFILL / 2).await;
        assert_eq!(fail_all(&pace, "a").await, (0, REFILL / 2));
        advance(REFILL / 2).await;
        assert_eq!(fail_all(&pace, "a").await, (1, REFILL));
        // Another issuer has nothing to do with it, and a long rest gives no more than there was.
        assert_eq!(fail_all(&pace, "b").await.0, BURST);
        advance(REFILL * 1_000).await;
        assert_eq!(fail_all(&pace, "a").await.0, BURST);
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_that_succeed_cost_nothing_and_leave_nothing_behind() {
        let pace = Pace::default();
        for _ in 0..10 * BURST {
            drop(pace.enter("a").await.unwrap());
        }
        assert!(lock(&pace.0).is_empty());
        // Nor do they take the failures of others back.
        for _ in 0..BURST - 1 {
            pace.enter("a").await.unwrap().failed(None);
        }
        for _ in 0..10 * BURST {
            drop(pace.enter("a").await.unwrap());
        }
        assert_eq!(fail_all(&pace, "a").await.0, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_than_the_burst_are_under_way_and_the_others_wait_for_one_to_end() {
        let pace = Pace::default();
        let mut under_way = Vec::new();
        for _ in 0..BURST {
            under_way.push(pace.enter("a").await.unwrap());
        }
        assert!(timeout(REFILL * 100, pace.enter("a")).await.is_err(), "a credit that is held does not come back with time");
        let (entered, ()) = tokio::join!(timeout(REFILL, pace.enter("a")), async { drop(under_way.pop()) });
        under_way.push(entered.unwrap().unwrap());
        let (refused, ()) = tokio::join!(timeout(REFILL / 2, pace.enter("a")), async {
            for mut pass in under_way.drain(..) {
                pass.failed(None);
            }
        });
        assert!(refused.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_that_asks_for_rest_gets_it_from_all() {
        let pace = Pace::default();
        let rest = Duration::from_secs(90);
        pace.enter("a").await.unwrap().failed(Some(rest));
        assert_eq!(pace.enter("a").await.err(), Some(rest));
        // What was under way and fails later does not cut it short.
        pace.enter("b").await.unwrap();
        advance(rest).await;
        pace.enter("a").await.unwrap();
    }
}
