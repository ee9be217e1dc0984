//! The time of day as a parameter, so that expiry can be tested without waiting.

use std::time::{Duration, SystemTime};

/// Where the time of day comes from.
pub trait Clock: Send + Sync + 'static {
    /// The current time of day.
    fn now(&self) -> SystemTime;

    /// How long the machine has run, also while it was suspended: nobody can set that.
    fn since_boot(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or_default())
    }
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
