//! How much of a stream is read at full speed: an endless one must not keep a core busy, and need not, since TCP can push back.

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long a budget is for.
const PERIOD: Duration = Duration::from_secs(10);
/// Units at full speed in each period. An envelope is one unit, and so is a read, with one more for each KiB of it.
const UNITS: usize = 1_000;
const UNIT_BYTES: usize = 1024;
/// How many units come between two pauses once the budget is used up.
const UNITS_BETWEEN_PAUSES: usize = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// Counts what is read of a stream.
pub(super) struct Budget {
    began: Instant,
    since_pause: usize,
    used: usize,
}

impl Default for Budget {
    fn default() -> Self {
        Self { began: Instant::now(), since_pause: 0, used: 0 }
    }
}

impl Budget {
    /// Counts an envelope.
    pub(super) fn spend_envelope(&mut self) {
        self.spend(1);
    }

    /// Counts a read of so many bytes.
    pub(super) fn spend_read(&mut self, bytes: usize) {
        self.spend(1 + bytes / UNIT_BYTES);
    }

    fn spend(&mut self, units: usize) {
        if self.began.elapsed() >= PERIOD {
            *self = Self::default();
        }
        self.used = self.used.saturating_add(units);
        if self.used > UNITS {
            self.since_pause = self.since_pause.saturating_add(units);
        }
    }

    /// Waits where it is time for a pause. Can be dropped: the pause is made up for by the next call.
    pub(super) async fn pause(&mut self) {
        if self.since_pause >= UNITS_BETWEEN_PAUSES {
            // A large read costs as many pauses as several small ones.
            let pauses = u32::try_from(self.since_pause / UNITS_BETWEEN_PAUSES).unwrap_or(u32::MAX);
            sleep(PAUSE.saturating_mul(pauses).min(PERIOD)).await;
            self.since_pause = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long so many of something take.
    async fn takes(count: usize, spend: impl Fn(&mut Budget)) -> Duration {
        let (mut budget, began) = (Budget::default(), Instant::now());
        for _ in 0..count {
            spend(&mut budget);
            budget.pause().await;
        }
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_envelopes_or_a_mebibyte_come_at_full_speed_and_more_take_their_time() {
        assert_eq!(takes(1_000, Budget::spend_envelope).await, Duration::ZERO);
        assert_eq!(takes(60, |budget| budget.spend_read(16 * 1024 - 1)).await, Duration::ZERO);
        // 2,000 in a second, and a thousand more at once every ten seconds.
        let long = takes(100_000, Budget::spend_envelope).await;
        assert!((Duration::from_secs(44)..Duration::from_secs(54)).contains(&long), "{long:?}");
        // 64 MiB in large reads: about two in a second.
        let large = takes(64, |budget| budget.spend_read(1024 * 1024)).await;
        assert!((Duration::from_secs(28)..Duration::from_secs(34)).contains(&large), "{large:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_period_begins_with_a_full_budget_and_a_pause_that_was_cut_short_is_made_up_for() {
        let mut budget = Budget::default();
        (0..UNITS + UNITS_BETWEEN_PAUSES).for_each(|_| budget.spend_envelope());
        for _ in 0..3 {
            assert!(tokio::time::timeout(PAUSE / 2, budget.pause()).await.is_err());
        }
        tokio::time::advance(PERIOD).await;
        (0..UNITS).for_each(|_| budget.spend_envelope());
        let now = Instant::now();
        budget.pause().await;
        assert_eq!(now.elapsed(), Duration::ZERO);
    }
}
