//! `scm-agent status`: what the daemon holds and how fresh, as a table or as JSON.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Io, client};
use crate::error::Error;
use crate::status::{Integration, Secret, Status, TokenState};

/// The longest name that a person is shown whole.
const MAX_NAME_CHARS: usize = 80;

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print the daemon's answer as JSON
    #[arg(long)]
    json: bool,
}

/// Runs `status`.
///
/// # Errors
/// When no daemon answers.
pub fn run(args: &Args, socket: &Path, io: &mut Io<'_>) -> Result<(), Error> {
    let status: Status = client::ask(socket, "status")?;
    let text = if args.json {
        let mut json = serde_json::to_string_pretty(&status).map_err(std::io::Error::from)?;
        json.push('\n');
        json
    } else {
        table(&status, SystemTime::now())
    };
    io.stdout.write_all(text.as_bytes())?;
    Ok(())
}

/// The status for a person: health first, then one line for each integration.
fn table(status: &Status, now: SystemTime) -> String {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut text = String::new();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(text, "{label:<13}{value}");
    };
    let health = if status.degraded.is_empty() { "ok".to_owned() } else { format!("degraded ({})", status.degraded.len()) };
    line("health", &health);
    line("daemon", &format!("scm-agent {}, pid {}, up {}", status.version, status.pid, span(status.uptime_seconds)));
    for key in &status.key {
        let registered = match key.registered {
            None => "",
            Some(true) => ", registered",
            Some(false) => ", not registered",
        };
        line("key", &format!("{} {}{registered}", key.algorithm, key.fingerprint));
    }
    let freshness = match (status.sync.last_success, status.sync.stale) {
        (None, _) => "no list yet".to_owned(),
        (Some(at), stale) => format!("{}list of {} ago", if stale { "STALE " } else { "" }, span(now.saturating_sub(at))),
    };
    let freshness = if status.sync.watching { format!("{freshness}, watching") } else { freshness };
    line("source", &format!("{}, {freshness}", status.sync.source));
    if let Some(error) = &status.sync.last_error {
        line("", &format!("failing ({} times): {error}", status.sync.consecutive_failures));
        if let Some(next) = &status.sync.next {
            line("", &format!("-> {next}"));
        }
    }
    let memory = match &status.memory.reason {
        None => "locked".to_owned(),
        Some(reason) => format!("not locked: {reason}"),
    };
    line("memory", &memory);
    if let Some(sandbox) = &status.sandbox {
        line("sandbox", &sandbox.words());
    }
    line("connections", &status.connections.to_string());
    if !status.unit_grants.is_empty() {
        line("unit grants", &format!("{}; see them: scm-agent grant --list", status.unit_grants.len()));
    }
    let mut rows = vec![["HOST", "SCM", "GRANT", "SECRET", "INTEGRATION", "TOKEN"].map(str::to_owned)];
    for integration in &status.integrations {
        let secret = match integration.secret {
            Secret::Missing => "missing",
            Secret::Ok => "ok",
            Secret::Quarantined => "quarantined",
            Secret::Undecryptable => "undecryptable",
        };
        // What somebody has to do comes first.
        let worst = integration.tokens.iter().find(|token| token.state == TokenState::NeedsLogin).or(integration.tokens.first());
        let more = match integration.tokens.len() {
            0 | 1 => String::new(),
            count if integration.tokens.iter().all(|token| token.grant != "pat") => format!(" ({count} sign-ins)"),
            count => format!(" ({count} tokens and sign-ins)"),
        };
        let token = match worst {
            None => no_token(integration),
            Some(token) => {
                let state = match token.state {
                    TokenState::Failing => "failing",
                    TokenState::NeedsLogin if token.grant == "pat" => "not used",
                    TokenState::NeedsLogin => "needs login",
                    TokenState::Refreshing => "refreshing",
                    TokenState::Valid => "valid",
                };
                match token.expires_at {
                    Some(end) => format!("{state}, {} left{more}", span(end.saturating_sub(now))),
                    None => format!("{state}{more}"),
                }
            }
        };
        rows.push([
            cut(&format!("{}{}", integration.host, integration.virtual_directory)),
            cut(&integration.scm_id),
            integration.grant.clone(),
            secret.to_owned(),
            cut(&integration.id),
            cut_words(&token),
        ]);
    }
    if rows.len() > 1 {
        text.push('\n');
        columns(&rows, &mut text);
    } else {
        text.push_str("\nno integrations\n");
    }
    let troubles = troubles(status);
    if !troubles.is_empty() {
        text.push('\n');
        for trouble in troubles {
            let _ = writeln!(text, "- {}", cut_words(&trouble));
        }
    }
    if !status.degraded.is_empty() {
        text.push('\n');
        for reason in &status.degraded {
            let _ = writeln!(text, "! {}", cut_words(reason));
        }
    }
    text
}

/// Why tokens are failing or need a login, one line each, except for what `degraded` says already.
fn troubles(status: &Status) -> Vec<String> {
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
                troubles.push(format!("{}, {}, {state}: {error}", integration.host, token.subject));
            }
        }
    }
    troubles
}

/// What stands for a token where none is held.
fn no_token(integration: &Integration) -> String {
    match (integration.grant.as_str(), &integration.note) {
        ("none", Some(note)) => note.clone(),
        ("pat", _) => "git asks the user".to_owned(),
        ("user", _) if integration.pat => "git asks the user".to_owned(),
        ("user", _) => "nobody is signed in".to_owned(),
        _ => "-".to_owned(),
    }
}

/// A name that fits a table.
fn cut(name: &str) -> String {
    match name.char_indices().nth(MAX_NAME_CHARS) {
        None => name.to_owned(),
        Some(_) => name.chars().take(MAX_NAME_CHARS - 1).chain(['\u{2026}']).collect(),
    }
}

/// A sentence whose names fit a line. Paths stay whole: they are there to be looked at.
pub(super) fn cut_words(sentence: &str) -> String {
    let cut = |word: &str| if word.starts_with('/') { word.to_owned() } else { cut(word) };
    sentence.split(' ').map(cut).collect::<Vec<_>>().join(" ")
}

/// Writes rows as columns as wide as their widest cell.
pub(super) fn columns<const N: usize>(rows: &[[String; N]], text: &mut String) {
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
pub(super) fn span(seconds: u64) -> String {
    let text = humantime::format_duration(Duration::from_secs(seconds)).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::samples::integration;
    use crate::status::{Key, Memory, Store, Sync, Token};

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

    #[test]
    fn the_table_says_what_is_wrong_and_how_long_tokens_last() {
        let status = Status {
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
                Integration { secret: Secret::Missing, pat: true, virtual_directory: "/tfs".to_owned(), ..integration("c.example", "pat") },
            ],
            store: Store { kind: "memory".to_owned(), healthy: true },
            memory: Memory { locked: false, reason: Some("no limit".to_owned()) },
            connections: 1,
            unit_grants: Vec::new(),
            degraded: vec!["the list is old".to_owned()],
        };
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let expected = "\
health       degraded (1)
daemon       scm-agent 1.2.3, pid 7, up 2h 5m
key          rsa-2048 SHA256:abc
source       plane.example, list of 1m ago
             failing (3 times): unavailable
             -> see control_plane.url
memory       not locked: no limit
connections  1

HOST           SCM     GRANT    SECRET         INTEGRATION      TOKEN
a.example      custom  service  ok             id-of-a.example  valid, 1h left
b.example      custom  service  undecryptable  id-of-b.example  -
c.example/tfs  custom  pat      missing        id-of-c.example  git asks the user

! the list is old
";
        assert_eq!(table(&status, now), expected);
    }

    #[test]
    fn why_a_token_is_in_trouble_is_said_once() {
        let in_trouble = |subject: &str, state, error: &str| Token {
            subject: subject.to_owned(),
            last_error: Some(error.to_owned()),
            ..Token { expires_at: None, ..token(0, state) }
        };
        let tokens = vec![
            in_trouble("service", TokenState::Failing, "the app is unknown"),
            in_trouble("uid 7 as mona", TokenState::NeedsLogin, "taken back"),
            in_trouble("uid 8", TokenState::Failing, "no route"),
            in_trouble("uid 9", TokenState::Valid, "served all the same"),
        ];
        let status = Status {
            integrations: vec![Integration { tokens, ..integration("a.example", "user") }],
            degraded: vec!["integration id-of-a.example (a.example): the app is unknown".to_owned()],
            ..crate::status::samples::status()
        };
        let text = table(&status, SystemTime::UNIX_EPOCH);
        let expected = "\
\n- a.example, uid 7 as mona, needs login: taken back
- a.example, uid 8, failing: no route

! integration id-of-a.example (a.example): the app is unknown
";
        assert!(text.ends_with(expected), "{text}");
    }
}
