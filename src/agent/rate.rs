//! How many requests one user may make: so many at once, then so many a second. Who makes more waits, so that git is slow and does not
//! fail; only where the wait would be long is a request refused.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The longest that a request waits.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// How many users are remembered. Those beyond share one allowance.
const MAX_USERS: usize = 4_096;

/// How many requests one user may make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Requests at once, after a while without.
    pub burst: usize,
    /// Requests a second from then on.
    pub per_second: usize,
}

/// Holds users to a rate.
#[derive(Debug, Clone)]
pub struct Rates {
    rate: Rate,
    /// For each user who has not all of its burst, when it will have it again; `None` stands for those beyond [`MAX_USERS`].
    whole_at: Arc<Mutex<HashMap<Option<u32>, Instant>>>,
}

/// Why a request is not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {per_second} requests a second")]
pub struct TooMany {
    per_second: usize,
}

impl Rates {
    /// Begins with all of everybody's burst.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self { rate, whole_at: Arc::default() }
    }

    /// The same users at a rate. At another one than before everybody begins anew: what was taken of the old one says nothing there.
    #[must_use]
    pub fn with_rate(&self, rate: Rate) -> Self {
        if rate == self.rate { self.clone() } else { Self::new(rate) }
    }

    /// Counts a request of a user's, and says how long it has to wait.
    ///
    /// # Errors
    /// [`TooMany`] where it would have to wait for too long; it is not counted then.
    pub fn take(&self, uid: u32) -> Result<Duration, TooMany> {
        let Rate { burst, per_second } = self.rate;
        let each = Duration::from_secs(1) / u32::try_from(per_second.max(1)).unwrap_or(u32::MAX);
        let at_once = each * u32::try_from(burst.max(1)).unwrap_or(u32::MAX);
        let now = Instant::now();
        let mut users = self.whole_at.lock().unwrap_or_else(PoisonError::into_inner);
        if users.len() >= MAX_USERS {
            users.retain(|_, whole_at| *whole_at > now);
        }
        let user = if users.len() < MAX_USERS || users.contains_key(&Some(uid)) { Some(uid) } else { None };
        let before = users.get(&user).map_or(now, |whole_at| (*whole_at).max(now));
        let whole_at = before + each;
        let wait = (whole_at - now).saturating_sub(at_once);
        if wait > LONGEST_WAIT {
            return Err(TooMany { per_second });
        }
        users.insert(user, whole_at);
        Ok(wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_user_has_so_many_at_once_then_waits_its_turn_and_at_last_is_refused() {
        let rates = Rates::new(Rate { burst: 5, per_second: 10 });
        assert!((0..5).all(|_| rates.take(1) == Ok(Duration::ZERO)));
        assert_eq!(rates.take(1), Ok(Duration::from_millis(100)));
        assert_eq!(rates.take(1), Ok(Duration::from_millis(200)));
        // Nobody else waits for that.
        assert_eq!(rates.take(2), Ok(Duration::ZERO));
        assert_eq!((3..=10).map(|_| rates.take(1).unwrap()).max(), Some(LONGEST_WAIT));
        assert_eq!(rates.take(1), Err(TooMany { per_second: 10 }));
        tokio::time::advance(Duration::from_millis(100)).await;
        assert_eq!(rates.take(1), Ok(LONGEST_WAIT));
        assert!(rates.take(1).is_err());
        tokio::time::advance(Duration::from_secs(60)).await;
        assert!((0..5).all(|_| rates.take(1) == Ok(Duration::ZERO)));
        assert!(rates.take(1).is_ok_and(|wait| !wait.is_zero()));
    }

    #[tokio::test(start_paused = true)]
    async fn another_rate_counts_at_once_and_what_was_taken_before_is_not_held_against_anybody() {
        let narrow = Rates::new(Rate { burst: 1, per_second: 1 });
        assert_eq!((narrow.take(1), narrow.take(1)), (Ok(Duration::ZERO), Ok(LONGEST_WAIT)));
        assert!(narrow.take(1).is_err());
        assert!(narrow.with_rate(Rate { burst: 1, per_second: 1 }).take(1).is_err());
        assert_eq!(narrow.with_rate(Rate { burst: 1, per_second: 2 }).take(1), Ok(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_users_are_remembered_and_those_beyond_are_one() {
        let rates = Rates::new(Rate { burst: 1, per_second: 1 });
        let most = u32::try_from(MAX_USERS).unwrap();
        assert!((0..most).all(|uid| rates.take(uid) == Ok(Duration::ZERO)));
        assert_eq!(rates.take(most), Ok(Duration::ZERO));
        assert_eq!(rates.take(most + 1), Ok(LONGEST_WAIT));
        assert_eq!(rates.whole_at.lock().unwrap().len(), MAX_USERS + 1);
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(rates.take(most + 1), Ok(Duration::ZERO));
        assert_eq!(rates.whole_at.lock().unwrap().len(), 1);
    }
}
