//! The time of day as a parameter, so that expiry can be tested without waiting.

use std::time::SystemTime;

/// Where the time of day comes from.
pub trait Clock: Send + Sync + 'static {
    /// The current time of day.
    fn now(&self) -> SystemTime;
}

/// The machine's own clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
