//! The daemon's log: one line an event on standard error, as text or as JSON.

use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// Starts logging. Starting twice keeps the first.
///
/// The level is ours alone: HTTP and TLS libraries may put headers and bodies on their finer levels, so of them only warnings
/// are ever written.
pub(super) fn start(config: &Log) -> LogLevels {
    let (ours, levels) = reload::Layer::new(targets(config.level));
    let layer = match config.format {
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(std::io::stderr).boxed(),
        LogFormat::Text => fmt::layer().with_ansi(false).with_writer(std::io::stderr).boxed(),
    };
    let _ = tracing_subscriber::registry().with(layer.with_filter(ours)).try_init();
    LogLevels(levels)
}

/// What is written, to be changed while the daemon runs.
pub(super) struct LogLevels(reload::Handle<Targets, Registry>);

impl LogLevels {
    /// Has this much written from now on.
    pub(super) fn set(&self, level: LogLevel) {
        // An error means that nothing is logged at all, since another log was there first.
        let _ = self.0.reload(targets(level));
    }
}

fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Error => Level::ERROR,
        LogLevel::Info => Level::INFO,
        LogLevel::Trace => Level::TRACE,
        LogLevel::Warn => Level::WARN,
    };
    Targets::new().with_default(level.min(Level::WARN)).with_target("scm_agent", level).with_target("audit", Level::INFO)
}
