//! The status for a person: health and what to do about it first, then the daemon, then a line for each integration.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use super::table::{Cell, Column, clean, table, wrap};
use crate::cli::advice;
use crate::cli::style::{Paint, Style};
use crate::status::{Integration, Secret, Status, Token, TokenState};

/// The longest name that a person is shown whole.
const MAX_NAME_CHARS: usize = 80;

/// Where values begin.
const LABEL_WIDTH: usize = 13;

/// How many problems a screen shows.
const SHOWN_PROBLEMS: usize = 8;

/// How many integrations any screen shows, and how many lines it keeps for the rest: what comes before them, and around them their
/// heading, what is left out, and the shell's prompt.
const FEWEST_ROWS: usize = 4;
const OTHER_LINES: usize = 16;
const LINES_AROUND: usize = 3;

const COLUMNS: [Column; 6] = [
    Column { name: "HOST", expendable: None, is_whole: false },
    Column { name: "SCM", expendable: Some(1), is_whole: false },
    Column { name: "GRANT", expendable: Some(2), is_whole: false },
    Column { name: "SECRET", expendable: None, is_whole: true },
    Column { name: "INTEGRATION", expendable: Some(0), is_whole: false },
    Column { name: "TOKEN", expendable: None, is_whole: false },
];

/// How a status is shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct View {
    /// The height of the screen that it should fit; `None` for all there is, in the daemon's order.
    pub(super) limit: Option<usize>,
    pub(super) now: SystemTime,
    pub(super) paint: Paint,
    /// The width of the screen.
    pub(super) width: Option<usize>,
}

/// The lines to show.
pub(super) fn lines(status: &Status, view: &View) -> Vec<String> {
    let mut page = Page { lines: Vec::new(), view };
    page.health(status);
    page.daemon(status);
    page.lines.push(String::new());
    page.integrations(&status.integrations);
    page.lines
}

struct Page<'v> {
    lines: Vec<String>,
    view: &'v View,
}

impl Page<'_> {
    /// A value with what it is before it, or below the one before.
    fn value(&mut self, label: &str, style: Style, value: &str) {
        let paint = self.view.paint;
        for (number, line) in wrap(value, LABEL_WIDTH, self.view.width).into_iter().enumerate() {
            let label = if number == 0 { label } else { "" };
            let label = paint.text(Style::Dim, &format!("{label:<LABEL_WIDTH$}"));
            self.lines.push(format!("{label}{}", paint.text(style, &line)));
        }
    }

    /// A sentence with a mark before it.
    fn sentence(&mut self, indent: &str, mark: &str, style: Style, sentence: &str) {
        let paint = self.view.paint;
        let before = indent.len() + mark.len() + 1;
        for (number, line) in wrap(sentence, before, self.view.width).into_iter().enumerate() {
            if number == 0 {
                self.lines.push(format!("{indent}{} {line}", paint.text(style, mark)));
            } else {
                self.lines.push(format!("{:before$}{line}", ""));
            }
        }
    }

    /// Whether all is well, and if not, why not and what to run.
    fn health(&mut self, status: &Status) {
        let troubles = troubles(status);
        match status.degraded.len() {
            0 => self.value("health", Style::Good, "ok"),
            count => self.value("health", Style::Bad, &format!("degraded ({count})")),
        }
        let most = if self.view.limit.is_some() { SHOWN_PROBLEMS } else { usize::MAX };
        for reason in status.degraded.iter().take(most) {
            self.sentence("", "!", Style::Bad, &cut_words(reason));
        }
        self.left_out(status.degraded.len(), most, "problems");
        if !status.degraded.is_empty() {
            self.sentence("  ", "->", Style::Heading, "what to do about it: scm-agent doctor");
        }
        for Trouble { sentence, next } in troubles.iter().take(most) {
            self.sentence("", "-", Style::Warn, &cut_words(sentence));
            if let Some(next) = next {
                self.sentence("  ", "->", Style::Heading, next);
            }
        }
        self.left_out(troubles.len(), most, "sign-ins and tokens in trouble");
        if !status.degraded.is_empty() || !troubles.is_empty() {
            self.lines.push(String::new());
        }
    }

    fn left_out(&mut self, count: usize, most: usize, what: &str) {
        if count > most {
            self.sentence("", "\u{2026}", Style::Plain, &format!("and {} more {what}; all of them: scm-agent status --all", count - most));
        }
    }

    fn daemon(&mut self, status: &Status) {
        let now = unix_seconds(self.view.now);
        self.value(
            "daemon",
            Style::Plain,
            &format!("scm-agent {}, pid {}, up {}", status.version, status.pid, span(status.uptime_seconds)),
        );
        for key in &status.key {
            let (registered, style) = match key.registered {
                None => ("", Style::Plain),
                Some(true) => (", registered", Style::Plain),
                Some(false) => (", not registered", Style::Warn),
            };
            self.value("key", style, &format!("{} {}{registered}", key.algorithm, key.fingerprint));
        }
        let (freshness, style) = match (status.sync.last_success, status.sync.stale) {
            (None, _) => ("no list yet".to_owned(), Style::Warn),
            (Some(at), false) => (format!("list of {} ago", span(now.saturating_sub(at))), Style::Plain),
            (Some(at), true) => (format!("STALE list of {} ago", span(now.saturating_sub(at))), Style::Bad),
        };
        let freshness = if status.sync.watching { format!("{freshness}, watching") } else { freshness };
        self.value("source", style, &format!("{}, {freshness}", status.sync.source));
        if let Some(error) = &status.sync.last_error {
            self.value("", Style::Bad, &format!("failing ({} times): {error}", status.sync.consecutive_failures));
            if let Some(next) = &status.sync.next {
                self.value("", Style::Heading, &format!("-> {next}"));
            }
        }
        match &status.memory.reason {
            None => self.value("memory", Style::Plain, "locked"),
            Some(reason) => self.value("memory", Style::Warn, &format!("not locked: {reason}")),
        }
        if let Some(sandbox) = &status.sandbox {
            self.value("sandbox", if sandbox.reason.is_some() { Style::Warn } else { Style::Plain }, &sandbox.words());
        }
        self.value("connections", Style::Plain, &status.connections.to_string());
        if !status.unit_grants.is_empty() {
            let grants = format!("{}; see them: scm-agent grant --list", status.unit_grants.len());
            self.value("unit grants", Style::Plain, &grants);
        }
    }

    fn integrations(&mut self, integrations: &[Integration]) {
        if integrations.is_empty() {
            self.lines.push("no integrations".to_owned());
            return;
        }
        let now = unix_seconds(self.view.now);
        let mut shown: Vec<&Integration> = integrations.iter().collect();
        let most = self
            .view
            .limit
            .map_or(usize::MAX, |height| height.saturating_sub((self.lines.len() + LINES_AROUND).max(OTHER_LINES)).max(FEWEST_ROWS));
        if shown.len() > most {
            // What needs a look first; otherwise as the daemon has them.
            shown.sort_by_key(|integration| !needs_a_look(integration));
        }
        let left_out = shown.split_off(most.min(shown.len()));
        let rows: Vec<_> = shown.iter().map(|integration| row(integration, now)).collect();
        self.lines.extend(table(COLUMNS, &rows, self.view.width, self.view.paint));
        let bad = left_out.iter().filter(|integration| needs_a_look(integration)).count();
        let of_them = if bad == 0 { "that are fine".to_owned() } else { format!("integrations, {bad} of them not fine") };
        if !left_out.is_empty() {
            let rest = format!("and {} more {of_them}; all of them: scm-agent status --all", left_out.len());
            self.sentence("", "\u{2026}", Style::Plain, &rest);
        }
    }
}

/// A sign-in or a token that does not serve, for a reason that `degraded` does not have.
struct Trouble {
    sentence: String,
    next: Option<String>,
}

/// Why tokens are failing or need a login, except for what `degraded` says already.
fn troubles(status: &Status) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    for integration in &status.integrations {
        for token in &integration.tokens {
            let state = match token.state {
                TokenState::Failing => "failing",
                TokenState::NeedsLogin => "needs login",
                TokenState::Refreshing | TokenState::Valid => continue,
            };
            let Some(error) = &token.last_error else { continue };
            if !status.degraded.iter().any(|reason| reason.contains(&integration.id) && reason.contains(error.as_str())) {
                let sentence = format!("{}, {}, {state}: {error}", integration.host, token.subject);
                troubles.push(Trouble { sentence, next: login_again(integration, token) });
            }
        }
    }
    troubles
}

/// What the user of a sign-in that is over types.
fn login_again(integration: &Integration, token: &Token) -> Option<String> {
    if token.state != TokenState::NeedsLogin || token.grant != "user" {
        return None;
    }
    let (whose, account) = token.subject.split_once(" as ").unwrap_or((&token.subject, ""));
    Some(format!("{} runs: {}", clean(whose), advice::login(integration, account)))
}

/// What somebody has to do comes first, then what fails.
fn worst(integration: &Integration) -> Option<&Token> {
    integration.tokens.iter().min_by_key(|token| match token.state {
        TokenState::NeedsLogin => 0,
        TokenState::Failing => 1,
        TokenState::Refreshing | TokenState::Valid => 2,
    })
}

/// Whether something about it is not as it should be.
fn needs_a_look(integration: &Integration) -> bool {
    let is_in_trouble = |token: &Token| matches!(token.state, TokenState::Failing | TokenState::NeedsLogin);
    secret(integration).1 != Style::Plain && integration.oauth
        || integration.quarantine.is_some()
        || integration.grant == "none"
        || worst(integration).is_some_and(is_in_trouble)
}

fn secret(integration: &Integration) -> (&'static str, Style) {
    match integration.secret {
        // Nothing is missing where personal access tokens are all there is to be.
        Secret::Missing if !integration.oauth => ("-", Style::Dim),
        Secret::Missing => ("missing", Style::Bad),
        Secret::Ok => ("ok", Style::Plain),
        Secret::Quarantined => ("quarantined", Style::Warn),
        Secret::Undecryptable => ("undecryptable", Style::Bad),
    }
}

fn row(integration: &Integration, now: u64) -> [Cell; 6] {
    let (secret, secret_style) = secret(integration);
    let (token, token_style) = token(integration, now);
    [
        Cell::new(Style::Plain, cut(&format!("{}{}", integration.host, integration.virtual_directory))),
        Cell::new(Style::Plain, cut(&integration.scm_id)),
        Cell::new(Style::Plain, &integration.grant),
        Cell::new(secret_style, secret),
        Cell::new(Style::Dim, cut(&integration.id)),
        Cell::new(token_style, cut_words(&token)),
    ]
}

/// The state of the token that is worst off, and how many there are.
fn token(integration: &Integration, now: u64) -> (String, Style) {
    let Some(token) = worst(integration) else { return no_token(integration) };
    let more = match integration.tokens.len() {
        0 | 1 => String::new(),
        count if integration.tokens.iter().all(|token| token.grant != "pat") => format!(" ({count} sign-ins)"),
        count => format!(" ({count} tokens and sign-ins)"),
    };
    let (state, style) = match token.state {
        TokenState::Failing => ("failing", Style::Bad),
        TokenState::NeedsLogin if token.grant == "pat" => ("not used", Style::Warn),
        TokenState::NeedsLogin => ("needs login", Style::Warn),
        TokenState::Refreshing => ("refreshing", Style::Good),
        TokenState::Valid => ("valid", Style::Good),
    };
    let text = match token.expires_at {
        Some(end) => format!("{state}, {} left{more}", span(end.saturating_sub(now))),
        None => format!("{state}{more}"),
    };
    (text, style)
}

/// What stands for a token where none is held.
fn no_token(integration: &Integration) -> (String, Style) {
    match (integration.grant.as_str(), &integration.note) {
        ("none", Some(note)) => (note.clone(), Style::Warn),
        ("pat", _) => ("git asks the user".to_owned(), Style::Dim),
        ("user", _) if integration.pat => ("git asks the user".to_owned(), Style::Dim),
        ("user", _) => ("nobody is signed in".to_owned(), Style::Dim),
        _ => ("-".to_owned(), Style::Dim),
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A name that fits a table.
fn cut(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        None => name.to_owned(),
        Some(_) => name.chars().take(MAX_NAME_CHARS - 1).chain(['\u{2026}']).collect(),
    }
}

/// A sentence whose names fit a line. Paths stay whole: they are there to be looked at.
pub(in crate::cli) fn cut_words(sentence: &str) -> String {
    let cut = |word: &str| if word.starts_with('/') { word.to_owned() } else { cut(word) };
    sentence.split(' ').map(cut).collect::<Vec<_>>().join(" ")
}

/// Writes rows as columns as wide as their widest cell.
pub(in crate::cli) fn columns<const N: usize>(rows: &[[String; N]], text: &mut String) {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in rows {
        let mut line = String::new();
        for (width, cell) in widths.iter().zip(row) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
}

/// A length of time in its two largest units: `2h 5m`.
pub(in crate::cli) fn span(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::style::ColorWhen;
    use crate::status::samples::integration;
    use crate::status::{Key, Memory, Sandbox, Store, Sync};

    fn token(expires_at: u64, state: TokenState) -> Token {
        Token { subject: "service".to_owned(), grant: "service".to_owned(), expires_at: Some(expires_at), state, last_error: None }
    }

    #[test]
    fn names_of_more_than_80_characters_are_cut_and_paths_are_not() {
        let (fits, long) = ("\u{e4}".repeat(80), "\u{e4}".repeat(81));
        let short = format!("{}\u{2026}", "\u{e4}".repeat(79));
        assert_eq!((cut(&fits), cut(&long)), (fits.clone(), short.clone()));
        assert_eq!(
            cut_words(&format!("integration 7 ({long} at /{long}: {fits} no")),
            format!("integration 7 ({}\u{2026} at /{long}: {fits} no", "\u{e4}".repeat(78))
        );
    }

    fn view(width: Option<usize>, limit: Option<usize>, color: ColorWhen) -> View {
        View { limit, now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000), paint: color.paint(false), width }
    }

    /// As it comes out of a pipe.
    fn plain(status: &Status) -> String {
        lines(status, &view(None, None, ColorWhen::Never)).join("\n") + "\n"
    }

    fn troubled() -> Status {
        Status {
            version: "1.2.3".to_owned(),
            pid: 7,
            uptime_seconds: 7_505,
            key: vec![Key { algorithm: "rsa-2048".to_owned(), fingerprint: "SHA256:abc".to_owned(), registered: None }],
            sync: Sync {
                source: "plane.example".to_owned(),
                last_success: Some(940),
                last_attempt: Some(990),
                last_error: Some("unavailable".to_owned()),
                next: Some("see control_plane.url".to_owned()),
                consecutive_failures: 3,
                watching: false,
                stale: false,
                next_attempt_in_seconds: None,
            },
            integrations: vec![
                Integration { tokens: vec![token(4_600, TokenState::Valid)], ..integration("a.example", "service") },
                Integration { secret: Secret::Undecryptable, ..integration("b.example", "service") },
                Integration {
                    oauth: false,
                    secret: Secret::Missing,
                    pat: true,
                    virtual_directory: "/tfs".to_owned(),
                    ..integration("c.example", "pat")
                },
                Integration { secret: Secret::Missing, ..integration("d.example", "service") },
            ],
            store: Store { kind: "memory".to_owned(), healthy: true },
            memory: Memory { locked: false, reason: Some("no limit".to_owned()) },
            sandbox: Some(Sandbox {
                landlock: "unsupported".to_owned(),
                seccomp: "on".to_owned(),
                no_new_privs: true,
                reason: Some("an old kernel".to_owned()),
            }),
            connections: 1,
            unit_grants: Vec::new(),
            degraded: vec!["the list is old".to_owned()],
        }
    }

    #[test]
    fn the_page_says_what_is_wrong_and_how_long_tokens_last() {
        let expected = "\
health       degraded (1)
! the list is old
  -> what to do about it: scm-agent doctor

daemon       scm-agent 1.2.3, pid 7, up 2h 5m
key          rsa-2048 SHA256:abc
source       plane.example, list of 1m ago
             failing (3 times): unavailable
             -> see control_plane.url
memory       not locked: no limit
sandbox      landlock unsupported, seccomp on; an old kernel
connections  1

HOST           SCM     GRANT    SECRET         INTEGRATION      TOKEN
a.example      custom  service  ok             id-of-a.example  valid, 1h left
b.example      custom  service  undecryptable  id-of-b.example  -
c.example/tfs  custom  pat      -              id-of-c.example  git asks the user
d.example      custom  service  missing        id-of-d.example  -
";
        assert_eq!(plain(&troubled()), expected);
    }

    #[test]
    fn colours_change_nothing_but_colours_and_say_what_is_bad() {
        let coloured = lines(&troubled(), &view(None, None, ColorWhen::Always)).join("\n") + "\n";
        for (text, code) in [("degraded (1)", "1;31"), ("undecryptable", "1;31"), ("missing", "1;31"), ("valid, 1h left", "32")] {
            assert!(coloured.contains(&format!("\u{1b}[{code}m{text}\u{1b}[0m")), "{text}");
        }
        let mut stripped = String::new();
        let mut pieces = coloured.split('\u{1b}');
        stripped.push_str(pieces.next().unwrap());
        pieces.for_each(|piece| stripped.push_str(piece.split_once('m').unwrap().1));
        assert_eq!(stripped, plain(&troubled()));
    }

    #[test]
    fn a_narrow_screen_loses_what_can_be_had_elsewhere_and_breaks_sentences() {
        let mut status = troubled();
        status.degraded = vec!["integration id-of-b.example: something long is wrong with it".to_owned()];
        let text = lines(&status, &view(Some(40), Some(24), ColorWhen::Never));
        assert_eq!(text[1..3], ["! integration id-of-b.example: something", "  long is wrong with it"]);
        let table = text.iter().position(|line| line.starts_with("HOST")).unwrap();
        assert_eq!(text[table], "HOST          SECRET         TOKEN");
        assert!(text[table + 1..].iter().all(|line| line.chars().count() <= 40), "{text:#?}");
        assert!(text.iter().any(|line| line.starts_with("b.example") && line.contains("undecryptable")), "{text:#?}");
    }

    #[test]
    fn of_a_thousand_integrations_a_screen_shows_those_that_need_a_look_and_a_pipe_all() {
        let mut status = troubled();
        status.integrations = (0..1_000).map(|number| integration(&format!("h{number:03}.example"), "service")).collect();
        status.integrations[700].secret = Secret::Undecryptable;
        status.integrations[900].tokens = vec![Token { last_error: Some("no".to_owned()), ..token(1, TokenState::Failing) }];
        status.degraded = (0..50).map(|number| format!("reason {number}")).collect();
        let text = lines(&status, &view(Some(100), Some(40), ColorWhen::Never));
        assert!(text.len() <= 45, "{text:#?}");
        let table = text.iter().position(|line| line.starts_with("HOST")).unwrap();
        let hosts: Vec<&str> = text[table + 1..table + 4].iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(hosts, ["h700.example", "h900.example", "h000.example"]);
        let rows = text.len() - table - 2;
        assert_eq!(*text.last().unwrap(), format!("\u{2026} and {} more that are fine; all of them: scm-agent status --all", 1_000 - rows));
        assert!(text.iter().any(|line| line == "\u{2026} and 42 more problems; all of them: scm-agent status --all"), "{text:#?}");
        status.integrations.iter_mut().for_each(|integration| integration.secret = Secret::Undecryptable);
        let text = lines(&status, &view(Some(100), Some(40), ColorWhen::Never));
        assert!(text.last().unwrap().contains("more integrations, 9"), "{text:#?}");
        // In the daemon's order.
        let all = plain(&status);
        assert_eq!((all.lines().filter(|line| line.contains(".example  custom")).count(), all.contains('\u{2026}')), (1_000, false));
        assert!(all.find("h000").unwrap() < all.find("h700 ").unwrap_or(all.len()));
    }

    #[test]
    fn why_a_token_is_in_trouble_is_said_once_with_what_to_type() {
        let in_trouble = |subject: &str, grant: &str, state, error: &str| Token {
            subject: subject.to_owned(),
            grant: grant.to_owned(),
            last_error: Some(error.to_owned()),
            ..Token { expires_at: None, ..token(0, state) }
        };
        let tokens = vec![
            in_trouble("service", "service", TokenState::Failing, "the app is unknown"),
            in_trouble("uid 8", "user", TokenState::Failing, "no route"),
            in_trouble("uid 7 as mona", "user", TokenState::NeedsLogin, "taken back"),
            in_trouble("uid 7 as x", "pat", TokenState::NeedsLogin, "made for another app"),
            in_trouble("uid 9", "user", TokenState::Valid, "served all the same"),
        ];
        let status = Status {
            integrations: vec![Integration { tokens, ..integration("a.example", "user") }],
            degraded: vec!["integration id-of-a.example (a.example): the app is unknown".to_owned()],
            ..crate::status::samples::status()
        };
        let text = plain(&status);
        let expected = "\
health       degraded (1)
! integration id-of-a.example (a.example): the app is unknown
  -> what to do about it: scm-agent doctor
- a.example, uid 8, failing: no route
- a.example, uid 7 as mona, needs login: taken back
  -> uid 7 runs: scm-agent login https://a.example --account mona
- a.example, uid 7 as x, needs login: made for another app

";
        assert!(text.starts_with(expected), "{text}");
        assert!(text.ends_with("  needs login (5 tokens and sign-ins)\n"), "{text}");
    }
}
