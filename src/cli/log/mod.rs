//! The daemon's log: one line an event, as text, as JSON or as fields for the journal; and the audit log's own file.
//!
//! The level is ours alone: HTTP and TLS libraries may put headers and bodies on their finer levels, so of them only warnings are ever
//! written.

mod audit_file;
mod journal;
mod line;
mod output;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use self::audit_file::{AuditFile, News};
use self::line::{Line, Value};
use self::output::{Entry, Output};
use crate::config::{Log, LogFormat, LogLevel};
use crate::error::{Error, Kind};

/// How long the end of the process waits for lines that nobody has taken yet.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The target of the audit log.
const AUDIT: &str = "audit";

/// The log, to be changed while the daemon runs. Dropping it waits a moment for what is not written yet.
pub(super) struct Logs {
    levels: reload::Handle<Targets, Registry>,
    sinks: Arc<Sinks>,
}

/// An audit log that is open and counts from [`Logs::set`] on.
pub(super) struct OpenedAudit(Option<AuditFile>);

/// Where lines go, and in which form.
struct Sinks {
    audit: Mutex<Option<AuditFile>>,
    is_json: Arc<AtomicBool>,
    /// Standard error is the journal.
    is_journal: bool,
    output: Output,
}

/// Starts logging. Starting twice keeps the first.
///
/// # Errors
/// When the audit log's file cannot be one.
pub(super) fn start(config: &Log) -> Result<Logs, Error> {
    let opened = Logs::open_audit(config)?;
    let stream = std::io::stderr().as_fd().try_clone_to_owned()?;
    let variable = std::env::var("JOURNAL_STREAM").ok();
    let is_journal = metadata(&stream).is_ok_and(|stream| journal::is_journal(variable.as_deref(), &stream));
    let sinks = Arc::new(Sinks::new(is_journal.then(|| PathBuf::from(journal::SOCKET)), stream));
    let (ours, levels) = reload::Layer::new(targets(config.level));
    let _ = tracing_subscriber::registry().with(Writer(Arc::clone(&sinks)).with_filter(ours)).try_init();
    let logs = Logs { levels, sinks };
    logs.set(config, opened);
    Ok(logs)
}

fn metadata(stream: &OwnedFd) -> std::io::Result<std::fs::Metadata> {
    File::from(stream.try_clone()?).metadata()
}

impl Logs {
    /// Opens the audit log's file anew: it may be another, or another by the same name.
    ///
    /// # Errors
    /// When it cannot be one. Nothing is changed then.
    pub(super) fn open_audit(config: &Log) -> Result<OpenedAudit, Error> {
        let open = |path: &Path| {
            AuditFile::open(path).map_err(|problem| {
                Error::new(Kind::Config, problem).hint("with the package's unit it can be /var/log/scm-agent/audit.jsonl; see docs/logs.md")
            })
        };
        config.audit_file.as_deref().map(open).transpose().map(OpenedAudit)
    }

    /// Has this much written from now on, in this form, and to that audit log.
    pub(super) fn set(&self, config: &Log, OpenedAudit(audit): OpenedAudit) {
        // An error means that nothing is logged at all, since another log was there first.
        let _ = self.levels.reload(targets(config.level));
        self.sinks.is_json.store(config.format == LogFormat::Json, Ordering::Relaxed);
        let news = {
            let mut current = self.sinks.audit();
            let before = current.take();
            let is_known = before.as_ref().is_some_and(|before| before.problem().is_some());
            *current = match (before, audit) {
                // What it lacks is still to be said.
                (Some(old), Some(new)) => Some(new.succeeding(old)),
                (_, new) => new,
            };
            current.as_ref().and_then(AuditFile::problem).filter(|_| !is_known)
        };
        if let Some(problem) = news {
            self.sinks.say(Level::WARN, problem);
        }
    }

    /// Goes on with the file that has the audit log's name now: whoever moved the old one away wants that, whatever else becomes of
    /// a reload.
    pub(super) fn reopen_audit(&self) {
        let mut current = self.sinks.audit();
        *current = current.take().map(AuditFile::reopened);
    }

    /// What says what is wrong with the audit log, if anything is.
    pub(super) fn problems(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let sinks = Arc::clone(&self.sinks);
        move || sinks.audit().as_ref().and_then(AuditFile::problem)
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.sinks.output.finish(LAST_WORDS);
    }
}

impl Sinks {
    fn new(journal: Option<PathBuf>, stream: OwnedFd) -> Self {
        let (is_json, is_journal) = (Arc::new(AtomicBool::new(false)), journal.is_some());
        let form = Arc::clone(&is_json);
        let lost = move |lost: u64| {
            let mut line = of_ours(Level::WARN, "lines of this log were lost: nobody took them".to_owned());
            line.fields.push(("lines", Value::Plain(lost.to_string())));
            entry(&line, form.load(Ordering::Relaxed), is_journal)
        };
        Self { audit: Mutex::default(), is_json, is_journal, output: Output::new(journal, stream, lost) }
    }

    fn audit(&self) -> MutexGuard<'_, Option<AuditFile>> {
        self.audit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, line: &Line) {
        // The audit log first: what the log shows is in it already.
        let news = if line.target == AUDIT { self.audit().as_mut().and_then(|audit| audit.write(&line.json())) } else { None };
        self.output.write(entry(line, self.is_json.load(Ordering::Relaxed), self.is_journal));
        match news {
            None => {}
            Some(News::Back(lost)) => {
                let mut line = Line::new(Level::WARN, AUDIT, "the audit log can be written again".to_owned(), SystemTime::now());
                line.fields = vec![("event", Value::Text("audit_gap".to_owned())), ("lines", Value::Plain(lost.to_string()))];
                self.output.write(entry(&line, self.is_json.load(Ordering::Relaxed), self.is_journal));
                // One that fails is counted like any other.
                let _ = self.audit().as_mut().and_then(|audit| audit.write(&line.json()));
            }
            Some(News::Broken(reason)) => self.say(Level::WARN, format!("the audit log cannot be written: {reason}")),
        }
    }

    /// Writes a line about the log itself, past `tracing`, within which this may be.
    fn say(&self, level: Level, message: String) {
        self.output.write(entry(&of_ours(level, message), self.is_json.load(Ordering::Relaxed), self.is_journal));
    }
}

fn of_ours(level: Level, message: String) -> Line {
    Line::new(level, module_path!(), message, SystemTime::now())
}

/// The forms of a line that the output needs. The journal takes JSON as the text of a line whose priority stands before it, and fields
/// by its own protocol; of those the stream has the text, for when nobody speaks that.
fn entry(line: &Line, is_json: bool, is_journal: bool) -> Entry {
    let text = match (is_json, is_journal) {
        (true, _) => line.json(),
        (false, true) => format!("{}\n", line.words()),
        (false, false) => line.text(),
    };
    let text = if is_journal { format!("<{}>{text}", journal::priority(line.level)) } else { text };
    let datagram = if is_journal && !is_json { journal::datagram(line) } else { Vec::new() };
    Entry { datagram, line: text.into_bytes() }
}

/// Writes what `tracing` is told.
struct Writer(Arc<Sinks>);

impl<S: Subscriber> Layer<S> for Writer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.write(&Line::of(event, SystemTime::now()));
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
    Targets::new().with_default(level.min(Level::WARN)).with_target("scm_agent", level).with_target(AUDIT, Level::INFO)
}
