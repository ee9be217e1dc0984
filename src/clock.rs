//! The time of day as a parameter, so that expiry can be tested without waiting.

use std::time::{Duration, SystemTime};

/// Where the time of day comes from.
pub trait Clock: Send + Sync + 'static {
    /// The current time of day.
    fn now(&self) -> SystemTime;
}

/// A span in seconds for a person, who is not to come back too early: one that has begun counts whole.
#[must_use]
pub fn seconds_begun(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
