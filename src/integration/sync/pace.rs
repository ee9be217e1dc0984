//! When the source is asked next: polls spread in time, failures ever further apart, hints soon but not without end.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Asker, Config, Jitter};
use crate::integration::source::{SourceError, SourceErrorKind};

/// Decides when the next attempt is due.
pub(super) struct Pace {
    interval: Duration,
    jitter: Arc<dyn Jitter>,
    asked_by_anyone: Allowance,
    asked_by_operator: Allowance,
    hints: Allowance,
}

/// So many at once, then one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Allowance {
    at_once: u32,
    /// When all of it is there again.
    full: Instant,
    refill: Duration,
}

impl Allowance {
    /// For what somebody asks for. An operator who looks for a mistake has enough with it, and so has a loop.
    pub(crate) fn for_requests() -> Self {
        Self::new(REQUESTS_AT_ONCE, REQUEST_REFILL)
    }

    fn new(at_once: u32, refill: Duration) -> Self {
        Self { at_once, full: Instant::now(), refill }
    }

    /// Brings what is due forward to the earliest instant that the allowance has room for, but not before `soonest`. Costs
    /// nothing where it is due by then anyway.
    pub(crate) fn bring_forward(&mut self, due: Instant, soonest: Instant) -> Instant {
        let now = Instant::now();
        let full = self.full.max(now) + self.refill;
        let at = full.checked_sub(self.refill * self.at_once).map_or(soonest, |allowed| soonest.max(allowed)).max(now);
        if at >= due {
            return due;
        }
        self.full = full;
        at
    }
}

impl Pace {
    pub(super) fn new(config: &Config, jitter: Arc<dyn Jitter>) -> Self {
        Self {
            asked_by_anyone: Allowance::for_requests(),
            asked_by_operator: Allowance::for_requests(),
            hints: Allowance::new(HINTS_AT_ONCE, HINT_REFILL),
            interval: config.poll_interval.clamp(MIN_INTERVAL, MAX_INTERVAL),
            jitter,
        }
    }

    /// How long the first attempt may wait where a kept list serves meanwhile, so that a fleet that is restarted together does
    /// not ask together.
    pub(super) fn splay(&self) -> Duration {
        self.interval.min(MAX_SPLAY) * self.permille() / PERMILLE
    }

    /// How long to wait after an attempt.
    pub(super) fn pause(&self, error: Option<&SourceError>, failures: u32) -> Duration {
        let permille = self.permille();
        // From 90 % to 110 %.
        let poll = self.interval * (9 * PERMILLE + 2 * permille) / (10 * PERMILLE);
        let Some(error) = error else { return poll };
        let doublings = failures.saturating_sub(1).min(16);
        // From 75 % to 100 %.
        let trimmed = |pause: Duration| pause * (4 * PERMILLE - permille) / (4 * PERMILLE);
        let own = match error.kind {
            // Asking more often cannot help before somebody acts, and what is mended on this host is noticed by itself.
            SourceErrorKind::Operator => {
                let doubled = self.interval.saturating_mul(1 << doublings).min(MAX_BACKOFF);
                if doubled > self.interval { trimmed(doubled).max(poll) } else { poll }
            }
            // Never later than the next poll would have been.
            SourceErrorKind::Transient => {
                trimmed((FIRST_BACKOFF * (1 << doublings)).min(self.interval.max(FIRST_BACKOFF).min(MAX_BACKOFF)))
            }
        };
        // Not before the source allows it; a little later each, or the whole fleet would come back in one second.
        let asked = error.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER) * (10 * PERMILLE + permille) / (10 * PERMILLE);
        own.max(asked)
    }

    /// How soon after an attempt another may follow because something on this host changed.
    pub(super) fn pause_after_change(error: Option<&SourceError>) -> Duration {
        match error.and_then(|error| error.retry_after) {
            Some(retry_after) => MIN_PAUSE_IN_TROUBLE.min(retry_after.max(MIN_PAUSE)),
            None => MIN_PAUSE,
        }
    }

    /// How soon after an attempt another may follow because somebody asks for it.
    fn pause_when_asked(asker: Asker, error: Option<&SourceError>) -> Duration {
        let Some(error) = error else { return MIN_PAUSE };
        let least = match error.kind {
            // Servers lock out who keeps showing what they refuse.
            SourceErrorKind::Operator => MIN_PAUSE_IN_TROUBLE,
            SourceErrorKind::Transient => MIN_PAUSE,
        };
        let wanted = error.retry_after.unwrap_or_default().min(MAX_RETRY_AFTER);
        least.max(match asker {
            Asker::Anyone => wanted,
            Asker::Operator => wanted.min(MIN_PAUSE_IN_TROUBLE),
        })
    }

    /// When the next attempt is due, now that somebody asks for it: perhaps no sooner than before. Five requests may be followed
    /// one after the other, then one every ten seconds. An operator has an allowance that nobody else can use up.
    pub(super) fn follow_request(&mut self, asker: Asker, ended: Instant, error: Option<&SourceError>, due: Instant) -> Instant {
        let allowance = match asker {
            Asker::Anyone => &mut self.asked_by_anyone,
            Asker::Operator => &mut self.asked_by_operator,
        };
        allowance.bring_forward(due, ended + Self::pause_when_asked(asker, error))
    }

    /// When the next attempt is due, now that a hint came. Ten hints may be followed one after the other, then one a second.
    pub(super) fn follow_hint(&mut self, due: Instant) -> Instant {
        // What comes in a burst is fetched once, and the hosts of a fleet that are told together do not ask together.
        let soon = Instant::now() + HINT_PAUSE + HINT_SPLAY * self.permille() / PERMILLE;
        self.hints.bring_forward(due, soon)
    }

    fn permille(&self) -> u32 {
        self.jitter.permille().min(PERMILLE)
    }
}

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const HINT_PAUSE: Duration = Duration::from_millis(50);
const HINT_REFILL: Duration = Duration::from_secs(1);
const HINT_SPLAY: Duration = Duration::from_millis(250);
const HINTS_AT_ONCE: u32 = 10;
const MAX_BACKOFF: Duration = Duration::from_secs(5 * 60);
const MAX_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_RETRY_AFTER: Duration = Duration::from_secs(15 * 60);
const MAX_SPLAY: Duration = Duration::from_secs(10);
const MIN_INTERVAL: Duration = Duration::from_millis(10);
/// The least time between two attempts, however often somebody asks for one.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// The same where an operator must act, or the source has asked for more time: an operator may know better, but not every second.
const MIN_PAUSE_IN_TROUBLE: Duration = Duration::from_secs(10);
pub(super) const PERMILLE: u32 = 1000;
const REQUESTS_AT_ONCE: u32 = 5;
const REQUEST_REFILL: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u32);

    impl Jitter for Fixed {
        fn permille(&self) -> u32 {
            self.0
        }
    }

    fn pace(poll_interval: Duration, permille: u32) -> Pace {
        Pace::new(&Config { poll_interval, ..Config::default() }, Arc::new(Fixed(permille)))
    }

    fn error(kind: SourceErrorKind, retry_after: Option<u64>) -> SourceError {
        SourceError { kind, message: "no".to_owned(), next: None, retry_after: retry_after.map(Duration::from_secs) }
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn transient_errors_back_off_from_a_second_to_the_interval_and_never_beyond_five_minutes() {
        let transient = error(SourceErrorKind::Transient, None);
        for (interval, most) in [(60, 60), (3_600, 300), (1, 1)] {
            for failures in 1..=100_u32 {
                let full = seconds(1 << (failures - 1).min(16)).min(seconds(most));
                for (permille, expected) in [(0, full), (500, full * 7 / 8), (1000, full * 3 / 4), (u32::MAX, full * 3 / 4)] {
                    assert_eq!(pace(seconds(interval), permille).pause(Some(&transient), failures), expected, "{interval} {failures}");
                }
            }
        }
    }

    #[test]
    fn what_somebody_must_mend_is_asked_for_ever_less_often_up_to_five_minutes() {
        let operator = error(SourceErrorKind::Operator, None);
        let pauses = |interval| [1, 2, 3, 4, 5, 100].map(|failures| pace(seconds(interval), 0).pause(Some(&operator), failures).as_secs());
        assert_eq!(pauses(60), [54, 120, 240, 300, 300, 300]);
        // A long interval stays what it is.
        assert_eq!(pauses(600), [540; 6]);
    }

    #[test]
    fn a_source_that_asks_for_time_gets_it_up_to_fifteen_minutes() {
        for kind in [SourceErrorKind::Operator, SourceErrorKind::Transient] {
            for (asked, expected) in [(1_000_000, 900), (300, 300), (90, 90)] {
                assert_eq!(pace(seconds(60), 0).pause(Some(&error(kind, Some(asked))), 1), seconds(expected));
            }
            // The fleet spreads.
            assert_eq!(pace(seconds(60), 1000).pause(Some(&error(kind, Some(300))), 1), seconds(330));
        }
    }

    #[test]
    fn a_change_on_this_host_waits_a_second_or_ten_where_the_source_wants_to_be_left_alone() {
        let when = |retry_after| Pace::pause_after_change(Some(&error(SourceErrorKind::Operator, retry_after)));
        assert_eq!((Pace::pause_after_change(None), when(None)), (seconds(1), seconds(1)));
        assert_eq!((when(Some(0)), when(Some(3)), when(Some(900))), (seconds(1), seconds(3), seconds(10)));
    }

    #[test]
    fn who_asks_waits_out_what_the_source_asks_for_and_only_an_operator_cuts_it_short() {
        use SourceErrorKind::{Operator, Transient};
        let when = |asker, kind, retry_after| Pace::pause_when_asked(asker, Some(&error(kind, retry_after))).as_secs();
        for (kind, retry_after, anyone, operator) in [
            (Transient, None, 1, 1),
            (Transient, Some(0), 1, 1),
            (Transient, Some(3), 3, 3),
            (Transient, Some(900), 900, 10),
            (Transient, Some(86_400), 900, 10),
            (Operator, None, 10, 10),
            (Operator, Some(3), 10, 10),
            (Operator, Some(900), 900, 10),
        ] {
            assert_eq!((when(Asker::Anyone, kind, retry_after), when(Asker::Operator, kind, retry_after)), (anyone, operator));
        }
        assert_eq!(Pace::pause_when_asked(Asker::Anyone, None), seconds(1));
    }

    #[tokio::test(start_paused = true)]
    async fn five_requests_are_followed_at_once_and_then_one_every_ten_seconds() {
        let (mut pace, start) = (pace(seconds(60), 0), Instant::now());
        let mut due = |asker, poll| pace.follow_request(asker, start, None, start + seconds(poll)) - start;
        let by_anyone: Vec<Duration> = (0..7).map(|_| due(Asker::Anyone, 60)).collect();
        assert_eq!(by_anyone, [1, 1, 1, 1, 1, 10, 20].map(seconds));
        // What is due by then is for nothing, and an operator's allowance is an own one.
        assert_eq!([due(Asker::Anyone, 30), due(Asker::Anyone, 60)], [30, 30].map(seconds));
        assert_eq!(due(Asker::Operator, 60), seconds(1));
    }

    #[tokio::test(start_paused = true)]
    async fn ten_hints_are_followed_at_once_and_then_one_a_second() {
        let mut pace = pace(seconds(60), 0);
        let start = Instant::now();
        let due: Vec<Duration> = (0..13).map(|_| pace.follow_hint(start + seconds(60)) - start).collect();
        assert_eq!(due[..10], [HINT_PAUSE; 10]);
        assert_eq!(due[10..], [seconds(1), seconds(2), seconds(3)]);
        tokio::time::advance(seconds(60)).await;
        assert_eq!(pace.follow_hint(Instant::now() + seconds(60)) - Instant::now(), HINT_PAUSE);
    }

    #[test]
    fn the_first_question_of_a_fleet_is_spread_over_ten_seconds_or_the_interval() {
        assert_eq!((pace(seconds(60), 0).splay(), pace(seconds(60), 1000).splay()), (Duration::ZERO, seconds(10)));
        assert_eq!(pace(seconds(1), 500).splay(), Duration::from_millis(500));
    }
}
