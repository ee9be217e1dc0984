//! What is logged on a test's own thread.
#![allow(dead_code, reason = "each of those who include this file uses a part of it")]

use std::io::Write;
use std::sync::{Arc, Mutex};

use tracing::Level;
use tracing::subscriber::DefaultGuard;

/// Takes the log of this thread for as long as it lives.
pub struct Captured {
    lines: Sink,
    _guard: DefaultGuard,
}

impl Captured {
    /// Begins to take what is logged at this level and above.
    pub fn start(level: Level) -> Self {
        let lines = Sink::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).without_time().with_target(false);
        let guard = tracing::subscriber::set_default(subscriber.with_max_level(level).finish());
        Self { lines, _guard: guard }
    }

    /// What was logged so far, and forgets it.
    pub fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.lines.0.lock().unwrap())).unwrap()
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
