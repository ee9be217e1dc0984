//! A point in time on two clocks, of which the earlier is believed.
//!
//! The time of day can be set, the monotonic clock stops while the machine sleeps: a token is over when either says so (T25).

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::clock::Clock;

/// Now, on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock.
    pub monotonic: Instant,
    /// The time of day.
    pub wall: SystemTime,
}

impl Moment {
    /// Reads both clocks.
    #[must_use]
    pub fn now(clock: &dyn Clock) -> Self {
        Self { monotonic: Instant::now(), wall: clock.now() }
    }

    /// The moment a while later. A time of day that cannot be represented is taken as already past.
    #[must_use]
    pub fn after(self, while_: Duration) -> Deadline {
        Deadline {
            monotonic: self.monotonic.checked_add(while_).unwrap_or(self.monotonic),
            wall: self.wall.checked_add(while_).unwrap_or(self.wall),
        }
    }
}

/// When something is over: as soon as one of the clocks says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    monotonic: Instant,
    wall: SystemTime,
}

impl Deadline {
    /// The time of day of the deadline.
    #[must_use]
    pub fn wall(self) -> SystemTime {
        self.wall
    }

    /// What is left, by the clock that leaves less; zero when it has passed.
    #[must_use]
    pub fn remaining(self, now: Moment) -> Duration {
        let by_wall = self.wall.duration_since(now.wall).unwrap_or_default();
        self.monotonic.saturating_duration_since(now.monotonic).min(by_wall)
    }
}
