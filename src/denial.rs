//! What was refused, for the audit log: one line for each refusal, and each of them counted.
//!
//! Whoever repeats what is refused must not be able to fill a disk, nor push what others did out of a journal: of one kind and one
//! user so many lines are written in a while, and then one that says how many more there were.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{field, warn};

/// How many lines of one kind and one user are written in a [`WINDOW`].
const LINES: u32 = 20;

/// How long it takes until lines are written again.
const WINDOW: Duration = Duration::from_secs(10);

/// How many users and kinds are told apart. What is beyond shares one allowance.
const MAX_ROWS: usize = 1_024;

/// What was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// Something of an integration, by the operator's access rules.
    Access,
    /// A connection, because the peer is not in the socket's group.
    Admission,
    /// An app's credentials, for another reason than the access rules.
    App,
    /// An app's credentials, by the operator's access rules.
    AppSecret,
    /// A connection, because there are too many.
    Connections,
    /// A request that cannot be read.
    Malformed,
    /// What is for root and the agent's own user.
    Privilege,
    /// A request, because the user makes too many.
    Rate,
    /// A sign-in.
    SignIn,
    /// A token, for another reason than the access rules.
    Token,
    /// A request that somebody else wrote than who connected.
    Writer,
}

impl Event {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 11] = [
        Self::Access,
        Self::Admission,
        Self::App,
        Self::AppSecret,
        Self::Connections,
        Self::Malformed,
        Self::Privilege,
        Self::Rate,
        Self::SignIn,
        Self::Token,
        Self::Writer,
    ];

    /// As the field `kind` of a line has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Access => "access_rules",
            Self::Admission => "not_admitted",
            Self::App => "app",
            Self::AppSecret => "app_secret",
            Self::Connections => "busy",
            Self::Malformed => "malformed",
            Self::Privilege => "not_privileged",
            Self::Rate => "rate",
            Self::SignIn => "sign_in",
            Self::Token => "token",
            Self::Writer => "other_writer",
        }
    }

    /// Whether who asked may not have it, as opposed to what is not to be had.
    fn is_denied(self) -> bool {
        !matches!(self, Self::App | Self::SignIn | Self::Token)
    }
}

/// One refusal. What is not known is left out of its line.
#[derive(Clone, Copy)]
pub struct Denial<'a> {
    /// What was refused.
    pub event: Event,
    /// The group of who asked, where that is why.
    pub gid: Option<u32>,
    /// The place that it is about.
    pub host: Option<&'a dyn Display>,
    /// The integration that it is about.
    pub integration: Option<&'a str>,
    /// The line's words.
    pub message: &'a str,
    /// What was tried.
    pub operation: Option<&'a str>,
    /// Process id of who asked.
    pub pid: Option<i32>,
    /// Why.
    pub reason: Option<&'a dyn Display>,
    /// The number of the access rule that says so.
    pub rule: Option<usize>,
    /// User id of who asked; `None` where the kernel does not say.
    pub uid: Option<u32>,
    /// The systemd unit of who asked, where it was looked up.
    pub unit: Option<&'a str>,
}

impl<'a> Denial<'a> {
    /// One of which only that much is known.
    #[must_use]
    pub fn new(event: Event, message: &'a str) -> Self {
        Self {
            event,
            gid: None,
            host: None,
            integration: None,
            message,
            operation: None,
            pid: None,
            reason: None,
            rule: None,
            uid: None,
            unit: None,
        }
    }
}

/// Writes refusals to the audit log, and counts them.
#[derive(Debug, Default)]
pub struct Denials {
    counts: [AtomicU64; Event::ALL.len()],
    rows: Mutex<HashMap<Row, Written>>,
}

/// Whose lines of which kind; `None` stands for those who are too many to be told apart.
type Row = Option<(Event, Option<u32>)>;

/// What was written of a row since it was begun.
#[derive(Debug)]
struct Written {
    begun: Instant,
    lines: u32,
    more: u64,
}

impl Denials {
    /// Counts a refusal and writes its line, or counts it for the line that says how many more there were.
    pub fn note(&self, denial: &Denial<'_>) {
        if let Some(count) = Event::ALL.iter().position(|event| *event == denial.event).and_then(|index| self.counts.get(index)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let (more, is_written) = self.count_in(Some((denial.event, denial.uid)));
        if let Some((row, more)) = more {
            write_more(row, more);
        }
        if is_written {
            write(denial);
        }
    }

    /// How many there were of each kind that callers may not have.
    #[must_use]
    pub fn counts(&self) -> Vec<(Event, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed));
        Event::ALL.into_iter().zip(counts).filter(|(event, _)| event.is_denied()).collect()
    }

    /// Writes how many more there were, where that time has come. To be called every now and then.
    pub fn flush(&self) {
        self.end(|written, now| now.duration_since(written.begun) >= WINDOW);
    }

    /// Writes how many more there were.
    pub fn finish(&self) {
        self.end(|_, _| true);
    }

    /// What is to be told of the while before, which may be over, and whether this one gets a line.
    fn count_in(&self, row: Row) -> (Option<(Row, u64)>, bool) {
        let now = Instant::now();
        let mut rows = self.lock();
        let row = if rows.len() < MAX_ROWS || rows.contains_key(&row) { row } else { None };
        let written = rows.entry(row).or_insert(Written { begun: now, lines: 0, more: 0 });
        let mut told = None;
        if now.duration_since(written.begun) >= WINDOW {
            told = (written.more > 0).then_some((row, written.more));
            *written = Written { begun: now, lines: 0, more: 0 };
        }
        let is_written = written.lines < LINES;
        written.lines += u32::from(is_written);
        written.more += u64::from(!is_written);
        (told, is_written)
    }

    fn end(&self, is_over: impl Fn(&Written, Instant) -> bool) {
        let now = Instant::now();
        let mut told = Vec::new();
        self.lock().retain(|row, written| {
            let over = is_over(written, now);
            if over && written.more > 0 {
                told.push((*row, written.more));
            }
            !over
        });
        told.into_iter().for_each(|(row, more)| write_more(row, more));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Row, Written>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_more(row: Row, more: u64) {
    let (kind, uid) = row.map_or((None, None), |(event, uid)| (Some(event.name()), uid));
    warn!(target: "audit", event = "refused_more", kind, uid, more, "refused more of the same");
}

fn write(denial: &Denial<'_>) {
    let Denial { event, gid, host, integration, message, operation, pid, reason, rule, uid, unit } = *denial;
    let (kind, host, reason) = (event.name(), host.map(field::display), reason.map(field::display));
    if event.is_denied() {
        warn!(target: "audit", event = "denied", kind, uid, gid, pid, unit, host, integration, operation, rule, reason, "{message}");
    } else {
        warn!(target: "audit", event = "not_given", kind, uid, pid, unit, host, integration, operation, reason, "{message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(event: Event, uid: u32) -> Denial<'static> {
        Denial { uid: Some(uid), ..Denial::new(event, "refused") }
    }

    /// How many lines wait to be told of.
    fn more(denials: &Denials) -> u64 {
        denials.lock().values().map(|written| written.more).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn each_is_counted_and_only_so_many_of_one_kind_and_user_are_written() {
        let denials = Denials::default();
        for _ in 0..LINES + 412 {
            denials.note(&of(Event::Access, 1));
        }
        assert_eq!(more(&denials), 412);
        // Neither another user's nor another kind is hidden by that.
        denials.note(&of(Event::Access, 2));
        denials.note(&of(Event::AppSecret, 1));
        assert_eq!(more(&denials), 412);
        assert_eq!(denials.lock().len(), 3);
        let counted = |event| denials.counts().into_iter().find(|(other, _)| *other == event).unwrap().1;
        assert_eq!((counted(Event::Access), counted(Event::AppSecret), counted(Event::Rate)), (u64::from(LINES) + 413, 1, 0));

        tokio::time::advance(WINDOW - Duration::from_millis(1)).await;
        denials.flush();
        assert_eq!(more(&denials), 412);
        tokio::time::advance(Duration::from_millis(1)).await;
        denials.flush();
        assert!(denials.lock().is_empty());

        // Who goes on is told of with the first line of the next while.
        for _ in 0..LINES + 7 {
            denials.note(&of(Event::Access, 1));
        }
        tokio::time::advance(WINDOW).await;
        assert_eq!(denials.count_in(Some((Event::Access, Some(1)))), (Some((Some((Event::Access, Some(1))), 7)), true));
    }

    #[tokio::test(start_paused = true)]
    async fn users_beyond_those_that_are_remembered_share_what_may_be_written() {
        let denials = Denials::default();
        for uid in 0..2 * u32::try_from(MAX_ROWS).unwrap() {
            denials.note(&of(Event::Admission, uid));
        }
        assert_eq!(denials.lock().len(), MAX_ROWS + 1);
        assert_eq!(more(&denials), u64::try_from(MAX_ROWS).unwrap() - u64::from(LINES));
        denials.finish();
        assert!(denials.lock().is_empty());
    }
}
